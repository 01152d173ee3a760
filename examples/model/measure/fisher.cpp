// SPDX-License-Identifier: Apache-2.0
#include "measure/fisher.hpp"

#include "architecture/parts.hpp"
#include "measure/backward.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/random.hpp>
#include <higgs/matmul/dense.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

namespace higgs::model {
namespace {

constexpr const char* function = "higgs::model::measure_fisher";

// The states of one window between the blocks, and the ways back through it.
class Backward {
 public:
  Backward(const Transformer& model, std::span<const TokenId> tokens, Executor& executor)
      : model_(model),
        config_(model.config()),
        executor_(executor),
        count_(static_cast<std::int64_t>(tokens.size())),
        cache_(config_, count_) {
    Matrix x(count_, config_.width);
    model.embed(tokens, x.view());
    for (std::size_t block = 0; block < model.weights.blocks.size(); ++block) {
      states_.push_back(x);
      model.run_blocks(block, block + 1, x.view(), cache_, executor);
    }
    states_.push_back(x);
    model.finish(x.view(), x.view(), executor);
    hidden_ = std::move(x);
  }

  /// Draws every next token from the prediction and goes back; calls on_linear for every linear layer of the blocks with
  /// the gradients of the log-probability. Then calls outer(logits, hidden, embedded): the gradients after the output
  /// layer, its input, and the gradients after the embedding.
  template <class Outer>
  void draw(std::uint64_t seed, const Tape::OnLinear& on_linear, Outer&& outer) {
    Matrix logits(count_, config_.vocabulary);
    const std::size_t blocks = model_.weights.blocks.size();
    Matrix dx = go_back(blocks, draw_backward(model_, hidden_, seed, logits, executor_), on_linear,
                        [&](Value x, Ops& ops) { return model_.last_norm(x, ops); });
    for (std::size_t block = blocks; block-- > 0;)
      dx = go_back(block, std::move(dx), on_linear,
                   [&](Value x, Ops& ops) { return model_.run_block(block, std::move(x), ops); });
    outer(logits, hidden_, dx);
  }

 private:
  // Runs `step` once more on states_[index], as only the states were kept, and goes back through it.
  template <class Step>
  Matrix go_back(std::size_t index, Matrix after, const Tape::OnLinear& on_linear, Step&& step) {
    return step_backward(config_, states_[index].view(), std::move(after), cache_, on_linear, executor_,
                         std::forward<Step>(step));
  }

  const Transformer& model_;
  const ModelConfig& config_;
  Executor& executor_;
  std::int64_t count_;
  KvCache cache_;
  std::vector<Matrix> states_;  // before each block, and after the last
  Matrix hidden_;               // inputs of the output layer
};

// What a column's squared gradient counts: half the variance of the noise there, for a unit of t^2, over the tokens.
std::vector<double> shares_of(const Matrix& w, std::vector<float> scales, double predicted) {
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

// The same of the gradient of a linear layer, after^T * input.
double linear_squares(const Matrix& input, const Matrix& after, const std::vector<double>& shares,
                      Executor& executor) {
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
    sum += square * shares[static_cast<std::size_t>(c)];
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

// The layers that are measured, and what draws find of them.
class FisherLayers {
 public:
  FisherLayers(const Transformer& model, const ProbeProtocol& protocol, int draws, double predicted,
               const InputSquares& input_squares, Executor& executor)
      : model_(model), executor_(executor), file_{protocol, {}} {
    const HostNetwork network(model, executor);
    const auto dense = [&](std::string_view name) { return network.dense(name, function); };
    const auto add = [&](const std::string& name) {
      const auto each = static_cast<std::size_t>(draws);
      const SharedMatrix w = dense(name);
      file_.layers.push_back({name, std::vector<ProbeResult>(each, ProbeResult{1, 0, 0}), w->rows, w->cols});
      const ColumnStatistics columns = shared_columns(model.config(), name, Sharing::Alike, dense, executor);
      shares_.push_back(
          shares_of(*w, error_scales(columns, name, model.config(), protocol, input_squares), predicted));
    };
    for (const BlockLinear& each : block_linears(model.config())) {
      index_.emplace(&each.in(model.weights), file_.layers.size());
      add(each.name);
    }
    embedding_ = file_.layers.size();
    add(std::string(embedding_name));
    if (!tied()) add(std::string(output_name));
  }

  // Adds draw `draw` of window `window`, which holds `text`.
  void add(Backward& backward, std::span<const TokenId> text, std::int64_t window, int draw,
           std::uint64_t seed) {
    const auto add_sum = [&](std::size_t layer, double sum) {
      if (!std::isfinite(sum))
        throw FormatError(model_.name() + ": the gradient of " + file_.layers[layer].name +
                          " is not finite in window " + std::to_string(window) + " of the text");
      file_.layers[layer].results[static_cast<std::size_t>(draw)].kl += sum;
    };
    backward.draw(
        seed,
        [&](const Linear& linear, const Matrix& input, const Matrix& after) {
          const std::size_t layer = index_.at(&linear);
          add_sum(layer, linear_squares(input, after, shares_[layer], executor_));
        },
        [&](const Matrix& logits, const Matrix& hidden, const Matrix& embedded) {
          if (!tied()) add_sum(embedding_, lookup_squares(text, embedded, shares_[embedding_]));
          add_sum(file_.layers.size() - 1, output_squares(logits, hidden, text, tied() ? &embedded : nullptr,
                                                          shares_.back(), executor_));
        });
  }

  // A draw's cross entropy is that of its KL, as the model is taken for a minimum.
  SensitivityFile finish() {
    for (LayerProbe& layer : file_.layers)
      for (ProbeResult& each : layer.results) each.cross_entropy = each.kl;
    return std::move(file_);
  }

 private:
  bool tied() const noexcept { return model_.config().tied_embeddings; }

  const Transformer& model_;
  Executor& executor_;
  SensitivityFile file_;
  std::vector<std::vector<double>> shares_;     // by layer: what a column's squared gradient counts
  std::map<const Linear*, std::size_t> index_;  // number of each layer of a block among all layers
  std::size_t embedding_ = 0;                   // index of the embedding
};

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
  protocol.cross_entropy = NoiseProbe(model, tokens, protocol.window, executor).cross_entropy();
  const auto predicted = static_cast<double>(windows * (protocol.window - 1));
  FisherLayers layers(model, protocol, draws, predicted, input_squares, executor);
  for (std::int64_t window = 0; window < windows; ++window) {
    if (progress) progress(window, windows);
    const std::span<const TokenId> text(tokens.data() + window * protocol.window,
                                        static_cast<std::size_t>(protocol.window));
    Backward backward(model, text, executor);
    for (int draw = 0; draw < draws; ++draw) {
      const auto key = static_cast<std::uint64_t>(window) * static_cast<std::uint64_t>(draws) +
                       static_cast<std::uint64_t>(draw);
      layers.add(backward, text, window, draw, random_bits(protocol.seed, key));
    }
  }
  return layers.finish();
}

}  // namespace higgs::model
