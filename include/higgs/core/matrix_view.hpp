// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/error.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

namespace higgs {
inline namespace v0 {

/// A matrix in host memory that somebody else owns. Strides count elements and may be anything,
/// so a transpose, a shard of rows or columns, and a broadcast row are all views.
template <class T>
struct MatrixView {
  T* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t row_stride = 0;
  std::int64_t col_stride = 1;

  constexpr MatrixView() = default;
  /// Row-major, without gaps.
  constexpr MatrixView(T* first, std::int64_t row_count, std::int64_t col_count) noexcept
      : MatrixView(first, row_count, col_count, col_count) {}
  constexpr MatrixView(T* first, std::int64_t row_count, std::int64_t col_count, std::int64_t row_step,
                       std::int64_t col_step = 1) noexcept
      : data(first), rows(row_count), cols(col_count), row_stride(row_step), col_stride(col_step) {}

  /// What may be written may also be read.
  template <class Mutable>
    requires(std::is_same_v<T, const Mutable> && !std::is_const_v<Mutable>)
  constexpr MatrixView(const MatrixView<Mutable>& other) noexcept
      : MatrixView(other.data, other.rows, other.cols, other.row_stride, other.col_stride) {}

  constexpr T& operator()(std::int64_t r, std::int64_t c) const noexcept {
    return data[r * row_stride + c * col_stride];
  }
  constexpr T* row(std::int64_t r) const noexcept { return data + r * row_stride; }
  constexpr std::int64_t size() const noexcept { return rows * cols; }

  constexpr MatrixView row_range(std::int64_t first, std::int64_t count) const noexcept {
    return {row(first), count, cols, row_stride, col_stride};
  }
  constexpr MatrixView col_range(std::int64_t first, std::int64_t count) const noexcept {
    return {data + first * col_stride, rows, count, row_stride, col_stride};
  }
  constexpr MatrixView transposed() const noexcept { return {data, cols, rows, col_stride, row_stride}; }
};

namespace detail {

/// "(8, 512)", as messages write a shape.
inline std::string shape_text(std::int64_t rows, std::int64_t cols) {
  return sentence("(", rows, ", ", cols, ")");
}

/// Whether there is memory behind a view, host or device, that has elements.
template <class View>
constexpr bool has_data(const View& view) noexcept {
  return view.data != nullptr || view.rows == 0 || view.cols == 0;
}

/// Throws InvalidArgument unless `view`, called `name` in messages, has no negative size, and data where it
/// has elements.
template <class View>
constexpr void expect_data(const char* function, const char* name, const View& view) {
  expects(view.rows >= 0 && view.cols >= 0 && has_data(view), [&] {
    return sentence(function, ": ", name, " is ", shape_text(view.rows, view.cols),
                    has_data(view) ? ", but sizes are not negative" : ", but its data is a null pointer");
  });
}

/// Throws InvalidArgument unless the shapes fit y = x * W^T + bias, W being (rows, cols) and `bias` the
/// number of its values.
template <class X, class Y>
constexpr void expect_product(const char* function, const X& x, std::int64_t rows, std::int64_t cols,
                              const Y& y, std::size_t bias = 0) {
  const bool fits = x.cols == cols && y.rows == x.rows && y.cols == rows &&
                    (bias == 0 || static_cast<std::int64_t>(bias) == rows);
  expects(fits, [&] {
    const std::string place(function);
    if (x.cols != cols)
      return sentence(place, ": x is ", shape_text(x.rows, x.cols), ", but w has ", cols, " columns");
    if (y.rows != x.rows || y.cols != rows)
      return sentence(place, ": y is ", shape_text(y.rows, y.cols), ", but must be ",
                      shape_text(x.rows, rows), ", as x has ", x.rows, " rows and w has ", rows);
    return sentence(place, ": bias holds ", bias, " values, but w has ", rows, " rows");
  });
  expect_data(function, "x", x);
  expect_data(function, "y", y);
}

}  // namespace detail

}  // namespace v0
}  // namespace higgs
