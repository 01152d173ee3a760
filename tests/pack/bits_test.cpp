// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/random.hpp>
#include <higgs/pack/bits.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace {
std::vector<std::uint16_t> random_codes(std::size_t count, int bits, std::uint64_t seed) {
  std::vector<std::uint16_t> codes(count);
  for (std::size_t i = 0; i < count; ++i)
    codes[i] = static_cast<std::uint16_t>(higgs::random_bits(seed, i) & ((1u << bits) - 1u));
  return codes;
}
std::vector<std::uint8_t> pack(const std::vector<std::uint16_t>& codes, int bits) {
  std::vector<std::uint8_t> bytes(higgs::packed_bytes(codes.size(), bits), 0xff);
  higgs::pack_bits(std::span<const std::uint16_t>(codes), bits, std::span<std::uint8_t>(bytes));
  return bytes;
}
}  // namespace

TEST_CASE("bit k of code i is bit i * b + k of the row, for every width", "[pack][bits]") {
  for (int bits = 1; bits <= 16; ++bits)
    for (const std::size_t count : {0u, 1u, 2u, 5u, 8u, 63u, 100u}) {
      const auto codes = random_codes(count, bits, static_cast<std::uint64_t>(bits));
      const auto bytes = pack(codes, bits);
      const auto width = static_cast<std::size_t>(bits);
      REQUIRE(bytes.size() == (count * width + 7) / 8);
      for (std::size_t at = 0; at < bytes.size() * 8; ++at) {
        const int bit = bytes[at / 8] >> (at % 8) & 1;
        REQUIRE(bit == (at < count * width ? codes[at / width] >> (at % width) & 1 : 0));
      }
    }
}

TEST_CASE("codes that are bytes pack like wider ones", "[pack][bits]") {
  for (int bits = 1; bits <= 8; ++bits)
    for (std::size_t count = 0; count <= 70; ++count) {
      const auto codes = random_codes(count, bits, count);
      const std::vector<std::uint8_t> narrow(codes.begin(), codes.end());
      std::vector<std::uint8_t> bytes(higgs::packed_bytes(count, bits), 0xff);
      higgs::pack_bits(std::span<const std::uint8_t>(narrow), bits, std::span<std::uint8_t>(bytes));
      REQUIRE(bytes == pack(codes, bits));
    }
}

TEST_CASE("codes of up to 32 bits come back, those of 16 and fewer as narrower types pack them",
          "[pack][bits]") {
  for (int bits = 1; bits <= 32; ++bits) {
    std::vector<std::uint32_t> codes(50);
    for (std::size_t i = 0; i < codes.size(); ++i)
      codes[i] = static_cast<std::uint32_t>(higgs::random_bits(4, i) & ((std::uint64_t{1} << bits) - 1));
    std::vector<std::uint8_t> bytes(higgs::packed_bytes(codes.size(), bits));
    higgs::pack_bits(std::span<const std::uint32_t>(codes), bits, std::span<std::uint8_t>(bytes));
    if (bits <= 16) REQUIRE(bytes == pack({codes.begin(), codes.end()}, bits));
    std::vector<std::uint32_t> back(41);
    higgs::unpack_bits(std::span<const std::uint8_t>(bytes), bits, 9, std::span<std::uint32_t>(back));
    REQUIRE(std::equal(back.begin(), back.end(), codes.begin() + 9));
  }
}

TEST_CASE("any run of codes comes back", "[pack][bits]") {
  for (int bits = 1; bits <= 16; ++bits) {
    const auto codes = random_codes(70, bits, 99);
    const auto bytes = pack(codes, bits);
    for (std::size_t first = 0; first <= codes.size(); ++first)
      for (const std::size_t count :
           {std::size_t{0}, std::size_t{1}, (codes.size() - first) / 2, codes.size() - first}) {
        if (first + count > codes.size()) continue;
        std::vector<std::uint16_t> back(count);
        higgs::unpack_bits(std::span<const std::uint8_t>(bytes), bits, first, std::span<std::uint16_t>(back));
        REQUIRE(std::equal(back.begin(), back.end(), codes.begin() + static_cast<std::ptrdiff_t>(first)));
      }
  }
}

TEST_CASE("the bit order is pinned", "[pack][bits]") {
  CHECK(pack({1, 2, 3, 4}, 6) == std::vector<std::uint8_t>{0x81, 0x30, 0x10});
  CHECK(pack({0xabc, 0x123}, 12) == std::vector<std::uint8_t>{0xbc, 0x3a, 0x12});
  CHECK(pack({1, 0, 1}, 1) == std::vector<std::uint8_t>{5});
}

TEST_CASE("wrong widths and sizes are refused", "[pack][bits]") {
  std::vector<std::uint16_t> codes(4);
  std::vector<std::uint8_t> bytes(3);
  const std::span<const std::uint16_t> in(codes);
  CHECK_THROWS_AS(higgs::pack_bits(in, 0, std::span(bytes)), higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::pack_bits(in, 33, std::span(bytes)), higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::pack_bits(in, 5, std::span(bytes).first(2)), higgs::InvalidArgument);
  const std::span<const std::uint8_t> packed(bytes);
  CHECK_THROWS_AS(higgs::unpack_bits(packed, 6, 1, std::span(codes)), higgs::InvalidArgument);
  CHECK_NOTHROW(higgs::unpack_bits(packed, 6, 0, std::span(codes)));
}
