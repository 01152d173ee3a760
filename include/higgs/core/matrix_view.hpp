// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/config.hpp>

#include <cstdint>
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

}  // namespace v0
}  // namespace higgs
