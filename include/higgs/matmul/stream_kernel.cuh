// SPDX-License-Identifier: Apache-2.0
// y = x * W^T, up to 64 rows of x at a time: weights stream from memory through registers into the tensor
// cores, once.
//
// A block of 4 warps owns a run of slabs of W. They are row_warps * k_warps: a warp takes 64 rows and every
// k_warps-th slab of them, with its loads of the next slabs under way. fragments.cuh makes them the tensor
// cores' operands; activations lie between the lines of its table. Sums of integer coordinates times
// activations are the tensor core's; the group scale meets the sums, not the weights: at the end of a group
// they are multiplied by old / new scale.
//
// Up to 4 rows of x may come as they are: then a warp transforms 1024 inputs of a row just before the block
// multiplies them, where other columns' activations would lie, and a launch is saved.
//
// Blocks own equal runs of slabs, so several may work on the same rows. Each leaves its fp32 sums in the
// workspace and counts; who comes last adds them up in the order of the inputs, and leaves the counter at zero
// for the next launch. No block ever waits for another.
#pragma once

#include <higgs/core/half.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/matmul/packed_matrix.cuh>
#include <higgs/pack/fragment_decoder.cuh>
#include <higgs/pack/packed_layout.cuh>
#include <higgs/rotate/hadamard.cuh>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// Storage of the outputs.
enum class OutputType { Float, Half, BFloat16 };

/// y (M, N) with what is added to it on the way out.
struct MatmulOutput {
  void* data = nullptr;
  OutputType type = OutputType::Float;
  std::int64_t row_stride = 0;
  const float* bias = nullptr;     // (N)
  const void* residual = nullptr;  // like data, same type and stride: y = x W^T + bias + residual
};

/// What distinguishes one of several matrices of equal shape, codebook and rotation.
struct ExpertWeights {
  const uint4* codes = nullptr;
  const Half* scales = nullptr;
  float unit = 1;  // 2^exponent
};

