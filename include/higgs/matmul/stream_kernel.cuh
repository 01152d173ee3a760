// SPDX-License-Identifier: Apache-2.0
// y = x * W^T, up to 64 rows of x at a time: weights stream from memory through registers into the tensor
// cores, once.
//
// A block of 4 warps owns a Stream-K range: a part of all warp tiles of W, equal for all blocks. Its warps are
// row_warps * k_warps: a warp takes 64 rows and every k_warps-th warp tile of them. The stages, for each row
// block of the range:
//
//     load      weights of the next steps go to registers, a chunk of activations to shared memory
//     decode    the format makes them operands of the tensor cores, through its lookup table
//     multiply  sums += integer coordinates * activations
//     rescale   at the end of a group sums are multiplied by its scale / the next scale: weights are not scaled
//     fixup     sums of warps, then of blocks, are added (stream_fixup.cuh)
//     store     y = sums * scales + bias + residual
//
// From sm_90 on, weights come to the second-level cache 8 or 16 KiB a warp before they are loaded, and the kernel may begin
// while the one in front of it ends (MatmulPlan::overlap_launches).
//
// Up to 4 rows of x may come as they are. A warp then rotates 1024 inputs of a row just before the block
// multiplies them, in shared memory that other columns' activations would take, and a launch is saved.
#pragma once

#include <higgs/core/half.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/matmul/stream_fixup.cuh>
#include <higgs/matmul/stream_prefetch.cuh>
#include <higgs/matmul/stream_task.cuh>
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
namespace detail {

/// Rows of x that the kernel may rotate itself.
inline constexpr int rotated_inside = 4;

/// A warp keeps the facts of its block in registers, and loads the scales of a group one group ahead. For up to
/// 32 rows of x; beside the sums of 32 rows no register is left for a policy of the loads.
template <bool HasPolicy>
struct FactsInRegisters {
  static constexpr bool prefetches_scales = true;
  StreamBlock block;
  std::uint64_t policy = HasPolicy ? evict_first_policy() : 0;
  RowRange rows_{};
  int thread_ = 0;

  __device__ explicit FactsInRegisters(StreamBlock& shared) : block(shared) {}
  __device__ void begin(const RowRange& rows, int thread) { rows_ = rows, thread_ = thread; }
  __device__ int thread() const { return HasPolicy ? thread_ : thread_index(); }
  __device__ RowRange rows() const { return rows_; }
  __device__ uint4 load_weights(const uint4* from) const {
    return HasPolicy ? load_streaming_128(from, policy) : load_streaming_128(from);
  }
  __device__ uint2 load_weights(const uint2* from) const {
    return HasPolicy ? load_streaming_64(from, policy) : load_streaming_64(from);
  }
};

/// A warp reads the facts of its block from shared memory each time, and loads scales when it needs them: the
/// sums of 64 rows of x take half of all registers.
struct FactsInSharedMemory {
  static constexpr bool prefetches_scales = false;
  StreamBlock& block;

