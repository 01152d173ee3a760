// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/lattice/lattice.hpp>
#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <limits>
#include <vector>

namespace {

using Vector = std::array<std::int32_t, 8>;

Vector random_vector(std::uint64_t seed, std::int32_t reach) {
  Vector y;
  for (std::size_t d = 0; d < 8; ++d)
    y[d] =
        static_cast<std::int32_t>(higgs::random_bits(seed, d) % static_cast<std::uint64_t>(2 * reach + 1)) -
        reach;
  return y;
}
template <std::size_t Dim>
std::int64_t squared_distance(const std::array<std::int32_t, Dim>& a,
                              const std::array<std::int32_t, Dim>& b) {
  std::int64_t sum = 0;
  for (std::size_t d = 0; d < Dim; ++d) sum += std::int64_t{a[d] - b[d]} * (a[d] - b[d]);
  return sum;
}
// All 240 shortest vectors of unit * E8.
std::vector<Vector> shortest(std::int32_t unit) {
  std::vector<Vector> all;
  for (std::size_t a = 0; a < 8; ++a)
    for (std::size_t b = 0; b < a; ++b)
      for (const std::int32_t x : {-unit, unit})
        for (const std::int32_t y : {-unit, unit}) {
          Vector v{};
          v[a] = x, v[b] = y;
          all.push_back(v);
        }
  for (unsigned signs = 0; signs < 256; ++signs) {
    if (std::popcount(signs) % 2 != 0) continue;
    Vector v;
    for (std::size_t d = 0; d < 8; ++d) v[d] = (signs >> d & 1u) != 0 ? -unit / 2 : unit / 2;
    all.push_back(v);
  }
  return all;
}

}  // namespace

TEST_CASE("no point of D4 within reach is nearer than the one that is found", "[codes][lattice]") {
  constexpr std::int32_t unit = 6;
  for (std::uint64_t i = 0; i < 500; ++i) {
    const Vector wide = random_vector(i, 20);
    const std::array<std::int32_t, 4> y{wide[0], wide[1], wide[2], wide[3]};
    const auto found = higgs::nearest_dn<4>(y, unit);
    REQUIRE((found[0] + found[1] + found[2] + found[3]) % (2 * unit) == 0);
    std::int64_t least = std::numeric_limits<std::int64_t>::max();
    for (int code = 0; code < 10000; ++code) {
      const std::array<std::int32_t, 4> x{unit * (code % 10 - 5), unit * (code / 10 % 10 - 5),
                                          unit * (code / 100 % 10 - 5), unit * (code / 1000 - 5)};
      if ((x[0] + x[1] + x[2] + x[3]) % (2 * unit) == 0) least = std::min(least, squared_distance(y, x));
    }
    REQUIRE(squared_distance(y, found) == least);
  }
}

TEST_CASE("the nearest point of E8 is a point of E8, and y lies in its Voronoi cell", "[codes][lattice]") {
  constexpr std::int32_t unit = 16;
  const std::vector<Vector> steps = shortest(unit);
  REQUIRE(steps.size() == 240);
  for (std::uint64_t i = 0; i < 2000; ++i) {
    const Vector y = random_vector(i, i % 2 == 0 ? 8 : 100);
    const Vector x = higgs::nearest_e8(y, unit);
    std::int32_t sum = 0;
    for (const std::int32_t each : x) {
      REQUIRE(each % (unit / 2) == 0);
      REQUIRE((each - x[0]) % unit == 0);
      sum += each;
    }
    REQUIRE(sum % (2 * unit) == 0);
    for (const Vector& step : steps) {  // the cell is bounded by these alone (Conway and Sloane 1982)
      Vector other;
      for (std::size_t d = 0; d < 8; ++d) other[d] = x[d] + step[d];
      REQUIRE(squared_distance(y, x) <= squared_distance(y, other));
    }
  }
}

TEST_CASE("the points of a Voronoi code differ, and the index of each is its own", "[codes][lattice]") {
  const higgs::NestedE8Codebook<2> book;
  std::vector<higgs::NestedE8Codebook<2>::Point> points;
  for (std::uint32_t i = 0; i < book.size; ++i) {
    points.push_back(book.decode(i));
    std::array<std::int32_t, 8> wide;
    std::copy(points.back().begin(), points.back().end(), wide.begin());
    REQUIRE(book.index_of(wide) == i);
  }
  std::sort(points.begin(), points.end());
  CHECK(std::adjacent_find(points.begin(), points.end()) == points.end());
}

TEMPLATE_TEST_CASE_SIG("points of a Voronoi code are those of the cell, in E8 + offset", "[codes][lattice]",
                       ((int Bits), Bits), 2, 3, 4) {
  using Book = higgs::NestedE8Codebook<Bits>;
  const std::vector<Vector> steps = shortest(Book::cell);
  for (std::uint64_t i = 0; i < 3000; ++i) {
    const auto index =
        static_cast<std::uint32_t>(higgs::random_bits(7, i) & (static_cast<std::uint64_t>(Book::size) - 1));
    const auto point = Book{}.decode(index);
    Vector wide, lattice;
    std::copy(point.begin(), point.end(), wide.begin());
    for (std::size_t d = 0; d < 8; ++d) lattice[d] = wide[d] - Book::offset;
    REQUIRE(Book::index_of(wide) == index);
    REQUIRE(higgs::nearest_e8(lattice, Book::unit) == lattice);
    for (const Vector& step : steps) REQUIRE(squared_distance(wide, {}) <= squared_distance(wide, step));
  }
}
