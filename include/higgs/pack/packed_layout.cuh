// SPDX-License-Identifier: Apache-2.0
// The order in which tensor cores want the codes, made on the device from interchange order. It depends on
// the matrix alone, never on a GPU nor on tuning.
//
// A slab is 64 rows by 64 inputs: 4 x 4 tiles of 16 x 16. A slab of b bits is b runs of 512 bytes, 16 for
// each lane of a warp, so that a warp reads it in b loads of 128 bits; slabs of the same rows follow each
// other along the inputs. In tile (i, s) lane 4 g + t owns 8 weights: rows 16 i + g and 16 i + g + 8, inputs
// 16 s + 4 t ... + 3. They are read as bytes, each of which names `width` neighbouring inputs of one row in a
// table of 256 lines:
//
//     bits  width  bytes of a tile                  where byte j of tile (i, s) lies
//      2      4    row g, row g + 8                 load s / 2, word i, byte s % 2 * 2 + j
//      3      2    (g, 0) (g+8, 0) (g, 2) (g+8, 2)  i < 3: load i, word s, byte j, low 6 bits; i = 3: its bits
//                                                   2p, 2p + 1 are the bits 6, 7 of load p, word s, byte j
//      4      2    (g, 0) (g+8, 0) (g, 2) (g+8, 2)  load s, word i, byte j
//      8      1    row g: 0 ... 3, row g + 8: 0..3  load 2 s + i / 2, word i % 2 * 2 + j / 4, byte j % 4
//
// E8Codebook names 8 inputs at a time: lane 4 g + t owns inputs 32 u + 8 t ... + 7 of rows 16 i + 8 half + g,
// that is 16 codes of a slab (i = 0 ... 3, u = 0, 1, half = 0, 1). Byte 2 u + half of word i of load 0 is the
// code's pattern. The same word of load 1 holds its other 8 bits, at the bits 2 u + half + 4 j, j = 0 ... 7:
// sign j is bit j differing from bit j - 1 (bit 0: from bit 7), so that a rotation by 4 finds the signs of
// four codes at once, an even number of them for each; bit 0 is the side. Sign j is that of coordinate
// 2 (j % 4) + j / 4; lanes with t >= 2 have coordinates 0 ... 3 and 4 ... 7 exchanged.
//
// Groups are padded to whole slabs; what pads rows, groups and slabs is code 0 and meets scales or inputs of
// zero.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/gpu/launch.cuh>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace higgs {
inline namespace v0 {
namespace gpu {

inline constexpr int slab = 64;  // rows and inputs of a slab

/// Stands for the bits of a weight where E8Codebook's tiles are meant: 2 bits, but 8 weights to a code.
inline constexpr int e8_tiles = 28;

/// Loads of 128 bits that each lane of a warp needs for a slab.
HIGGS_HOST_DEVICE constexpr int loads_per_slab(int bits) noexcept { return bits == e8_tiles ? 2 : bits; }

/// Weights that one byte names in a matrix of `bits` bits a weight.
HIGGS_HOST_DEVICE constexpr int weights_per_byte(int bits) noexcept {
  return bits == e8_tiles ? 8 : bits == 2 ? 4 : bits == 8 ? 1 : 2;
}

/// Whether codes of `code_bits` bits for `dim` weights have a tile order; those of E8Codebook have one too.
constexpr bool has_tile_order(int dim, int code_bits) noexcept {
  if (dim < 1 || code_bits % dim != 0) return false;
  const int bits = code_bits / dim;
  return (bits == 2 || bits == 3 || bits == 4 || bits == 8) && weights_per_byte(bits) % dim == 0;
}

/// The shape of a matrix in tile order.
struct PackedLayout {
  int bits = 0;  // a weight: 2, 3, 4, 8 or e8_tiles
  int dim = 1;   // weights of a code
  std::int64_t rows = 0;
  std::int64_t groups = 0;  // of a row
  std::int64_t group = 1;   // inputs of a group

  HIGGS_HOST_DEVICE constexpr std::int64_t padded_group() const noexcept {
    return ceil_div(group, slab) * slab;
  }
  HIGGS_HOST_DEVICE constexpr std::int64_t depth() const noexcept {
    return groups * padded_group();
  }  // padded inputs
  HIGGS_HOST_DEVICE constexpr std::int64_t slabs() const noexcept { return depth() / slab; }  // of a row
  HIGGS_HOST_DEVICE constexpr std::int64_t row_slabs() const noexcept { return ceil_div(rows, slab); }
  HIGGS_HOST_DEVICE constexpr std::int64_t code_loads() const noexcept {
    return row_slabs() * slabs() * loads_per_slab(bits) * 32;
  }
  HIGGS_HOST_DEVICE constexpr std::int64_t scale_count() const noexcept {
    return row_slabs() * groups * slab;
  }
  HIGGS_HOST_DEVICE constexpr int code_bits() const noexcept { return loads_per_slab(bits) * dim; }
  HIGGS_HOST_DEVICE constexpr std::int64_t codes_per_group() const noexcept { return ceil_div(group, dim); }
  HIGGS_HOST_DEVICE constexpr std::int64_t row_bytes() const noexcept {  // in interchange order
    return ceil_div(groups * codes_per_group() * code_bits(), 8);
  }
};

namespace detail {

/// The byte that names the weights (row, k ...) of `codes` in interchange order, k counted in padded groups.
__device__ inline std::uint32_t table_byte(const PackedLayout& order, const std::uint8_t* codes,
                                           std::int64_t row, std::int64_t k) {
  const std::int64_t padded = order.padded_group(), bytes = order.row_bytes();
  const int code_bits = order.bits * order.dim;
  std::uint32_t out = 0;
  if (row >= order.rows) return out;
  const std::uint8_t* from = codes + row * bytes;
  for (int w = 0; w < weights_per_byte(order.bits); w += order.dim) {
    const std::int64_t within = k % padded + w;
    if (within >= order.group) continue;
    const std::int64_t bit = (k / padded * order.codes_per_group() + within / order.dim) * code_bits;
    std::uint32_t two = from[bit / 8];
    if (bit / 8 + 1 < bytes) two |= static_cast<std::uint32_t>(from[bit / 8 + 1]) << 8;
    out |= (two >> bit % 8 & ((1u << code_bits) - 1u)) << w * order.bits;
  }
  return out;
}

__device__ inline std::uint32_t word_of(uint4 v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/// Byte j of tile (i, s) of a slab, from what one lane loaded.
template <int Bits>
__device__ inline std::uint32_t tile_byte(const uint4 (&loads)[Bits], int i, int s, int j) {
  const auto byte = [&](int load, int word, int which) {
    return word_of(loads[load], word) >> 8 * which & 255u;
  };
  if constexpr (Bits == 2) return byte(s / 2, i, s % 2 * 2 + j);
  if constexpr (Bits == 4) return byte(s, i, j);
  if constexpr (Bits == 8) return byte(2 * s + i / 2, i % 2 * 2 + j / 4, j % 4);
  if constexpr (Bits == 3) {
    if (i < 3) return byte(i, s, j) & 63u;
    return byte(0, s, j) >> 6 | byte(1, s, j) >> 6 << 2 | byte(2, s, j) >> 6 << 4;
  }
}

/// The code of weights (row, k ... k + 7), as E8Codebook has it.
__device__ inline std::uint32_t e8_code(const PackedLayout& order, const std::uint8_t* codes, std::int64_t row,
                                        std::int64_t k) {
  const std::int64_t padded = order.padded_group(), within = k % padded;
  if (row >= order.rows || within >= order.group) return 0;
  const std::uint8_t* from =
      codes + row * order.row_bytes() + 2 * (k / padded * order.codes_per_group() + within / 8);
  return from[0] | static_cast<std::uint32_t>(from[1]) << 8;
}

/// Pattern `number` of a code, and its 8 bits of signs and side as a tile has them, at bits 4 j. Of patterns
/// from 128 on the table negates the last magnitude, so that all signs are even.
__device__ inline std::uint32_t e8_tile_signs(std::uint32_t code, bool exchanged) {
  std::uint32_t signs = code & 127u;
  signs |= (static_cast<std::uint32_t>(__popc(signs)) & 1u) << 7;
  std::uint32_t bit = code >> 15, out = bit;
  for (std::uint32_t j = 1; j < 8; ++j) {
    const std::uint32_t coordinate = (2 * (j % 4) + j / 4) ^ (exchanged ? 4u : 0u);
    bit ^= signs >> coordinate & 1u;
    out |= bit << 4 * j;
  }
  return out;
}

/// What a lane has of a slab of E8's codes.
__device__ inline void repack_e8(const PackedLayout& order, const std::uint8_t* codes, std::int64_t place,
                                 int lane, uint4* out) {
  const int g = lane / 4, t = lane % 4;
  std::uint32_t patterns[4] = {}, signs[4] = {};
  HIGGS_UNROLL
  for (int i = 0; i < 4; ++i) HIGGS_UNROLL
  for (int z = 0; z < 4; ++z) {
    const std::uint32_t code = e8_code(order, codes, place / order.slabs() * slab + 16 * i + z % 2 * 8 + g,
                                       place % order.slabs() * slab + z / 2 * 32 + 8 * t);
    patterns[i] |= (code >> 7 & 255u) << 8 * z;
    signs[i] |= e8_tile_signs(code, t >= 2) << z;
  }
  out[place * 64 + lane] = uint4{patterns[0], patterns[1], patterns[2], patterns[3]};
  out[place * 64 + 32 + lane] = uint4{signs[0], signs[1], signs[2], signs[3]};
}

/// What a lane has of a slab of a table's codes.
template <int Bits>
__device__ inline void repack_table(const PackedLayout& order, const std::uint8_t* codes, std::int64_t place,
                                    int lane, uint4* out) {
  constexpr int width = weights_per_byte(Bits), bytes = 8 / width;
  const int g = lane / 4, t = lane % 4;
  std::uint32_t words[4 * Bits] = {};  // (load, word)
  HIGGS_UNROLL
  for (int tile = 0; tile < 16; ++tile) {
    const int i = tile / 4, s = tile % 4;
    HIGGS_UNROLL
    for (int j = 0; j < bytes; ++j) {
      const int half = width == 1 ? j / 4 : j % 2;
      const int input = width == 1 ? j % 4 : width == 2 ? j / 2 * 2 : 0;
      const std::uint32_t byte =
          table_byte(order, codes, place / order.slabs() * slab + 16 * i + 8 * half + g,
                     place % order.slabs() * slab + 16 * s + 4 * t + input);
      if constexpr (Bits == 2) words[s / 2 * 4 + i] |= byte << (s % 2 * 2 + j) * 8;
      if constexpr (Bits == 4) words[s * 4 + i] |= byte << j * 8;
      if constexpr (Bits == 8) words[(2 * s + i / 2) * 4 + i % 2 * 2 + j / 4] |= byte << j % 4 * 8;
      if constexpr (Bits == 3) {
        if (i < 3) {
          words[i * 4 + s] |= byte << j * 8;
        } else {
          HIGGS_UNROLL
          for (int p = 0; p < 3; ++p) words[p * 4 + s] |= (byte >> 2 * p & 3u) << (j * 8 + 6);
        }
      }
    }
  }
  HIGGS_UNROLL
  for (int load = 0; load < Bits; ++load)
    out[(place * Bits + load) * 32 + lane] =
        uint4{words[4 * load], words[4 * load + 1], words[4 * load + 2], words[4 * load + 3]};
}

/// One thread for each lane of each slab.
template <int Bits>
__global__ void repack_kernel(PackedLayout order, const std::uint8_t* codes, uint4* out) {
  const std::int64_t thread = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const std::int64_t place = thread / 32;  // (row_slabs, slabs)
  const int lane = static_cast<int>(thread % 32);
  if (place >= order.row_slabs() * order.slabs()) return;
  if constexpr (Bits == e8_tiles)
    repack_e8(order, codes, place, lane, out);
  else
    repack_table<Bits>(order, codes, place, lane, out);
}

/// Eight neighbours are what lane 4 g + t needs of a group: rows g, g + 8, g + 16, ... of the slab.
static __global__ void repack_scales_kernel(PackedLayout order, const Half* scales, Half* out) {
  const std::int64_t thread = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (thread >= order.scale_count()) return;
  const auto inside = static_cast<int>(thread % slab);
  const std::int64_t row = thread / slab / order.groups * slab + inside % 8 * 8 + inside / 8;
  out[thread] =
      row < order.rows ? scales[row * order.groups + thread / slab % order.groups] : Half::from_bits(0);
}

}  // namespace detail

/// Writes `codes` (rows, row_bytes) and `scales` (rows, groups), in interchange order on the device, in tile
/// order: `tiles` (row_slabs, slabs, loads_per_slab, 32) loads and `tile_scales` (row_slabs, groups, 64).
template <class Archs = BuiltFor>
void repack_async(const PackedLayout& order, const std::uint8_t* codes, const Half* scales, uint4* tiles,
                  Half* tile_scales, cudaStream_t stream) {
  expects(order.bits == e8_tiles ? order.dim == 8 : has_tile_order(order.dim, order.code_bits()),
          "higgs::gpu::repack_async: such codes have no tile order");
  const auto blocks = [](std::int64_t threads) {
    return dim3(static_cast<unsigned>(ceil_div(threads, 128)));
  };
  const std::int64_t lanes = order.row_slabs() * order.slabs() * 32;
  switch (order.bits) {
    case 2:
      launch(detail::repack_kernel<2>, blocks(lanes), 128, 0, stream, order, codes, tiles);
      break;
    case 3:
      launch(detail::repack_kernel<3>, blocks(lanes), 128, 0, stream, order, codes, tiles);
      break;
    case 4:
      launch(detail::repack_kernel<4>, blocks(lanes), 128, 0, stream, order, codes, tiles);
      break;
    case e8_tiles:
      launch(detail::repack_kernel<e8_tiles>, blocks(lanes), 128, 0, stream, order, codes, tiles);
      break;
    default:
      launch(detail::repack_kernel<8>, blocks(lanes), 128, 0, stream, order, codes, tiles);
      break;
  }
  launch(detail::repack_scales_kernel, blocks(order.scale_count()), 128, 0, stream, order, scales,
         tile_scales);
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
