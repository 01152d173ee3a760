// SPDX-License-Identifier: Apache-2.0
// Nearest of many points in 2 to 4 dimensions: a table of cells lists the points that can be nearest in each.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/cpu/portable/cell_search.hpp>
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

namespace higgs {
inline namespace v0 {

/// nearest() among int8 points: the cell of a vector lists the few that any other one beats nowhere in it.
template <Codebook Book>
  requires(Book::dim >= 2 && Book::dim <= 4 && Book::size <= 65536 && sizeof(typename Book::Element) == 1)
class CellSearch {
 public:
  explicit CellSearch(const Book& book) : table_(table_of(book)) {}

  /// codes[i] = nearest(book, fixed[i * dim ... (i + 1) * dim)). `fixed` holds integers, |fixed| <= fixed_limit.
  void encode(std::span<const float> fixed, std::span<typename Book::Index> codes,
              Isa isa = best_isa()) const noexcept {
    using Kernel = void (*)(const Batch&, std::size_t, std::uint16_t*) noexcept;
    const auto kernel = cpu::dispatch(usable_isa(isa), []<class Set>(Set) -> Kernel {
      return [](const Batch& in, std::size_t count, std::uint16_t* out) noexcept {
        search_cells(Set{}, in, count, out);
      };
    });
    constexpr std::size_t size = Batch::size;
    const Table& table = *table_;
    Batch batch;
    std::array<std::uint16_t, size> found;
    for (std::size_t begin = 0; begin < codes.size(); begin += size) {
      const std::size_t count = std::min(size, codes.size() - begin);
      fill(table, fixed.data() + begin * dim, count, batch);
      kernel(batch, count, found.data());
      for (std::size_t i = 0; i < count; ++i) codes[begin + i] = static_cast<Index>(found[i]);
    }
  }

 private:
  static constexpr int dim = Book::dim, bits = fraction_bits<Book>;
  using Index = typename Book::Index;
  using Table = cpu::CellTable<dim>;
  using Block = cpu::CellBlock<dim>;
  using Batch = cpu::CellBatch<dim, bits>;

  /// The first `count` vectors, each with the blocks of its cell.
  static void fill(const Table& table, const float* fixed, std::size_t count, Batch& batch) noexcept {
    for (std::size_t i = 0; i < count; ++i) {
      std::uint32_t cell = 0;
      for (std::size_t d = 0; d < dim; ++d) {
        const auto y = static_cast<std::int32_t>(fixed[i * dim + d]);
        batch.y[i][d] = y;
        cell = cell * table.bins + table.bin[static_cast<std::size_t>((y >> bits) + 256)];
      }
      batch.blocks[i] = {table.blocks.data() + table.first[cell],
                         table.blocks.data() + table.first[cell + 1]};
    }
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
    std::vector<std::vector<Point>> lists;  // points of each cell, the last axis fastest
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
