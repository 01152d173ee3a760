// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/avx2/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/plane_search.hpp>

#include <cstdint>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)

inline bool search_plane(Avx2, const PlaneTable& table, const float* fixed, std::uint8_t* codes) noexcept {
  const auto* cells = reinterpret_cast<const int*>(table.cells.data()) + PlaneTable::center;
  const auto* points = reinterpret_cast<const __m128i*>(table.points.data()) + PlaneTable::center;
  const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 0, 1, 2, 3);
  __m256i bad = _mm256_setzero_si256();
  for (int i = 0; i < search_batch; i += 8) {
    // Packing works within 128 bits: vectors 0, 1, 4, 5 | 2, 3, 6, 7, as pairs of int16.
    const __m256i xy = _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_loadu_ps(fixed + 2 * i)),
                                          _mm256_cvtps_epi32(_mm256_loadu_ps(fixed + 2 * i + 8)));
    // Doubling saturates, which clamps to the rim.
    const __m256i cell =
        _mm256_madd_epi16(_mm256_srai_epi16(_mm256_adds_epi16(xy, xy), PlaneTable::cell_bits + 1),
                          _mm256_set1_epi32(PlaneTable::side << 16 | 1));
    const __m256i near = _mm256_i32gather_epi32(cells, cell, 4);
    bad = _mm256_or_si256(bad, _mm256_cmpeq_epi32(near, _mm256_set1_epi32(PlaneTable::crowded)));
    bad = _mm256_or_si256(bad, _mm256_subs_epu16(_mm256_abs_epi16(xy), _mm256_set1_epi16(PlaneTable::far)));
    alignas(32) std::int32_t at[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(at), cell);
    __m256i scores[4];  // scores[j]: the four of lane j, then those of lane 4 + j
    HIGGS_UNROLL for (int j = 0; j < 4; ++j) {
      const __m256i c = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(points + at[j])),
                                                _mm_loadu_si128(points + at[4 + j]), 1);
      const __m256i y = _mm256_shuffle_epi8(xy, _mm256_set1_epi32(0x03020100 + 0x04040404 * j));
      scores[j] =
          _mm256_add_epi32(_mm256_madd_epi16(_mm256_sub_epi16(y, _mm256_srai_epi16(c, 2)), c), places);
    }
    const __m256i best01 = _mm256_max_epi32(_mm256_unpacklo_epi32(scores[0], scores[1]),
                                            _mm256_unpackhi_epi32(scores[0], scores[1]));
    const __m256i best23 = _mm256_max_epi32(_mm256_unpacklo_epi32(scores[2], scores[3]),
                                            _mm256_unpackhi_epi32(scores[2], scores[3]));
    const __m256i best =
        _mm256_max_epi32(_mm256_unpacklo_epi64(best01, best23), _mm256_unpackhi_epi64(best01, best23));
    const __m256i shift = _mm256_slli_epi32(_mm256_and_si256(best, _mm256_set1_epi32(3)), 3);
    const __m256i found = _mm256_shuffle_epi8(_mm256_srlv_epi32(near, shift), _mm256_set1_epi32(0x0c080400));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(codes + i),
                     _mm_unpacklo_epi16(_mm256_castsi256_si128(found), _mm256_extracti128_si256(found, 1)));
  }
  return _mm256_testz_si256(bad, bad);
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
