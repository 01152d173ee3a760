// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/avx512/byte_table.hpp>
#include <higgs/cpu/avx512/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/plane_search.hpp>

#include <cstdint>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)

template <int Size>
inline bool search_plane(Avx512, const SizedPlaneTable<Size>& table, const float* fixed,
                         std::uint8_t* codes) noexcept {
  const ByteTable<Size> xs(table.x.data()), ys(table.y.data());
  const std::uint32_t* cells = table.cells.data() + PlaneTable::center;
  const __m512i high_bytes = _mm512_set1_epi16(static_cast<short>(0xff00));
  // Packing works within 128 bits: vectors 0, 1, 8, 9 | 2, 3, 10, 11 | ...; this puts their low bytes in order.
  alignas(16) static constexpr std::uint8_t bytes[16] = {0, 4,  16, 20, 32, 36, 48, 52,
                                                         8, 12, 24, 28, 40, 44, 56, 60};
  const __m512i order = _mm512_castsi128_si512(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
  unsigned bad = 0;
  for (int i = 0; i < search_batch; i += 16) {
    const __m512i xy = _mm512_packs_epi32(_mm512_cvtps_epi32(_mm512_loadu_ps(fixed + 2 * i)),
                                          _mm512_cvtps_epi32(_mm512_loadu_ps(fixed + 2 * i + 16)));
    const __m512i yx = _mm512_rol_epi32(xy, 16);
    // Doubling saturates, which clamps to the rim.
    const __m512i cell =
        _mm512_madd_epi16(_mm512_srai_epi16(_mm512_adds_epi16(xy, xy), PlaneTable::cell_bits + 1),
                          _mm512_set1_epi32(PlaneTable::side << 16 | 1));
    const __m512i near = gather(cell, cells);
    bad |= _mm512_cmpeq_epi32_mask(near, _mm512_set1_epi32(PlaneTable::crowded)) |
           _mm512_cmpgt_epu16_mask(_mm512_abs_epi16(xy), _mm512_set1_epi16(PlaneTable::far));
    // The coordinates of all four points: x of 2, 3, 0, 1 and y of 0, 1, 2, 3. Blended to x2 x3 y2 y3 and
    // y0 y1 x0 x1, their odd bytes are a point times 256, and their even bytes become one when shifted.
    const __m512i x = xs[_mm512_rol_epi32(near, 16)], y = ys[near];
    const __m512i upper = _mm512_mask_blend_epi16(0xaaaaaaaa, x, y);
    const __m512i lower = _mm512_mask_blend_epi16(0xaaaaaaaa, y, x);
    const __m512i c[4] = {_mm512_slli_epi16(lower, 8), _mm512_and_si512(lower, high_bytes),
                          _mm512_slli_epi16(upper, 8), _mm512_and_si512(upper, high_bytes)};
    __m512i score[4];
    HIGGS_UNROLL for (int place = 0; place < 4; ++place)
      score[place] = _mm512_dpwssd_epi32(
          _mm512_set1_epi32(place), _mm512_sub_epi16(place < 2 ? yx : xy, _mm512_srai_epi16(c[place], 2)),
          c[place]);
    const __m512i best =
        _mm512_max_epi32(_mm512_max_epi32(score[0], score[1]), _mm512_max_epi32(score[2], score[3]));
    const __m512i shift = _mm512_slli_epi32(_mm512_and_si512(best, _mm512_set1_epi32(3)), 3);
    const __m512i found = _mm512_permutexvar_epi8(order, _mm512_srlv_epi32(near, shift));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), _mm512_castsi512_si128(found));
  }
  return bad == 0;
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
