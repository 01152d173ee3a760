// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/avx2/isa.hpp>
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
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)

namespace hadamard_avx2 {
using Vector = __m256;
inline constexpr int lanes = 8, radix = 8, base_rows = 6;
inline constexpr bool fused = true;
inline Vector load(const float* x) { return _mm256_loadu_ps(x); }
inline void store(float* x, Vector v) { _mm256_storeu_ps(x, v); }
inline Vector splat(float x) { return _mm256_set1_ps(x); }
inline Vector opaque_one() {
  Vector one = splat(1.0f);
  asm("" : "+x"(one));  // or compilers turn FMAs with it into additions
  return one;
}
inline Vector multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
inline Vector multiply_subtract(Vector a, Vector b, Vector c) { return _mm256_fnmadd_ps(a, b, c); }
[[gnu::always_inline]] inline Vector inside(Vector x) {
  const Vector by1 = {1, -1, 1, -1, 1, -1, 1, -1}, by2 = {1, 1, -1, -1, 1, 1, -1, -1};
  const Vector by4 = {1, 1, 1, 1, -1, -1, -1, -1};
  x = _mm256_fmadd_ps(x, by1, _mm256_permute_ps(x, 0xb1));
  x = _mm256_fmadd_ps(x, by2, _mm256_permute_ps(x, 0x4e));
  return _mm256_fmadd_ps(x, by4, _mm256_permute2f128_ps(x, x, 1));
}
#  include <higgs/cpu/hadamard_passes.inc>
}  // namespace hadamard_avx2

/// Runs that do not fill a register are left to the set below.
inline void transform_blocks(Avx2, float* x, std::ptrdiff_t count, const HadamardShape& shape,
                             float scale) noexcept {
  if (shape.run < hadamard_avx2::lanes) return transform_blocks(Portable{}, x, count, shape, scale);
  hadamard_avx2::transform_blocks(x, count, shape, scale);
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
