// SPDX-License-Identifier: Apache-2.0
// y = x * W^T with weights and activations as int8, for up to 32 columns: rows of x in one plane, or half as many in two
// (int8_activations.cuh). It is the streaming kernel (stream_kernel.cuh) with these differences:
//
//     load      activations are bytes, copied from what a launch before made of x, or rotated here (up to 4 rows)
//     decode    one lookup of 32 bits brings four weights
//     multiply  sums of integers, exact: at most 1024 products of 128 * 128, so below 2^24, where float is exact, too
//     rescale   at the end of a group and of 1024 inputs: sums += integer sums * scale of W * scale of x
//
// A warp has the loads of its next 8 warp tiles under way (4 for 32 columns). No tensor core rounds, so equal plans give
// equal bits on all architectures (but for the e^x of gated products).
#pragma once

#include <higgs/core/half.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/matmul/int8_activations.cuh>
#include <higgs/matmul/stream_fixup.cuh>
#include <higgs/matmul/stream_kernel.cuh>
#include <higgs/matmul/stream_task.cuh>
#include <higgs/pack/fragment_decoder.cuh>
#include <higgs/pack/packed_layout.cuh>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace higgs {
inline namespace v0 {
namespace gpu {
namespace detail {

/// Parameters of the int8 kernel. Either x is given, up to 4 rows that the kernel rotates, or int8 rows.
struct Int8Task : StreamTask {
  Int8Rows int8;  // without x: the rows of x. Its columns are those of the kernel, planes count with x, too
};

/// Shared memory of a block: that of the streaming kernel, with bytes for activations, then two buffers of scales of
/// activations. Half of a line of LookupTable holds 64 inputs of two columns: a warp tile of 8 columns is four of them.
template <int ColumnTiles>
struct Int8Shared {
  static constexpr int chunk = ColumnTiles == 4 ? 8 : segment_tiles;  // warp tiles of a buffer
  static constexpr int column_tile_bytes = 4 * LookupTable::line_bytes;
  static constexpr int warp_tile_bytes = ColumnTiles * column_tile_bytes;
  static constexpr int buffer_bytes = LookupTable::lines / 2 * LookupTable::line_bytes;
  static_assert(chunk * warp_tile_bytes <= buffer_bytes);

  /// The offset of a column in a buffer.
  static constexpr __device__ int column(int number) {
    return number / 2 * LookupTable::line_bytes + number % 2 * warp_tile;
  }
  /// The buffer of chunk c.
  static __device__ int buffer(int c) { return LookupTable::rest + c % 2 * buffer_bytes; }
  /// 32 halves of lines that a warp rotates 1024 inputs in: those that no chunk of 8 columns takes.
  static __device__ std::uint32_t rotation_space(unsigned warp) {
    return static_cast<std::uint32_t>(LookupTable::rest) + warp / 2 * buffer_bytes +
           (64 + warp % 2 * 32) * LookupTable::line_bytes;
  }
  /// The scales of the columns in chunk c.
  static __device__ std::uint32_t scales(int c) {
    return static_cast<std::uint32_t>(stream_shared + c % 2 * 8 * ColumnTiles * 4);
  }
};
inline constexpr int int8_shared = stream_shared + 2 * 32 * 4;

/// Lane 4 g + t reads 16 bytes of column g: its inputs in both operands of a warp tile.
struct Int8Inputs {
  template <int ColumnTiles, bool>
  static __device__ std::uint32_t offset(int column, int lane) {
    return static_cast<std::uint32_t>(LookupTable::rest + Int8Shared<ColumnTiles>::column(column) +
                                      lane % 4 * 16);
  }
};

/// The format as the streaming kernel's warps know it.
template <Int8Decoder F>
struct Int8Format : F {
  using Activations = Int8Inputs;
  static __device__ std::uint32_t table_offset(int lane) { return static_cast<std::uint32_t>(lane) * 4; }
};

/// What an instance of the kernel is compiled for, see StreamConfig. X is the type of rows that the kernel rotates, or
/// void.
template <Int8Decoder F, int ColumnTiles, class Raw>
struct Int8Config {
  using Format = Int8Format<F>;
  using T = std::int8_t;
  using X = Raw;
  using Shared = Int8Shared<ColumnTiles>;
  using Facts = FactsInRegisters<(ColumnTiles < 4)>;
  static constexpr int column_tiles = ColumnTiles, columns = 8 * ColumnTiles;
  static constexpr bool rotates = !std::is_void_v<X>;
  static_assert(!rotates || ColumnTiles == 1);
  static constexpr int stages = ColumnTiles == 4 ? 4 : 8, prefetch_bytes = 16384;
};

/// StreamWarp for int8.
template <class Config>
struct Int8Warp : StreamWarp<Config> {
  using Base = StreamWarp<Config>;
  using Base::change;
  using Base::chunk;
  using Base::column_tiles;
  using Base::end_step;
  using Base::facts;
  using Base::k_warps;
  using Base::load_stride;
  using Base::loads;
  using Base::next_load;
  using Base::next_scale;
  using Base::scale;
  using Base::stages;
  using Base::step;
  using Base::sums;
  using Base::table_offset;
  using Base::x_offset;
  using typename Base::Format;
  using typename Base::Prefetch;
  using typename Base::Shared;
  using typename Base::X;

  const Int8Rows& int8;
  int stage = 0;  // stage of `loads` that the next step has
  int integers[4][column_tiles][4] = {};

  __device__ __forceinline__ Int8Warp(const Int8Task& task, typename Config::Facts& f, const RowRange& rows)
      : Base(task, f, rows), int8(task.int8) {
    // Columns without a row of x repeat the last row of their plane, or are copied as zeros.
    const int lane = thread_index() % 32, each = 8 / int8.planes, m = lane / 4 % each;
    const int column = column_tiles > 1 ? lane / 4 : lane / 4 - m + min(m, facts.block.batch - 1);
    x_offset = Int8Inputs::offset<column_tiles, false>(column, lane);
  }
  __device__ void begin_activations(const RowRange& rows);
  template <class Use>
  __device__ void load_activations(int c, const Use& before_barrier);
  __device__ void multiply_chunk(int c);
  __device__ void add_planes();

 private:
  __device__ void copy_chunk(const RowRange& rows, int c);
  __device__ void rotate_chunk(const RowRange& rows, int c);
  __device__ void multiply_step(uint4 (&step_loads)[Format::loads], std::uint32_t x);
  __device__ void multiply_until(int until, std::uint32_t x, std::uint32_t each);
  __device__ void add_integers(int c);
};

/// y for the rows of W and of x that a block owns.
template <class F, int ColumnTiles, class X = void>
__global__ void __launch_bounds__(stream_threads, 2) int8_kernel(__grid_constant__ const Int8Task task);

// Load.

/// Copies chunk c of the activations, and their scales. A thread copies pieces of 16 bytes of one column.
template <class Config>
__device__ __forceinline__ void Int8Warp<Config>::copy_chunk(const RowRange& rows, int c) {
  constexpr int columns = Config::columns, round = stream_threads / (4 * columns);  // warp tiles at a time
  const int piece = thread_index(), column = piece / 4 % columns, first = rows.base + c * chunk;
  const int m = int8.planes == 2 ? column % (columns / 2) : column, tile = piece / 4 / columns;
  const int skip = max(rows.begin - first, 0), left = rows.end - first - skip;
  const auto to = static_cast<std::uint32_t>(Shared::buffer(c) + tile * Shared::warp_tile_bytes +
                                             Shared::column(column) + piece % 4 * 16);
  const std::uint8_t* const from = int8.bytes + std::int64_t{first} * (columns * warp_tile) + piece * 16;
  const bool exists = m < facts.block.batch;
  if (column_tiles > 1 || exists)
    [&]<int... I>(std::integer_sequence<int, I...>) {
      ((static_cast<unsigned>(tile + I * round - skip) < static_cast<unsigned>(left)
            ? copy_async_128<I * round * Shared::warp_tile_bytes, I * stream_threads * 16>(to, from, exists)
            : void()),
       ...);
    }(std::make_integer_sequence<int, chunk / round>{});
  if (piece < columns / 4)
    copy_async_128<0, 0>(Shared::scales(c) + static_cast<std::uint32_t>(piece) * 16,
                         int8.scales + std::int64_t{first / segment_tiles} * columns + piece * 4, true);
  commit_copies();
}

/// Rotates chunk c of x: warps take turns over the rows of the chunks.
template <class Config>
__device__ __forceinline__ void Int8Warp<Config>::rotate_chunk(const RowRange& rows, int c) {
  const int warp = facts.thread() / 32, lane = facts.thread() % 32, batch = facts.block.batch;
  const int m = (warp - c * batch) & (stream_warps - 1);
  if (m >= batch || rows.base + c * chunk >= rows.end) return;
  float v[32];
  rotate_inputs<LookupTable::line_bytes>(
      Base::task.w.rotation, static_cast<const X*>(Base::task.x) + m * Base::task.x_stride,
      (rows.base + c * chunk) * warp_tile, Shared::rotation_space(static_cast<unsigned>(warp)), v);
  HIGGS_UNROLL for (float& value : v)
    value = __fmul_rn(value, Base::task.rotation_scale);
  const auto to = static_cast<std::uint32_t>(Shared::buffer(c) + Shared::column(m) + int8_pair(lane));
  const float x_scale = to_int8(
      v, int8.planes, [&]<int Tile>(int plane, std::integral_constant<int, Tile>, std::uint32_t pair) {
        store_shared_16<Tile * Shared::warp_tile_bytes>(
            to + static_cast<std::uint32_t>(plane * Shared::column(Config::columns / 2)), pair);
      });
  if (lane < int8.planes)
    store_shared_32<0>(Shared::scales(c) + static_cast<std::uint32_t>(m + lane * (Config::columns / 2)) * 4,
                       __float_as_uint(plane_scale(x_scale, int8.planes, lane)));
  __syncwarp();
}

template <class Config>
__device__ __forceinline__ void Int8Warp<Config>::begin_activations(const RowRange& rows) {
  if constexpr (!Config::rotates) copy_chunk(rows, 0);
}

/// As that of StreamWarp.
template <class Config>
template <class Use>
__device__ __forceinline__ void Int8Warp<Config>::load_activations(int c, const Use& before_barrier) {
  if constexpr (Config::rotates) {
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

/// The next step, and the loads of the step that is `stages` behind it.
template <class Config>
__device__ __forceinline__ void Int8Warp<Config>::multiply_step(uint4 (&step_loads)[Format::loads],
                                                                std::uint32_t x) {
  uint4 b[column_tiles];
  [&]<int... C>(std::integer_sequence<int, C...>) {
    ((b[C] = load_shared_128<C * Shared::column_tile_bytes>(x)), ...);
  }(std::make_integer_sequence<int, column_tiles>{});
  const auto multiply = [&]<int Row, int Half>(std::integral_constant<int, Row>,
                                               std::integral_constant<int, Half>) {
    std::uint32_t a[4];
    Format::template decode_int8<Row, Half>(a, step_loads, table_offset);
    HIGGS_UNROLL for (int c = 0; c < column_tiles; ++c)
      mma_m16n8k32(integers[Row][c], a, Half == 0 ? uint2{b[c].x, b[c].y} : uint2{b[c].z, b[c].w});
  };
  [&]<int... I>(std::integer_sequence<int, I...>) {
    (multiply(std::integral_constant<int, I % 4>{}, std::integral_constant<int, I / 4>{}), ...);
  }(std::make_integer_sequence<int, 8>{});
  if (step + stages < end_step) HIGGS_UNROLL
    for (int i = 0; i < Format::loads; ++i) step_loads[i] = facts.load_weights(next_load + 32 * i);
  next_load += load_stride;
  ++step;
  __syncwarp();  // see StreamWarp
}

/// The steps before `until`, whose activations begin at `x` and are `each` apart. A stage keeps its registers: where a
/// range, a group or a chunk begins or ends within a round of the stages, a round skips some.
template <class Config>
__device__ __forceinline__ void Int8Warp<Config>::multiply_until(int until, std::uint32_t x,
                                                                 std::uint32_t each) {
  _Pragma("unroll 1") while (step < until) {
    const int last = min(stages, stage + until - step);
    const unsigned wanted = (1u << last) - (1u << stage);
    if (k_warps == 1) Prefetch::advance(next_load, facts.thread(), step, last - stage, end_step);
    HIGGS_UNROLL for (int r = 0; r < stages; ++r)
      if ((wanted >> r & 1u) != 0) {
        multiply_step(loads[r], x);
        x += each;
      }
    stage = last & (stages - 1);
  }
}

/// The steps of chunk c.
template <class Config>
__device__ __forceinline__ void Int8Warp<Config>::multiply_chunk(int c) {
  const int chunk_step = c * chunk >> (k_warps - 1);
  const int stop = min(end_step, chunk_step + (chunk >> (k_warps - 1)));
  const RowRange rows = facts.rows();
  const bool ends_segment = (rows.base + (c + 1) * chunk) % segment_tiles == 0;
  while (step < stop) {
    if (step == change) {
      scale = next_scale;
      this->find_change(rows, step);
    }
    const int until = min(stop, change);
    const auto tile = static_cast<std::uint32_t>(this->tile_of_step(0, step - chunk_step));
    multiply_until(
        until,
        x_offset + static_cast<std::uint32_t>(c % 2 * Shared::buffer_bytes) + tile * Shared::warp_tile_bytes,
        static_cast<std::uint32_t>(k_warps) * Shared::warp_tile_bytes);
    if (ends_segment || until == change || until == end_step) add_integers(c);
  }
}

// Rescale.

/// sums += integers * scales, and the integers begin anew. Chunk c has the scales of the activations.
template <class Config>
__device__ __forceinline__ void Int8Warp<Config>::add_integers(int c) {
  const std::uint32_t at = Shared::scales(c) + static_cast<std::uint32_t>(facts.thread() % 4 * 8);
  float2 by_column[column_tiles];
  [&]<int... C>(std::integer_sequence<int, C...>) {
    ((by_column[C] = __builtin_bit_cast(float2, load_shared_64<32 * C>(at))), ...);
  }(std::make_integer_sequence<int, column_tiles>{});
  HIGGS_UNROLL for (int i = 0; i < 4; ++i) {
    const float2 by_row = to_floats<Half>(word_of(scale, i));
    HIGGS_UNROLL for (int k = 0; k < 4; ++k) HIGGS_UNROLL
      for (int s = 0; s < column_tiles; ++s) {
        const float by = __fmul_rn(k < 2 ? by_row.x : by_row.y, k % 2 == 0 ? by_column[s].x : by_column[s].y);
        sums[i][s][k] = fmaf(static_cast<float>(integers[i][s][k]), by, sums[i][s][k]);
        integers[i][s][k] = 0;
      }
  }
}

/// Adds the sums of the second plane to those of the first.
template <class Config>
__device__ __forceinline__ void Int8Warp<Config>::add_planes() {
  HIGGS_UNROLL for (int i = 0; i < 4; ++i) HIGGS_UNROLL
    for (int k = 0; k < 4; ++k) {
      if constexpr (column_tiles == 1)
        sums[i][0][k] += __shfl_xor_sync(0xffffffffu, sums[i][0][k], 2);  // columns 2 t and 2 t + 4
      else HIGGS_UNROLL
        for (int s = 0; s < column_tiles / 2; ++s) sums[i][s][k] += sums[i][s + column_tiles / 2][k];
    }
}

template <class F, int ColumnTiles, class X>
__global__ void __launch_bounds__(stream_threads, 2) int8_kernel(__grid_constant__ const Int8Task task) {
  using Config = Int8Config<F, ColumnTiles, X>;
  extern __shared__ std::byte stream_space[];
  if (shared_address(stream_space) > LookupTable::begin) __trap();
  auto& shared =
      *reinterpret_cast<StreamBlock*>(stream_space + (stream_block_begin - shared_address(stream_space)));
  allow_next_kernel();
  if (Config::rotates && threadIdx.x < 16)  // columns without a row of x have scales of zero
    store_shared_32<0>(Config::Shared::scales(0) + threadIdx.x * 4, 0);
  if (!begin_block<Config::columns>(task, shared)) return;
  typename Config::Facts facts(shared);
  for (int row_block = facts.block.begin / task.cols; row_block * task.cols < facts.block.end; ++row_block) {
    RowRange rows = row_range<Config>(task, facts.block, row_block);
    rows.base = rows.begin / segment_tiles * segment_tiles;
    Int8Warp<Config> warp(task, facts, rows);
    // Table and first activations come at the same time: the table to the first-level cache, then from there.
    const bool first = row_block * task.cols <= facts.block.begin;
    std::uint32_t touched = 0;
    if (first) {
      touched = touch_table<F>(task.w.table);
      wait_for_previous_kernel();
    }
    const auto fill_table = [&] {
      if (first) F::fill_int8_table(task.w.table);
    };
    warp.begin_activations(rows);
    if (first) wait_for(touched);  // before a rotation, which takes all registers
    if (!Config::rotates) fill_table();
    warp.begin_sums(rows);
    for (int c = 0; rows.base + c * Config::Shared::chunk < rows.end; ++c) {
      warp.load_activations(c, fill_table);
      warp.multiply_chunk(c);
    }
    if (task.k_warps == 2) add_k_warps<ColumnTiles>(warp.sums);
    if (task.int8.planes == 2) warp.add_planes();
    finish_rows<ColumnTiles>(task, shared, facts.thread(), row_block, warp.sums);
  }
}

}  // namespace detail
}  // namespace gpu
}  // namespace v0
}  // namespace higgs
