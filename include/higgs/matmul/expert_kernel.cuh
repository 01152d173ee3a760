// SPDX-License-Identifier: Apache-2.0
// The streaming kernel for a mixture of experts: a fixed number of blocks takes units of work one after the other,
// so that a block fills its lookup table once. Which experts have rows is read from device memory.
//
// Each expert's rows are cut into batch tiles. A unit is a batch tile and
//
//     few tiles    one Stream-K range of W: blocks share row blocks and add their sums, as in one product
//     many tiles   one row block of W: the block multiplies the parts of all its ranges, each for itself, and adds
//
// Sums are added in the same order, so the bits are those of one product for each expert. The second kind needs
// memory for sums by blocks and not by tiles: the workspace has a bound for any number of rows.
#pragma once

#include <higgs/core/half.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/matmul/matmul_task.cuh>
#include <higgs/matmul/stream_fixup.cuh>
#include <higgs/matmul/stream_kernel.cuh>
#include <higgs/matmul/stream_task.cuh>
#include <higgs/rotate/hadamard.cuh>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace higgs {
inline namespace v0 {
namespace gpu {
namespace detail {

/// Signs and factors of one expert's rotation, as in Rotation.
struct ExpertRotation {
  const std::uint32_t* signs = nullptr;
  const float* factors = nullptr;
};

/// A window of the rows of a mixture's product, which are sorted by expert: its row i is row first + i of all.
struct ExpertWindow {
  const std::int32_t* offsets = nullptr;  // (experts + 1)
  int experts = 0;
  int first = 0, rows = 0;

  /// The first row of the window that meets expert e or a later one. `rows` if there is none, whatever the offsets are.
  __device__ int begin(int e) const { return min(max(offsets[e] - first, 0), rows); }
  /// Batch tiles of `columns` rows for expert e.
  __device__ int tiles(int e, int columns) const {
    return (max(begin(e + 1) - begin(e), 0) + columns - 1) / columns;
  }
};

/// The rows of x that a rotation takes for those of a window (see EveryRow). Rows beyond the last expert's, and those
/// that x does not have, become row 0: nobody reads them, and no memory outside x is read.
struct ExpertSource {
  ExpertWindow window;
  const ExpertRotation* rotations = nullptr;  // (experts)
  const std::int32_t* x_rows = nullptr;       // (rows of the window): rows of x; none: first + i
  std::uint32_t x_count = 0;                  // rows of x

  __device__ std::uint32_t find(std::uint32_t row, Rotation& r) const {
    const int lane = thread_index() % 32;
    int expert = 0;  // as many experts end before the row or at it
    for (int from = 0; from < window.experts; from += 32) {
      const int e = from + lane;
      const bool ended = e < window.experts && window.begin(e + 1) <= static_cast<int>(row);
      expert += __popc(__ballot_sync(0xffffffffu, ended));
    }
    const ExpertRotation rotation = rotations[min(expert, window.experts - 1)];
    r.signs = rotation.signs;
    r.factors = rotation.factors;
    const auto source = x_rows != nullptr ? static_cast<std::uint32_t>(x_rows[row])
                                          : row + static_cast<std::uint32_t>(window.first);
    return source < x_count && expert < window.experts ? source : 0;
  }
};

/// Parameters of the kernel of experts. `w` is what they share; `grid` is the number of ranges of W.
struct ExpertTask : StreamTask {
  const ExpertWeights* weights = nullptr;  // (experts)
  ExpertWindow window;
  int split_tiles = 0;                   // the most batch tiles whose units are ranges
  int most_tiles = 0;                    // batch tiles that ascending offsets can make: others find no more
  int own_slots = 0;                     // slots of a block whose units are row blocks
  const std::int32_t* y_rows = nullptr;  // (rows of the window): rows of y; none: first_y + i
  std::int64_t first_y = 0;
  std::int64_t y_count = 0;            // rows of y
  const float* row_weights = nullptr;  // (y_count)

  static constexpr bool in_order = false;
  template <class Use>
  __device__ void output_row(std::int64_t m, const Use& use) const {
    const std::int64_t row = y_rows != nullptr ? y_rows[m] : first_y + m;
    if (row < 0 || row >= y_count) return;
    const float weight = row_weights != nullptr ? row_weights[row] : 1;
    use(row, [=](float output) { return __fmul_rn(output, weight); });
  }
  __device__ std::int64_t bias_offset(const StreamBlock& block) const { return block.expert * w.layout.rows; }
};

/// The facts of a block, and of the units that it takes. Shared memory keeps what a unit needs once.
struct ExpertBlock : StreamBlock {
  int tiles;   // batch tiles of all experts
  int units;   // units of all blocks
  int unit;    // the next one of this block
  bool whole;  // whether units are row blocks
};

inline constexpr int expert_shared = stream_block_begin + sizeof(ExpertBlock);

/// The rows of a window that a unit multiplies, and the expert that they meet.
struct BatchTile {
  int first, rows, expert;
};

/// Batch tiles of all experts. All lanes of a warp call it.
__device__ inline int expert_tiles(const ExpertWindow& window, int columns) {
  int tiles = 0;
  for (int e = thread_index() % 32; e < window.experts; e += 32) tiles += window.tiles(e, columns);
  HIGGS_UNROLL for (int by = 16; by > 0; by /= 2)
    tiles += __shfl_xor_sync(0xffffffffu, tiles, by);
  return tiles;
}

/// Tile `index` of up to `columns` rows when each expert's rows are cut into such tiles; no rows beyond the last. All
/// lanes of a warp call it.
__device__ inline BatchTile expert_tile(const ExpertWindow& window, int index, int columns) {
  constexpr unsigned all = 0xffffffffu;
  const int lane = thread_index() % 32;
  for (int from = 0; from < window.experts; from += 32) {
    const int e = min(from + lane, window.experts - 1), begin = window.begin(e);
    const int tiles = from + lane < window.experts ? window.tiles(e, columns) : 0;
    int end = tiles;  // end of this expert's tiles, counted from those of `from`
    HIGGS_UNROLL for (int by = 1; by < 32; by *= 2) {
      const int left = __shfl_up_sync(all, end, by);
      if (lane >= by) end += left;
    }
    const unsigned beyond = __ballot_sync(all, end > index);
    if (beyond != 0) {
      const int owner = __ffs(static_cast<int>(beyond)) - 1;
      const int tile = index - __shfl_sync(all, end - tiles, owner);
      const int first = __shfl_sync(all, begin, owner) + tile * columns;
      return {first, min(columns, window.begin(from + owner + 1) - first), from + owner};
    }
    index -= __shfl_sync(all, end, 31);
  }
  return {0, 0, 0};
}

/// Sets the block's range to that of block `index` of a product.
__device__ inline void set_range(ExpertBlock& block, const StreamSplit& split, int index) {
  block.index = index;
  block.begin = split.begin(index);
  block.end = split.begin(index + 1);
}

/// Counts units, and finds their kind and the first one of the block. All threads call it. Ends with a barrier.
template <int Columns>
__device__ inline void count_units(const ExpertTask& task, ExpertBlock& block) {
  if (thread_index() < 32) {
    const int tiles = min(expert_tiles(task.window, Columns), task.most_tiles);
    if (thread_index() == 0) {
      block.tiles = tiles;
      block.whole = tiles > task.split_tiles;
      block.units = tiles * (block.whole ? task.row_blocks : task.grid);
      block.unit = static_cast<int>(blockIdx.x);
    }
  }
  __syncthreads();
}

/// Finds the facts of the next unit. Units of the same weights are neighbours. All threads call it. Begins and ends with
/// a barrier.
template <int Columns>
__device__ inline void begin_unit(const ExpertTask& task, ExpertBlock& block) {
  __syncthreads();  // all have read those of the unit before
  if (thread_index() < 32) {
    const int unit = block.unit, part = unit / block.tiles, tile = unit - part * block.tiles;
    const BatchTile rows = expert_tile(task.window, tile, Columns);
    if (thread_index() == 0) {
      const StreamSplit split = task.split();
      block.unit = unit + static_cast<int>(gridDim.x);
      block.batch_tile = tile;
      block.first_x = rows.first;
      block.batch = rows.rows;
      block.expert = rows.expert;
      // Member by member: nvcc 13.0 crashes at the copy of the struct for sm_100 and later.
      const ExpertWeights& w = task.weights[rows.expert];
      block.w.codes = w.codes;
      block.w.scales = w.scales;
      block.w.output_scale = w.output_scale;
      set_range(block, split, block.whole ? split.first_owner(part) : part);
      block.row_block = block.whole ? part : block.begin / task.cols;
    }
  }
  __syncthreads();
}

/// Goes on to the next part of the unit; false if there is none. All threads call it. Begins and ends with a barrier.
__device__ inline bool next_part(const ExpertTask& task, ExpertBlock& block) {
  const StreamSplit split = task.split();
  const bool more = block.whole ? block.index < split.last_owner(block.row_block)
                                : (block.row_block + 1) * task.cols < block.end;
  __syncthreads();
  if (more && thread_index() == 0) {
    if (block.whole)
      set_range(block, split, block.index + 1);
    else
      ++block.row_block;
  }
  __syncthreads();
  return more;
}

/// A block that multiplies all ranges of a row block keeps their sums in slots of its own.
__device__ inline float* slots_of(const ExpertTask& task, const StreamBlock& block, const StreamSplit& split,
                                  int row_block, int first_owner, int size) {
  if (!static_cast<const ExpertBlock&>(block).whole)
    return slots_of(static_cast<const StreamTask&>(task), block, split, row_block, first_owner, size);
  return task.partial_sums + std::int64_t{blockIdx.x} * task.own_slots * size;
}
__device__ inline bool all_arrived(const ExpertTask& task, StreamBlock& block, const StreamSplit& split,
                                   int row_block, int others) {
  if (!static_cast<const ExpertBlock&>(block).whole)
    return all_arrived(static_cast<const StreamTask&>(task), block, split, row_block, others);
  __syncthreads();
  return block.index == split.last_owner(row_block);
}

/// y for the rows of a window.
template <class Format, class T, int ColumnTiles>
__global__ void __launch_bounds__(stream_threads, StreamConfig<Format, T, ColumnTiles, void>::blocks)
    expert_kernel(__grid_constant__ const ExpertTask task) {
  using Config = StreamConfig<Format, T, ColumnTiles, void>;
  using Facts = typename Config::Facts;
  constexpr int chunk = Config::Shared::chunk;
  extern __shared__ std::byte stream_space[];
  auto& shared =
      *reinterpret_cast<ExpertBlock*>(stream_space + (stream_block_begin - shared_address(stream_space)));
  allow_next_kernel();
  wait_for_previous_kernel();  // which may write the offsets
  count_units<Config::columns>(task, shared);
  if (shared.unit >= shared.units) return;
  Format::template fill_table<T>(task.w.table);
  do {
    begin_unit<Config::columns>(task, shared);
    do {
      if (shared.row_block * task.cols >= shared.end) break;  // an empty range
      Facts facts(shared);
      const RowRange rows = row_range<Config>(task, facts.block, shared.row_block);
      StreamWarp<Config> warp(task, facts, rows);
      warp.begin_activations(rows);
      warp.begin_sums(rows);
      for (int c = 0; c == 0 || facts.rows().base + c * chunk < facts.rows().end; ++c) {
        warp.load_activations(c, [] {});
        warp.multiply_chunk(c);
      }
      warp.finish_scales();
      if (task.k_warps == 2) add_k_warps<ColumnTiles>(warp.sums);
      finish_rows<ColumnTiles>(task, shared, thread_index(), shared.row_block, warp.sums);
    } while (next_part(task, shared));
  } while (shared.unit < shared.units);
}

}  // namespace detail
}  // namespace gpu
}  // namespace v0
}  // namespace higgs
