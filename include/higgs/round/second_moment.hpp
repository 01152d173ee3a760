// SPDX-License-Identifier: Apache-2.0
// The second moment of a layer's inputs, H = sum of x^T x over the rows x: what an error of the weights costs. An error e of
// one row of W adds e H e^T to the squared error of the outputs.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/round/outer_product.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {

/// Sums of products of inputs whose rows stream by: all of H, or blocks along its diagonal. It takes 4 bytes a product:
/// 4 * cols^2, or 4 * cols * part. Sums are floats, the same bits for any split of the rows into calls, any number of
/// threads and every instruction set. On 32768 normal rows they differ from sums in double by 1.5e-5 of
/// sqrt(H(i, i) H(j, j)) at most, measured by tests/round/second_moment_test.cpp.
class SecondMoment {
 public:
  /// For inputs of `cols` columns. `part`: inputs of a diagonal block, the last may have fewer; 0: all of H. Throws
  /// InvalidArgument unless cols >= 1 and part >= 0.
  explicit SecondMoment(std::int64_t cols, std::int64_t part = 0);

  /// From sums() that were kept. Throws InvalidArgument unless they are as many, finite, and second moments: no negative
  /// value on the diagonal, and no |H(i, j)| above sqrt(H(i, i) H(j, j)) by more than 1 %.
  SecondMoment(std::int64_t cols, std::int64_t part, std::int64_t rows, std::vector<float> sums);

  /// From a caller's own h (cols, cols), summed over `rows` rows. Throws InvalidArgument as the constructor does, and
  /// unless h is square and symmetric: |h(i, j) - h(j, i)| is at most 1e-4 sqrt(h(i, i) h(j, j)).
  static SecondMoment from(MatrixView<const float> h, std::int64_t rows);

  /// Takes in the next rows of inputs, x (n, cols). Throws InvalidArgument for other columns, and for the first value that is
  /// NaN or infinite; then nothing is added. Throws it too where a sum of squares is beyond float; then the sums are lost.
  void add(MatrixView<const float> x, Executor& executor = default_executor(), Isa isa = best_isa());

  std::int64_t cols() const noexcept { return cols_; }  ///< inputs
  std::int64_t part() const noexcept { return part_; }  ///< inputs of a diagonal block; cols() if H is whole
  std::int64_t parts() const noexcept { return (cols_ + part_ - 1) / part_; }  ///< diagonal blocks
  std::int64_t rows() const noexcept { return rows_; }                         ///< rows added

  /// Diagonal block i of H: inputs i * part() and on. Only its upper triangle is valid. Throws InvalidArgument unless
  /// 0 <= i < parts().
  MatrixView<const float> values(std::int64_t i) const;

  /// (cols): the mean square of each input; zeros where there are no rows.
  std::vector<double> mean_squares() const;

  /// All sums, block after block, for a file: the fourth argument of the constructor.
  std::span<const float> sums() const noexcept { return sums_; }

 private:
  MatrixView<float> block(std::int64_t i) noexcept;
  void expect_finite(MatrixView<const float> x, Executor& executor) const;
  void expect_second_moments() const;

  std::int64_t cols_, part_, rows_ = 0;
  std::vector<float> sums_;  // (parts, part, part), the last part smaller in both; zeros below the diagonals
};

#if HIGGS_DEFINITIONS

HIGGS_INLINE SecondMoment::SecondMoment(std::int64_t cols, std::int64_t part)
    : cols_(cols), part_(part == 0 ? cols : std::min(part, cols)) {
  expects(cols >= 1 && part >= 0, [&] {
    return detail::sentence("higgs::SecondMoment: ", cols, " inputs in parts of ", part,
                            ", but there is at least one input, and no part is negative");
  });
  const std::int64_t last = cols_ - (parts() - 1) * part_;
  sums_.resize(static_cast<std::size_t>((parts() - 1) * part_ * part_ + last * last));
}

HIGGS_INLINE SecondMoment::SecondMoment(std::int64_t cols, std::int64_t part, std::int64_t rows,
                                        std::vector<float> sums)
    : SecondMoment(cols, part) {
  expects(sums.size() == sums_.size() && rows >= 0, [&] {
    return detail::sentence("higgs::SecondMoment: ", sums.size(), " sums over ", rows, " rows, but ", cols_,
                            " inputs in parts of ", part_, " have ", sums_.size());
  });
  rows_ = rows;
  sums_ = std::move(sums);
  expect_second_moments();
}

