// SPDX-License-Identifier: Apache-2.0
// y = x * W^T for few rows of x: weights stream from memory through registers into the tensor cores, once.
//
// A block of 256 threads owns a run of slabs of W. Its 8 warps are row_warps * k_warps: a warp takes 64 rows and every
// k_warps-th slab of them, with its loads of the next slabs under way. A byte of the tiles becomes a pair of 16-bit
// coordinates in two instructions: a byte permutation makes the address 256 * byte + 4 * lane, a load reads there. The
// table lies in shared memory once for each lane, in the first 128 bytes of 256 lines, so that lanes never share a
// bank; activations lie in the second 128 bytes. Sums of integer coordinates times activations are the tensor core's;
// the group scale meets the sums, not the weights: at the end of a group they are multiplied by old / new scale.
//
// Blocks own equal runs of slabs, so several may work on the same rows. Each leaves its fp32 sums in the workspace and
// counts; who comes last adds them up in the order of the inputs. No block ever waits for another.
#pragma once

#include <higgs/core/half.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/matmul/device_matrix.cuh>
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

inline constexpr int stream_warps = 8, stream_threads = 32 * stream_warps;
inline constexpr int table_begin = 1024;  // as an absolute address: nothing of ours lies below it on any architecture
inline constexpr int stream_shared = table_begin + 256 * 256 + 16;

/// Slabs of activations in one of the two buffers: together they fill the second halves of the lines.
template <int ColumnTiles>
inline constexpr int stream_chunk = 16 / ColumnTiles;

/// Which slabs a block works on: begin(block) <= row_block * slabs + slab < begin(block + 1).
struct StreamSplit {
  int total, grid;
  __device__ int begin(int block) const { return static_cast<int>(std::int64_t{total} * block / grid); }
  __device__ int owner(int item) const { return static_cast<int>((std::int64_t{item + 1} * grid - 1) / total); }
};

/// Fills the lines of the table: entry by entry, a copy for each lane (16 for entries of 8 bytes).
template <int Bits, class T>
__device__ inline void fill_table(const std::int16_t* table) {
  constexpr int width = weights_per_byte(Bits);
  const int lane = static_cast<int>(threadIdx.x) % 32, first = static_cast<int>(threadIdx.x) / 32 * 32;
  const std::int16_t* from = table + (first + lane) * width;
  std::uint32_t low, high = 0;
  if constexpr (width == 1) {
    low = round_pair<T>(from[0], from[0]);
  } else if constexpr (width == 2) {
    low = round_pair<T>(from[0], from[1]);
  } else {
    low = round_pair<T>(from[0], from[1]);
    high = round_pair<T>(from[2], from[3]);
  }
  // Eight lanes write a line, four lines at a time.
  const std::uint32_t to = static_cast<std::uint32_t>(table_begin + (first + lane / 8) * 256 + lane % 8 * 16);
  HIGGS_UNROLL
  for (int line = 0; line < 32; line += 4) {
    const std::uint32_t a = __shfl_sync(0xffffffffu, low, line + lane / 8);
    std::uint32_t b = a;
    if constexpr (width == 4) b = __shfl_sync(0xffffffffu, high, line + lane / 8);
    store_shared_128(to + static_cast<std::uint32_t>(line) * 256, uint4{a, b, a, b});
  }
}

/// The line of byte J of `word`, as an address that still lacks table_begin.
template <int J>
__device__ inline std::uint32_t line_of(std::uint32_t word, std::uint32_t lane_place) {
  return select_bytes<0x5504u | J << 4>(word, lane_place);
}