namespace detail {

/// Everything a kernel needs. x is rotated, in padded groups: (M, depth), or as it is: (M, cols); rows are
/// `x_stride` numbers apart.
struct MatmulTask {
  PackedView w;                            // of a group: what its matrices share
  const ExpertWeights* experts = nullptr;  // in device memory; none: w alone
  int expert_count = 0;
  const std::int32_t* offsets =
      nullptr;  // (expert_count + 1): rows [offsets[e], offsets[e + 1]) meet expert e
  const void* x = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t batch = 0;  // M
  MatmulOutput y;
  std::uint32_t* arrivals = nullptr;  // (batch tiles, row blocks), zeros before and after a launch
  float* sums = nullptr;              // (batch tiles, grid, 2, rows of a batch tile, rows of a row block)
  float unit = 1;                     // 2^exponent
  float rotation_scale = 1;           // 1 / sqrt(block)
  int row_warps = 4, k_warps = 1;     // of a block
  int slabs = 0, group_slabs = 0;     // of a row, of a group
  int row_slabs = 0, row_blocks = 0;  // of a matrix
  int batch_tiles = 1,
      grid = 1;  // blocks, (grid, batch tiles): those that read the same weights are neighbours
};

inline constexpr int stream_warps = 4, stream_threads = 32 * stream_warps;

/// What a block keeps behind the table, where it costs no registers: read it anew after a barrier.
struct StreamBlock {
  int me, tile;        // the block's number, of those with the same rows of x; the number of these
  int first_x, batch;  // rows of x, the first and how many
  int begin, end;      // its run of slabs
  int4 run;            // of which it works on: the slabs of a row, begin and end; `base`; the row block
  ExpertWeights w;
  bool last;  // of the blocks that share rows of y
};
inline constexpr int stream_shared = LookupTable::end + sizeof(StreamBlock);

/// Blocks that fit a multiprocessor by their registers, of which a plan uses one; its shared memory has room
/// for one (sm_86, 89, 120), two (80) or three (90, 100).
template <class Format, int ColumnTiles, bool Rotates>
inline constexpr int stream_blocks =
    ColumnTiles == 1 && Format::loads < 8 && Format::Activations::k_tiles == 1 && !Rotates ? 3 : 2;

/// Slabs of activations in one of the two buffers: together they fill the second halves of the lines.
template <int ColumnTiles>
inline constexpr int stream_chunk = 16 / ColumnTiles;

/// Which slabs a block works on: begin(block) <= row_block * slabs + slab < begin(block + 1).
struct StreamSplit {
  int total, grid;
  HIGGS_HOST_DEVICE int begin(int block) const {
    return static_cast<int>(std::int64_t{total} * block / grid);
  }
  HIGGS_HOST_DEVICE int owner(int item) const {
    return static_cast<int>((std::int64_t{item + 1} * grid - 1) / total);
  }
};

/// A scale that may be divided by: zero becomes so small that what it multiplies is lost beside any other
/// scale.
__device__ inline float divisible(float scale) { return scale == 0.0f ? 0x1p-50f : scale; }

/// Bits 15 - i and 31 - i are set where the low and the high half of word i are not zero.
__device__ inline std::uint32_t nonzero_halves(uint4 halves) {
  std::uint32_t out = 0;
  HIGGS_UNROLL
  for (int i = 0; i < 4; ++i) out |= (((word_of(halves, i) & 0x7fff7fffu) + 0x7fff7fffu) & 0x80008000u) >> i;
  return out;
}

/// y(m, n ... n + count - 1) = v, with bias and residual; count is at most 4.
template <class Y>
__device__ inline void store_outputs(const MatmulOutput& y, std::int64_t m, std::int64_t n, int count,
                                     float (&v)[4]) {
  const std::int64_t at = m * y.row_stride + n;
  Y* to = static_cast<Y*>(y.data) + at;
  HIGGS_UNROLL
  for (int i = 0; i < 4; ++i) {
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
  HIGGS_UNROLL
  for (int i = 0; i < 4; ++i)
    if (i < count) to[i] = from_float<Y>(v[i]);
}

/// The sums of a warp: 4 row tiles by ColumnTiles tiles of 8 rows of x.
template <int ColumnTiles>
using StreamSums = float[4][ColumnTiles][4];

/// The rows of x that a block multiplies, and the matrix of a group that they meet.
struct BatchTile {
  int first, rows, expert;
};

/// Tile `index` of up to `columns` rows when each expert's rows are cut into such tiles; no rows beyond the
/// last. All lanes of a warp call it.
__device__ inline BatchTile expert_tile(const std::int32_t* offsets, int experts, int index, int columns) {
  constexpr unsigned all = 0xffffffffu;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int from = 0; from < experts; from += 32) {
    const int e = min(from + lane, experts - 1), begin = offsets[e];
    const int rows = from + lane < experts ? offsets[e + 1] - begin : 0;
    const int tiles = (rows + columns - 1) / columns;
    int end = tiles;  // of this expert's tiles, counted from those of `from`
    HIGGS_UNROLL
    for (int by = 1; by < 32; by *= 2) {
      const int left = __shfl_up_sync(all, end, by);
      if (lane >= by) end += left;
    }
    const unsigned beyond = __ballot_sync(all, end > index);
    if (beyond != 0) {
      const int owner = __ffs(static_cast<int>(beyond)) - 1;
      const int tile = index - __shfl_sync(all, end - tiles, owner);
      const int first = __shfl_sync(all, begin, owner) + tile * columns;
      return {first, min(columns, __shfl_sync(all, rows, owner) - tile * columns), from + owner};
    }
    index -= __shfl_sync(all, end, 31);
  }
  return {0, 0, 0};
}

/// One warp tile: 16 tiles against 64 inputs of the activations at shared address `x`. refill(S) is called when
/// all that step S needs of `loads` is decoded.
template <class Format, class T, int ColumnTiles, bool Swizzled, int Step = 0, class Refill>
__device__ inline void multiply_warp_tile(StreamSums<ColumnTiles>& sums, const uint4 (&loads)[Format::loads],
                                          std::uint32_t x, std::uint32_t table_offset, const Refill& refill) {
  using Activations = typename Format::Activations;
  if constexpr (Step < Activations::steps) {
    uint2 b[Activations::k_tiles][ColumnTiles];
    Activations::template load<ColumnTiles, Swizzled, Step>(b, x);
    const auto multiply_row = [&]<int Row>(std::integral_constant<int, Row>) {
      std::uint32_t a[Activations::k_tiles][4];
      Format::template decode<T, Row, Step>(a, loads, table_offset);
      HIGGS_UNROLL
      for (int k = 0; k < Activations::k_tiles; ++k) HIGGS_UNROLL
      for (int c = 0; c < ColumnTiles; ++c) mma_m16n8k16<T>(sums[Row][c], a[k], b[k][c]);
    };
    [&]<int... Row>(std::integer_sequence<int, Row...>) {
      (multiply_row(std::integral_constant<int, Row>{}), ...);
    }(std::make_integer_sequence<int, 4>{});
    refill(std::integral_constant<int, Step>{});
    multiply_warp_tile<Format, T, ColumnTiles, Swizzled, Step + 1>(sums, loads, x, table_offset, refill);
  }
}

/// Rows of x that a kernel may rotate itself.
inline constexpr int rotated_inside = 4;

/// Rotates inputs [first, first + 1024) of a row of x, as rotate_async does, into the activations of column m
/// at shared address `to`. All lanes of a warp call it.
template <class T, class X>
__device__ inline void rotate_into(const Rotation& r, const X* row, int first, float scale, int m,
                                   std::uint32_t to) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float v[32];
  HIGGS_UNROLL
  for (int c = 0; c < 32; c += 8) {
    const int col = first + 32 * c + 8 * lane;
    HIGGS_UNROLL
    for (int i = 0; i < 8; ++i) v[c + i] = 0;
    if (col < r.cols) {
      load_eight(row + col, signs_of(r, col), v + c);
      if (r.factors != nullptr) multiply_eight(r.factors + col, v + c);
    }
  }
  // Every other line has the activations of columns 4 to 7, which do not exist: 32 for each warp.
  const auto warp = threadIdx.x / 32;
  hadamard_rows<512>(v, LookupTable::rest + 256 + warp * 32 * 512, static_cast<int>(r.block));
  to += static_cast<std::uint32_t>(lane / 8 * 512 + (m ^ lane / 8) * 32 + lane % 8 * 4);
  [&]<int... K>(std::integer_sequence<int, K...>) {
    (store_shared_32<2048 * K>(to, round_pair<T>(__fmul_rn(v[2 * K], scale), __fmul_rn(v[2 * K + 1], scale))),
     ...);
  }(std::make_integer_sequence<int, 16>{});
  __syncwarp();
}

