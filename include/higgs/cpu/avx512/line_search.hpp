// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/avx2/line_search.hpp>
#include <higgs/cpu/avx512/byte_table.hpp>
#include <higgs/cpu/avx512/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/line_search.hpp>

#include <cstddef>
#include <cstdint>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)

// The rank bytes of 64 inputs whose dwords were packed twice within 128 bits: in order, as codes.
template <int Size>
inline void store_line_codes(__m512i rank, const ByteTable<Size>& order, std::uint8_t* codes) noexcept {
  const __m512i transpose = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(codes, _mm512_permutexvar_epi32(transpose, order[rank]));
}

template <int Size>
inline void search_line(Avx512, const Int8LineTable<Size>& table, const float* fixed, std::uint8_t* codes,
                        std::size_t count) noexcept {
  const ByteTable<256> begins(table.begin.data()), ranks(table.rank.data());
  const ByteTable<Size> order(table.order_bytes.data());
  const __m512i low = _mm512_set1_epi16(-(1 << 14)), inside = _mm512_set1_epi16(127);
  const std::size_t whole = count / 64 * 64;
  for (std::size_t i = 0; i < whole; i += 64) {
    __m512i y[4];
    HIGGS_UNROLL for (std::size_t j = 0; j < 4; ++j)
      y[j] = _mm512_cvttps_epi32(_mm512_loadu_ps(fixed + i + 16 * j));
    const __m512i y0 = _mm512_max_epi16(_mm512_packs_epi32(y[0], y[1]), low);
    const __m512i y1 = _mm512_max_epi16(_mm512_packs_epi32(y[2], y[3]), low);
    // Values above all points saturate to bucket 127, in which no rank begins.
    const __m512i bucket = _mm512_packs_epi16(_mm512_srai_epi16(y0, 7), _mm512_srai_epi16(y1, 7));
    const __m512i place = _mm512_packus_epi16(_mm512_and_si512(y0, inside), _mm512_and_si512(y1, inside));
    const __mmask64 above = _mm512_cmpge_epu8_mask(place, begins[bucket]);
    const __m512i rank = ranks[bucket];
    store_line_codes(_mm512_mask_add_epi8(rank, above, rank, _mm512_set1_epi8(1)), order, codes + i);
  }
  const LineTable<std::uint8_t>& any = table;
  if (whole < count) search_line(Avx2{}, any, fixed + whole, codes + whole, count - whole);
}

/// int16 points.
template <int Size>
inline void search_line(Avx512, const ByteLineTable<Size>& table, const float* fixed, std::uint8_t* codes,
                        std::size_t count) noexcept {
  const ByteTable<Size> order(table.order_bytes.data());
  const __m512 low = _mm512_set1_ps(static_cast<float>(-table.limit));
  const __m512 high = _mm512_set1_ps(static_cast<float>(table.limit - 1));
  const __m512i limit = _mm512_set1_epi32(table.limit), inside = _mm512_set1_epi32((1 << table.bits) - 1);
  const __m128i bits = _mm_cvtsi32_si128(table.bits);
  const std::size_t whole = count / 64 * 64;
  for (std::size_t i = 0; i < whole; i += 64) {
    __m512i rank[4];
    HIGGS_UNROLL for (std::size_t j = 0; j < 4; ++j) {
      const __m512 clamped = _mm512_min_ps(_mm512_max_ps(_mm512_loadu_ps(fixed + i + 16 * j), low), high);
      const __m512i y = _mm512_add_epi32(_mm512_cvttps_epi32(clamped), limit);
      const __m512i bucket = gather(_mm512_srl_epi32(y, bits), table.buckets.data());
      const __mmask16 above =
          _mm512_cmpge_epi32_mask(_mm512_and_si512(y, inside), _mm512_srli_epi32(bucket, 16));
      const __m512i lower = _mm512_and_si512(bucket, _mm512_set1_epi32(0xffff));
      rank[j] = _mm512_mask_add_epi32(lower, above, lower, _mm512_set1_epi32(1));
    }
    store_line_codes(
        _mm512_packus_epi16(_mm512_packus_epi32(rank[0], rank[1]), _mm512_packus_epi32(rank[2], rank[3])),
        order, codes + i);
  }
  const LineTable<std::uint8_t>& any = table;
  if (whole < count) search_line(Avx2{}, any, fixed + whole, codes + whole, count - whole);
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
