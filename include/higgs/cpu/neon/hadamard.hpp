// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/neon/isa.hpp>
#include <higgs/cpu/portable/hadamard.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>

#if defined(HIGGS_NEON)

namespace higgs {
inline namespace v0 {
namespace cpu {
namespace hadamard_neon {
using Vector = float32x4_t;
inline constexpr int lanes = 4, radix = 16, base_rows = 20;
inline constexpr bool fused = false;
inline Vector load(const float* x) { return vld1q_f32(x); }
inline void store(float* x, Vector v) { vst1q_f32(x, v); }
inline Vector splat(float x) { return vdupq_n_f32(x); }
inline Vector opaque_one() { return splat(1.0f); }
inline Vector multiply(Vector a, Vector b) { return vmulq_f32(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
inline Vector multiply_subtract(Vector a, Vector b, Vector c) { return vfmsq_f32(c, a, b); }
[[gnu::always_inline]] inline Vector inside(Vector x) {
  const Vector by1 = {1, -1, 1, -1}, by2 = {1, 1, -1, -1};
  x = vfmaq_f32(vrev64q_f32(x), x, by1);
  return vfmaq_f32(vextq_f32(x, x, 2), x, by2);
}
#  include <higgs/cpu/hadamard_passes.inc>
}  // namespace hadamard_neon

/// Runs that do not fill a register are left to the set below.
inline void transform_blocks(Neon, float* x, std::ptrdiff_t count, const HadamardShape& shape,
                             float scale) noexcept {
  if (shape.run < hadamard_neon::lanes) return transform_blocks(Portable{}, x, count, shape, scale);
  hadamard_neon::transform_blocks(x, count, shape, scale);
}

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