/// Multiplies the sums of rows 16 i + g and 16 i + g + 8 by factor(i, scales of the two).
template <int ColumnTiles, class Factor>
__device__ inline void scale_sums(StreamSums<ColumnTiles>& sums, const Factor& factor) {
  HIGGS_UNROLL
  for (int i = 0; i < 4; ++i) {
    const float2 by = factor(i);
    HIGGS_UNROLL
    for (int c = 0; c < ColumnTiles; ++c) {
      sums[i][c][0] *= by.x;
      sums[i][c][1] *= by.x;
      sums[i][c][2] *= by.y;
      sums[i][c][3] *= by.y;
    }
  }
}

/// The sums of warps 0 and 1 become those of 0 and 2, 1 and 3, through the second halves of the lines.
template <int ColumnTiles>
__device__ inline void add_warps(StreamSums<ColumnTiles>& sums) {
  const int thread = thread_index();
  const auto slot = [&](int i, int c) {  // 8 lanes to a line
    const int line = ((thread / 32 % 2 * 4 + i) * ColumnTiles + c) * 4 + thread % 32 / 8;
    return static_cast<std::uint32_t>(LookupTable::rest + line * 256 + thread % 8 * 16);
  };
  __syncthreads();
  if (thread >= 64) HIGGS_UNROLL
  for (int i = 0; i < 4; ++i) HIGGS_UNROLL
  for (int c = 0; c < ColumnTiles; ++c) {
    const float* v = sums[i][c];
    store_shared_128(slot(i, c), uint4{__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]),
                                       __float_as_uint(v[3])});
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

/// Where the blocks that have the same rows of x leave their sums.
template <int Columns>
__device__ inline float* sums_of_tile(const MatmulTask& task, const StreamBlock& mine) {
  return task.sums + std::int64_t{mine.tile} * task.grid * 2 * (Columns * task.row_warps * warp_tile);
}

