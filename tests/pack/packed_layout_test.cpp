// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/random.hpp>
#include <higgs/pack/packed_layout.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

using higgs::CodedGroup;
using higgs::Half;
using higgs::PackedLayout;

namespace {

// Writes the first symbol of a group, plus 1, and its number of symbols into each step of a lane.
void write_numbers(const CodedGroup& group, std::int64_t steps, std::int64_t step_bytes, std::uint8_t* lane) {
  std::vector<std::uint8_t> symbols(static_cast<std::size_t>(group.count));
  higgs::unpack_bits(group.row, group.symbol_bits, static_cast<std::size_t>(group.first), std::span(symbols));
  for (std::int64_t s = 0; s < steps; ++s) {
    lane[s * step_bytes] = static_cast<std::uint8_t>(symbols[0] + 1);
    lane[s * step_bytes + 1] = static_cast<std::uint8_t>(group.count);
  }
}

}  // namespace

TEST_CASE("every group and every scale is packed at the offset that the order says, the rest is zero",
          "[pack][packed_layout]") {
  higgs::ThreadPool pool(3);
  constexpr int bits = 5;
  for (const std::int64_t rows : {1, 31, 32, 70})
    for (const std::int64_t step_bytes : {128, 256, 384})
      for (const std::int64_t symbols : {1, 3, 16, 40}) {  // of a group, two weights each
        const PackedLayout layout{
            .rows = rows, .groups = 3, .group = 2 * symbols, .step_bytes = step_bytes, .step_inputs = 8};
        const auto per_row = static_cast<std::size_t>(3 * symbols);
        const std::size_t row_bytes = higgs::packed_bytes(per_row, bits);
        std::vector<std::uint8_t> codes(static_cast<std::size_t>(rows) * per_row);
        std::vector<std::uint8_t> bytes(static_cast<std::size_t>(rows) * row_bytes),
            packed(static_cast<std::size_t>(layout.bytes()), 0);
        for (std::size_t i = 0; i < codes.size(); ++i)
          codes[i] = static_cast<std::uint8_t>(higgs::random_bits(1, i) % (1u << bits));
        for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r)
          higgs::pack_bits(std::span<const std::uint8_t>(codes).subspan(r * per_row, per_row), bits,
                           std::span(bytes).subspan(r * row_bytes, row_bytes));
        std::vector<Half> scales(static_cast<std::size_t>(rows * 3));
        for (std::size_t i = 0; i < scales.size(); ++i)
          scales[i] = Half::from_bits(static_cast<std::uint16_t>(i + 1));

        higgs::pack_panels(layout, bytes, symbols, bits, scales, packed, write_numbers, pool);
        for (std::int64_t row = 0; row < layout.panels() * 32; ++row)
          for (std::int64_t group = 0; group < 3; ++group) {
            const std::uint8_t* at =
                packed.data() + row / 32 * layout.panel_bytes() + group * layout.group_bytes();
            std::uint16_t scale;
            std::memcpy(&scale, at + row % 32 * 2, 2);
            REQUIRE(scale == (row < rows ? row * 3 + group + 1 : 0));
            at += layout.scale_bytes() + row % 32 / 16 * (step_bytes / 2) + row % 16 * 4;
            for (std::int64_t s = 0; s < layout.steps_per_group(); ++s, at += step_bytes) {
              REQUIRE(at[0] ==
                      (row < rows ? codes[static_cast<std::size_t>((row * 3 + group) * symbols)] + 1 : 0));
              REQUIRE(at[1] == (row < rows ? symbols : 0));
            }
          }
      }
}

TEST_CASE("impossible layouts and spans of the wrong size are refused", "[pack][packed_layout]") {
  const PackedLayout layout{.rows = 2, .groups = 1, .group = 8, .step_bytes = 128, .step_inputs = 8};
  std::vector<std::uint8_t> codes(8), packed(static_cast<std::size_t>(layout.bytes()));
  std::vector<Half> scales(2);
  const auto pack = [&](const PackedLayout& with, std::size_t bytes, int bits, std::size_t count,
                        std::size_t size) {
    higgs::pack_panels(with, std::span(codes).first(bytes), 8, bits, std::span(scales).first(count),
                       std::span(packed).first(size), [](auto...) {});
  };
  CHECK_NOTHROW(pack(layout, 8, 4, 2, packed.size()));
  CHECK_THROWS_AS(pack(layout, 8, 5, 2, packed.size()), higgs::InvalidArgument);
  CHECK_THROWS_AS(pack(layout, 7, 4, 2, packed.size()), higgs::InvalidArgument);
  CHECK_THROWS_AS(pack(layout, 8, 4, 1, packed.size()), higgs::InvalidArgument);
  CHECK_THROWS_AS(pack(layout, 8, 4, 2, 9), higgs::InvalidArgument);
  CHECK_THROWS_AS(pack(layout, 8, 0, 2, packed.size()), higgs::InvalidArgument);
  PackedLayout odd = layout;
  odd.step_bytes = 100;
  CHECK_THROWS_AS(pack(odd, 8, 4, 2, packed.size()), higgs::InvalidArgument);
  odd = layout;
  odd.step_inputs = 0;
  CHECK_THROWS_AS(pack(odd, 8, 4, 2, packed.size()), higgs::InvalidArgument);
}
