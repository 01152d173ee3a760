// SPDX-License-Identifier: Apache-2.0
// Lattices whose nearest points have a closed form, and codes that are cut out of E8 by its own Voronoi cell.
#pragma once

#include <higgs/core/concepts.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace higgs {
inline namespace v0 {

/// The nearest point of unit * Z^Dim to `y`; halves are rounded up.
template <std::size_t Dim>
constexpr std::array<std::int32_t, Dim> nearest_zn(std::span<const std::int32_t, Dim> y,
                                                   std::int32_t unit) noexcept {
  std::array<std::int32_t, Dim> point{};
  for (std::size_t d = 0; d < Dim; ++d) {
    const std::int32_t above = y[d] + unit / 2;
    point[d] = above - (above % unit + unit) % unit;
  }
  return point;
}

/// The nearest point of unit * D_Dim, the integer vectors with even sum (Conway and Sloane 1982): where the
/// sum of the rounded coordinates is odd, the one that was rounded farthest goes the other way. `unit` must
/// be even.
template <std::size_t Dim>
constexpr std::array<std::int32_t, Dim> nearest_dn(std::span<const std::int32_t, Dim> y,
                                                   std::int32_t unit) noexcept {
  std::array<std::int32_t, Dim> point = nearest_zn(y, unit);
  std::int32_t sum = 0, farthest = -1;
  std::size_t worst = 0;
  for (std::size_t d = 0; d < Dim; ++d) {
    sum += point[d] / unit;
    const std::int32_t distance = y[d] < point[d] ? point[d] - y[d] : y[d] - point[d];
    if (distance > farthest) farthest = distance, worst = d;
  }
  if (sum % 2 != 0) point[worst] += y[worst] < point[worst] ? -unit : unit;
  return point;
}

/// The nearest point of unit * E8, the union of D8 and D8 + (1/2)^8; D8 where both are equally near. `unit`
/// must be even.
constexpr std::array<std::int32_t, 8> nearest_e8(std::span<const std::int32_t, 8> y,
                                                 std::int32_t unit) noexcept {
  std::array<std::int32_t, 8> moved{};
  for (std::size_t d = 0; d < 8; ++d) moved[d] = y[d] - unit / 2;
  const std::array<std::int32_t, 8> whole = nearest_dn<8>(y, unit);
  std::array<std::int32_t, 8> half = nearest_dn<8>(moved, unit);
  std::int64_t lead = 0;  // lead of the whole point: the difference of squared distances
  for (std::size_t d = 0; d < 8; ++d) {
    const std::int64_t to_whole = y[d] - whole[d], to_half = moved[d] - half[d];
    lead += to_half * to_half - to_whole * to_whole;
    half[d] += unit / 2;
  }
  return lead >= 0 ? whole : half;
}

template <int Bits>
class LatticeSearch;

/// The Voronoi code of E8 at `Bits` bits a weight (Conway and Sloane 1983): the 2^(8 Bits) points of E8 +
/// offset in the Voronoi cell of 2^Bits E8. Neither decoding nor encoding needs a table. Digit d of an index,
/// `Bits` bits from Bits * d on, counts basis vector d.
template <int Bits>
class NestedE8Codebook {
  static_assert(Bits >= 2 && Bits <= 4, "NestedE8Codebook<Bits>: Bits must lie in [2, 4]");

 public:
  static constexpr int dim = 8;
  static constexpr std::int64_t size = std::int64_t{1} << (8 * Bits);
  using Element = std::int8_t;
  using Index = std::uint32_t;
  using Point = std::array<std::int8_t, 8>;
  using Search = LatticeSearch<Bits>;  // codes/lattice/search.hpp

  static constexpr std::int32_t unit = 4;             ///< integers in 1 of E8
  static constexpr std::int32_t offset = 1;           ///< offset of each coordinate, in integers
  static constexpr std::int32_t cell = unit << Bits;  ///< unit of the lattice that shapes the code

  HIGGS_HOST_DEVICE constexpr Point decode(Index index) const noexcept {
    std::array<std::int32_t, 8> x{};  // the point of E8 + offset that the digits count up to
    std::int32_t digit[8];
    for (std::size_t d = 0; d < 8; ++d)
      digit[d] = static_cast<std::int32_t>(index >> Bits * d & ((1u << Bits) - 1u));
    // Basis: (2, 0, ...), (-1, 1, 0, ...), (0, -1, 1, 0, ...), ..., (0, ..., -1, 1, 0), (1/2, ..., 1/2).
    for (std::size_t d = 0; d < 8; ++d) {
      const std::int32_t whole = d == 0   ? 2 * digit[0] - digit[1]
                                 : d < 6  ? digit[d] - digit[d + 1]
                                 : d == 6 ? digit[6]
                                          : 0;
      x[d] = unit * whole + unit / 2 * digit[7] + offset;
    }
    const std::array<std::int32_t, 8> center = nearest_e8(x, cell);
    Point point{};
    for (std::size_t d = 0; d < 8; ++d) point[d] = static_cast<std::int8_t>(x[d] - center[d]);
    return point;
  }

  /// The index of a point of E8 + offset, modulo the lattice that shapes the code.
  static constexpr Index index_of(const std::array<std::int32_t, 8>& point) noexcept {
    std::int32_t digit[8];
    digit[7] = (point[7] - offset) * 2 / unit;
    std::int32_t sum = 0;
    for (std::size_t d = 7; d-- > 0;) {
      sum += (point[d] - offset - unit / 2 * digit[7]) / unit;
      digit[d] = d == 0 ? sum / 2 : sum;
    }
    Index index = 0;
    for (std::size_t d = 0; d < 8; ++d)
      index |= (static_cast<Index>(digit[d]) & ((Index{1} << Bits) - 1u)) << Bits * d;
    return index;
  }

  constexpr double step() const noexcept {
    constexpr std::array steps{0.2465, 0.139, 0.0775};
    return steps[static_cast<std::size_t>(Bits) - 2];
  }
  constexpr double mse() const noexcept {
    constexpr std::array errors{0.09379, 0.02697, 0.007843};
    return errors[static_cast<std::size_t>(Bits) - 2];
  }
  /// "e8n2": nested, 2 bits.
  static std::string name() { return std::string("e8n").append(1, static_cast<char>('0' + Bits)); }
};

}  // namespace v0
}  // namespace higgs
