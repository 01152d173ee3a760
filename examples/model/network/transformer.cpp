// SPDX-License-Identifier: Apache-2.0
#include "network/transformer.hpp"

#include "network/math.hpp"

#include <higgs/core/error.hpp>
#include <higgs/matmul/dense.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace higgs::model {
namespace {

/// A row-major matrix that owns its floats.
class Buffer {
 public:
  Buffer(std::int64_t rows, std::int64_t cols)
      : rows_(rows), cols_(cols), values_(static_cast<std::size_t>(rows * cols)) {}
  MatrixView<float> view() noexcept { return {values_.data(), rows_, cols_}; }

 private:
  std::int64_t rows_, cols_;
  std::vector<float> values_;
};

// Positions whose rows one task works on.
constexpr std::int64_t row_grain = 16;
// Queries of one head that one task of attention works on: their scores stay in a core's own cache.
constexpr std::int64_t query_block = 48;

void normalize_rows(MatrixView<const float> x, const std::vector<float>& gain, double epsilon,
                    MatrixView<float> out, Executor& executor) {
  parallel_for(executor, x.rows, row_grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) rms_norm(x.row(r), gain.data(), x.cols, epsilon, out.row(r));
  });
}

void add_to(MatrixView<float> x, MatrixView<const float> y) {
  for (std::int64_t i = 0; i < x.rows * x.cols; ++i) x.data[i] += y.data[i];
}

// Turns pair i of a head, the elements i and i + n / 2, by the angle whose cosine and sine are given.
void rotate_head(float* head, const float* cosines, const float* sines, std::int64_t half) {
  for (std::int64_t i = 0; i < half; ++i) {
    const float a = head[i], b = head[half + i];
    head[i] = a * cosines[i] - b * sines[i];
    head[half + i] = b * cosines[i] + a * sines[i];
  }
}

}  // namespace

KvCache::KvCache(const ModelConfig& config, std::int64_t capacity, KvType type) : capacity_(capacity) {
  expects(capacity > 0, "higgs::model::KvCache: capacity must be positive");
  const auto layers = static_cast<std::size_t>(config.layers);
  const auto size = static_cast<std::size_t>(capacity * config.kv_width());
  if (type == KvType::Half)
    layers_.assign(layers, Layer<Half>{std::vector<Half>(size), std::vector<Half>(size)});
  else
    layers_.assign(layers, Layer<float>{std::vector<float>(size), std::vector<float>(size)});
}

void KvCache::truncate(std::int64_t size) {
  expects(size >= 0 && size <= size_, "higgs::model::KvCache::truncate: size must not exceed size()");
  size_ = size;
}

// What one forward pass works in; T tokens.
struct Transformer::Scratch {
  Scratch(const ModelConfig& config, std::int64_t count)
      : normal(count, config.width),
        sum(count, config.width),
        q(count, config.query_width()),
        k(count, config.kv_width()),
        v(count, config.kv_width()),
        mixed(count, config.query_width()),
        gate(count, config.ffn_width),
        up(count, config.ffn_width),
        cosines(count, config.head_width / 2),
        sines(count, config.head_width / 2) {}
  Buffer normal;          // (T, width)
  Buffer sum;             // (T, width)
  Buffer q, k, v;         // (T, heads of each)
  Buffer mixed;           // (T, query_width)
  Buffer gate, up;        // (T, ffn_width)
  Buffer cosines, sines;  // (T, head_width / 2)
};

void check_token(TokenId token, std::int64_t rows, const std::string& model) {
  if (token < 0 || token >= rows)
    throw InvalidArgument(model + ": token " + std::to_string(token) +
                          " has no row in the embedding, which has " + std::to_string(rows) + " rows");
}

Transformer::Transformer(ModelConfig model_config, Weights model_weights, std::string name)
    : weights(std::move(model_weights)), config_(std::move(model_config)), name_(std::move(name)) {}

Transformer Transformer::load(const ModelSource& source, Executor& executor) {
  return {source.require_config(), load_weights(source, executor), source.path().string()};
}

void Transformer::forward(std::span<const TokenId> tokens, KvCache& cache, MatrixView<float> hidden,
                          Executor& executor) const {
  const auto count = static_cast<std::int64_t>(tokens.size());
  expects(hidden.rows == count && hidden.cols == config_.width && hidden.col_stride == 1,
          "higgs::model::Transformer::forward: hidden must be (tokens, width)");
  if (count == 0) return;
  Buffer residual(count, config_.width);
  embed(tokens, residual.view());
  run_blocks(0, weights.blocks.size(), residual.view(), cache, executor);
  cache.size_ += count;
  finish(residual.view(), hidden, executor);
}

