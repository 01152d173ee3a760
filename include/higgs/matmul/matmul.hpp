// SPDX-License-Identifier: Apache-2.0
// y = x * W^T from packed codes on the CPU: W is decoded a cache-sized tile at a time, never as a whole.
#pragma once

#include <higgs/core/concepts.hpp>
#include <higgs/core/cpu.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/matmul/decode.hpp>
#include <higgs/matmul/dense.hpp>
#include <higgs/rotate/random_hadamard.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <variant>
#include <vector>

namespace higgs {
inline namespace v0 {

/// y = x * W^T + bias: x (M, cols) and y (M, rows) of float, Half or BFloat16 with any strides, bias (rows) or empty.
/// Sums are float; the result does not depend on the number of threads, nor a row of it on the other rows of x.
template <class X, Codebook Book, Scalar Y>
  requires Scalar<std::remove_const_t<X>>
void matmul(MatrixView<X> x, const QuantizedMatrix<Book>& w, MatrixView<Y> y, std::span<const float> bias = {},
            Executor& executor = default_executor(), Isa isa = best_isa()) {
  expects(x.cols == w.cols() && y.rows == x.rows && y.cols == w.rows(),
          "higgs::matmul: x must be (M, cols) and y (M, rows) of w");
  expects(bias.empty() || static_cast<std::int64_t>(bias.size()) == w.rows(), "higgs::matmul: bias must hold rows values");
  const std::int64_t batch = x.rows, padded = w.layout.padded_cols(), group = w.layout.group;

  std::vector<float> input_scales;  // (cols) or empty
  for (const Half scale : w.input_scales) input_scales.push_back(static_cast<float>(scale));
  std::vector<float> rotated(static_cast<std::size_t>(batch * padded));  // (M, padded)
  parallel_for(executor, batch, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t m = begin; m < end; ++m) {
      const std::span<float> row(rotated.data() + m * padded, static_cast<std::size_t>(padded));
      for (std::int64_t k = 0; k < x.cols; ++k) row[static_cast<std::size_t>(k)] = static_cast<float>(x(m, k));
      for (std::size_t k = 0; k < input_scales.size(); ++k) row[k] *= input_scales[k];
      rotate_row(row, w.layout.block, w.seed);
    }
  });

  const PointTable<Book> points(w.book);
  const std::int64_t tile_rows = batch > 8 ? 64 : 16;
  const std::int64_t tile_groups = std::max<std::int64_t>(1, detail::tile_depth / group);
  parallel_for(executor, w.rows(), tile_rows, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t rows = end - begin;
    std::vector<float> tile(static_cast<std::size_t>(rows * tile_groups * group));  // (rows, depth)
    std::vector<float> sums(static_cast<std::size_t>(batch * rows));                // (M, rows)
    std::vector<typename Book::Index> codes;
    for (std::int64_t first = 0; first < w.layout.groups(); first += tile_groups) {
      const std::int64_t count = std::min(tile_groups, w.layout.groups() - first), depth = count * group;
      for (std::int64_t n = 0; n < rows; ++n)
        decode_groups(w, points, begin + n, first, count,
                      std::span<float>(tile.data() + n * depth, static_cast<std::size_t>(depth)), codes);
      for (std::int64_t m = 0; m < batch; m += detail::tile_batch)
        detail::tile_product({rotated.data() + m * padded + first * group, padded, tile.data(), depth,
                              sums.data() + m * rows, rows, std::min(detail::tile_batch, batch - m), rows, depth,
                              first > 0},
                             isa);
    }
    for (std::int64_t m = 0; m < batch; ++m)
      for (std::int64_t n = 0; n < rows; ++n) {
        const float sum = sums[static_cast<std::size_t>(m * rows + n)];
        y(m, begin + n) = static_cast<Y>(bias.empty() ? sum : sum + bias[static_cast<std::size_t>(begin + n)]);
      }
  });
}

/// The same for a matrix whose codebook is known only at run time.
template <class X, Scalar Y>
  requires Scalar<std::remove_const_t<X>>
void matmul(MatrixView<X> x, const AnyQuantizedMatrix& w, MatrixView<Y> y, std::span<const float> bias = {},
            Executor& executor = default_executor(), Isa isa = best_isa()) {
  std::visit([&](const auto& matrix) { matmul(x, matrix, y, bias, executor, isa); }, w);
}

}  // namespace v0
}  // namespace higgs
