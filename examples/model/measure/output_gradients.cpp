// SPDX-License-Identifier: Apache-2.0
#include "measure/output_gradients.hpp"

#include "measure/backward.hpp"
#include "measure/block_runner.hpp"
#include "source/load.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/random.hpp>

#include <algorithm>
#include <utility>

namespace higgs::model {
namespace {

// Rows of `part` in place of those of `all` from `first` on.
void put_rows(MatrixView<const float> part, std::int64_t first, Matrix& all) {
  for (std::int64_t r = 0; r < part.rows; ++r) std::copy_n(part.row(r), part.cols, all.row(first + r));
}

Matrix copy_of(MatrixView<const float> rows) {
  Matrix out(rows.rows, rows.cols);
  put_rows(rows, 0, out);
  return out;
}

}  // namespace

OutputGradients::OutputGradients(const ModelSource& source, std::span<const TokenId> tokens,
                                 std::int64_t window, Executor& executor, const Progress& progress)
    : window_(std::min(window, std::ssize(tokens))),
      executor_(executor),
      model_(without_weights(source)),
      cache_(source.require_config(), std::max<std::int64_t>(window_, 1)) {
  const std::int64_t blocks = model_.config().layers;
  BlockRunner runner(source, tokens, window, executor);
  const auto advance = [&](std::int64_t done) {
    if (progress) progress(done, 2 * blocks);
  };
  for (advance(0); runner.block() < blocks; advance(runner.block())) {
    states_.push_back(copy_of(runner.states()));
    runner.load();
    runner.step();
  }
  gradients_.resize(states_.size());
  gradients_.back() = predict(source, runner.states());
  for (std::int64_t index = blocks - 1; index > 0; --index) {
    const auto at = static_cast<std::size_t>(index);
    model_.weights.blocks[at] = load_block(source, index, executor);
    gradients_[at - 1] = go_back(index, [](const Linear&, const Matrix&, const Matrix&) {});
    model_.weights.blocks[at] = {};
    advance(2 * blocks - index);
  }
  advance(2 * blocks);
}

Matrix OutputGradients::predict(const ModelSource& source, MatrixView<const float> states) {
  model_.weights.norm = load_norm(source, executor_);
  model_.weights.output = load_output(source, executor_);
  Matrix out(states.rows, states.cols);
  for (std::int64_t first = 0; first < states.rows; first += window_) {
    const MatrixView<const float> window = states.row_range(first, std::min(window_, states.rows - first));
    Matrix hidden(window.rows, window.cols), logits(window.rows, model_.config().vocabulary);
    model_.finish(window, hidden.view(), executor_);
    Matrix drawn = draw_backward(model_, hidden, random_bits(seed, static_cast<std::uint64_t>(first)), logits,
                                 executor_);
    const Matrix before = step_backward(model_.config(), window, std::move(drawn), cache_, {}, executor_,
                                        [&](Value x, Ops& ops) { return model_.last_norm(x, ops); });
    put_rows(before.view(), first, out);
  }
  model_.weights.output = {};
  return out;
}

Matrix OutputGradients::go_back(std::int64_t index, const Tape::OnLinear& on_linear) {
  const auto at = static_cast<std::size_t>(index);
  const Matrix &states = states_[at], &after = gradients_[at];
  Matrix out(states.rows, states.cols);
  for (std::int64_t first = 0; first < states.rows; first += window_) {
    const std::int64_t rows = std::min(window_, states.rows - first);
    const Matrix before =
        step_backward(model_.config(), states.view().row_range(first, rows),
                      copy_of(after.view().row_range(first, rows)), cache_, on_linear, executor_,
                      [&](Value x, Ops& ops) { return model_.run_block(at, std::move(x), ops); });
    put_rows(before.view(), first, out);
  }
  return out;
}

std::map<std::string_view, Matrix> OutputGradients::of_block(std::int64_t index, const Block& block) {
  const auto at = static_cast<std::size_t>(index);
  expects(index >= 0 && at < states_.size() && states_[at].rows > 0,
          "higgs::model::OutputGradients::of_block: there is no such block, or it was asked for before");
  Block& own = model_.weights.blocks[at] = block;
  std::map<std::string_view, Matrix> out;
  std::map<const Linear*, std::pair<Matrix*, std::int64_t>> places;  // and the rows that are there
  for (const Part& part : block_parts()) {
    if (!part.is_linear() || part.shape(model_.config()).empty()) continue;
    const Linear& layer = part.in(own);
    Matrix& rows = out.emplace(part.name, Matrix(states_[at].rows, layer.rows())).first->second;
    places.emplace(&layer, std::pair(&rows, std::int64_t{0}));
  }
  go_back(index, [&](const Linear& layer, const Matrix&, const Matrix& after) {
    auto& [rows, done] = places.at(&layer);
    put_rows(after.view(), done, *rows);
    done += after.rows;
  });
  own = {};
  states_[at] = gradients_[at] = {};
  return out;
}

}  // namespace higgs::model
