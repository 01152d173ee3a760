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

/// Buckets of 2^bits fixed-point values from -limit to limit. The rank of a point is its position in ascending order. A
/// bucket has the rank of its lowest value and the offset at which the next rank begins (2^bits: in no part of it).
template <class Index>
struct LineTable {
  std::int32_t limit = 0;  // fixed-point values beyond +-limit are clamped
  int bits = 0;
  std::vector<std::uint32_t> buckets;  // offset of the next rank << 16 | rank
  std::vector<Index> order;            // index of the point of each rank  (distinct points)
};

/// A LineTable of Size <= 256 points with `order` in 256 bytes too, for kernels that look it up in registers.
template <int Size>
struct ByteLineTable : LineTable<std::uint8_t> {
  alignas(64) std::array<std::uint8_t, 256> order_bytes{};
};

/// A LineTable of Size int8 points. Their borders are at least 2^7 apart, so 256 buckets of 2^7 values suffice: `begin` is
/// the offset of the next rank, `rank` that of the lowest value; bucket b is at b mod 256.
template <int Size>
struct Int8LineTable : ByteLineTable<Size> {
  alignas(64) std::array<std::uint8_t, 256> begin{}, rank{};
};

/// codes[i] = the index of the point nearest to fixed[i], for `count` integers, |fixed| <= 2 * table.limit.
template <class Index>
void search_line(Portable, const LineTable<Index>& table, const float* fixed, Index* codes,
                 std::size_t count) noexcept {
  const auto low = static_cast<float>(-table.limit), high = static_cast<float>(table.limit - 1);
  const std::uint32_t inside = (1u << table.bits) - 1u;
  for (std::size_t i = 0; i < count; ++i) {
    const auto y =
        static_cast<std::uint32_t>(static_cast<std::int32_t>(std::clamp(fixed[i], low, high)) + table.limit);
    const std::uint32_t bucket = table.buckets[y >> table.bits];
    codes[i] = table.order[(bucket & 0xffffu) + ((y & inside) >= bucket >> 16)];
  }
}

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
