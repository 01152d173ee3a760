// SPDX-License-Identifier: Apache-2.0
// Nearest of many points in 2 to 4 dimensions: a table of cells lists the points that can be nearest in each.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/encode/nearest.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#if defined(HIGGS_TARGET_BEGIN)
#  include <immintrin.h>
#endif

namespace higgs {
inline namespace v0 {

namespace detail {

/// 16 candidates of a cell, in pairs of coordinates; an odd last one stands beside 0.
template <int Dim>
struct CellBlock {
  static constexpr int pairs = (Dim + 1) / 2, lanes = 16;
  alignas(32) std::int8_t points[extent<pairs>][lanes][2];
  std::uint16_t index[lanes];  // ascending; the last candidate is repeated
};

/// All space in bins^Dim boxes. The same bins on each axis: about as many points in each, and edges at integers.
template <int Dim>
struct CellTable {
  std::uint32_t bins = 0;
  std::array<std::uint8_t, 513> bin{};  // of the coordinates from i - 256 up to, not including, i - 255
  std::vector<std::uint32_t> first;     // (cells + 1): cell c's blocks are first[c] ... first[c + 1] - 1
  std::vector<CellBlock<Dim>> blocks;
};

/// Vectors on their way through the search, each with the blocks of its cell.
template <int Dim>
struct CellBatch {
  static constexpr std::size_t size = 64;
  std::int32_t y[size][2 * CellBlock<Dim>::pairs] = {};
  std::span<const CellBlock<Dim>> blocks[size];
};

// Each search_cells() finds the nearest points of the first `count` vectors: the score of c, y c - 2^(bits - 1) c^2, is
// taken as (y - 2^(bits - 1) c) c. Of equal scores the first wins, which has the lowest index.

namespace portable {
template <int Dim, int Bits>
std::uint16_t search_cell(std::span<const CellBlock<Dim>> blocks, const std::int32_t* y) noexcept {
  std::int32_t most = std::numeric_limits<std::int32_t>::min();
  std::uint16_t nearest = 0;
  for (const CellBlock<Dim>& block : blocks) {
    std::int32_t scores[CellBlock<Dim>::lanes] = {};
    for (int d = 0; d < Dim; ++d)
      for (int lane = 0; lane < CellBlock<Dim>::lanes; ++lane) {
        const std::int32_t c = block.points[d / 2][lane][d % 2];
        scores[lane] += (y[d] - c * (1 << (Bits - 1))) * c;
      }
    for (int lane = 0; lane < CellBlock<Dim>::lanes; ++lane)
      if (scores[lane] > most) most = scores[lane], nearest = block.index[lane];
  }
  return nearest;
}
template <int Dim, int Bits>
void search_cells(const CellBatch<Dim>& batch, std::size_t count, std::uint16_t* found) noexcept {
  for (std::size_t i = 0; i < count; ++i) found[i] = search_cell<Dim, Bits>(batch.blocks[i], batch.y[i]);
}
}  // namespace portable

/// The int16 y[0], y[1] in one word.
constexpr std::int32_t packed_pair(const std::int32_t* y) noexcept {
  return static_cast<std::int32_t>((static_cast<std::uint32_t>(y[0]) & 0xffffu) |
                                   static_cast<std::uint32_t>(y[1]) << 16);
}

#if defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)
namespace avx2 {
template <int Dim, int Bits>
inline void search_cells(const CellBatch<Dim>& batch, std::size_t count, std::uint16_t* found) noexcept {
  constexpr int pairs = CellBlock<Dim>::pairs;
  for (std::size_t i = 0; i < count; ++i) {
    __m256i y[extent<pairs>];
    HIGGS_UNROLL
    for (int p = 0; p < pairs; ++p) y[p] = _mm256_set1_epi32(packed_pair(batch.y[i] + 2 * p));
    __m256i most = _mm256_set1_epi32(std::numeric_limits<std::int32_t>::min()), at = _mm256_setzero_si256();
    __m256i place = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (const CellBlock<Dim>& block : batch.blocks[i]) {
      HIGGS_UNROLL
      for (int half = 0; half < 2; ++half) {
        __m256i score = _mm256_setzero_si256();
        HIGGS_UNROLL
        for (int p = 0; p < pairs; ++p) {
          const __m256i c =
              _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(block.points[p]) + half));
          score = _mm256_add_epi32(
              score, _mm256_madd_epi16(_mm256_sub_epi16(y[p], _mm256_slli_epi16(c, Bits - 1)), c));
        }
        at = _mm256_blendv_epi8(at, place, _mm256_cmpgt_epi32(score, most));
        most = _mm256_max_epi32(most, score);
        place = _mm256_add_epi32(place, _mm256_set1_epi32(8));
      }
    }
    alignas(32) std::int32_t scores[8], places[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(scores), most);
    _mm256_store_si256(reinterpret_cast<__m256i*>(places), at);
    std::int32_t top = scores[0], best = places[0];
    for (int lane = 1; lane < 8; ++lane) {
      const bool wins = scores[lane] > top || (scores[lane] == top && places[lane] < best);
      best = wins ? places[lane] : best;
      top = wins ? scores[lane] : top;
    }
    found[i] = batch.blocks[i][static_cast<std::size_t>(best / 16)].index[best % 16];
  }
}
}  // namespace avx2
HIGGS_TARGET_END

HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace avx512 {
template <int Dim, int Bits>
inline void search_cells(const CellBatch<Dim>& batch, std::size_t count, std::uint16_t* found) noexcept {
  constexpr int pairs = CellBlock<Dim>::pairs;
  for (std::size_t i = 0; i < count; ++i) {
    __m512i y[extent<pairs>];
    HIGGS_UNROLL
    for (int p = 0; p < pairs; ++p) y[p] = _mm512_set1_epi32(packed_pair(batch.y[i] + 2 * p));
    __m512i most = _mm512_set1_epi32(std::numeric_limits<std::int32_t>::min()), at = _mm512_setzero_si512();
    __m512i place = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (const CellBlock<Dim>& block : batch.blocks[i]) {
      __m512i score = _mm512_setzero_si512();
      HIGGS_UNROLL
      for (int p = 0; p < pairs; ++p) {
        const __m512i c =
            _mm512_cvtepi8_epi16(_mm256_load_si256(reinterpret_cast<const __m256i*>(block.points[p])));
        score = _mm512_dpwssd_epi32(score, _mm512_sub_epi16(y[p], _mm512_slli_epi16(c, Bits - 1)), c);
      }
      at = _mm512_mask_mov_epi32(at, _mm512_cmpgt_epi32_mask(score, most), place);
      most = _mm512_max_epi32(most, score);
      place = _mm512_add_epi32(place, _mm512_set1_epi32(16));
    }
    const unsigned best = _mm512_cmpeq_epi32_mask(most, _mm512_set1_epi32(_mm512_reduce_max_epi32(most)));
    const __m512i first = _mm512_maskz_compress_epi32(static_cast<__mmask16>(best), at);
    const std::uint32_t place_of_best =
        (best & (best - 1)) == 0
            ? static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm512_castsi512_si128(first)))
            : _mm512_mask_reduce_min_epu32(static_cast<__mmask16>(best), at);
    found[i] = batch.blocks[i][place_of_best / 16].index[place_of_best % 16];
  }
}
}  // namespace avx512
HIGGS_TARGET_END
#endif

}  // namespace detail

