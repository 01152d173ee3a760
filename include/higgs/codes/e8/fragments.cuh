// SPDX-License-Identifier: Apache-2.0
// E8Codebook for tensor cores: one lookup of a byte for eight magnitudes, four instructions for a pair of weights.
#pragma once

#include <higgs/codes/e8/e8.hpp>
#include <higgs/core/half.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/pack/fragment_decoder.cuh>
#include <higgs/pack/packed_layout.cuh>

#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// The format of E8Codebook: 2 bits a weight. Lane 4 g + t holds inputs 32 u + 8 t ... + 7 of rows
/// 16 i + 8 half + g, that is 16 symbols of a warp tile (i = 0 ... 3, u = 0, 1, half = 0, 1). Byte 2 u + half of
/// word i of load 0 is the symbol's pattern. The same word of load 1 holds its other 8 bits, at bits
/// 2 u + half + 4 j, j = 0 ... 7: sign j is bit j differing from bit j - 1 (bit 0: from bit 7), so that a
/// rotation by 4 finds the signs of four symbols at once, an even number of them for each. Bit 0 is the side.
/// Sign j is that of coordinate 2 (j % 4) + j / 4; lanes with t >= 2 have coordinates 0 ... 3 and 4 ... 7
/// exchanged.
struct E8Format {
  static constexpr PackedFormat format = PackedFormat::E8;
  static constexpr int loads = 2;             // loads of 128 bits per lane and warp tile
  static constexpr int table_size = 256 * 8;  // (256, 8)
  using Activations = EightInputsPerLane;

  static __device__ void repack(const PackedLayout& layout, const std::uint8_t* codes, std::int64_t row,
                                std::int64_t k, int lane, uint4 (&out)[2]);
  template <class T>
  static __device__ void fill_table(const std::int16_t* table);
  static __device__ std::uint32_t table_offset(int lane) { return static_cast<unsigned>(lane) % 8 * 16; }
  template <class T, int Row, int Step>
  static __device__ void decode(std::uint32_t (&a)[2][4], const uint4 (&loads)[2], std::uint32_t offset);

 private:
  static __device__ std::uint32_t tile_signs(std::uint32_t symbol, bool exchanged);
  template <class T, int Z>
  static __device__ uint4 decode_symbol(std::uint32_t patterns, std::uint32_t signs, std::uint32_t sides,
                                        std::uint32_t offset);
};

/// The lookup table of E8Format: the magnitudes of each pattern. From 128 on the last one is negated, for the
/// sign that is odd there. (256, 8)
inline std::vector<std::int16_t> lookup_table(const E8Codebook&) {
  std::vector<std::int16_t> table;
  for (unsigned number = 0; number < 256; ++number)
    for (unsigned d = 0; d < 8; ++d) {
      const std::uint8_t magnitude =
          higgs::detail::e8_levels[higgs::detail::e8_patterns[number] >> 4 * d & 15u];
      table.push_back(static_cast<std::int16_t>(number >= 128 && d == 7 ? -magnitude : magnitude));
    }
  return table;
}

/// The 8 bits of signs and side of a symbol as load 1 has them, at bits 4 j. Patterns from 128 on have a
/// negated magnitude in the table, so that the number of all signs is even.
__device__ inline std::uint32_t E8Format::tile_signs(std::uint32_t symbol, bool exchanged) {
  std::uint32_t signs = symbol & 127u;
  signs |= (static_cast<std::uint32_t>(__popc(signs)) & 1u) << 7;
  std::uint32_t bit = symbol >> 15, out = bit;
  for (std::uint32_t j = 1; j < 8; ++j) {
    const std::uint32_t coordinate = (2 * (j % 4) + j / 4) ^ (exchanged ? 4u : 0u);
    bit ^= signs >> coordinate & 1u;
    out |= bit << 4 * j;
  }
  return out;
}

