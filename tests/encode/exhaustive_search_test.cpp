// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/registry.hpp>
#include <higgs/encode/exhaustive_search.hpp>

#include <catch2/catch.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "equals_nearest.hpp"

namespace {
template <higgs::Codebook Book>
void check(const Book& book) {
  equals_nearest<higgs::ExhaustiveSearch<Book>>(book);
}
template <class... Books>
void check_all(higgs::TypeList<Books...>) {
  const auto one = []<class Book>(const Book& book) {
    if constexpr (higgs::Codebook<Book>)  // comparing more points takes too long
      if constexpr (Book::size <= 4096) check(book);
  };
  (one(Books{}), ...);
}

// int16 coordinates in two dimensions: no table of this library, but a Codebook.
struct Wide {
  static constexpr int dim = 2, size = 20;
  using Element = std::int16_t;
  using Index = std::uint8_t;
  using Point = std::array<std::int16_t, 2>;
  Point decode(Index i) const noexcept {
    return {static_cast<std::int16_t>(3000 * (i % 5) - 6000),
            static_cast<std::int16_t>(-4000 * (i / 5) + 100 * i)};
  }
  double step() const noexcept { return 0.0003; }
  double mse() const noexcept { return 0.1; }
  static std::string name() { return "wide"; }
};
}  // namespace

TEST_CASE("comparing all points equals nearest for every shipped codebook", "[encode][exhaustive_search]") {
  check_all(higgs::ShippedCodes{});
}

TEST_CASE("comparing all points equals nearest in every dimension", "[encode][exhaustive_search]") {
  check(random_book<1, 60>(1));
  check(random_book<2, 255>(2));
  check(random_book<3, 64>(3));
  check(random_book<4, 2>(4));
  check(random_book<5, 33>(5));
  check(random_book<6, 64>(6));
  check(random_book<7, 17>(7));
  check(random_book<8, 256>(8, -127));
  check(random_book<9, 20>(9, -60, 60));
  check(random_book<16, 16>(10, -50, 50));
  check(Wide{});
}

TEST_CASE("more than 256 points are compared in runs", "[encode][exhaustive_search]") {
  check(random_book<2, 257>(11));
  check(random_book<3, 512>(12));
  check(random_book<4, 1000>(13));
  check(random_book<2, 600>(14, -9, 9));  // most points are there more than once
}

TEST_CASE("points whose sums would not fit 32 bits are searched all the same",
          "[encode][exhaustive_search]") {
  check(random_book<2, 4>(15, -128, -128));
  check(random_book<16, 40>(16));
}

TEST_CASE("any number of vectors is encoded, and nothing beside them is written",
          "[encode][exhaustive_search]") {
  const auto book = random_book<3, 20>(17);
  const higgs::ExhaustiveSearch search(book);
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
