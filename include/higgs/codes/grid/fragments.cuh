// SPDX-License-Identifier: Apache-2.0
// Codes that are tables, for tensor cores: one lookup of a byte for up to four weights.
#pragma once

#include <higgs/core/code.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/pack/fragment_decoder.cuh>
#include <higgs/pack/packed_layout.cuh>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// The format of codes with `Bits` bits a weight (2, 3, 4 or 8) whose symbols are single bytes or less. It is
/// written in bytes, each of which names `width` neighbouring inputs of one row in a table of 256 entries.
/// Lane 4 g + t holds 8 weights of tile (i, s), 16 rows by 16 inputs: rows 16 i + g and 16 i + g + 8, inputs
/// 16 s + 4 t ... + 3.
///
///     bits  width  bytes of a tile                  where byte j of tile (i, s) is
///      2      4    row g, row g + 8                 load s / 2, word i, byte s % 2 * 2 + j
///      3      2    (g, 0) (g+8, 0) (g, 2) (g+8, 2)  i < 3: load i, word s, byte j, low 6 bits; i = 3: its bits
///                                                   2p, 2p + 1 are bits 6, 7 of load p, word s, byte j
///      4      2    (g, 0) (g+8, 0) (g, 2) (g+8, 2)  load s, word i, byte j
///      8      1    row g: 0 ... 3, row g + 8: 0..3  load 2 s + i / 2, word i % 2 * 2 + j / 4, byte j % 4
///
/// Decoding takes two instructions for a pair of weights: a byte permutation makes the address of the entry, a
/// load reads the pair.
template <int Bits>
struct TableFormat {
  static_assert(Bits == 2 || Bits == 3 || Bits == 4 || Bits == 8,
                "TableFormat<Bits>: 2, 3, 4 or 8 bits a weight");

  static constexpr PackedFormat format = Bits == 2   ? PackedFormat::Table2
                                         : Bits == 3 ? PackedFormat::Table3
                                         : Bits == 4 ? PackedFormat::Table4
                                                     : PackedFormat::Table8;
  static constexpr int loads = Bits;
  static constexpr int width = Bits == 2 ? 4 : Bits == 8 ? 1 : 2;  // weights per byte
  static constexpr int table_size = 256 * width;                   // (256, width)
  using Activations = FourInputsPerLane;

  static __device__ void repack(const PackedLayout& layout, const std::uint8_t* codes, std::int64_t row,
                                std::int64_t k, int lane, uint4 (&out)[loads]);
  template <class T>
  static __device__ void fill_table(const std::int16_t* table);
  static __device__ std::uint32_t table_offset(int lane) {
    const auto number = static_cast<unsigned>(lane);
    return Bits == 2 ? number % 16 * 8 : number * 4;
  }
  template <class T, int Row, int Step>
  static __device__ void decode(std::uint32_t (&a)[1][4], const uint4 (&loads)[Bits], std::uint32_t offset);
  /// See Int8Decoder. A byte of 3 or 4 bits a weight names two weights: half of what a lookup brings would be lost.
  static __device__ void fill_int8_table(const std::int16_t* table)
    requires(Bits == 2);
  template <int Row, int Half>
    requires(Bits == 2)
  static __device__ void decode_int8(std::uint32_t (&a)[4], const uint4 (&loads)[Bits], std::uint32_t offset);

 private:
  /// Writes the lines: entry(b) gives the words that are repeated in line b, one or two.
  template <class Entry>
  static __device__ void fill_lines(const Entry& entry);
  static constexpr int tile_bytes = 8 / width;  // bytes of a tile per lane

  static __device__ std::uint32_t byte_at(const PackedLayout& layout, const std::uint8_t* codes,
                                          std::int64_t row, std::int64_t k);
  static __device__ void put(std::uint32_t (&words)[4 * Bits], int i, int s, int j, std::uint32_t byte);
  /// The entry of byte `Byte` of `word`: two weights.
  template <int Byte>
  static __device__ std::uint32_t entry(std::uint32_t word, std::uint32_t offset) {
    return load_shared_32<LookupTable::begin>(LookupTable::line_of<Byte>(word, offset));
  }
};

