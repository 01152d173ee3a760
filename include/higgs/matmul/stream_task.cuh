// SPDX-License-Identifier: Apache-2.0
// What the streaming kernel works on: its parameters, how blocks share the work, and its shared memory.
#pragma once

#include <higgs/core/half.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/matmul/matmul_task.cuh>
#include <higgs/matmul/packed_matrix.cuh>
#include <higgs/pack/fragment_decoder.cuh>
#include <higgs/pack/packed_layout.cuh>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// Storage of the outputs.
enum class OutputType { Float, Half, BFloat16 };

/// y (M, N) with what becomes of sums on the way out: y = x W^T + bias + residual, and for `gated` products y (M, N / 2)
/// as Epilogue says.
struct MatmulOutput {
  void* data = nullptr;
  OutputType type = OutputType::Float;
  std::int64_t row_stride = 0;     // elements
  const float* bias = nullptr;     // (N)
  const void* residual = nullptr;  // shape, type and stride of y
  bool gated = false;              // as in Epilogue
};

namespace detail {

struct StreamBlock;

/// The OutputType of Y.
template <class Y>
inline constexpr OutputType output_type = std::is_same_v<Y, float>  ? OutputType::Float
                                          : std::is_same_v<Y, Half> ? OutputType::Half
                                                                    : OutputType::BFloat16;

/// Stream-K: block b multiplies the warp tiles [begin(b), begin(b + 1)) of W, counted through it row block by row
/// block.
struct StreamSplit {
  int row_blocks, cols, grid;  // row blocks of W, warp tiles of each, blocks

  HIGGS_HOST_DEVICE int total() const { return row_blocks * cols; }
  HIGGS_HOST_DEVICE int begin(int block) const {
    return static_cast<int>(std::int64_t{total()} * block / grid);
  }
  /// The block that multiplies a warp tile.
  HIGGS_HOST_DEVICE int owner(int item) const {
    return static_cast<int>((std::int64_t{item + 1} * grid - 1) / total());
  }
  /// The blocks that multiply a row block. It is split if they differ.
  HIGGS_HOST_DEVICE int first_owner(int row_block) const { return owner(row_block * cols); }
  HIGGS_HOST_DEVICE int last_owner(int row_block) const { return owner((row_block + 1) * cols - 1); }
  /// Where the owners of a split row block keep its partial sums: block `first_owner` in this slot, the others in
  /// the next ones. No two split row blocks share a slot, as the last owner of one is at most the first of the next.
  HIGGS_HOST_DEVICE int slot(int row_block, int first_owner) const {
    return first_owner + (row_block < first_owner ? row_block : first_owner);
  }
  /// Slots for the rows of x that a block multiplies.
  HIGGS_HOST_DEVICE int slots() const { return grid + (row_blocks < grid ? row_blocks : grid) - 1; }
};

/// Row m of x becomes row m of y. A task is one, or finds other rows.
struct EveryOutputRow {
  static constexpr bool in_order = true;
  /// Calls use(row, weigh) with the row of y for row m of x, whose outputs become weigh(output).
  template <class Use>
  __device__ void output_row(std::int64_t m, const Use& use) const {
    use(m, [](float output) { return output; });
  }
};

/// Parameters of the streaming kernel. Either x or rotated_x is given; their rows are `x_stride` numbers apart.
struct StreamTask : EveryOutputRow {
  PackedView w;                     // for experts: what they share
  const void* x = nullptr;          // (batch, cols) of X, which the kernel rotates
  const void* rotated_x = nullptr;  // (batch, depth) of T, in padded groups
  std::int64_t x_stride = 0;
  std::int64_t batch = 0;  // rows of x
  MatmulOutput y;
  std::uint32_t* arrivals = nullptr;  // (batch tiles, row blocks): zeros before and after a launch
  float* partial_sums = nullptr;      // (batch tiles, slots, rows of a batch tile, rows of a row block)
  float output_scale = 1;             // 2^exponent
  float rotation_scale = 1;           // 1 / sqrt(block of the rotation)
  int row_warps = 4, k_warps = 1;     // warps of a block along the rows and along the inputs
  int cols = 0, group_cols = 0;       // warp tiles per row of W, per group
  int rows = 0, row_blocks = 0;       // rows of warp tiles of W, row blocks: row_warps of these
  // The grid has grid * batch_tiles blocks; those that read the same weights are neighbours.
  int batch_tiles = 1, grid = 1;

