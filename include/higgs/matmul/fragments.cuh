// SPDX-License-Identifier: Apache-2.0
// Codes to tensor-core operands for any kernel: in two instructions for a pair of weights, or four for E8's.
//
// A byte permutation makes the address 256 * byte + 4 * lane, a load reads there. The table lies in shared
// memory once for each lane, in the first 128 bytes of 256 lines, so that lanes never share a bank; the
// second 128 bytes are the kernel's. The table begins at an address known to the compiler, above what CUDA
// keeps for itself.
#pragma once

#include <higgs/codes/e8/e8.hpp>
#include <higgs/core/half.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/pack/packed_layout.cuh>

#include <cuda_runtime.h>

#include <cstdint>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// Where the lines begin and end, as addresses of shared memory. A kernel that decodes has no static shared
/// memory and asks for table_end bytes or more of dynamic.
inline constexpr int table_begin = 1024, table_end = table_begin + 256 * 256;

namespace detail {
/// The lines of E8's table: eight copies of a pattern's eight magnitudes. Lanes with t >= 2 find the second
/// four first, see pack/packed_layout.cuh.
template <class T>
__device__ inline void fill_e8_table(const std::int16_t* table) {
  for (unsigned line = threadIdx.x; line < 256; line += blockDim.x) {
    const std::int16_t* from = table + line * 8;
    std::uint32_t words[4];
    HIGGS_UNROLL
    for (int w = 0; w < 4; ++w) words[w] = round_pair<T>(from[2 * w], from[2 * w + 1]);
    HIGGS_UNROLL
    for (unsigned i = 0; i < 8; ++i) {  // eight lanes write eight places of their lines
      const unsigned copy = (i + threadIdx.x) % 8;
      const bool exchanged = copy % 4 >= 2;
      store_shared_128(table_begin + line * 256 + copy * 16,
                       uint4{exchanged ? words[2] : words[0], exchanged ? words[3] : words[1],
                             exchanged ? words[0] : words[2], exchanged ? words[1] : words[3]});
    }
  }
}
}  // namespace detail

/// Fills the lines of the table from PackedView::table, by all threads of the block; the caller needs a
/// barrier before the first decode_fragment. Entry by entry, a copy for each lane (16 for entries of 8
/// bytes).
template <int Bits, class T>
__device__ inline void fill_byte_table(const std::int16_t* table) {
  if constexpr (Bits == e8_tiles) return detail::fill_e8_table<T>(table);
  constexpr int width = weights_per_byte(Bits);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int first = static_cast<int>(threadIdx.x) / 32 * 32; first < 256;
       first += static_cast<int>(blockDim.x)) {
    const std::int16_t* from = table + (first + lane) * width;
    const std::uint32_t low = round_pair<T>(from[0], from[width == 1 ? 0 : 1]);
    std::uint32_t high = 0;
    if constexpr (width == 4) high = round_pair<T>(from[2], from[3]);
    // Eight lanes write a line, four lines at a time.
    const auto to = static_cast<std::uint32_t>(table_begin + (first + lane / 8) * 256 + lane % 8 * 16);
    HIGGS_UNROLL
    for (int line = 0; line < 32; line += 4) {
      const std::uint32_t a = __shfl_sync(0xffffffffu, low, line + lane / 8);
      std::uint32_t b = a;
      if constexpr (width == 4) b = __shfl_sync(0xffffffffu, high, line + lane / 8);
      store_shared_128(to + static_cast<std::uint32_t>(line) * 256, uint4{a, b, a, b});
    }
  }
}

/// The place of this lane's copy in a line.
template <int Bits>
__device__ inline std::uint32_t table_place(int lane_of_warp = static_cast<int>(threadIdx.x % 32)) {
  const auto lane = static_cast<unsigned>(lane_of_warp);
  return Bits == e8_tiles ? lane % 8 * 16 : Bits == 2 ? lane % 16 * 8 : lane * 4;
}

namespace detail {

/// The line of byte J of `word`, as an address that still lacks table_begin.
template <int J>
__device__ inline std::uint32_t line_of(std::uint32_t word, std::uint32_t lane_place) {
  return select_bytes < 0x5504u | J << 4 > (word, lane_place);
}

/// The A fragment of a tile from its bytes: `low` holds bytes 0 to 3, `high` bytes 4 to 7 of 8-bit tiles.
/// Part is the half of `low` that a 2-bit tile uses.
template <int Bits, int Part>
__device__ inline void decode_tile(std::uint32_t (&a)[4], std::uint32_t low, std::uint32_t high,
                                   std::uint32_t place) {
  if constexpr (Bits == 2) {
    const uint2 top = load_shared_64<table_begin>(line_of<2 * Part>(low, place));
    const uint2 bottom = load_shared_64<table_begin>(line_of<2 * Part + 1>(low, place));
    a[0] = top.x;
    a[1] = bottom.x;
    a[2] = top.y;
    a[3] = bottom.y;
  } else if constexpr (Bits == 8) {
    const auto pair = [&](std::uint32_t first, std::uint32_t second) {
      return select_bytes<0x5410>(load_shared_32<table_begin>(first), load_shared_32<table_begin>(second));
    };
    a[0] = pair(line_of<0>(low, place), line_of<1>(low, place));
    a[1] = pair(line_of<0>(high, place), line_of<1>(high, place));
    a[2] = pair(line_of<2>(low, place), line_of<3>(low, place));
    a[3] = pair(line_of<2>(high, place), line_of<3>(high, place));
  } else {
    a[0] = load_shared_32<table_begin>(line_of<0>(low, place));
    a[1] = load_shared_32<table_begin>(line_of<1>(low, place));
    a[2] = load_shared_32<table_begin>(line_of<2>(low, place));
    a[3] = load_shared_32<table_begin>(line_of<3>(low, place));
  }
}

}  // namespace detail