void Transformer::embed(std::span<const TokenId> tokens, MatrixView<float> x) const {
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    check_token(tokens[t], config_.vocabulary, name_);
    weights.embedding.read_row(tokens[t], x.row(static_cast<std::int64_t>(t)));
  }
}

void Transformer::run_blocks(std::size_t first, std::size_t last, MatrixView<float> x, KvCache& cache,
                             Executor& executor) const {
  expects(first <= last && last <= weights.blocks.size() && x.cols == config_.width,
          "higgs::model::Transformer::run_blocks: x must be (tokens, width), the blocks those of the model");
  expects(x.rows <= cache.capacity_ - cache.size_, "higgs::model::Transformer::forward: the cache is full");
  Scratch scratch(config_, x.rows);
  check_finite(x, first, cache.size_);
  rotations(cache.size_, cache.capacity_, scratch.cosines.view(), scratch.sines.view());
  for (std::size_t layer = first; layer < last; ++layer) {
    attend(weights.blocks[layer], cache, layer, x, scratch, executor);
    feed_forward(weights.blocks[layer], x, scratch, executor);
    check_finite(x, layer, cache.size_);
  }
}

void Transformer::check_finite(MatrixView<const float> x, std::size_t layer, std::int64_t past) const {
  const std::int64_t at = find_not_finite(x.data, x.rows * x.cols);
  if (at >= 0)
    throw FormatError(name_ + ": token " + std::to_string(past + at / x.cols) +
                      " of the text becomes NaN or infinite in layer " + std::to_string(layer) +
                      ": the model is damaged, or its activations exceed the range of floats");
}

void Transformer::rotations(std::int64_t first, std::int64_t capacity, MatrixView<float> cosines,
                            MatrixView<float> sines) const {
  const std::vector<float> frequencies = rope_frequencies(config_, capacity);
  const auto scale = static_cast<float>(config_.rope_scaling.attention_factor);
  for (std::int64_t t = 0; t < cosines.rows; ++t)
    for (std::int64_t i = 0; i < cosines.cols; ++i) {
      // Rounded to float as in training.
      const float angle = static_cast<float>(first + t) * frequencies[static_cast<std::size_t>(i)];
      cosines(t, i) = std::cos(angle) * scale;
      sines(t, i) = std::sin(angle) * scale;
    }
}

void Transformer::finish(MatrixView<const float> x, MatrixView<float> hidden, Executor& executor) const {
  normalize_rows(x, weights.norm, config_.rms_epsilon, hidden, executor);
}

// x += O(attention(Q(norm(x)), K(norm(x)), V(norm(x))))
void Transformer::attend(const Block& block, KvCache& cache, std::size_t layer, MatrixView<float> x,
                         Scratch& scratch, Executor& executor) const {
  const MatrixView<float> normal = scratch.normal.view();
  normalize_rows(x, block.attention_norm, config_.rms_epsilon, normal, executor);
  observe(std::array{Part::Q, Part::K, Part::V}, normal);
  block[Part::Q].apply(normal, scratch.q.view(), executor);
  block[Part::K].apply(normal, scratch.k.view(), executor);
  block[Part::V].apply(normal, scratch.v.view(), executor);
  check_finite(scratch.v.view(), layer, cache.size_);  // here still each token for itself
  std::visit([&](auto& kv) { mix_values(block, kv, cache.size_, cache.capacity_, scratch, executor); },
             cache.layers_[layer]);
  observe(std::array{Part::O}, scratch.mixed.view());
  block[Part::O].apply(scratch.mixed.view(), scratch.sum.view(), executor);
  add_to(x, scratch.sum.view());
}

