// SPDX-License-Identifier: Apache-2.0
// Nearest points in the plane: a table of cells names the few points that can be nearest, integers pick one.
#pragma once

#include <higgs/core/concepts.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/cpu/portable/plane_search.hpp>
#include <higgs/encode/exhaustive_search.hpp>
#include <higgs/encode/nearest.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace higgs {
inline namespace v0 {

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
    using Kernel = bool (*)(const Table&, const float*, Index*) noexcept;
    constexpr std::size_t batch = cpu::search_batch;
    isa = usable_isa(isa);
    const auto kernel = cpu::dispatch(isa, []<class Set>(Set) -> Kernel {
      return [](const Table& table, const float* in, Index* out) noexcept {
        return search_plane(Set{}, table, in, out);
      };
    });
    const auto encode_batch = [&](const float* in, Index* out) {
      if (!kernel(table_, in, out)) exhaustive_.encode(std::span(in, 2 * batch), std::span(out, batch), isa);
    };
    std::size_t i = 0;
    for (; i + batch <= codes.size(); i += batch) encode_batch(fixed.data() + 2 * i, codes.data() + i);
    if (i == codes.size()) return;
    std::array<float, 2 * batch> rest{};
    std::array<Index, batch> found;
    std::copy_n(fixed.data() + 2 * i, 2 * (codes.size() - i), rest.data());
    encode_batch(rest.data(), found.data());
    std::copy_n(found.data(), codes.size() - i, codes.data() + i);
  }

 private:
  using Index = typename Book::Index;
  using Table = cpu::SizedPlaneTable<static_cast<int>(Book::size)>;

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
