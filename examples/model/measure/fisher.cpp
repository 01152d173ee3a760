// SPDX-License-Identifier: Apache-2.0
#include "measure/fisher.hpp"

#include "network/math.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/random.hpp>
#include <higgs/matmul/dense.hpp>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>
#include <variant>

namespace higgs::model {
namespace {

/// A row-major matrix that owns its floats.
struct Matrix {
  std::int64_t rows = 0, cols = 0;
  std::vector<float> values;

  Matrix() = default;
  Matrix(std::int64_t row_count, std::int64_t col_count)
      : rows(row_count), cols(col_count), values(static_cast<std::size_t>(row_count * col_count)) {}
  float* row(std::int64_t r) { return values.data() + r * cols; }
  const float* row(std::int64_t r) const { return values.data() + r * cols; }
  MatrixView<float> view() { return {values.data(), rows, cols}; }
  MatrixView<const float> view() const { return {values.data(), rows, cols}; }
};

template <class Layer>
const DenseMatrix& dense(const Layer& layer) {
  const auto* held = std::get_if<DenseMatrix>(&layer.weight);
  expects(held != nullptr, "higgs::model::measure_fisher: the model is quantized; it must be dense");
  return *held;
}

Matrix transposed(MatrixView<const float> in) {
  Matrix out(in.cols, in.rows);
  for (std::int64_t r = 0; r < in.rows; ++r)
    for (std::int64_t c = 0; c < in.cols; ++c) out.row(c)[r] = in(r, c);
  return out;
}

void add(Matrix& to, const Matrix& from) {
  for (std::size_t i = 0; i < to.values.size(); ++i) to.values[i] += from.values[i];
}

// out = x / rms(x) * gain for each piece of a row as long as the gain.
Matrix normalized(const Matrix& x, const std::vector<float>& gain, double epsilon) {
  Matrix out(x.rows, x.cols);
  const auto width = static_cast<std::int64_t>(gain.size());
  for (std::int64_t r = 0; r < x.rows; ++r)
    for (std::int64_t c = 0; c < x.cols; c += width)
      rms_norm(x.row(r) + c, gain.data(), width, epsilon, out.row(r) + c);
  return out;
}

// The gradient before normalized(), from that after it.
Matrix normalized_back(const Matrix& x, const std::vector<float>& gain, double epsilon, const Matrix& after) {
  Matrix out(x.rows, x.cols);
  const auto width = static_cast<std::int64_t>(gain.size());
  for (std::int64_t r = 0; r < x.rows; ++r)
    for (std::int64_t c = 0; c < x.cols; c += width) {
      const float *in = x.row(r) + c, *up = after.row(r) + c;
      double square = 0, product = 0;
      for (std::int64_t i = 0; i < width; ++i) {
        square += static_cast<double>(in[i]) * static_cast<double>(in[i]);
        product += static_cast<double>(up[i]) * static_cast<double>(gain[static_cast<std::size_t>(i)]) *
                   static_cast<double>(in[i]);
      }
      const double mean = square / static_cast<double>(width) + epsilon, inverse = 1 / std::sqrt(mean);
      const double along = product / (static_cast<double>(width) * mean);
      for (std::int64_t i = 0; i < width; ++i)
        out.row(r)[c + i] = static_cast<float>(
            inverse * (static_cast<double>(up[i]) * static_cast<double>(gain[static_cast<std::size_t>(i)]) -
                       along * static_cast<double>(in[i])));
    }
  return out;
}

// The forward pass of one window with all that the way back needs, and the way back.
class Backward {
 public:
  Backward(const Transformer& model, std::span<const TokenId> tokens, Executor& executor)
      : model_(model),
        config_(model.config()),
        executor_(executor),
        count_(static_cast<std::int64_t>(tokens.size())) {
    cosines_ = Matrix(count_, config_.head_width / 2);
    sines_ = cosines_;
    model.rotations(0, count_, cosines_.view(), sines_.view());
    KvCache cache(config_, count_);
    Matrix x(count_, config_.width);
    model.embed(tokens, x.view());
    for (std::size_t block = 0; block < model.weights.blocks.size(); ++block) {
      states_.push_back(x);
      model.run_blocks(block, block + 1, x.view(), cache, executor);
    }
    states_.push_back(std::move(x));
    hidden_ = normalized(states_.back(), model.weights.norm, config_.rms_epsilon);
  }

