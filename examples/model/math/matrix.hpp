// SPDX-License-Identifier: Apache-2.0
// The one matrix of floats that owns its memory. Functions that only read or fill one take a higgs::MatrixView.
#pragma once

#include <higgs/core/matrix_view.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace higgs::model {

/// A row-major matrix (rows, cols) that owns its floats. A value: a copy has floats of its own.
struct Matrix {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<float> values;

  Matrix() = default;
  /// Zeros.
  Matrix(std::int64_t row_count, std::int64_t col_count)
      : Matrix(row_count, col_count, std::vector<float>(static_cast<std::size_t>(row_count * col_count))) {}
  /// `content` holds row_count * col_count floats, row after row.
  Matrix(std::int64_t row_count, std::int64_t col_count, std::vector<float> content)
      : rows(row_count), cols(col_count), values(std::move(content)) {}

  bool empty() const noexcept { return values.empty(); }
  std::int64_t size() const noexcept { return rows * cols; }
  float* row(std::int64_t r) noexcept { return values.data() + r * cols; }
  const float* row(std::int64_t r) const noexcept { return values.data() + r * cols; }
  MatrixView<float> view() noexcept { return {values.data(), rows, cols}; }
  MatrixView<const float> view() const noexcept { return {values.data(), rows, cols}; }
};

/// A matrix that does not change, so that copies of a model can share it. Null: not loaded.
using SharedMatrix = std::shared_ptr<const Matrix>;
/// Makes a matrix shareable.
inline SharedMatrix share(Matrix matrix) { return std::make_shared<const Matrix>(std::move(matrix)); }

}  // namespace higgs::model
