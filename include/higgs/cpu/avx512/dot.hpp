// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/avx512/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/dot.hpp>

#include <array>
#include <cstddef>
#include <cstdint>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)

/// 16 numbers as doubles, in two registers.
inline void load_doubles(const float* p, __m512d* out) noexcept {
  out[0] = _mm512_cvtps_pd(_mm256_loadu_ps(p));
  out[1] = _mm512_cvtps_pd(_mm256_loadu_ps(p + 8));
}
inline void load_doubles(const std::int16_t* p, __m512d* out) noexcept {
  const auto* from = reinterpret_cast<const __m128i*>(p);
  out[0] = _mm512_cvtepi32_pd(_mm256_cvtepi16_epi32(_mm_loadu_si128(from)));
  out[1] = _mm512_cvtepi32_pd(_mm256_cvtepi16_epi32(_mm_loadu_si128(from + 1)));
}
inline void load_doubles(const std::int8_t* p, __m512d* out) noexcept {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  out[0] = _mm512_cvtepi32_pd(_mm256_cvtepi8_epi32(bytes));
  out[1] = _mm512_cvtepi32_pd(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes)));
}

template <class A, class B>
inline double strided_dot(Avx512, const A* a, const B* b, std::size_t count) noexcept {
  __m512d total[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    __m512d x[2], y[2];
    load_doubles(a + i, x);
    load_doubles(b + i, y);
    HIGGS_UNROLL for (int half = 0; half < 2; ++half)
      total[half] = _mm512_fmadd_pd(x[half], y[half], total[half]);
  }
  std::array<double, 16> sums;
  _mm512_storeu_pd(sums.data(), total[0]);
  _mm512_storeu_pd(sums.data() + 8, total[1]);
  return strided_dot(Portable{}, a + i, b + i, count - i, sums);
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
