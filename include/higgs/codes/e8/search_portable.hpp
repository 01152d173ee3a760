// SPDX-License-Identifier: Apache-2.0
// Kernels of E8Search in plain C++: the contract of each, and its reference.
#pragma once

#include <higgs/codes/e8/e8.hpp>
#include <higgs/cpu/portable/isa.hpp>
#include <higgs/encode/nearest.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace higgs {
inline namespace v0 {
namespace cpu {

/// The magnitudes of a pattern as floats, and |pattern|^2 / 2 in units of nearest_score(); then the same for lanes that
/// are patterns.
struct E8Patterns {
  static constexpr int count = 256, batch = 16;
  /// The shift in fixed point.
  static constexpr float shift = higgs::detail::e8_shift << fraction_bits<E8Codebook>;

  alignas(64) std::array<std::array<float, 8>, count> magnitudes{};
  std::array<float, count> half_norms{};
  alignas(
      64) std::array<std::array<std::int32_t, count>, 4> pairs{};  // magnitudes 2 p and 2 p + 1, int16 each
  alignas(64) std::array<std::array<std::int32_t, count>, 8> single{};
  alignas(64) std::array<std::int32_t, count> starts{};  // -half_norms

  E8Patterns() {
    for (std::size_t k = 0; k < count; ++k)
      for (std::size_t d = 0; d < 8; ++d) {
        const float magnitude = higgs::detail::e8_levels[higgs::detail::e8_patterns[k] >> 4 * d & 15u];
        magnitudes[k][d] = magnitude;
        half_norms[k] += magnitude * magnitude * (1 << (fraction_bits<E8Codebook> - 1));
        single[d][k] = static_cast<std::int32_t>(magnitude);
        pairs[d / 2][k] |= single[d][k] << 16 * (d % 2);
        starts[k] = -static_cast<std::int32_t>(half_norms[k]);
      }
  }
};

/// Names the side and the pattern of 16 vectors' nearest points, side * 256 + pattern, the
/// lowest of several. With z = y - shift the best signs of a pattern p score sum |z_d| p_d - |p|^2 / 2, less
/// twice the least |z_d| p_d where their parity is wrong. All of these are integers below 2^24, so floats hold
/// them exactly.
inline void search_e8(Portable, const E8Patterns& patterns, const float* fixed,
                      std::int32_t* found) noexcept {
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
        base[i] += side == 0 ? y * higgs::detail::e8_shift : y * -higgs::detail::e8_shift;
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

/// The lowest of the best signs of pattern `found` for the vector `y`: those of z, where they matter. If their parity is
/// wrong, the one that costs least is turned.
inline int best_e8_signs(const E8Patterns& patterns, const float* y, std::int32_t found) noexcept {
  const auto k = static_cast<std::size_t>(found % E8Patterns::count);
  const float shift = found < E8Patterns::count ? E8Patterns::shift : -E8Patterns::shift;
  int signs = 0;
  bool odd = false;
  std::array<float, 8> losses;
  float least = std::numeric_limits<float>::max();
  for (std::size_t d = 0; d < 8; ++d) {
    const float product = (y[d] - shift) * patterns.magnitudes[k][d];
    if (product < 0) signs |= 1 << d, odd = !odd;
    losses[d] = product < 0 ? -product : product;
    least = std::min(least, losses[d]);
  }
  if (odd == (k >= E8Patterns::count / 2)) return signs & 127;
  int best = 256;
  for (std::size_t d = 0; d < 8; ++d)
    if (losses[d] == least) best = std::min(best, (signs ^ 1 << d) & 127);
  return best;
}

/// The codes of E8Patterns::batch vectors of 8 integers, |fixed| <= fixed_limit: in `found` the side and the pattern of
/// each by the search of the set, then its signs.
template <class Set>
void encode_e8_by_patterns(Set set, const E8Patterns& patterns, const float* fixed,
                           std::uint16_t* codes) noexcept {
  std::int32_t found[E8Patterns::batch];
  search_e8(set, patterns, fixed, found);
  for (std::size_t i = 0; i < E8Patterns::batch; ++i)
    codes[i] = static_cast<std::uint16_t>(found[i] << 7 | best_e8_signs(patterns, fixed + 8 * i, found[i]));
}

/// codes[i] = the index of the point nearest to vector i of `fixed` (batch, 8), integers, |fixed| <= fixed_limit.
inline void encode_e8(Portable set, const E8Patterns& patterns, const float* fixed,
                      std::uint16_t* codes) noexcept {
  encode_e8_by_patterns(set, patterns, fixed, codes);
}

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
