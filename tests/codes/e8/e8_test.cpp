// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/e8/e8.hpp>
#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <vector>

TEST_CASE("the 65,536 points of the E8 code differ, and their negatives are among them", "[codes][e8]") {
  const higgs::E8Codebook book;
  std::vector<higgs::E8Codebook::Point> points;
  for (int i = 0; i < book.size; ++i) points.push_back(book.decode(static_cast<std::uint16_t>(i)));
  std::sort(points.begin(), points.end());
  CHECK(std::adjacent_find(points.begin(), points.end()) == points.end());
  bool all = true;
  for (const auto& point : points) {
    auto negative = point;
    for (auto& each : negative) each = static_cast<std::int8_t>(-each);
    all = all && std::binary_search(points.begin(), points.end(), negative);
  }
  CHECK(all);
}

TEST_CASE("an index of the E8 code says side, pattern and signs", "[codes][e8]") {
  const higgs::E8Codebook book;
  for (int i = 0; i < book.size; ++i) {
    const auto point = book.decode(static_cast<std::uint16_t>(i));
    const int shift = i < 32768 ? higgs::detail::e8_shift : -higgs::detail::e8_shift;
    const int number = i >> 7 & 255;
    int negative = 0;
    bool zero = false;
    for (std::size_t d = 0; d < 8; ++d) {
      const int magnitude = point[d] - shift;
      negative += magnitude < 0;
      zero = zero || magnitude == 0;
      if (d < 7 && magnitude != 0) REQUIRE((magnitude < 0) == ((i >> d & 1) != 0));
      REQUIRE(
          std::abs(magnitude) ==
          int{higgs::detail::e8_levels[higgs::detail::e8_patterns[static_cast<std::size_t>(number)] >> 4 * d &
                                       15u]});
    }
    REQUIRE((zero || negative % 2 == number / 128));
  }
}

TEST_CASE("the table of the E8 code takes 1 KiB, its points an int8", "[codes][e8]") {
  CHECK(sizeof higgs::detail::e8_patterns == 1024);
  const int largest = *std::max_element(higgs::detail::e8_levels.begin(), higgs::detail::e8_levels.end());
  CHECK(largest + higgs::detail::e8_shift <= 127);
}
