// SPDX-License-Identifier: Apache-2.0
// Nearest points of E8Codebook: 512 shifted patterns are compared instead of 65,536 points, as the best signs
// of a pattern are those of the input.
#pragma once

#include <higgs/codes/e8/e8.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/encode/nearest.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#if defined(HIGGS_TARGET_BEGIN)
#  include <immintrin.h>
#endif

namespace higgs {
inline namespace v0 {

namespace detail {

/// The magnitudes of a pattern as floats, and |pattern|^2 / 2 in units of nearest_score(); then the same for lanes that
/// are patterns.
struct E8Patterns {
  static constexpr int count = 256, batch = 16;
  /// The shift in fixed point.
  static constexpr float shift = e8_shift << fraction_bits<E8Codebook>;

  alignas(64) std::array<std::array<float, 8>, count> magnitudes{};
  std::array<float, count> half_norms{};
  alignas(
      64) std::array<std::array<std::int32_t, count>, 4> pairs{};  // magnitudes 2 p and 2 p + 1, int16 each
  alignas(64) std::array<std::array<std::int32_t, count>, 8> single{};
  alignas(64) std::array<std::int32_t, count> starts{};  // -half_norms

  E8Patterns() {
    for (std::size_t k = 0; k < count; ++k)
      for (std::size_t d = 0; d < 8; ++d) {
        const float magnitude = e8_levels[e8_patterns[k] >> 4 * d & 15u];
        magnitudes[k][d] = magnitude;
        half_norms[k] += magnitude * magnitude * (1 << (fraction_bits<E8Codebook> - 1));
        single[d][k] = static_cast<std::int32_t>(magnitude);
        pairs[d / 2][k] |= single[d][k] << 16 * (d % 2);
        starts[k] = -static_cast<std::int32_t>(half_norms[k]);
      }
  }
};

// Each search_e8() names the side and the pattern of 16 vectors' nearest points, side * 256 + pattern, the
// lowest of several. With z = y - shift the best signs of a pattern p score sum |z_d| p_d - |p|^2 / 2, less
// twice the least |z_d| p_d where their parity is wrong. All of these are integers below 2^24, so floats hold
// them exactly.

namespace portable {
inline void search_e8(const E8Patterns& patterns, const float* fixed, std::int32_t* found) noexcept {
  constexpr int batch = E8Patterns::batch;
  float best[batch];
  std::fill_n(best, batch, std::numeric_limits<float>::lowest());
  for (int side = 0; side < 2; ++side) {
    const float shift = side == 0 ? E8Patterns::shift : -E8Patterns::shift;
    float z[8][batch], base[batch] = {};
    std::int32_t odd[batch] = {};
    for (int d = 0; d < 8; ++d)
      for (int i = 0; i < batch; ++i) {
        const float y = fixed[8 * i + d];
        odd[i] ^= y < shift;
        z[d][i] = y < shift ? shift - y : y - shift;
        base[i] += side == 0 ? y * e8_shift : y * -e8_shift;
      }
    for (int k = 0; k < E8Patterns::count; ++k) {
      const std::array<float, 8>& magnitudes = patterns.magnitudes[static_cast<std::size_t>(k)];
      float score[batch], least[batch];
      for (int i = 0; i < batch; ++i) {
        score[i] = base[i] - patterns.half_norms[static_cast<std::size_t>(k)];
        least[i] = std::numeric_limits<float>::max();
      }
      for (int d = 0; d < 8; ++d)
        for (int i = 0; i < batch; ++i) {
          const float product = z[d][i] * magnitudes[static_cast<std::size_t>(d)];
          score[i] += product;
          least[i] = std::min(least[i], product);
        }
      const std::int32_t parity = k >= E8Patterns::count / 2;
      for (int i = 0; i < batch; ++i) {
        const float total = score[i] - (odd[i] != parity ? 2 * least[i] : 0.0f);
        found[i] = total > best[i] ? side * E8Patterns::count + k : found[i];
        best[i] = std::max(best[i], total);
      }
    }
  }
}
}  // namespace portable

#if defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)
namespace avx2 {
// 8 vectors, then 8 more: z and its signs take the registers.
inline void search_e8(const E8Patterns& patterns, const float* fixed, std::int32_t* found) noexcept {
  alignas(32) float y[8][E8Patterns::batch];
  for (int i = 0; i < E8Patterns::batch; ++i)
    for (int d = 0; d < 8; ++d) y[d][i] = fixed[8 * i + d];
  for (int half = 0; half < E8Patterns::batch; half += 8) {
    __m256 best = _mm256_set1_ps(std::numeric_limits<float>::lowest());
    __m256i chosen = _mm256_setzero_si256();
    for (int side = 0; side < 2; ++side) {
      const float sign = side == 0 ? 1.0f : -1.0f;
      __m256 z[8], base = _mm256_setzero_ps(), parity = _mm256_setzero_ps();
      HIGGS_UNROLL
      for (int d = 0; d < 8; ++d) {
        const __m256 at = _mm256_load_ps(y[d] + half);
        z[d] = _mm256_sub_ps(at, _mm256_set1_ps(sign * E8Patterns::shift));
        base = _mm256_fmadd_ps(at, _mm256_set1_ps(sign * e8_shift), base);
        parity = _mm256_xor_ps(parity, z[d]);  // its top bit
        z[d] = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), z[d]);
      }
      for (int k = 0; k < E8Patterns::count; ++k) {
        const float* magnitudes = patterns.magnitudes[static_cast<std::size_t>(k)].data();
        __m256 score =
            _mm256_sub_ps(base, _mm256_broadcast_ss(&patterns.half_norms[static_cast<std::size_t>(k)]));
        __m256 least = _mm256_mul_ps(z[0], _mm256_broadcast_ss(magnitudes));
        score = _mm256_add_ps(score, least);
        HIGGS_UNROLL
        for (int d = 1; d < 8; ++d) {
          const __m256 product = _mm256_mul_ps(z[d], _mm256_broadcast_ss(magnitudes + d));
          score = _mm256_add_ps(score, product);
          least = _mm256_min_ps(least, product);
        }
        const __m256 wrong =
            k < E8Patterns::count / 2 ? parity : _mm256_xor_ps(parity, _mm256_set1_ps(-0.0f));
        const __m256 loss = _mm256_blendv_ps(_mm256_setzero_ps(), _mm256_add_ps(least, least), wrong);
        const __m256 total = _mm256_sub_ps(score, loss);
        const __m256 better = _mm256_cmp_ps(total, best, _CMP_GT_OQ);
        chosen = _mm256_blendv_epi8(chosen, _mm256_set1_epi32(side * E8Patterns::count + k),
                                    _mm256_castps_si256(better));
        best = _mm256_max_ps(best, total);
      }
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(found + half), chosen);
  }
}
}  // namespace avx2
HIGGS_TARGET_END

HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace avx512 {
inline __m256i least_of(__m256i x) noexcept {  // in all lanes
  x = _mm256_min_epi32(x, _mm256_permute2x128_si256(x, x, 1));
  x = _mm256_min_epi32(x, _mm256_shuffle_epi32(x, 0x4e));
  return _mm256_min_epi32(x, _mm256_shuffle_epi32(x, 0xb1));
}

// The codes of 16 vectors, one at a time with 16 patterns in the lanes. Of patterns with the wrong parity two bounds are
// taken: without any loss, and with that of turning the least |z_d|. Hardly more than one pattern then reaches the best
// lower bound; those are looked at one by one.
inline void encode_e8(const E8Patterns& patterns, const float* fixed, std::uint16_t* codes) noexcept {
  constexpr int count = E8Patterns::count;
  constexpr auto shift = static_cast<std::int32_t>(E8Patterns::shift);
  alignas(64) std::int32_t upper[2 * count];  // (sides, count)
  alignas(64) std::uint16_t reach[2 * count / 16];
  for (int i = 0; i < E8Patterns::batch; ++i) {
    const __m256i y = _mm256_cvttps_epi32(_mm256_loadu_ps(fixed + 8 * i));
    const std::int32_t along = e8_shift * _mm512_reduce_add_epi32(_mm512_zextsi256_si512(y));
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
    const auto losses = [&](int side, int k) {  // of turning each sign
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
          score -= 2 * _mm256_cvtsi256_si32(least_of(losses(side, k)));
        if (score > best) best = score, found = place;
      }
    }
    // The lowest of the best signs, as best_signs() below.
    const int side = found / count, k = found % count;
    const __m256i loss = losses(side, k);
    const auto where = [](__m256i lanes) {
      return static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(lanes)));
    };
    unsigned signs = negative[side] & where(_mm256_cmpgt_epi32(loss, _mm256_setzero_si256()));
    if ((static_cast<unsigned>(__builtin_popcount(signs)) & 1u) != static_cast<unsigned>(k >= count / 2)) {
      unsigned turned = 256;
      for (unsigned ties = where(_mm256_cmpeq_epi32(loss, least_of(loss))); ties != 0; ties &= ties - 1)
        turned = std::min(turned, (signs ^ (ties & -ties)) & 127u);
      signs = turned;
    }
    codes[i] = static_cast<std::uint16_t>(static_cast<unsigned>(found) << 7 | (signs & 127u));
  }
}
}  // namespace avx512
HIGGS_TARGET_END
#endif

}  // namespace detail

