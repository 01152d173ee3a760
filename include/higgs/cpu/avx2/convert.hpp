// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/core/half.hpp>
#include <higgs/cpu/avx2/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/convert.hpp>

#include <algorithm>
#include <cstdint>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)

inline __m256 load_floats(const float* x) noexcept { return _mm256_loadu_ps(x); }
inline __m256 load_floats(const Half* x) noexcept {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
}
inline __m256 load_floats(const BFloat16* x) noexcept {
  const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}
/// `count` < 8 floats, then zeros.
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
inline void to_floats(Avx2, const T* x, std::int64_t count, float* out) noexcept {
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) _mm256_storeu_ps(out + i, load_floats(x + i));
  for (; i < count; ++i) out[i] = static_cast<float>(x[i]);
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
