// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/grid/grid.hpp>
#include <higgs/codes/radix/radix.hpp>
#include <higgs/codes/uniform/uniform.hpp>
#include <higgs/core/code.hpp>
#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <array>
#include <cstdint>

TEMPLATE_TEST_CASE("the digits of a code are the codes of its points, the last one first", "[codes][radix]",
                   (higgs::RadixCodebook<higgs::GridCodebook<2, 84>, 5>),
                   (higgs::RadixCodebook<higgs::GridCodebook<2, 40>, 6>),
                   (higgs::RadixCodebook<higgs::GridCodebook<2, 23>, 7>),
                   (higgs::RadixCodebook<higgs::GridCodebook<1, 3>, 20>)) {
  using Digit = typename TestType::Digit;
  static_assert(higgs::Codebook<TestType> && higgs::code_bits<TestType> == 32);
  const TestType book;
  for (std::uint64_t trial = 0; trial < 1000; ++trial) {
    std::array<typename Digit::Index, TestType::digits> digits;
    std::uint64_t code = 0;
    for (std::size_t i = 0; i < digits.size(); ++i) {
      digits[i] = static_cast<typename Digit::Index>(higgs::random_bits(trial, i) % Digit::size);
      code = code * Digit::size + digits[i];
    }
    REQUIRE(code < std::uint64_t{1} << 32);
    const auto point = book.decode(static_cast<std::uint32_t>(code));
    for (std::size_t i = 0; i < digits.size(); ++i)
      for (std::size_t d = 0; d < Digit::dim; ++d)
        REQUIRE(point[i * Digit::dim + d] == book.digit().decode(digits[i])[d]);
  }
}

TEST_CASE("every 32 bits decode to points of the codebook", "[codes][radix]") {
  const higgs::RadixCodebook<higgs::GridCodebook<2, 84>, 5> book;
  const auto first = book.decode(0xffffffffu);  // 84^5 is less: the first digit wraps
  const std::uint32_t digit = 0xffffffffu / (84u * 84 * 84 * 84) % 84;
  CHECK(first[0] == book.digit().decode(static_cast<std::uint8_t>(digit))[0]);
  CHECK(first[1] == book.digit().decode(static_cast<std::uint8_t>(digit))[1]);
}
