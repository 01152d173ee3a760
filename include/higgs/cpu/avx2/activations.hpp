// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/avx2/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/activations.hpp>

#include <algorithm>
#include <cstdint>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)
namespace avx2::rounding {

[[gnu::always_inline]] inline __m128i load_shuffle(const std::uint8_t* order) noexcept {
  return _mm_load_si128(reinterpret_cast<const __m128i*>(order));
}

/// The bytes that store_quads() takes, from the high and low bytes of 16 integers; low bytes are signed.
[[gnu::always_inline]] inline void join_planes(const ActivationShape& shape, ActivationOrder order,
                                               __m128i high, __m128i low, std::uint8_t* quads) noexcept {
  __m128i first = high, second = low;
  if (order == ActivationOrder::Words) {
    const __m128i swap = load_shuffle(word_shuffle);
    high = _mm_shuffle_epi8(_mm_add_epi8(high, _mm_cmpgt_epi8(_mm_setzero_si128(), low)), swap);
    low = _mm_shuffle_epi8(low, swap);
    first = _mm_unpacklo_epi8(low, high);
    second = _mm_unpackhi_epi8(low, high);
  } else if (joins_planes(shape, order)) {
    first = _mm_unpacklo_epi32(high, low);
    second = _mm_unpackhi_epi32(high, low);
  }
  _mm_store_si128(reinterpret_cast<__m128i*>(quads), first);
  _mm_store_si128(reinterpret_cast<__m128i*>(quads + 16), second);
}

using Set = Avx2;

struct Inputs {
  alignas(32) float x[chunk_inputs + 16];  // zeros after the last input
  std::int64_t padded;

  Inputs(const float* from, std::int64_t count, std::int64_t padded_count, int dim) noexcept
      : padded(padded_count) {
    std::copy_n(from, count, x);
    std::fill(x + count, x + (padded + 15) / 16 * 16, 0.0f);
    if (dim == 8) split_indices(x, padded);
  }
  std::uint32_t peak() const noexcept {
    const __m256i no_sign = _mm256_set1_epi32(0x7fffffff);
    __m256i magnitude = _mm256_setzero_si256();
    for (std::int64_t i = 0; i < padded; i += 8)
      magnitude =
          _mm256_max_epu32(magnitude, _mm256_and_si256(_mm256_castps_si256(_mm256_load_ps(x + i)), no_sign));
    alignas(32) std::uint32_t peaks[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(peaks), magnitude);
    return *std::max_element(peaks, peaks + 8);
  }
};

struct Rounder {
  __m256 inverse;
  __m256i real, total = _mm256_setzero_si256();
  __m128i shuffle;

  [[gnu::always_inline]] inline Rounder(float factor, int dim) noexcept
      : inverse(_mm256_set1_ps(factor)),
        real(_mm256_set1_epi32(factor != 0.0f ? -1 : 0)),
        shuffle(load_shuffle(quad_shuffle(dim))) {}

  [[gnu::always_inline]] inline void round(const Inputs& inputs, std::int64_t i, const ActivationShape& shape,
                                           ActivationOrder order, std::uint8_t* quads) noexcept {
    const __m256i low_byte = _mm256_set1_epi32(255);
    __m256i low[2], high[2];
    HIGGS_UNROLL for (int j = 0; j < 2; ++j) {
      const __m256 scaled = _mm256_mul_ps(_mm256_load_ps(inputs.x + i + 8 * j), inverse);
      const __m256i q = _mm256_and_si256(_mm256_cvtps_epi32(scaled), real);
      total = _mm256_add_epi32(total, q);
      low[j] = _mm256_and_si256(q, low_byte);
      high[j] = _mm256_and_si256(_mm256_srai_epi32(_mm256_add_epi32(q, _mm256_set1_epi32(128)), 8), low_byte);
    }
    const __m256i bytes = _mm256_permutevar8x32_epi32(
        _mm256_packus_epi16(_mm256_packus_epi32(low[0], low[1]), _mm256_packus_epi32(high[0], high[1])),
        _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    join_planes(shape, order, _mm_shuffle_epi8(_mm256_extracti128_si256(bytes, 1), shuffle),
                _mm_shuffle_epi8(_mm256_castsi256_si128(bytes), shuffle), quads);
  }
  std::uint32_t sum() const noexcept {
    alignas(32) std::uint32_t sums[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums), total);
    std::uint32_t all = 0;
    for (const std::uint32_t each : sums) all += each;
    return all;
  }
};

#  include <higgs/cpu/quantize_row.inc>

}  // namespace avx2::rounding
using avx2::rounding::quantize_row;

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