  /// Draws every next token from the prediction and goes back; calls gradient(block, part, input, after) with
  /// the layer's input and the gradient of the log-probability after it: dL/dW = after^T * input. Then calls
  /// outer(logits, hidden, embedded): the gradients after the output layer, its input, and the gradients after the
  /// embedding.
  template <class Gradient, class Outer>
  void draw(std::uint64_t seed, Gradient&& gradient, Outer&& outer) {
    Matrix logits(count_, config_.vocabulary);
    Matrix dx = normalized_back(states_.back(), model_.weights.norm, config_.rms_epsilon,
                                output_gradient(seed, logits));
    for (std::size_t block = model_.weights.blocks.size(); block-- > 0;) dx = block_back(block, dx, gradient);
    outer(logits, hidden_, dx);
  }

 private:
  Matrix apply(const Linear& linear, const Matrix& x) const {
    Matrix y(x.rows, linear.rows());
    linear.apply(x.view(), y.view(), executor_);
    return y;
  }
  // The gradient before a linear layer: after * W.
  Matrix back(const Linear& linear, const Matrix& after) const {
    const Matrix w = transposed(dense(linear).view());
    Matrix out(after.rows, w.rows);
    matmul(after.view(), w.view(), out.view(), executor_);
    return out;
  }

  // (prediction - drawn token) * W_out; the last position predicts nothing. `all` becomes the first factor.
  Matrix output_gradient(std::uint64_t seed, Matrix& all) const {
    constexpr std::int64_t rows_at_once = 64;
    Matrix out(count_, config_.width);
    if (output_transposed_.values.empty())
      output_transposed_ = transposed(dense(model_.weights.output).view());
    for (std::int64_t first = 0; first + 1 < count_; first += rows_at_once) {
      const std::int64_t rows = std::min(rows_at_once, count_ - 1 - first);
      const MatrixView<float> logits = all.view().row_range(first, rows);
      model_.logits(MatrixView<const float>(hidden_.row(first), rows, config_.width), logits, executor_);
      parallel_for(executor_, rows, 1, [&](std::int64_t r, std::int64_t) {
        float* p = logits.row(r);
        softmax(p, logits.cols);
        double left = random_uniform(seed, static_cast<std::uint64_t>(first + r));
        std::int64_t drawn = 0;
        while (drawn + 1 < logits.cols && (left -= static_cast<double>(p[drawn])) > 0) ++drawn;
        p[drawn] -= 1;
      });
      matmul(logits, output_transposed_.view(), out.view().row_range(first, rows), executor_);
    }
    return out;
  }

  // Turns the heads of every row forward (1) or back (-1).
  void rotate(Matrix& x, float direction) const {
    const std::int64_t half = config_.head_width / 2;
    for (std::int64_t t = 0; t < x.rows; ++t)
      for (std::int64_t h = 0; h < x.cols; h += config_.head_width)
        for (std::int64_t i = 0; i < half; ++i) {
          const float c = cosines_.row(t)[i], s = direction * sines_.row(t)[i];
          const float a = x.row(t)[h + i], b = x.row(t)[h + half + i];
          x.row(t)[h + i] = a * c - b * s;
          x.row(t)[h + half + i] = b * c + a * s;
        }
  }

  // The columns of one head, as a matrix.
  Matrix head_of(const Matrix& x, std::int64_t head) const {
    const std::int64_t width = config_.head_width;
    Matrix out(x.rows, width);
    for (std::int64_t t = 0; t < x.rows; ++t) std::copy_n(x.row(t) + head * width, width, out.row(t));
    return out;
  }
  void add_head(Matrix& x, std::int64_t head, const Matrix& part) const {
    const std::int64_t width = config_.head_width;
    for (std::int64_t t = 0; t < x.rows; ++t)
      for (std::int64_t i = 0; i < width; ++i) x.row(t)[head * width + i] += part.row(t)[i];
  }
  Matrix product(const Matrix& x, const Matrix& w) const {  // x * w^T
    Matrix out(x.rows, w.rows);
    matmul(x.view(), w.view(), out.view(), executor_);
    return out;
  }

