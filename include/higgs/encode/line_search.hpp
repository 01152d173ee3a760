// SPDX-License-Identifier: Apache-2.0
// Nearest points on a line: a table of buckets so narrow that each holds at most one border between points.
#pragma once

#include <higgs/core/concepts.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/cpu/portable/line_search.hpp>
#include <higgs/encode/nearest.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {

/// nearest() in one dimension: one table lookup and one comparison, for any number of points.
template <Codebook Book>
  requires(Book::dim == 1)
class LineSearch {
 public:
  explicit LineSearch(const Book& book) {
    std::vector<std::pair<std::int32_t, int>> points;
    for (int i = 0; i < Book::size; ++i) points.emplace_back(book.decode(static_cast<Index>(i))[0], i);
    std::sort(points.begin(), points.end());
    // Only the lowest index of equal points is ever nearest.
    points.erase(std::unique(points.begin(), points.end(), [](auto a, auto b) { return a.first == b.first; }),
                 points.end());
    std::vector<std::uint32_t> begins;  // where each rank but the first begins, counted from -limit
    for (std::size_t i = 0; i < points.size(); ++i) {
      table_.order.push_back(static_cast<Index>(points[i].second));
      if (i == 0) continue;
      // The border between a < b is (a + b) / 2. At equal distances the lower index wins.
      const std::int32_t middle = (points[i - 1].first + points[i].first) * (1 << (fraction_bits<Book> - 1));
      begins.push_back(
          static_cast<std::uint32_t>(middle + limit + (points[i].second > points[i - 1].second)));
    }
    // Borders between distinct integers never share a step, so some width always leaves one to a bucket.
    int bits = 15;
    for (std::size_t i = 1; i < begins.size(); ++i)
      while (begins[i - 1] >> bits == begins[i] >> bits) --bits;
    table_.limit = limit;
    table_.bits = bits;
    table_.buckets = make_buckets(begins, bits);
    if constexpr (int8_points) {
      const std::vector<std::uint32_t> buckets = make_buckets(begins, fraction_bits<Book>);
      for (std::size_t b = 0; b < buckets.size(); ++b) {
        table_.begin[b ^ 128] = static_cast<std::uint8_t>(buckets[b] >> 16);
        table_.rank[b ^ 128] = static_cast<std::uint8_t>(buckets[b] & 255);
      }
    }
    if constexpr (byte_codes) std::copy(table_.order.begin(), table_.order.end(), table_.order_bytes.begin());
  }

  /// codes[i] = nearest(book, fixed[i]). `fixed` holds integers, |fixed| <= fixed_limit.
  void encode(std::span<const float> fixed, std::span<typename Book::Index> codes,
              Isa isa = best_isa()) const noexcept {
    cpu::dispatch(usable_isa(isa),
                  [&](auto set) { search_line(set, table_, fixed.data(), codes.data(), codes.size()); });
  }

 private:
  using Index = typename Book::Index;
  static constexpr bool byte_codes = sizeof(Index) == 1 && Book::size <= 256;
  static constexpr bool int8_points = byte_codes && sizeof(typename Book::Element) == 1;
  static constexpr int table_size = byte_codes ? static_cast<int>(Book::size) : 1;
  static constexpr std::int32_t limit = fixed_limit<Book> / 2;

  static std::vector<std::uint32_t> make_buckets(const std::vector<std::uint32_t>& begins, int bits) {
    std::vector<std::uint32_t> buckets;
    std::uint32_t rank = 0;
    for (std::uint32_t low = 0; low < static_cast<std::uint32_t>(2 * limit); low += 1u << bits) {
      const bool holds = rank < begins.size() && begins[rank] >> bits == low >> bits;
      buckets.push_back((holds ? begins[rank] - low : 1u << bits) << 16 | rank);
      rank += holds;
    }
    return buckets;
  }

  std::conditional_t<int8_points, cpu::Int8LineTable<table_size>,
                     std::conditional_t<byte_codes, cpu::ByteLineTable<table_size>, cpu::LineTable<Index>>>
      table_;
};

}  // namespace v0
}  // namespace higgs
