// SPDX-License-Identifier: Apache-2.0
// Nearest points of codes that are cut out of E8: the nearest lattice point in closed form, a search among
// its neighbours where the code does not hold it.
#pragma once

#include <higgs/codes/lattice/lattice.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/encode/nearest.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <span>

namespace higgs {
inline namespace v0 {

/// nearest() for NestedE8Codebook, without comparing its points one by one. Inputs far outside of the code
/// take long: up to milliseconds where a coordinate is many times its range.
template <int Bits>
class LatticeSearch {
  using Book = NestedE8Codebook<Bits>;

 public:
  explicit LatticeSearch(const Book&) {}

  /// codes[i] = nearest(book, fixed[8 i ... 8 i + 7]). `fixed` holds integers, |fixed| <= fixed_limit.
  void encode(std::span<const float> fixed, std::span<std::uint32_t> codes, Isa = best_isa()) const noexcept {
    for (std::size_t i = 0; i < codes.size(); ++i) {
      Vector y;
      for (std::size_t d = 0; d < 8; ++d) y[d] = static_cast<std::int32_t>(fixed[8 * i + d]) - offset;
      codes[i] = search(y);
    }
  }

 private:
  using Vector = std::array<std::int32_t, 8>;
  // All in fixed point, and less the offset: points are those of unit * E8.
  static constexpr std::int32_t unit = Book::unit << fraction_bits<Book>;
  static constexpr std::int32_t offset = Book::offset << fraction_bits<Book>;
  static constexpr std::int32_t cell = Book::cell << fraction_bits<Book>;

  struct Found {
    std::int64_t distance = std::numeric_limits<std::int64_t>::max();  // squared
    std::uint32_t index = 0;

    void add(std::int64_t other_distance, std::uint32_t other) noexcept {
      if (other_distance > distance || (other_distance == distance && other >= index)) return;
      distance = other_distance, index = other;
    }
  };

  static std::uint32_t search(const Vector& y) noexcept {
    const Vector x = nearest_e8(y, unit);
    std::uint32_t index;
    if (holds(x, index) && alone(y, x)) return index;
    // A point of the code that is not far: the nearest one to the first of y, 15/16 y, 14/16 y ... that has
    // one.
    Found found;
    for (std::int32_t share = 16; share >= 0 && found.distance == Found{}.distance; --share) {
      Vector nearer;
      for (std::size_t d = 0; d < 8; ++d) nearer[d] = (y[d] + offset) * share / 16 - offset;
      const Vector point = nearest_e8(nearer, unit);
      if (holds(point, index)) found.add(squared_distance(y, point), index);
    }
    for (const std::int32_t shift : {0, unit / 2}) Walk(y, shift, found).run();
    return found.index;
  }

  /// Whether the code holds the lattice point, and its index.
  static bool holds(const Vector& x, std::uint32_t& index) noexcept {
    Vector point;
    for (std::size_t d = 0; d < 8; ++d) point[d] = x[d] / (1 << fraction_bits<Book>)+Book::offset;
    index = Book::index_of(point);
    const auto decoded = Book{}.decode(index);
    return std::equal(point.begin(), point.end(), decoded.begin());
  }

  /// Whether no other lattice point is as near to y as x is: y - x lies inside the half spaces of all 240
  /// neighbours, (+-1, +-1, 0, ...) and (+-1/2, ..., +-1/2) with an even number of minus signs.
  static bool alone(const Vector& y, const Vector& x) noexcept {
    std::int32_t first = 0, second = 0, sum = 0, least = unit;
    bool odd = false;
    for (std::size_t d = 0; d < 8; ++d) {
      const std::int32_t r = y[d] - x[d], magnitude = std::abs(r);
      odd ^= r < 0;
      sum += magnitude;
      least = std::min(least, magnitude);
      second = std::max(second, std::min(first, magnitude));
      first = std::max(first, magnitude);
    }
    return first + second < unit && sum - (odd ? 2 * least : 0) < 2 * unit;
  }

  static std::int64_t squared_distance(const Vector& y, const Vector& x) noexcept {
    std::int64_t sum = 0;
    for (std::size_t d = 0; d < 8; ++d) sum += std::int64_t{y[d] - x[d]} * (y[d] - x[d]);
    return sum;
  }

  /// Visits the points of D8 + shift that are no farther than the best so far, coordinate by coordinate, near
  /// ones first (Schnorr and Euchner 1994).
  struct Walk {
    const Vector& y;
    std::int32_t shift;
    Found& found;
    Vector x{};
    std::array<std::int64_t, 9> rest{};  // what the coordinates from d on add at least

    Walk(const Vector& the_y, std::int32_t the_shift, Found& the_found)
        : y(the_y), shift(the_shift), found(the_found) {
      for (std::size_t d = 8; d-- > 0;) {
        const std::int64_t miss = y[d] - nearest(d);
        rest[d] = rest[d + 1] + miss * miss;
      }
    }
    void run() noexcept { descend(0, 0, 0, 0); }

    // In the Voronoi cell of E8 no coordinate passes 1, nor the sum of all magnitudes 8/3.
    std::int32_t nearest(std::size_t d) const noexcept {
      const std::int32_t bound = cell / unit * unit + unit;
      const std::int32_t inside = std::clamp(y[d], -bound, bound) - shift + unit / 2;
      return inside - (inside % unit + unit) % unit + shift;
    }

    void descend(std::size_t d, std::int64_t distance, std::int32_t parity, std::int32_t reach) noexcept {
      if (d == 8) {
        std::uint32_t index;
        if (parity % 2 == 0 && holds(x, index)) found.add(distance, index);
        return;
      }
      const std::int32_t middle = nearest(d);
      for (int side = 0; side < 2; ++side)  // outward, to either side
        for (std::int32_t at = side == 0 ? middle : middle - unit;; at += side == 0 ? unit : -unit) {
          const std::int32_t size = std::abs(at + offset);
          const std::int64_t miss = y[d] - at, sum = distance + miss * miss;
          const bool outside = size > cell || 3 * (reach + size) > 8 * cell;
          const bool far = sum + rest[d + 1] > found.distance;
          if (outside && (side == 0 ? at + offset > 0 : at + offset < 0))
            break;  // and so is all that follows
          if (far && (side == 0 ? at >= y[d] : at <= y[d])) break;
          if (outside || far) continue;
          x[d] = at;
          descend(d + 1, sum, parity + (at - shift) / unit, reach + size);
        }
    }
  };
};

}  // namespace v0
}  // namespace higgs
