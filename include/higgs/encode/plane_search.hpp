// SPDX-License-Identifier: Apache-2.0
// Nearest points in the plane: a table of cells names the few points that can be nearest, integers pick one.
#pragma once

#include <higgs/core/concepts.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/encode/byte_table.hpp>
#include <higgs/encode/exhaustive_search.hpp>
#include <higgs/encode/nearest.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#if defined(HIGGS_TARGET_BEGIN)
#  include <immintrin.h>
#endif

namespace higgs {
inline namespace v0 {

namespace detail {

/// 64 x 64 cells, 2^9 fixed-point values wide, cover the range of int8 points, [-2^14, 2^14)^2. The cells on
/// the rim reach out to +-far: as far as y - 64 c fits int16.
struct PlaneTable {
  static constexpr int side = 64;
  static constexpr int cell_bits = 9;
  static constexpr std::int32_t far = 32767 - 64 * 128;
  /// What a cell of more than four points holds; in every other cell byte 0 is no less than byte 1.
  static constexpr std::uint32_t crowded = 0x0000ff00;

  /// Cell (x, y) at y * side + x: four points that include the nearest of each input in the cell, the lowest
  /// index in byte 3, the highest in byte 0.
  std::vector<std::uint32_t> cells = std::vector<std::uint32_t>(side * side);
  /// The points themselves, the one of byte 0 first: 256 x in the lower int16, 256 y in the upper.
  std::vector<std::array<std::uint32_t, 4>> points = std::vector<std::array<std::uint32_t, 4>>(side * side);
  std::array<std::int8_t, 256> x{}, y{};  // coordinates of all points

  /// Where cell (0, 0) is counted from the middle of the plane.
  static constexpr std::ptrdiff_t center = side / 2 * side + side / 2;
};

// Each search_plane() encodes search_batch vectors, or returns false if one of them lies too far out or in a
// crowded cell. The score of c, y c - 64 c^2, is taken 256-fold as (y - 64 c) * 256 c. This leaves low bits for
// the place in the cell: one maximum finds the nearest and the lowest of equals.

namespace portable {
inline bool search_plane(const PlaneTable& table, const float* fixed, std::uint8_t* codes) noexcept {
  constexpr std::int32_t edge = PlaneTable::side / 2;
  bool good = true;
  for (int i = 0; i < search_batch; ++i) {
    const auto x = static_cast<std::int32_t>(fixed[2 * i]), y = static_cast<std::int32_t>(fixed[2 * i + 1]);
    const std::int32_t cell = std::clamp(y >> PlaneTable::cell_bits, -edge, edge - 1) * PlaneTable::side +
                              std::clamp(x >> PlaneTable::cell_bits, -edge, edge - 1);
    const std::uint32_t near = table.cells[static_cast<std::size_t>(cell + PlaneTable::center)];
    good &= near != PlaneTable::crowded;
    good &= static_cast<std::uint32_t>(x + PlaneTable::far) <= 2 * PlaneTable::far;
    good &= static_cast<std::uint32_t>(y + PlaneTable::far) <= 2 * PlaneTable::far;
    std::int32_t scores[4];
    HIGGS_UNROLL
    for (int place = 0; place < 4; ++place) {
      const std::size_t k = near >> (8 * place) & 255;
      const std::int32_t cx = table.x[k], cy = table.y[k];
      scores[place] = 4 * ((x - 64 * cx) * cx + (y - 64 * cy) * cy) + place;
    }
    const std::int32_t low = std::max(scores[0], scores[1]), high = std::max(scores[2], scores[3]);
    const std::int32_t best = std::max(low, high);
    codes[i] = static_cast<std::uint8_t>(near >> (8 * (best & 3)));
  }
  return good;
}
}  // namespace portable

#if defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)
namespace avx2 {
inline bool search_plane(const PlaneTable& table, const float* fixed, std::uint8_t* codes) noexcept {
  const auto* cells = reinterpret_cast<const int*>(table.cells.data()) + PlaneTable::center;
  const auto* points = reinterpret_cast<const __m128i*>(table.points.data()) + PlaneTable::center;
  const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 0, 1, 2, 3);
  __m256i bad = _mm256_setzero_si256();
  for (int i = 0; i < search_batch; i += 8) {
    // Packing works within 128 bits: vectors 0, 1, 4, 5 | 2, 3, 6, 7, as pairs of int16.
    const __m256i xy = _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_loadu_ps(fixed + 2 * i)),
                                          _mm256_cvtps_epi32(_mm256_loadu_ps(fixed + 2 * i + 8)));
    // Doubling saturates, which clamps to the rim.
    const __m256i cell =
        _mm256_madd_epi16(_mm256_srai_epi16(_mm256_adds_epi16(xy, xy), PlaneTable::cell_bits + 1),
                          _mm256_set1_epi32(PlaneTable::side << 16 | 1));
    const __m256i near = _mm256_i32gather_epi32(cells, cell, 4);
    bad = _mm256_or_si256(bad, _mm256_cmpeq_epi32(near, _mm256_set1_epi32(PlaneTable::crowded)));
    bad = _mm256_or_si256(bad, _mm256_subs_epu16(_mm256_abs_epi16(xy), _mm256_set1_epi16(PlaneTable::far)));
    alignas(32) std::int32_t at[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(at), cell);
    __m256i scores[4];  // scores[j]: the four of lane j, then those of lane 4 + j
    HIGGS_UNROLL
    for (int j = 0; j < 4; ++j) {
      const __m256i c = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(points + at[j])),
                                                _mm_loadu_si128(points + at[4 + j]), 1);
      const __m256i y = _mm256_shuffle_epi8(xy, _mm256_set1_epi32(0x03020100 + 0x04040404 * j));
      scores[j] =
          _mm256_add_epi32(_mm256_madd_epi16(_mm256_sub_epi16(y, _mm256_srai_epi16(c, 2)), c), places);
    }
    const __m256i best01 = _mm256_max_epi32(_mm256_unpacklo_epi32(scores[0], scores[1]),
                                            _mm256_unpackhi_epi32(scores[0], scores[1]));
    const __m256i best23 = _mm256_max_epi32(_mm256_unpacklo_epi32(scores[2], scores[3]),
                                            _mm256_unpackhi_epi32(scores[2], scores[3]));
    const __m256i best =
        _mm256_max_epi32(_mm256_unpacklo_epi64(best01, best23), _mm256_unpackhi_epi64(best01, best23));
    const __m256i shift = _mm256_slli_epi32(_mm256_and_si256(best, _mm256_set1_epi32(3)), 3);
    const __m256i found = _mm256_shuffle_epi8(_mm256_srlv_epi32(near, shift), _mm256_set1_epi32(0x0c080400));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(codes + i),
                     _mm_unpacklo_epi16(_mm256_castsi256_si128(found), _mm256_extracti128_si256(found, 1)));
  }
  return _mm256_testz_si256(bad, bad);
}
}  // namespace avx2
HIGGS_TARGET_END

HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace avx512 {
template <int Size>
inline bool search_plane(const PlaneTable& table, const float* fixed, std::uint8_t* codes) noexcept {
  const ByteTable<Size> xs(table.x.data()), ys(table.y.data());
  const std::uint32_t* cells = table.cells.data() + PlaneTable::center;
  const __m512i high_bytes = _mm512_set1_epi16(static_cast<short>(0xff00));
  // Packing works within 128 bits: vectors 0, 1, 8, 9 | 2, 3, 10, 11 | ...; this puts their low bytes in order.
  alignas(16) static constexpr std::uint8_t bytes[16] = {0, 4,  16, 20, 32, 36, 48, 52,
                                                         8, 12, 24, 28, 40, 44, 56, 60};
  const __m512i order = _mm512_castsi128_si512(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
  unsigned bad = 0;
  for (int i = 0; i < search_batch; i += 16) {
    const __m512i xy = _mm512_packs_epi32(_mm512_cvtps_epi32(_mm512_loadu_ps(fixed + 2 * i)),
                                          _mm512_cvtps_epi32(_mm512_loadu_ps(fixed + 2 * i + 16)));
    const __m512i yx = _mm512_rol_epi32(xy, 16);
    // Doubling saturates, which clamps to the rim.
    const __m512i cell =
        _mm512_madd_epi16(_mm512_srai_epi16(_mm512_adds_epi16(xy, xy), PlaneTable::cell_bits + 1),
                          _mm512_set1_epi32(PlaneTable::side << 16 | 1));
    const __m512i near = gather(cell, cells);
    bad |= _mm512_cmpeq_epi32_mask(near, _mm512_set1_epi32(PlaneTable::crowded)) |
           _mm512_cmpgt_epu16_mask(_mm512_abs_epi16(xy), _mm512_set1_epi16(PlaneTable::far));
    // The coordinates of all four points: x of 2, 3, 0, 1 and y of 0, 1, 2, 3. Blended to x2 x3 y2 y3 and
    // y0 y1 x0 x1, their odd bytes are a point times 256, and their even bytes become one when shifted.
    const __m512i x = xs[_mm512_rol_epi32(near, 16)], y = ys[near];
    const __m512i upper = _mm512_mask_blend_epi16(0xaaaaaaaa, x, y);
    const __m512i lower = _mm512_mask_blend_epi16(0xaaaaaaaa, y, x);
    const __m512i c[4] = {_mm512_slli_epi16(lower, 8), _mm512_and_si512(lower, high_bytes),
                          _mm512_slli_epi16(upper, 8), _mm512_and_si512(upper, high_bytes)};
    __m512i score[4];
    HIGGS_UNROLL
    for (int place = 0; place < 4; ++place)
      score[place] = _mm512_dpwssd_epi32(
          _mm512_set1_epi32(place), _mm512_sub_epi16(place < 2 ? yx : xy, _mm512_srai_epi16(c[place], 2)),
          c[place]);
    const __m512i best =
        _mm512_max_epi32(_mm512_max_epi32(score[0], score[1]), _mm512_max_epi32(score[2], score[3]));
    const __m512i shift = _mm512_slli_epi32(_mm512_and_si512(best, _mm512_set1_epi32(3)), 3);
    const __m512i found = _mm512_permutexvar_epi8(order, _mm512_srlv_epi32(near, shift));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), _mm512_castsi512_si128(found));
  }
  return bad == 0;
}
}  // namespace avx512
HIGGS_TARGET_END
#endif

}  // namespace detail

