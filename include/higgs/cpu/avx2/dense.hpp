// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/avx2/convert.hpp>
#include <higgs/cpu/avx2/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/dense.hpp>

#include <algorithm>
#include <cstdint>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
using higgs::detail::extent;
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
inline void multiply_rows(const DenseProduct<W>& t, std::int64_t i, std::int64_t j) noexcept {
  const int cols = static_cast<int>(std::min<std::int64_t>(4, t.n - j));
  const float* x[extent<Rows>];
  const W* w[4];
  HIGGS_UNROLL for (int r = 0; r < Rows; ++r)
    x[r] = t.x + (i + r) * t.ldx;
  HIGGS_UNROLL for (int c = 0; c < 4; ++c)
    w[c] = t.w + (j + std::min(c, cols - 1)) * t.ldw;
  __m256 sums[extent<Rows>][4];
  HIGGS_UNROLL for (int r = 0; r < Rows; ++r) HIGGS_UNROLL
    for (int c = 0; c < 4; ++c) sums[r][c] = _mm256_setzero_ps();
  std::int64_t k = 0;
  for (; k + 8 <= t.k; k += 8) {
    __m256 xs[extent<Rows>];
    HIGGS_UNROLL for (int r = 0; r < Rows; ++r)
      xs[r] = _mm256_loadu_ps(x[r] + k);
    HIGGS_UNROLL for (int c = 0; c < 4; ++c) {
      const __m256 ws = load_floats(w[c] + k);
      HIGGS_UNROLL for (int r = 0; r < Rows; ++r)
        sums[r][c] = _mm256_fmadd_ps(xs[r], ws, sums[r][c]);
    }
  }
  if (k < t.k) {
    __m256 xs[extent<Rows>];
    HIGGS_UNROLL for (int r = 0; r < Rows; ++r)
      xs[r] = load_floats(x[r] + k, t.k - k);
    HIGGS_UNROLL for (int c = 0; c < 4; ++c) {
      const __m256 ws = load_floats(w[c] + k, t.k - k);
      HIGGS_UNROLL for (int r = 0; r < Rows; ++r)
        sums[r][c] = _mm256_fmadd_ps(xs[r], ws, sums[r][c]);
    }
  }
  HIGGS_UNROLL for (int r = 0; r < Rows; ++r) {
    alignas(16) float out[4];
    _mm_store_ps(out, reduce4(sums[r][0], sums[r][1], sums[r][2], sums[r][3]));
    HIGGS_UNROLL for (int c = 0; c < cols; ++c)
      t.store(i + r, j + c, out[c]);
  }
}

}  // namespace avx2

template <class W>
void dense_product(Avx2, const DenseProduct<W>& t) noexcept {
  for (std::int64_t j = 0; j < t.n; j += 4) {
    std::int64_t i = 0;
    for (; i + 3 <= t.m; i += 3) avx2::multiply_rows<3>(t, i, j);
    if (t.m - i == 2) avx2::multiply_rows<2>(t, i, j);
    if (t.m - i == 1) avx2::multiply_rows<1>(t, i, j);
  }
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
