// SPDX-License-Identifier: Apache-2.0
// One matrix, rounded by the second moment of its inputs.
#pragma once

#include <higgs/core/code.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/round/feedback.hpp>
#include <higgs/scale/input_scale.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace higgs::model {

struct RoundedMatrix {
  AnyQuantizedMatrix matrix;
  /// Sum over rows of e H e^T for errors e and the second moment H of the inputs, damped; with gradients of outputs as
  /// FeedbackQuantizer::quantize_matrix() has it.
  double loss = 0;
  double expected_nearest_loss = 0;  ///< the same as rounding to the nearest is expected to leave it
  std::int64_t nearest_rows = 0;     ///< rows that feedback did not help
};

/// Rounds w (rows, cols) as FeedbackQuantizer does, with a shipped code. `columns` are the statistics of all rows that share
/// the input scales. `feedback` is that of the layout, the seed and the input scales, `outputs` that of the outputs, or null
/// where they count alike. Throws InvalidArgument for an unknown code.
RoundedMatrix round_matrix(MatrixView<const float> w, std::string_view codebook, const CodeLayout& layout,
                           std::optional<std::uint64_t> seed, const ColumnStatistics& columns,
                           std::span<const Half> input_scales, const Feedback& feedback,
                           const Feedback* outputs, Executor& executor);

}  // namespace higgs::model