/// nearest() in the plane for up to 256 points: one lookup and four candidates for any number of them. Falls
/// back to the exhaustive search for vectors far outside of the points, and in cells of more than four.
template <Codebook Book>
  requires(Book::dim == 2 && Book::size <= 256 && sizeof(typename Book::Element) == 1)
class PlaneSearch {
 public:
  explicit PlaneSearch(const Book& book) : exhaustive_(book) {
    std::vector<std::size_t> all;
    for (std::size_t k = 0; k < Book::size; ++k) {
      const typename Book::Point point = book.decode(static_cast<Index>(k));
      table_.x[k] = point[0];
      table_.y[k] = point[1];
      all.push_back(k);
    }
    divide(0, 0, Table::side, all);
  }

  /// codes[i] = nearest(book, fixed[2 i, 2 i + 1]). `fixed` holds integers, |fixed| <= fixed_limit.
  void encode(std::span<const float> fixed, std::span<typename Book::Index> codes,
              Isa isa = best_isa()) const noexcept {
    constexpr std::size_t batch = detail::search_batch;
    isa = usable_isa(isa);
    std::size_t i = 0;
    for (; i + batch <= codes.size(); i += batch) encode_batch(fixed.data() + 2 * i, codes.data() + i, isa);
    if (i == codes.size()) return;
    std::array<float, 2 * batch> rest{};
    std::array<Index, batch> found;
    std::copy_n(fixed.data() + 2 * i, 2 * (codes.size() - i), rest.data());
    encode_batch(rest.data(), found.data(), isa);
    std::copy_n(found.data(), codes.size() - i, codes.data() + i);
  }

