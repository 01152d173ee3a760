// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/avx2/signs.hpp>
#include <higgs/cpu/avx512/convert.hpp>
#include <higgs/cpu/avx512/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)

/// 64 of the numbers that load_signed() takes. Not inlined: the hash that makes the signs takes the registers.
template <class T>
[[gnu::noinline]] void load_64_signed(const T* x, const float* scales, std::uint64_t bits,
                                      float* out) noexcept {
  HIGGS_UNROLL for (std::ptrdiff_t i = 0; i < 64; i += 16) {
    __m512 v = load_16_floats(x + i);
    if (scales != nullptr) v = _mm512_mul_ps(v, _mm512_loadu_ps(scales + i));
    v = _mm512_mask_xor_ps(v, static_cast<__mmask16>(bits >> i), v, _mm512_set1_ps(-0.0f));
    _mm512_storeu_ps(out + i, v);
  }
}

template <class T>
inline void load_signed(Avx512, const T* x, const float* scales, std::size_t count,
                        std::optional<std::uint64_t> seed, std::int64_t first_column, float* out) noexcept {
  std::size_t i = 0;
  for (; i + 64 <= count; i += 64)
    load_64_signed(x + i, scales == nullptr ? nullptr : scales + i,
                   seed ? sign_bits(*seed, first_column + static_cast<std::int64_t>(i)) : 0, out + i);
  if (i < count)
    load_signed(Avx2{}, x + i, scales == nullptr ? nullptr : scales + i, count - i, seed,
                first_column + static_cast<std::int64_t>(i), out + i);
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