/// nearest() among int8 points: the cell of a vector lists the few that any other one beats nowhere in it.
template <Codebook Book>
  requires(Book::dim >= 2 && Book::dim <= 4 && Book::size <= 65536 && sizeof(typename Book::Element) == 1)
class CellSearch {
 public:
  explicit CellSearch(const Book& book) : table_(table_of(book)) {}

  /// codes[i] = nearest(book, fixed[i * dim ... (i + 1) * dim)). `fixed` holds integers, |fixed| <= fixed_limit.
  void encode(std::span<const float> fixed, std::span<typename Book::Index> codes,
              Isa isa = best_isa()) const noexcept {
    constexpr std::size_t size = detail::CellBatch<dim>::size;
    isa = usable_isa(isa);
    const Table& table = *table_;
    detail::CellBatch<dim> batch;
    std::array<std::uint16_t, size> found;
    for (std::size_t begin = 0; begin < codes.size(); begin += size) {
      const std::size_t count = std::min(size, codes.size() - begin);
      const float* in = fixed.data() + begin * dim;
      for (std::size_t i = 0; i < count; ++i) {
        std::uint32_t cell = 0;
        for (std::size_t d = 0; d < dim; ++d) {
          const auto y = static_cast<std::int32_t>(in[i * dim + d]);
          batch.y[i][d] = y;
          cell = cell * table.bins + table.bin[static_cast<std::size_t>((y >> bits) + 256)];
        }
        batch.blocks[i] = {table.blocks.data() + table.first[cell],
                           table.blocks.data() + table.first[cell + 1]};
      }
      search(batch, count, found.data(), isa);
      for (std::size_t i = 0; i < count; ++i) codes[begin + i] = static_cast<Index>(found[i]);
    }
  }

