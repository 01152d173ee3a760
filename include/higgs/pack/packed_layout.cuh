// SPDX-License-Identifier: Apache-2.0
// The packed order of a matrix on a GPU, made on the device from the canonical layout. It depends on the matrix
// and its format alone, never on the GPU nor on tuning.
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

/// The ways in which codes are packed for tensor cores. Each has a type with its facts and functions (concept
/// FragmentDecoder in pack/fragment_decoder.cuh); codes/formats.cuh lists the types that kernels are compiled
/// for.
enum class PackedFormat : int {
  None,
  Table2,  // TableFormat<2>: 2 bits a weight
  Table3,
  Table4,
  Table8,
  E8,       // E8Format
  Window4,  // WindowFormat<4>: 4 bits for two weights
  Window5,
  Window6,
  Window7,
  Window8,
  Custom = 1000  // this value and larger ones are free for formats outside this library
};

/// Rows and inputs of a warp tile: the part of W that one warp multiplies at a time.
inline constexpr int warp_tile = 64;

/// The shape of a packed matrix. A matrix is warp_tile_rows() x warp_tile_cols() warp tiles, row by row. Groups
/// are padded to whole warp tiles. Padding holds symbol 0, and meets scales or inputs of zero.
///
/// Each lane of a warp reads `loads` times 128 bits of a warp tile; load i of all lanes is 512 neighbouring
/// bytes. Behind them is the tail of the warp tile, which few formats have. Lane 4 g + t holds weights of rows g, g + 8, g + 16, ... of the warp tile.
struct PackedLayout {
  PackedFormat format = PackedFormat::None;
  int loads = 0;            // loads of 128 bits per lane and warp tile
  int dim = 1;              // weights per symbol
  int symbol_bits = 8;      // bits per symbol in the canonical layout, up to 16
  std::int64_t rows = 0;    // outputs
  std::int64_t groups = 0;  // groups per row
  std::int64_t group = 1;   // inputs per group
  int tail_units = 0;       // units of 128 bits in the tail of a warp tile

  /// Inputs per group, those of padding included.
  HIGGS_HOST_DEVICE constexpr std::int64_t padded_group() const noexcept {
    return ceil_div(group, warp_tile) * warp_tile;
  }
  /// Inputs, those of padding included.
  HIGGS_HOST_DEVICE constexpr std::int64_t depth() const noexcept { return groups * padded_group(); }
  /// Rows of warp tiles.
  HIGGS_HOST_DEVICE constexpr std::int64_t warp_tile_rows() const noexcept {
    return ceil_div(rows, warp_tile);
  }
  /// Warp tiles per row of them.
  HIGGS_HOST_DEVICE constexpr std::int64_t warp_tile_cols() const noexcept { return depth() / warp_tile; }
  /// Units of 128 bits in the whole matrix.
  HIGGS_HOST_DEVICE constexpr std::int64_t load_count() const noexcept {
    return warp_tile_rows() * warp_tile_cols() * (loads * 32 + tail_units);
  }
  /// Scales in the whole matrix, those of padding included.
  HIGGS_HOST_DEVICE constexpr std::int64_t scale_count() const noexcept {
    return warp_tile_rows() * groups * warp_tile;
  }
  /// Symbols per group in the canonical layout.
  HIGGS_HOST_DEVICE constexpr std::int64_t symbols_per_group() const noexcept { return ceil_div(group, dim); }
  /// Bytes per row in the canonical layout.
  HIGGS_HOST_DEVICE constexpr std::int64_t row_bytes() const noexcept {
    return ceil_div(groups * symbols_per_group() * symbol_bits, 8);
  }
};

/// The layout of a matrix in `Format` whose code has `dim` weights per symbol of `symbol_bits` bits.
template <class Format>
constexpr PackedLayout packed_layout(int dim, int symbol_bits, std::int64_t rows, std::int64_t groups,
                                     std::int64_t group) noexcept {
  constexpr int tail_units = [] {
    if constexpr (requires { Format::tail_units; })
      return Format::tail_units;
    else
      return 0;
  }();
  return {Format::format, Format::loads, dim, symbol_bits, rows, groups, group, tail_units};
}

