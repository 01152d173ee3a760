// SPDX-License-Identifier: Apache-2.0
// The last stages of the streaming kernel: sums become outputs. A block that owns a row block alone takes them
// through shared memory. Blocks that share one each store partial sums in the workspace and count; the last one to
// arrive adds them in the order of the inputs and sets the counter back to zero. No block waits for another.
//
// A thread has the same four rows of W for several rows of x: a quad of sums for each. What it needs of several
// quads and owners is loaded before the first of them is used, since a load takes hundreds of clocks.
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

/// Sums of a row block by up to 32 columns in shared memory, in the buffers of activations: column m begins at
/// its row 0, and eight rows of columns 2 t and 2 t + 1 are where eight others would be, so that lanes t meet no
/// bank conflict.
struct SharedSums {
  static constexpr int columns = 32;

  /// The offset of row 32 k of column m.
  static __device__ std::uint32_t at(int m, int k, int block_rows) {
    return static_cast<std::uint32_t>(LookupTable::rest +
                                      (m * (block_rows / 32) + k) * LookupTable::line_bytes);
  }
  /// The sums of column tiles [4 Part, 4 Part + 4) of a warp.
  template <int Part, int ColumnTiles>
  static __device__ void store(const StreamSums<ColumnTiles>& sums, int block_rows) {
    const int thread = thread_index(), lane = thread % 32, t = lane % 4;
    if (thread >= block_rows / 2) return;  // a warp of other inputs
    HIGGS_UNROLL for (int c = 0; c < 4 && 4 * Part + c < ColumnTiles; ++c) HIGGS_UNROLL
      for (int odd = 0; odd < 2; ++odd) {
        const std::uint32_t to = at(8 * c + 2 * t + odd, thread / 32 * 2, block_rows) + lane / 4 * 4;
        HIGGS_UNROLL for (int i = 0; i < 4; ++i) {
          const std::uint32_t swizzled = to + static_cast<std::uint32_t>((i ^ t) * 32);
          const auto word = [&](int high) {
            return __float_as_uint(sums[2 * high + i / 2][4 * Part + c][i % 2 * 2 + odd]);
          };
          store_shared_32<0>(swizzled, word(0));
          store_shared_32<LookupTable::line_bytes>(swizzled, word(1));
        }
      }
  }
  /// Quad `quad` of column m.
  static __device__ float4 load(int m, int quad, int block_rows) {
    const uint4 v = load_shared_128(at(m, quad / 8, block_rows) +
                                    static_cast<std::uint32_t>(quad % 8 * 16 ^ m / 2 % 4 * 32));
    return {__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w)};
  }
};

/// Stores the sums of a warp in a slot: (8 ColumnTiles, rows of a row block).
template <int ColumnTiles>
__device__ inline void store_partial_sums(const StreamTask& task, const StreamBlock& block, int thread,
                                          int row_block, float* slot, const StreamSums<ColumnTiles>& sums) {
  const int row_warp = thread / 32, lane = thread % 32, block_rows = task.row_warps * warp_tile;
  if (row_warp >= task.row_warps || row_block * task.row_warps + row_warp >= task.rows) return;
  float* to = slot + lane % 4 * 2 * block_rows + row_warp * warp_tile + lane / 4;
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
__device__ inline void arrive(std::uint32_t* counter, bool& last, std::uint32_t others) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    const std::uint32_t before = atomicInc(counter, others);
    __threadfence();
    if (before > others) __trap();  // the workspace did not begin as zeros
    last = before == others;
  }
  __syncthreads();
}

/// What adding changes in no bit.
inline constexpr float nothing = -0.0f;