/// Stores the sums of a warp there: (rows of x, rows of the block).
template <int ColumnTiles>
__device__ inline void leave_sums(const MatmulTask& task, const StreamBlock& mine, int thread, int block,
                                  const StreamSums<ColumnTiles>& sums) {
  const int row_warp = thread / 32, lane = thread % 32, block_rows = task.row_warps * warp_tile;
  if (row_warp >= task.row_warps || block * task.row_warps + row_warp >= task.row_slabs) return;
  const int slot = 2 * mine.me + (mine.begin < block * task.slabs);
  float* to = sums_of_tile<8 * ColumnTiles>(task, mine) + std::int64_t{slot} * (8 * ColumnTiles * block_rows);
  to += lane % 4 * 2 * block_rows + row_warp * warp_tile + lane / 4;
  const int count = mine.batch - lane % 4 * 2;
  HIGGS_UNROLL
  for (int c = 0; c < ColumnTiles; ++c) HIGGS_UNROLL
  for (int odd = 0; odd < 2; ++odd) {
    if (8 * c + odd < count) HIGGS_UNROLL
    for (int i = 0; i < 8; ++i) to[8 * i] = sums[i / 2][c][i % 2 * 2 + odd];
    to += odd == 0 ? block_rows : 7 * block_rows;
  }
}

/// Adds the sums of the blocks that share these rows of y, in the order of the inputs, if this block is the
/// last of them. All threads of the block call it.
template <int Columns>
__device__ inline void finish_rows(const MatmulTask& task, const StreamBlock& mine, bool& last, int block) {
  const int slabs = task.slabs, block_rows = task.row_warps * warp_tile;
  const StreamSplit split{task.row_blocks * slabs, task.grid};
  const int first_owner = split.owner(block * slabs), last_owner = split.owner((block + 1) * slabs - 1);
  if (first_owner != last_owner) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
      const auto others = static_cast<std::uint32_t>(last_owner - first_owner);
      const std::uint32_t before = atomicInc(task.arrivals + mine.tile * task.row_blocks + block, others);
      __threadfence();
      if (before > others) __trap();  // the workspace did not begin as zeros
      last = before == others;
    }
    __syncthreads();
    if (!last) return;
  } else {
    __syncthreads();
  }
  const int sum_size = Columns * block_rows;
  const float* const block_sums = sums_of_tile<Columns>(task, mine);
  const float* first_sums =
      block_sums + std::int64_t{2 * first_owner + (split.begin(first_owner) < block * slabs)} * sum_size;
  const float* other_sums = block_sums + std::int64_t{2 * (first_owner + 1)} * sum_size;
  const int quads = block_rows / 4, items = mine.batch * quads, first_x = mine.first_x;
  const float unit = mine.w.unit;
  for (int q = thread_index(); q < items; q += stream_threads) {
    const std::int64_t m = first_x + q / quads, row = std::int64_t{block} * block_rows + q % quads * 4;
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
    HIGGS_UNROLL
    for (int i = 0; i < 4; ++i) v[i] *= unit;
    const auto count = static_cast<int>(min(task.w.layout.rows - row, std::int64_t{4}));
    if (task.y.type == OutputType::Float)
      store_outputs<float>(task.y, m, row, count, v);
    else if (task.y.type == OutputType::Half)
      store_outputs<Half>(task.y, m, row, count, v);
    else
      store_outputs<BFloat16>(task.y, m, row, count, v);
  }
}