/// nearest() for E8Codebook.
class E8Search {
 public:
  explicit E8Search(const E8Codebook&) {}

  /// codes[i] = nearest(book, fixed[8 i ... 8 i + 7]). `fixed` holds integers, |fixed| <= fixed_limit.
  void encode(std::span<const float> fixed, std::span<std::uint16_t> codes,
              Isa isa = best_isa()) const noexcept {
    constexpr std::size_t batch = detail::E8Patterns::batch;
    isa = usable_isa(isa);
    std::size_t i = 0;
    for (; i + batch <= codes.size(); i += batch) encode_batch(fixed.data() + 8 * i, codes.data() + i, isa);
    if (i == codes.size()) return;
    std::array<float, 8 * batch> rest{};
    std::array<std::uint16_t, batch> found;
    std::copy_n(fixed.data() + 8 * i, 8 * (codes.size() - i), rest.data());
    encode_batch(rest.data(), found.data(), isa);
    std::copy_n(found.data(), codes.size() - i, codes.data() + i);
  }

 private:
  void encode_batch(const float* fixed, std::uint16_t* codes, Isa isa) const noexcept {
#if defined(HIGGS_TARGET_BEGIN)
    if (isa_includes(isa, Isa::Avx512)) return detail::avx512::encode_e8(patterns_, fixed, codes);
#endif
    std::int32_t found[detail::E8Patterns::batch];
    search(fixed, found, isa);
    for (std::size_t i = 0; i < detail::E8Patterns::batch; ++i)
      codes[i] = static_cast<std::uint16_t>(found[i] << 7 | best_signs(fixed + 8 * i, found[i]));
  }
  void search(const float* fixed, std::int32_t* found, Isa isa) const noexcept {
#if defined(HIGGS_TARGET_BEGIN)
    if (isa_includes(isa, Isa::Avx2)) return detail::avx2::search_e8(patterns_, fixed, found);
#endif
    static_cast<void>(isa);
    detail::portable::search_e8(patterns_, fixed, found);
  }

  // The lowest of the best signs: those of z, where they matter. If their parity is wrong, the one that costs
  // least is turned.
  int best_signs(const float* y, std::int32_t found) const noexcept {
    const auto k = static_cast<std::size_t>(found % detail::E8Patterns::count);
    const float shift =
        found < detail::E8Patterns::count ? detail::E8Patterns::shift : -detail::E8Patterns::shift;
    int signs = 0;
    bool odd = false;
    std::array<float, 8> losses;
    float least = std::numeric_limits<float>::max();
    for (std::size_t d = 0; d < 8; ++d) {
      const float product = (y[d] - shift) * patterns_.magnitudes[k][d];
      if (product < 0) signs |= 1 << d, odd = !odd;
      losses[d] = product < 0 ? -product : product;
      least = std::min(least, losses[d]);
    }
    if (odd == (k >= detail::E8Patterns::count / 2)) return signs & 127;
    int best = 256;
    for (std::size_t d = 0; d < 8; ++d)
      if (losses[d] == least) best = std::min(best, (signs ^ 1 << d) & 127);
    return best;
  }

  detail::E8Patterns patterns_;
};

}  // namespace v0
}  // namespace higgs
