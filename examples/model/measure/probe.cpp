// SPDX-License-Identifier: Apache-2.0
#include "measure/probe.hpp"

#include "math/math.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/random.hpp>

#include <algorithm>
#include <string>
#include <utility>

namespace higgs::model {
namespace {

// Positions whose logits are in memory at once.
constexpr std::int64_t logit_rows = 64;

constexpr const char* function = "higgs::model::NoiseProbe";

// A matrix with noise; `t2` becomes that of the noise.
SharedMatrix with_noise(const Matrix& w, double level, std::uint64_t seed, std::span<const float> scales,
                        double& t2, Executor& executor) {
  Matrix noisy(w.rows, w.cols);
  const MatrixView<float> out = noisy.view();
  const auto multiply = [&](MatrixView<const float> from, auto&& factor) {
    parallel_for(executor, w.rows, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r)
        for (std::int64_t c = 0; c < w.cols; ++c)
          out(r, c) = from(r, c) * factor(scales[static_cast<std::size_t>(c)]);
    });
  };
  if (scales.empty()) {
    t2 = insert_noise(w.view(), level, seed, out, NoiseShape::Even, executor);
  } else {
    expects(std::ssize(scales) == w.cols, "higgs::model::NoiseProbe: one scale for each column, or none");
    multiply(w.view(), [](float scale) { return scale > 0 ? 1 / scale : 0; });
    t2 = insert_noise(out, level, seed, out, NoiseShape::Even, executor);
    multiply(out, [](float scale) { return scale; });
  }
  return share(std::move(noisy));
}

}  // namespace

NoiseProbe::NoiseProbe(Network& model, std::vector<TokenId> tokens, std::int64_t window, Executor& executor)
    : NoiseProbe(std::shared_ptr<Network>(std::shared_ptr<Network>(), &model), std::move(tokens), window,
                 executor) {}

NoiseProbe::NoiseProbe(const Transformer& model, std::vector<TokenId> tokens, std::int64_t window,
                       Executor& executor)
    : NoiseProbe(std::make_shared<HostNetwork>(model, executor), std::move(tokens), window, executor) {}

NoiseProbe::NoiseProbe(std::shared_ptr<Network> model, std::vector<TokenId> tokens, std::int64_t window,
                       Executor& executor)
    : model_(std::move(model)),
      output_(model_->output()),
      layers_(block_linears(model_->config())),
      tokens_(std::move(tokens)),
      window_(window),
      windows_(window > 0 ? static_cast<std::int64_t>(tokens_.size()) / window : 0),
      executor_(executor) {
  begin(window);
}

// Checks the text, and runs the model itself.
void NoiseProbe::begin(std::int64_t window) {
  expects(window >= 2, "higgs::model::NoiseProbe: a window has at least 2 tokens");
  if (windows_ == 0) throw InvalidArgument("the text has fewer tokens than a window");
  if (window > model_->config().context) throw InvalidArgument("a window exceeds the model's context");
  tokens_.resize(static_cast<std::size_t>(windows_ * window));
  states_ = Matrix(windows_ * window_, model_->config().width);
  model_->embed(tokens_, states_.view());
  reference_ = finish(*model_, 0, states_);
  compare({}, output_, {});
}

// What the output layer of `model` sees, from the states before block `block`.
Matrix NoiseProbe::finish(Network& model, std::size_t block, Matrix hidden) {
  for (std::int64_t i = 0; i < windows_; ++i) {
    const MatrixView<float> x = hidden.view().row_range(i * window_, window_);
    model.run_blocks(block, static_cast<std::size_t>(model.config().layers), x);
    model.finish(x, x);
  }
  return hidden;
}

void NoiseProbe::go_to(std::size_t block) {
  if (block < block_) {
    model_->embed(tokens_, states_.view());
    block_ = 0;
  }
  for (std::int64_t i = 0; i < windows_; ++i)
    model_->run_blocks(block_, block, states_.view().row_range(i * window_, window_));
  block_ = block;
}

std::vector<ProbeResult> NoiseProbe::measure(std::string_view name, std::span<const double> levels,
                                             std::uint64_t seed, std::span<const float> scales) {
  if (name == embedding_name) return measure_embedding(levels, seed, scales);
  if (name == output_name && !model_->config().tied_embeddings) return measure_output(levels, seed, scales);
  for (const BlockLinear& layer : layers_)
    if (layer.name == name) return measure_linear(layer, levels, seed, scales);
  throw InvalidArgument("higgs::model::NoiseProbe: the model has no matrix \"" + std::string(name) + "\"");
}

std::vector<ProbeResult> NoiseProbe::measure_linear(const BlockLinear& layer, std::span<const double> levels,
                                                    std::uint64_t seed, std::span<const float> scales) {
  go_to(layer.block);
  const std::unique_ptr<Network> noisy = model_->copy();
  const SharedMatrix weight = model_->dense(layer.name, function);
  std::vector<ProbeResult> results(levels.size());
  std::vector<Matrix> hidden;  // by level: what the output layer sees
  for (std::size_t i = 0; i < levels.size(); ++i) {
    noisy->replace(layer.name,
                   with_noise(*weight, levels[i], random_bits(seed, i), scales, results[i].t2, executor_));
    hidden.push_back(finish(*noisy, layer.block, states_));
  }
  compare(hidden, output_, results);
  return results;
}

