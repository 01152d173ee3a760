// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/registry.hpp>
#include <higgs/encode/plane_search.hpp>

#include <catch2/catch.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "equals_nearest.hpp"

namespace {
template <higgs::Codebook Book>
void check(const Book& book) {
  const higgs::PlaneSearch<Book> search(book);
  const std::vector<std::int32_t> y = telling_vectors(book);
  equals_nearest(search, book, y);
  equals_nearest_alone(search, book, y);
}
}  // namespace

TEST_CASE("the cells of the plane lead to the nearest point for shipped codebooks",
          "[encode][plane_search]") {
  check(higgs::GridCodebook<2, 16>{});
  check(higgs::GridCodebook<2, 64>{});
  check(higgs::GridCodebook<2, 256>{});
}

TEST_CASE("the cells of the plane lead to the nearest of any points", "[encode][plane_search]") {
  check(random_book<2, 2>(1));
  check(random_book<2, 64>(2));
  check(random_book<2, 65>(3));
  check(random_book<2, 128>(4));
  check(random_book<2, 129>(5));
  check(random_book<2, 200>(6));
  check(random_book<2, 256>(7));
  check(random_book<2, 256>(8, -30, 30));    // crowded cells
  check(random_book<2, 256>(9, -4, 4));      // and equal points
  check(random_book<2, 100>(10, 100, 127));  // far from most inputs
  check(random_book<2, 3>(11, 60, 127));
  check(random_book<2, 5>(12, -128, -128));
}

TEST_CASE("exact ties on the edges of cells go to the lower index", "[encode][plane_search]") {
  // A square lattice of points at odd multiples of four: every border is the edge of a cell.
  using Book = higgs::GridCodebook<2, 256>;
  for (const bool reversed : {false, true}) {
    Book::Points points{};
    for (std::size_t i = 0; i < 256; ++i) {
      const std::size_t k = reversed ? 255 - i : i;
      points[i] = {static_cast<std::int8_t>(8 * static_cast<int>(k % 16) - 60),
                   static_cast<std::int8_t>(8 * static_cast<int>(k / 16) - 60)};
    }
    const Book book(points, 0.03, 0);
    std::vector<std::int32_t> y;
    for (int a = -64; a <= 64; a += 2)
      for (int b = -64; b <= 64; b += 2)
        for (int near = 0; near < 9; ++near) {
          y.push_back(128 * a + near % 3 - 1);
          y.push_back(128 * b + near / 3 - 1);
        }
    equals_nearest_alone(higgs::PlaneSearch<Book>(book), book, y);
  }
}

TEST_CASE("any number of pairs is encoded, and nothing beside them is written", "[encode][plane_search]") {
  const higgs::GridCodebook<2, 64> book;
  const higgs::PlaneSearch search(book);
  const std::vector<std::int32_t> y = telling_vectors(book);
  const std::vector<float> fixed(y.begin(), y.end());
  for (std::size_t count = 0; count <= 130; ++count)
    for (const higgs::Isa isa : all_isas()) {
      std::vector<std::uint8_t> codes(count + 1, 99);
      search.encode(std::span(fixed).first(2 * count), std::span(codes).first(count), isa);
      for (std::size_t i = 0; i < count; ++i)
        REQUIRE(codes[i] == higgs::nearest(book, std::span<const std::int32_t, 2>(y.data() + 2 * i, 2)));
      REQUIRE(codes[count] == 99);
    }
}