__device__ inline void E8Format::repack(const PackedLayout& layout, const std::uint8_t* codes,
                                        std::int64_t row, std::int64_t k, int lane, uint4 (&out)[2]) {
  const int g = lane / 4, t = lane % 4;
  std::uint32_t patterns[4] = {}, signs[4] = {};
  HIGGS_UNROLL for (int i = 0; i < 4; ++i) HIGGS_UNROLL
    for (int z = 0; z < 4; ++z) {
      const std::uint32_t symbol =
          symbol_at(layout, codes, row + 16 * i + z % 2 * 8 + g, k + z / 2 * 32 + 8 * t);
      patterns[i] |= (symbol >> 7 & 255u) << 8 * z;
      signs[i] |= tile_signs(symbol, t >= 2) << z;
    }
  out[0] = uint4{patterns[0], patterns[1], patterns[2], patterns[3]};
  out[1] = uint4{signs[0], signs[1], signs[2], signs[3]};
}

/// Eight copies of a pattern's eight magnitudes. Lanes with t >= 2 find the second four first.
template <class T>
__device__ inline void E8Format::fill_table(const std::int16_t* table) {
  detail::check_table_space();
  for (unsigned line = threadIdx.x; line < LookupTable::lines; line += blockDim.x) {
    const std::int16_t* from = table + line * 8;
    std::uint32_t words[4];
    HIGGS_UNROLL for (int w = 0; w < 4; ++w)
      words[w] = round_pair<T>(from[2 * w], from[2 * w + 1]);
    HIGGS_UNROLL for (unsigned i = 0; i < 8;
                      ++i) {  // eight lanes write eight different copies of their lines
      const unsigned copy = (i + threadIdx.x) % 8;
      const bool exchanged = copy % 4 >= 2;
      store_shared_128(LookupTable::begin + line * LookupTable::line_bytes + copy * 16,
                       uint4{exchanged ? words[2] : words[0], exchanged ? words[3] : words[1],
                             exchanged ? words[0] : words[2], exchanged ? words[1] : words[3]});
    }
  }
}

/// The 8 coordinates of symbol Z of a word, from `signs` and `sides` of the word.
template <class T, int Z>
__device__ inline uint4 E8Format::decode_symbol(std::uint32_t patterns, std::uint32_t signs,
                                                std::uint32_t sides, std::uint32_t offset) {
  constexpr std::uint32_t ones = T(1.0f).bits * 0x10001u;
  constexpr std::uint32_t shifts = T(static_cast<float>(higgs::detail::e8_shift)).bits * 0x10001u;
  const uint4 magnitudes = load_shared_128<LookupTable::begin>(LookupTable::line_of<Z>(patterns, offset));
  const std::uint32_t side = select_bytes<0x9999>(sides << (15 - Z), 0);  // all bits are the sign of byte 1
  const std::uint32_t shift = flip_bits<0x80008000u>(shifts, side);
  const auto pair = [&](std::uint32_t magnitude, int w) {  // the signs of a pair are 16 bits apart
    return fma_pair<T>(keep_bits<0x80008000u, ones>(signs << (15 - Z - 4 * w)), magnitude, shift);
  };
  return {pair(magnitudes.x, 0), pair(magnitudes.y, 1), pair(magnitudes.z, 2), pair(magnitudes.w, 3)};
}

template <class T, int Row, int Step>
__device__ inline void E8Format::decode(std::uint32_t (&a)[2][4], const uint4 (&loads)[2],
                                        std::uint32_t offset) {
  const std::uint32_t patterns = detail::word_of(loads[0], Row), sides = detail::word_of(loads[1], Row);
  const std::uint32_t signs = sides ^ __funnelshift_l(sides, sides, 4);
  const uint4 top = decode_symbol<T, 2 * Step>(patterns, signs, sides, offset);
  const uint4 bottom = decode_symbol<T, 2 * Step + 1>(patterns, signs, sides, offset);
  a[0][0] = top.x, a[0][1] = bottom.x, a[0][2] = top.y, a[0][3] = bottom.y;
  a[1][0] = top.z, a[1][1] = bottom.z, a[1][2] = top.w, a[1][3] = bottom.w;
}

static_assert(FragmentDecoder<E8Format>);

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
