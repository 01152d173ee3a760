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
#include <higgs/matmul/device_matrix.cuh>
#include <higgs/matmul/fragments.cuh>
#include <higgs/pack/tiles.cuh>
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
  const uint4* tiles = nullptr;
  const Half* scales = nullptr;
  float unit = 1;  // 2^exponent
};

namespace detail {

/// Everything a kernel needs. x is rotated, in padded groups: (M, depth), or as it is: (M, cols); rows are
/// `x_stride` numbers apart.
struct MatmulTask {
  TiledMatrix w;                           // of a group: what its matrices share
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
};

inline constexpr int stream_warps = 4, stream_threads = 32 * stream_warps;

/// What a block keeps behind the table.
struct StreamBlock {
  int4 work;  // rows of x, the first and how many; its run of slabs, begin and end
  ExpertWeights w;
  bool last;  // of the blocks that share rows of y
};
inline constexpr int stream_shared = table_end + sizeof(StreamBlock);

/// Blocks that fit a multiprocessor by their registers, of which a plan uses one; its shared memory has room
/// for one (sm_86, 89, 120), two (80) or three (90, 100).
template <int Bits, int ColumnTiles, bool Rotates>
inline constexpr int stream_blocks = ColumnTiles == 1 && Bits < 8 && !Rotates ? 3 : 2;

/// Slabs of activations in one of the two buffers: together they fill the second halves of the lines.
template <int ColumnTiles>
inline constexpr int stream_chunk = 16 / ColumnTiles;

/// Which slabs a block works on: begin(block) <= row_block * slabs + slab < begin(block + 1).
struct StreamSplit {
  int total, grid;
  __device__ int begin(int block) const { return static_cast<int>(std::int64_t{total} * block / grid); }
  __device__ int owner(int item) const {
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

/// One slab: 16 tiles against 64 inputs of the activations at shared address `x`. refill(S) is called when
/// all that step S needs of `loads` is decoded. Turned: row m's inputs of step S lie where row m ^ S's would.
template <int Bits, class T, int ColumnTiles, bool Turned, int S = 0, class Refill>
__device__ inline void multiply_slab(StreamSums<ColumnTiles>& sums, const uint4 (&loads)[Bits],
                                     std::uint32_t x, std::uint32_t place, const Refill& refill) {
  if constexpr (S < 4) {
    uint2 b[ColumnTiles];
    const auto load_columns = [&]<int... C>(std::integer_sequence<int, C...>) {
      ((b[C] = load_shared_64<(S * ColumnTiles + C) * 512>(Turned ? x ^ 32 * S : x)), ...);
    };
    load_columns(std::make_integer_sequence<int, ColumnTiles>{});
    const auto multiply_tiles = [&]<int... I>(std::integer_sequence<int, I...>) {
      const auto tile = [&]<int Row>(std::integral_constant<int, Row>) {
        std::uint32_t a[4];
        decode_fragment<Bits, Row, S>(a, loads, place);
        HIGGS_UNROLL
        for (int c = 0; c < ColumnTiles; ++c) mma_m16n8k16<T>(sums[Row][c], a, b[c]);
      };
      (tile(std::integral_constant<int, I>{}), ...);
    };
    multiply_tiles(std::make_integer_sequence<int, 4>{});
    refill(std::integral_constant<int, S>{});
    multiply_slab<Bits, T, ColumnTiles, Turned, S + 1>(sums, loads, x, place, refill);
  }
}

/// The same for E8's tiles, whose lanes take 16 neighbouring bytes of the activations in halves.
template <class T, int ColumnTiles, bool Turned, int U = 0, class Refill>
__device__ inline void multiply_e8_slab(StreamSums<ColumnTiles>& sums, const uint4 (&loads)[2],
                                        std::uint32_t x, std::uint32_t place, const Refill& refill) {
  if constexpr (U < 2) {
    uint2 first[ColumnTiles], second[ColumnTiles];
    const auto load_columns = [&]<int... C>(std::integer_sequence<int, C...>) {
      const std::uint32_t at = Turned ? x ^ 64 * U : x;
      ((first[C] = load_shared_64<(2 * U * ColumnTiles + C) * 512>(at)), ...);
      ((second[C] = load_shared_64<(2 * U * ColumnTiles + C) * 512>(at ^ 8)), ...);
    };
    load_columns(std::make_integer_sequence<int, ColumnTiles>{});
    const auto multiply_tiles = [&]<int... I>(std::integer_sequence<int, I...>) {
      const auto tiles = [&]<int Row>(std::integral_constant<int, Row>) {
        std::uint32_t a[4], b[4];
        decode_e8_fragments<T, Row, U>(a, b, loads, place);
        HIGGS_UNROLL
        for (int c = 0; c < ColumnTiles; ++c) mma_m16n8k16<T>(sums[Row][c], a, first[c]);
        HIGGS_UNROLL
        for (int c = 0; c < ColumnTiles; ++c) mma_m16n8k16<T>(sums[Row][c], b, second[c]);
      };
      (tiles(std::integral_constant<int, I>{}), ...);
    };
    multiply_tiles(std::make_integer_sequence<int, 4>{});
    refill(std::integral_constant<int, 2 * U + 1>{});
    multiply_e8_slab<T, ColumnTiles, Turned, U + 1>(sums, loads, x, place, refill);
  }
}

/// Where a lane reads the activations of its column in a line of them.
template <int Format, int ColumnTiles, bool Turned>
__device__ inline std::uint32_t activation_place(int column, int lane) {
  const int t = lane % 4;
  if (Turned && Format == e8_tiles) column ^= t / 2;
  const int within = Format == e8_tiles ? t % 2 * 16 + t / 2 * (8 + 512 * ColumnTiles) : t * 8;
  return static_cast<std::uint32_t>(table_begin + 128 + column / 4 * 256 + column % 4 * 32 + within);
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
  hadamard_rows<512>(v, table_begin + 128 + 256 + warp * 32 * 512, static_cast<int>(r.block));
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
  const auto thread = static_cast<int>(threadIdx.x);
  const auto slot = [&](int i, int c) {  // 8 lanes to a line
    const int line = ((thread / 32 % 2 * 4 + i) * ColumnTiles + c) * 4 + thread % 32 / 8;
    return static_cast<std::uint32_t>(table_begin + 128 + line * 256 + thread % 8 * 16);
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

/// Stores the sums of a warp for the first `count` rows of x to `to` (rows of x, block_rows).
template <int ColumnTiles>
__device__ inline void leave_sums(const StreamSums<ColumnTiles>& sums, float* to, int block_rows, int count) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  to += lane % 4 * 2 * block_rows + thread / 32 * slab % block_rows + lane / 4;
  HIGGS_UNROLL
  for (int c = 0; c < ColumnTiles; ++c) HIGGS_UNROLL
  for (int odd = 0; odd < 2; ++odd) {
    if (8 * c + lane % 4 * 2 + odd < count) HIGGS_UNROLL
    for (int i = 0; i < 8; ++i) to[8 * i] = sums[i / 2][c][i % 2 * 2 + odd];
    to += odd == 0 ? block_rows : 7 * block_rows;
  }
}

/// Format is the bits of a weight, or e8_tiles. T is what the tensor cores take; X the type of up to 4 rows
/// that the kernel rotates, their inputs a multiple of 8 and from multiples of 16 bytes, or void: x is rotated.
template <int Format, class T, int ColumnTiles, class X = void>
__global__ void __launch_bounds__(stream_threads, stream_blocks<Format, ColumnTiles, !std::is_void_v<X>>)
    stream_kernel(__grid_constant__ const MatmulTask task) {
  constexpr int Bits = loads_per_slab(Format);
  constexpr bool rotates = !std::is_void_v<X>;
  static_assert(!rotates || ColumnTiles == 1);
  constexpr int chunk = stream_chunk<ColumnTiles>, columns = 8 * ColumnTiles;
  // Slabs whose loads are under way, and whether scales are: what registers hold beside the sums.
  constexpr int ring = ColumnTiles == 8 ? 1 : (ColumnTiles == 1 ? 4 : 2) / (Bits == 8 ? 2 : 1);
  constexpr bool ahead = ColumnTiles < 8;
  constexpr std::uint32_t slab_bytes = 2048 * ColumnTiles;  // of activations, with the gaps
  const TileOrder& order = task.w.order;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int row_warps = task.row_warps, k_warps = task.k_warps, slabs = task.slabs;
  const int row_warp = warp % row_warps, k_warp = warp / row_warps, block_rows = row_warps * slab;
  const auto me = static_cast<int>(blockIdx.x);
  const StreamSplit split{task.row_blocks * slabs, static_cast<int>(gridDim.x)};

  extern __shared__ std::byte stream_space[];
  if (shared_address(stream_space) > table_begin)
    __trap();  // CUDA keeps more for itself than any architecture did so far

  auto& mine = *reinterpret_cast<StreamBlock*>(stream_space + (table_end - shared_address(stream_space)));
  BatchTile x_rows{static_cast<int>(blockIdx.y) * columns, columns, 0};
  if (task.experts != nullptr)
    x_rows = expert_tile(task.offsets, task.expert_count, static_cast<int>(blockIdx.y), columns);
  x_rows.rows = min(x_rows.rows, static_cast<int>(task.batch) - x_rows.first);
  if (x_rows.rows <= 0) return;
  if (threadIdx.x == 0) {
    mine.work = {x_rows.first, x_rows.rows, split.begin(me), split.begin(me + 1)};
    mine.w = task.experts != nullptr ? task.experts[x_rows.expert]
                                     : ExpertWeights{task.w.tiles, task.w.scales, task.unit};
  }
  __syncthreads();
  const int4 work = mine.work;
  const int first_x = work.x, batch = work.y, begin = work.z, end = work.w;
  [[maybe_unused]] const std::uint64_t policy = evict_first_policy();
  const auto load_weights = [&](const uint4* from) {
    if constexpr (ahead)
      return load_streaming_128(from, policy);
    else
      return load_streaming_128(from);
  };
  const std::uint32_t place = table_place<Format>();
  // Columns of the last tile that do not exist repeat others or read zeros; for one tile, only a power of two
  // is kept.
  const int kept = ColumnTiles > 1 ? columns : 1 << (32 - __clz(batch - 1));
  int column = lane / 4 & (ColumnTiles > 1 ? 7 : kept - 1);
  if constexpr (rotates) column = min(column, batch - 1);
  const std::uint32_t x_place = activation_place<Format, ColumnTiles, rotates>(column, lane);

  for (int item = begin; item < end;) {
    const bool table_ready = item != begin;
    const int block = item / slabs, s0 = item % slabs, s1 = min(slabs, s0 + (end - item));
    item += s1 - s0;
    const int row_slab = block * row_warps + row_warp;
    // Step p of this warp is slab base + p * k_warps + k_warp of the row: a group of whole rounds begins with
    // one, and inputs that are rotated together are one chunk.
    const int whole = rotates ? chunk : ring * k_warps, base = s0 / whole * whole;
    const auto step_of = [&](int slab_of_row) {
      return (slab_of_row - base - k_warp + k_warps - 1) / k_warps;
    };
    const int first_step = step_of(s0), end_step = row_slab < task.row_slabs ? step_of(s1) : first_step;

    // A thread copies pieces of 16 bytes: half of the 16 inputs that one row of x has in a step. Eight pieces
    // fill a line.
    [[maybe_unused]] const auto copy_chunk = [&](int c) {
      const int thread = opaque(static_cast<int>(threadIdx.x)),
                m = thread / 16 % ColumnTiles * 8 + thread / 2 % 8;
      const int k16 = thread / 16 / ColumnTiles, first = (base + c * chunk) * 4;  // in runs of 16 inputs
      constexpr int round = stream_threads / 16 / ColumnTiles;  // of which all threads copy so many at a time
      const int skip = max(s0 * 4 - first, 0), left = s1 * 4 - first - skip;
      const int to = table_begin + 128 + c % 2 * 32768 + thread / 8 * 256 + thread % 8 * 16;
      const T* from = static_cast<const T*>(task.x) + (first_x + min(m, batch - 1)) * task.x_stride;
      from += (first + k16) * 16 + thread % 2 * 8;
      const auto copy = [&]<int... I>(std::integer_sequence<int, I...>) {
        const auto at = static_cast<std::uint32_t>(to);
        ((static_cast<unsigned>(k16 + I * round - skip) < static_cast<unsigned>(left)
              ? copy_async_128<I * 32 * stream_threads, I * 32 * round>(at, from, m < batch)
              : void()),
         ...);
      };
      if (m < kept) copy(std::make_integer_sequence<int, 1024 / stream_threads>{});
      commit_copies();
    };

    // Warps take turns over the rows of the chunks.
    [[maybe_unused]] const auto rotate_chunk = [&](int c) {
      const int m = (warp - c * batch) & (stream_warps - 1);
      if constexpr (rotates)
        if (m < batch && base + c * chunk < s1)
          rotate_into<T>(task.w.rotation, static_cast<const X*>(task.x) + (first_x + m) * task.x_stride,
                         (base + c * chunk) * slab, task.rotation_scale, m,
                         static_cast<std::uint32_t>(table_begin + 128 + c % 2 * 32768));
    };

    uint4 loads[ring][Bits];  // of the next steps, the first one's in front
    const uint4* fetch =
        mine.w.tiles + (std::int64_t{row_slab} * slabs + base + first_step * k_warps + k_warp) * (Bits * 32) +
        lane;
    const int stride = k_warps * Bits * 32;
    HIGGS_UNROLL
    for (int r = 0; r < ring; ++r)
      if (first_step + r < end_step) HIGGS_UNROLL
    for (int i = 0; i < Bits; ++i) loads[r][i] = load_weights(fetch + r * stride + 32 * i);
    fetch += ring * stride;

    if constexpr (!rotates) copy_chunk(0);
    if (!table_ready) fill_byte_table<Format, T>(task.w.table);

    // A change of group is seen one group ahead, so that its scales have arrived. Where registers are few,
    // scales are loaded when they are needed, old ones again. A lane has those of rows g, g + 8, g + 16, ...
    uint4 scale = {}, coming = {};
    std::uint32_t seen = 0;  // nonzero_halves() of all groups before
    int change = 0;          // the first step in another group
    const Half* const row_scales = mine.w.scales + row_slab * order.groups * slab + lane / 4 * 8;
    const auto scales_of = [&](int step) {
      return load_128(row_scales + (base + step * k_warps + k_warp) / task.group_slabs * slab);
    };
    const auto look_ahead = [&](int from) {
      change = step_of(((base + from * k_warps + k_warp) / task.group_slabs + 1) * task.group_slabs);
      if (ahead && change < end_step) coming = scales_of(change);
    };
    if (first_step < end_step) {
      if (ahead) scale = scales_of(first_step);
      look_ahead(first_step);
    }

    StreamSums<ColumnTiles> sums = {};
    const auto change_group = [&](int step) {
      if (!ahead) {
        scale = scales_of(step - 1);
        coming = scales_of(step);
      }
      scale_sums<ColumnTiles>(sums, [&](int i) {
        const float2 from = to_floats<Half>(word_of(scale, i)), to = to_floats<Half>(word_of(coming, i));
        return float2{divide_normal(divisible(from.x), divisible(to.x)),
                      divide_normal(divisible(from.y), divisible(to.y))};
      });
      seen |= nonzero_halves(scale);
      scale = coming;
      look_ahead(step);
    };
    int step = first_step;
    const auto multiply = [&](uint4(&slab_loads)[Bits], std::uint32_t x) {
      const bool more = step + ring < end_step;
      // Where only one step's loads are under way, each is asked for as soon as its registers are free.
      const auto refill = [&]<int S>(std::integral_constant<int, S>) {
        if (more && (ring == 1 || S == 3)) HIGGS_UNROLL
        for (int i = 0; i < Bits; ++i)
          if (ring > 1 || (Bits == 3 || Format == e8_tiles ? S == 3 : (4 * i + 3) / Bits == S))
            slab_loads[i] = load_weights(fetch + 32 * i);
      };
      if constexpr (Format == e8_tiles)
        multiply_e8_slab<T, ColumnTiles, rotates>(sums, slab_loads, x, place, refill);
      else
        multiply_slab<Bits, T, ColumnTiles, rotates>(sums, slab_loads, x, place, refill);
      fetch += stride;
      ++step;
    };
    for (int c = 0; base + c * chunk < s1; ++c) {
      if constexpr (rotates) {  // two chunks at first, then one when the last but one has been multiplied
        if (c > 0) __syncthreads();
        _Pragma("unroll 1") for (int next = c > 0 ? c + 1 : 0; next <= c + 1; ++next) rotate_chunk(next);
        if (c == 0) __syncthreads();
      } else {
        wait_copies<0>();
        __syncthreads();
        if (base + (c + 1) * chunk < s1) copy_chunk(c + 1);
      }
      const int chunk_step = c * chunk / k_warps, stop = min(end_step, chunk_step + chunk / k_warps);
      const std::uint32_t each = static_cast<std::uint32_t>(k_warps) * slab_bytes;
      std::uint32_t at = x_place + static_cast<std::uint32_t>(c % 2 * chunk + k_warp) * slab_bytes +
                         static_cast<std::uint32_t>(max(first_step - chunk_step, 0)) * each;
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
    if (!ahead && first_step < end_step) scale = scales_of(end_step - 1);
    seen |= nonzero_halves(scale);
    scale_sums<ColumnTiles>(sums, [&](int i) {
      const float2 last = to_floats<Half>(word_of(scale, i));
      return float2{seen << i & 0x8000u ? divisible(last.x) : 0.0f,
                    seen << i & 0x80000000u ? divisible(last.y) : 0.0f};
    });

    if (k_warps == 2) add_warps<ColumnTiles>(sums);
    // Each block leaves its sums (batch, block_rows) in the workspace. The last of those that share these
    // rows adds them in the order of the inputs.
    const std::int64_t sum_size = columns * block_rows;
    float* const block_sums = task.sums + std::int64_t{blockIdx.y} * gridDim.x * 2 * sum_size;
    if (k_warp == 0 && row_slab < task.row_slabs)
      leave_sums<ColumnTiles>(sums, block_sums + (2 * me + (begin < block * slabs)) * sum_size, block_rows,
                              batch);
    const int first_owner = split.owner(block * slabs), last_owner = split.owner((block + 1) * slabs - 1);
    if (first_owner != last_owner) {
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) {
        const auto others = static_cast<std::uint32_t>(last_owner - first_owner);
        const std::uint32_t before = atomicInc(task.arrivals + blockIdx.y * task.row_blocks + block, others);
        __threadfence();
        if (before > others) __trap();  // the workspace did not begin as zeros
        mine.last = before == others;
      }
      __syncthreads();
      if (!mine.last) continue;
    } else {
      __syncthreads();
    }
    const float* first_sums =
        block_sums + (2 * first_owner + (split.begin(first_owner) < block * slabs)) * sum_size;
    const float* other_sums = block_sums + 2 * (first_owner + 1) * sum_size;
    const int quads = block_rows / 4, items = batch * quads;
    const float unit = mine.w.unit;
    for (int q = static_cast<int>(threadIdx.x); q < items; q += stream_threads) {
      const std::int64_t m = first_x + q / quads, row = std::int64_t{block} * block_rows + q % quads * 4;
      if (row >= order.rows) continue;
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
      const auto count = static_cast<int>(min(order.rows - row, std::int64_t{4}));
      if (task.y.type == OutputType::Float)
        store_outputs<float>(task.y, m, row, count, v);
      else if (task.y.type == OutputType::Half)
        store_outputs<Half>(task.y, m, row, count, v);
      else
        store_outputs<BFloat16>(task.y, m, row, count, v);
    }
  }
}

}  // namespace detail
}  // namespace gpu
}  // namespace v0
}  // namespace higgs
