// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/codes/e8/search_portable.hpp>
#include <higgs/config.hpp>
#include <higgs/cpu/avx512/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)

inline __m256i least_of_8(__m256i x) noexcept {  // in all lanes
  x = _mm256_min_epi32(x, _mm256_permute2x128_si256(x, x, 1));
  x = _mm256_min_epi32(x, _mm256_shuffle_epi32(x, 0x4e));
  return _mm256_min_epi32(x, _mm256_shuffle_epi32(x, 0xb1));
}

// The codes of 16 vectors, one at a time with 16 patterns in the lanes. Of patterns with the wrong parity two bounds are
// taken: without any loss, and with that of turning the least |z_d|. Hardly more than one pattern then reaches the best
// lower bound; those are looked at one by one.
inline void encode_e8(Avx512, const E8Patterns& patterns, const float* fixed, std::uint16_t* codes) noexcept {
  constexpr int count = E8Patterns::count;
  constexpr auto shift = static_cast<std::int32_t>(E8Patterns::shift);
  alignas(64) std::int32_t upper[2 * count];  // (sides, count)
  alignas(64) std::uint16_t reach[2 * count / 16];
  for (int i = 0; i < E8Patterns::batch; ++i) {
    const __m256i y = _mm256_cvttps_epi32(_mm256_loadu_ps(fixed + 8 * i));
    const std::int32_t along = higgs::detail::e8_shift * _mm512_reduce_add_epi32(_mm512_zextsi256_si512(y));
    __m512i most = _mm512_set1_epi32(std::numeric_limits<std::int32_t>::min());
    __m256i z[2];
    unsigned negative[2], odd[2];
    for (int side = 0; side < 2; ++side) {
      z[side] = _mm256_sub_epi32(y, _mm256_set1_epi32(side == 0 ? shift : -shift));
      negative[side] = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(z[side])));
      odd[side] = static_cast<unsigned>(__builtin_popcount(negative[side])) & 1u;
      z[side] = _mm256_abs_epi32(z[side]);
      const __m128i packed = _mm256_cvtepi32_epi16(z[side]);
      const auto least =
          static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm_minpos_epu16(packed)));  // value, then place
      const __m512i turn = _mm512_set1_epi32(-2 * static_cast<std::int32_t>(least & 0xffffu) & 0xffff);
      const std::int32_t* turned = patterns.single[least >> 16].data();
      const __m512i base = _mm512_set1_epi32(side == 0 ? along : -along);
      const __m512i z01 = _mm512_broadcastd_epi32(packed),
                    z23 = _mm512_broadcastd_epi32(_mm_srli_si128(packed, 4));
      const __m512i z45 = _mm512_broadcastd_epi32(_mm_srli_si128(packed, 8));
      const __m512i z67 = _mm512_broadcastd_epi32(_mm_srli_si128(packed, 12));
      const int wrong = odd[side] != 0 ? 0 : count / 2;  // where patterns of the wrong parity begin
      for (int k = 0; k < count / 2; k += 16) {
        const auto score = [&](int at) {
          __m512i sum = _mm512_add_epi32(base, _mm512_load_si512(patterns.starts.data() + at));
          sum = _mm512_dpwssd_epi32(sum, z01, _mm512_load_si512(patterns.pairs[0].data() + at));
          sum = _mm512_dpwssd_epi32(sum, z23, _mm512_load_si512(patterns.pairs[1].data() + at));
          sum = _mm512_dpwssd_epi32(sum, z45, _mm512_load_si512(patterns.pairs[2].data() + at));
          sum = _mm512_dpwssd_epi32(sum, z67, _mm512_load_si512(patterns.pairs[3].data() + at));
          _mm512_store_si512(upper + side * count + at, sum);
          return sum;
        };
        const int at = k + wrong;
        const __m512i lower = _mm512_dpwssd_epi32(score(at), turn, _mm512_load_si512(turned + at));
        most = _mm512_max_epi32(most, _mm512_max_epi32(lower, score(k + count / 2 - wrong)));
      }
    }
    const std::int32_t enough = _mm512_reduce_max_epi32(most);
    for (int k = 0; k < 2 * count; k += 16)
      reach[k / 16] = _mm512_cmpge_epi32_mask(_mm512_load_si512(upper + k), _mm512_set1_epi32(enough));
    const auto losses = [&](int side, int k) {  // losses of turning each sign
      const __m256 row = _mm256_load_ps(patterns.magnitudes[static_cast<std::size_t>(k)].data());
      return _mm256_mullo_epi32(z[side], _mm256_cvttps_epi32(row));
    };
    std::int32_t best = std::numeric_limits<std::int32_t>::min();
    int found = 0;
    for (int word = 0; word < 2 * count / 64; ++word) {
      std::uint64_t left;
      __builtin_memcpy(&left, reach + 4 * word, sizeof left);
      for (; left != 0; left &= left - 1) {
        const int place = 64 * word + __builtin_ctzll(left), side = place / count, k = place % count;
        std::int32_t score = upper[place];
        if (odd[side] != static_cast<unsigned>(k >= count / 2))
          score -= 2 * _mm256_cvtsi256_si32(least_of_8(losses(side, k)));
        if (score > best) best = score, found = place;
      }
    }
    // The lowest of the best signs, as best_e8_signs().
    const int side = found / count, k = found % count;
    const __m256i loss = losses(side, k);
    const auto where = [](__m256i lanes) {
      return static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(lanes)));
    };
    unsigned signs = negative[side] & where(_mm256_cmpgt_epi32(loss, _mm256_setzero_si256()));
    if ((static_cast<unsigned>(__builtin_popcount(signs)) & 1u) != static_cast<unsigned>(k >= count / 2)) {
      unsigned turned = 256;
      for (unsigned ties = where(_mm256_cmpeq_epi32(loss, least_of_8(loss))); ties != 0; ties &= ties - 1)
        turned = std::min(turned, (signs ^ (ties & -ties)) & 127u);
      signs = turned;
    }
    codes[i] = static_cast<std::uint16_t>(static_cast<unsigned>(found) << 7 | (signs & 127u));
  }
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