  /// How blocks share the row blocks. What follows from these numbers is found anew at each use: kept from one use to the
  /// next it would take registers beside the sums.
  __device__ StreamSplit split() const { return {opaque(row_blocks), cols, opaque(grid)}; }
  /// Where the block's bias begins in y.bias.
  __device__ std::int64_t bias_offset(const StreamBlock&) const { return 0; }
};

inline constexpr int stream_warps = 4, stream_threads = 32 * stream_warps;

/// Where a slot of batch tile `tile` begins among the partial sums, (batch tiles, slots, slot_size): beyond 2^31
/// from some hundred batch tiles on.
HIGGS_HOST_DEVICE inline std::int64_t slot_begin(const StreamSplit& split, std::int64_t tile, int slot,
                                                 int slot_size) {
  return (tile * split.slots() + slot) * slot_size;
}
/// The arrival counter of a row block for a batch tile: (batch tiles, row blocks).
HIGGS_HOST_DEVICE inline std::int64_t arrival_counter(const StreamSplit& split, std::int64_t tile,
                                                      int row_block) {
  return tile * split.row_blocks + row_block;
}

/// A block's part of one row block: warp tiles [begin, end) of its rows. Warps count their steps from `base`.
struct alignas(16) RowRange {
  int begin, end, base, row_block;
};

/// The facts of a block, in shared memory behind the table, where they cost no registers.
struct StreamBlock {
  int index, batch_tile;  // number of the block among those with the same rows of x; number of these rows
  int first_x, batch;     // rows of x: the first one and how many
  int begin, end;         // its Stream-K range
  int row_block, expert;  // of experts: the row block that it works on, and whose W it is
  RowRange range;         // its part of that
  ExpertWeights w;
  bool last;  // whether all other blocks with sums for the same rows of y have arrived
};

/// Shared memory of a block: the lookup table, two buffers of activations in the second halves of its lines,
/// and a StreamBlock. A buffer holds one chunk of activations, `chunk` warp tiles.
template <int ColumnTiles>
struct SharedLayout {
  static constexpr int chunk = 16 / ColumnTiles;
  static constexpr int warp_tile_bytes = 4 * ColumnTiles * activation_step_bytes;  // activations, and gaps
  static constexpr int buffer_bytes = chunk * warp_tile_bytes;
  static_assert(2 * buffer_bytes == LookupTable::lines * LookupTable::line_bytes);

  /// The buffer of chunk c.
  static __device__ int buffer(int c) { return LookupTable::rest + c % 2 * buffer_bytes; }
  /// Activations are written in pieces of 16 bytes: eight fill the half of a line. The offset of a piece in a
  /// buffer.
  static constexpr HIGGS_HOST_DEVICE int piece(int number) {
    return number / 8 * LookupTable::line_bytes + number % 8 * 16;
  }
  /// 32 halves of lines that a warp rotates 1024 inputs in: every other line, which has activations of columns
  /// 4 to 7. For up to 4 columns.
  static constexpr int rotation_line_bytes = 2 * LookupTable::line_bytes;
  static __device__ std::uint32_t rotation_space(unsigned warp) {
    return LookupTable::rest + LookupTable::line_bytes + warp * 32 * rotation_line_bytes;
  }
};

/// Where StreamBlock begins, and all shared memory of a block.
inline constexpr int stream_block_begin = LookupTable::end;
inline constexpr int stream_shared = stream_block_begin + sizeof(StreamBlock);

/// The sums of a warp: 4 tiles of rows by ColumnTiles tiles of 8 rows of x.
template <int ColumnTiles>
using StreamSums = float[4][ColumnTiles][4];

}  // namespace detail
}  // namespace gpu
}  // namespace v0
}  // namespace higgs
