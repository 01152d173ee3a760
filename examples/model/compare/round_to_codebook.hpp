// SPDX-License-Identifier: Apache-2.0
// Every codebook of the library on a matrix, those too that files may not name and no kernel is made for.
#pragma once

#include "math/matrix.hpp"

#include <higgs/core/executor.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/quantizer.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace higgs::model {

/// A matrix that was quantized and dequantized again.
struct RoundedMatrix {
  Matrix weight;    // (rows, cols)
  double bits = 0;  // a weight
  double t2 = 0;    // as in QuantizedMatrix
  double weight_error = 0;
};

/// The names of the codebooks that do not ship: "3x512", "e8n3", "2x84r5", "u4" and others.
std::vector<std::string> further_codebook_names();

/// Rounds `w` with one of them. Throws InvalidArgument if none has that name.
RoundedMatrix round_to_codebook(MatrixView<const float> w, std::string_view codebook,
                                const QuantizeOptions& options, Executor& executor = default_executor());

}  // namespace higgs::model
