// SPDX-License-Identifier: Apache-2.0
// Steps back through a model: from tokens that are drawn from its predictions to the layers before them.
#pragma once

#include "math/matrix.hpp"
#include "network/kv_cache.hpp"
#include "network/ops.hpp"
#include "network/transformer.hpp"

#include <higgs/core/executor.hpp>
#include <higgs/core/matrix_view.hpp>

#include <cstdint>
#include <utility>

namespace higgs::model {

/// Draws the token behind each of a text's from the model's prediction. Returns the gradients of minus its log-probability
/// with respect to `hidden` (tokens, width), which the output layer reads; the last token predicts nothing. `logits`
/// (tokens, vocabulary) become the gradients after the output layer. The output layer of `model` must be dense.
Matrix draw_backward(const Transformer& model, const Matrix& hidden, std::uint64_t seed, Matrix& logits,
                     Executor& executor);

/// Runs step(value, ops) on `before` (tokens, width), the states of one text, and goes back through it: the gradients
/// before the step from those after it. `cache` has no tokens and room for those of the text.
template <class Step>
Matrix step_backward(const ModelConfig& config, MatrixView<const float> before, Matrix after, KvCache& cache,
                     const Tape::OnLinear& on_linear, Executor& executor, Step&& step) {
  Tape tape(on_linear);
  Ops ops(config, {{&cache, before.rows}}, executor, nullptr, &tape);
  const Value begin = ops.begin(before);
  tape.go_back(step(begin, ops), std::move(after));
  return std::move(begin->gradient);
}

}  // namespace higgs::model
