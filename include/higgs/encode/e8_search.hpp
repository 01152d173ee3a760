// SPDX-License-Identifier: Apache-2.0
// Nearest points of E8Codebook: 512 shifted patterns are compared instead of 65,536 points, as the best signs
// of a pattern are those of the input.
#pragma once

#include <higgs/codebook/e8.hpp>
#include <higgs/core/cpu.hpp>
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

/// The magnitudes of a pattern as floats, and |pattern|^2 / 2 in units of nearest_score().
struct E8Patterns {
  static constexpr int count = 256, batch = 16;
  /// The shift in fixed point.
  static constexpr float shift = e8_shift << fraction_bits<E8Codebook>;

  alignas(64) std::array<std::array<float, 8>, count> magnitudes{};
  std::array<float, count> half_norms{};

  E8Patterns() {
    for (std::size_t k = 0; k < count; ++k)
      for (std::size_t d = 0; d < 8; ++d) {
        const float magnitude = e8_levels[e8_patterns[k] >> 4 * d & 15u];
        magnitudes[k][d] = magnitude;
        half_norms[k] += magnitude * magnitude * (1 << (fraction_bits<E8Codebook> - 1));
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
inline void search_e8(const E8Patterns& patterns, const float* fixed, std::int32_t* found) noexcept {
  alignas(64) float y[8][E8Patterns::batch];
  for (int i = 0; i < E8Patterns::batch; ++i)
    for (int d = 0; d < 8; ++d) y[d][i] = fixed[8 * i + d];
  __m512 best = _mm512_set1_ps(std::numeric_limits<float>::lowest());
  __m512i chosen = _mm512_setzero_si512();
  for (int side = 0; side < 2; ++side) {
    const float sign = side == 0 ? 1.0f : -1.0f;
    __m512 z[8], base = _mm512_setzero_ps();
    __m512i signs = _mm512_setzero_si512();
    HIGGS_UNROLL
    for (int d = 0; d < 8; ++d) {
      const __m512 at = _mm512_load_ps(y[d]);
      z[d] = _mm512_sub_ps(at, _mm512_set1_ps(sign * E8Patterns::shift));
      base = _mm512_fmadd_ps(at, _mm512_set1_ps(sign * e8_shift), base);
      signs = _mm512_xor_si512(signs, _mm512_castps_si512(z[d]));
      z[d] = _mm512_abs_ps(z[d]);
    }
    const __mmask16 odd = _mm512_movepi32_mask(signs);
    for (int k = 0; k < E8Patterns::count; ++k) {
      const float* magnitudes = patterns.magnitudes[static_cast<std::size_t>(k)].data();
      __m512 score = _mm512_sub_ps(base, _mm512_set1_ps(patterns.half_norms[static_cast<std::size_t>(k)]));
      __m512 least = _mm512_mul_ps(z[0], _mm512_set1_ps(magnitudes[0]));
      score = _mm512_add_ps(score, least);
      HIGGS_UNROLL
      for (int d = 1; d < 8; ++d) {
        const __m512 product = _mm512_mul_ps(z[d], _mm512_set1_ps(magnitudes[d]));
        score = _mm512_add_ps(score, product);
        least = _mm512_min_ps(least, product);
      }
      const __mmask16 wrong = k < E8Patterns::count / 2 ? odd : static_cast<__mmask16>(~odd);
      score = _mm512_mask_sub_ps(score, wrong, score, _mm512_add_ps(least, least));
      const __mmask16 better = _mm512_cmp_ps_mask(score, best, _CMP_GT_OQ);
      chosen = _mm512_mask_mov_epi32(chosen, better, _mm512_set1_epi32(side * E8Patterns::count + k));
      best = _mm512_max_ps(best, score);
    }
  }
  _mm512_storeu_si512(found, chosen);
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
    isa = std::min(isa, best_isa());
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
    std::int32_t found[detail::E8Patterns::batch];
    search(fixed, found, isa);
    for (std::size_t i = 0; i < detail::E8Patterns::batch; ++i)
      codes[i] = static_cast<std::uint16_t>(found[i] << 7 | best_signs(fixed + 8 * i, found[i]));
  }
  void search(const float* fixed, std::int32_t* found, Isa isa) const noexcept {
#if defined(HIGGS_TARGET_BEGIN)
    if (isa == Isa::Avx512) return detail::avx512::search_e8(patterns_, fixed, found);
    if (isa == Isa::Avx2) return detail::avx2::search_e8(patterns_, fixed, found);
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