/// Format is the bits of a weight, or e8_tiles. T is what the tensor cores take; X the type of up to 4 rows
/// that the kernel rotates, their inputs a multiple of 8 and from multiples of 16 bytes, or void: x is rotated.
template <class Format, class T, int ColumnTiles, class X = void>
__global__ void __launch_bounds__(stream_threads, stream_blocks<Format, ColumnTiles, !std::is_void_v<X>>)
    stream_kernel(__grid_constant__ const MatmulTask task) {
  constexpr int Bits = Format::loads;
  constexpr bool rotates = !std::is_void_v<X>;
  static_assert(!rotates || ColumnTiles == 1);
  constexpr int chunk = stream_chunk<ColumnTiles>, columns = 8 * ColumnTiles;
  // Slabs whose loads are under way, and whether scales are: what registers hold beside the sums.
  constexpr int ring = ColumnTiles == 8 ? 1 : (ColumnTiles == 1 ? 4 : 2) / (Bits == 8 ? 2 : 1);
  constexpr bool ahead = ColumnTiles < 8;
  constexpr std::uint32_t slab_bytes = 2048 * ColumnTiles;  // of activations, with the gaps
  const PackedLayout& layout = task.w.layout;
  const int row_warps = task.row_warps, k_warps = task.k_warps, slabs = task.slabs;
  const int me = static_cast<int>(blockIdx.x) / task.batch_tiles,
            tile = static_cast<int>(blockIdx.x) % task.batch_tiles;
  const StreamSplit split{task.row_blocks * slabs, task.grid};

  extern __shared__ std::byte stream_space[];
  if (shared_address(stream_space) > LookupTable::begin)
    __trap();  // CUDA keeps more for itself than any architecture did so far

  auto& mine =
      *reinterpret_cast<StreamBlock*>(stream_space + (LookupTable::end - shared_address(stream_space)));
  BatchTile x_rows{tile * columns, columns, 0};
  if (task.experts != nullptr) x_rows = expert_tile(task.offsets, task.expert_count, tile, columns);
  x_rows.rows = min(x_rows.rows, static_cast<int>(task.batch) - x_rows.first);
  if (x_rows.rows <= 0) return;
  if (threadIdx.x == 0) {
    mine.me = me;
    mine.tile = tile;
    mine.first_x = x_rows.first;
    mine.batch = x_rows.rows;
    mine.begin = split.begin(me);
    mine.end = split.begin(me + 1);
    mine.w = task.experts != nullptr ? task.experts[x_rows.expert]
                                     : ExpertWeights{task.w.codes, task.w.scales, task.unit};
  }
  __syncthreads();
  const StreamBlock copy = mine;  // in registers where there are enough
  const StreamBlock& here = ahead ? copy : mine;
  [[maybe_unused]] const std::uint64_t policy = evict_first_policy();
  const auto load_weights = [&](const uint4* from) {
    if constexpr (ahead)
      return load_streaming_128(from, policy);
    else
      return load_streaming_128(from);
  };
  if (!ahead) Format::template fill_table<T>(task.w.table);
  for (int block = here.begin / slabs; block * slabs < here.end;) {
    const int s0 = max(here.begin - block * slabs, 0), s1 = min(here.end - block * slabs, slabs);
    // Found anew for each row block: registers hold nothing from one to the next.
    const int thread = thread_index(), warp = thread / 32, lane = thread % 32;
    const int row_warp = warp & (row_warps - 1), k_warp = (warp & row_warps) != 0;  // of 4 or 2, of 1 or 2
    const std::uint32_t place = Format::table_offset(lane);
    // Columns of the last tile that do not exist repeat others or read zeros; for one tile, only a power of
    // two is kept.
    const int kept = ColumnTiles > 1 ? columns : 1 << (32 - __clz(here.batch - 1));
    int column = lane / 4 & (ColumnTiles > 1 ? 7 : kept - 1);
    if constexpr (rotates) column = min(column, here.batch - 1);
    const std::uint32_t kept_place = Format::Activations::template offset<ColumnTiles, rotates>(column, lane);
    const int row_slab = block * row_warps + row_warp;
    // Step p of this warp is slab base + p * k_warps + k_warp of the row: a group of whole rounds begins with
    // one, and inputs that are rotated together are one chunk.
    const int whole = rotates ? chunk : ring * k_warps, base = s0 / whole * whole;
    const int4 run{s0, s1, base, block};
    if (!ahead && thread == 0) mine.run = run;
    // In the loop the same is found once more where registers are few.
    const auto thread_now = [&] { return ahead ? thread : thread_index(); };
    const auto run_now = [&] { return ahead ? run : mine.run; };
    const auto own_slab = [&](int base_slab, int step) {
      return base_slab + step * k_warps + (ahead ? k_warp : (thread_now() / 32 & row_warps) != 0);
    };
    const auto step_of = [&](int base_slab, int slab_of_row) {
      return (slab_of_row - own_slab(base_slab, 0) + k_warps - 1) >> (k_warps - 1);
    };
    const bool exists = row_slab < task.row_slabs;
    const int first_step = ahead || exists ? step_of(base, s0) : 0;
    const int end_step = exists ? step_of(base, s1) : first_step;

    // A thread copies pieces of 16 bytes: half of the 16 inputs that one row of x has in a step. Eight pieces
    // fill a line.
    [[maybe_unused]] const auto copy_chunk = [&](const int4& of, int c) {
      const int piece = thread_index(), m = piece / 16 % ColumnTiles * 8 + piece / 2 % 8;
      const int batch = here.batch;
      const bool exists = m < batch;
      const int k16 = piece / 16 / ColumnTiles, first = (of.z + c * chunk) * 4;  // in runs of 16 inputs
      constexpr int round = stream_threads / 16 / ColumnTiles;  // of which all threads copy so many at a time
      const int skip = max(of.x * 4 - first, 0), left = of.y * 4 - first - skip;
      const int to = LookupTable::rest + c % 2 * 32768 + piece / 8 * 256 + piece % 8 * 16;
      const T* from = static_cast<const T*>(task.x) + (here.first_x + min(m, batch - 1)) * task.x_stride;
      from += (first + k16) * 16 + piece % 2 * 8;
      const auto copy = [&]<int... I>(std::integer_sequence<int, I...>, auto wanted) {
        const auto at = static_cast<std::uint32_t>(to);
        ((wanted(k16 + I * round) ? copy_async_128<I * 32 * stream_threads, I * 32 * round>(at, from, exists)
                                  : void()),
         ...);
      };
      constexpr std::make_integer_sequence<int, 1024 / stream_threads> all;
      if (m < kept) {
        if (ColumnTiles == 8 && skip == 0 && left >= 4 * chunk)
          copy(all, [](int) { return true; });
        else
          copy(all, [=](int i) { return static_cast<unsigned>(i - skip) < static_cast<unsigned>(left); });
      }
      commit_copies();
    };

    // Warps take turns over the rows of the chunks.
    [[maybe_unused]] const auto rotate_chunk = [&](int c) {
      const int m = (warp - c * here.batch) & (stream_warps - 1);
      if constexpr (rotates)
        if (m < here.batch && base + c * chunk < s1)
          rotate_into<T>(task.w.rotation, static_cast<const X*>(task.x) + m * task.x_stride,
                         (base + c * chunk) * warp_tile, task.rotation_scale, m,
                         static_cast<std::uint32_t>(LookupTable::rest + c % 2 * 32768));
    };

    uint4 loads[ring][Bits];  // of the next steps, the first one's in front
    const uint4* fetch =
        here.w.codes + (std::int64_t{row_slab} * slabs + base + first_step * k_warps + k_warp) * (Bits * 32) +
        lane;
    const int stride = k_warps * Bits * 32;
    HIGGS_UNROLL
    for (int r = 0; r < ring; ++r)
      if (first_step + r < end_step) HIGGS_UNROLL
    for (int i = 0; i < Bits; ++i) loads[r][i] = load_weights(fetch + r * stride + 32 * i);
    fetch += ring * stride;

    if constexpr (!rotates) copy_chunk(run, 0);
    if (ahead && block * slabs <= here.begin) Format::template fill_table<T>(task.w.table);

    // A change of group is seen one group ahead, so that its scales have arrived. Where registers are few,
    // scales are loaded when they are needed, old ones again. A lane has those of rows g, g + 8, g + 16, ...
    uint4 scale = {}, coming = {};
    std::uint32_t seen = 0;  // nonzero_halves() of all groups before
    int change = 0;          // the first step in another group
    const auto scales_of = [&](const int4& of, int step) {
      const int now = thread_now();
      const std::int64_t row = of.w * row_warps + (now / 32 & (row_warps - 1));
      return load_128(here.w.scales +
                      (row * layout.groups + own_slab(of.z, step) / task.group_slabs) * warp_tile +
                      now % 32 / 4 * 8);
    };
    const auto look_ahead = [&](const int4& of, int from) {
      change = step_of(of.z, (own_slab(of.z, from) / task.group_slabs + 1) * task.group_slabs);
      if (ahead && change < end_step) coming = scales_of(of, change);
    };
    if (first_step < end_step) {
      if (ahead) scale = scales_of(run, first_step);
      look_ahead(run, first_step);
    }

    StreamSums<ColumnTiles> sums = {};
    const auto change_group = [&](int step) {
      if (!ahead) {
        scale = scales_of(run_now(), step - 1);
        coming = scales_of(run_now(), step);
      }
      scale_sums<ColumnTiles>(sums, [&](int i) {
        const float2 from = to_floats<Half>(word_of(scale, i)), to = to_floats<Half>(word_of(coming, i));
        return float2{divide_normal(divisible(from.x), divisible(to.x)),
                      divide_normal(divisible(from.y), divisible(to.y))};
      });
      seen |= nonzero_halves(scale);
      scale = coming;
      look_ahead(run_now(), step);
    };
    int step = first_step;
    const auto multiply = [&](uint4(&slab_loads)[Bits], std::uint32_t x) {
      const bool more = step + ring < end_step;
      // Where only one step's loads are under way, each is asked for as soon as its registers are free.
      const auto refill = [&]<int S>(std::integral_constant<int, S>) {
        constexpr bool last = S + 1 == Format::Activations::steps;
        if (more && (ring == 1 || last)) HIGGS_UNROLL
        for (int i = 0; i < Bits; ++i)
          if (ring > 1 ? last : Format::last_step(i) == S) slab_loads[i] = load_weights(fetch + 32 * i);
      };
      multiply_warp_tile<Format, T, ColumnTiles, rotates>(sums, slab_loads, x, place, refill);
      fetch += stride;
      ++step;
    };
    for (int c = 0; (!ahead && c == 0) || run_now().z + c * chunk < run_now().y; ++c) {
      if constexpr (rotates) {  // two chunks at first, then one when the last but one has been multiplied
        if (c > 0) __syncthreads();
        _Pragma("unroll 1") for (int next = c > 0 ? c + 1 : 0; next <= c + 1; ++next) rotate_chunk(next);
        if (c == 0) __syncthreads();
      } else {
        wait_copies<0>();
        __syncthreads();
        const int4 of = run_now();
        if (of.z + (c + 1) * chunk < of.y) copy_chunk(of, c + 1);
      }
      const int chunk_step = c * chunk >> (k_warps - 1);
      const int stop = min(end_step, chunk_step + (chunk >> (k_warps - 1)));
      const std::uint32_t each = static_cast<std::uint32_t>(k_warps) * slab_bytes;
      std::uint32_t at = static_cast<std::uint32_t>(own_slab(c % 2 * chunk, 0)) * slab_bytes +
                         static_cast<std::uint32_t>(step - chunk_step) * each;
      if constexpr (ahead)
        at += kept_place;
      else
        at += Format::Activations::template offset<ColumnTiles, rotates>(thread_index() / 4 % 8,
                                                                         thread_index() % 32);
      while (step < stop) {
        if (step == change) change_group(step);
        const int until = min(stop, change);
        while (step + ring <= until) HIGGS_UNROLL
        for (int r = 0; r < ring; ++r, at += each) multiply(loads[r], at);
        if constexpr (ring > 1)
          for (; step < until; at += each) {  // what is no round: the loads move up
            multiply(loads[0], at);
            HIGGS_UNROLL
            for (int r = 0; r + 1 < ring; ++r) HIGGS_UNROLL
            for (int i = 0; i < Bits; ++i) {
              const uint4 next = loads[r + 1][i];
              loads[r + 1][i] = loads[r][i];
              loads[r][i] = next;
            }
          }
      }
    }
    if (!ahead && step > 0) scale = scales_of(run_now(), step - 1);
    seen |= nonzero_halves(scale);
    scale_sums<ColumnTiles>(sums, [&](int i) {
      const float2 last = to_floats<Half>(word_of(scale, i));
      return float2{seen << i & 0x8000u ? divisible(last.x) : 0.0f,
                    seen << i & 0x80000000u ? divisible(last.y) : 0.0f};
    });

    if (k_warps == 2) add_warps<ColumnTiles>(sums);
    // Each block leaves its sums (batch, block_rows) in the workspace. The last of those that share these
    // rows adds them in the order of the inputs.
    const int same_block = run_now().w;  // read before the barrier behind which others go on to the next one
    leave_sums<ColumnTiles>(task, here, thread_now(), same_block, sums);
    finish_rows<columns>(task, here, mine.last, same_block);
    block = same_block + 1;
  }
}

}  // namespace detail
}  // namespace gpu
}  // namespace v0
}  // namespace higgs