/// The A fragment of a tile from its bytes: `low` holds bytes 0 to 3, `high` bytes 4 to 7 of 8-bit tiles. Part is the
/// half of `low` that a 2-bit tile uses.
template <int Bits, int Part>
__device__ inline void decode_tile(std::uint32_t (&a)[4], std::uint32_t low, std::uint32_t high, std::uint32_t place) {
  if constexpr (Bits == 2) {
    const uint2 top = load_shared_64<table_begin>(line_of<2 * Part>(low, place));
    const uint2 bottom = load_shared_64<table_begin>(line_of<2 * Part + 1>(low, place));
    a[0] = top.x;
    a[1] = bottom.x;
    a[2] = top.y;
    a[3] = bottom.y;
  } else if constexpr (Bits == 8) {
    const auto pair = [&](std::uint32_t first, std::uint32_t second) {
      return select_bytes<0x5410>(load_shared_32<table_begin>(first), load_shared_32<table_begin>(second));
    };
    a[0] = pair(line_of<0>(low, place), line_of<1>(low, place));
    a[1] = pair(line_of<0>(high, place), line_of<1>(high, place));
    a[2] = pair(line_of<2>(low, place), line_of<3>(low, place));
    a[3] = pair(line_of<2>(high, place), line_of<3>(high, place));
  } else {
    a[0] = load_shared_32<table_begin>(line_of<0>(low, place));
    a[1] = load_shared_32<table_begin>(line_of<1>(low, place));
    a[2] = load_shared_32<table_begin>(line_of<2>(low, place));
    a[3] = load_shared_32<table_begin>(line_of<3>(low, place));
  }
}

