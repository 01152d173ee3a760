// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/avx512/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/cell_search.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)

template <int Dim, int Bits>
inline void search_cells(Avx512, const CellBatch<Dim, Bits>& batch, std::size_t count,
                         std::uint16_t* found) noexcept {
  if (!fits_int16(batch, count)) return search_cells(Portable{}, batch, count, found);
  constexpr int pairs = CellBlock<Dim>::pairs;
  for (std::size_t i = 0; i < count; ++i) {
    __m512i y[higgs::detail::extent<pairs>];
    HIGGS_UNROLL for (int p = 0; p < pairs; ++p)
      y[p] = _mm512_set1_epi32(packed_pair(batch.y[i] + 2 * p));
    __m512i most = _mm512_set1_epi32(std::numeric_limits<std::int32_t>::min()), at = _mm512_setzero_si512();
    __m512i place = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (const CellBlock<Dim>& block : batch.blocks[i]) {
      __m512i score = _mm512_setzero_si512();
      HIGGS_UNROLL for (int p = 0; p < pairs; ++p) {
        const __m512i c =
            _mm512_cvtepi8_epi16(_mm256_load_si256(reinterpret_cast<const __m256i*>(block.points[p])));
        score = _mm512_dpwssd_epi32(score, _mm512_sub_epi16(y[p], _mm512_slli_epi16(c, Bits - 1)), c);
      }
      at = _mm512_mask_mov_epi32(at, _mm512_cmpgt_epi32_mask(score, most), place);
      most = _mm512_max_epi32(most, score);
      place = _mm512_add_epi32(place, _mm512_set1_epi32(16));
    }
    const unsigned best = _mm512_cmpeq_epi32_mask(most, _mm512_set1_epi32(_mm512_reduce_max_epi32(most)));
    const __m512i first = _mm512_maskz_compress_epi32(static_cast<__mmask16>(best), at);
    const std::uint32_t place_of_best =
        (best & (best - 1)) == 0
            ? static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm512_castsi512_si128(first)))
            : _mm512_mask_reduce_min_epu32(static_cast<__mmask16>(best), at);
    found[i] = batch.blocks[i][place_of_best / 16].index[place_of_best % 16];
  }
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
