// SPDX-License-Identifier: Apache-2.0
// y = x * W^T with sums of floats: the product that every path ends in, and dense layers as they are.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/cpu/convert.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/cpu/portable/dense.hpp>

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace higgs {
inline namespace v0 {

namespace detail {

/// Inputs of a block of weights: 64 rows of them fit a core's own cache.
inline constexpr std::int64_t dense_depth = 1024;
/// Rows of x that are multiplied while a block of weights stays in cache.
inline constexpr std::int64_t dense_batch = 96;

/// A block of a dense product by the kernels of `isa`.
HIGGS_INLINE void multiply_dense(const cpu::DenseProduct<float>& block, Isa isa) noexcept;
HIGGS_INLINE void multiply_dense(const cpu::DenseProduct<Half>& block, Isa isa) noexcept;
HIGGS_INLINE void multiply_dense(const cpu::DenseProduct<BFloat16>& block, Isa isa) noexcept;

#if HIGGS_DEFINITIONS

HIGGS_INLINE void multiply_dense(const cpu::DenseProduct<float>& block, Isa isa) noexcept {
  cpu::dispatch(usable_isa(isa), [&](auto set) { dense_product(set, block); });
}
HIGGS_INLINE void multiply_dense(const cpu::DenseProduct<Half>& block, Isa isa) noexcept {
  cpu::dispatch(usable_isa(isa), [&](auto set) { dense_product(set, block); });
}
HIGGS_INLINE void multiply_dense(const cpu::DenseProduct<BFloat16>& block, Isa isa) noexcept {
  cpu::dispatch(usable_isa(isa), [&](auto set) { dense_product(set, block); });
}

#endif

}  // namespace detail

/// y = x * w^T: x (M, K) and y (M, N) of float, w (N, K) of float, Half or BFloat16, each with col_stride 1. Sums are
/// float; output (i, j) has the same bits whatever M, N and the number of threads are.
template <class W>
  requires Scalar<std::remove_const_t<W>>
void matmul(MatrixView<const float> x, MatrixView<W> w, MatrixView<float> y,
            Executor& executor = default_executor(), Isa isa = best_isa()) {
  detail::expect_product("higgs::matmul", x, w.rows, w.cols, y);
  detail::expect_data("higgs::matmul", "w", w);
  expects(x.col_stride == 1 && w.col_stride == 1 && y.col_stride == 1, [&] {
    return detail::sentence(
        "higgs::matmul: rows of dense matrices must be contiguous, but the columns of x, w and y are ",
        x.col_stride, ", ", w.col_stride, " and ", y.col_stride, " elements apart");
  });
  const std::int64_t grain = x.rows > 1 ? 64 : 256;  // rows of w in one task
  parallel_for(executor, w.rows, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = 0; k < std::max<std::int64_t>(x.cols, 1); k += detail::dense_depth)
      for (std::int64_t i = 0; i < x.rows; i += detail::dense_batch)
        detail::multiply_dense(
            cpu::DenseProduct<std::remove_const_t<W>>{x.row(i) + k, x.row_stride, w.row(begin) + k,
                                                      w.row_stride, y.row(i) + begin, y.row_stride,
                                                      std::min(detail::dense_batch, x.rows - i), end - begin,
                                                      std::min(detail::dense_depth, x.cols - k), k > 0},
            isa);
  });
}

}  // namespace v0
}  // namespace higgs
