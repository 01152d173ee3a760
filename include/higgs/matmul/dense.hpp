// SPDX-License-Identifier: Apache-2.0
// y = x * W^T with sums of floats: the product that every path ends in, and dense layers as they are.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/cpu/convert.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/matrix_view.hpp>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#if defined(HIGGS_TARGET_BEGIN)
#  include <immintrin.h>
#endif

namespace higgs {
inline namespace v0 {

namespace detail {

/// y[i, j] (+)= sum over k of x[i, k] * w[j, k], for m x n outputs and k inputs, all rows contiguous along k.
/// Output (i, j) is summed in an order that depends on k alone: a row's bits do not depend on the batch around it.
template <class W>
struct TileProduct {
  const float* x;  // (m, k), stride ldx
  std::int64_t ldx;
  const W* w;  // (n, k), stride ldw
  std::int64_t ldw;
  float* y;  // (m, n), stride ldy
  std::int64_t ldy;
  std::int64_t m, n, k;
  bool accumulate;

  void store(std::int64_t i, std::int64_t j, float sum) const noexcept {
    float& out = y[i * ldy + j];
    out = accumulate ? out + sum : sum;
  }
};

namespace portable {
template <class W>
void tile_product(const TileProduct<W>& t) noexcept {
  for (std::int64_t i = 0; i < t.m; ++i)
    for (std::int64_t j = 0; j < t.n; ++j) {
      const float* x = t.x + i * t.ldx;
      const W* w = t.w + j * t.ldw;
      float sums[8] = {};
      std::int64_t k = 0;
      for (; k + 8 <= t.k; k += 8)
        for (int lane = 0; lane < 8; ++lane) sums[lane] += x[k + lane] * static_cast<float>(w[k + lane]);
      for (int lane = 0; k + lane < t.k; ++lane) sums[lane] += x[k + lane] * static_cast<float>(w[k + lane]);
      t.store(i, j,
              ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7])));
    }
}
}  // namespace portable

#if defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)
namespace avx2 {

// The four sums of four accumulators, one in each lane.
inline __m128 reduce4(__m256 a, __m256 b, __m256 c, __m256 d) noexcept {
  const __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
  const __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
  const __m256 abcd =
      _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd))),
                    _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd))));
  return _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1));
}

// Rows rows of x by up to four rows of w (the last one repeated): 12 accumulators, 3 + 1 operands, 16 registers.
template <int Rows, class W>
inline void tile_rows(const TileProduct<W>& t, std::int64_t i, std::int64_t j) noexcept {
  const int cols = static_cast<int>(std::min<std::int64_t>(4, t.n - j));
  const float* x[extent<Rows>];
  const W* w[4];
  HIGGS_UNROLL
  for (int r = 0; r < Rows; ++r) x[r] = t.x + (i + r) * t.ldx;
  HIGGS_UNROLL
  for (int c = 0; c < 4; ++c) w[c] = t.w + (j + std::min(c, cols - 1)) * t.ldw;
  __m256 sums[extent<Rows>][4];
  HIGGS_UNROLL
  for (int r = 0; r < Rows; ++r) HIGGS_UNROLL
  for (int c = 0; c < 4; ++c) sums[r][c] = _mm256_setzero_ps();
  std::int64_t k = 0;
  for (; k + 8 <= t.k; k += 8) {
    __m256 xs[extent<Rows>];
    HIGGS_UNROLL
    for (int r = 0; r < Rows; ++r) xs[r] = _mm256_loadu_ps(x[r] + k);
    HIGGS_UNROLL
    for (int c = 0; c < 4; ++c) {
      const __m256 ws = cpu::load_floats(w[c] + k);
      HIGGS_UNROLL
      for (int r = 0; r < Rows; ++r) sums[r][c] = _mm256_fmadd_ps(xs[r], ws, sums[r][c]);
    }
  }
  if (k < t.k) {
    __m256 xs[extent<Rows>];
    HIGGS_UNROLL
    for (int r = 0; r < Rows; ++r) xs[r] = cpu::load_floats(x[r] + k, t.k - k);
    HIGGS_UNROLL
    for (int c = 0; c < 4; ++c) {
      const __m256 ws = cpu::load_floats(w[c] + k, t.k - k);
      HIGGS_UNROLL
      for (int r = 0; r < Rows; ++r) sums[r][c] = _mm256_fmadd_ps(xs[r], ws, sums[r][c]);
    }
  }
  HIGGS_UNROLL
  for (int r = 0; r < Rows; ++r) {
    alignas(16) float out[4];
    _mm_store_ps(out, reduce4(sums[r][0], sums[r][1], sums[r][2], sums[r][3]));
    HIGGS_UNROLL
    for (int c = 0; c < cols; ++c) t.store(i + r, j + c, out[c]);
  }
}

template <class W>
void tile_product(const TileProduct<W>& t) noexcept {
  for (std::int64_t j = 0; j < t.n; j += 4) {
    std::int64_t i = 0;
    for (; i + 3 <= t.m; i += 3) tile_rows<3>(t, i, j);
    if (t.m - i == 2) tile_rows<2>(t, i, j);
    if (t.m - i == 1) tile_rows<1>(t, i, j);
  }
}

}  // namespace avx2
HIGGS_TARGET_END

HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace avx512 {

// The four sums of four accumulators, one in each lane.
inline __m128 reduce4(__m512 a, __m512 b, __m512 c, __m512 d) noexcept {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 abcd =
      _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))),
                    _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))));
  const __m256 halves = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
  return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
}

// Rows rows of x by up to four rows of w (the last one repeated): 24 accumulators, 4 + 1 operands, 29 registers.
template <int Rows, class W>
inline void tile_rows(const TileProduct<W>& t, std::int64_t i, std::int64_t j) noexcept {
  const int cols = static_cast<int>(std::min<std::int64_t>(4, t.n - j));
  const float* x[extent<Rows>];
  const W* w[4];
  HIGGS_UNROLL
  for (int r = 0; r < Rows; ++r) x[r] = t.x + (i + r) * t.ldx;
  HIGGS_UNROLL
  for (int c = 0; c < 4; ++c) w[c] = t.w + (j + std::min(c, cols - 1)) * t.ldw;
  __m512 sums[extent<Rows>][4];
  HIGGS_UNROLL
  for (int r = 0; r < Rows; ++r) HIGGS_UNROLL
  for (int c = 0; c < 4; ++c) sums[r][c] = _mm512_setzero_ps();
  // The next rows of w, 4 KiB ahead or more: rows are too short for the prefetcher of the machine to notice them.
  constexpr std::int64_t size = sizeof(W);
  const std::int64_t ahead =
      t.ldw * 4 * size * std::max<std::int64_t>(1, 1024 / size / std::max<std::int64_t>(t.k, 1));
  std::int64_t k = 0;
  for (; k + 16 <= t.k; k += 16) {
    __m512 ws[4];
    HIGGS_UNROLL
    for (int c = 0; c < 4; ++c) ws[c] = cpu::load_16_floats(w[c] + k);
    if constexpr (Rows <= 3)  // limited by memory; prefetches beyond the last row do not fault
      for (int c = 0; c < 4; ++c) _mm_prefetch(reinterpret_cast<const char*>(w[c] + k) + ahead, _MM_HINT_T0);
    HIGGS_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const __m512 xs = _mm512_loadu_ps(x[r] + k);
      HIGGS_UNROLL
      for (int c = 0; c < 4; ++c) sums[r][c] = _mm512_fmadd_ps(xs, ws[c], sums[r][c]);
    }
  }
  if (k < t.k) {
    const __mmask16 rest = static_cast<__mmask16>((1u << (t.k - k)) - 1u);
    HIGGS_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const __m512 xs = _mm512_maskz_loadu_ps(rest, x[r] + k);
      HIGGS_UNROLL
      for (int c = 0; c < 4; ++c)
        sums[r][c] = _mm512_fmadd_ps(xs, cpu::load_16_floats(w[c] + k, rest), sums[r][c]);
    }
  }
  HIGGS_UNROLL
  for (int r = 0; r < Rows; ++r) {
    alignas(16) float out[4];
    _mm_store_ps(out, reduce4(sums[r][0], sums[r][1], sums[r][2], sums[r][3]));
    HIGGS_UNROLL
    for (int c = 0; c < cols; ++c) t.store(i + r, j + c, out[c]);
  }
}

template <class W>
void tile_product(const TileProduct<W>& t) noexcept {
  for (std::int64_t j = 0; j < t.n; j += 4) {
    std::int64_t i = 0;
    for (; i + 6 <= t.m; i += 6) tile_rows<6>(t, i, j);
    switch (t.m - i) {
      case 5:
        tile_rows<5>(t, i, j);
        break;
      case 4:
        tile_rows<4>(t, i, j);
        break;
      case 3:
        tile_rows<3>(t, i, j);
        break;
      case 2:
        tile_rows<2>(t, i, j);
        break;
      case 1:
        tile_rows<1>(t, i, j);
        break;
      default:
        break;
    }
  }
}

}  // namespace avx512
HIGGS_TARGET_END
#endif

template <class W>
void tile_product(const TileProduct<W>& t, Isa isa) noexcept {
#if defined(HIGGS_TARGET_BEGIN)
  if (isa_includes(isa, Isa::Avx512)) return avx512::tile_product(t);
  if (isa_includes(isa, Isa::Avx2)) return avx2::tile_product(t);
#endif
  static_cast<void>(isa);
  portable::tile_product(t);
}

/// Inputs that a tile of weights spans at once: 64 rows of them stay within a core's own cache.
inline constexpr std::int64_t tile_depth = 1024;
/// Rows of x that are multiplied while a tile of weights stays in cache.
inline constexpr std::int64_t tile_batch = 96;

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
    for (std::int64_t k = 0; k < std::max<std::int64_t>(x.cols, 1); k += detail::tile_depth)
      for (std::int64_t i = 0; i < x.rows; i += detail::tile_batch)
        detail::tile_product<std::remove_const_t<W>>(
            {x.row(i) + k, x.row_stride, w.row(begin) + k, w.row_stride, y.row(i) + begin, y.row_stride,
             std::min(detail::tile_batch, x.rows - i), end - begin, std::min(detail::tile_depth, x.cols - k),
             k > 0},
            isa);
  });
}

}  // namespace v0
}  // namespace higgs
