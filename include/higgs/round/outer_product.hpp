// SPDX-License-Identifier: Apache-2.0
// Sums of outer products of rows: the dense work of second moments, of their factors and of error feedback.
//
//     c(i, j) += sum over t of a(t, i) * b(t, j)
//
// Each output is one chain of fused multiply-adds in the order of t, beginning with its value in c. So its bits depend
// neither on the instruction set, nor on the number of threads, nor on how the t are split among calls.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/core/scratch.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/isas.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace higgs {
inline namespace v0 {

/// c (m, n) += a^T b for a (k, m) and b (k, n) of any strides; the rows of c are contiguous, and c overlaps neither a nor
/// b. Tiles of c run at once on `executor`. Throws InvalidArgument for shapes that do not fit.
HIGGS_INLINE void add_outer_products(MatrixView<const float> a, MatrixView<const float> b,
                                     MatrixView<float> c, Executor& executor, Isa isa = best_isa());

/// The same on the calling thread.
HIGGS_INLINE void add_outer_products(MatrixView<const float> a, MatrixView<const float> b,
                                     MatrixView<float> c, Isa isa = best_isa());

/// The same for a square c, of which only the outputs on and above the diagonal are read and written: half the work
/// where a^T b is symmetric.
HIGGS_INLINE void add_upper_outer_products(MatrixView<const float> a, MatrixView<const float> b,
                                           MatrixView<float> c, Executor& executor, Isa isa = best_isa());

namespace cpu {

/// One block of a product: outputs (i, j) with j < i + diagonal are neither read nor written.
struct OuterProduct {
  static constexpr std::int64_t most_depth = 256;  // rows of a and b
  static constexpr std::int64_t most_rows = 192;   // outputs: a multiple of every set's tile_rows
  static constexpr std::int64_t most_cols = 512;   // outputs: a multiple of every set's tile_cols

  MatrixView<const float> a;  // (k, m)
  MatrixView<const float> b;  // (k, n)
  MatrixView<float> c;        // (m, n)
  std::int64_t diagonal;
};

}  // namespace cpu

#if HIGGS_DEFINITIONS

namespace cpu {

namespace outer_product_portable {
using Set = Portable;
typedef float Floats __attribute__((vector_size(16)));
inline constexpr int lanes = 4, tile_rows = 4;
inline Floats broadcast(float x) noexcept { return Floats{x, x, x, x}; }
inline Floats fused(Floats a, Floats b, Floats c) noexcept {
  for (int i = 0; i < lanes; ++i) c[i] = std::fma(a[i], b[i], c[i]);
  return c;
}
#  include <higgs/round/outer_product.inc>
}  // namespace outer_product_portable

using outer_product_portable::add_outer_products;

#  if defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)
namespace outer_product_avx2 {
using Set = Avx2;
using Floats = __m256;
inline constexpr int lanes = 8, tile_rows = 6;
inline Floats broadcast(float x) noexcept { return _mm256_set1_ps(x); }
inline Floats fused(Floats a, Floats b, Floats c) noexcept { return _mm256_fmadd_ps(a, b, c); }
#    include <higgs/round/outer_product.inc>
}  // namespace outer_product_avx2

using outer_product_avx2::add_outer_products;
HIGGS_TARGET_END

HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace outer_product_avx512 {
using Set = Avx512;
using Floats = __m512;
inline constexpr int lanes = 16, tile_rows = 12;
inline Floats broadcast(float x) noexcept { return _mm512_set1_ps(x); }
inline Floats fused(Floats a, Floats b, Floats c) noexcept { return _mm512_fmadd_ps(a, b, c); }
#    include <higgs/round/outer_product.inc>
}  // namespace outer_product_avx512

using outer_product_avx512::add_outer_products;
HIGGS_TARGET_END
#  endif

#  if defined(HIGGS_NEON)
namespace outer_product_neon {
using Set = Neon;
using Floats = float32x4_t;
inline constexpr int lanes = 4, tile_rows = 12;
inline Floats broadcast(float x) noexcept { return vdupq_n_f32(x); }
inline Floats fused(Floats a, Floats b, Floats c) noexcept { return vfmaq_f32(c, a, b); }
#    include <higgs/round/outer_product.inc>
}  // namespace outer_product_neon

using outer_product_neon::add_outer_products;
#  endif

}  // namespace cpu

namespace detail {

/// The outputs of a block, one stretch of a and b after the other.
inline void add_outer_product_block(const cpu::OuterProduct& block, Isa isa) {
  using cpu::OuterProduct;
  constexpr auto floats = OuterProduct::most_depth * (OuterProduct::most_rows + OuterProduct::most_cols);
  const Scratch space(floats * sizeof(float));
  for (std::int64_t t = 0; t < block.a.rows; t += OuterProduct::most_depth) {
    const std::int64_t depth = std::min(OuterProduct::most_depth, block.a.rows - t);
    const OuterProduct stretch{block.a.row_range(t, depth), block.b.row_range(t, depth), block.c,
                               block.diagonal};
    cpu::dispatch(
        isa, [&](auto set) { add_outer_products(set, stretch, reinterpret_cast<float*>(space.data())); });
  }
}

/// All blocks of a product, or those that have outputs on or above the diagonal.
inline void add_outer_product_blocks(const char* function, MatrixView<const float> a,
                                     MatrixView<const float> b, MatrixView<float> c, bool upper,
                                     Executor& executor, Isa isa) {
  expects(a.rows == b.rows && c.rows == a.cols && c.cols == b.cols && c.col_stride == 1, [&] {
    return sentence(function, ": a is ", shape_text(a.rows, a.cols), ", b is ", shape_text(b.rows, b.cols),
                    " and c is ", shape_text(c.rows, c.cols), " with columns ", c.col_stride,
                    " elements apart, but c must be ", shape_text(a.cols, b.cols),
                    " with contiguous rows, and a and b need as many rows");
  });
  expects(!upper || c.rows == c.cols, [&] {
    return sentence(function, ": c is ", shape_text(c.rows, c.cols), ", which has no upper triangle");
  });
  expect_data(function, "a", a);
  expect_data(function, "b", b);
  expect_data(function, "c", c);
  isa = usable_isa(isa);
  // Large blocks copy less of a and b, small ones keep more threads at work.
  std::int64_t rows = cpu::OuterProduct::most_rows, cols = cpu::OuterProduct::most_cols;
  const auto blocks = [&] { return ((c.rows + rows - 1) / rows) * ((c.cols + cols - 1) / cols); };
  while (executor.width() > 1 && rows > 48 && blocks() < 8 * std::int64_t{executor.width()})
    rows /= 2, cols /= 2;
  const std::int64_t across = (c.cols + cols - 1) / cols;
  executor.run(blocks(), [&](std::int64_t block) {
    const std::int64_t i = block / across * rows, j = block % across * cols;
    const std::int64_t m = std::min(rows, c.rows - i), n = std::min(cols, c.cols - j);
    if (upper && j + n <= i) return;
    add_outer_product_block(
        {a.col_range(i, m), b.col_range(j, n), c.row_range(i, m).col_range(j, n), upper ? i - j : -m}, isa);
  });
}

}  // namespace detail

HIGGS_INLINE void add_outer_products(MatrixView<const float> a, MatrixView<const float> b,
                                     MatrixView<float> c, Executor& executor, Isa isa) {
  detail::add_outer_product_blocks("higgs::add_outer_products", a, b, c, false, executor, isa);
}

HIGGS_INLINE void add_outer_products(MatrixView<const float> a, MatrixView<const float> b,
                                     MatrixView<float> c, Isa isa) {
  SerialExecutor serial;
  add_outer_products(a, b, c, serial, isa);
}

HIGGS_INLINE void add_upper_outer_products(MatrixView<const float> a, MatrixView<const float> b,
                                           MatrixView<float> c, Executor& executor, Isa isa) {
  detail::add_outer_product_blocks("higgs::add_upper_outer_products", a, b, c, true, executor, isa);
}

#endif

}  // namespace v0
}  // namespace higgs
