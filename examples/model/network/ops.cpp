// SPDX-License-Identifier: Apache-2.0
#include "network/ops.hpp"

#include "architecture/rope.hpp"
#include "math/math.hpp"

#include <higgs/core/error.hpp>
#include <higgs/matmul/dense.hpp>

#include <algorithm>
#include <cmath>
#include <variant>

namespace higgs::model {
namespace {

// Positions whose rows one task works on.
constexpr std::int64_t row_grain = 16;
// Queries of one head that one task of attention works on: their scores stay in a core's own cache.
constexpr std::int64_t query_block = 48;

void add_to(Matrix& x, const Matrix& y) {
  for (std::size_t i = 0; i < x.values.size(); ++i) x.values[i] += y.values[i];
}

void multiply(Matrix& x, float factor) {
  for (float& value : x.values) value *= factor;
}

// Adds to the gradient of a value, which begins as 0.
void add_gradient(Node& node, Matrix gradient) {
  if (node.gradient.empty())
    node.gradient = std::move(gradient);
  else
    add_to(node.gradient, gradient);
}

// Turns pair i of each head of a row, the elements i and i + half, by the angle whose cosine and sine are given;
// `direction` -1 turns it back.
void rotate_row(float* row, std::int64_t cols, const float* cosines, const float* sines, std::int64_t half,
                float direction) {
  for (float* head = row; head < row + cols; head += 2 * half)
    for (std::int64_t i = 0; i < half; ++i) {
      const float a = head[i], b = head[half + i], sine = direction * sines[i];
      head[i] = a * cosines[i] - b * sine;
      head[half + i] = b * cosines[i] + a * sine;
    }
}

// The gradient before Ops::norm(), from that after it.
Matrix norm_back(const Matrix& x, const std::vector<float>& gain, double epsilon, const Matrix& after) {
  Matrix out(x.rows, x.cols);
  const auto width = static_cast<std::int64_t>(gain.size());
  for (std::int64_t r = 0; r < x.rows; ++r)
    for (std::int64_t c = 0; c < x.cols; c += width) {
      const float *in = x.row(r) + c, *up = after.row(r) + c;
      const auto gained = [&](std::int64_t i) {
        return static_cast<double>(up[i]) * static_cast<double>(gain[static_cast<std::size_t>(i)]);
      };
      double square = 0, product = 0;
      for (std::int64_t i = 0; i < width; ++i) {
        square += static_cast<double>(in[i]) * static_cast<double>(in[i]);
        product += gained(i) * static_cast<double>(in[i]);
      }
      const double mean = square / static_cast<double>(width) + epsilon, inverse = 1 / std::sqrt(mean);
      const double along = product / (static_cast<double>(width) * mean);
      for (std::int64_t i = 0; i < width; ++i)
        out.row(r)[c + i] = static_cast<float>(inverse * (gained(i) - along * static_cast<double>(in[i])));
    }
  return out;
}

// The gradients before silu(gate) * up.
std::pair<Matrix, Matrix> swiglu_back(const Matrix& gate, const Matrix& up, const Matrix& after) {
  Matrix dgate(gate.rows, gate.cols), dup(gate.rows, gate.cols);
  for (std::size_t i = 0; i < gate.values.size(); ++i) {
    const float g = gate.values[i], sigmoid = 1 / (1 + std::exp(-g));
    dup.values[i] = after.values[i] * g * sigmoid;
    dgate.values[i] = after.values[i] * up.values[i] * sigmoid * (1 + g * (1 - sigmoid));
  }
  return {std::move(dgate), std::move(dup)};
}

// The way back through attention, a head at a time: its scores are computed again.
class AttentionBack {
 public:
  AttentionBack(const ModelConfig& config, float scale, Executor& executor)
      : width_(config.head_width),
        heads_(config.heads),
        shared_(config.heads / config.kv_heads),
        scale_(scale),
        executor_(executor) {}