 private:
  static constexpr int dim = Book::dim, bits = fraction_bits<Book>;
  using Index = typename Book::Index;
  using Table = detail::CellTable<dim>;
  using Block = detail::CellBlock<dim>;

  static void search(const detail::CellBatch<dim>& batch, std::size_t count, std::uint16_t* found,
                     Isa isa) noexcept {
#if defined(HIGGS_TARGET_BEGIN)
    // Vector lanes hold y - 2^(bits - 1) c as int16.
    bool fits = true;
    if constexpr (fixed_limit<Book> + (128 << (bits - 1)) > 32767)
      for (std::size_t i = 0; i < count; ++i)
        for (const std::int32_t y : batch.y[i]) fits &= y < 24000 && y > -24000;
    if (isa_includes(isa, Isa::Avx512) && fits) return detail::avx512::search_cells<dim, bits>(batch, count, found);
    if (isa_includes(isa, Isa::Avx2) && fits) return detail::avx2::search_cells<dim, bits>(batch, count, found);
#endif
    static_cast<void>(isa);
    detail::portable::search_cells<dim, bits>(batch, count, found);
  }

  /// The table of these points, shared with the search made last: one model quantizes many matrices.
  static std::shared_ptr<const Table> table_of(const Book& book) {
    static std::mutex mutex;
    static std::vector<Point> last;
    static std::shared_ptr<const Table> table;
    std::vector<Point> points;
    for (std::int64_t k = 0; k < Book::size; ++k) {
      Point& point = points.emplace_back();
      const auto decoded = book.decode(static_cast<Index>(k));
      for (std::size_t d = 0; d < dim; ++d) point.c[d] = decoded[d];
      for (const std::int32_t c : point.c) point.half_norm += c * c * (1 << (bits - 1));
      point.index = static_cast<std::uint16_t>(k);
    }
    const std::lock_guard lock(mutex);
    if (points != last) table = std::make_shared<const Table>(make_table(points)), last = points;
    return table;
  }

  struct Point {
    std::array<std::int32_t, detail::extent<dim>> c{};
    std::int32_t half_norm = 0;
    std::uint16_t index = 0;
    bool operator==(const Point&) const = default;
  };
  // Fixed-point values from low[d] to high[d].
  struct Box {
    std::array<std::int32_t, detail::extent<dim>> low, high;
  };
  struct Builder {
    Table& table;
    std::vector<std::int32_t> edges;        // bin b: fixed-point values from edges[b] to edges[b + 1] - 1
    std::vector<std::vector<Point>> lists;  // of each cell, the last axis fastest
  };
  using Bins = std::array<std::uint32_t, detail::extent<dim>>;

  static Table make_table(const std::vector<Point>& points) {
    // About as many cells as points: with more of them the table leaves the cache.
    constexpr std::uint32_t bins = dim == 2   ? (Book::size > 1024 ? 64 : 32)
                                   : dim == 3 ? (Book::size > 512 ? 16 : 12)
                                              : 8;
    Table table;
    table.bins = bins;
    std::vector<std::int32_t> coordinates;
    for (const Point& point : points)
      for (const std::int32_t c : point.c) coordinates.push_back(c);
    std::sort(coordinates.begin(), coordinates.end());
    Builder builder{table, {}, {}};
    for (std::uint32_t b = 0; b <= bins; ++b) {
      const std::int32_t least = b == 0 ? -256 : builder.edges.back() / (1 << bits) + 1;
      const std::int32_t edge =
          b == 0 || b == bins ? -256 + 513 * (b != 0) : coordinates[coordinates.size() * b / bins];
      builder.edges.push_back(std::max(edge, least) * (1 << bits));
    }
    for (std::uint32_t b = 0; b < bins; ++b)
      for (std::int32_t v = builder.edges[b]; v < builder.edges[b + 1]; v += 1 << bits) {
        const std::int32_t place = v / (1 << bits) + 256;
        if (place >= 0 && place <= 512)
          table.bin[static_cast<std::size_t>(place)] = static_cast<std::uint8_t>(b);
      }
    Bins low{}, high;
    high.fill(bins);
    std::size_t cells = 1;
    for (const std::uint32_t count : high) cells *= count;
    builder.lists.resize(cells);
    divide(builder, low, high, points);
    for (const std::vector<Point>& list : builder.lists) append(table, list);
    table.first.push_back(static_cast<std::uint32_t>(table.blocks.size()));
    return table;
  }

