// SPDX-License-Identifier: Apache-2.0
// Nearest points on a line: a table of buckets so narrow that each holds at most one border between points.
#pragma once

#include <higgs/core/concepts.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/encode/byte_table.hpp>
#include <higgs/encode/nearest.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#if defined(HIGGS_TARGET_BEGIN)
#  include <immintrin.h>
#endif

namespace higgs {
inline namespace v0 {

namespace detail {

/// The line from -reach to reach in buckets of 2^bits fixed-point values. A point's rank is its place in
/// ascending order; a bucket holds the rank at its lower end and where in it the next rank begins (2^bits:
/// nowhere).
struct LineTable {
  std::int32_t reach = 0;
  int bits = 0;
  std::vector<std::uint32_t> buckets;  // begin of the next rank << 16 | rank
};

/// The same for int8 points, whose borders are at least 2^7 apart: 256 buckets of 2^7, bucket b at place b
/// mod 256.
struct LineBytes {
  alignas(64) std::array<std::uint8_t, 256> begin, rank, order;
};

namespace portable {
template <class Index>
void search_line(const LineTable& table, const Index* order, const float* fixed, Index* codes,
                 std::size_t count) noexcept {
  const auto low = static_cast<float>(-table.reach), high = static_cast<float>(table.reach - 1);
  const std::uint32_t inside = (1u << table.bits) - 1u;
  for (std::size_t i = 0; i < count; ++i) {
    const auto y =
        static_cast<std::uint32_t>(static_cast<std::int32_t>(std::clamp(fixed[i], low, high)) + table.reach);
    const std::uint32_t bucket = table.buckets[y >> table.bits];
    codes[i] = order[(bucket & 0xffffu) + ((y & inside) >= bucket >> 16)];
  }
}
}  // namespace portable

#if defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)
namespace avx2 {
template <class Index>
inline void search_line(const LineTable& table, const Index* order, const float* fixed, Index* codes,
                        std::size_t count) noexcept {
  const __m256 low = _mm256_set1_ps(static_cast<float>(-table.reach));
  const __m256 high = _mm256_set1_ps(static_cast<float>(table.reach - 1));
  const __m256i reach = _mm256_set1_epi32(table.reach), inside = _mm256_set1_epi32((1 << table.bits) - 1);
  const __m128i bits = _mm_cvtsi32_si128(table.bits);
  const auto* buckets = reinterpret_cast<const int*>(table.buckets.data());
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256 clamped = _mm256_min_ps(_mm256_max_ps(_mm256_loadu_ps(fixed + i), low), high);
    const __m256i y = _mm256_add_epi32(_mm256_cvttps_epi32(clamped), reach);
    const __m256i bucket = _mm256_i32gather_epi32(buckets, _mm256_srl_epi32(y, bits), 4);
    const __m256i below = _mm256_cmpgt_epi32(_mm256_srli_epi32(bucket, 16), _mm256_and_si256(y, inside));
    const __m256i rank = _mm256_add_epi32(  // below is -1 or 0
        _mm256_add_epi32(_mm256_and_si256(bucket, _mm256_set1_epi32(0xffff)), _mm256_set1_epi32(1)), below);
    alignas(32) std::int32_t ranks[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(ranks), rank);
    HIGGS_UNROLL
    for (std::size_t lane = 0; lane < 8; ++lane) codes[i + lane] = order[ranks[lane]];
  }
  portable::search_line(table, order, fixed + i, codes + i, count - i);
}
}  // namespace avx2
HIGGS_TARGET_END

HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace avx512 {

// The rank bytes of 64 inputs whose dwords were packed twice within 128 bits: in order, as codes.
template <int Size>
inline void store_codes(__m512i rank, const ByteTable<Size>& order, std::uint8_t* codes) noexcept {
  const __m512i transpose = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(codes, _mm512_permutexvar_epi32(transpose, order[rank]));
}

/// int8 points, a multiple of 64 inputs.
template <int Size>
inline void search_line(const LineBytes& table, const float* fixed, std::uint8_t* codes,
                        std::size_t count) noexcept {
  const ByteTable<256> begins(table.begin.data()), ranks(table.rank.data());
  const ByteTable<Size> order(table.order.data());
  const __m512i low = _mm512_set1_epi16(-(1 << 14)), inside = _mm512_set1_epi16(127);
  for (std::size_t i = 0; i < count; i += 64) {
    __m512i y[4];
    HIGGS_UNROLL
    for (std::size_t j = 0; j < 4; ++j) y[j] = _mm512_cvttps_epi32(_mm512_loadu_ps(fixed + i + 16 * j));
    const __m512i y0 = _mm512_max_epi16(_mm512_packs_epi32(y[0], y[1]), low);
    const __m512i y1 = _mm512_max_epi16(_mm512_packs_epi32(y[2], y[3]), low);
    // Saturation sends what lies above the points to bucket 127, which holds no border.
    const __m512i bucket = _mm512_packs_epi16(_mm512_srai_epi16(y0, 7), _mm512_srai_epi16(y1, 7));
    const __m512i place = _mm512_packus_epi16(_mm512_and_si512(y0, inside), _mm512_and_si512(y1, inside));
    const __mmask64 above = _mm512_cmpge_epu8_mask(place, begins[bucket]);
    const __m512i rank = ranks[bucket];
    store_codes(_mm512_mask_add_epi8(rank, above, rank, _mm512_set1_epi8(1)), order, codes + i);
  }
}

/// int16 points, at most 256 of them, a multiple of 64 inputs.
template <int Size>
inline void search_line(const LineTable& table, const LineBytes& bytes, const float* fixed,
                        std::uint8_t* codes, std::size_t count) noexcept {
  const ByteTable<Size> order(bytes.order.data());
  const __m512 low = _mm512_set1_ps(static_cast<float>(-table.reach));
  const __m512 high = _mm512_set1_ps(static_cast<float>(table.reach - 1));
  const __m512i reach = _mm512_set1_epi32(table.reach), inside = _mm512_set1_epi32((1 << table.bits) - 1);
  const __m128i bits = _mm_cvtsi32_si128(table.bits);
  for (std::size_t i = 0; i < count; i += 64) {
    __m512i rank[4];
    HIGGS_UNROLL
    for (std::size_t j = 0; j < 4; ++j) {
      const __m512 clamped = _mm512_min_ps(_mm512_max_ps(_mm512_loadu_ps(fixed + i + 16 * j), low), high);
      const __m512i y = _mm512_add_epi32(_mm512_cvttps_epi32(clamped), reach);
      const __m512i bucket = gather(_mm512_srl_epi32(y, bits), table.buckets.data());
      const __mmask16 above =
          _mm512_cmpge_epi32_mask(_mm512_and_si512(y, inside), _mm512_srli_epi32(bucket, 16));
      const __m512i lower = _mm512_and_si512(bucket, _mm512_set1_epi32(0xffff));
      rank[j] = _mm512_mask_add_epi32(lower, above, lower, _mm512_set1_epi32(1));
    }
    store_codes(
        _mm512_packus_epi16(_mm512_packus_epi32(rank[0], rank[1]), _mm512_packus_epi32(rank[2], rank[3])),
        order, codes + i);
  }
}
}  // namespace avx512
HIGGS_TARGET_END
#endif

}  // namespace detail

/// nearest() in one dimension: one table lookup and one comparison, for any number of points.
template <Codebook Book>
  requires(Book::dim == 1)
class LineSearch {
 public:
  explicit LineSearch(const Book& book) {
    std::vector<std::pair<std::int32_t, int>> points;
    for (int i = 0; i < Book::size; ++i) points.emplace_back(book.decode(static_cast<Index>(i))[0], i);
    std::sort(points.begin(), points.end());
    // Of equal points only the lowest index is ever nearest.
    points.erase(std::unique(points.begin(), points.end(), [](auto a, auto b) { return a.first == b.first; }),
                 points.end());
    std::vector<std::uint32_t> begins;  // where each rank but the first begins, counted from -reach
    for (std::size_t i = 0; i < points.size(); ++i) {
      order_.push_back(static_cast<Index>(points[i].second));
      if (i == 0) continue;
      // The border between a < b lies at (a + b) / 2, and on it the lower index wins.
      const std::int32_t middle = (points[i - 1].first + points[i].first) * (1 << (fraction_bits<Book> - 1));
      begins.push_back(
          static_cast<std::uint32_t>(middle + reach + (points[i].second > points[i - 1].second)));
    }
    // Borders between distinct integers never share a step, so some width always leaves one to a bucket.
    int bits = 15;
    for (std::size_t i = 1; i < begins.size(); ++i)
      while (begins[i - 1] >> bits == begins[i] >> bits) --bits;
    table_ = {reach, bits, make_buckets(begins, bits)};
    if constexpr (int8_points) {
      const std::vector<std::uint32_t> buckets = make_buckets(begins, fraction_bits<Book>);
      for (std::size_t b = 0; b < buckets.size(); ++b) {
        bytes_.begin[b ^ 128] = static_cast<std::uint8_t>(buckets[b] >> 16);
        bytes_.rank[b ^ 128] = static_cast<std::uint8_t>(buckets[b] & 255);
      }
    }
    if constexpr (byte_codes) std::copy(order_.begin(), order_.end(), bytes_.order.begin());
  }