/// Four numbers of 16 or 8 bytes at once.
template <class Y>
__device__ inline float4 load_four(const Y* from) {
  if constexpr (sizeof(Y) == 4) {
    return *reinterpret_cast<const float4*>(from);
  } else {
    const uint2 pairs = *reinterpret_cast<const uint2*>(from);
    const float2 low = to_floats<Y>(pairs.x), high = to_floats<Y>(pairs.y);
    return {low.x, low.y, high.x, high.y};
  }
}
template <class Y>
__device__ inline void store_four(Y* to, float4 v) {
  if constexpr (sizeof(Y) == 4)
    *reinterpret_cast<float4*>(to) = v;
  else
    *reinterpret_cast<uint2*>(to) = uint2{round_pair<Y>(v.x, v.y), round_pair<Y>(v.z, v.w)};
}

__device__ inline void add_to(float4& sum, float4 more) {
  sum.x += more.x;
  sum.y += more.y;
  sum.z += more.z;
  sum.w += more.w;
}

/// silu(gate) * up, where silu(v) = v / (1 + e^-v).
__device__ inline float silu_times(float gate, float up) { return __fmul_rn(gate / (1 + expf(-gate)), up); }

/// What a thread has sums for: rows n ... n + count - 1 of W. `bias` is theirs.
struct OutputColumns {
  std::int64_t n;
  int count;
  float4 bias;
};

/// y(m + j * step, columns) = v[j] * scale + bias + residual for each j < AtOnce and m + j * step < end.
template <class Y, int AtOnce>
__device__ inline void store_outputs(const MatmulOutput& y, const OutputColumns& columns, std::int64_t m,
                                     int step, std::int64_t end, float scale, float4 (&v)[AtOnce]) {
  const std::int64_t at = m * y.row_stride + columns.n, stride = step * y.row_stride;
  Y* to = static_cast<Y*>(y.data) + at;
  const Y* residual = y.residual != nullptr ? static_cast<const Y*>(y.residual) + at : nullptr;
  HIGGS_UNROLL for (float4& sum : v) {
    sum = {sum.x * scale, sum.y * scale, sum.z * scale, sum.w * scale};
    add_to(sum, columns.bias);
  }
  const auto aligned = [](const void* p) {
    return reinterpret_cast<std::uintptr_t>(p) % (4 * sizeof(Y)) == 0;
  };
  if (columns.count == 4 && y.row_stride % 4 == 0 && aligned(to) && aligned(residual)) {
    if (residual != nullptr) HIGGS_UNROLL
      for (int j = 0; j < AtOnce; ++j)
        if (m + j * step < end) add_to(v[j], load_four<Y>(residual + j * stride));
    HIGGS_UNROLL for (int j = 0; j < AtOnce; ++j)
      if (m + j * step < end) store_four<Y>(to + j * stride, v[j]);
    return;
  }
  _Pragma("unroll 1") for (; m < end; m += step) {  // few outputs are like this: short code
    const float numbers[4] = {v[0].x, v[0].y, v[0].z, v[0].w};
    HIGGS_UNROLL for (int i = 0; i < 4; ++i)
      if (i < columns.count)
        to[i] = from_float<Y>(numbers[i] + (residual != nullptr ? to_float(residual[i]) : nothing));
    HIGGS_UNROLL for (int j = 0; j + 1 < AtOnce; ++j)
      v[j] = v[j + 1];
    to += stride;
    if (residual != nullptr) residual += stride;
  }
}

