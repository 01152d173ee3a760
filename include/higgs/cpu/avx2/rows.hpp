// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/avx2/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/rows.hpp>

#include <cstddef>
#include <cstdint>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)

inline void round_clamped(Avx2, const float* x, std::size_t count, float factor, float limit,
                          float* out) noexcept {
  const __m256 low = _mm256_set1_ps(-limit), high = _mm256_set1_ps(limit);
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(factor));
    const __m256 clamped = _mm256_min_ps(_mm256_max_ps(scaled, low), high);
    _mm256_storeu_ps(out + i, _mm256_round_ps(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  round_clamped(Portable{}, x + i, count - i, factor, limit, out + i);
}

inline void subtract_scaled(Avx2, const float* x, const std::int8_t* q, std::size_t count, float scale,
                            float* out) noexcept {
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(q + i));
    const __m256 points = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
    _mm256_storeu_ps(out + i,
                     _mm256_sub_ps(_mm256_loadu_ps(x + i), _mm256_mul_ps(points, _mm256_set1_ps(scale))));
  }
  subtract_scaled(Portable{}, x + i, q + i, count - i, scale, out + i);
}

inline void multiply_by(Avx2, float* x, const float* factors, std::size_t count) noexcept {
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8)
    _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(factors + i)));
  multiply_by(Portable{}, x + i, factors + i, count - i);
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
