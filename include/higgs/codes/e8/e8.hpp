// SPDX-License-Identifier: Apache-2.0
// Two bits a weight in eight dimensions from a table of 1 KiB.
#pragma once

#include <higgs/codes/e8/points.hpp>
#include <higgs/core/concepts.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>

namespace higgs {
inline namespace v0 {

class E8Search;
namespace cpu {
struct E8Format;
}

/// 65,536 points near those of E8 + 1/4 of least norm, fitted to N(0, I). A point is a pattern of eight
/// magnitudes with signs, moved along (1, ..., 1):
///
///     bit   15     14 ... 7   6 ... 0
///         | side | pattern  | signs |        coordinate d = +-level(pattern, d) +- shift
///
/// Bit d of the signs negates magnitude d. The last sign has no bit: patterns below 128 have an even number
/// of negative signs, the others an odd one. Side 0 adds the shift, side 1 subtracts it.
struct E8Codebook {
  static constexpr int dim = 8;
  static constexpr int size = 65536;
  using Element = std::int8_t;
  using Index = std::uint16_t;
  using Point = std::array<std::int8_t, 8>;
  using Search = E8Search;             // codes/e8/search.hpp
  using PackedFormat = cpu::E8Format;  // codes/e8/packed.hpp

  constexpr Point decode(Index index) const noexcept {
    const unsigned number = index >> 7 & 255u, signs = index & 127u;
    const std::uint32_t word = detail::e8_patterns[number];
    const unsigned last = (static_cast<unsigned>(std::popcount(signs)) + (number >> 7)) & 1u;
    const unsigned all_signs = signs | last << 7;
    const int shift = index >> 15 != 0 ? -detail::e8_shift : detail::e8_shift;
    Point point{};
    for (unsigned d = 0; d < 8; ++d) {
      const int magnitude = detail::e8_levels[word >> 4 * d & 15u];
      point[d] = static_cast<std::int8_t>(((all_signs >> d & 1u) != 0 ? -magnitude : magnitude) + shift);
    }
    return point;
  }
  constexpr double step() const noexcept { return detail::e8_step; }
  constexpr double mse() const noexcept { return detail::e8_mse; }
  static std::string name() { return "e8"; }
};
static_assert(Codebook<E8Codebook>);

}  // namespace v0
}  // namespace higgs
