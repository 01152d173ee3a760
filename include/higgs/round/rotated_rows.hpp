// SPDX-License-Identifier: Apache-2.0
// Rows of a matrix as they are rounded: divided by 2^exponent and by input scales, padded and rotated. And what the
// rounding errors of such rows are in the weights themselves.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/cpu/convert.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/rotate/random_hadamard.hpp>
#include <higgs/scale/group_scale.hpp>
#include <higgs/scale/input_scale.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {

/// Sums over rows in row order of ||W' - W||^2 and ||W||^2, in units of 4^exponent: for the rows as they are encoded,
/// then for the weights. QuantizedMatrix defines t2 and weight_error.
struct RoundingError {
  double squared_error = 0;         ///< of the rows as they are encoded
  double squared_norm = 0;          ///< of the rows as they are encoded
  double weight_squared_error = 0;  ///< of the weights
  double weight_squared_norm = 0;   ///< of the weights

  /// The error of the rows as they are encoded.
  double t2() const noexcept { return ratio(squared_error, squared_norm); }
  /// The error of the weights.
  double weight_error() const noexcept { return ratio(weight_squared_error, weight_squared_norm); }
  /// Adds the next rows.
  RoundingError& operator+=(const RoundingError& next) noexcept {
    squared_error += next.squared_error;
    squared_norm += next.squared_norm;
    weight_squared_error += next.weight_squared_error;
    weight_squared_norm += next.weight_squared_norm;
    return *this;
  }

 private:
  static double ratio(double error, double norm) noexcept { return norm > 0 ? error / norm : 0; }
};

namespace detail {

/// Throws InvalidArgument unless `w` (n, cols) fits the layout, and there are n * row_bytes codes and n * groups scales.
template <class T>
void expect_rows(const char* function, MatrixView<T> w, const CodeLayout& layout, std::int64_t row_bytes,
                 std::size_t codes, std::size_t scales) {
  expects(w.cols == layout.cols, [&] {
    return sentence(function, ": w is ", shape_text(w.rows, w.cols), ", but the layout has ", layout.cols,
                    " columns");
  });
  expect_data(function, "w", w);
  const std::int64_t bytes = w.rows * row_bytes, groups = w.rows * layout.groups();
  expects(std::cmp_equal(codes, bytes) && std::cmp_equal(scales, groups), [&] {
    return sentence(function, ": codes and scales hold ", codes, " bytes and ", scales, " scales, but ",
                    w.rows, " rows need ", bytes, " and ", groups);
  });
}

/// Takes rows of one matrix to the basis in which they are encoded.
class RotatedRows {
 public:
  /// `input_scales`: (cols) finite values where the layout has input scales, else empty.
  RotatedRows(const CodeLayout& layout, std::optional<std::uint64_t> seed, int exponent,
              std::span<const Half> input_scales);

  /// One row `w` (1, cols) in that basis: `row` (padded_cols). Adds what is known of the weights to `error`.
  template <class T>
  void rotate(MatrixView<T> w, std::span<float> row, RoundingError& error) const;

  /// Whether the error of a row is what it was before the rotation, an isometry.
  bool keeps_errors() const noexcept { return factors_.empty() && layout_.padded_cols() == layout_.cols; }

  /// Completes the `error` of a row that rotate() and the sums over its groups began. `left` (padded_cols) is what the
  /// codes leave of it where errors are not kept; it is overwritten.
  void finish(std::span<float> left, RoundingError& error) const;

 private:
  // The first values of `x` times `factors`.
  static void multiply(std::span<float> x, std::span<const float> factors) noexcept;

  // A row without its padding.
  std::span<const float> weights_of(std::span<const float> row) const noexcept {
    return row.first(static_cast<std::size_t>(layout_.cols));
  }

  // The row as floats times 2^-exponent, then zeros.
  template <class T>
  void load(MatrixView<T> w, std::span<float> row) const noexcept;

  CodeLayout layout_;
  std::optional<std::uint64_t> seed_;
  int exponent_;
  std::vector<float> input_scales_, factors_;  // (cols), or empty
  std::vector<std::size_t> lost_;              // columns of factor 0
};

#if HIGGS_DEFINITIONS

HIGGS_INLINE RotatedRows::RotatedRows(const CodeLayout& layout, std::optional<std::uint64_t> seed,
                                      int exponent, std::span<const Half> input_scales)
    : layout_(layout), seed_(seed), exponent_(exponent) {
  const std::int64_t factors = layout.input_scales ? layout.cols : 0;
  expects(std::ssize(input_scales) == factors, [&] {
    return sentence("higgs::RowQuantizer: input_scales holds ", input_scales.size(),
                    " values, but the layout needs ", factors);
  });
  for (const Half scale : input_scales) {
    input_scales_.push_back(static_cast<float>(scale));
    factors_.push_back(input_factor(scale));
    if (factors_.back() == 0) lost_.push_back(factors_.size() - 1);
  }
}

template <class T>
void RotatedRows::rotate(MatrixView<T> w, std::span<float> row, RoundingError& error) const {
  load(w, row);
  if (!keeps_errors()) {
    error.weight_squared_norm = sum_of_squares(weights_of(row));
    for (const std::size_t c : lost_)
      error.weight_squared_error += static_cast<double>(row[c]) * static_cast<double>(row[c]);
  }
  multiply(row, factors_);
  rotate_row(row, layout_.block, seed_);
}

HIGGS_INLINE void RotatedRows::finish(std::span<float> left, RoundingError& error) const {
  if (keeps_errors()) {
    error.weight_squared_error = error.squared_error;
    error.weight_squared_norm = error.squared_norm;
    return;
  }
  unrotate_row(left, layout_.block, seed_);
  multiply(left, input_scales_);
  error.weight_squared_error += sum_of_squares(weights_of(left));
}

HIGGS_INLINE void RotatedRows::multiply(std::span<float> x, std::span<const float> factors) noexcept {
  cpu::dispatch(best_isa(), [&](auto set) { multiply_by(set, x.data(), factors.data(), factors.size()); });
}

// The row as floats times 2^-exponent (exact, in two steps as 2^-exponent alone may overflow), then zeros.
template <class T>
void RotatedRows::load(MatrixView<T> w, std::span<float> row) const noexcept {
  const float half = std::ldexp(1.0f, -(exponent_ / 2));
  const float rest = std::ldexp(1.0f, exponent_ / 2 - exponent_);
  if (w.col_stride == 1)
    to_floats(w.data, w.cols, row.data());
  else
    for (std::int64_t c = 0; c < w.cols; ++c) row[static_cast<std::size_t>(c)] = static_cast<float>(w(0, c));
  for (float& value : row) value = value * half * rest;
  std::fill(row.begin() + static_cast<std::ptrdiff_t>(w.cols), row.end(), 0.0f);
}

#endif

}  // namespace detail
}  // namespace v0
}  // namespace higgs