  __device__ explicit FactsInSharedMemory(StreamBlock& shared) : block(shared) {}
  __device__ void begin(const RowRange& rows, int thread) {
    if (thread == 0) block.range = rows;  // the barrier before the first chunk comes before the first use
  }
  __device__ int thread() const { return thread_index(); }
  __device__ RowRange rows() const { return block.range; }
  __device__ uint4 load_weights(const uint4* from) const { return load_streaming_128(from); }
  __device__ uint2 load_weights(const uint2* from) const { return load_streaming_64(from); }
};

/// What an instance of the kernel is compiled for. T is the type of the operands, X that of the up to 4 rows
/// that the kernel rotates (their inputs a multiple of 8, from multiples of 16 bytes) or void: x is rotated.
template <class F, class Operand, int ColumnTiles, class Raw>
struct StreamConfig {
  using Format = F;
  using T = Operand;
  using X = Raw;
  using Shared = SharedLayout<ColumnTiles>;
  using Facts =
      std::conditional_t<(ColumnTiles < 8), FactsInRegisters<(ColumnTiles < 4)>, FactsInSharedMemory>;
  static constexpr int column_tiles = ColumnTiles, columns = 8 * ColumnTiles;
  static constexpr bool rotates = !std::is_void_v<X>;
  static_assert(!rotates || ColumnTiles == 1);
  /// Warp tiles whose loads are under way in a warp.
  static constexpr int stages = ColumnTiles == 8 ? 1 : Format::loads >= 8 ? 2 : 4;
  /// Bytes of weights that a warp asks for ahead of its loads. Beyond 32 rows of x a warp tile takes so long that fewer
  /// hide the latency of memory, and more would make the first loads of other warps wait.
  static constexpr int prefetch_bytes = ColumnTiles == 8 ? 8192 : 16384;
  /// Blocks that fit a multiprocessor by their registers; its shared memory has room for one (sm_86, 89, 120), two (80)
  /// or three (90, 100).
  static constexpr int blocks = 2;
};

/// What a warp holds while it multiplies a row block, and the stages of its work. Step p of a warp is warp tile
/// `base + p * k_warps + k_warp` of its rows.
template <class Config>
struct StreamWarp {
  using Format = typename Config::Format;
  using Activations = typename Format::Activations;
  using T = typename Config::T;
  using X = typename Config::X;
  using Shared = typename Config::Shared;
  using Facts = typename Config::Facts;
  static constexpr int column_tiles = Config::column_tiles, stages = Config::stages, chunk = Shared::chunk;
  using Prefetch = StreamPrefetch<Format, stages, Config::prefetch_bytes>;

  const StreamTask& task;
  Facts& facts;
  // The task's numbers that every step needs, in registers.
  const int row_warps = task.row_warps, k_warps = task.k_warps, group_cols = task.group_cols;
  LaneOf<Format> table_offset;
  std::uint32_t x_offset;  // where the lane reads activations; used by FactsInRegisters
  int copied_columns;      // columns of a batch tile that shared memory holds
  int end_step, step;
  uint4 loads[stages][Format::loads];  // those of the next steps, the first one's in front
  TailOf<Format> tails[stages];
  const uint4* next_load;  // of the step after these
  int load_stride;         // from one step to the next, in units of 128 bits
  // A lane has the scales of rows g, g + 8, g + 16, ...
  uint4 scale = {}, next_scale = {};
  std::uint32_t seen = 0;  // nonzero_halves() of the scales of all groups before
  int change = 0;          // the first step of the next group
  StreamSums<Config::column_tiles> sums;

  __device__ StreamWarp(const StreamTask& t, Facts& f, const RowRange& rows);
  __device__ void begin_activations(const RowRange& rows);
  template <class Use>
  __device__ void load_activations(int c, const Use& before_barrier);
  __device__ void begin_sums(const RowRange& rows);
  __device__ void multiply_chunk(int c);
  __device__ void finish_scales();

