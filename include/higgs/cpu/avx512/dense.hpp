// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/avx512/convert.hpp>
#include <higgs/cpu/avx512/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/dense.hpp>

#include <algorithm>
#include <cstdint>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
using higgs::detail::extent;
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
inline void multiply_rows(const DenseProduct<W>& t, std::int64_t i, std::int64_t j) noexcept {
  const int cols = static_cast<int>(std::min<std::int64_t>(4, t.n - j));
  const float* x[extent<Rows>];
  const W* w[4];
  HIGGS_UNROLL for (int r = 0; r < Rows; ++r)
    x[r] = t.x + (i + r) * t.ldx;
  HIGGS_UNROLL for (int c = 0; c < 4; ++c)
    w[c] = t.w + (j + std::min(c, cols - 1)) * t.ldw;
  __m512 sums[extent<Rows>][4];
  HIGGS_UNROLL for (int r = 0; r < Rows; ++r) HIGGS_UNROLL
    for (int c = 0; c < 4; ++c) sums[r][c] = _mm512_setzero_ps();
  // The next rows of w, 4 KiB ahead or more: rows are too short for the prefetcher of the machine to notice them.
  constexpr std::int64_t size = sizeof(W);
  const std::int64_t ahead =
      t.ldw * 4 * size * std::max<std::int64_t>(1, 1024 / size / std::max<std::int64_t>(t.k, 1));
  std::int64_t k = 0;
  for (; k + 16 <= t.k; k += 16) {
    __m512 ws[4];
    HIGGS_UNROLL for (int c = 0; c < 4; ++c)
      ws[c] = load_16_floats(w[c] + k);
    if constexpr (Rows <= 3)  // limited by memory; prefetches beyond the last row do not fault
      for (int c = 0; c < 4; ++c) _mm_prefetch(reinterpret_cast<const char*>(w[c] + k) + ahead, _MM_HINT_T0);
    HIGGS_UNROLL for (int r = 0; r < Rows; ++r) {
      const __m512 xs = _mm512_loadu_ps(x[r] + k);
      HIGGS_UNROLL for (int c = 0; c < 4; ++c)
        sums[r][c] = _mm512_fmadd_ps(xs, ws[c], sums[r][c]);
    }
  }
  if (k < t.k) {
    const __mmask16 rest = static_cast<__mmask16>((1u << (t.k - k)) - 1u);
    HIGGS_UNROLL for (int r = 0; r < Rows; ++r) {
      const __m512 xs = _mm512_maskz_loadu_ps(rest, x[r] + k);
      HIGGS_UNROLL for (int c = 0; c < 4; ++c)
        sums[r][c] = _mm512_fmadd_ps(xs, load_16_floats(w[c] + k, rest), sums[r][c]);
    }
  }
  HIGGS_UNROLL for (int r = 0; r < Rows; ++r) {
    alignas(16) float out[4];
    _mm_store_ps(out, reduce4(sums[r][0], sums[r][1], sums[r][2], sums[r][3]));
    HIGGS_UNROLL for (int c = 0; c < cols; ++c)
      t.store(i + r, j + c, out[c]);
  }
}

}  // namespace avx512

template <class W>
void dense_product(Avx512, const DenseProduct<W>& t) noexcept {
  for (std::int64_t j = 0; j < t.n; j += 4) {
    std::int64_t i = 0;
    for (; i + 6 <= t.m; i += 6) avx512::multiply_rows<6>(t, i, j);
    switch (t.m - i) {
      case 5:
        avx512::multiply_rows<5>(t, i, j);
        break;
      case 4:
        avx512::multiply_rows<4>(t, i, j);
        break;
      case 3:
        avx512::multiply_rows<3>(t, i, j);
        break;
      case 2:
        avx512::multiply_rows<2>(t, i, j);
        break;
      case 1:
        avx512::multiply_rows<1>(t, i, j);
        break;
      default:
        break;
    }
  }
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