  void operator()(Node& q, Node& k, Node& v, const Matrix& after) const {
    const std::int64_t count = q.value.rows;
    Matrix dq(count, q.value.cols), dk(count, k.value.cols), dv(count, v.value.cols);
    for (std::int64_t h = 0; h < heads_; ++h) {
      const Matrix head_q = head_of(q.value, h), head_k = head_of(k.value, h / shared_),
                   head_v = head_of(v.value, h / shared_), dhead = head_of(after, h);
      const Matrix p = probabilities(head_q, head_k);
      add_head(dv, h / shared_, product(transposed(p.view()), transposed(dhead.view())));
      Matrix ds = product(dhead, head_v);
      for (std::int64_t t = 0; t < count; ++t) {
        double sum = 0;
        for (std::int64_t i = 0; i <= t; ++i)
          sum += static_cast<double>(ds.row(t)[i]) * static_cast<double>(p.row(t)[i]);
        for (std::int64_t i = 0; i < count; ++i)
          ds.row(t)[i] = (ds.row(t)[i] - static_cast<float>(sum)) * p.row(t)[i] * scale_;
      }
      add_head(dq, h, product(ds, transposed(head_k.view())));
      add_head(dk, h / shared_, product(transposed(ds.view()), transposed(head_q.view())));
    }
    add_gradient(q, std::move(dq));
    add_gradient(k, std::move(dk));
    add_gradient(v, std::move(dv));
  }

 private:
  // The columns of one head, as a matrix.
  Matrix head_of(const Matrix& x, std::int64_t head) const {
    Matrix out(x.rows, width_);
    for (std::int64_t t = 0; t < x.rows; ++t) std::copy_n(x.row(t) + head * width_, width_, out.row(t));
    return out;
  }
  void add_head(Matrix& x, std::int64_t head, const Matrix& part) const {
    for (std::int64_t t = 0; t < x.rows; ++t)
      for (std::int64_t i = 0; i < width_; ++i) x.row(t)[head * width_ + i] += part.row(t)[i];
  }
  Matrix product(const Matrix& x, const Matrix& w) const {  // x * w^T
    Matrix out(x.rows, w.rows);
    matmul(x.view(), w.view(), out.view(), executor_);
    return out;
  }
  // softmax(q k^T * scale) of one head, causal.
  Matrix probabilities(const Matrix& q, const Matrix& k) const {
    Matrix p = product(q, k);
    for (std::int64_t t = 0; t < p.rows; ++t) {
      for (std::int64_t i = 0; i <= t; ++i) p.row(t)[i] *= scale_;
      softmax(p.row(t), t + 1);
      std::fill(p.row(t) + t + 1, p.row(t) + p.cols, 0.0f);
    }
    return p;
  }

  std::int64_t width_, heads_, shared_;
  float scale_;
  Executor& executor_;
};

}  // namespace

void norm_rows(MatrixView<const float> x, const std::vector<float>& gain, double epsilon,
               MatrixView<float> out, Executor& executor) {
  const auto width = static_cast<std::int64_t>(gain.size());
  parallel_for(executor, x.rows, row_grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r)
      for (std::int64_t c = 0; c < x.cols; c += width)
        rms_norm(x.row(r) + c, gain.data(), width, epsilon, out.row(r) + c);
  });
}

Matrix transposed(MatrixView<const float> in) {
  Matrix out(in.cols, in.rows);
  for (std::int64_t r = 0; r < in.rows; ++r)
    for (std::int64_t c = 0; c < in.cols; ++c) out.row(c)[r] = in(r, c);
  return out;
}

void Tape::go_back(const Value& end, Matrix gradient) {
  end->gradient = std::move(gradient);
  for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) (*step)();
  steps_.clear();
}

// Buffers of values that nobody holds any more.
struct Ops::Pool {
  std::vector<std::vector<float>> free;

  // The smallest buffer that holds `size` floats; what they are is left open.
  std::vector<float> take(std::size_t size) {
    auto best = free.end();
    for (auto each = free.begin(); each != free.end(); ++each)
      if (each->capacity() >= size && (best == free.end() || each->capacity() < best->capacity()))
        best = each;
    if (best == free.end()) return std::vector<float>(size);
    std::vector<float> out = std::move(*best);
    free.erase(best);
    out.resize(size);
    return out;
  }
};