HIGGS_INLINE SecondMoment SecondMoment::from(MatrixView<const float> h, std::int64_t rows) {
  expects(h.rows == h.cols && h.rows >= 1 && rows >= 0, [&] {
    return detail::sentence("higgs::SecondMoment::from: h is ", detail::shape_text(h.rows, h.cols), " over ",
                            rows, " rows, but must be square and not empty");
  });
  detail::expect_data("higgs::SecondMoment::from", "h", h);
  SecondMoment out(h.cols);
  out.rows_ = rows;
  const MatrixView<float> own = out.block(0);
  for (std::int64_t i = 0; i < h.rows; ++i)
    for (std::int64_t j = i; j < h.cols; ++j) own(i, j) = h(i, j);
  out.expect_second_moments();
  for (std::int64_t i = 0; i < h.rows; ++i)
    for (std::int64_t j = i + 1; j < h.cols; ++j) {
      const auto above = static_cast<double>(h(i, j)), below = static_cast<double>(h(j, i));
      const double squares = static_cast<double>(h(i, i)) * static_cast<double>(h(j, j));
      expects(std::abs(above - below) <= 1e-4 * std::sqrt(squares), [&] {
        return detail::sentence("higgs::SecondMoment::from: h is not symmetric: (", i, ", ", j, ") is ",
                                above, ", but (", j, ", ", i, ") is ", below);
      });
    }
  return out;
}

HIGGS_INLINE void SecondMoment::add(MatrixView<const float> x, Executor& executor, Isa isa) {
  expects(x.cols == cols_, [&] {
    return detail::sentence("higgs::SecondMoment::add: x is ", detail::shape_text(x.rows, x.cols),
                            ", but there are ", cols_, " inputs");
  });
  detail::expect_data("higgs::SecondMoment::add", "x", x);
  expect_finite(x, executor);
  for (std::int64_t i = 0; i < parts(); ++i) {
    const MatrixView<float> h = block(i);
    const MatrixView<const float> inputs = x.col_range(i * part_, h.cols);
    add_upper_outer_products(inputs, inputs, h, executor, isa);
    for (std::int64_t k = 0; k < h.rows; ++k)
      expects(std::isfinite(h(k, k)), [&] {
        return detail::sentence("higgs::SecondMoment::add: the sum of squares of input ", i * part_ + k,
                                " is beyond float; divide the inputs by a power of two");
      });
  }
  rows_ += x.rows;
}

HIGGS_INLINE MatrixView<float> SecondMoment::block(std::int64_t i) noexcept {
  const std::int64_t size = std::min(part_, cols_ - i * part_);
  return {sums_.data() + i * part_ * part_, size, size};
}

HIGGS_INLINE MatrixView<const float> SecondMoment::values(std::int64_t i) const {
  expects(i >= 0 && i < parts(), [&] {
    return detail::sentence("higgs::SecondMoment::values: part ", i, ", but there are ", parts());
  });
  const std::int64_t size = std::min(part_, cols_ - i * part_);
  return {sums_.data() + i * part_ * part_, size, size};
}

HIGGS_INLINE std::vector<double> SecondMoment::mean_squares() const {
  std::vector<double> squares;
  squares.reserve(static_cast<std::size_t>(cols_));
  for (std::int64_t i = 0; i < parts(); ++i)
    for (std::int64_t k = 0; k < values(i).rows; ++k)
      squares.push_back(static_cast<double>(values(i)(k, k)) /
                        static_cast<double>(std::max<std::int64_t>(rows_, 1)));
  return squares;
}

HIGGS_INLINE void SecondMoment::expect_finite(MatrixView<const float> x, Executor& executor) const {
  std::vector<std::int64_t> bad(static_cast<std::size_t>(x.rows));  // (rows): first column, cols if none
  parallel_for(executor, x.rows, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      std::int64_t c = 0;
      while (c < x.cols && std::isfinite(x(r, c))) ++c;
      bad[static_cast<std::size_t>(r)] = c;
    }
  });
  for (std::int64_t r = 0; r < x.rows; ++r) {
    const std::int64_t c = bad[static_cast<std::size_t>(r)];
    expects(c == x.cols, [&] {
      return detail::sentence("higgs::SecondMoment::add: x is ", static_cast<double>(x(r, c)), " at row ", r,
                              ", column ", c, ", but inputs must be finite");
    });
  }
}

HIGGS_INLINE void SecondMoment::expect_second_moments() const {
  for (std::int64_t p = 0; p < parts(); ++p) {
    const MatrixView<const float> h = values(p);
    const std::int64_t first = p * part_;
    for (std::int64_t i = 0; i < h.rows; ++i)
      expects(std::isfinite(h(i, i)) && h(i, i) >= 0, [&] {
        return detail::sentence("higgs::SecondMoment: the sum of squares of input ", first + i, " is ",
                                static_cast<double>(h(i, i)), ", but must be finite and not negative");
      });
    for (std::int64_t i = 0; i < h.rows; ++i)
      for (std::int64_t j = i + 1; j < h.cols; ++j) {
        const double most = std::sqrt(static_cast<double>(h(i, i)) * static_cast<double>(h(j, j)));
        const auto value = static_cast<double>(h(i, j));
        expects(std::abs(value) <= 1.01 * most, [&] {  // false for NaN
          return detail::sentence("higgs::SecondMoment: the products of inputs ", first + i, " and ",
                                  first + j, " sum to ", value, ", but their squares allow ", most,
                                  " at most");
        });
      }
  }
}

#endif

}  // namespace v0
}  // namespace higgs
