// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/avx2/activations.hpp>
#include <higgs/cpu/avx512/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/activations.hpp>

#include <algorithm>
#include <cstdint>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace avx512::rounding {

using Set = Avx512;

struct Inputs {
  const float* x;
  std::int64_t count;
  int dim;

  [[gnu::always_inline]] inline Inputs(const float* from, std::int64_t inputs, std::int64_t,
                                       int dimension) noexcept
      : x(from), count(inputs), dim(dimension) {}
  /// Inputs i ... i + 15 in memory order, zeros from `count` on.
  [[gnu::always_inline]] inline __m512 load(std::int64_t i) const noexcept {
    const std::int64_t rest = count - i;
    if (rest >= 16) return _mm512_loadu_ps(x + i);
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>(rest > 0 ? (1u << rest) - 1u : 0u), x + i);
  }
  /// The same in the order of split_indices().
  [[gnu::always_inline]] inline __m512 load_split(std::int64_t i) const noexcept {
    if (dim != 8) return load(i);
    const __m512 a = load(i / 32 * 32), b = load(i / 32 * 32 + 16);
    return i % 32 == 0 ? _mm512_shuffle_f32x4(a, b, 0x88) : _mm512_shuffle_f32x4(a, b, 0xdd);
  }
  [[gnu::always_inline]] inline std::uint32_t peak() const noexcept {
    __m512i magnitude = _mm512_setzero_si512();
    for (std::int64_t i = 0; i < count; i += 16)
      magnitude = _mm512_max_epu32(
          magnitude, _mm512_and_si512(_mm512_castps_si512(load(i)), _mm512_set1_epi32(0x7fffffff)));
    return _mm512_reduce_max_epu32(magnitude);
  }
};

struct Rounder {
  __m512 inverse;
  __mmask16 real;
  __m512i total = _mm512_setzero_si512();
  __m128i shuffle;

  [[gnu::always_inline]] inline Rounder(float factor, int dim) noexcept
      : inverse(_mm512_set1_ps(factor)),
        real(factor != 0.0f ? 0xffff : 0),
        shuffle(avx2::rounding::load_shuffle(quad_shuffle(dim))) {}

  [[gnu::always_inline]] inline void round(const Inputs& inputs, std::int64_t i, const ActivationShape& shape,
                                           ActivationOrder order, std::uint8_t* quads) noexcept {
    const __m512i q = _mm512_maskz_cvtps_epi32(real, _mm512_mul_ps(inputs.load_split(i), inverse));
    total = _mm512_add_epi32(total, q);
    const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8);
    avx2::rounding::join_planes(shape, order, _mm_shuffle_epi8(_mm512_cvtepi32_epi8(high), shuffle),
                                _mm_shuffle_epi8(_mm512_cvtepi32_epi8(q), shuffle), quads);
  }
  [[gnu::always_inline]] inline std::uint32_t sum() const noexcept {
    return static_cast<std::uint32_t>(_mm512_reduce_add_epi32(total));
  }
};

#  include <higgs/cpu/quantize_row.inc>

}  // namespace avx512::rounding
using avx512::rounding::quantize_row;

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