/// The symbol that codes weight (row, k) of `codes` in canonical layout, k counted in padded groups; 0 for
/// padding. For the repack() of formats.
__device__ inline std::uint32_t symbol_at(const PackedLayout& layout, const std::uint8_t* codes,
                                          std::int64_t row, std::int64_t k) {
  const std::int64_t group = k / layout.padded_group(), within = k % layout.padded_group();
  if (row >= layout.rows || within >= layout.group) return 0;
  const std::int64_t bit = (group * layout.symbols_per_group() + within / layout.dim) * layout.symbol_bits;
  const std::int64_t bytes = layout.row_bytes(), first = bit / 8;
  std::uint32_t word = 0;  // a symbol of up to 16 bits touches three bytes
  for (std::int64_t i = 0; i < 3 && first + i < bytes; ++i)
    word |= static_cast<std::uint32_t>(codes[row * bytes + first + i]) << 8 * i;
  return word >> bit % 8 & ((1u << layout.symbol_bits) - 1u);
}

/// Repacks `codes` (rows, row_bytes) and `scales` (rows, groups) from canonical layout, all on the device:
/// `packed` (warp_tile_rows, warp_tile_cols, loads * 32 + tail_units) and `packed_scales` (warp_tile_rows, groups, 64).
/// Throws InvalidArgument for a layout of another format.
template <class Format, class Archs = BuiltFor>
void repack_async(const PackedLayout& layout, const std::uint8_t* codes, const Half* scales, uint4* packed,
                  Half* packed_scales, cudaStream_t stream);

namespace detail {

/// Word i of four.
__device__ inline std::uint32_t word_of(uint4 v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/// One thread per lane of each warp tile.
template <class Format>
__global__ void repack_kernel(PackedLayout layout, const std::uint8_t* codes, uint4* packed) {
  const std::int64_t thread = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const std::int64_t tile = thread / 32, cols = layout.warp_tile_cols();
  const int lane = static_cast<int>(thread % 32);
  if (tile >= layout.warp_tile_rows() * cols) return;
  uint4 loads[Format::loads];
  uint4* to = packed + tile * (Format::loads * 32 + layout.tail_units) + lane;
  if constexpr (requires { typename Format::Tail; }) {
    typename Format::Tail tail;
    Format::repack(layout, codes, tile / cols * warp_tile, tile % cols * warp_tile, lane, loads, tail);
    Format::store_tail(to, lane, tail);
  } else {
    Format::repack(layout, codes, tile / cols * warp_tile, tile % cols * warp_tile, lane, loads);
  }
  HIGGS_UNROLL for (int i = 0; i < Format::loads; ++i)
    to[32 * i] = loads[i];
}

/// Lane 4 g + t needs the scales of rows g, g + 8, g + 16, ... of a warp tile; they become eight neighbours.
static __global__ void repack_scales_kernel(PackedLayout layout, const Half* scales, Half* packed_scales) {
  const std::int64_t thread = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (thread >= layout.scale_count()) return;
  const auto within = static_cast<int>(thread % warp_tile);
  const std::int64_t row = thread / warp_tile / layout.groups * warp_tile + within % 8 * 8 + within / 8;
  packed_scales[thread] = row < layout.rows ? scales[row * layout.groups + thread / warp_tile % layout.groups]
                                            : Half::from_bits(0);
}

}  // namespace detail

template <class Format, class Archs>
void repack_async(const PackedLayout& layout, const std::uint8_t* codes, const Half* scales, uint4* packed,
                  Half* packed_scales, cudaStream_t stream) {
  expects(layout.format == Format::format && layout.loads == Format::loads,
          "higgs::gpu::repack_async: the layout is of another format");
  expects(layout.symbol_bits >= 1 && layout.symbol_bits <= 16,
          "higgs::gpu::repack_async: a symbol has 1 to 16 bits");
  const auto blocks = [](std::int64_t threads) {
    return dim3(static_cast<unsigned>(ceil_div(threads, 128)));
  };
  const std::int64_t lanes = layout.warp_tile_rows() * layout.warp_tile_cols() * 32;
  launch(detail::repack_kernel<Format>, blocks(lanes), 128, 0, stream, layout, codes, packed);
  launch(detail::repack_scales_kernel, blocks(layout.scale_count()), 128, 0, stream, layout, scales,
         packed_scales);
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
