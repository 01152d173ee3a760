// SPDX-License-Identifier: Apache-2.0
// HIGGS beside its peers on one model and one text.
#pragma once

#include <higgs/core/executor.hpp>
#include <higgs/quantizer.hpp>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "compare/baselines.hpp"
#include "measure/calibrate.hpp"
#include "measure/evaluate.hpp"
#include "network/network.hpp"
#include "source/source.hpp"

namespace higgs::model {

/// One format on the whole model; embeddings, norms and the output layer stay as they are.
struct ComparisonRow {
  std::string method;  // "higgs 2x256", "nf4-64"
  double bits = 0;     // for a weight of the quantized layers, scales and zero points included
  double t2 = 0;       // mean over those weights of the error in the basis in which the layer was rounded:
                       // rotated and scaled for HIGGS, the weights' own for baselines
  double weight_error = 0;  // mean over those weights of the layer's ||W' - W||^2 / ||W||^2
  std::string choices;      // choices that the format leaves open
  Evaluation evaluation{};  // with a divergence but for the reference
};

/// The formats that `compare` runs when it is not told which.
std::vector<std::string> default_methods();

/// A method of `compare`: a baseline's name, or "higgs CODEBOOK", then " g128" for groups of 128 with 8-bit scales that a
/// search finds, " random" for calibrated input scales.
struct Method {
  std::string name;
  const Baseline* baseline = nullptr;  // null: HIGGS
  std::string codebook{};
  QuantizeOptions options{};
  bool calibrated = false;  // wants input squares of every layer
};

/// Throws InvalidArgument, which lists the formats and codebooks that there are, if there is no such method.
Method parse_method(std::string_view name);

/// Puts every linear layer of the model's blocks in that format. Codebooks that ship run from their codes, all else from
/// rounded floats. Fills all of `row` but its evaluation; calls `progress` with the weights done and to do. Throws
/// InvalidArgument if the model is quantized, or the method wants input squares that are missing.
void apply_method(Network& model, const Method& method, const InputSquares& input_squares, ComparisonRow& row,
                  Executor& executor = default_executor(),
                  const std::function<void(std::int64_t done, std::int64_t total)>& progress = {});
/// The same for a copy of a model on the CPU.
Transformer with_method(const Transformer& model, const Method& method, const InputSquares& input_squares,
                        ComparisonRow& row, Executor& executor = default_executor(),
                        const std::function<void(std::int64_t done, std::int64_t total)>& progress = {});

/// The row of the model as it is stored: the bits of the same layers in the file, and their types.
ComparisonRow reference_row(const ModelSource& source);
/// The types in which a model's matrices are stored, the most weights first: "Q4_1 (79 %), Q8_0 (21 %)".
std::string stored_types(const ModelSource& source);

/// What was done: names and values.
using Protocol = std::vector<std::pair<std::string, std::string>>;

/// A page with the protocol, a picture of KL over bits, and the table. All texts may hold any characters.
std::string comparison_page(const std::string& title, const Protocol& protocol,
                            const ComparisonRow& reference, const std::vector<ComparisonRow>& rows);

}  // namespace higgs::model