// mixed = attention(q, k, v); keys and values join those of the `past` tokens before.
template <class T>
void Transformer::mix_values(const Block& block, KvCache::Layer<T>& layer, std::int64_t past,
                             std::int64_t capacity, Scratch& scratch, Executor& executor) const {
  const MatrixView<float> q = scratch.q.view(), k = scratch.k.view(), v = scratch.v.view(),
                          mixed = scratch.mixed.view();
  const std::int64_t count = q.rows, width = config_.head_width, half = width / 2;
  const MatrixView<T> keys(layer.keys.data(), config_.kv_heads * capacity, width);
  const MatrixView<T> values(layer.values.data(), config_.kv_width(), capacity);
  parallel_for(executor, count, row_grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const float* cosines = scratch.cosines.view().row(t);
      const float* sines = scratch.sines.view().row(t);
      const auto place = [&](float* head, const std::vector<float>& norm) {
        if (!norm.empty()) rms_norm(head, norm.data(), width, config_.rms_epsilon, head);
        rotate_head(head, cosines, sines, half);
      };
      for (std::int64_t h = 0; h < config_.heads; ++h) place(q.row(t) + h * width, block.q_norm);
      for (std::int64_t h = 0; h < config_.kv_heads; ++h) place(k.row(t) + h * width, block.k_norm);
      for (std::int64_t h = 0; h < config_.kv_heads; ++h)
        for (std::int64_t i = 0; i < width; ++i)
          keys(h * capacity + past + t, i) = static_cast<T>(k(t, h * width + i));
      for (std::int64_t c = 0; c < v.cols; ++c) values(c, past + t) = static_cast<T>(v(t, c));
    }
  });

  const std::int64_t query_blocks = (count + query_block - 1) / query_block;
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(width)));
  // A token alone: heads that share keys are the rows of one product, so that keys and values are read once.
  const std::int64_t shared = config_.heads / config_.kv_heads, together = count == 1 ? shared : 1;
  const auto rows_of = [&](MatrixView<float> all, std::int64_t head, std::int64_t first, std::int64_t rows) {
    return count == 1 ? MatrixView<float>(all.row(0) + head * width, together, width)
                      : all.row_range(first, rows).col_range(head * width, width);
  };
  executor.run(config_.heads / together * query_blocks, [&](std::int64_t task) {
    const std::int64_t head = task / query_blocks * together, first = task % query_blocks * query_block;
    const std::int64_t kv_head = head / shared, last = std::min(first + query_block, count);
    const std::int64_t seen = past + last;  // keys that the last of these queries sees
    const MatrixView<float> queries = rows_of(q, head, first, last - first);
    Buffer buffer(queries.rows, seen);
    const MatrixView<float> scores = buffer.view();
    SerialExecutor here;
    matmul(queries, keys.row_range(kv_head * capacity, seen), scores, here);
    for (std::int64_t r = 0; r < queries.rows; ++r) {
      const std::int64_t visible = std::min(past + first + r + 1, seen);
      float* row = scores.row(r);
      for (std::int64_t i = 0; i < visible; ++i) row[i] *= scale;
      softmax(row, visible);
      std::fill(row + visible, row + seen, 0.0f);
    }
    const MatrixView<const T> head_values = values.row_range(kv_head * width, width).col_range(0, seen);
    matmul(scores, head_values, rows_of(mixed, head, first, last - first), here);
  });
}

// x += Down(silu(Gate(norm(x))) * Up(norm(x)))
void Transformer::feed_forward(const Block& block, MatrixView<float> x, Scratch& scratch,
                               Executor& executor) const {
  const MatrixView<float> normal = scratch.normal.view(), gate = scratch.gate.view(), up = scratch.up.view();
  normalize_rows(x, block.ffn_norm, config_.rms_epsilon, normal, executor);
  observe(std::array{Part::Gate, Part::Up}, normal);
  block[Part::Gate].apply(normal, gate, executor);
  block[Part::Up].apply(normal, up, executor);
  parallel_for(executor, x.rows, row_grain, [&](std::int64_t begin, std::int64_t end) {
    swiglu(gate.row(begin), up.row(begin), (end - begin) * gate.cols);
  });
  observe(std::array{Part::Down}, gate);
  block[Part::Down].apply(gate, scratch.sum.view(), executor);
  add_to(x, scratch.sum.view());
}

void Transformer::logits(MatrixView<const float> hidden, MatrixView<float> logits, Executor& executor) const {
  expects(hidden.cols == config_.width && logits.rows == hidden.rows && logits.cols == config_.vocabulary,
          "higgs::model::Transformer::logits: hidden must be (M, width), logits (M, vocabulary)");
  weights.output.apply(hidden, logits, executor);
  parallel_for(executor, logits.rows, 1, [&](std::int64_t row, std::int64_t) {
    const std::int64_t at = find_not_finite(logits.row(row), logits.cols);
    if (at >= 0)
      throw FormatError(name_ + ": the logit of token " + std::to_string(at) + " is not finite, in row " +
                        std::to_string(row) +
                        " of those asked for: the output layer or the last norm is damaged");
  });
}

}  // namespace higgs::model
