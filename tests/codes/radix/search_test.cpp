// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/grid/grid.hpp>
#include <higgs/codes/radix/code.hpp>
#include <higgs/codes/radix/search.hpp>
#include <higgs/core/random.hpp>
#include <higgs/encode/encoder.hpp>

#include <catch2/catch.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "encode/equals_nearest.hpp"

// Three digits of few points, so that the definition can compare all numbers that three digits make.
TEST_CASE("the number of the nearest digits is the nearest number, ties included", "[codes][radix]") {
  using Digit = higgs::GridCodebook<2, 16>;
  using Book = higgs::RadixCodebook<Digit, 3>;
  const Digit digit;
  const Book book(digit);
  const higgs::RadixSearch<Book> search(book);
  constexpr std::size_t count = 300;
  std::vector<float> fixed(6 * count);
  for (std::size_t i = 0; i < fixed.size(); ++i) {
    const auto code = static_cast<std::uint8_t>(higgs::random_bits(1, i) % 16);
    const auto other = static_cast<std::uint8_t>(higgs::random_bits(2, i) % 16);
    const int middle =
        (digit.decode(code)[i % 2] + digit.decode(other)[i % 2]) * (1 << higgs::fraction_bits<Book>) / 2;
    fixed[i] = i % 12 < 6 ? static_cast<float>(middle)
                          : static_cast<float>(std::rint(higgs::random_normal(3, i) * 32 / digit.step()));
  }
  for (const higgs::Isa isa : all_isas()) {
    std::vector<std::uint32_t> codes(count);
    search.encode(fixed, codes, isa);
    for (std::size_t v = 0; v < count; v += 3) {
      std::array<std::int32_t, 6> y;
      for (std::size_t d = 0; d < 6; ++d) y[d] = static_cast<std::int32_t>(fixed[6 * v + d]);
      std::uint32_t best = 0;
      for (std::uint32_t code = 1; code < 4096; ++code)
        if (higgs::nearest_score<Book>(y, book.decode(code)) >
            higgs::nearest_score<Book>(y, book.decode(best)))
          best = code;
      REQUIRE(codes[v] == best);
    }
  }
}

TEST_CASE("84 points five times are searched by cells", "[codes][radix]") {
  using Digit = higgs::GridCodebook<2, 84>;
  using Book = higgs::RadixCodebook<Digit, 5>;
  constexpr std::size_t count = 100;
  std::vector<float> fixed(10 * count), finer(fixed.size());
  for (std::size_t i = 0; i < fixed.size(); ++i) {
    fixed[i] = static_cast<float>(std::rint(higgs::random_normal(5, i) * 32 / Digit{}.step()));
    finer[i] = 4 * fixed[i];
  }
  std::vector<std::uint32_t> codes(count);
  higgs::PointSearch<Book>(Book{}).encode(fixed, codes);
  for (std::size_t v = 0; v < count; ++v) {
    std::uint32_t expected = 0;
    for (std::size_t k = 0; k < 5; ++k) {
      const std::array<std::int32_t, 2> y{static_cast<std::int32_t>(finer[10 * v + 2 * k]),
                                          static_cast<std::int32_t>(finer[10 * v + 2 * k + 1])};
      expected = expected * 84 + higgs::nearest(Digit{}, std::span<const std::int32_t, 2>(y));
    }
    REQUIRE(codes[v] == expected);
  }
}
