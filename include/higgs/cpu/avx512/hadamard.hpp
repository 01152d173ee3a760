// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/avx2/hadamard.hpp>
#include <higgs/cpu/avx512/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/hadamard.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)

namespace hadamard_avx512 {
using Vector = __m512;
inline constexpr int lanes = 16, radix = 16, base_rows = 20;
inline constexpr bool fused = true;
inline Vector load(const float* x) { return _mm512_loadu_ps(x); }
inline void store(float* x, Vector v) { _mm512_storeu_ps(x, v); }
inline Vector splat(float x) { return _mm512_set1_ps(x); }
inline Vector opaque_one() {
  Vector one = splat(1.0f);
  asm("" : "+v"(one));
  return one;
}
inline Vector multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline Vector multiply_subtract(Vector a, Vector b, Vector c) { return _mm512_fnmadd_ps(a, b, c); }
[[gnu::always_inline]] inline Vector inside(Vector x) {
  const Vector by1 = {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1};
  const Vector by2 = {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1};
  const Vector by4 = {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1};
  const Vector by8 = {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1};
  x = _mm512_fmadd_ps(x, by1, _mm512_permute_ps(x, 0xb1));
  x = _mm512_fmadd_ps(x, by2, _mm512_permute_ps(x, 0x4e));
  x = _mm512_fmadd_ps(x, by4, _mm512_shuffle_f32x4(x, x, 0xb1));
  return _mm512_fmadd_ps(x, by8, _mm512_shuffle_f32x4(x, x, 0x4e));
}
#  include <higgs/cpu/hadamard_passes.inc>
}  // namespace hadamard_avx512

/// Runs that do not fill a register are left to the set below.
inline void transform_blocks(Avx512, float* x, std::ptrdiff_t count, const HadamardShape& shape,
                             float scale) noexcept {
  if (shape.run < hadamard_avx512::lanes) return transform_blocks(Avx2{}, x, count, shape, scale);
  hadamard_avx512::transform_blocks(x, count, shape, scale);
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