  // softmax(q k^T / sqrt(width)) of one head, causal.
  Matrix attention_of(const Matrix& q, const Matrix& k) const {
    Matrix p = product(q, k);
    const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_width)));
    for (std::int64_t t = 0; t < count_; ++t) {
      for (std::int64_t i = 0; i <= t; ++i) p.row(t)[i] *= scale;
      softmax(p.row(t), t + 1);
      std::fill(p.row(t) + t + 1, p.row(t) + count_, 0.0f);
    }
    return p;
  }

  template <class Gradient>
  Matrix block_back(std::size_t index, const Matrix& dy, Gradient&& gradient) {
    const Block& block = model_.weights.blocks[index];
    const double epsilon = config_.rms_epsilon;
    const std::int64_t shared = config_.heads / config_.kv_heads;

    // Forward once more: only the states between blocks were kept.
    const Matrix& x = states_[index];
    const Matrix n1 = normalized(x, block.attention_norm, epsilon);
    const Matrix raw_q = apply(block[Part::Q], n1), raw_k = apply(block[Part::K], n1),
                 v = apply(block[Part::V], n1);
    Matrix q = block.q_norm.empty() ? raw_q : normalized(raw_q, block.q_norm, epsilon);
    Matrix k = block.k_norm.empty() ? raw_k : normalized(raw_k, block.k_norm, epsilon);
    rotate(q, 1);
    rotate(k, 1);
    Matrix mixed(count_, config_.query_width());
    for (std::int64_t h = 0; h < config_.heads; ++h) {
      const Matrix p = attention_of(head_of(q, h), head_of(k, h / shared));
      add_head(mixed, h, product(p, transposed(head_of(v, h / shared).view())));
    }
    Matrix middle = apply(block[Part::O], mixed);
    add(middle, x);
    const Matrix n2 = normalized(middle, block.ffn_norm, epsilon);
    const Matrix gate = apply(block[Part::Gate], n2), up = apply(block[Part::Up], n2);
    Matrix inner = gate;
    swiglu(inner.values.data(), up.values.data(), static_cast<std::int64_t>(inner.values.size()));

    gradient(index, Part::Down, inner, dy);
    const Matrix dinner = back(block[Part::Down], dy);
    Matrix dgate(count_, gate.cols), dup(count_, gate.cols);
    for (std::size_t i = 0; i < gate.values.size(); ++i) {
      const float g = gate.values[i], sigmoid = 1 / (1 + std::exp(-g));
      dup.values[i] = dinner.values[i] * g * sigmoid;
      dgate.values[i] = dinner.values[i] * up.values[i] * sigmoid * (1 + g * (1 - sigmoid));
    }
    gradient(index, Part::Gate, n2, dgate);
    gradient(index, Part::Up, n2, dup);
    Matrix dn2 = back(block[Part::Gate], dgate);
    add(dn2, back(block[Part::Up], dup));
    Matrix dmiddle = normalized_back(middle, block.ffn_norm, epsilon, dn2);
    add(dmiddle, dy);

    gradient(index, Part::O, mixed, dmiddle);
    const Matrix dmixed = back(block[Part::O], dmiddle);
    Matrix dq(count_, q.cols), dk(count_, k.cols), dv(count_, v.cols);
    const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_width)));
    for (std::int64_t h = 0; h < config_.heads; ++h) {
      const Matrix head_q = head_of(q, h), head_k = head_of(k, h / shared), head_v = head_of(v, h / shared);
      const Matrix p = attention_of(head_q, head_k), dhead = head_of(dmixed, h);
      add_head(dv, h / shared, product(transposed(p.view()), transposed(dhead.view())));
      Matrix ds = product(dhead, head_v);
      for (std::int64_t t = 0; t < count_; ++t) {
        double sum = 0;
        for (std::int64_t i = 0; i <= t; ++i)
          sum += static_cast<double>(ds.row(t)[i]) * static_cast<double>(p.row(t)[i]);
        for (std::int64_t i = 0; i < count_; ++i)
          ds.row(t)[i] = (ds.row(t)[i] - static_cast<float>(sum)) * p.row(t)[i] * scale;
      }
      add_head(dq, h, product(ds, transposed(head_k.view())));
      add_head(dk, h / shared, product(transposed(ds.view()), transposed(head_q.view())));
    }
    rotate(dq, -1);
    rotate(dk, -1);
    if (!block.q_norm.empty()) dq = normalized_back(raw_q, block.q_norm, epsilon, dq);
    if (!block.k_norm.empty()) dk = normalized_back(raw_k, block.k_norm, epsilon, dk);
    gradient(index, Part::Q, n1, dq);
    gradient(index, Part::K, n1, dk);
    gradient(index, Part::V, n1, dv);
    Matrix dn1 = back(block[Part::Q], dq);
    add(dn1, back(block[Part::K], dk));
    add(dn1, back(block[Part::V], dv));
    Matrix dx = normalized_back(x, block.attention_norm, epsilon, dn1);
    add(dx, dmiddle);
    return dx;
  }

  const Transformer& model_;
  const ModelConfig& config_;
  Executor& executor_;
  std::int64_t count_;
  Matrix cosines_, sines_;      // (tokens, head_width / 2)
  std::vector<Matrix> states_;  // before each block, and after the last
  Matrix hidden_;               // what the output layer sees
  mutable Matrix output_transposed_;
};

