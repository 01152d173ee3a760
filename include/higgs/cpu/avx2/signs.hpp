// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/avx2/convert.hpp>
#include <higgs/cpu/avx2/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/signs.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)

/// The sign bits of columns [8 part, 8 part + 8) of 32, as 8 floats that are 0 or -0.
inline __m256 sign_mask(__m256i word, int part) noexcept {
  const __m256i to_top =
      _mm256_sub_epi32(_mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24), _mm256_set1_epi32(8 * part));
  return _mm256_and_ps(_mm256_castsi256_ps(_mm256_sllv_epi32(word, to_top)), _mm256_set1_ps(-0.0f));
}

inline void flip_signs(Avx2, float* x, std::size_t count, std::uint64_t seed,
                       std::int64_t first_column) noexcept {
  std::size_t i = 0;
  for (; i + 64 <= count; i += 64) {
    const std::uint64_t bits = sign_bits(seed, first_column + static_cast<std::int64_t>(i));
    for (std::size_t half = 0; half < 64; half += 32) {
      const __m256i word = _mm256_set1_epi32(static_cast<int>(static_cast<std::uint32_t>(bits >> half)));
      HIGGS_UNROLL for (int part = 0; part < 4; ++part) {
        float* at = x + i + half + 8 * part;
        _mm256_storeu_ps(at, _mm256_xor_ps(_mm256_loadu_ps(at), sign_mask(word, part)));
      }
    }
  }
  if (i < count) flip_signs(Portable{}, x + i, count - i, seed, first_column + static_cast<std::int64_t>(i));
}

template <class T>
inline void load_signed(Avx2, const T* x, const float* scales, std::size_t count,
                        std::optional<std::uint64_t> seed, std::int64_t first_column, float* out) noexcept {
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    __m256 v = load_floats(x + i);
    if (scales != nullptr) v = _mm256_mul_ps(v, _mm256_loadu_ps(scales + i));
    _mm256_storeu_ps(out + i, v);
  }
  if (seed) flip_signs(Avx2{}, out, i, *seed, first_column);
  if (i < count)
    load_signed(Portable{}, x + i, scales == nullptr ? nullptr : scales + i, count - i, seed,
                first_column + static_cast<std::int64_t>(i), out + i);
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
