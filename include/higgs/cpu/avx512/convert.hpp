// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/core/half.hpp>
#include <higgs/cpu/avx512/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)

inline __m512 load_16_floats(const float* x) noexcept { return _mm512_loadu_ps(x); }
inline __m512 load_16_floats(const Half* x) noexcept {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
}
inline __m512 load_16_floats(const BFloat16* x) noexcept {
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}
/// The floats whose bit is set in `which`, zeros elsewhere.
inline __m512 load_16_floats(const float* x, __mmask16 which) noexcept {
  return _mm512_maskz_loadu_ps(which, x);
}
inline __m512 load_16_floats(const Half* x, __mmask16 which) noexcept {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(which, x));
}
inline __m512 load_16_floats(const BFloat16* x, __mmask16 which) noexcept {
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(which, x));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