/// The lookup table of a codebook in TableFormat<symbol bits / dim>: the coordinates that each byte names, first
/// those of the symbol in its low bits. (256, width)
template <Codebook C>
std::vector<std::int16_t> lookup_table(const C& code) {
  constexpr int bits = code_bits<C>, width = TableFormat<bits / C::dim>::width;
  std::vector<std::int16_t> table;
  for (unsigned byte = 0; byte < 256; ++byte)
    for (int w = 0; w < width; ++w) {
      const unsigned symbol = byte >> w / C::dim * bits & ((1u << bits) - 1u);
      const bool exists = symbol < static_cast<unsigned>(C::size);
      table.push_back(
          exists ? code.decode(static_cast<typename C::Index>(symbol))[static_cast<std::size_t>(w % C::dim)]
                 : std::int16_t{0});
    }
  return table;
}

/// The byte that names weights (row, k ... k + width - 1).
template <int Bits>
__device__ inline std::uint32_t TableFormat<Bits>::byte_at(const PackedLayout& layout,
                                                           const std::uint8_t* codes, std::int64_t row,
                                                           std::int64_t k) {
  std::uint32_t byte = 0;
  for (int w = 0; w < width; w += layout.dim) byte |= symbol_at(layout, codes, row, k + w) << w * Bits;
  return byte;
}

/// Writes byte j of tile (i, s) to `words` (loads, 4), which begin as zeros.
template <int Bits>
__device__ inline void TableFormat<Bits>::put(std::uint32_t (&words)[4 * Bits], int i, int s, int j,
                                              std::uint32_t byte) {
  if constexpr (Bits == 2) words[s / 2 * 4 + i] |= byte << (s % 2 * 2 + j) * 8;
  if constexpr (Bits == 4) words[s * 4 + i] |= byte << j * 8;
  if constexpr (Bits == 8) words[(2 * s + i / 2) * 4 + i % 2 * 2 + j / 4] |= byte << j % 4 * 8;
  if constexpr (Bits == 3) {
    if (i < 3) {
      words[i * 4 + s] |= byte << j * 8;
    } else {
      HIGGS_UNROLL for (int p = 0; p < 3; ++p)
        words[p * 4 + s] |= (byte >> 2 * p & 3u) << (j * 8 + 6);
    }
  }
}

template <int Bits>
__device__ inline void TableFormat<Bits>::repack(const PackedLayout& layout, const std::uint8_t* codes,
                                                 std::int64_t row, std::int64_t k, int lane,
                                                 uint4 (&out)[loads]) {
  const int g = lane / 4, t = lane % 4;
  std::uint32_t words[4 * Bits] = {};  // (load, word)
  HIGGS_UNROLL for (int tile = 0; tile < 16; ++tile) {
    const int i = tile / 4, s = tile % 4;
    HIGGS_UNROLL for (int j = 0; j < tile_bytes; ++j) {
      const int half = width == 1 ? j / 4 : j % 2;  // row g or g + 8
      const int input = width == 1 ? j % 4 : width == 2 ? j / 2 * 2 : 0;
      put(words, i, s, j, byte_at(layout, codes, row + 16 * i + 8 * half + g, k + 16 * s + 4 * t + input));
    }
  }
  HIGGS_UNROLL for (int i = 0; i < Bits; ++i)
    out[i] = uint4{words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]};
}

/// Entry by entry, a copy for each lane (16 copies of entries of 8 bytes).
template <int Bits>
template <class Entry>
__device__ inline void TableFormat<Bits>::fill_lines(const Entry& entry) {
  detail::check_table_space();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int first = static_cast<int>(threadIdx.x) / 32 * 32; first < LookupTable::lines;
       first += static_cast<int>(blockDim.x)) {
    const auto words = entry(first + lane);
    // Eight lanes write a line, four lines at a time.
    const auto to = static_cast<std::uint32_t>(LookupTable::begin +
                                               (first + lane / 8) * LookupTable::line_bytes + lane % 8 * 16);
    HIGGS_UNROLL for (int line = 0; line < 32; line += 4) {
      const auto of_line = [&](std::uint32_t word) {
        return __shfl_sync(0xffffffffu, word, line + lane / 8);
      };
      std::uint32_t a, b;
      if constexpr (std::is_same_v<decltype(words), const uint2>)
        a = of_line(words.x), b = of_line(words.y);
      else
        a = b = of_line(words);
      store_shared_128(to + static_cast<std::uint32_t>(line) * LookupTable::line_bytes, uint4{a, b, a, b});
    }
  }
}
template <int Bits>
template <class T>
__device__ inline void TableFormat<Bits>::fill_table(const std::int16_t* table) {
  fill_lines([&](int byte) {
    const std::int16_t* from = table + byte * width;
    const std::uint32_t low = round_pair<T>(from[0], from[width == 1 ? 0 : 1]);
    if constexpr (width == 4)
      return uint2{low, round_pair<T>(from[2], from[3])};
    else
      return low;
  });
}
template <int Bits>
__device__ inline void TableFormat<Bits>::fill_int8_table(const std::int16_t* table)
  requires(Bits == 2)
{
  fill_lines([&](int byte) {
    const uint2 four = *reinterpret_cast<const uint2*>(table + byte * width);
    return select_bytes<0x6420>(four.x, four.y);
  });
}