// What a column's squared gradient counts: half the variance of the noise there, for a unit of t^2, over the tokens.
std::vector<double> shares_of(const DenseMatrix& w, std::vector<float> scales, double predicted) {
  if (scales.empty()) scales.assign(static_cast<std::size_t>(w.cols), 1);
  std::vector<double> norms(static_cast<std::size_t>(w.cols));
  for (std::int64_t r = 0; r < w.rows; ++r)
    for (std::int64_t c = 0; c < w.cols; ++c) {
      const auto value = static_cast<double>(w.view()(r, c));
      norms[static_cast<std::size_t>(c)] += value * value;
    }
  double scaled = 0;  // the squared norm of the matrix whose columns are divided
  for (std::size_t c = 0; c < norms.size(); ++c) {
    const auto scale = static_cast<double>(scales[c]);
    if (scale > 0) scaled += norms[c] / (scale * scale);
  }
  std::vector<double> shares(norms.size());
  for (std::size_t c = 0; c < norms.size(); ++c)
    shares[c] = static_cast<double>(scales[c]) * static_cast<double>(scales[c]) * scaled /
                (2 * static_cast<double>(w.rows) * static_cast<double>(w.cols) * predicted);
  return shares;
}

// The sum over columns of squared entries times shares; `gradient` is (rows, cols).
double weighted_squares(const Matrix& gradient, const std::vector<double>& shares) {
  double sum = 0;
  for (std::int64_t r = 0; r < gradient.rows; ++r)
    for (std::int64_t c = 0; c < gradient.cols; ++c) {
      const auto value = static_cast<double>(gradient.row(r)[c]);
      sum += value * value * shares[static_cast<std::size_t>(c)];
    }
  return sum;
}

// Adds to each row of `gradient`, which belongs to the tokens from `first` on, what lookups of that token add.
void add_lookups(Matrix& gradient, std::int64_t first, std::span<const TokenId> tokens,
                 const Matrix& embedded) {
  for (std::int64_t t = 0; t < embedded.rows; ++t) {
    const std::int64_t row = tokens[static_cast<std::size_t>(t)] - first;
    if (row < 0 || row >= gradient.rows) continue;
    for (std::int64_t c = 0; c < gradient.cols; ++c) gradient.row(row)[c] += embedded.row(t)[c];
  }
}

// The weighted squares of the gradient of the output layer, a few tokens of the vocabulary at a time; in a tied model
// lookups of the same matrix join it.
double output_squares(const Matrix& logits, const Matrix& hidden, std::span<const TokenId> tokens,
                      const Matrix* embedded, const std::vector<double>& shares, Executor& executor) {
  constexpr std::int64_t tokens_at_once = 1024;
  const Matrix x = transposed(hidden.view());  // (width, tokens)
  double sum = 0;
  for (std::int64_t first = 0; first < logits.cols; first += tokens_at_once) {
    const std::int64_t count = std::min(tokens_at_once, logits.cols - first);
    const Matrix after = transposed(logits.view().col_range(first, count));
    Matrix gradient(count, x.rows);
    matmul(after.view(), x.view(), gradient.view(), executor);
    if (embedded) add_lookups(gradient, first, tokens, *embedded);
    sum += weighted_squares(gradient, shares);
  }
  return sum;
}

// The same for an embedding that is only looked up: few rows of its gradient are not 0.
double lookup_squares(std::span<const TokenId> tokens, const Matrix& embedded,
                      const std::vector<double>& shares) {
  double sum = 0;
  for (const TokenId token : std::set<TokenId>(tokens.begin(), tokens.end())) {
    Matrix gradient(1, embedded.cols);
    add_lookups(gradient, token, tokens, embedded);
    sum += weighted_squares(gradient, shares);
  }
  return sum;
}

}  // namespace

