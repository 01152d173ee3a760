// SPDX-License-Identifier: Apache-2.0
// The last stages of the streaming kernel: partial sums become outputs. Blocks whose Stream-K ranges share rows
// of W each store their sums in the workspace and count; the last one to arrive adds them in the order of the
// inputs and sets the counter back to zero. No block waits for another.
#pragma once

#include <higgs/core/half.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/matmul/stream_task.cuh>
#include <higgs/pack/packed_layout.cuh>

#include <cuda_runtime.h>

#include <cstdint>

namespace higgs {
inline namespace v0 {
namespace gpu {
namespace detail {

/// Adds the sums of the warps that took other inputs (k_warps = 2): those of warps 2 and 3 to those of warps 0
/// and 1, through the buffers of activations. All threads of the block call it.
template <int ColumnTiles>
__device__ inline void add_k_warps(StreamSums<ColumnTiles>& sums) {
  using Shared = SharedLayout<ColumnTiles>;
  const int thread = thread_index();
  const auto slot = [&](int i, int c) {
    const int first = Shared::piece(thread / 32 % 2 * (4 * ColumnTiles * 32) + thread % 32);
    return static_cast<std::uint32_t>(LookupTable::rest + first + Shared::piece((i * ColumnTiles + c) * 32));
  };
  __syncthreads();
  if (thread >= 64) HIGGS_UNROLL
    for (int i = 0; i < 4; ++i) HIGGS_UNROLL
      for (int c = 0; c < ColumnTiles; ++c) {
        const float* v = sums[i][c];
        store_shared_128(slot(i, c), uint4{__float_as_uint(v[0]), __float_as_uint(v[1]),
                                           __float_as_uint(v[2]), __float_as_uint(v[3])});
      }
  __syncthreads();
  if (thread < 64) HIGGS_UNROLL
    for (int i = 0; i < 4; ++i) HIGGS_UNROLL
      for (int c = 0; c < ColumnTiles; ++c) {
        const uint4 v = load_shared_128(slot(i, c));
        sums[i][c][0] += __uint_as_float(v.x);
        sums[i][c][1] += __uint_as_float(v.y);
        sums[i][c][2] += __uint_as_float(v.z);
        sums[i][c][3] += __uint_as_float(v.w);
      }
}

/// The partial sums of all blocks that have the same rows of x: (grid, 2, Columns, rows of a row block).
template <int Columns>
__device__ inline float* partial_sums_of(const StreamTask& task, const StreamBlock& block) {
  return task.partial_sums +
         std::int64_t{block.batch_tile} * task.grid * 2 * (Columns * task.row_warps * warp_tile);
}

/// Stores the sums of a warp there. Slot 0 is for the row block in which the block's range begins, slot 1 for
/// later ones: the block owns all but the last of these alone, and finishes each before the next one.
template <int ColumnTiles>
__device__ inline void store_partial_sums(const StreamTask& task, const StreamBlock& block, int thread,
                                          int row_block, const StreamSums<ColumnTiles>& sums) {
  const int row_warp = thread / 32, lane = thread % 32, block_rows = task.row_warps * warp_tile;
  if (row_warp >= task.row_warps || row_block * task.row_warps + row_warp >= task.rows) return;
  const int slot = 2 * block.index + (block.begin < row_block * task.cols);
  float* to =
      partial_sums_of<8 * ColumnTiles>(task, block) + std::int64_t{slot} * (8 * ColumnTiles * block_rows);
  to += lane % 4 * 2 * block_rows + row_warp * warp_tile + lane / 4;
  const int count = block.batch - lane % 4 * 2;
  HIGGS_UNROLL for (int c = 0; c < ColumnTiles; ++c) HIGGS_UNROLL
    for (int odd = 0; odd < 2; ++odd) {
      if (8 * c + odd < count) HIGGS_UNROLL
        for (int i = 0; i < 8; ++i) to[8 * i] = sums[i / 2][c][i % 2 * 2 + odd];
      to += odd == 0 ? block_rows : 7 * block_rows;
    }
}

/// Counts this block's arrival at row block `row_block`, which has sums of `others` blocks beside its own; sets
/// `last` in shared memory if it is the last to arrive. All threads of the block call it. Ends with a barrier.
__device__ inline void arrive(const StreamTask& task, const StreamBlock& block, bool& last, int row_block,
                              std::uint32_t others) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    const std::uint32_t before =
        atomicInc(task.arrivals + block.batch_tile * task.row_blocks + row_block, others);
    __threadfence();
    if (before > others) __trap();  // the workspace did not begin as zeros
    last = before == others;
  }
  __syncthreads();
}

/// y(m, n ... n + count - 1) = v, with bias and residual; count is at most 4.
template <class Y>
__device__ inline void store_outputs(const MatmulOutput& y, std::int64_t m, std::int64_t n, int count,
                                     float (&v)[4]) {
  const std::int64_t at = m * y.row_stride + n;
  Y* to = static_cast<Y*>(y.data) + at;
  HIGGS_UNROLL for (int i = 0; i < 4; ++i) {
    if (i < count && y.bias != nullptr) v[i] += y.bias[n + i];
    if (i < count && y.residual != nullptr) v[i] += to_float(static_cast<const Y*>(y.residual)[at + i]);
  }
  if (count == 4 && reinterpret_cast<std::uintptr_t>(to) % (4 * sizeof(Y)) == 0) {
    if constexpr (sizeof(Y) == 4)
      *reinterpret_cast<float4*>(to) = float4{v[0], v[1], v[2], v[3]};
    else
      *reinterpret_cast<uint2*>(to) = uint2{round_pair<Y>(v[0], v[1]), round_pair<Y>(v[2], v[3])};
    return;
  }
  HIGGS_UNROLL for (int i = 0; i < 4; ++i)
    if (i < count) to[i] = from_float<Y>(v[i]);
}

/// The fixup: if this block is the last to arrive, it adds the partial sums of a row block in the order of the
/// inputs and stores the outputs. All threads of the block call it.
template <int Columns>
__device__ inline void fixup(const StreamTask& task, const StreamBlock& block, bool& last, int row_block) {
  const int cols = task.cols, block_rows = task.row_warps * warp_tile;
  const StreamSplit split{task.row_blocks * cols, task.grid};
  const int first_owner = split.owner(row_block * cols), last_owner = split.owner((row_block + 1) * cols - 1);
  if (first_owner != last_owner) {
    arrive(task, block, last, row_block, static_cast<std::uint32_t>(last_owner - first_owner));
    if (!last) return;
  } else {
    __syncthreads();
  }
  const int sum_size = Columns * block_rows;
  const float* const all_sums = partial_sums_of<Columns>(task, block);
  const float* first_sums =
      all_sums + std::int64_t{2 * first_owner + (split.begin(first_owner) < row_block * cols)} * sum_size;
  const float* other_sums = all_sums + std::int64_t{2 * (first_owner + 1)} * sum_size;
  const int quads = block_rows / 4, items = block.batch * quads, first_x = block.first_x;
  const float output_scale = block.w.output_scale;
  for (int q = thread_index(); q < items; q += stream_threads) {
    const std::int64_t m = first_x + q / quads, row = std::int64_t{row_block} * block_rows + q % quads * 4;
    if (row >= task.w.layout.rows) continue;
    const float4 first = __ldcg(reinterpret_cast<const float4*>(first_sums) + q);
    float v[4] = {first.x, first.y, first.z, first.w};
    const float4* next = reinterpret_cast<const float4*>(other_sums) + q;
    for (int owner = first_owner; owner < last_owner; ++owner, next += sum_size / 2) {
      const float4 more = __ldcg(next);
      v[0] += more.x;
      v[1] += more.y;
      v[2] += more.z;
      v[3] += more.w;
    }
    HIGGS_UNROLL for (int i = 0; i < 4; ++i)
      v[i] *= output_scale;
    const auto count = static_cast<int>(min(task.w.layout.rows - row, std::int64_t{4}));
    if (task.y.type == OutputType::Float)
      store_outputs<float>(task.y, m, row, count, v);
    else if (task.y.type == OutputType::Half)
      store_outputs<Half>(task.y, m, row, count, v);
    else
      store_outputs<BFloat16>(task.y, m, row, count, v);
  }
}

}  // namespace detail
}  // namespace gpu
}  // namespace v0
}  // namespace higgs