  // Fills the lists of the cells from `low` to, not including, `high`, given all points that can be nearest there.
  static void divide(Builder& builder, const Bins& low, const Bins& high, const std::vector<Point>& points) {
    Box box;
    std::size_t cell = 0, widest = 0;
    for (std::size_t d = 0; d < dim; ++d) {
      box.low[d] = std::max(builder.edges[low[d]], -fixed_limit<Book>);
      box.high[d] = std::min(builder.edges[high[d]] - 1, fixed_limit<Book>);
      cell = cell * builder.table.bins + low[d];
      if (high[d] - low[d] > high[widest] - low[widest]) widest = d;
    }
    std::vector<Point> kept = unbeaten(points, box);
    if (high[widest] - low[widest] == 1) {
      builder.lists[cell] = std::move(kept);
      return;
    }
    Bins end = high, begin = low;
    end[widest] = begin[widest] = (low[widest] + high[widest]) / 2;
    divide(builder, low, end, kept);
    divide(builder, begin, high, kept);
  }

  static void append(Table& table, const std::vector<Point>& points) {
    table.first.push_back(static_cast<std::uint32_t>(table.blocks.size()));
    for (std::size_t first = 0; first < points.size(); first += Block::lanes) {
      Block& block = table.blocks.emplace_back();
      for (std::size_t lane = 0; lane < Block::lanes; ++lane) {
        const Point& point = points[std::min(first + lane, points.size() - 1)];
        block.index[lane] = point.index;
        for (std::size_t d = 0; d < dim; ++d)
          block.points[d / 2][lane][d % 2] = static_cast<std::int8_t>(point.c[d]);
      }
    }
  }

  // The points that are nearest somewhere in the box, and a few more: out goes what one of the winners at the middle and
  // the corners beats everywhere in it.
  static std::vector<Point> unbeaten(const std::vector<Point>& points, const Box& box) {
    std::vector<std::size_t> rivals;
    for (unsigned probe = 0; probe <= 1u << dim; ++probe) {
      std::array<std::int32_t, detail::extent<dim>> y;
      for (unsigned d = 0; d < dim; ++d)
        y[d] = probe == 1u << dim       ? (box.low[d] + box.high[d]) / 2
               : (probe >> d & 1u) != 0 ? box.high[d]
                                        : box.low[d];
      std::size_t best = 0;
      std::int32_t most = std::numeric_limits<std::int32_t>::min();
      for (std::size_t k = 0; k < points.size(); ++k) {
        std::int32_t score = -points[k].half_norm;
        for (std::size_t d = 0; d < dim; ++d) score += y[d] * points[k].c[d];
        if (score > most) most = score, best = k;
      }
      if (std::find(rivals.begin(), rivals.end(), best) == rivals.end()) rivals.push_back(best);
    }
    std::vector<Point> kept;
    for (const Point& point : points)
      if (std::none_of(rivals.begin(), rivals.end(),
                       [&](std::size_t k) { return beats(points[k], point, box); }))
        kept.push_back(point);
    return kept;
  }
  static bool beats(const Point& rival, const Point& point, const Box& box) noexcept {
    std::int32_t lead = point.half_norm - rival.half_norm;
    for (std::size_t d = 0; d < dim; ++d) {
      const std::int32_t toward = rival.c[d] - point.c[d];
      lead += std::min(toward * box.low[d], toward * box.high[d]);
    }
    return lead > 0;
  }

  std::shared_ptr<const Table> table_;
};

}  // namespace v0
}  // namespace higgs