SensitivityFile measure_fisher(const Transformer& model, std::vector<TokenId> tokens, ProbeProtocol protocol,
                               int draws, const std::function<void(std::int64_t, std::int64_t)>& progress,
                               Executor& executor, const InputSquares& input_squares) {
  expects(draws >= 1 && protocol.levels.empty() && protocol.window >= 2,
          "higgs::model::measure_fisher: a draw and a window of 2 tokens are needed, and no levels");
  const std::int64_t windows = static_cast<std::int64_t>(tokens.size()) / protocol.window;
  if (windows == 0) throw InvalidArgument("the text has fewer tokens than a window");
  tokens.resize(static_cast<std::size_t>(windows * protocol.window));
  protocol.tokens = windows * protocol.window;
  protocol.fingerprint = fingerprint_of(tokens);
  {
    const NoiseProbe probe(model, tokens, protocol.window, executor);
    protocol.cross_entropy = probe.cross_entropy();
  }

  SensitivityFile file{protocol, {}};
  std::vector<std::vector<double>> shares;  // by layer: what a column's squared gradient counts
  const auto predicted = static_cast<double>(windows * (protocol.window - 1));
  const auto add = [&](const std::string& name, const DenseMatrix& w) {
    file.layers.push_back({name,
                           std::vector<ProbeResult>(static_cast<std::size_t>(draws), ProbeResult{1, 0, 0}),
                           w.rows, w.cols});
    shares.push_back(
        shares_of(w, error_scales(w, name, model.config(), protocol, input_squares, executor), predicted));
  };
  for (std::size_t block = 0; block < model.weights.blocks.size(); ++block)
    for (const Part part : all_parts)
      add(weight_name(static_cast<std::int64_t>(block), part), dense(model.weights.blocks[block][part]));
  const bool tied = model.config().tied_embeddings;
  const std::size_t embedding = file.layers.size();
  add(std::string(embedding_name), dense(model.weights.embedding));
  if (!tied) add(std::string(output_name), dense(model.weights.output));

  for (std::int64_t window = 0; window < windows; ++window) {
    if (progress) progress(window, windows);
    const std::span<const TokenId> text(tokens.data() + window * protocol.window,
                                        static_cast<std::size_t>(protocol.window));
    Backward backward(model, text, executor);
    for (int draw = 0; draw < draws; ++draw) {
      const auto key = static_cast<std::uint64_t>(window) * static_cast<std::uint64_t>(draws) +
                       static_cast<std::uint64_t>(draw);
      const auto add_result = [&](std::size_t layer, double sum) {
        if (!std::isfinite(sum))
          throw FormatError(model.name() + ": the gradient of " + file.layers[layer].name +
                            " is not finite in window " + std::to_string(window) + " of the text");
        file.layers[layer].results[static_cast<std::size_t>(draw)].kl += sum;
      };
      backward.draw(
          random_bits(protocol.seed, key),
          [&](std::size_t block, Part part, const Matrix& input, const Matrix& after) {
            const std::size_t layer = block * std::size(all_parts) + static_cast<std::size_t>(part);
            const Matrix x = transposed(input.view()), dy = transposed(after.view());
            Matrix gradient(x.rows, dy.rows);  // (cols, rows) of the layer
            matmul(x.view(), dy.view(), gradient.view(), executor);
            double sum = 0;
            for (std::int64_t c = 0; c < gradient.rows; ++c) {
              double square = 0;
              for (std::int64_t r = 0; r < gradient.cols; ++r) {
                const auto value = static_cast<double>(gradient.row(c)[r]);
                square += value * value;
              }
              sum += square * shares[layer][static_cast<std::size_t>(c)];
            }
            add_result(layer, sum);
          },
          [&](const Matrix& logits, const Matrix& hidden, const Matrix& embedded) {
            if (!tied) add_result(embedding, lookup_squares(text, embedded, shares[embedding]));
            add_result(
                file.layers.size() - 1,
                output_squares(logits, hidden, text, tied ? &embedded : nullptr, shares.back(), executor));
          });
    }
  }
  for (LayerProbe& layer : file.layers)
    for (ProbeResult& each : layer.results) each.cross_entropy = each.kl;
  return file;
}

}  // namespace higgs::model