 private:
  using Index = typename Book::Index;
  using Table = detail::PlaneTable;

  void encode_batch(const float* fixed, Index* codes, Isa isa) const noexcept {
    constexpr std::size_t batch = detail::search_batch;
    if (!search_cells(fixed, codes, isa))
      exhaustive_.encode(std::span(fixed, 2 * batch), std::span(codes, batch), isa);
  }
  bool search_cells(const float* fixed, Index* codes, Isa isa) const noexcept {
#if defined(HIGGS_TARGET_BEGIN)
    if (isa_includes(isa, Isa::Avx512)) return detail::avx512::search_plane<Book::size>(table_, fixed, codes);
    if (isa_includes(isa, Isa::Avx2)) return detail::avx2::search_plane(table_, fixed, codes);
#endif
    static_cast<void>(isa);
    return detail::portable::search_plane(table_, fixed, codes);
  }

  // Fills the square of cells from (x, y), given all points that can be nearest in it, in ascending order. A
  // point that another one beats in each corner is beaten everywhere between, as scores are linear.
  void divide(int x, int y, int side, std::span<const std::size_t> candidates) {
    using Corners = std::array<std::int32_t, 4>;
    const std::array<std::int32_t, 2> xs = ends(x, side), ys = ends(y, side);
    std::array<Corners, 256> scores;  // times 256, less the place among the candidates: no two are equal
    std::array<std::size_t, 4> winners{};
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      const std::int32_t cx = table_.x[candidates[i]], cy = table_.y[candidates[i]];
      for (std::size_t corner = 0; corner < 4; ++corner) {
        const std::int32_t score = (xs[corner % 2] - 64 * cx) * cx + (ys[corner / 2] - 64 * cy) * cy;
        scores[i][corner] = 256 * score - static_cast<std::int32_t>(i);
        if (scores[i][corner] > scores[winners[corner]][corner]) winners[corner] = i;
      }
    }
    std::vector<std::size_t> kept;
    for (std::size_t i = 0; i < candidates.size(); ++i)
      if (std::none_of(winners.begin(), winners.end(), [&](std::size_t w) {
            return std::equal(scores[w].begin(), scores[w].end(), scores[i].begin(), std::greater<>());
          }))
        kept.push_back(candidates[i]);
    if (side > 1) {
      for (int part = 0; part < 4; ++part)
        divide(x + part % 2 * side / 2, y + part / 2 * side / 2, side / 2, kept);
      return;
    }
    const auto cell = static_cast<std::size_t>(y * Table::side + x);
    table_.cells[cell] = Table::crowded;
    if (kept.size() > 4) return;
    table_.cells[cell] = 0;
    for (std::size_t place = 0; place < 4; ++place) {
      const std::size_t k = kept[std::min(3 - place, kept.size() - 1)];
      table_.cells[cell] |= static_cast<std::uint32_t>(k) << (8 * place);
      table_.points[cell][place] = static_cast<std::uint32_t>(static_cast<std::uint8_t>(table_.x[k])) << 8 |
                                   static_cast<std::uint32_t>(static_cast<std::uint8_t>(table_.y[k])) << 24;
    }
  }
  // The least and the greatest coordinate of the cells [first, first + count).
  static std::array<std::int32_t, 2> ends(int first, int count) noexcept {
    const int edge = Table::side / 2, last = first + count;
    return {first == 0 ? -Table::far : (first - edge) * (1 << Table::cell_bits),
            last == Table::side ? Table::far : (last - edge) * (1 << Table::cell_bits) - 1};
  }

  ExhaustiveSearch<Book> exhaustive_;
  Table table_;
};

}  // namespace v0
}  // namespace higgs
