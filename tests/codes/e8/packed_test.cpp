// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/e8/packed.hpp>
#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <cstring>
#include <vector>

#include "cpu/panels.hpp"

using higgs::cpu::E8Format;

namespace {

// Code `i` of a group in one row's lane, as the comment at the top of the header places it.
unsigned code_at(const std::uint8_t* lane, std::int64_t i) {
  lane += i / 4 * E8Format::step_bytes + i % 4;
  return unsigned{lane[0]} << 7 | (lane[64] & 127u) | unsigned{lane[64]} >> 7 << 15;
}

}  // namespace

TEST_CASE("every code of E8 is packed at the offset that the header says, the rest is zero", "[codes][e8]") {
  for (const std::int64_t count : {1, 3, 4, 16, 41})
    for (const std::int64_t group : {0, 1, 2}) {
      std::vector<std::uint16_t> codes(static_cast<std::size_t>(3 * count));
      for (std::size_t i = 0; i < codes.size(); ++i)
        codes[i] = static_cast<std::uint16_t>(higgs::random_bits(1, i));
      std::vector<std::uint8_t> row(2 * codes.size());
      std::memcpy(row.data(), codes.data(), row.size());
      const std::int64_t steps = (count + 3) / 4;
      std::vector<std::uint8_t> lanes(static_cast<std::size_t>(steps * E8Format::step_bytes));
      E8Format::pack_group({row, group * count, count, 16}, 1, steps, E8Format::step_bytes, lanes.data());
      for (std::int64_t i = 0; i < 4 * steps; ++i)
        REQUIRE(code_at(lanes.data(), i) ==
                (i < count ? codes[static_cast<std::size_t>(group * count + i)] : 0));
    }
}

TEST_CASE("a decoded chunk holds the points of E8's codes", "[codes][e8]") {
  const RandomPanel<higgs::E8Codebook> panel(higgs::E8Codebook{}, 24);
  const std::vector<std::uint8_t> decoded = panel.decoded(higgs::cpu::Portable{});
  for (std::int64_t row = 0; row < 32; ++row)
    for (std::int64_t i = 0; i < 24; ++i) {
      const std::uint8_t* lane = panel.codes() + row / 16 * (E8Format::step_bytes / 2) + row % 16 * 4;
      const auto point = higgs::E8Codebook{}.decode(static_cast<std::uint16_t>(code_at(lane, i)));
      for (std::size_t d = 0; d < 8; ++d)
        REQUIRE(decoded[static_cast<std::size_t>((i / 4 * 8 + static_cast<std::int64_t>(d)) * 128 + row * 4 +
                                                 i % 4)] == 128 + point[d]);
    }
}
