// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/codes/e8/search_portable.hpp>
#include <higgs/config.hpp>
#include <higgs/cpu/avx2/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)

// 8 vectors, then 8 more: z and its signs take the registers.
inline void search_e8(Avx2, const E8Patterns& patterns, const float* fixed, std::int32_t* found) noexcept {
  alignas(32) float y[8][E8Patterns::batch];
  for (int i = 0; i < E8Patterns::batch; ++i)
    for (int d = 0; d < 8; ++d) y[d][i] = fixed[8 * i + d];
  for (int half = 0; half < E8Patterns::batch; half += 8) {
    __m256 best = _mm256_set1_ps(std::numeric_limits<float>::lowest());
    __m256i chosen = _mm256_setzero_si256();
    for (int side = 0; side < 2; ++side) {
      const float sign = side == 0 ? 1.0f : -1.0f;
      __m256 z[8], base = _mm256_setzero_ps(), parity = _mm256_setzero_ps();
      HIGGS_UNROLL for (int d = 0; d < 8; ++d) {
        const __m256 at = _mm256_load_ps(y[d] + half);
        z[d] = _mm256_sub_ps(at, _mm256_set1_ps(sign * E8Patterns::shift));
        base = _mm256_fmadd_ps(at, _mm256_set1_ps(sign * higgs::detail::e8_shift), base);
        parity = _mm256_xor_ps(parity, z[d]);  // its top bit
        z[d] = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), z[d]);
      }
      for (int k = 0; k < E8Patterns::count; ++k) {
        const float* magnitudes = patterns.magnitudes[static_cast<std::size_t>(k)].data();
        __m256 score =
            _mm256_sub_ps(base, _mm256_broadcast_ss(&patterns.half_norms[static_cast<std::size_t>(k)]));
        __m256 least = _mm256_mul_ps(z[0], _mm256_broadcast_ss(magnitudes));
        score = _mm256_add_ps(score, least);
        HIGGS_UNROLL for (int d = 1; d < 8; ++d) {
          const __m256 product = _mm256_mul_ps(z[d], _mm256_broadcast_ss(magnitudes + d));
          score = _mm256_add_ps(score, product);
          least = _mm256_min_ps(least, product);
        }
        const __m256 wrong =
            k < E8Patterns::count / 2 ? parity : _mm256_xor_ps(parity, _mm256_set1_ps(-0.0f));
        const __m256 loss = _mm256_blendv_ps(_mm256_setzero_ps(), _mm256_add_ps(least, least), wrong);
        const __m256 total = _mm256_sub_ps(score, loss);
        const __m256 better = _mm256_cmp_ps(total, best, _CMP_GT_OQ);
        chosen = _mm256_blendv_epi8(chosen, _mm256_set1_epi32(side * E8Patterns::count + k),
                                    _mm256_castps_si256(better));
        best = _mm256_max_ps(best, total);
      }
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(found + half), chosen);
  }
}

inline void encode_e8(Avx2 set, const E8Patterns& patterns, const float* fixed,
                      std::uint16_t* codes) noexcept {
  encode_e8_by_patterns(set, patterns, fixed, codes);
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
