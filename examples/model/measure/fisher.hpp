// SPDX-License-Identifier: Apache-2.0
// Sensitivities from gradients: what noise insertion finds in hundreds of runs, for the price of a few.
#pragma once

#include "measure/sensitivity.hpp"
#include "network/transformer.hpp"

#include <higgs/allocate/sensitivity.hpp>
#include <higgs/core/executor.hpp>

#include <cstdint>
#include <functional>
#include <vector>

namespace higgs::model {

/// For small noise, KL(model || noisy model) is half the noise's quadratic form with the Fisher information:
/// the expectation, over texts whose every next token is drawn from the model's own prediction, of the
/// gradient's outer product. So alpha of noise that is spread evenly is ||W||^2 / (2 size) * E ||dL/dW||^2. Noise that is
/// even where columns are divided by scales s has sum_c s_c^2 E ||dL/dW_c||^2 * sum_c (||W_c|| / s_c)^2 / (2 size), for a
/// mean over tokens. Measured are probed_layers(). One pass back
/// through the model for each draw gives an unbiased estimate for all layers at once. Each draw becomes a
/// ProbeResult with t2 = 1 and kl = alpha; a draw's cross entropy is that of its KL, as the model is taken
/// for a minimum. `protocol.levels` must be empty. `progress` is called with windows done and to do. Throws
/// InvalidArgument if the text is shorter than a window or the model is not dense. `input_squares` as of measure_model().
SensitivityFile measure_fisher(
    const Transformer& model, std::vector<TokenId> tokens, ProbeProtocol protocol, int draws,
    const std::function<void(std::int64_t done, std::int64_t total)>& progress = {},
    Executor& executor = default_executor(), const InputSquares& input_squares = {});

}  // namespace higgs::model