 protected:
  __device__ int tile_of_step(int base, int p) const {
    return base + p * k_warps + ((facts.thread() / 32 & row_warps) != 0);
  }
  __device__ int step_of_tile(int base, int tile) const {
    return (tile - tile_of_step(base, 0) + k_warps - 1) >> (k_warps - 1);
  }
  __device__ void copy_chunk(const RowRange& rows, int c);
  __device__ void rotate_chunk(const RowRange& rows, int c);
  __device__ uint4 load_scales(const RowRange& rows, int p) const;
  __device__ void find_change(const RowRange& rows, int from);
  __device__ void change_group();
  __device__ TailOf<Format> load_tail_of(const uint4* from) const {
    return load_tail<Format>(from, table_offset, [&](const uint2* pair) { return facts.load_weights(pair); });
  }
  __device__ void multiply_step(uint4 (&step_loads)[Format::loads], TailOf<Format>& tail, std::uint32_t x);
};

/// y for the rows of W and of x that a block owns.
template <class Format, class T, int ColumnTiles, class X = void>
__global__ void __launch_bounds__(stream_threads, StreamConfig<Format, T, ColumnTiles, X>::blocks)
    stream_kernel(__grid_constant__ const StreamTask task);

// Load.

/// Finds the facts of the block and leaves them in shared memory; false if there are no rows of x for it. Ends
/// with a barrier.
template <int Columns>
__device__ inline bool begin_block(const StreamTask& task, StreamBlock& block) {
  const int index = static_cast<int>(blockIdx.x) / task.batch_tiles,
            tile = static_cast<int>(blockIdx.x) % task.batch_tiles;
  const StreamSplit split{task.row_blocks, task.cols, task.grid};
  const int first = tile * Columns, rows = min(Columns, static_cast<int>(task.batch) - first);
  if (rows <= 0) return false;
  if (threadIdx.x == 0) {
    block.index = index;
    block.batch_tile = tile;
    block.first_x = first;
    block.batch = rows;
    block.begin = split.begin(index);
    block.end = split.begin(index + 1);
    block.row_block = block.expert = 0;
    block.w = {task.w.codes, task.w.scales, task.output_scale};
  }
  __syncthreads();
  return true;
}

/// The part of a row block that a block owns.
template <class Config>
__device__ inline RowRange row_range(const StreamTask& task, const StreamBlock& block, int row_block) {
  const int begin = max(block.begin - row_block * task.cols, 0),
            end = min(block.end - row_block * task.cols, task.cols);
  // A group of whole rounds of the stages begins with one, and inputs that are rotated together are one chunk.
  const int whole = Config::rotates ? Config::Shared::chunk : Config::stages * task.k_warps;
  return {begin, end, begin / whole * whole, row_block};
}

/// Starts the loads of the first steps. Everything is found anew for each row block: registers hold nothing from
/// one to the next.
template <class Config>
__device__ __forceinline__ StreamWarp<Config>::StreamWarp(const StreamTask& t, Facts& f, const RowRange& rows)
    : task(t), facts(f) {
  const int thread = thread_index(), warp = thread / 32, lane = thread % 32;
  table_offset = Format::table_offset(lane);
  // Columns of the last tile that do not exist repeat others or read zeros; for one tile, only a power of two
  // is copied.
  copied_columns = column_tiles > 1 ? Config::columns : 1 << (32 - __clz(facts.block.batch - 1));
  int column = lane / 4 & (column_tiles > 1 ? 7 : copied_columns - 1);
  if constexpr (Config::rotates) column = min(column, facts.block.batch - 1);
  x_offset = Activations::template offset<column_tiles, Config::rotates>(column, lane);
  facts.begin(rows, thread);

  const int row = rows.row_block * row_warps + (warp & (row_warps - 1));  // of warp tiles
  const bool exists = row < task.rows;
  step = Facts::prefetches_scales || exists ? step_of_tile(rows.base, rows.begin) : 0;
  end_step = exists ? step_of_tile(rows.base, rows.end) : step;
  const int k_warp = (warp & row_warps) != 0;
  load_stride = k_warps * tile_units<Format>;
  next_load = facts.block.w.codes +
              (std::int64_t{row} * task.cols + rows.base + step * k_warps + k_warp) * tile_units<Format> +
              lane;
  if constexpr (stages == 1)  // or registers would keep those of the last row block until here
    for (uint4& load : loads[0]) load = {};
  HIGGS_UNROLL for (int r = 0; r < stages; ++r)
    if (step + r < end_step) {
      HIGGS_UNROLL for (int i = 0; i < Format::loads; ++i)
        loads[r][i] = facts.load_weights(next_load + r * load_stride + 32 * i);
      tails[r] = load_tail_of(next_load + r * load_stride);
    }
  next_load += stages * load_stride;
  // A warp that shares its rows asks for nothing ahead: its warp tiles are not neighbours.
  if (k_warps == 1) Prefetch::begin(next_load, thread, step, end_step);
}

/// Copies chunk c of the rotated activations. A thread copies pieces of 16 bytes: half of the 16 inputs that one
/// row of x has in a step of mma.
template <class Config>
__device__ __forceinline__ void StreamWarp<Config>::copy_chunk(const RowRange& rows, int c) {
  const int piece = thread_index(), m = piece / 16 % column_tiles * 8 + piece / 2 % 8;
  const int batch = facts.block.batch;
  const bool exists = m < batch;
  const int k16 = piece / 16 / column_tiles, first = (rows.base + c * chunk) * 4;  // in parts of 16 inputs
  constexpr int round = stream_threads / 16 / column_tiles;  // parts that all threads copy at a time
  const int skip = max(rows.begin * 4 - first, 0), left = rows.end * 4 - first - skip;
  const int to = Shared::buffer(c) + Shared::piece(piece);
  const T* from =
      static_cast<const T*>(task.rotated_x) + (facts.block.first_x + min(m, batch - 1)) * task.x_stride;
  from += (first + k16) * 16 + piece % 2 * 8;
  const auto copy = [&]<int... I>(std::integer_sequence<int, I...>, auto wanted) {
    const auto at = static_cast<std::uint32_t>(to);
    ((wanted(k16 + I * round)
          ? copy_async_128<I * Shared::piece(stream_threads), I * 32 * round>(at, from, exists)
          : void()),
     ...);
  };
  constexpr std::make_integer_sequence<int, 1024 / stream_threads> all;
  if (m < copied_columns) {
    if (column_tiles == 8 && skip == 0 && left >= 4 * chunk)
      copy(all, [](int) { return true; });
    else
      copy(all, [=](int i) { return static_cast<unsigned>(i - skip) < static_cast<unsigned>(left); });
  }
  commit_copies();
}

/// v = inputs [first, first + 1024) of a row of x, rotated as rotate_async does but for the scale: v[2 k + i] of lane l is
/// input 64 k + 2 l + i of them. Through 32 rows of 128 bytes that begin `Apart` bytes after each other, from shared
/// address `space` on. All lanes of a warp call it.
template <int Apart, class X>
__device__ inline void rotate_inputs(const Rotation& r, const X* row, int first, std::uint32_t space,
                                     float (&v)[32]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  HIGGS_UNROLL for (int c = 0; c < 32; c += 8) {
    const int col = first + 32 * c + 8 * lane;
    HIGGS_UNROLL for (int i = 0; i < 8; ++i)
      v[c + i] = 0;
    if (col < r.cols) {
      load_eight(row + col, signs_of(r, col), v + c);
      if (r.factors != nullptr) multiply_eight(r.factors + col, v + c);
    }
  }
  hadamard_rows<Apart>(v, space, static_cast<int>(r.block));
}

/// Rotates inputs [first, first + 1024) of a row of x, as rotate_async does, into the activations of column m of
/// the buffer at shared address `to`. All lanes of a warp call it.
template <class T, class X>
__device__ inline void rotate_into(const Rotation& r, const X* row, int first, float scale, int m,
                                   std::uint32_t to) {
  using Shared = SharedLayout<1>;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float v[32];
  rotate_inputs<Shared::rotation_line_bytes>(r, row, first, Shared::rotation_space(threadIdx.x / 32), v);
  to += static_cast<std::uint32_t>(lane / 8 * activation_step_bytes + (m ^ lane / 8) * 32 + lane % 8 * 4);
  [&]<int... K>(std::integer_sequence<int, K...>) {
    (store_shared_32<4 * activation_step_bytes * K>(
         to, round_pair<T>(__fmul_rn(v[2 * K], scale), __fmul_rn(v[2 * K + 1], scale))),
     ...);
  }(std::make_integer_sequence<int, 16>{});
  __syncwarp();
}

/// Rotates chunk c of x: warps take turns over the rows of the chunks.
template <class Config>
__device__ __forceinline__ void StreamWarp<Config>::rotate_chunk(const RowRange& rows, int c) {
  const int batch = facts.block.batch, m = (facts.thread() / 32 - c * batch) & (stream_warps - 1);
  if (m < batch && rows.base + c * chunk < rows.end)
    rotate_into<T>(task.w.rotation, static_cast<const X*>(task.x) + m * task.x_stride,
                   (rows.base + c * chunk) * warp_tile, task.rotation_scale, m,
                   static_cast<std::uint32_t>(Shared::buffer(c)));
}

template <class Config>
__device__ __forceinline__ void StreamWarp<Config>::begin_activations(const RowRange& rows) {
  if constexpr (!Config::rotates) copy_chunk(rows, 0);
}

/// The activations of chunk c are in shared memory afterwards, and those of the next one on their way. Where x is rotated,
/// its first chunks meanwhile come, and then before_barrier() is called.
template <class Config>
template <class Use>
__device__ __forceinline__ void StreamWarp<Config>::load_activations(int c, const Use& before_barrier) {
  if constexpr (Config::rotates) {
    // Two chunks at first, then one when the last but one has been multiplied.
    if (c > 0) __syncthreads();
    _Pragma("unroll 1") for (int next = c > 0 ? c + 1 : 0; next <= c + 1; ++next)
        rotate_chunk(facts.rows(), next);
    if (c == 0) {
      before_barrier();
      __syncthreads();
    }
  } else {
    wait_copies<0>();
    __syncthreads();
    const RowRange rows = facts.rows();
    if (rows.base + (c + 1) * chunk < rows.end) copy_chunk(rows, c + 1);
  }
}

// Decode and multiply.

/// One warp tile: 16 tiles against 64 inputs of the activations at shared address `x`.
template <class Format, class T, int ColumnTiles, bool Swizzled, int Step = 0>
__device__ inline void multiply_warp_tile(StreamSums<ColumnTiles>& sums, const ReadyOf<Format>& ready,
                                          std::uint32_t x, const LaneOf<Format>& table_offset) {
  using Activations = typename Format::Activations;
  if constexpr (Step < Activations::steps) {
    uint2 b[Activations::k_tiles][ColumnTiles];
    Activations::template load<ColumnTiles, Swizzled, Step>(b, x);
    const auto multiply_row = [&]<int Row>(std::integral_constant<int, Row>) {
      std::uint32_t a[Activations::k_tiles][4];
      Format::template decode<T, Row, Step>(a, ready, table_offset);
      HIGGS_UNROLL for (int k = 0; k < Activations::k_tiles; ++k) HIGGS_UNROLL
        for (int c = 0; c < ColumnTiles; ++c) mma_m16n8k16<T>(sums[Row][c], a[k], b[k][c]);
    };
    [&]<int... Row>(std::integer_sequence<int, Row...>) {
      (multiply_row(std::integral_constant<int, Row>{}), ...);
    }(std::make_integer_sequence<int, 4>{});
    multiply_warp_tile<Format, T, ColumnTiles, Swizzled, Step + 1>(sums, ready, x, table_offset);
  }
}

/// The next step, and the loads of the step that is `stages` behind it.
template <class Config>
__device__ __forceinline__ void StreamWarp<Config>::multiply_step(uint4 (&step_loads)[Format::loads],
                                                                  TailOf<Format>& tail, std::uint32_t x) {
  const bool more = step + stages < end_step;
  const auto load_next = [&] {
    if (!more) return;
    HIGGS_UNROLL for (int i = 0; i < Format::loads; ++i)
      step_loads[i] = facts.load_weights(next_load + 32 * i);
    tail = load_tail_of(next_load);
  };
  uint4 loads_now[Format::loads];
  HIGGS_UNROLL for (int i = 0; i < Format::loads; ++i)
    loads_now[i] = stages == 1 ? opaque(step_loads[i]) : step_loads[i];
  const TailOf<Format> tail_now = tail;
  // Without __syncwarp ptxas would move loads towards their first use. Where no other step's loads are under way, they are
  // asked for before this step is multiplied. Copies wait for loads: opaque() keeps them in front of the next ones.
  if (stages == 1) {
    load_next();
    __syncwarp();
  }
  const auto& ready = prepared<Format>(loads_now, tail_now, table_offset);
  multiply_warp_tile<Format, T, column_tiles, Config::rotates>(sums, ready, x, table_offset);
  if (stages > 1) load_next();
  // Beside the sums of 32 rows or more no register is free for the stride in bytes, which the compiler would keep.
  constexpr bool scarce = column_tiles >= 4;
  next_load += scarce ? opaque(load_stride) : load_stride;
  ++step;
  if (stages > 1) __syncwarp();
}

/// The steps of chunk c, in rounds of `stages` between two changes of group.
template <class Config>
__device__ __forceinline__ void StreamWarp<Config>::multiply_chunk(int c) {
  const int chunk_step = c * chunk >> (k_warps - 1);
  const int stop = min(end_step, chunk_step + (chunk >> (k_warps - 1)));
  const std::uint32_t each = static_cast<std::uint32_t>(k_warps) * Shared::warp_tile_bytes;
  std::uint32_t x = static_cast<std::uint32_t>(tile_of_step(c % 2 * chunk, 0)) * Shared::warp_tile_bytes +
                    static_cast<std::uint32_t>(step - chunk_step) * each;
  if constexpr (Facts::prefetches_scales)
    x += x_offset;
  else
    x += Activations::template offset<column_tiles, Config::rotates>(thread_index() / 4 % 8,
                                                                     thread_index() % 32);
  if (column_tiles == 8 && k_warps == 1)  // once a chunk, where no operand takes registers
    Prefetch::advance(next_load, facts.thread(), step, stop - step, end_step);
  while (step < stop) {
    if (step == change) change_group();
    const int until = min(stop, change);
    while (step + stages <= until) {
      if (column_tiles < 8 && k_warps == 1)
        Prefetch::advance(next_load, facts.thread(), step, stages, end_step);
      HIGGS_UNROLL for (int r = 0; r < stages; ++r, x += each)
        multiply_step(loads[r], tails[r], x);
    }
    if constexpr (stages > 1)
      for (; step < until; x += each) {  // less than a round: the loads move up
        if (column_tiles < 8 && k_warps == 1) Prefetch::advance(next_load, facts.thread(), step, 1, end_step);
        multiply_step(loads[0], tails[0], x);
        HIGGS_UNROLL for (int r = 0; r + 1 < stages; ++r) {
          HIGGS_UNROLL for (int i = 0; i < Format::loads; ++i) {
            const uint4 next = loads[r + 1][i];
            loads[r + 1][i] = loads[r][i];
            loads[r][i] = next;
          }
          const TailOf<Format> next = tails[r + 1];
          tails[r + 1] = tails[r];
          tails[r] = next;
        }
      }
  }
}

// Rescale.

/// A scale that may be divided by: zero becomes so small that what it multiplies is lost beside any other
/// scale.
__device__ inline float divisible(float scale) { return scale == 0.0f ? 0x1p-50f : scale; }

/// Bits 15 - i and 31 - i are set where the low and the high half of word i are not zero.
__device__ inline std::uint32_t nonzero_halves(uint4 halves) {
  std::uint32_t out = 0;
  HIGGS_UNROLL for (int i = 0; i < 4; ++i)
    out |= (((word_of(halves, i) & 0x7fff7fffu) + 0x7fff7fffu) & 0x80008000u) >> i;
  return out;
}

/// Multiplies the sums of rows 16 i + g and 16 i + g + 8 by factor(i), two numbers. Products are rounded in every instance,
/// so that none is fused with an addition behind it.
template <int ColumnTiles, class Factor>
__device__ inline void scale_sums(StreamSums<ColumnTiles>& sums, const Factor& factor) {
  HIGGS_UNROLL for (int i = 0; i < 4; ++i) {
    const float2 by = factor(i);
    HIGGS_UNROLL for (int c = 0; c < ColumnTiles; ++c) {
      sums[i][c][0] = __fmul_rn(sums[i][c][0], by.x);
      sums[i][c][1] = __fmul_rn(sums[i][c][1], by.x);
      sums[i][c][2] = __fmul_rn(sums[i][c][2], by.y);
      sums[i][c][3] = __fmul_rn(sums[i][c][3], by.y);
    }
  }
}

/// The scales of the group of step p.
template <class Config>
__device__ __forceinline__ uint4 StreamWarp<Config>::load_scales(const RowRange& rows, int p) const {
  const int thread = facts.thread();
  const std::int64_t row = rows.row_block * row_warps + (thread / 32 & (row_warps - 1));
  const std::int64_t group = tile_of_step(rows.base, p) / group_cols;
  return load_128(facts.block.w.scales + (row * task.w.layout.groups + group) * warp_tile +
                  thread % 32 / 4 * 8);
}

/// Finds where the group of step `from` ends. FactsInRegisters: its scales are loaded, so that they have arrived
/// by then.
template <class Config>
__device__ __forceinline__ void StreamWarp<Config>::find_change(const RowRange& rows, int from) {
  change = step_of_tile(rows.base, (tile_of_step(rows.base, from) / group_cols + 1) * group_cols);
  if (Facts::prefetches_scales && change < end_step) next_scale = load_scales(rows, change);
}

template <class Config>
__device__ __forceinline__ void StreamWarp<Config>::begin_sums(const RowRange& rows) {
  if (step < end_step) {
    if (Facts::prefetches_scales) scale = load_scales(rows, step);
    find_change(rows, step);
  }
  HIGGS_UNROLL for (int i = 0; i < 4; ++i) HIGGS_UNROLL
    for (int c = 0; c < column_tiles; ++c) HIGGS_UNROLL
      for (int k = 0; k < 4; ++k) sums[i][c][k] = 0;
}

/// The group of `step` begins: sums become multiples of its scales.
template <class Config>
__device__ __forceinline__ void StreamWarp<Config>::change_group() {
  if (!Facts::prefetches_scales) {
    scale = load_scales(facts.rows(), step - 1);
    next_scale = load_scales(facts.rows(), step);
  }
  scale_sums<column_tiles>(sums, [&](int i) {
    const float2 from = to_floats<Half>(word_of(scale, i)), to = to_floats<Half>(word_of(next_scale, i));
    return float2{divide_normal(divisible(from.x), divisible(to.x)),
                  divide_normal(divisible(from.y), divisible(to.y))};
  });
  seen |= nonzero_halves(scale);
  scale = next_scale;
  find_change(facts.rows(), step);
}

/// Sums are multiplied by the scales of the last group; those of rows whose scales were all zero become zeros.
template <class Config>
__device__ __forceinline__ void StreamWarp<Config>::finish_scales() {
  if (!Facts::prefetches_scales && step > 0) scale = load_scales(facts.rows(), step - 1);
  seen |= nonzero_halves(scale);
  scale_sums<column_tiles>(sums, [&](int i) {
    const float2 last = to_floats<Half>(word_of(scale, i));
    return float2{seen << i & 0x8000u ? divisible(last.x) : 0.0f,
                  seen << i & 0x80000000u ? divisible(last.y) : 0.0f};
  });
}

/// A word of each 32 bytes of the lookup table, up to 4 KiB: loading it brings them to the first-level cache.
template <class Format>
__device__ inline std::uint32_t touch_table(const std::int16_t* table) {
  constexpr int words = Format::table_size / 2;
  const int word = 8 * thread_index();
  return word < words ? reinterpret_cast<const std::uint32_t*>(table)[word] : 0;
}

template <class Format, class T, int ColumnTiles, class X>
__global__ void __launch_bounds__(stream_threads, StreamConfig<Format, T, ColumnTiles, X>::blocks)
    stream_kernel(__grid_constant__ const StreamTask task) {
  using Config = StreamConfig<Format, T, ColumnTiles, X>;
  using Facts = typename Config::Facts;
  constexpr int chunk = Config::Shared::chunk;
  extern __shared__ std::byte stream_space[];
  if (shared_address(stream_space) > LookupTable::begin)
    __trap();  // CUDA keeps more for itself than any architecture did so far
  auto& shared =
      *reinterpret_cast<StreamBlock*>(stream_space + (stream_block_begin - shared_address(stream_space)));
  allow_next_kernel();
  if (!begin_block<Config::columns>(task, shared)) return;
  Facts facts(shared);
  for (int row_block = facts.block.begin / task.cols; row_block * task.cols < facts.block.end;) {
    const RowRange rows = row_range<Config>(task, facts.block, row_block);
    StreamWarp<Config> warp(task, facts, rows);
    // Table and first activations come at the same time: the table to the first-level cache, then from there.
    const bool first = row_block * task.cols <= facts.block.begin;
    std::uint32_t touched = 0;
    if (first) {
      touched = touch_table<Format>(task.w.table);
      wait_for_previous_kernel();
    }
    const auto fill_table = [&] {
      if (first) Format::template fill_table<T>(task.w.table);
    };
    warp.begin_activations(rows);
    if (first) wait_for(touched);  // before a rotation, which takes all registers
    if (!Config::rotates) fill_table();
    warp.begin_sums(rows);
    for (int c = 0; (!Facts::prefetches_scales && c == 0) || facts.rows().base + c * chunk < facts.rows().end;
         ++c) {
      warp.load_activations(c, fill_table);
      warp.multiply_chunk(c);
    }
    warp.finish_scales();
    if (task.k_warps == 2) add_k_warps<ColumnTiles>(warp.sums);
    const int same =
        facts.rows().row_block;  // read before the barrier behind which others write the next one
    finish_rows<ColumnTiles>(task, shared, facts.thread(), same, warp.sums);
    row_block = same + 1;
  }
}

}  // namespace detail
}  // namespace gpu
}  // namespace v0
}  // namespace higgs
