// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/strip.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <type_traits>
#include <vector>

#include "strips.hpp"

namespace detail = higgs::detail;

// The unit `u` of a row as the comment at the top of pack/packed_layout.hpp places it.
static unsigned unit_at(const RandomStrip& strip, std::int64_t row, std::int64_t u) {
  const std::int64_t per_step = strip.layout.units_per_step(), quad = u % per_step / 4;
  const std::uint8_t* lane = strip.codes() + u / per_step * strip.layout.step_bytes() +
                             row / 16 * (strip.layout.step_bytes() / 2) + row % 16 * 4 + u % 4;
  if (strip.layout.unit_bits == 16)
    return unsigned{lane[0]} << 7 | (lane[64] & 127u) | unsigned{lane[64]} >> 7 << 15;
  if (strip.layout.unit_bits == 8) return lane[0];
  if (strip.layout.unit_bits == 4) return quad == 0 ? lane[0] & 15u : unsigned{lane[0]} >> 4;
  return quad < 3 ? lane[64 * quad] & 63u
                  : unsigned{lane[0]} >> 6 | unsigned{lane[64]} >> 6 << 2 | unsigned{lane[128]} >> 6 << 4;
}

TEST_CASE("a decoded chunk holds the points of its codes, four inputs of a row side by side",
          "[matmul][strip]") {
  for_each_strip(24, [](const RandomStrip& strip, const auto& book) {
    const std::vector<std::uint8_t> decoded = strip.decoded(detail::portable::decode_chunk);
    const int dim = strip.tables.dim;
    for (std::int64_t row = 0; row < 32; ++row)
      for (std::int64_t u = 0; u < 24; ++u)
        for (int d = 0; d < dim; ++d)
          for (int plane = 0; plane < strip.tables.planes; ++plane) {
            INFO(book.name() << ", row " << row << ", unit " << u << ", coordinate " << d);
            const std::int64_t quad = u / 4 * dim + d;
            const unsigned unit = unit_at(strip, row, u);
            int expected;
            if constexpr (std::is_same_v<std::remove_cvref_t<decltype(book)>, higgs::E8Codebook>)
              expected = 128 + book.decode(static_cast<std::uint16_t>(unit))[static_cast<std::size_t>(d)];
            else
              expected = strip.tables.bytes[plane + d][unit];
            REQUIRE(decoded[static_cast<std::size_t>(plane * detail::chunk_bytes + quad * 128 + row * 4 +
                                                     u % 4)] == expected);
          }
  });
}
