// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/grid/grid.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <type_traits>

TEST_CASE("a grid made without arguments is the table that ships", "[codes][grid]") {
  constexpr higgs::GridCodebook<2, 256> book;
  STATIC_REQUIRE(higgs::Codebook<higgs::GridCodebook<2, 256>>);
  CHECK(book.points() == higgs::GaussianGrid<2, 256>::points);
  CHECK(book.decode(200) == book.points()[200]);
  CHECK(book.mse() == higgs::GaussianGrid<2, 256>::mse);
  CHECK(book.name() == "2x256");
}

TEST_CASE("a caller may bring another table", "[codes][grid]") {
  constexpr higgs::GridCodebook<1, 4> book({{{{-3}}, {{-1}}, {{1}}, {{3}}}}, 0.5, 0.119);
  STATIC_REQUIRE(book.decode(3)[0] == 3);
  STATIC_REQUIRE(book.step() == 0.5);
}

TEST_CASE("8 bits on a line take 16-bit coordinates, all else 8-bit ones", "[codes][grid]") {
  STATIC_REQUIRE(std::is_same_v<higgs::GridCodebook<1, 256>::Element, std::int16_t>);
  STATIC_REQUIRE(std::is_same_v<higgs::GridCodebook<1, 16>::Element, std::int8_t>);
  STATIC_REQUIRE(std::is_same_v<higgs::GridCodebook<4, 256>::Element, std::int8_t>);
}
