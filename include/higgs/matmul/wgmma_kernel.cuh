// SPDX-License-Identifier: Apache-2.0
// y = x * W^T by warpgroup products of Hopper (sm_90a), for more than 64 rows of x: weights are decoded once for up to
// 256 of them.
//
// A block multiplies the rows of one row block of W by the rows of one batch tile, over a range of inputs. Two
// warpgroups multiply and a third copies. The stages of a warpgroup, for each warp tile of its rows:
//
//     load      codes of the next warp tile go to registers; the third has asked for them to be in the L2 cache
//     decode    the format makes operands of them while the products of the last ones run
//     multiply  sums += integer coordinates * activations, which a bulk copy has brought to a ring in shared memory
//     rescale   at the end of a group sums are multiplied by its scale / the next scale, as in the streaming kernel
//     store     through shared memory; y = sums * scales + bias + residual, or partial sums where inputs are split
//
// A warpgroup has 64 RowTiles rows of W and 256 / RowTiles rows of x, 128 sums a thread in any case. A warp decodes
// RowTiles of the four tiles of 16 rows that are in its warp tile: the other warps of its warpgroup load the same warp
// tile and decode the others. The sums are in the order of the streaming kernel, but the tensor cores round a sum of 16
// products otherwise than those that execute mma.
//
// Activations are arranged before: for each batch tile and 64 inputs a matrix in the 128-byte swizzle, its inputs in the
// order in which the format's lanes hold their weights. So one bulk copy brings what a step needs.
#pragma once