/// The A operand of mma_m16n8k16 for tile (I, S) of a slab, from the loads of this lane: coordinates as fp16
/// or bf16, whichever the table was filled with. Inputs 4 t ... 4 t + 3 of the tile stand where the
/// instruction has 2 t, 2 t + 1, 2 t + 8, 2 t + 9: the B operand of a lane is 8 neighbouring bytes of the
/// activations.
template <int Bits, int I, int S>
__device__ inline void decode_fragment(std::uint32_t (&a)[4], const uint4 (&loads)[Bits],
                                       std::uint32_t place) {
  if constexpr (Bits == 2) {
    detail::decode_tile<2, S % 2>(a, detail::word_of(loads[S / 2], I), 0, place);
  } else if constexpr (Bits == 4) {
    detail::decode_tile<4, 0>(a, detail::word_of(loads[S], I), 0, place);
  } else if constexpr (Bits == 8) {
    const uint4 load = loads[2 * S + I / 2];
    detail::decode_tile<8, 0>(a, detail::word_of(load, I % 2 * 2), detail::word_of(load, I % 2 * 2 + 1),
                              place);
  } else if constexpr (I < 3) {
    detail::decode_tile<3, 0>(a, detail::word_of(loads[I], S), 0, place);
  } else {
    // The table repeats every 64 lines, so the bits above the six of a code may be anything.
    const std::uint32_t two = detail::word_of(loads[0], S) >> 6;
    const std::uint32_t four = select_bits<0x0c0c0c0cu>(detail::word_of(loads[1], S) >> 4, two);
    detail::decode_tile<3, 0>(a, select_bits<0xf0f0f0f0u>(detail::word_of(loads[2], S) >> 2, four), 0, place);
  }
}

namespace detail {
/// The 8 coordinates of code Z of a word of E8's tiles, from `signs` and `sides` of the word.
template <class T, int Z>
__device__ inline uint4 decode_e8_code(std::uint32_t patterns, std::uint32_t signs, std::uint32_t sides,
                                       std::uint32_t place) {
  constexpr std::uint32_t ones = T(1.0f).bits * 0x10001u;
  constexpr std::uint32_t shifts = T(static_cast<float>(higgs::detail::e8_shift)).bits * 0x10001u;
  const uint4 magnitudes = load_shared_128<table_begin>(line_of<Z>(patterns, place));
  const std::uint32_t side = select_bytes<0x9999>(sides << (15 - Z), 0);  // all bits are the sign of byte 1
  const std::uint32_t shift = flip_bits<0x80008000u>(shifts, side);
  const auto pair = [&](std::uint32_t magnitude, int w) {  // signs stand 16 bits apart
    return fma_pair<T>(keep_bits<0x80008000u, ones>(signs << (15 - Z - 4 * w)), magnitude, shift);
  };
  return {pair(magnitudes.x, 0), pair(magnitudes.y, 1), pair(magnitudes.z, 2), pair(magnitudes.w, 3)};
}
}  // namespace detail

/// The A operands for tiles (I, 2 U) and (I, 2 U + 1) of a slab of E8's tiles. Inputs 8 t ... 8 t + 7 of
/// their 32 are a lane's: the first tile has the lower four of them, for t >= 2 the upper four, the second
/// tile the others. The B operands are neighbouring halves of 16 bytes of the activations.
template <class T, int I, int U>
__device__ inline void decode_e8_fragments(std::uint32_t (&first)[4], std::uint32_t (&second)[4],
                                           const uint4 (&loads)[2], std::uint32_t place) {
  const std::uint32_t patterns = detail::word_of(loads[0], I), sides = detail::word_of(loads[1], I);
  const std::uint32_t signs = sides ^ __funnelshift_l(sides, sides, 4);
  const uint4 top = detail::decode_e8_code<T, 2 * U>(patterns, signs, sides, place);
  const uint4 bottom = detail::decode_e8_code<T, 2 * U + 1>(patterns, signs, sides, place);
  first[0] = top.x, first[1] = bottom.x, first[2] = top.y, first[3] = bottom.y;
  second[0] = top.z, second[1] = bottom.z, second[2] = top.w, second[3] = bottom.w;
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
