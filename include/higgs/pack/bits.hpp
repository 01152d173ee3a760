// SPDX-License-Identifier: Apache-2.0
// Interchange bit order: code i of a row occupies bits [i * b, (i + 1) * b) of the row's bytes, low bits first.
//
//     b = 6      byte 0            byte 1            byte 2
//            |1 1 0 0 0 0 0 0|  |2 2 2 2 1 1 1 1|  |3 3 3 3 3 3 2 2|      (bit 7 ... bit 0 of each byte)
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/error.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

namespace higgs {
inline namespace v0 {

/// Bytes that hold `count` codes of `bits` bits.
constexpr std::size_t packed_bytes(std::size_t count, int bits) noexcept {
  return (count * static_cast<std::size_t>(bits) + 7) / 8;
}

/// Writes `codes`, each below 2^bits, into `bytes` (packed_bytes(codes.size(), bits)); unused high bits become 0.
/// Requires 1 <= bits <= 32.
template <std::unsigned_integral Index>
constexpr void pack_bits(std::span<const Index> codes, int bits, std::span<std::uint8_t> bytes) {
  expects(bits >= 1 && bits <= 32, "higgs::pack_bits: bits must lie in [1, 32]");
  expects(bytes.size() == packed_bytes(codes.size(), bits), "higgs::pack_bits: bytes has the wrong size");
  std::size_t in = 0, out = 0;
  if constexpr (sizeof(Index) == 1) {
    if (bits == 8) {
      std::copy(codes.begin(), codes.end(), bytes.begin());
      return;
    }
    // Eight codes make `bits` bytes: neighbours close up in pairs, then in fours, then in eights.
    for (; in + 8 <= codes.size(); in += 8) {
      std::uint64_t word = 0;
      HIGGS_UNROLL for (std::size_t i = 0; i < 8; ++i)
        word |= static_cast<std::uint64_t>(codes[in + i]) << (8 * i);
      word = (word & 0x00ff00ff00ff00ffu) | (word >> 8 & 0x00ff00ff00ff00ffu) << bits;
      word = (word & 0x0000ffff0000ffffu) | (word >> 16 & 0x0000ffff0000ffffu) << 2 * bits;
      word = (word & 0x00000000ffffffffu) | word >> 32 << 4 * bits;
      for (int byte = 0; byte < bits; ++byte, word >>= 8) bytes[out++] = static_cast<std::uint8_t>(word);
    }
  }
  std::uint64_t pending = 0;
  int held = 0;
  for (; in < codes.size(); ++in) {
    pending |= static_cast<std::uint64_t>(codes[in]) << held;
    for (held += bits; held >= 8; held -= 8, pending >>= 8) bytes[out++] = static_cast<std::uint8_t>(pending);
  }
  if (held > 0) bytes[out] = static_cast<std::uint8_t>(pending);
}

/// Reads codes [first, first + codes.size()) of a row back. Requires 1 <= bits <= 32 and that `bytes` holds them all.
template <std::unsigned_integral Index>
constexpr void unpack_bits(std::span<const std::uint8_t> bytes, int bits, std::size_t first,
                           std::span<Index> codes) {
  expects(bits >= 1 && bits <= 32, "higgs::unpack_bits: bits must lie in [1, 32]");
  expects(packed_bytes(first + codes.size(), bits) <= bytes.size(), "higgs::unpack_bits: bytes is too short");
  if (codes.empty()) return;
  if (bits == 8) {
    std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(first), codes.size(), codes.begin());
    return;
  }
  std::size_t out = 0;
  if constexpr (sizeof(Index) == 1) {
    // Eight codes from eight bytes, of which they are at most 7 * 8 + 7 bits: pack_bits backwards.
    const auto spread = [bits](std::uint64_t word, int codes_each, std::uint64_t low) {
      const std::uint64_t keep = low * ((std::uint64_t{1} << codes_each * bits) - 1u);
      return (word & keep) | (word >> codes_each * bits & keep) << 8 * codes_each;
    };
    for (; bits < 8 && out + 8 <= codes.size(); out += 8) {
      const std::size_t bit = (first + out) * static_cast<std::size_t>(bits), byte = bit / 8;
      if (byte + 8 > bytes.size()) break;
      std::uint64_t word = 0;
      HIGGS_UNROLL for (std::size_t i = 0; i < 8; ++i)
        word |= static_cast<std::uint64_t>(bytes[byte + i]) << (8 * i);
      word = spread(word >> bit % 8, 4, 1u);
      word = spread(word, 2, 0x0000000100000001u);
      word = spread(word, 1, 0x0001000100010001u);
      HIGGS_UNROLL for (std::size_t i = 0; i < 8; ++i)
        codes[out + i] = static_cast<Index>(word >> (8 * i) & 0xffu);
    }
    if (out == codes.size()) return;
  }
  const std::uint64_t mask = (std::uint64_t{1} << bits) - 1u;
  const std::size_t begin = (first + out) * static_cast<std::size_t>(bits);
  std::size_t in = begin / 8;
  int held = 8 - static_cast<int>(begin % 8);
  std::uint64_t pending = static_cast<std::uint64_t>(bytes[in++]) >> (8 - held);
  for (Index& code : codes.subspan(out)) {
    for (; held < bits; held += 8) pending |= static_cast<std::uint64_t>(bytes[in++]) << held;
    code = static_cast<Index>(pending & mask);
    pending >>= bits;
    held -= bits;
  }
}

}  // namespace v0
}  // namespace higgs
