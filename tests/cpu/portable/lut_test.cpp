// SPDX-License-Identifier: Apache-2.0
#include <higgs/cpu/portable/lut.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "cpu/panels.hpp"

namespace cpu = higgs::cpu;

namespace {

// Index `i` of a group in one row's lane, as the comment at the top of the header places it.
template <int Bits>
unsigned index_at(const std::uint8_t* lane, std::int64_t step_bytes, std::int64_t i) {
  constexpr int each = cpu::IndexFacts<Bits>::indices;
  lane += i / each * step_bytes + i % 4;
  const std::int64_t quad = i % each / 4;
  if (Bits == 8) return lane[0];
  if (Bits == 4) return quad == 0 ? lane[0] & 15u : unsigned{lane[0]} >> 4;
  return quad < 3 ? lane[64 * quad] & 63u
                  : unsigned{lane[0]} >> 6 | unsigned{lane[64]} >> 6 << 2 | unsigned{lane[128]} >> 6 << 4;
}

template <int Bits>
void check_packing(int symbol_bits, int per_index) {
  for (const std::int64_t count : {1, 3, 16, 40, 41, 44})  // symbols of a group, also of whole steps
    for (const std::int64_t group : {0, 1, 2}) {
      std::vector<std::uint16_t> symbols(static_cast<std::size_t>(3 * count));
      for (std::size_t i = 0; i < symbols.size(); ++i)
        symbols[i] = static_cast<std::uint16_t>(higgs::random_bits(1, i) % (1u << symbol_bits));
      std::vector<std::uint8_t> row(higgs::packed_bytes(symbols.size(), symbol_bits));
      higgs::pack_bits(std::span<const std::uint16_t>(symbols), symbol_bits, std::span(row));
      constexpr std::int64_t step_bytes = 128 * cpu::IndexFacts<Bits>::vectors;
      const std::int64_t each = cpu::IndexFacts<Bits>::indices * per_index, steps = (count + each - 1) / each;
      std::vector<std::uint8_t> lanes(static_cast<std::size_t>(steps * step_bytes));
      cpu::Lut<Bits, 1>::pack_group({row, group * count, count, symbol_bits}, per_index, steps, step_bytes,
                                    lanes.data());
      for (std::int64_t i = 0; i < steps * cpu::IndexFacts<Bits>::indices; ++i) {
        unsigned expected = 0;
        for (std::int64_t k = 0; k < per_index; ++k)
          if (const std::int64_t s = i * per_index + k; s < count)
            expected |= unsigned{symbols[static_cast<std::size_t>(group * count + s)]} << k * symbol_bits;
        REQUIRE(index_at<Bits>(lanes.data(), step_bytes, i) == expected);
      }
    }
}

}  // namespace

TEST_CASE("every index is packed at the offset that the header says, the rest is zero", "[cpu][lut]") {
  check_packing<4>(2, 2);
  check_packing<4>(4, 1);
  check_packing<6>(3, 2);
  check_packing<6>(6, 1);
  check_packing<6>(5, 1);
  check_packing<8>(8, 1);
  check_packing<8>(7, 1);
}

TEST_CASE("the tables of a format hold the coordinates of its symbols", "[cpu][lut]") {
  for_each_panel(1, []<class Code>(const RandomPanel<Code>& panel, const Code& code) {
    using Format = higgs::PackedFormatOf<Code>;
    if constexpr (std::is_same_v<typename Format::Tables, cpu::LutTables>) {
      const int width = Format::dim / Code::dim, bits = higgs::code_bits<Code>;
      REQUIRE(width * bits == Format::index_bits);
      for (int index = 0; index < 1 << Format::index_bits; ++index)
        for (int c = 0; c < Format::dim; ++c) {
          const int symbol = index >> c / Code::dim * bits & (Code::size - 1);
          const int expected =
              code.decode(static_cast<typename Code::Index>(symbol))[static_cast<std::size_t>(c % Code::dim)];
          int bytes = 0;
          for (int plane = 0, weight = 1; plane < Format::planes; ++plane, weight *= 256)
            bytes += weight * (panel.tables.bytes[plane + c][index] - 128);
          REQUIRE(bytes == expected);
        }
    }
  });
}

TEST_CASE("a decoded chunk holds the points of its symbols, four inputs of a row side by side",
          "[cpu][lut]") {
  for_each_panel(24, []<class Code>(const RandomPanel<Code>& panel, const Code& code) {
    using Format = higgs::PackedFormatOf<Code>;
    if constexpr (std::is_same_v<typename Format::Tables, cpu::LutTables>) {
      const std::vector<std::uint8_t> decoded = panel.decoded(cpu::Portable{});
      for (std::int64_t row = 0; row < 32; ++row)
        for (std::int64_t i = 0; i < 24; ++i)
          for (int d = 0; d < Format::dim; ++d)
            for (int plane = 0; plane < Format::planes; ++plane) {
              INFO(code.name() << ", row " << row << ", index " << i << ", coordinate " << d);
              const std::uint8_t* lane = panel.codes() + row / 16 * (Format::step_bytes / 2) + row % 16 * 4;
              const unsigned index = index_at<Format::index_bits>(lane, Format::step_bytes, i);
              const std::int64_t quad = i / 4 * Format::dim + d;
              REQUIRE(decoded[static_cast<std::size_t>(plane * cpu::chunk_bytes + quad * 128 + row * 4 +
                                                       i % 4)] == panel.tables.bytes[plane + d][index]);
            }
    }
  });
}

TEST_CASE("every instruction set decodes the same bytes", "[cpu][lut]") {
  for_each_panel(64, [](const auto& panel, const auto& code) {
    const std::vector<std::uint8_t> expected = panel.decoded(cpu::Portable{});
    for_each_set([&](auto set) {
      INFO(code.name() << ", instruction set " << static_cast<int>(decltype(set)::isa));
      REQUIRE(panel.decoded(set) == expected);
    });
  });
}

TEST_CASE("coordinates too large for two bytes are refused", "[cpu][lut]") {
  const auto table = [](int last) {
    return cpu::Lut<8, 1, 2>::make_tables(
        [last](int index) { return std::array<int, 1>{index == 255 ? last : 0}; });
  };
  CHECK_NOTHROW(table(32639));
  CHECK_THROWS_AS(table(32640), higgs::InvalidArgument);
}
