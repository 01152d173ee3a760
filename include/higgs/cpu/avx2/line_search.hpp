// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/avx2/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/line_search.hpp>

#include <cstddef>
#include <cstdint>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)

template <class Index>
inline void search_line(Avx2, const LineTable<Index>& table, const float* fixed, Index* codes,
                        std::size_t count) noexcept {
  const __m256 low = _mm256_set1_ps(static_cast<float>(-table.limit));
  const __m256 high = _mm256_set1_ps(static_cast<float>(table.limit - 1));
  const __m256i limit = _mm256_set1_epi32(table.limit), inside = _mm256_set1_epi32((1 << table.bits) - 1);
  const __m128i bits = _mm_cvtsi32_si128(table.bits);
  const auto* buckets = reinterpret_cast<const int*>(table.buckets.data());
  const Index* order = table.order.data();
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256 clamped = _mm256_min_ps(_mm256_max_ps(_mm256_loadu_ps(fixed + i), low), high);
    const __m256i y = _mm256_add_epi32(_mm256_cvttps_epi32(clamped), limit);
    const __m256i bucket = _mm256_i32gather_epi32(buckets, _mm256_srl_epi32(y, bits), 4);
    const __m256i below = _mm256_cmpgt_epi32(_mm256_srli_epi32(bucket, 16), _mm256_and_si256(y, inside));
    const __m256i rank = _mm256_add_epi32(  // below is -1 or 0
        _mm256_add_epi32(_mm256_and_si256(bucket, _mm256_set1_epi32(0xffff)), _mm256_set1_epi32(1)), below);
    alignas(32) std::int32_t ranks[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(ranks), rank);
    HIGGS_UNROLL for (std::size_t lane = 0; lane < 8; ++lane)
      codes[i + lane] = order[ranks[lane]];
  }
  search_line(Portable{}, table, fixed + i, codes + i, count - i);
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