/// The same for any task, one row after the other in short code: y(row of m, columns) = weigh(f(v * scale + bias)) + residual,
/// where f is silu_times of neighbours in a gated product. The task finds the row of y and what weighs it (output_row).
template <class Y, int AtOnce, class Task>
__device__ inline void store_any_outputs(const Task& task, const OutputColumns& columns, std::int64_t m,
                                         int step, std::int64_t end, float scale, float4 (&v)[AtOnce]) {
  const MatmulOutput& y = task.y;
  const int count = y.gated ? columns.count / 2 : columns.count;
  const std::int64_t n = y.gated ? columns.n / 2 : columns.n;
  _Pragma("unroll 1") for (; m < end; m += step) {
    float numbers[4] = {v[0].x * scale + columns.bias.x, v[0].y * scale + columns.bias.y,
                        v[0].z * scale + columns.bias.z, v[0].w * scale + columns.bias.w};
    if (y.gated) {
      numbers[0] = silu_times(numbers[0], numbers[1]);
      numbers[1] = silu_times(numbers[2], numbers[3]);
    }
    task.output_row(m, [&](std::int64_t row, auto weigh) {
      Y* const to = static_cast<Y*>(y.data) + row * y.row_stride + n;
      const Y* const residual = static_cast<const Y*>(y.residual) + row * y.row_stride + n;
      HIGGS_UNROLL for (int i = 0; i < 4; ++i)
        numbers[i] =
            weigh(numbers[i]) + (y.residual != nullptr && i < count ? to_float(residual[i]) : nothing);
      if (count == 4 && reinterpret_cast<std::uintptr_t>(to) % (4 * sizeof(Y)) == 0)
        return store_four<Y>(to, float4{numbers[0], numbers[1], numbers[2], numbers[3]});
      HIGGS_UNROLL for (int i = 0; i < 4; ++i)
        if (i < count) to[i] = from_float<Y>(numbers[i]);
    });
    HIGGS_UNROLL for (int j = 0; j + 1 < AtOnce; ++j)
      v[j] = v[j + 1];
  }
}

/// The outputs of a task in the type of its y.
template <class Task, int AtOnce>
__device__ inline void store_typed_outputs(const Task& task, const OutputColumns& columns, std::int64_t m,
                                           int step, std::int64_t end, float scale, float4 (&v)[AtOnce]) {
  const auto store = [&]<class Y>() {
    if (Task::in_order && !task.y.gated)
      store_outputs<Y>(task.y, columns, m, step, end, scale, v);
    else
      store_any_outputs<Y>(task, columns, m, step, end, scale, v);
  };
  if (task.y.type == OutputType::Float)
    store.template operator()<float>();
  else if (task.y.type == OutputType::Half)
    store.template operator()<Half>();
  else
    store.template operator()<BFloat16>();
}

/// Outputs of rows [first, end) of those of x that the block multiplies: load(v, m, step, quad) finds the sums of quad
/// `quad` of the rows m + j * step < end, for each j < AtOnce.
template <int AtOnce, class Task, class Load>
__device__ inline void store_rows(const Task& task, const StreamBlock& block, int row_block, int first,
                                  int end, const Load& load) {
  const int block_rows = task.row_warps * warp_tile, quads = block_rows / 4;
  const int thread = thread_index(), quad = thread % quads, step = stream_threads / quads;
  OutputColumns columns{
      std::int64_t{row_block} * block_rows + quad * 4, 4, {nothing, nothing, nothing, nothing}};
  if (columns.n >= task.w.layout.rows) return;
  columns.count = static_cast<int>(min(task.w.layout.rows - columns.n, std::int64_t{4}));
  if (task.y.bias != nullptr) {
    const float* bias = task.y.bias + columns.n + task.bias_offset(block);
    const auto one = [&](int i) { return i < columns.count ? bias[i] : nothing; };
    columns.bias = {one(0), one(1), one(2), one(3)};
  }
  _Pragma("unroll 1") for (int m = first + thread / quads; m < end; m += AtOnce * step) {
    float4 v[AtOnce];
    load(v, m, step, quad);
    store_typed_outputs(task, columns, block.first_x + m, step, block.first_x + min(end, m + AtOnce * step),
                        block.w.output_scale, v);
  }
}