Ops::Ops(const ModelConfig& config, std::vector<TextPart> texts, Executor& executor, const Observer* observer,
         Tape* tape)
    : config_(config),
      texts_(std::move(texts)),
      executor_(executor),
      observer_(observer && *observer ? observer : nullptr),
      tape_(tape),
      pool_(std::make_shared<Pool>()) {
  expects(!tape || (texts_.size() == 1 && texts_[0].cache->size() == 0),
          "higgs::model::Ops: a tape begins with the text, and takes one");
  for (std::size_t text = 0; text < texts_.size(); ++text) {
    plan_attention(std::ssize(rows_), texts_[text].count);
    for (std::int64_t t = 0; t < texts_[text].count; ++t)
      rows_.push_back({text, texts_[text].cache->size() + t});
  }
  cosines_ = sines_ = Matrix(std::ssize(rows_), config.head_width / 2);
  const auto scale = static_cast<float>(config.rope_scaling.attention_factor);
  std::vector<float> frequencies;
  for (std::int64_t r = 0; r < cosines_.rows; ++r) {
    const auto [text, position] = rows_[static_cast<std::size_t>(r)];
    if (r == 0 || text != rows_[static_cast<std::size_t>(r - 1)].text)
      frequencies = rope_frequencies(config, texts_[text].cache->capacity());
    for (std::int64_t i = 0; i < cosines_.cols; ++i) {
      // Rounded to float as in training.
      const float angle = static_cast<float>(position) * frequencies[static_cast<std::size_t>(i)];
      cosines_.row(r)[i] = std::cos(angle) * scale;
      sines_.row(r)[i] = std::sin(angle) * scale;
    }
  }
}

// The tasks of attention of a text whose tokens are the rows from `row` on.
void Ops::plan_attention(std::int64_t row, std::int64_t count) {
  // A token alone: heads that share keys are the rows of one product, so that keys and values are read once.
  const std::int64_t heads = count == 1 ? config_.heads / config_.kv_heads : 1;
  for (std::int64_t head = 0; head < config_.heads; head += heads)
    for (std::int64_t first = 0; first < count; first += query_block)
      queries_.push_back({row + first, std::min(query_block, count - first), head, heads});
}

std::string Ops::name_of(std::int64_t row) const {
  const auto [text, position] = rows_[static_cast<std::size_t>(row)];
  return "token " + std::to_string(position) + " of " +
         (texts_.size() == 1 ? "the text" : "text " + std::to_string(text + 1));
}

Value Ops::make(std::int64_t rows, std::int64_t cols) {
  auto* node = new Node{Matrix(rows, cols, pool_->take(static_cast<std::size_t>(rows * cols)))};
  return Value(node, [pool = pool_](Node* gone) {
    pool->free.push_back(std::move(gone->value.values));
    delete gone;
  });
}

Value Ops::begin(MatrixView<const float> x) {
  const Value out = make(x.rows, x.cols);
  for (std::int64_t r = 0; r < x.rows; ++r) std::copy_n(x.row(r), x.cols, out->value.row(r));
  return out;
}

Value Ops::norm(const Value& x, const std::vector<float>& gain) {
  const Value out = make(x->value.rows, x->value.cols);
  const double epsilon = config_.rms_epsilon;
  norm_rows(x->value.view(), gain, epsilon, out->value.view(), executor_);
  if (tape_)
    tape_->record(
        [x, out, &gain, epsilon] { add_gradient(*x, norm_back(x->value, gain, epsilon, out->gradient)); });
  return out;
}

void Ops::apply(const Value& x, std::span<const Linear* const> layers, std::span<Value> out) {
  if (observer_) (*observer_)(layers, x->value.view());
  std::vector<MatrixView<float>> y;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    out[i] = make(x->value.rows, layers[i]->rows());
    y.push_back(out[i]->value.view());
  }
  apply_all(layers, x->value.view(), y, executor_);
  if (!tape_) return;
  tape_->record([this, x, all = std::vector<const Linear*>(layers.begin(), layers.end()),
                 after = std::vector<Value>(out.begin(), out.end())] {
    for (std::size_t i = 0; i < all.size(); ++i) {
      tape_->report(*all[i], x->value, after[i]->gradient);
      const Matrix w = transposed(require_dense(*all[i], "higgs::model::Tape")->view());
      Matrix before(x->value.rows, x->value.cols);  // after * W
      matmul(after[i]->gradient.view(), w.view(), before.view(), executor_);
      add_gradient(*x, std::move(before));
    }
  });
}

void Ops::rotate(const Value& x) {
  const auto rotate_rows = [this](Matrix& all, float direction) {
    parallel_for(executor_, all.rows, row_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t)
        rotate_row(all.row(t), all.cols, cosines_.row(t), sines_.row(t), config_.head_width / 2, direction);
    });
  };
  rotate_rows(x->value, 1);
  if (tape_) tape_->record([rotate_rows, x] { rotate_rows(x->gradient, -1); });
}

