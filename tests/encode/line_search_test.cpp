// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/registry.hpp>
#include <higgs/encode/line_search.hpp>

#include <catch2/catch.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "equals_nearest.hpp"

namespace {
template <higgs::Codebook Book>
void every_input_equals_nearest(const Book& book) {
  std::vector<std::int32_t> y;
  for (std::int32_t v = -higgs::fixed_limit<Book>; v <= higgs::fixed_limit<Book>; ++v) y.push_back(v);
  equals_nearest(higgs::LineSearch<Book>(book), book, y);
}
template <higgs::Codebook Book>
void equals_nearest_near(const Book& book) {
  equals_nearest<higgs::LineSearch<Book>>(book);
}
}  // namespace

TEST_CASE("on a line of int8 points every fixed-point input gets its nearest", "[encode][line_search]") {
  every_input_equals_nearest(higgs::GridCodebook<1, 4>{});
  every_input_equals_nearest(higgs::GridCodebook<1, 8>{});
  every_input_equals_nearest(higgs::GridCodebook<1, 16>{});
  every_input_equals_nearest(random_book<1, 2>(1));
  every_input_equals_nearest(random_book<1, 64>(2));
  every_input_equals_nearest(random_book<1, 50>(3, -128, -110));  // neighbours, equal points, the lower end
  every_input_equals_nearest(random_book<1, 50>(4, 110, 127));
  every_input_equals_nearest(random_book<1, 5>(5, 7, 7));
  equals_nearest_near(higgs::UniformCodebook8{});
}

TEST_CASE("on a line of int16 points borders get their nearest", "[encode][line_search]") {
  equals_nearest_near(higgs::GridCodebook<1, 256>{});
  equals_nearest_near(random_book<1, 256>(6, -32768, 32767));
  equals_nearest_near(random_book<1, 65>(7, -32768, -32700));
  equals_nearest_near(random_book<1, 1000>(8, -32768, 32767));  // 16-bit codes
  equals_nearest_near(random_book<1, 3000>(9, -700, 700));
}

TEST_CASE("tables in any order and with equal points keep the lowest index", "[encode][line_search]") {
  using Line = higgs::GridCodebook<1, 8>;
  every_input_equals_nearest(
      Line({{{{5}}, {{-3}}, {{5}}, {{100}}, {{-3}}, {{-127}}, {{6}}, {{0}}}}, 0.05, 0));
}

TEST_CASE("any number of inputs is encoded, and nothing beside them is written", "[encode][line_search]") {
  const higgs::GridCodebook<1, 16> book;
  const higgs::LineSearch search(book);
  const std::vector<std::int32_t> y = telling_vectors(book);
  const std::vector<float> fixed(y.begin(), y.end());
  for (std::size_t count = 0; count <= 130; ++count)
    for (const higgs::Isa isa : all_isas()) {
      std::vector<std::uint8_t> codes(count + 1, 99);
      search.encode(std::span(fixed).first(count), std::span(codes).first(count), isa);
      for (std::size_t i = 0; i < count; ++i)
        REQUIRE(codes[i] == higgs::nearest(book, std::span<const std::int32_t, 1>(y.data() + i, 1)));
      REQUIRE(codes[count] == 99);
    }
}