/// v[j] = sums of the row m + j * step < end, which is stream_threads quads behind that of j - 1. Those of the first
/// owner's row 0 begin at `from` and those of the next owners `size` numbers later each: added in the order of the inputs.
template <int AtOnce>
__device__ inline void add_partial_sums(const float* from, int owners, int size, int block_rows, int m,
                                        int step, int end, float4 (&v)[AtOnce]) {
  constexpr int owners_at_once = 16 / AtOnce;  // 16 loads of a thread are under way
  HIGGS_UNROLL for (float4& sum : v)
    sum = {nothing, nothing, nothing, nothing};
  from += m * block_rows;
  _Pragma("unroll 1") for (int o = 0; o < owners; o += owners_at_once, from += owners_at_once * size) {
    float4 more[owners_at_once][AtOnce];
    HIGGS_UNROLL for (int k = 0; k < owners_at_once; ++k) HIGGS_UNROLL
      for (int j = 0; j < AtOnce; ++j) {
        more[k][j] = {nothing, nothing, nothing, nothing};
        if (o + k < owners && m + j * step < end)
          more[k][j] = __ldcg(reinterpret_cast<const float4*>(from + k * size) + j * stream_threads);
      }
    HIGGS_UNROLL for (int k = 0; k < owners_at_once; ++k) HIGGS_UNROLL
      for (int j = 0; j < AtOnce; ++j) add_to(v[j], more[k][j]);
  }
}

/// Where the owners of a split row block keep its sums.
__device__ inline float* slots_of(const StreamTask& task, const StreamBlock& block, const StreamSplit& split,
                                  int row_block, int first_owner, int size) {
  return task.partial_sums + slot_begin(split, block.batch_tile, split.slot(row_block, first_owner), size);
}
/// Whether this block has to add the sums in these slots, as all `others` have stored theirs. All threads of the block
/// call it. Ends with a barrier.
__device__ inline bool all_arrived(const StreamTask& task, StreamBlock& block, const StreamSplit& split,
                                   int row_block, int others) {
  arrive(task.arrivals + arrival_counter(split, block.batch_tile, row_block), block.last,
         static_cast<std::uint32_t>(others));
  return block.last;
}

/// The outputs of a row block from the sums of the block's warps, and from those of other blocks if this is the last
/// to arrive. All threads of the block call it; `block` is in shared memory.
template <int ColumnTiles, class Task>
__device__ inline void finish_rows(const Task& task, StreamBlock& block, int thread, int row_block,
                                   const StreamSums<ColumnTiles>& sums) {
  constexpr int at_once = 4;
  const int block_rows = opaque(task.row_warps) * warp_tile, size = 8 * ColumnTiles * block_rows;
  const StreamSplit split = task.split();
  const int first_owner = split.first_owner(row_block), others = split.last_owner(row_block) - first_owner;
  const auto slot_of = [&](int owner) {
    return slots_of(task, block, split, row_block, first_owner, size) + (owner - first_owner) * size;
  };
  if (others > 0) {
    store_partial_sums<ColumnTiles>(task, block, thread, row_block, slot_of(block.index), sums);
    if (!all_arrived(task, block, split, row_block, others)) return;
  }
  // Sums that go through shared memory come in parts of 32 columns.
  _Pragma("unroll 1") for (int part = 0; part < (others > 0 ? 1 : (ColumnTiles + 3) / 4); ++part) {
    const int first = part * SharedSums::columns;
    if (others == 0) {
      __syncthreads();  // nobody reads what is there
      if (part == 0)
        SharedSums::store<0>(sums, block_rows);
      else
        SharedSums::store<1>(sums, block_rows);
      __syncthreads();
    }
    const int end = others > 0 ? block.batch : min(block.batch, first + SharedSums::columns);
    store_rows<at_once>(task, block, row_block, first, end,
                        [&](float4(&v)[at_once], int m, int step, int quad) {
                          if (others > 0)
                            return add_partial_sums(slot_of(first_owner) + quad * 4, others + 1, size,
                                                    block_rows, m, step, end, v);
                          HIGGS_UNROLL for (int j = 0; j < at_once; ++j)
                            v[j] = SharedSums::load(min(m + j * step, end - 1) - first, quad, block_rows);
                        });
  }
  if (others == 0) __syncthreads();  // the next activations come there
}

}  // namespace detail
}  // namespace gpu
}  // namespace v0
}  // namespace higgs