#include <higgs/core/half.hpp>
#include <higgs/gpu/hopper.cuh>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/matmul/packed_matrix.cuh>
#include <higgs/matmul/stream_fixup.cuh>
#include <higgs/matmul/stream_kernel.cuh>
#include <higgs/matmul/stream_task.cuh>
#include <higgs/pack/fragment_decoder.cuh>
#include <higgs/pack/packed_layout.cuh>

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace higgs {
inline namespace v0 {
namespace gpu {
namespace detail {

/// Parameters of the kernel. For `row_tiles` see WgmmaShape.
struct WgmmaTask : EveryOutputRow {
  PackedView w;
  const uint4* x = nullptr;  // (batch tiles, cols, 8 columns): arranged activations
  std::int64_t first_x = 0;  // the row of y of the first row of x
  std::int64_t batch = 0;    // rows of x
  MatmulOutput y;
  std::uint32_t* arrivals = nullptr;  // (row blocks, batch tiles), if split: zeros before and after a launch
  float* partial_sums = nullptr;      // (row blocks, batch tiles, splits, 2, columns, rows of a warpgroup)
  float output_scale = 1;             // 2^exponent
  int cols = 0, group_cols = 0;       // warp tiles per row of W, per group
  int rows = 0;                       // rows of warp tiles of W
  int batch_tiles = 1, splits = 1;    // the grid has row blocks * splits * batch_tiles blocks
};

inline constexpr int wgmma_groups = 2;  // warpgroups that multiply
inline constexpr int wgmma_multipliers = 128 * wgmma_groups, wgmma_threads = wgmma_multipliers + 128;

/// A barrier of the warpgroups that multiply.
__device__ inline void sync_multipliers() { sync_some<1, wgmma_multipliers>(); }

/// What depends on RowTiles (1 or 2): shapes, and shared memory behind the lookup table.
template <int RowTiles>
struct WgmmaShape {
  static constexpr int columns = 256 / RowTiles;             // rows of x of a block
  static constexpr int group_rows = 64 * RowTiles;           // rows of W of a warpgroup
  static constexpr int tile_rows = wgmma_groups * RowTiles;  // rows of warp tiles of a block
  static constexpr int stage_bytes = columns * 128;          // activations of a step: 64 inputs
  static constexpr int stages = 5 * RowTiles;
  /// Rows of sums on their way out are so many floats apart: no bank conflict.
  static constexpr int sum_stride = group_rows + 4;

  static constexpr int ring = LookupTable::end;
  static constexpr int sums_bytes = wgmma_groups * columns * sum_stride * 4;  // where the ring was
  static constexpr int end = ring + std::max(stages * stage_bytes, sums_bytes);
  static_assert(ring % swizzle_bytes == 0 && end <= 227 * 1024);

  /// The barriers of stage s, in the second halves of lines of the table: its activations are there; all warps have
  /// multiplied by them.
  static __device__ std::uint32_t full(int s) {
    return LookupTable::rest + static_cast<std::uint32_t>(8 * s);
  }
  static __device__ std::uint32_t empty(int s) { return full(s) + LookupTable::line_bytes; }
  /// A number that tells all threads whether their block is the last one.
  static constexpr std::uint32_t last = LookupTable::rest + 2 * LookupTable::line_bytes;
};

// Arrange.

/// Arranges x (batch, 64 cols) for a format with this order: a thread for each 16 bytes of out (batch tiles, cols,
/// Columns, 8). Rows beyond the batch are zeros.
template <class Activations, int Columns>
__global__ void arrange_kernel(const std::uint32_t* x, std::int64_t batch, std::int64_t cols, uint4* out,
                               std::int64_t count) {
  const std::int64_t thread = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (thread >= count) return;
  const int piece = static_cast<int>(thread % 8), n = static_cast<int>(thread / 8 % Columns);
  const std::int64_t matrix = thread / 8 / Columns, m = matrix / cols * Columns + n;
  constexpr int k_tiles = Activations::k_tiles;
  const int operand = piece / 2, half = piece % 2;
  std::uint32_t pairs[4] = {};
  if (m < batch) HIGGS_UNROLL
    for (int t = 0; t < 4; ++t) {
      const int input = Activations::first_input(t, operand / k_tiles, operand % k_tiles) + 2 * half;
      pairs[t] = x[(m * cols + matrix % cols) * (warp_tile / 2) + input / 2];
    }
  const std::uint32_t to = swizzled(static_cast<std::uint32_t>(n), static_cast<std::uint32_t>(16 * piece));
  out[matrix * (8 * Columns) + to / 16] = uint4{pairs[0], pairs[1], pairs[2], pairs[3]};
}

/// Puts the arrangement of x (batch, 64 cols), 16-bit numbers, on the stream. out: whole batch tiles.
template <class Activations, int Columns, class Archs>
void arrange_async(const void* x, std::int64_t batch, std::int64_t cols, uint4* out, cudaStream_t stream) {
  const std::int64_t count = ceil_div(batch, Columns) * cols * Columns * 8;
  gpu::launch(arrange_kernel<Activations, Columns>, dim3(static_cast<unsigned>(ceil_div(count, 256))), 256, 0,
              stream, static_cast<const std::uint32_t*>(x), batch, cols, out, count);
}

// Multiply.

/// The part of the work that a block has.
struct WgmmaBlock {
  int row_block, batch_tile, split;
  int begin, end;  // warp tiles of a row
  __device__ explicit WgmmaBlock(const WgmmaTask& task) {
    const int block = static_cast<int>(blockIdx.x);
    batch_tile = block % task.batch_tiles;
    split = block / task.batch_tiles % task.splits;
    row_block = block / task.batch_tiles / task.splits;
    begin = task.cols * split / task.splits;
    end = task.cols * (split + 1) / task.splits;
  }
};

/// The warpgroup that copies: one thread brings activations to the ring, and asks for the codes that the others will load.
template <class Format, int RowTiles>
__device__ inline void copy_activations(const WgmmaTask& task, const WgmmaBlock& block) {
  using Shape = WgmmaShape<RowTiles>;
  constexpr int tile_bytes = tile_units<Format> * 16;
  const uint4* x =
      task.x + (std::int64_t{block.batch_tile} * task.cols + block.begin) * (Shape::stage_bytes / 16);
  const int first_row = block.row_block * Shape::tile_rows,
            rows = min(Shape::tile_rows, task.rows - first_row);
  const auto prefetch = [&](int from, int count) {  // warp tiles of each row
    for (int row = first_row; row < first_row + rows && count > 0; ++row)
      prefetch_bulk(task.w.codes + (std::int64_t{row} * task.cols + from) * tile_units<Format>,
                    count * tile_bytes);
  };
  prefetch(block.begin, min(Shape::stages, block.end - block.begin));
  for (int c = block.begin; c < block.end; ++c, x += Shape::stage_bytes / 16) {
    const int turn = (c - block.begin) / Shape::stages, s = (c - block.begin) % Shape::stages;
    if (turn > 0) wait_for_phase(Shape::empty(s), (turn - 1) % 2);
    arrive_expecting(Shape::full(s), Shape::stage_bytes);
    copy_bulk(static_cast<std::uint32_t>(Shape::ring + s * Shape::stage_bytes), x, Shape::stage_bytes,
              Shape::full(s));
    prefetch(c + Shape::stages, min(1, block.end - c - Shape::stages));
  }
}

/// What a warp holds while it multiplies, and the stages of its work.
template <class Format, class T, int RowTiles>
struct WgmmaWarp {
  using Shape = WgmmaShape<RowTiles>;
  using Activations = typename Format::Activations;
  /// A warp tile has four A operands for each tile of rows. A part of a step is those that are multiplied together.
  static constexpr int part_operands = 4 / RowTiles;
  static constexpr int parts = 4 / part_operands;
  using Operands = std::uint32_t[part_operands][RowTiles][4];

  const WgmmaTask& task;
  const WgmmaBlock& block;
  int row_tile;  // the first tile of rows in the warp tile
  LaneOf<Format> table_offset;
  const uint4* next_load;
  uint4 loads[Format::loads];
  TailOf<Format> tail;
  std::conditional_t<HasTail<Format>, ReadyOf<Format>, NoTail> prepared_loads;
  Operands a = {}, next_a = {};
  const std::uint32_t* scales;  // those of the first group
  std::uint32_t scale[RowTiles] = {}, next_scale[RowTiles] = {}, seen[RowTiles] = {};
  int change = 0;  // the first warp tile of the next group
  float sums[RowTiles][Shape::columns / 2];

  __device__ WgmmaWarp(const WgmmaTask& t, const WgmmaBlock& b) : task(t), block(b) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    row_tile = warp % 4 * RowTiles % 4;
    const int warp_row = block.row_block * Shape::tile_rows + warp * RowTiles / 4;
    const std::int64_t row = min(warp_row, task.rows - 1);  // rows beyond W repeat the last one
    table_offset = Format::table_offset(lane);
    next_load = task.w.codes + (row * task.cols + block.begin) * tile_units<Format> + lane;
    scales = reinterpret_cast<const std::uint32_t*>(task.w.scales + row * task.w.layout.groups * warp_tile) +
             lane / 4 * 4 + row_tile;
    load();
  }

  __device__ void load() {
    HIGGS_UNROLL for (int i = 0; i < Format::loads; ++i)
      loads[i] = load_128(next_load + 32 * i);
    tail = load_tail<Format>(next_load, table_offset, [](const uint2* from) { return *from; });
    next_load += tile_units<Format>;
  }
  __device__ void prepare() {
    if constexpr (HasTail<Format>) prepared_loads = Format::prepare(loads, tail, table_offset);
  }
  __device__ const ReadyOf<Format>& ready() const {
    if constexpr (HasTail<Format>)
      return prepared_loads;
    else
      return loads;
  }
  __device__ void load_scales(std::uint32_t (&to)[RowTiles], int c) const {
    HIGGS_UNROLL for (int j = 0; j < RowTiles; ++j)
      to[j] = scales[c / task.group_cols * (warp_tile / 2) + j];
  }
  /// Finds the group of warp tile c, and loads the scales of the one behind it.
  __device__ void find_change(int c) {
    change = (c / task.group_cols + 1) * task.group_cols;
    if (change < block.end) load_scales(next_scale, change);
  }

  template <int Part, int Row>
  __device__ void decode_rows(Operands& to) {
    [&]<int... S>(std::integer_sequence<int, S...>) {
      (decode_step<Part * part_operands / Activations::k_tiles + S, Row>(to, S * Activations::k_tiles), ...);
    }(std::make_integer_sequence<int, part_operands / Activations::k_tiles>{});
  }
  template <int Step, int Row>
  __device__ void decode_step(Operands& to, int operand) {
    [&]<int... J>(std::integer_sequence<int, J...>) {
      const auto row = [&]<int Tile>(std::integral_constant<int, Tile>) {
        std::uint32_t made[Activations::k_tiles][4];
        Format::template decode<T, Row + Tile, Step>(made, ready(), table_offset);
        HIGGS_UNROLL for (int k = 0; k < Activations::k_tiles; ++k) HIGGS_UNROLL
          for (int i = 0; i < 4; ++i) to[operand + k][Tile][i] = made[k][i];
      };
      (row(std::integral_constant<int, J>{}), ...);
    }(std::make_integer_sequence<int, RowTiles>{});
  }
  /// Decodes a part of the warp tile that prepare() was called for.
  template <int Part>
  __device__ void decode(Operands& to) {
    if constexpr (RowTiles == 2) {
      if (row_tile == 0)
        decode_rows<Part, 0>(to);
      else
        decode_rows<Part, 2>(to);
    } else {
      switch (row_tile) {
        case 0:
          return decode_rows<Part, 0>(to);
        case 1:
          return decode_rows<Part, 1>(to);
        case 2:
          return decode_rows<Part, 2>(to);
        default:
          return decode_rows<Part, 3>(to);
      }
    }
  }

  /// Multiplies sums of the tile of rows j by what factor(j) gives for its rows g and g + 8.
  template <class Factor>
  __device__ void scale_rows(const Factor& factor) {
    HIGGS_UNROLL for (int j = 0; j < RowTiles; ++j) {
      const float2 by = factor(j);
      HIGGS_UNROLL for (int i = 0; i < Shape::columns / 2; ++i)
        sums[j][i] *= i % 4 < 2 ? by.x : by.y;
    }
  }
  /// The group of warp tile c begins: sums become multiples of its scales.
  __device__ void change_group(int c) {
    scale_rows([&](int j) {
      const float2 from = to_floats<Half>(scale[j]), to = to_floats<Half>(next_scale[j]);
      return float2{divide_normal(divisible(from.x), divisible(to.x)),
                    divide_normal(divisible(from.y), divisible(to.y))};
    });
    HIGGS_UNROLL for (int j = 0; j < RowTiles; ++j) {
      seen[j] |= scale[j];
      scale[j] = next_scale[j];
    }
    find_change(c);
  }
  /// Sums are multiplied by the scales of the last group; those of rows whose scales were all zero become zeros.
  __device__ void finish_scales() {
    scale_rows([&](int j) {
      const std::uint32_t any = seen[j] | scale[j];
      const float2 last = to_floats<Half>(scale[j]);
      return float2{(any & 0x7fffu) != 0 ? divisible(last.x) : 0.0f,
                    (any & 0x7fff0000u) != 0 ? divisible(last.y) : 0.0f};
    });
  }

  template <int Part>
  __device__ void multiply_part(int c, std::uint32_t matrix);
  __device__ void multiply();
  __device__ void store_sums() const;
};

/// Multiplies part `Part` of warp tile c by activations at `matrix`, and meanwhile decodes the part behind it.
template <class Format, class T, int RowTiles>
template <int Part>
__device__ __forceinline__ void WgmmaWarp<Format, T, RowTiles>::multiply_part(int c, std::uint32_t matrix) {
  fence_products(sums, a);
  HIGGS_UNROLL for (int k = 0; k < part_operands; ++k) HIGGS_UNROLL
    for (int j = 0; j < RowTiles; ++j)
      wgmma_m64k16<T, Shape::columns>(
          sums[j], a[k][j],
          swizzled_matrix(matrix + static_cast<std::uint32_t>(32 * (Part * part_operands + k))));
  commit_products();
  if constexpr (Part + 1 < parts) {
    decode<Part + 1>(next_a);
    if (Part + 2 == parts && c + 1 < block.end) load();
  } else if (c + 1 < block.end) {
    prepare();
    decode<0>(next_a);
    if (parts == 1 && c + 2 < block.end) load();
  }
  wait_products<0>(sums, a);
  HIGGS_UNROLL for (int k = 0; k < part_operands; ++k) HIGGS_UNROLL
    for (int j = 0; j < RowTiles; ++j) HIGGS_UNROLL
      for (int i = 0; i < 4; ++i) a[k][j][i] = next_a[k][j][i];
}

/// All warp tiles of the block's range. The lookup table is filled.
template <class Format, class T, int RowTiles>
__device__ __forceinline__ void WgmmaWarp<Format, T, RowTiles>::multiply() {
  HIGGS_UNROLL for (int j = 0; j < RowTiles; ++j) HIGGS_UNROLL
    for (int i = 0; i < Shape::columns / 2; ++i) sums[j][i] = 0;
  load_scales(scale, block.begin);
  find_change(block.begin);
  prepare();
  decode<0>(a);
  if (parts == 1 && block.begin + 1 < block.end) load();
  int s = 0, parity = 0;
  for (int c = block.begin; c < block.end; ++c) {
    wait_for_phase(Shape::full(s), parity);
    if (c == change) change_group(c);
    [&]<int... Part>(std::integer_sequence<int, Part...>) {
      (multiply_part<Part>(c, static_cast<std::uint32_t>(Shape::ring + s * Shape::stage_bytes)), ...);
    }(std::make_integer_sequence<int, parts>{});
    if (threadIdx.x % 32 == 0) arrive_at(Shape::empty(s));
    if (++s == Shape::stages) s = 0, parity ^= 1;
  }
  finish_scales();
}

// Store.

/// The sums of a warpgroup in shared memory: (columns, sum_stride).
template <int RowTiles>
__device__ inline std::uint32_t sums_of_group(int group) {
  using Shape = WgmmaShape<RowTiles>;
  return static_cast<std::uint32_t>(Shape::ring + group * (Shape::columns * Shape::sum_stride * 4));
}

template <class Format, class T, int RowTiles>
__device__ __forceinline__ void WgmmaWarp<Format, T, RowTiles>::store_sums() const {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int n = warp % 4 * RowTiles / 4 * warp_tile + row_tile * 16 + lane / 4, m = lane % 4 * 2;
  const std::uint32_t to =
      sums_of_group<RowTiles>(warp / 4) + static_cast<std::uint32_t>(4 * (m * Shape::sum_stride + n));
  HIGGS_UNROLL for (int j = 0; j < RowTiles; ++j) HIGGS_UNROLL
    for (int i = 0; i < Shape::columns / 2; ++i) {
      const int at = (i / 4 * 8 + i % 2) * Shape::sum_stride + 16 * j + i % 4 / 2 * 8;
      store_shared_32<0>(to + static_cast<std::uint32_t>(4 * at), __float_as_uint(sums[j][i]));
    }
}

/// What a thread of a warpgroup stores: four neighbouring columns of y, in every `step`-th row of the batch tile from
/// `first` on, `end` rows in all.
template <int RowTiles>
struct WgmmaOutputs {
  using Shape = WgmmaShape<RowTiles>;
  static constexpr int quads = Shape::group_rows / 4, step = 128 / quads, at_once = 4;
  int group, quad, first, end;
  OutputColumns columns;

  __device__ WgmmaOutputs(const WgmmaTask& task, const WgmmaBlock& block) {
    const int thread = static_cast<int>(threadIdx.x) % 128;
    group = static_cast<int>(threadIdx.x) / 128;
    quad = thread % quads;
    first = thread / quads;
    end = static_cast<int>(
        min(task.batch - std::int64_t{block.batch_tile} * Shape::columns, std::int64_t{Shape::columns}));
    columns = {(std::int64_t{block.row_block} * wgmma_groups + group) * Shape::group_rows + quad * 4,
               4,
               {nothing, nothing, nothing, nothing}};
    columns.count = static_cast<int>(min(task.w.layout.rows - columns.n, std::int64_t{4}));
    if (columns.count <= 0) end = 0;
    if (task.y.bias == nullptr) return;
    const float* bias = task.y.bias + columns.n;
    const auto one = [&](int i) { return i < columns.count ? bias[i] : nothing; };
    columns.bias = {one(0), one(1), one(2), one(3)};
  }
  /// The sums of row m that store_sums() left.
  __device__ float4 sums(int m) const {
    const uint4 v = load_shared_128(sums_of_group<RowTiles>(group) +
                                    static_cast<std::uint32_t>(4 * (m * Shape::sum_stride + 4 * quad)));
    return {__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w)};
  }
  /// Stores rows m, m + step, ...: v * output_scale and what is added to it.
  __device__ void store(const WgmmaTask& task, const WgmmaBlock& block, int m, float4 (&v)[at_once]) const {
    const std::int64_t tile = task.first_x + std::int64_t{block.batch_tile} * Shape::columns;
    store_typed_outputs(task, columns, tile + m, step, tile + min(end, m + at_once * step), task.output_scale,
                        v);
  }
};

/// Counts the block's arrival; whether it is the last one of those that have its rows. All that multiply call it.
template <int RowTiles>
__device__ inline bool is_last_split(const WgmmaTask& task, int unit) {
  using Shape = WgmmaShape<RowTiles>;
  const auto others = static_cast<std::uint32_t>(task.splits - 1);
  __threadfence();
  sync_multipliers();
  if (threadIdx.x == 0) {
    const std::uint32_t before = atomicInc(task.arrivals + unit, others);
    __threadfence();
    if (before > others) __trap();  // the workspace did not begin as zeros
    store_shared_32<0>(Shape::last, before == others);
  }
  sync_multipliers();
  return load_shared_32<0>(Shape::last) != 0;
}

/// The outputs of a block whose sums are in shared memory. Where the inputs are split, the block leaves its sums in the
/// workspace, and the last one to arrive adds all in the order of the inputs. All that multiply call it.
template <int RowTiles>
__device__ inline void store_block(const WgmmaTask& task, const WgmmaBlock& block) {
  using Outputs = WgmmaOutputs<RowTiles>;
  using Shape = WgmmaShape<RowTiles>;
  constexpr int rows = Outputs::at_once * Outputs::step, group_sums = Shape::columns * Shape::group_rows;
  const Outputs out(task, block);
  if (task.splits == 1) {
    _Pragma("unroll 1") for (int m = out.first; m < out.end; m += rows) {
      float4 v[Outputs::at_once] = {};
      HIGGS_UNROLL for (int j = 0; j < Outputs::at_once; ++j)
        if (m + j * Outputs::step < out.end) v[j] = out.sums(m + j * Outputs::step);
      out.store(task, block, m, v);
    }
    return;
  }
  const int unit = block.row_block * task.batch_tiles + block.batch_tile;
  float* const sums = task.partial_sums +
                      (std::int64_t{unit} * task.splits * wgmma_groups + out.group) * group_sums +
                      4 * out.quad;
  float* const mine = sums + std::int64_t{block.split} * wgmma_groups * group_sums;
  for (int m = out.first; m < out.end; m += Outputs::step)
    *reinterpret_cast<float4*>(mine + m * Shape::group_rows) = out.sums(m);
  if (!is_last_split<RowTiles>(task, unit)) return;
  _Pragma("unroll 1") for (int m = out.first; m < out.end; m += rows) {
    float4 v[Outputs::at_once];
    add_partial_sums(sums, task.splits, wgmma_groups * group_sums, Shape::group_rows, m, Outputs::step,
                     out.end, v);
    out.store(task, block, m, v);
  }
}

/// Threads that a launch may have, which tells the host whether the kernel has its code: compiled for another
/// architecture than sm_90a, it has none.
#if HIGGS_HAS_HOPPER
inline constexpr int wgmma_bound = wgmma_threads;
#else
inline constexpr int wgmma_bound = 32;
#endif

/// y for the rows of W and of x that a block has.
template <class Format, class T, int RowTiles>
__global__ void __launch_bounds__(wgmma_bound, 1) wgmma_kernel(__grid_constant__ const WgmmaTask task) {
#if HIGGS_HAS_HOPPER
  using Shape = WgmmaShape<RowTiles>;
  const WgmmaBlock block(task);
  if (threadIdx.x == 0) {
    HIGGS_UNROLL for (int s = 0; s < Shape::stages; ++s) {
      begin_barrier(Shape::full(s), 1);
      begin_barrier(Shape::empty(s), 4 * wgmma_groups);
    }
    fence_barriers();
  }
  Format::template fill_table<T>(task.w.table);
  __syncthreads();
  if (threadIdx.x >= wgmma_multipliers) {
    give_registers_back<24>();
    if (threadIdx.x == wgmma_multipliers) copy_activations<Format, RowTiles>(task, block);
  } else {
    take_registers<240>();
    WgmmaWarp<Format, T, RowTiles> warp(task, block);
    warp.multiply();
    sync_multipliers();  // all have read the ring
    warp.store_sums();
    sync_multipliers();
    store_block<RowTiles>(task, block);
  }
#endif
}

}  // namespace detail
}  // namespace gpu
}  // namespace v0
}  // namespace higgs