__device__ inline std::uint32_t word_of(uint4 v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

/// The A fragment of tile (I, S) of the slab whose loads are `slab_words`.
template <int Bits, int I, int S>
__device__ inline void decode_tile_of(std::uint32_t (&a)[4], const uint4 (&loads)[Bits], std::uint32_t place) {
  if constexpr (Bits == 2) {
    decode_tile<2, S % 2>(a, word_of(loads[S / 2], I), 0, place);
  } else if constexpr (Bits == 4) {
    decode_tile<4, 0>(a, word_of(loads[S], I), 0, place);
  } else if constexpr (Bits == 8) {
    const uint4 load = loads[2 * S + I / 2];
    decode_tile<8, 0>(a, word_of(load, I % 2 * 2), word_of(load, I % 2 * 2 + 1), place);
  } else if constexpr (I < 3) {
    decode_tile<3, 0>(a, word_of(loads[I], S), 0, place);
  } else {
    // The table repeats every 64 lines, so the bits above the six of a code may be anything.
    const std::uint32_t two = word_of(loads[0], S) >> 6;
    const std::uint32_t four = select_bits<0x0c0c0c0cu>(word_of(loads[1], S) >> 4, two);
    decode_tile<3, 0>(a, select_bits<0xf0f0f0f0u>(word_of(loads[2], S) >> 2, four), 0, place);
  }
}

/// A scale that may be divided by: zero becomes so small that what it multiplies is lost beside any other scale.
__device__ inline float divisible(float scale) { return scale == 0.0f ? 0x1p-50f : scale; }

/// y(m, n) = value, with bias and residual.
__device__ inline void store_output(const MatmulOutput& y, std::int64_t m, std::int64_t n, float value) {
  const std::int64_t at = m * y.row_stride + n;
  if (y.bias != nullptr) value += y.bias[n];
  if (y.type == OutputType::Float) {
    if (y.residual != nullptr) value += static_cast<const float*>(y.residual)[at];
    static_cast<float*>(y.data)[at] = value;
  } else if (y.type == OutputType::Half) {
    if (y.residual != nullptr) value += to_float(static_cast<const Half*>(y.residual)[at]);
    static_cast<Half*>(y.data)[at] = from_float<Half>(value);
  } else {
    if (y.residual != nullptr) value += to_float(static_cast<const BFloat16*>(y.residual)[at]);
    static_cast<BFloat16*>(y.data)[at] = from_float<BFloat16>(value);
  }
}

/// The sums of a warp: 4 row tiles by ColumnTiles tiles of 8 rows of x.
template <int ColumnTiles>
using StreamSums = float[4][ColumnTiles][4];

/// One slab: 16 tiles against 64 inputs of the activations at shared address `x`.
template <int Bits, class T, int ColumnTiles, int S = 0>
__device__ inline void multiply_slab(StreamSums<ColumnTiles>& sums, const uint4 (&loads)[Bits], std::uint32_t x,
                                     std::uint32_t place) {
  if constexpr (S < 4) {
    uint2 b[ColumnTiles];
    const auto load_columns = [&]<int... C>(std::integer_sequence<int, C...>) {
      ((b[C] = load_shared_64<(S * ColumnTiles + C) * 512>(x)), ...);
    };
    load_columns(std::make_integer_sequence<int, ColumnTiles>{});
    const auto multiply_tiles = [&]<int... I>(std::integer_sequence<int, I...>) {
      const auto tile = [&]<int Row>(std::integral_constant<int, Row>) {
        std::uint32_t a[4];
        decode_tile_of<Bits, Row, S>(a, loads, place);
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
__global__ void __launch_bounds__(stream_threads, ColumnTiles <= 2 ? 2 : 1) stream_kernel(__grid_constant__ const MatmulTask task) {
  constexpr int chunk = stream_chunk<ColumnTiles>, columns = 8 * ColumnTiles;
  constexpr int ring = Bits == 8 || ColumnTiles > 2 ? 1 : 8 / Bits;  // slabs whose loads are under way
  constexpr std::uint32_t slab_bytes = 2048 * ColumnTiles;           // of activations, with the gaps
  const TileOrder& order = task.w.order;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int row_warps = task.row_warps, k_warps = stream_warps / row_warps;
  const int row_warp = warp % row_warps, k_warp = warp / row_warps, block_rows = row_warps * slab;
  const auto slabs = static_cast<int>(order.slabs()), group_slabs = static_cast<int>(order.padded_group()) / slab;
  const auto row_slabs = static_cast<int>(order.row_slabs()), row_blocks = (row_slabs + row_warps - 1) / row_warps;
  const auto me = static_cast<int>(blockIdx.x);
  const StreamSplit split{row_blocks * slabs, static_cast<int>(gridDim.x)};
  const int begin = split.begin(me), end = split.begin(me + 1);
  const std::int64_t first_batch = std::int64_t{blockIdx.y} * columns;
  const int batch = static_cast<int>(min(task.batch - first_batch, std::int64_t{columns}));
  // Columns of the last tile that do not exist repeat others or read zeros; for one tile, only a power of two is kept.
  const int kept = ColumnTiles > 1 ? columns : batch == 1 ? 1 : batch == 2 ? 2 : batch <= 4 ? 4 : 8;

  const std::uint64_t policy = evict_first_policy();
  const std::uint32_t place = static_cast<std::uint32_t>(Bits == 2 ? lane % 16 * 8 : lane * 4);
  const int column = lane / 4 & (ColumnTiles > 1 ? 7 : kept - 1);
  const std::uint32_t x_place = static_cast<std::uint32_t>(table_begin + 128 + column / 4 * 256 + column % 4 * 32 + lane % 4 * 8);
  const T* x = static_cast<const T*>(task.x) + first_batch * task.x_stride;

  bool table_ready = false;
  for (int item = begin; item < end;) {
    const int block = item / slabs, s0 = item % slabs, s1 = min(slabs, s0 + (end - item));
    item += s1 - s0;
    const int row_slab = block * row_warps + row_warp;
    const int steps = row_slab < row_slabs ? (s1 - s0 - k_warp + k_warps - 1) / k_warps : 0;  // of this warp
    const int all_steps = (s1 - s0 + k_warps - 1) / k_warps;

    const auto copy_chunk = [&](int c) {
      for (int i = opaque(static_cast<int>(threadIdx.x)); i < 8 * columns * chunk; i += stream_threads) {
        const int half = i % 2, row = i / 2 % 8, tile = i / 16 % ColumnTiles, step = i / 16 / ColumnTiles;
        const int m = tile * 8 + row, s = s0 + c * chunk + step / 4;
        if (m >= kept || s >= s1) continue;
        const int to = table_begin + 128 + c % 2 * 32768 + (step * ColumnTiles + tile) * 512 + row / 4 * 256 + row % 4 * 32 + half * 16;
        const T* from = x + min(m, batch - 1) * task.x_stride + (s * slab + step % 4 * 16 + half * 8);
        copy_async_128(static_cast<std::uint32_t>(to), from, m < batch);
      }
      commit_copies();
    };

    uint4 loads[ring][Bits];
    const uint4* fetch = task.w.tiles + (std::int64_t{row_slab} * slabs + s0 + k_warp) * (Bits * 32) + lane;
    const int stride = k_warps * Bits * 32;
    HIGGS_UNROLL
    for (int r = 0; r < ring; ++r)
      if (r < steps)
        HIGGS_UNROLL
        for (int i = 0; i < Bits; ++i) loads[r][i] = load_streaming_128(fetch + r * stride + 32 * i, policy);
    fetch += ring * stride;

    copy_chunk(0);
    if (!table_ready) fill_table<Bits, T>(task.w.table);
    table_ready = true;

    // A change of group is seen one group ahead, so that its scales have arrived. A lane needs eight: of rows g,
    // g + 8, g + 16, ...
    const Half* scales = task.w.scales + row_slab * (order.groups * slab) + lane / 4 * 8;
    uint4 scale = {}, coming = {}, seen = {};  // seen: zero where all scales were
    int change = all_steps;                    // the step of this warp with the first slab of another group
    const auto look_ahead = [&](int from) {
      const int next = ((s0 + k_warp + from * k_warps) / group_slabs + 1) * group_slabs;
      change = (next - s0 - k_warp + k_warps - 1) / k_warps;
      if (change < steps) coming = load_128(scales + (s0 + k_warp + change * k_warps) / group_slabs * slab);
    };
    if (steps > 0) {
      seen = scale = load_128(scales + (s0 + k_warp) / group_slabs * slab);
      look_ahead(0);
    }

    StreamSums<ColumnTiles> sums = {};
    for (int first = 0; first < all_steps; first += ring) {
      HIGGS_UNROLL
      for (int r = 0; r < ring; ++r) {
        const int step = first + r;
        if (step >= all_steps) break;
        const int offset = step * k_warps;  // of the warps' slabs together
        if (offset % chunk == 0) {
          wait_copies<0>();
          __syncthreads();
          copy_chunk(offset / chunk + 1);
        }
        if (step >= steps) continue;
        if (step == change) {
          scale_sums<ColumnTiles>(sums, [&](int i) {
            const float2 from = to_floats<Half>(word_of(scale, i)), to = to_floats<Half>(word_of(coming, i));
            return float2{divisible(from.x) / divisible(to.x), divisible(from.y) / divisible(to.y)};
          });
          scale = coming;
          seen = uint4{seen.x | scale.x, seen.y | scale.y, seen.z | scale.z, seen.w | scale.w};
          look_ahead(step);
        }
        const std::uint32_t at = x_place + static_cast<std::uint32_t>(offset / chunk % 2) * 32768 +
                                 static_cast<std::uint32_t>(offset % chunk + k_warp) * slab_bytes;
        multiply_slab<Bits, T, ColumnTiles>(sums, loads[r], at, place);
        if (step + ring < steps)
          HIGGS_UNROLL
          for (int i = 0; i < Bits; ++i) loads[r][i] = load_streaming_128(fetch + 32 * i, policy);
        fetch += stride;
      }
    }
    wait_copies<0>();
    scale_sums<ColumnTiles>(sums, [&](int i) {
      const float2 last = to_floats<Half>(word_of(scale, i)), any = to_floats<Half>(word_of(seen, i));
      return float2{any.x == 0.0f ? 0.0f : divisible(last.x), any.y == 0.0f ? 0.0f : divisible(last.y)};
    });

    // The warps of the same rows add up in the order of k_warp; sums pass through the lines' second halves.
    const int fit = max(1, 16 / (row_warps * ColumnTiles));  // warps that leave their sums at a time
    constexpr int parts = ColumnTiles <= 4 ? 1 : 2;          // in which they do
    for (int from = 1; from < k_warps; from += fit) {
      HIGGS_UNROLL
      for (int part = 0; part < parts; ++part) {
        const auto slot = [&](int k, int i, int c) {
          const int line = ((((k - from) * row_warps + row_warp) * (4 / parts) + i) * ColumnTiles + c) * 4 + lane / 8;
          return static_cast<std::uint32_t>(table_begin + 128 + line * 256 + lane % 8 * 16);
        };
        __syncthreads();
        if (k_warp >= from && k_warp < from + fit)
          HIGGS_UNROLL
          for (int i = 0; i < 4 / parts; ++i)
            HIGGS_UNROLL
            for (int c = 0; c < ColumnTiles; ++c) {
              const float* v = sums[part * (4 / parts) + i][c];
              store_shared_128(slot(k_warp, i, c), uint4{__float_as_uint(v[0]), __float_as_uint(v[1]),
                                                         __float_as_uint(v[2]), __float_as_uint(v[3])});
            }
        __syncthreads();
        if (k_warp == 0)
          for (int k = from; k < min(k_warps, from + fit); ++k)
            HIGGS_UNROLL
            for (int i = 0; i < 4 / parts; ++i)
              HIGGS_UNROLL
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

    const bool whole = s1 - s0 == slabs;
    const std::int64_t sum_size = columns * block_rows, tile_sums = std::int64_t{blockIdx.y} * gridDim.x * 2;
    const auto sums_of = [&](int owner) {  // of this row block
      return task.sums + (tile_sums + 2 * owner + (split.begin(owner) / slabs != block)) * sum_size;
    };
    if (k_warp == 0 && row_slab < row_slabs) {
      float* to = sums_of(me);
      HIGGS_UNROLL
      for (int i = 0; i < 4; ++i)
        HIGGS_UNROLL
        for (int c = 0; c < ColumnTiles; ++c)
          HIGGS_UNROLL
          for (int v = 0; v < 4; ++v) {
            const int m = 8 * c + lane % 4 * 2 + v % 2, n = row_warp * slab + 16 * i + v / 2 * 8 + lane / 4;
            if (m >= batch) continue;
            if (!whole)
              to[m * block_rows + n] = sums[i][c][v];
            else if (std::int64_t{block} * block_rows + n < order.rows)
              store_output(task.y, first_batch + m, std::int64_t{block} * block_rows + n, sums[i][c][v] * task.unit);
          }
    }
    __syncthreads();
    if (whole) continue;

    // The last of the blocks that share these rows adds their sums in the order of the inputs.
    const int first_owner = split.owner(block * slabs), last_owner = split.owner((block + 1) * slabs - 1);
    constexpr std::uint32_t flag = table_begin + 256 * 256;
    if (threadIdx.x == 0) {
      std::uint32_t* arrived = task.arrivals + blockIdx.y * row_blocks + block;
      __threadfence();
      const std::uint32_t before = atomicAdd(arrived, 1u);
      const bool last = before == static_cast<std::uint32_t>(last_owner - first_owner);
      __threadfence();
      store_shared_128(flag, uint4{last, 0, 0, 0});
    }
    __syncthreads();
    if (load_shared_32<0>(flag) == 0) continue;
    for (int i = static_cast<int>(threadIdx.x); i < batch * block_rows; i += stream_threads) {
      const std::int64_t m = i / block_rows, n = std::int64_t{block} * block_rows + i % block_rows;
      if (n >= order.rows) continue;
      float sum = 0;
      for (int owner = first_owner; owner <= last_owner; ++owner) sum += __ldcg(sums_of(owner) + i);
      store_output(task.y, first_batch + m, n, sum * task.unit);
    }
  }
}

}  // namespace detail
}  // namespace gpu
}  // namespace v0
}  // namespace higgs
