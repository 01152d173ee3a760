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
// Blocks own equal runs of slabs, so several may work on the same rows. Each leaves its fp32 sums in the
// workspace and counts; who comes last adds them up in the order of the inputs. No block ever waits for
// another.
#pragma once

#include <higgs/core/half.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/matmul/device_matrix.cuh>
#include <higgs/matmul/fragments.cuh>
#include <higgs/pack/tiles.cuh>

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

namespace detail {

/// Everything a kernel needs; x is rotated, in padded groups: (M, depth), rows `x_stride` numbers apart.
struct MatmulTask {
  TiledMatrix w;
  const void* x = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t batch = 0;  // M
  MatmulOutput y;
  std::uint32_t* arrivals = nullptr;  // (batch tiles, row blocks), zeros
  float* sums = nullptr;              // (batch tiles, grid, 2, rows of a batch tile, rows of a row block)
  int row_warps = 4;
  float unit = 1;  // 2^exponent
};

inline constexpr int stream_warps = 4, stream_threads = 32 * stream_warps;
inline constexpr int stream_shared = table_end + 16;

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

/// One slab: 16 tiles against 64 inputs of the activations at shared address `x`.
template <int Bits, class T, int ColumnTiles, int S = 0>
__device__ inline void multiply_slab(StreamSums<ColumnTiles>& sums, const uint4 (&loads)[Bits],
                                     std::uint32_t x, std::uint32_t place) {
  if constexpr (S < 4) {
    uint2 b[ColumnTiles];
    const auto load_columns = [&]<int... C>(std::integer_sequence<int, C...>) {
      ((b[C] = load_shared_64<(S * ColumnTiles + C) * 512>(x)), ...);
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
    multiply_slab<Bits, T, ColumnTiles, S + 1>(sums, loads, x, place);
  }
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

template <int Bits, class T, int ColumnTiles>
__global__ void __launch_bounds__(stream_threads, 2) stream_kernel(__grid_constant__ const MatmulTask task) {
  constexpr int chunk = stream_chunk<ColumnTiles>, columns = 8 * ColumnTiles;
  // Slabs whose loads are under way, and whether scales are: what registers hold beside the sums.
  constexpr int ring = ColumnTiles == 8 ? 1 : (ColumnTiles == 1 ? 4 : 2) / (Bits == 8 ? 2 : 1);
  constexpr bool ahead = ColumnTiles < 8;
  constexpr std::uint32_t slab_bytes = 2048 * ColumnTiles;  // of activations, with the gaps
  const TileOrder& order = task.w.order;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int row_warps = task.row_warps, k_warps = stream_warps / row_warps;
  const int row_warp = warp % row_warps, k_warp = warp / row_warps, block_rows = row_warps * slab;
  const auto slabs = static_cast<int>(order.slabs()),
             group_slabs = static_cast<int>(order.padded_group()) / slab;
  const auto row_slabs = static_cast<int>(order.row_slabs()),
             row_blocks = (row_slabs + row_warps - 1) / row_warps;
  const auto me = static_cast<int>(blockIdx.x);
  const StreamSplit split{row_blocks * slabs, static_cast<int>(gridDim.x)};
  const int begin = split.begin(me), end = split.begin(me + 1);
  const std::int64_t first_batch = std::int64_t{blockIdx.y} * columns;
  const int batch = static_cast<int>(min(task.batch - first_batch, std::int64_t{columns}));
  // Columns of the last tile that do not exist repeat others or read zeros; for one tile, only a power of two
  // is kept.
  const int kept = ColumnTiles > 1 ? columns : batch == 1 ? 1 : batch == 2 ? 2 : batch <= 4 ? 4 : 8;

  extern __shared__ std::byte stream_space[];
  if (shared_address(stream_space) > table_begin)
    __trap();  // CUDA keeps more for itself than any architecture did so far
  [[maybe_unused]] const std::uint64_t policy = evict_first_policy();
  const auto load_weights = [&](const uint4* from) {
    if constexpr (ahead)
      return load_streaming_128(from, policy);
    else
      return load_streaming_128(from);
  };
  const std::uint32_t place = table_place<Bits>();
  const int column = lane / 4 & (ColumnTiles > 1 ? 7 : kept - 1);
  const std::uint32_t x_place =
      static_cast<std::uint32_t>(table_begin + 128 + column / 4 * 256 + column % 4 * 32 + lane % 4 * 8);

  bool table_ready = false;
  for (int item = begin; item < end;) {
    const int block = item / slabs, s0 = item % slabs, s1 = min(slabs, s0 + (end - item));
    item += s1 - s0;
    const int row_slab = block * row_warps + row_warp;
    const int steps = row_slab < row_slabs ? (s1 - s0 - k_warp + k_warps - 1) / k_warps : 0;  // of this warp

    // A thread copies pieces of 16 bytes: half of the 16 inputs that one row of x has in a step. Eight pieces
    // fill a line.
    const auto copy_chunk = [&](int c) {
      const int thread = opaque(static_cast<int>(threadIdx.x)),
                m = thread / 16 % ColumnTiles * 8 + thread / 2 % 8;
      const int step = thread / 16 / ColumnTiles, steps_left = (s1 - s0 - c * chunk) * 4;
      constexpr int round = stream_threads / 16 / ColumnTiles;  // steps that all threads copy at a time
      const int to = table_begin + 128 + c % 2 * 32768 + thread / 8 * 256 + thread % 8 * 16;
      const T* from = static_cast<const T*>(task.x) + (first_batch + min(m, batch - 1)) * task.x_stride;
      from += ((s0 + c * chunk) * 4 + step) * 16 + thread % 2 * 8;
      const auto copy = [&]<int... I>(std::integer_sequence<int, I...>) {
        const auto at = static_cast<std::uint32_t>(to);
        ((step + I * round < steps_left
              ? copy_async_128<I * 32 * stream_threads, I * 32 * round>(at, from, m < batch)
              : void()),
         ...);
      };
      if (m < kept) copy(std::make_integer_sequence<int, 1024 / stream_threads>{});
      commit_copies();
    };

    uint4 loads[ring][Bits];
    const uint4* fetch = task.w.tiles + (std::int64_t{row_slab} * slabs + s0 + k_warp) * (Bits * 32) + lane;
    const int stride = k_warps * Bits * 32;
    HIGGS_UNROLL
    for (int r = 0; r < ring; ++r)
      if (r < steps) HIGGS_UNROLL
    for (int i = 0; i < Bits; ++i) loads[r][i] = load_weights(fetch + r * stride + 32 * i);
    fetch += ring * stride;

    copy_chunk(0);
    if (!table_ready) fill_byte_table<Bits, T>(task.w.table);
    table_ready = true;

    // A change of group is seen one group ahead, so that its scales have arrived (unless registers are few).
    // A lane needs eight: of rows g, g + 8, g + 16, ...
    uint4 scale = {}, coming = {};
    std::uint32_t seen = 0;  // nonzero_halves() of all groups before
    int change = 0;          // the step of this warp with the first slab of another group
    const auto scales_at = [&](int slab_of_row) {
      return load_128(task.w.scales + (row_slab * order.groups + slab_of_row / group_slabs) * slab +
                      lane / 4 * 8);
    };
    const auto look_ahead = [&](int from) {
      const int next = ((s0 + k_warp + from * k_warps) / group_slabs + 1) * group_slabs;
      change = (next - s0 - k_warp + k_warps - 1) / k_warps;
      if (ahead && change < steps) coming = scales_at(s0 + k_warp + change * k_warps);
    };
    if (steps > 0) {
      scale = scales_at(s0 + k_warp);
      look_ahead(0);
    }

    StreamSums<ColumnTiles> sums = {};
    const auto change_group = [&](int step) {
      if (!ahead) coming = scales_at(s0 + k_warp + step * k_warps);
      scale_sums<ColumnTiles>(sums, [&](int i) {
        const float2 from = to_floats<Half>(word_of(scale, i)), to = to_floats<Half>(word_of(coming, i));
        return float2{divide_normal(divisible(from.x), divisible(to.x)),
                      divide_normal(divisible(from.y), divisible(to.y))};
      });
      seen |= nonzero_halves(scale);
      scale = coming;
      look_ahead(step);
    };
    for (int c = 0; c * chunk < s1 - s0; ++c) {
      wait_copies<0>();
      __syncthreads();
      if ((c + 1) * chunk < s1 - s0) copy_chunk(c + 1);
      std::uint32_t at = x_place + static_cast<std::uint32_t>(c % 2 * chunk + k_warp) * slab_bytes;
      const int stop = min(steps, (c + 1) * chunk / k_warps);
      for (int first = c * chunk / k_warps; first < stop; first += ring) {  // a chunk has whole rounds
        HIGGS_UNROLL
        for (int r = 0; r < ring; ++r) {
          if (first + r >= stop) break;
          if (first + r == change) change_group(first + r);
          multiply_slab<Bits, T, ColumnTiles>(sums, loads[r], at, place);
          if (first + r + ring < steps) HIGGS_UNROLL
          for (int i = 0; i < Bits; ++i) loads[r][i] = load_weights(fetch + 32 * i);
          fetch += stride;
          at += static_cast<std::uint32_t>(k_warps) * slab_bytes;
        }
      }
    }
    seen |= nonzero_halves(scale);
    scale_sums<ColumnTiles>(sums, [&](int i) {
      const float2 last = to_floats<Half>(word_of(scale, i));
      return float2{seen << i & 0x8000u ? divisible(last.x) : 0.0f,
                    seen << i & 0x80000000u ? divisible(last.y) : 0.0f};
    });

    // The warps of the same rows add up in the order of k_warp; sums pass through the lines' second halves.
    const int fit = max(1, 16 / (row_warps * ColumnTiles));  // warps that leave their sums at a time
    constexpr int parts = ColumnTiles <= 4 ? 1 : 2;          // in which they do
    for (int from = 1; from < k_warps; from += fit) {
      HIGGS_UNROLL
      for (int part = 0; part < parts; ++part) {
        const auto slot = [&](int k, int i, int c) {
          const int line =
              ((((k - from) * row_warps + row_warp) * (4 / parts) + i) * ColumnTiles + c) * 4 + lane / 8;
          return static_cast<std::uint32_t>(table_begin + 128 + line * 256 + lane % 8 * 16);
        };
        __syncthreads();
        if (k_warp >= from && k_warp < from + fit) HIGGS_UNROLL
        for (int i = 0; i < 4 / parts; ++i) HIGGS_UNROLL
        for (int c = 0; c < ColumnTiles; ++c) {
          const float* v = sums[part * (4 / parts) + i][c];
          store_shared_128(slot(k_warp, i, c), uint4{__float_as_uint(v[0]), __float_as_uint(v[1]),
                                                     __float_as_uint(v[2]), __float_as_uint(v[3])});
        }
        __syncthreads();
        if (k_warp == 0)
          for (int k = from; k < min(k_warps, from + fit); ++k) HIGGS_UNROLL
        for (int i = 0; i < 4 / parts; ++i) HIGGS_UNROLL
        for (int c = 0; c < ColumnTiles; ++c) {
          const uint4 v = load_shared_128(slot(k, i, c));
          float(&to)[4] = sums[part * (4 / parts) + i][c];
          to[0] += __uint_as_float(v.x);
          to[1] += __uint_as_float(v.y);
          to[2] += __uint_as_float(v.z);
          to[3] += __uint_as_float(v.w);
        }
      }
    }

    // Each block leaves its sums (batch, block_rows) in the workspace. The last of those that share these
    // rows adds them in the order of the inputs.
    const std::int64_t sum_size = columns * block_rows;
    float* const block_sums = task.sums + std::int64_t{blockIdx.y} * gridDim.x * 2 * sum_size;
    if (k_warp == 0 && row_slab < row_slabs) {
      float* to = block_sums + (2 * me + (begin < block * slabs)) * sum_size;
      to += lane % 4 * 2 * block_rows + row_warp * slab + lane / 4;
      HIGGS_UNROLL
      for (int c = 0; c < ColumnTiles; ++c) HIGGS_UNROLL
      for (int odd = 0; odd < 2; ++odd) {
        if (8 * c + lane % 4 * 2 + odd < batch) HIGGS_UNROLL
        for (int i = 0; i < 8; ++i) to[8 * i] = sums[i / 2][c][i % 2 * 2 + odd];
        to += odd == 0 ? block_rows : 7 * block_rows;
      }
    }
    const int first_owner = split.owner(block * slabs), last_owner = split.owner((block + 1) * slabs - 1);
    if (first_owner != last_owner) {
      constexpr std::uint32_t flag = table_end;
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) {
        const std::uint32_t before = atomicAdd(task.arrivals + blockIdx.y * row_blocks + block, 1u);
        __threadfence();
        store_shared_128(flag,
                         uint4{before == static_cast<std::uint32_t>(last_owner - first_owner), 0, 0, 0});
      }
      __syncthreads();
      if (load_shared_32<0>(flag) == 0) continue;
    } else {
      __syncthreads();
    }
    const float* first_sums =
        block_sums + (2 * first_owner + (split.begin(first_owner) < block * slabs)) * sum_size;
    const float* other_sums = block_sums + 2 * (first_owner + 1) * sum_size;
    const int quads = block_rows / 4;
    for (int q = static_cast<int>(threadIdx.x); q < batch * quads; q += stream_threads) {
      const std::int64_t m = first_batch + q / quads, row = std::int64_t{block} * block_rows + q % quads * 4;
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
      for (int i = 0; i < 4; ++i) v[i] *= task.unit;
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