template <int Bits>
template <class T, int Row, int Step>
__device__ inline void TableFormat<Bits>::decode(std::uint32_t (&a)[1][4], const uint4 (&loads)[Bits],
                                                 std::uint32_t offset) {
  using detail::word_of;
  const auto four_pairs = [&](std::uint32_t bytes) {
    a[0][0] = entry<0>(bytes, offset);
    a[0][1] = entry<1>(bytes, offset);
    a[0][2] = entry<2>(bytes, offset);
    a[0][3] = entry<3>(bytes, offset);
  };
  if constexpr (Bits == 2) {
    constexpr int first = Step % 2 * 2;
    const std::uint32_t bytes = word_of(loads[Step / 2], Row);
    const uint2 top = load_shared_64<LookupTable::begin>(LookupTable::line_of<first>(bytes, offset));
    const uint2 bottom = load_shared_64<LookupTable::begin>(LookupTable::line_of<first + 1>(bytes, offset));
    a[0][0] = top.x;
    a[0][1] = bottom.x;
    a[0][2] = top.y;
    a[0][3] = bottom.y;
  } else if constexpr (Bits == 4) {
    four_pairs(word_of(loads[Step], Row));
  } else if constexpr (Bits == 8) {
    const uint4 load = loads[2 * Step + Row / 2];
    const std::uint32_t top = word_of(load, Row % 2 * 2), bottom = word_of(load, Row % 2 * 2 + 1);
    const auto pair = [](std::uint32_t first, std::uint32_t second) {
      return select_bytes<0x5410>(first, second);
    };
    a[0][0] = pair(entry<0>(top, offset), entry<1>(top, offset));
    a[0][1] = pair(entry<0>(bottom, offset), entry<1>(bottom, offset));
    a[0][2] = pair(entry<2>(top, offset), entry<3>(top, offset));
    a[0][3] = pair(entry<2>(bottom, offset), entry<3>(bottom, offset));
  } else if constexpr (Row < 3) {
    four_pairs(word_of(loads[Row], Step));
  } else {
    // The table repeats every 64 lines, so the bits above the six of a byte may be anything.
    const std::uint32_t two = word_of(loads[0], Step) >> 6;
    const std::uint32_t four = select_bits<0x0c0c0c0cu>(word_of(loads[1], Step) >> 4, two);
    four_pairs(select_bits<0xf0f0f0f0u>(word_of(loads[2], Step) >> 2, four));
  }
}

/// The bytes of load `Half` name four inputs each of row g, row g + 8, and of the same rows 16 inputs on.
template <int Bits>
template <int Row, int Half>
  requires(Bits == 2)
__device__ inline void TableFormat<Bits>::decode_int8(std::uint32_t (&a)[4], const uint4 (&loads)[Bits],
                                                      std::uint32_t offset) {
  const std::uint32_t bytes = detail::word_of(loads[Half], Row);
  a[0] = entry<0>(bytes, offset);
  a[1] = entry<1>(bytes, offset);
  a[2] = entry<2>(bytes, offset);
  a[3] = entry<3>(bytes, offset);
}

static_assert(Int8Decoder<TableFormat<2>> && !Int8Decoder<TableFormat<4>>);
static_assert(FragmentDecoder<TableFormat<2>> && FragmentDecoder<TableFormat<3>> &&
              FragmentDecoder<TableFormat<4>> && FragmentDecoder<TableFormat<8>>);

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