  /// codes[i] = nearest(book, fixed[i]). `fixed` holds integers, |fixed| <= fixed_limit.
  void encode(std::span<const float> fixed, std::span<typename Book::Index> codes,
              Isa isa = best_isa()) const noexcept {
    const float* y = fixed.data();
    Index* out = codes.data();
    std::size_t count = codes.size();
    isa = usable_isa(isa);
#if defined(HIGGS_TARGET_BEGIN)
    if constexpr (byte_codes) {
      if (isa_includes(isa, Isa::Avx512)) {
        const std::size_t whole = count / 64 * 64;
        if constexpr (int8_points)
          detail::avx512::search_line<Book::size>(bytes_, y, out, whole);
        else
          detail::avx512::search_line<Book::size>(table_, bytes_, y, out, whole);
        y += whole, out += whole, count -= whole;
      }
    }
    if (isa_includes(isa, Isa::Avx2)) return detail::avx2::search_line(table_, order_.data(), y, out, count);
#endif
    static_cast<void>(isa);
    detail::portable::search_line(table_, order_.data(), y, out, count);
  }

 private:
  using Index = typename Book::Index;
  static constexpr bool byte_codes = sizeof(Index) == 1 && Book::size <= 256;
  static constexpr bool int8_points = byte_codes && sizeof(typename Book::Element) == 1;
  static constexpr std::int32_t reach = fixed_limit<Book> / 2;

  static std::vector<std::uint32_t> make_buckets(const std::vector<std::uint32_t>& begins, int bits) {
    std::vector<std::uint32_t> buckets;
    std::uint32_t rank = 0;
    for (std::uint32_t low = 0; low < static_cast<std::uint32_t>(2 * reach); low += 1u << bits) {
      const bool holds = rank < begins.size() && begins[rank] >> bits == low >> bits;
      buckets.push_back((holds ? begins[rank] - low : 1u << bits) << 16 | rank);
      rank += holds;
    }
    return buckets;
  }

  detail::LineTable table_;
  std::vector<Index> order_;  // (distinct points): the index of each rank
  detail::LineBytes bytes_{};
};

}  // namespace v0
}  // namespace higgs
