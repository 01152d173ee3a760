// SPDX-License-Identifier: Apache-2.0
// Nearest points in the plane: a table of cells names the few points that can be nearest.
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/portable/exhaustive_search.hpp>
#include <higgs/cpu/portable/isa.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace cpu {

/// 64 x 64 cells, 2^9 fixed-point values wide, cover the range of int8 points, [-2^14, 2^14)^2. The cells on
/// the rim extend to +-far, the limit up to which y - 64 c fits an int16.
struct PlaneTable {
  static constexpr int side = 64;
  static constexpr int cell_bits = 9;
  static constexpr std::int32_t far = 32767 - 64 * 128;
  /// The word of a cell with more than four candidates. In the words of other cells byte 0 is no less than byte 1.
  static constexpr std::uint32_t crowded = 0x0000ff00;

  /// Cell (x, y) at y * side + x: four points that include the nearest of each input in the cell, the lowest
  /// index in byte 3, the highest in byte 0.
  std::vector<std::uint32_t> cells = std::vector<std::uint32_t>(side * side);
  /// The points themselves, the one of byte 0 first: 256 x in the lower int16, 256 y in the upper.
  std::vector<std::array<std::uint32_t, 4>> points = std::vector<std::array<std::uint32_t, 4>>(side * side);
  std::array<std::int8_t, 256> x{}, y{};  // coordinates of all points

  /// Index of the cell whose lower corner is the origin.
  static constexpr std::ptrdiff_t center = side / 2 * side + side / 2;
};

/// A PlaneTable of a code whose indices are less than Size <= 256.
template <int Size>
struct SizedPlaneTable : PlaneTable {};

/// Encodes search_batch vectors, integers x, y in turn, |fixed| <= 2^15. False if one of them is too far out or in a
/// crowded cell: codes are unspecified then. The score of c, y c - 64 c^2, is taken 256-fold as (y - 64 c) * 256 c. The low bits then
/// number the candidate, so that one maximum finds the nearest point and the lowest index of equals.
inline bool search_plane(Portable, const PlaneTable& table, const float* fixed,
                         std::uint8_t* codes) noexcept {
  constexpr std::int32_t edge = PlaneTable::side / 2;
  bool good = true;
  for (int i = 0; i < search_batch; ++i) {
    const auto x = static_cast<std::int32_t>(fixed[2 * i]), y = static_cast<std::int32_t>(fixed[2 * i + 1]);
    const std::int32_t cell = std::clamp(y >> PlaneTable::cell_bits, -edge, edge - 1) * PlaneTable::side +
                              std::clamp(x >> PlaneTable::cell_bits, -edge, edge - 1);
    const std::uint32_t near = table.cells[static_cast<std::size_t>(cell + PlaneTable::center)];
    good &= near != PlaneTable::crowded;
    good &= static_cast<std::uint32_t>(x + PlaneTable::far) <= 2 * PlaneTable::far;
    good &= static_cast<std::uint32_t>(y + PlaneTable::far) <= 2 * PlaneTable::far;
    std::int32_t scores[4];
    HIGGS_UNROLL for (int place = 0; place < 4; ++place) {
      const std::size_t k = near >> (8 * place) & 255;
      const std::int32_t cx = table.x[k], cy = table.y[k];
      scores[place] = 4 * ((x - 64 * cx) * cx + (y - 64 * cy) * cy) + place;
    }
    const std::int32_t low = std::max(scores[0], scores[1]), high = std::max(scores[2], scores[3]);
    const std::int32_t best = std::max(low, high);
    codes[i] = static_cast<std::uint8_t>(near >> (8 * (best & 3)));
  }
  return good;
}

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
