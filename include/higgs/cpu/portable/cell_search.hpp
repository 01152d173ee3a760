// SPDX-License-Identifier: Apache-2.0
// Nearest of many points in 2 to 4 dimensions: cells list the points that can be nearest.
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/portable/isa.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace cpu {

/// 16 candidate points of a cell, in pairs of coordinates; an odd last coordinate is paired with 0.
template <int Dim>
struct CellBlock {
  static constexpr int pairs = (Dim + 1) / 2, lanes = 16;
  alignas(32) std::int8_t points[higgs::detail::extent<pairs>][lanes][2];
  std::uint16_t index[lanes];  // ascending; the last candidate is repeated
};

/// Space in bins^Dim boxes. All axes have the same bins, with integer edges and about the same number of points in each.
template <int Dim>
struct CellTable {
  std::uint32_t bins = 0;
  std::array<std::uint8_t, 513> bin{};  // bin of coordinates in [i - 256, i - 255)
  std::vector<std::uint32_t> first;     // cell c has blocks first[c] ... first[c + 1] - 1  (cells + 1)
  std::vector<CellBlock<Dim>> blocks;
};

/// A batch of vectors in fixed point, with `Bits` fraction bits, and the blocks of the cell of each.
template <int Dim, int Bits>
struct CellBatch {
  static constexpr std::size_t size = 64;
  std::int32_t y[size][2 * CellBlock<Dim>::pairs] = {};
  std::span<const CellBlock<Dim>> blocks[size];
};

/// The int16 y[0], y[1] in one word.
constexpr std::int32_t packed_pair(const std::int32_t* y) noexcept {
  return static_cast<std::int32_t>((static_cast<std::uint32_t>(y[0]) & 0xffffu) |
                                   static_cast<std::uint32_t>(y[1]) << 16);
}

/// Whether y - 2^(Bits - 1) c fits an int16 for every vector and every int8 c, as the vector kernels require.
template <int Dim, int Bits>
[[gnu::noinline]] bool fits_int16(const CellBatch<Dim, Bits>& batch, std::size_t count) noexcept {
  bool fits = true;
  if constexpr ((256 << Bits) + (128 << (Bits - 1)) >
                32767)  // (256 << Bits) is the limit of fixed-point values
    for (std::size_t i = 0; i < count; ++i)
      for (const std::int32_t y : batch.y[i]) fits &= y < 24000 && y > -24000;
  return fits;
}

/// The index of the nearest point to `y` among the candidates of a cell.
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
/// Finds the nearest points of the first `count` vectors: the score of c, y c - 2^(bits - 1) c^2, is taken as
/// (y - 2^(bits - 1) c) c. The first of equal scores wins: it has the lowest index.
template <int Dim, int Bits>
void search_cells(Portable, const CellBatch<Dim, Bits>& batch, std::size_t count,
                  std::uint16_t* found) noexcept {
  for (std::size_t i = 0; i < count; ++i) found[i] = search_cell<Dim, Bits>(batch.blocks[i], batch.y[i]);
}

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
