// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/grid/tables/2x1024.hpp>
#include <higgs/codes/grid/tables/3x4096.hpp>
#include <higgs/codes/grid/tables/4x4096.hpp>
#include <higgs/encode/cell_search.hpp>

#include <catch2/catch.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "equals_nearest.hpp"

namespace {
template <higgs::Codebook Book>
void check(const Book& book) {
  equals_nearest<higgs::CellSearch<Book>>(book);
}
}  // namespace

TEST_CASE("cells lead to the nearest point for large tables that ship", "[encode][cell_search]") {
  check(higgs::GridCodebook<3, 512>{});
  check(higgs::GridCodebook<2, 1024>{});
  check(higgs::GridCodebook<3, 4096>{});
  check(higgs::GridCodebook<4, 4096>{});
}

TEST_CASE("cells lead to the nearest of any points", "[encode][cell_search]") {
  check(random_book<2, 2>(1));
  check(random_book<2, 300>(2));
  check(random_book<2, 1025>(3, -20, 20));  // equal points
  check(random_book<3, 200>(4));
  check(random_book<3, 600>(5, 100, 127));  // far from most inputs
  check(random_book<4, 257>(6, -60, 60));
  check(random_book<4, 3>(7, -128, -128));
}

TEST_CASE("exact ties between cells and inside go to the lower index", "[encode][cell_search]") {
  // A cubic lattice: each border lies on integers.
  using Book = higgs::GridCodebook<3, 512>;
  for (const bool reversed : {false, true}) {
    Book::Points points{};
    for (std::size_t i = 0; i < 512; ++i) {
      const std::size_t k = reversed ? 511 - i : i;
      const auto c = [](std::size_t v) {
        return static_cast<std::int8_t>(16 * static_cast<int>(v % 8) - 56);
      };
      points[i] = {c(k), c(k / 8), c(k / 64)};
    }
    std::vector<std::int32_t> y;
    for (int i = 0; i < 33 * 33 * 33; i += 5)
      for (const int v : {i, i / 33, i / 1089}) y.push_back(64 * 8 * (v % 33 - 16) + i % 3 - 1);
    const Book book(points, 0.03, 0);
    equals_nearest(higgs::CellSearch<Book>(book), book, y);
  }
}

TEST_CASE("any number of triples is encoded, and nothing beside them is written", "[encode][cell_search]") {
  const higgs::GridCodebook<3, 64> book;
  const higgs::CellSearch search(book);
  const std::vector<std::int32_t> y = telling_vectors(book);
  const std::vector<float> fixed(y.begin(), y.end());
  for (std::size_t count = 0; count <= 130; ++count)
    for (const higgs::Isa isa : all_isas()) {
      std::vector<std::uint8_t> codes(count + 1, 99);
      search.encode(std::span(fixed).first(3 * count), std::span(codes).first(count), isa);
      for (std::size_t i = 0; i < count; ++i)
        REQUIRE(codes[i] == higgs::nearest(book, std::span<const std::int32_t, 3>(y.data() + 3 * i, 3)));
      REQUIRE(codes[count] == 99);
    }
}
