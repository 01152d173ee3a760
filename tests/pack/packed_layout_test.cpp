// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/random.hpp>
#include <higgs/pack/packed_layout.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

using higgs::Half;
using higgs::PackedLayout;

namespace {

// The unit `u` of a group as the comment at the top of the header places it.
unsigned unit_at(const PackedLayout& layout, const std::vector<std::uint8_t>& tiles, std::int64_t row,
                 std::int64_t group, std::int64_t u) {
  const std::int64_t step = u / layout.units_per_step(), within = u % layout.units_per_step(),
                     quad = within / 4;
  const std::int64_t start = row / 32 * layout.strip_bytes() + group * layout.group_bytes() +
                             layout.scale_bytes() + step * layout.step_bytes() +
                             row % 32 / 16 * (layout.step_bytes() / 2) + row % 16 * 4 + within % 4;
  const auto byte = [&](std::int64_t vector) {
    return unsigned{tiles[static_cast<std::size_t>(start + 64 * vector)]};
  };
  if (layout.unit_bits == 16) return byte(0) << 7 | (byte(1) & 127u) | byte(1) >> 7 << 15;
  if (layout.unit_bits == 8) return byte(0);
  if (layout.unit_bits == 4) return quad == 0 ? byte(0) & 15u : byte(0) >> 4;
  return quad < 3 ? byte(quad) & 63u : byte(0) >> 6 | byte(1) >> 6 << 2 | byte(2) >> 6 << 4;
}

}  // namespace

TEST_CASE("every code and every scale lies where the order says, the rest is zero", "[pack][packed_layout]") {
  higgs::ThreadPool pool(3);
  const struct {
    int code_bits, unit_bits, codes_per_unit;
  } orders[] = {{2, 4, 2}, {4, 4, 1}, {3, 6, 2}, {6, 6, 1}, {8, 8, 1}, {7, 8, 1}, {5, 6, 1}, {16, 16, 1}};
  for (const auto& order : orders)
    for (const std::int64_t rows : {1, 31, 32, 70})
      for (const std::int64_t codes_each :
           {1, 3, 16, 40, 41, 44}) {  // also of whole steps, with and without a rest
        const PackedLayout layout{.rows = rows,
                                .groups = 3,
                                .codes_per_group = codes_each,
                                .code_bits = order.code_bits,
                                .unit_bits = order.unit_bits,
                                .codes_per_unit = order.codes_per_unit};
        const auto per_row = static_cast<std::size_t>(3 * codes_each);
        const std::size_t row_bytes = higgs::packed_bytes(per_row, order.code_bits);
        std::vector<std::uint16_t> codes(static_cast<std::size_t>(rows) * per_row);
        std::vector<std::uint8_t> bytes(static_cast<std::size_t>(rows) * row_bytes),
            tiles(static_cast<std::size_t>(layout.bytes()), 0xee);
        for (std::size_t i = 0; i < codes.size(); ++i)
          codes[i] = static_cast<std::uint16_t>(higgs::random_bits(1, i) % (1u << order.code_bits));
        for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r)
          higgs::pack_bits(std::span<const std::uint16_t>(codes).subspan(r * per_row, per_row),
                           order.code_bits, std::span(bytes).subspan(r * row_bytes, row_bytes));
        std::vector<Half> scales(static_cast<std::size_t>(rows * 3));
        for (std::size_t i = 0; i < scales.size(); ++i)
          scales[i] = Half::from_bits(static_cast<std::uint16_t>(i + 1));

        higgs::pack_panels(layout, bytes, static_cast<std::int64_t>(row_bytes), scales, tiles, pool);
        const std::int64_t units = layout.steps_per_group() * layout.units_per_step();
        for (std::int64_t row = 0; row < layout.strips() * 32; ++row)
          for (std::int64_t group = 0; group < 3; ++group) {
            std::uint16_t scale;
            std::memcpy(&scale,
                        &tiles[static_cast<std::size_t>(row / 32 * layout.strip_bytes() +
                                                        group * layout.group_bytes() + row % 32 * 2)],
                        2);
            REQUIRE(scale == (row < rows ? row * 3 + group + 1 : 0));
            for (std::int64_t u = 0; u < units; ++u) {
              unsigned expected = 0;
              for (std::int64_t i = 0; i < layout.codes_per_unit; ++i)
                if (const std::int64_t c = u * layout.codes_per_unit + i; row < rows && c < codes_each)
                  expected |= unsigned{codes[static_cast<std::size_t>((row * 3 + group) * codes_each + c)]}
                              << i * order.code_bits;
              REQUIRE(unit_at(layout, tiles, row, group, u) == expected);
            }
          }
      }
}

TEST_CASE("impossible layouts and spans of the wrong size are refused", "[pack][packed_layout]") {
  const PackedLayout layout{.rows = 2, .groups = 1, .codes_per_group = 8, .code_bits = 4, .unit_bits = 4};
  std::vector<std::uint8_t> codes(8), tiles(static_cast<std::size_t>(layout.bytes()));
  std::vector<Half> scales(2);
  CHECK_NOTHROW(higgs::pack_panels(layout, codes, 4, scales, tiles));
  CHECK_THROWS_AS(higgs::pack_panels(layout, codes, 5, scales, tiles), higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::pack_panels(layout, std::span(codes).first(7), 4, scales, tiles),
                  higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::pack_panels(layout, codes, 4, std::span(scales).first(1), tiles),
                  higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::pack_panels(layout, codes, 4, scales, std::span(tiles).first(9)),
                  higgs::InvalidArgument);
  PackedLayout odd = layout;
  odd.unit_bits = 5;
  CHECK_THROWS_AS(higgs::pack_panels(odd, codes, 4, scales, tiles), higgs::InvalidArgument);
  odd = layout;
  odd.codes_per_unit = 2;
  CHECK_THROWS_AS(higgs::pack_panels(odd, codes, 4, scales, tiles), higgs::InvalidArgument);
  odd = layout;
  odd.unit_bits = 16;  // of whole codes only
  CHECK_THROWS_AS(higgs::pack_panels(odd, codes, 4, scales, tiles), higgs::InvalidArgument);
}
