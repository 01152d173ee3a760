// SPDX-License-Identifier: Apache-2.0
// One factor per input: columns are divided by it before they are rotated, and the activations are multiplied by it.
//
//     W * x = (W / s) * (s * x)
//
// Rotation spreads a row's error evenly over a block, so the error of column c ends up in proportion to s[c]. With c[k]
// the sum of squares of column k and h[k] the mean square of input k, the expected error of the product is in proportion
// to (sum h s^2) (sum c / s^2). It is least for s = (c / h)^(1/4) (Cauchy and Schwarz). Where nothing is known about h,
// s is the RMS of the column, which is best if h is in inverse proportion to c: trained models put small weights where
// activations are large. t^2 of the columns so divided is what it would be without.
#pragma once

#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/cpu/convert.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {

/// What a column is multiplied by where its input scale is `scale`: 1 / scale, or 0 for a column of zeros.
constexpr float input_factor(Half scale) noexcept {
  const float value = static_cast<float>(scale);
  return value > 0 ? 1.0f / value : 0.0f;
}

/// Sums of squares and largest magnitudes of the columns of a matrix whose rows stream by in order. The results are the
/// same bits for any split into pieces and any number of threads.
class ColumnStatistics {
 public:
  /// For matrices of `cols` columns. Throws InvalidArgument if there are none.
  explicit ColumnStatistics(std::int64_t cols);

  /// From sums over `rows` rows that another program made: squares in row order, and the bits of the largest magnitudes.
  /// Throws InvalidArgument naming the first column with a weight that is NaN or infinite.
  ColumnStatistics(std::vector<double> squares, std::vector<std::int32_t> largest, std::int64_t rows);

  /// Takes in the next rows of the matrix. Throws InvalidArgument naming the first weight that is NaN or infinite.
  template <class T>
  void add(MatrixView<T> rows, Executor& executor = default_executor()) {
    if constexpr (!detail::is_scalar<T>)
      add_scalars(detail::as_scalars(rows), executor);
    else
      add_scalars(rows, executor);
  }

  std::int64_t rows() const noexcept { return rows_; }                 ///< rows added
  std::int64_t cols() const noexcept { return std::ssize(squares_); }  ///< columns of each

  /// The first column in which a matrix of as many columns has a larger magnitude, so that its rows cannot be among
  /// these; cols() if there is none.
  std::int64_t first_beyond(const ColumnStatistics& other) const noexcept {
    return std::mismatch(other.largest_.begin(), other.largest_.end(), largest_.begin(), std::less_equal<>{})
               .first -
           other.largest_.begin();
  }

  /// The largest magnitude in the matrix.
  float max_magnitude() const noexcept {
    return std::bit_cast<float>(*std::max_element(largest_.begin(), largest_.end()));
  }

  /// The input scales (cols) for inputs of these mean squares (cols, in any unit), or for inputs that nothing is known
  /// about. In [2^-14, 65504] with a mean square in [1, 4) before that is enforced; 0 for a column of zeros. Throws
  /// InvalidArgument for mean squares that are negative or not finite.
  std::vector<Half> input_scales(std::span<const double> input_squares = {}) const;

  /// The largest magnitude once column c is multiplied by input_factor(scales[c]); infinite if that is no float.
  double max_magnitude(std::span<const Half> scales) const;

 private:
  static constexpr std::int64_t panel = 256;  // columns whose sums stay in the first cache
  static constexpr std::size_t chunk = 32;    // a length known to the compiler, so it uses vector registers

  template <class T>
  void add_scalars(MatrixView<T> rows, Executor& executor) {
    expects(rows.cols == static_cast<std::int64_t>(squares_.size()), [&] {
      return detail::sentence("higgs::ColumnStatistics::add: rows are ",
                              detail::shape_text(rows.rows, rows.cols), ", but the matrix has ",
                              squares_.size(), " columns");
    });
    detail::expect_data("higgs::ColumnStatistics::add", "rows", rows);
    parallel_for(executor, rows.cols, panel,
                 [&](std::int64_t begin, std::int64_t end) { add_panel(rows, begin, end); });
    if (!std::isfinite(max_magnitude())) refuse(rows);
    rows_ += rows.rows;
  }

  template <class T>
  void add_panel(MatrixView<T> rows, std::int64_t begin, std::int64_t end) {
    std::array<double, panel> squares{};
    std::array<std::int32_t, panel> largest{};
    std::array<float, panel> row{};
    const auto count = static_cast<std::size_t>(end - begin);
    const auto first = static_cast<std::size_t>(begin);
    std::copy_n(squares_.data() + first, count, squares.data());
    std::copy_n(largest_.data() + first, count, largest.data());
    for (std::int64_t r = 0; r < rows.rows; ++r) {
      if (rows.col_stride == 1)
        to_floats(rows.row(r) + begin, end - begin, row.data());
      else
        for (std::size_t i = 0; i < count; ++i)
          row[i] = static_cast<float>(rows(r, begin + static_cast<std::int64_t>(i)));
      for (std::size_t start = 0; start < count; start += chunk)
        for (std::size_t i = start; i < start + chunk; ++i) {
          squares[i] += static_cast<double>(row[i]) * static_cast<double>(row[i]);  // an exact product
          // Without the sign, bits sort like the values they are, infinity and NaN last.
          const std::int32_t bits =
              std::bit_cast<std::int32_t>(row[i]) & std::numeric_limits<std::int32_t>::max();
          largest[i] = std::max(largest[i], bits);
        }
    }
    std::copy_n(squares.data(), count, squares_.data() + first);
    std::copy_n(largest.data(), count, largest_.data() + first);
  }

