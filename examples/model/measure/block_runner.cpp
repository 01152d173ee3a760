// SPDX-License-Identifier: Apache-2.0
#include "measure/block_runner.hpp"

#include "architecture/parts.hpp"
#include "source/load.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <utility>

namespace higgs::model {
namespace {

Matrix embed(const ModelSource& source, std::span<const TokenId> tokens) {
  const ModelTensor* embedding = source.find(embedding_name);
  if (!embedding)
    throw FormatError(source.path().string() +
                      ": the embedding is quantized already; start from the original model");
  Matrix states(std::ssize(tokens), embedding->cols());
  for (std::int64_t t = 0; t < states.rows; ++t) {
    const TokenId id = tokens[static_cast<std::size_t>(t)];
    check_token(id, embedding->rows(), source.path().string());
    read_finite_rows(*embedding, id, 1, {states.row(t), static_cast<std::size_t>(states.cols)});
  }
  return states;
}

// Tokens of the longest window.
std::int64_t longest_window(std::int64_t window, std::int64_t tokens) {
  expects(tokens > 0 && window > 0,
          "higgs::model::BlockRunner: there must be tokens, in windows of at least one");
  return std::min(window, tokens);
}

}  // namespace

BlockRunner::BlockRunner(const ModelSource& source, std::span<const TokenId> tokens, std::int64_t window,
                         Executor& executor)
    : source_(source),
      window_(longest_window(window, std::ssize(tokens))),
      executor_(executor),
      model_(without_weights(source)),
      cache_(source.require_config(), window_),
      states_(embed(source, tokens)) {}

Transformer without_weights(const ModelSource& source) {
  const ModelConfig& config = source.require_config();
  Weights frame;
  frame.blocks.resize(static_cast<std::size_t>(config.layers));
  return {config, std::move(frame), source.path().string()};
}

void BlockRunner::go_to(std::int64_t block, Matrix states) {
  expects(
      block >= 0 && block <= model_.config().layers && states.rows == states_.rows &&
          states.cols == states_.cols,
      "higgs::model::BlockRunner::go_to: states must be (tokens, width), before a block or after the last");
  block_ = block;
  states_ = std::move(states);
}

Block& BlockRunner::load() {
  return model_.weights.blocks.at(static_cast<std::size_t>(block_)) = load_block(source_, block_, executor_);
}

MatrixView<float> BlockRunner::window_at(std::int64_t first) {
  return states_.view().row_range(first, std::min(window_, states_.rows - first));
}

void BlockRunner::run(MatrixView<float> window) {
  const auto index = static_cast<std::size_t>(block_);
  model_.run_blocks(index, index + 1, window, cache_, executor_);
}

void BlockRunner::observe(Ops::Observer observer) {
  model_.observer = std::move(observer);
  Matrix copy(window_, states_.cols);
  for (std::int64_t first = 0; first < states_.rows; first += window_) {
    const MatrixView<float> window = window_at(first);
    std::copy_n(window.data, window.size(), copy.values.data());
    run(copy.view().row_range(0, window.rows));
  }
  model_.observer = {};
}

void BlockRunner::step(Ops::Observer observer) {
  model_.observer = std::move(observer);
  for (std::int64_t first = 0; first < states_.rows; first += window_) run(window_at(first));
  model_.observer = {};
  model_.weights.blocks[static_cast<std::size_t>(block_)] = {};
  ++block_;
}

std::vector<double> BlockRunner::output_squares() const {
  expects(block_ == model_.config().layers,
          "higgs::model::BlockRunner::output_squares: there are blocks that have not run");
  Transformer last(model_.config(), {}, model_.name());
  last.weights.norm = load_norm(source_, executor_);
  Matrix hidden(states_.rows, states_.cols);
  last.finish(states_.view(), hidden.view(), executor_);
  std::vector<double> squares;
  add_squares(hidden.view(), hidden.rows, squares);
  return squares;
}

void add_squares(MatrixView<const float> x, std::int64_t tokens, std::vector<double>& squares) {
  squares.resize(static_cast<std::size_t>(x.cols));
  for (std::int64_t r = 0; r < x.rows; ++r)
    for (std::int64_t c = 0; c < x.cols; ++c) {
      const auto value = static_cast<double>(x(r, c));
      squares[static_cast<std::size_t>(c)] += value * value / static_cast<double>(tokens);
    }
}

}  // namespace higgs::model