Value Ops::attention(std::size_t block, const Value& q, const Value& k, const Value& v, float scale) {
  const Value out = make(q->value.rows, q->value.cols);
  store(block, k->value.view(), v->value.view());
  executor_.run(std::ssize(queries_), [&](std::int64_t task) {
    const Queries& queries = queries_[static_cast<std::size_t>(task)];
    const std::size_t text = rows_[static_cast<std::size_t>(queries.row)].text;
    std::visit([&](const auto& layer) { attend(layer, queries, q->value.view(), scale, out->value.view()); },
               texts_[text].cache->layer(block));
  });
  if (tape_)
    tape_->record(
        [q, k, v, out, back = AttentionBack(config_, scale, executor_)] { back(*q, *k, *v, out->gradient); });
  return out;
}

// Keys and values join those of the tokens before.
void Ops::store(std::size_t block, MatrixView<const float> k, MatrixView<const float> v) {
  const std::int64_t width = config_.head_width;
  const auto store_row = [&]<class T>(KvCache::Layer<T>& layer, std::int64_t capacity, std::int64_t row) {
    const MatrixView<T> keys(layer.keys.get(), config_.kv_heads * capacity, width);
    const MatrixView<T> values(layer.values.get(), config_.kv_width(), capacity);
    const std::int64_t position = rows_[static_cast<std::size_t>(row)].position;
    for (std::int64_t h = 0; h < config_.kv_heads; ++h)
      for (std::int64_t i = 0; i < width; ++i)
        keys(h * capacity + position, i) = static_cast<T>(k(row, h * width + i));
    for (std::int64_t c = 0; c < v.cols; ++c) values(c, position) = static_cast<T>(v(row, c));
  };
  parallel_for(executor_, k.rows, row_grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      KvCache& cache = *texts_[rows_[static_cast<std::size_t>(row)].text].cache;
      std::visit([&](auto& layer) { store_row(layer, cache.capacity(), row); }, cache.layer(block));
    }
  });
}

template <class T>
void Ops::attend(const KvCache::Layer<T>& layer, const Queries& queries, MatrixView<const float> q,
                 float scale, MatrixView<float> out) const {
  const auto [text, position] = rows_[static_cast<std::size_t>(queries.row)];
  const std::int64_t width = config_.head_width, capacity = texts_[text].cache->capacity();
  const std::int64_t first_col = queries.head * width;
  const std::int64_t kv_head = queries.head / (config_.heads / config_.kv_heads);
  const std::int64_t seen = position + queries.rows;  // keys that the last of these tokens sees
  const MatrixView<const T> keys(layer.keys.get() + kv_head * capacity * width, seen, width);
  const MatrixView<const T> values(layer.values.get(), config_.kv_width(), capacity);
  const auto part_of = [&](auto all) {
    return queries.heads > 1 ? decltype(all)(all.row(queries.row) + first_col, queries.heads, width)
                             : all.row_range(queries.row, queries.rows).col_range(first_col, width);
  };
  const MatrixView<const float> own = part_of(q);
  Matrix scores(own.rows, seen);
  SerialExecutor here;
  matmul(own, keys, scores.view(), here);
  for (std::int64_t r = 0; r < own.rows; ++r) {
    const std::int64_t visible = std::min(position + r + 1, seen);
    float* each = scores.row(r);
    for (std::int64_t i = 0; i < visible; ++i) each[i] *= scale;
    softmax(each, visible);
    std::fill(each + visible, each + seen, 0.0f);
  }
  matmul(std::as_const(scores).view(), values.row_range(kv_head * width, width).col_range(0, seen),
         part_of(out), here);
}

Value Ops::swiglu(const Value& gate, const Value& up) {
  const Value out = tape_ ? make(gate->value.rows, gate->value.cols) : gate;
  const std::int64_t cols = gate->value.cols;
  parallel_for(executor_, gate->value.rows, row_grain, [&](std::int64_t begin, std::int64_t end) {
    model::swiglu(gate->value.row(begin), up->value.row(begin), (end - begin) * cols, out->value.row(begin));
  });
  if (tape_)
    tape_->record([gate, up, out] {
      auto [dgate, dup] = swiglu_back(gate->value, up->value, out->gradient);
      add_gradient(*gate, std::move(dgate));
      add_gradient(*up, std::move(dup));
    });
  return out;
}

Value Ops::add(const Value& x, const Value& y) {
  add_to(y->value, x->value);
  // The gradient after the sum is that of y already.
  if (tape_) tape_->record([x, y] { add_gradient(*x, y->gradient); });
  return y;
}

void Ops::scale(const Value& x, float factor) {
  if (factor == 1) return;
  multiply(x->value, factor);
  if (tape_) tape_->record([x, factor] { multiply(x->gradient, factor); });
}

}  // namespace higgs::model