  template <class T>
  [[noreturn]] void refuse(MatrixView<T> rows) const {
    for (std::int64_t r = 0; r < rows.rows; ++r)
      for (std::int64_t c = 0; c < rows.cols; ++c)
        if (!std::isfinite(static_cast<float>(rows(r, c))))
          throw InvalidArgument("higgs::quantize: the weight at row " + std::to_string(rows_ + r) +
                                ", column " + std::to_string(c) + " is NaN or infinite");
    throw InvalidArgument("higgs::ColumnStatistics::add: earlier rows were refused");
  }

  std::int64_t rows_ = 0;
  std::vector<double> squares_;        // (cols)
  std::vector<std::int32_t> largest_;  // (cols): bits of the largest magnitude
};

#if HIGGS_DEFINITIONS

HIGGS_INLINE ColumnStatistics::ColumnStatistics(std::int64_t cols) {
  expects(cols >= 1, [&] {
    return detail::sentence("higgs::ColumnStatistics: a matrix has at least one column, not ", cols);
  });
  squares_.resize(static_cast<std::size_t>(cols));
  largest_.resize(static_cast<std::size_t>(cols));
}

HIGGS_INLINE ColumnStatistics::ColumnStatistics(std::vector<double> squares,
                                                std::vector<std::int32_t> largest, std::int64_t rows)
    : rows_(rows), squares_(std::move(squares)), largest_(std::move(largest)) {
  expects(!squares_.empty() && squares_.size() == largest_.size() && rows >= 0, [&] {
    return detail::sentence("higgs::ColumnStatistics: ", squares_.size(), " sums and ", largest_.size(),
                            " magnitudes over ", rows, " rows, but each column has one of both");
  });
  for (std::size_t c = 0; c < largest_.size(); ++c)
    if (!std::isfinite(std::bit_cast<float>(largest_[c])))
      throw InvalidArgument("higgs::quantize: a weight in column " + std::to_string(c) +
                            " is NaN or infinite");
}

HIGGS_INLINE std::vector<Half> ColumnStatistics::input_scales(std::span<const double> input_squares) const {
  expects(input_squares.empty() || input_squares.size() == squares_.size(), [&] {
    return detail::sentence("higgs::ColumnStatistics::input_scales: ", input_squares.size(),
                            " mean squares, but the matrix has ", squares_.size(), " columns");
  });
  double loudest = 0;
  for (std::size_t c = 0; c < input_squares.size(); ++c) {
    expects(input_squares[c] >= 0 && std::isfinite(input_squares[c]), [&] {
      return detail::sentence("higgs::ColumnStatistics::input_scales: the mean square of input ", c, " is ",
                              input_squares[c], ", but must be finite and not negative");
    });
    loudest = std::max(loudest, input_squares[c]);
  }
  std::vector<double> raw(squares_.size());
  double total = 0;
  for (std::size_t c = 0; c < raw.size(); ++c) {
    raw[c] = std::sqrt(squares_[c] / static_cast<double>(std::max<std::int64_t>(rows_, 1)));
    // Inputs that were silent may yet speak.
    if (loudest > 0) raw[c] = std::sqrt(raw[c] / std::sqrt(std::max(input_squares[c] / loudest, 0x1p-40)));
    total += raw[c] * raw[c];
  }
  const double mean = total / static_cast<double>(raw.size());
  const int exponent = mean > 0 ? std::ilogb(mean) >> 1 : 0;
  std::vector<Half> scales(raw.size());
  for (std::size_t c = 0; c < scales.size(); ++c)
    if (raw[c] > 0)
      scales[c] = Half(static_cast<float>(std::clamp(std::ldexp(raw[c], -exponent), 0x1p-14, 65504.0)));
  return scales;
}

HIGGS_INLINE double ColumnStatistics::max_magnitude(std::span<const Half> scales) const {
  expects(scales.size() == largest_.size(), [&] {
    return detail::sentence("higgs::ColumnStatistics::max_magnitude: ", scales.size(),
                            " scales, but the matrix has ", largest_.size(), " columns");
  });
  double most = 0;
  for (std::size_t c = 0; c < scales.size(); ++c)
    most = std::max(most, static_cast<double>(std::bit_cast<float>(largest_[c])) *
                              static_cast<double>(input_factor(scales[c])));
  return most;
}

#endif

}  // namespace v0
}  // namespace higgs
