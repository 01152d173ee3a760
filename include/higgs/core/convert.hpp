// SPDX-License-Identifier: Apache-2.0
// Runs of 16-bit numbers as floats, by vectors where the processor has them.
#pragma once

#include <higgs/core/concepts.hpp>
#include <higgs/core/cpu.hpp>
#include <higgs/core/half.hpp>

#include <algorithm>
#include <cstdint>

#if defined(HIGGS_TARGET_BEGIN)
#  include <immintrin.h>
#endif

namespace higgs {
inline namespace v0 {

namespace detail {

#if defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)
inline __m256 load_floats(const float* x) noexcept { return _mm256_loadu_ps(x); }
inline __m256 load_floats(const Half* x) noexcept {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
}
inline __m256 load_floats(const BFloat16* x) noexcept {
  const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}
/// The first `count` < 8, zeros behind them.
inline __m256 load_floats(const float* x, std::int64_t count) noexcept {
  alignas(32) static constexpr std::int32_t window[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_maskload_ps(x, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(window + 8 - count)));
}
template <class T>
inline __m256 load_floats(const T* x, std::int64_t count) noexcept {
  alignas(32) T part[8] = {};
  std::copy_n(x, count, part);
  return load_floats(part);
}
template <class T>
inline std::int64_t to_floats_avx2(const T* x, std::int64_t count, float* out) noexcept {
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) _mm256_storeu_ps(out + i, load_floats(x + i));
  return i;
}
HIGGS_TARGET_END

HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
inline __m512 load_16_floats(const float* x) noexcept { return _mm512_loadu_ps(x); }
inline __m512 load_16_floats(const Half* x) noexcept {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
}
inline __m512 load_16_floats(const BFloat16* x) noexcept {
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}
/// Those whose bit is set in `which`, zeros elsewhere.
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
#endif

}  // namespace detail

/// out[i] = x[i], exactly, for `count` numbers. A signalling NaN may come out quiet.
template <Scalar T>
void to_floats(const T* x, std::int64_t count, float* out, Isa isa = best_isa()) noexcept {
  if constexpr (sizeof(T) == sizeof(float)) {
    std::copy_n(x, count, out);
  } else {
    std::int64_t i = 0;
#if defined(HIGGS_TARGET_BEGIN)
    if (isa >= Isa::Avx2) i = detail::to_floats_avx2(x, count, out);
#endif
    for (; i < count; ++i) out[i] = static_cast<float>(x[i]);
  }
  static_cast<void>(isa);
}

}  // namespace v0
}  // namespace higgs
