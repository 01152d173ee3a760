// SPDX-License-Identifier: Apache-2.0
// A table of bytes in vector registers, looked up for 64 bytes at a time, and one of words in memory.
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/avx512/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)

/// table[index[i]] for each of 16 indices.
inline __m512i gather(__m512i index, const void* table) noexcept {
  // Without optimization the instruction is a macro, of which g++ would warn.
#  pragma GCC diagnostic push
#  pragma GCC diagnostic ignored "-Wsign-conversion"
  return _mm512_i32gather_epi32(index, table, 4);
#  pragma GCC diagnostic pop
}

/// The first `Size` of 256 bytes in as few registers as hold them.
template <int Size>
struct ByteTable {
  static_assert(Size >= 1 && Size <= 256);
  __m512i part[4];

  inline explicit ByteTable(const void* bytes) noexcept {
    HIGGS_UNROLL for (int i = 0; i < 4; ++i)
      part[i] = _mm512_loadu_si512(static_cast<const char*>(bytes) + (64 * i < Size ? 64 * i : 0));
  }
  /// Byte i of the result is entry index[i], index[i] < Size.
  inline __m512i operator[](__m512i index) const noexcept {
    if constexpr (Size <= 64) return _mm512_permutexvar_epi8(index, part[0]);
    const __m512i lower = _mm512_permutex2var_epi8(part[0], index, part[1]);
    if constexpr (Size <= 128) return lower;
    const __m512i upper = _mm512_permutex2var_epi8(part[2], index, part[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), lower, upper);
  }
};

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
