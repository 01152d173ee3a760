// SPDX-License-Identifier: Apache-2.0
// Nearest points on a line.
#pragma once

#include <higgs/cpu/portable/isa.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace cpu {

/// The line from -reach to reach in buckets of 2^bits fixed-point values. A point's rank is its index in ascending
/// order; a bucket holds the rank at its lower end and where in it the next rank begins (2^bits: nowhere).
template <class Index>
struct LineTable {
  std::int32_t reach = 0;
  int bits = 0;
  std::vector<std::uint32_t> buckets;  // begin of the next rank << 16 | rank
  std::vector<Index> order;            // (distinct points): the index of each rank
};

/// The same of at most Size <= 256 points: `order` is also in an array of 256 bytes.
template <int Size>
struct ByteLineTable : LineTable<std::uint8_t> {
  alignas(64) std::array<std::uint8_t, 256> order_bytes{};
};

/// The same of int8 points, whose borders are at least 2^7 apart: 256 more buckets of 2^7, bucket b at place b mod 256.
template <int Size>
struct Int8LineTable : ByteLineTable<Size> {
  alignas(64) std::array<std::uint8_t, 256> begin{}, rank{};
};

/// codes[i] = the index of the point nearest to fixed[i], for `count` integers, |fixed| <= 2 * table.reach.
template <class Index>
void search_line(Portable, const LineTable<Index>& table, const float* fixed, Index* codes,
                 std::size_t count) noexcept {
  const auto low = static_cast<float>(-table.reach), high = static_cast<float>(table.reach - 1);
  const std::uint32_t inside = (1u << table.bits) - 1u;
  for (std::size_t i = 0; i < count; ++i) {
    const auto y =
        static_cast<std::uint32_t>(static_cast<std::int32_t>(std::clamp(fixed[i], low, high)) + table.reach);
    const std::uint32_t bucket = table.buckets[y >> table.bits];
    codes[i] = table.order[(bucket & 0xffffu) + ((y & inside) >= bucket >> 16)];
  }
}

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
