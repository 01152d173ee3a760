// SPDX-License-Identifier: Apache-2.0
// HIGGS beside its peers on one model and one text.
#pragma once

#include <higgs/core/executor.hpp>

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "calibrate.hpp"
#include "evaluate.hpp"
#include "transformer.hpp"

namespace higgs::model {

/// One format on the whole model; embeddings, norms and the output layer stay as they are.
struct ComparisonRow {
  std::string method;  // "higgs 2x256", "nf4-64"
  double bits = 0;     // for a weight of the quantized layers, scales and zero points included
  double t2 = 0;       // mean over those weights of the layer's ||W' - W||^2 / ||W||^2
  double perplexity = 0;
  double kl = 0;  // mean KL(reference || model) in nats a token
};

/// The formats that `compare` runs when it is not told which.
std::vector<std::string> default_methods();

/// Whether a method is calibrated with random tokens: "higgs 2x256 random".
bool wants_input_squares(std::string_view method) noexcept;

/// `model` with every linear layer of its blocks in the format `method`: a baseline's name, or "higgs CODEBOOK", then
/// " g128" for groups of 128 with 8-bit scales that a search finds, " random" for calibrated input scales. Codebooks that
/// ship run from their codes, all else from rounded floats. Fills all of `row` but perplexity and kl. Throws
/// InvalidArgument if there is no such format, or it wants input squares that are missing.
Transformer with_method(const Transformer& model, std::string_view method, const InputSquares& input_squares,
                        ComparisonRow& row, Executor& executor = default_executor());

/// A page with the table and a picture of KL over bits. `title` and the methods may hold any characters.
std::string comparison_page(const std::string& title, const ComparisonRow& reference,
                            const std::vector<ComparisonRow>& rows);

}  // namespace higgs::model
