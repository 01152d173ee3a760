// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/avx2/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/cell_search.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)

template <int Dim, int Bits>
inline void search_cells(Avx2, const CellBatch<Dim, Bits>& batch, std::size_t count,
                         std::uint16_t* found) noexcept {
  if (!fits_int16(batch, count)) return search_cells(Portable{}, batch, count, found);
  constexpr int pairs = CellBlock<Dim>::pairs;
  for (std::size_t i = 0; i < count; ++i) {
    __m256i y[higgs::detail::extent<pairs>];
    HIGGS_UNROLL for (int p = 0; p < pairs; ++p)
      y[p] = _mm256_set1_epi32(packed_pair(batch.y[i] + 2 * p));
    __m256i most = _mm256_set1_epi32(std::numeric_limits<std::int32_t>::min()), at = _mm256_setzero_si256();
    __m256i place = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (const CellBlock<Dim>& block : batch.blocks[i]) {
      HIGGS_UNROLL for (int half = 0; half < 2; ++half) {
        __m256i score = _mm256_setzero_si256();
        HIGGS_UNROLL for (int p = 0; p < pairs; ++p) {
          const __m256i c =
              _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(block.points[p]) + half));
          score = _mm256_add_epi32(
              score, _mm256_madd_epi16(_mm256_sub_epi16(y[p], _mm256_slli_epi16(c, Bits - 1)), c));
        }
        at = _mm256_blendv_epi8(at, place, _mm256_cmpgt_epi32(score, most));
        most = _mm256_max_epi32(most, score);
        place = _mm256_add_epi32(place, _mm256_set1_epi32(8));
      }
    }
    alignas(32) std::int32_t scores[8], places[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(scores), most);
    _mm256_store_si256(reinterpret_cast<__m256i*>(places), at);
    std::int32_t top = scores[0], best = places[0];
    for (int lane = 1; lane < 8; ++lane) {
      const bool wins = scores[lane] > top || (scores[lane] == top && places[lane] < best);
      best = wins ? places[lane] : best;
      top = wins ? scores[lane] : top;
    }
    found[i] = batch.blocks[i][static_cast<std::size_t>(best / 16)].index[best % 16];
  }
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
