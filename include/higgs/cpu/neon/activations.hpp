// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/neon/isa.hpp>
#include <higgs/cpu/portable/activations.hpp>

#include <algorithm>
#include <cstdint>

#if defined(HIGGS_NEON)

namespace higgs {
inline namespace v0 {
namespace cpu {
namespace neon::rounding {

using Set = Neon;

struct Inputs {
  float x[chunk_inputs + 16];  // zeros after the last input
  std::int64_t padded;

  Inputs(const float* from, std::int64_t count, std::int64_t padded_count, int dim) noexcept
      : padded(padded_count) {
    std::copy_n(from, count, x);
    std::fill(x + count, x + (padded + 15) / 16 * 16, 0.0f);
    if (dim == 8) split_indices(x, padded);
  }
  std::uint32_t peak() const noexcept {
    uint32x4_t magnitude = vdupq_n_u32(0);
    for (std::int64_t i = 0; i < padded; i += 4)
      magnitude =
          vmaxq_u32(magnitude, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i)), vdupq_n_u32(0x7fffffff)));
    return vmaxvq_u32(magnitude);
  }
};

struct Rounder {
  float inverse;
  int32x4_t real, total = vdupq_n_s32(0);
  uint8x16_t shuffle, swap = vld1q_u8(word_shuffle);

  Rounder(float factor, int dim) noexcept
      : inverse(factor), real(vdupq_n_s32(factor != 0.0f ? -1 : 0)), shuffle(vld1q_u8(quad_shuffle(dim))) {}

  [[gnu::always_inline]] inline void round(const Inputs& inputs, std::int64_t i, const ActivationShape& shape,
                                           ActivationOrder order, std::uint8_t* quads) noexcept {
    const bool words = order == ActivationOrder::Words;
    int16x4_t parts[4];
    HIGGS_UNROLL for (int j = 0; j < 4; ++j) {
      const float32x4_t scaled = vmulq_n_f32(vld1q_f32(inputs.x + i + 4 * j), inverse);
      const int32x4_t q = vandq_s32(vcvtnq_s32_f32(scaled), real);
      total = vaddq_s32(total, q);
      parts[j] = vmovn_s32(q);
    }
    const int16x8_t q0 = vcombine_s16(parts[0], parts[1]), q1 = vcombine_s16(parts[2], parts[3]);
    // Words keep their high bytes; a high plane adds the carry of a signed low byte.
    const int16x8_t bias = vdupq_n_s16(words ? 0 : 128);
    uint8x16_t low = vuzp1q_u8(vreinterpretq_u8_s16(q0), vreinterpretq_u8_s16(q1));
    uint8x16_t high =
        vuzp2q_u8(vreinterpretq_u8_s16(vaddq_s16(q0, bias)), vreinterpretq_u8_s16(vaddq_s16(q1, bias)));
    low = vqtbl1q_u8(low, shuffle);
    high = vqtbl1q_u8(high, shuffle);
    uint8x16_t pair[2] = {high, low};
    if (words) {
      low = vqtbl1q_u8(low, swap);
      high = vqtbl1q_u8(high, swap);
      pair[0] = vzip1q_u8(low, high);
      pair[1] = vzip2q_u8(low, high);
    } else if (joins_planes(shape, order)) {
      pair[0] = vreinterpretq_u8_u32(vzip1q_u32(vreinterpretq_u32_u8(high), vreinterpretq_u32_u8(low)));
      pair[1] = vreinterpretq_u8_u32(vzip2q_u32(vreinterpretq_u32_u8(high), vreinterpretq_u32_u8(low)));
    }
    vst1q_u8(quads, pair[0]);
    vst1q_u8(quads + 16, pair[1]);
  }
  std::uint32_t sum() const noexcept { return static_cast<std::uint32_t>(vaddvq_s32(total)); }
};

#  include <higgs/cpu/quantize_row.inc>

}  // namespace neon::rounding
using neon::rounding::quantize_row;

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