std::vector<ProbeResult> NoiseProbe::measure_embedding(std::span<const double> levels, std::uint64_t seed,
                                                       std::span<const float> scales) {
  const std::unique_ptr<Network> noisy = model_->copy();
  const SharedMatrix weight = model_->dense(embedding_name, function);
  std::vector<ProbeResult> results(levels.size());
  for (std::size_t i = 0; i < levels.size(); ++i) {  // one at a time: embeddings are large
    noisy->replace(embedding_name,
                   with_noise(*weight, levels[i], random_bits(seed, i), scales, results[i].t2, executor_));
    Matrix states(states_.rows, states_.cols);
    noisy->embed(tokens_, states.view());
    compare({finish(*noisy, 0, std::move(states))}, noisy->output(), {&results[i], 1});
  }
  return results;
}

std::vector<ProbeResult> NoiseProbe::measure_output(std::span<const double> levels, std::uint64_t seed,
                                                    std::span<const float> scales) {
  std::vector<ProbeResult> results(levels.size());
  const std::unique_ptr<Network> noisy = model_->copy();
  const SharedMatrix weight = model_->dense(output_name, function);
  for (std::size_t i = 0; i < levels.size(); ++i) {
    noisy->replace(output_name,
                   with_noise(*weight, levels[i], random_bits(seed, i), scales, results[i].t2, executor_));
    compare({reference_}, noisy->output(), {&results[i], 1});
  }
  return results;
}

// Fills in what `output` makes of `hidden`, beside what the model's own output layer makes of its own states.
void NoiseProbe::compare(const std::vector<Matrix>& hidden, const OutputLayer& output,
                         std::span<ProbeResult> results) {
  const std::int64_t vocabulary = model_->config().vocabulary;
  const auto predicted = static_cast<double>(windows_ * (window_ - 1));
  Matrix p_logits(logit_rows, vocabulary), q_logits(logit_rows, vocabulary);
  struct Row {  // results of one position
    double p_sum, p_loss, kl, q_loss;
  };
  std::vector<Row> each(static_cast<std::size_t>(logit_rows));
  Row sum{};
  for (std::int64_t position = 0; position < windows_ * window_; position += logit_rows) {
    const std::int64_t rows = std::min(logit_rows, windows_ * window_ - position);
    const MatrixView<float> p = p_logits.view().row_range(0, rows), q = q_logits.view().row_range(0, rows);
    const auto logits = [&](const OutputLayer& layer, const Matrix& seen, MatrixView<float> out) {
      layer(seen.view().row_range(position, rows), out);
    };
    const auto next = [&](std::int64_t r) {  // none at the end of a window
      return (position + r + 1) % window_ == 0 ? -1 : tokens_[static_cast<std::size_t>(position + r + 1)];
    };
    logits(output_, reference_, p);
    executor_.run(rows, [&](std::int64_t r) {
      Row& row = each[static_cast<std::size_t>(r)] = {};
      if (next(r) < 0) return;
      row.p_sum = log_sum_exp(p.row(r), vocabulary);
      row.p_loss = row.p_sum - static_cast<double>(p(r, next(r)));
    });
    for (std::int64_t r = 0; r < rows; ++r) sum.p_loss += each[static_cast<std::size_t>(r)].p_loss;
    for (std::size_t i = 0; i < hidden.size(); ++i) {
      logits(output, hidden[i], q);
      executor_.run(rows, [&](std::int64_t r) {
        Row& row = each[static_cast<std::size_t>(r)];
        if (next(r) < 0) return;
        const double q_sum = log_sum_exp(q.row(r), vocabulary);
        row.kl = kl_divergence(p.row(r), row.p_sum, q.row(r), q_sum, vocabulary);
        row.q_loss = q_sum - static_cast<double>(q(r, next(r)));
      });
      for (std::int64_t r = 0; r < rows; ++r) {
        const Row& row = each[static_cast<std::size_t>(r)];
        results[i].kl += row.kl / predicted;
        results[i].cross_entropy += (row.q_loss - row.p_loss) / predicted;
      }
    }
  }
  cross_entropy_ = sum.p_loss / predicted;
}

std::vector<TokenId> random_tokens(std::int64_t count, std::int64_t vocabulary, std::uint64_t seed) {
  expects(count >= 0 && vocabulary > 0, "higgs::model::random_tokens: the vocabulary must not be empty");
  std::vector<TokenId> tokens;
  for (std::int64_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<TokenId>(random_bits(seed, static_cast<std::uint64_t>(i)) %
                                          static_cast<std::uint64_t>(vocabulary)));
  return tokens;
}

}  // namespace higgs::model
