// SPDX-License-Identifier: Apache-2.0
// Attention of a decoder on the device: softmax(scale * q k^T) v of each head, causal, over the keys and values in the
// cache, those of the rows themselves included (turn_and_append_async comes first). Sums are float, probabilities are
// rounded to T. attention_reference() in attention.hpp is the definition. A row's result depends on its own sequence
// alone, bit for bit: not on the batch, not on the device, in prefill not on the chunk.
#pragma once

#include "device/attention.hpp"
#include "device/attention_tile.cuh"
#include "device/kv_layer.hpp"
#include "device/queue.cuh"

#include <higgs/core/half.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace higgs::model {

/// One call of attention.
template <class T>
struct Attention {
  Heads heads;
  gpu::DenseView<const T> q;  // (rows, count * width)
  KvLayer<T> cache;
  TokenRows rows;
  std::int32_t window = 0;  // positions that a token sees, itself included; 0: all up to its own
  float scale = 1;
  gpu::DenseView<T> out;  // (rows, count * width); idle rows become 0
};

/// Parts into which decode_attention_async() divides the keys of a sequence: enough blocks for any device.
inline std::int32_t decode_splits(const Heads& heads, std::int32_t capacity);
/// Bytes of workspace for up to `rows` rows. The workspace begins as zeros, at a multiple of 16 bytes. Each call leaves
/// it ready for the next; no two calls may use it at the same time.
inline std::size_t decode_attention_workspace(const Heads& heads, std::int64_t rows, std::int32_t splits);

/// Attention of one token each of several sequences. Query heads that share keys read them once. The keys of a sequence
/// are divided into at most `splits` parts by its own length; the last block of a head to finish adds the parts, in
/// their order.
template <class T>
void decode_attention_async(const Attention<T>& attention, std::int32_t splits, std::byte* workspace,
                            Queue queue);

/// Attention of rows that are neighbouring tokens of one sequence, in the order of their positions: a prompt, or a chunk
/// of one. None of them may be idle.
template <class T>
void prefill_attention_async(const Attention<T>& attention, Queue queue);

namespace detail {

constexpr int split_keys = 128;         // keys by which splits begin: two tiles of each warp
constexpr int longest_split_list = 64;  // splits of a sequence at most
constexpr int prefill_warps = 4;
constexpr int prefill_queries = prefill_warps * tile_queries;

/// Warps of a block and copies of a tile in decoding, so that tiles take 64 KiB of its shared memory.
template <int Width>
constexpr int decode_warps = Width <= 128 ? 4 : 2;
template <int Width>
constexpr int decode_stages = Width <= 64 ? 4 : 2;
constexpr int decode_keys = 16;  // keys of one tile of a warp
template <int Width>
constexpr std::size_t decode_shared_bytes =
    tile_bytes<Width>(tile_queries) +
    2 * decode_warps<Width> * decode_stages<Width> * tile_bytes<Width>(decode_keys);

constexpr int prefill_keys = 32;  // keys of one tile of a block
/// Shared memory of prefill: queries, and two copies of a tile of keys and of one of values.
template <int Width>
constexpr std::size_t prefill_shared_bytes =
    tile_bytes<Width>(prefill_queries) + 4 * tile_bytes<Width>(prefill_keys);

/// The part of the keys of one sequence that a block of decoding reads.
struct KeyRange {
  std::int32_t first = 0, end = 0;  // keys
  std::int32_t used = 0;            // splits of this sequence that have keys
};
__device__ inline KeyRange split_range(std::int32_t position, std::int32_t window, std::int32_t splits,
                                       std::int32_t split) {
  const std::int32_t end = position + 1;
  const std::int32_t first = window == 0 ? 0 : max(0, end - window) / split_keys * split_keys;
  const std::int32_t units = (end - first + split_keys - 1) / split_keys,
                     each = (units + splits - 1) / splits;
  const std::int32_t begin = first + split * each * split_keys;
  return {begin, min(end, begin + each * split_keys), (units + each - 1) / each};
}

/// Where the keys, and the values, of a head of a sequence begin.
template <class T>
__device__ inline std::int64_t cache_line(const Attention<T>& a, std::int32_t sequence,
                                          std::int32_t kv_head) {
  return (static_cast<std::int64_t>(sequence) * a.heads.kv_count + kv_head) * a.cache.capacity *
         a.heads.stored_width();
}

/// Where blocks of decoding leave sums that other blocks finish.
struct DecodeWorkspace {
  std::uint32_t* finished = nullptr;  // (rows, tiles of heads): splits that are done; 0 between calls
  float* sums = nullptr;  // (rows, count, splits, width + 2): sums of values, largest score, sum of weights
};
/// Tiles of query heads that share keys.
HIGGS_HOST_DEVICE constexpr std::int32_t tiles_of(const Heads& heads) {
  return (heads.shared() + tile_queries - 1) / tile_queries;
}
/// The counters are in front, as many for any number of rows: so calls of different sizes share a workspace.
constexpr std::int64_t most_counters = 16384;

/// What a block of decoding works on.
struct DecodePlace {
  std::int32_t row, split, kv_head;
  std::int32_t head, queries;  // the first query head, and how many of them
};
__device__ inline DecodePlace decode_place(const Heads& heads) {
  const std::int32_t tiles = tiles_of(heads), kv_head = static_cast<std::int32_t>(blockIdx.y) / tiles;
  const std::int32_t first = static_cast<std::int32_t>(blockIdx.y) % tiles * tile_queries;
  return {static_cast<std::int32_t>(blockIdx.z), static_cast<std::int32_t>(blockIdx.x), kv_head,
          kv_head * heads.shared() + first, min(tile_queries, heads.shared() - first)};
}

/// The warps' results for one tile of queries: sums in the shared memory that held tiles of keys.
template <int Width>
struct WarpSums {
  float values[decode_warps<Width>][tile_queries][sums_pitch<Width>];
};
template <int Width>
struct WarpWeights {
  float most[decode_warps<Width>][tile_queries], total[decode_warps<Width>][tile_queries];
};

/// Writes zeros for the heads of an idle row.
template <class T>
__device__ inline void write_zeros(const Attention<T>& a, const DecodePlace& place) {
  for (std::int32_t i = static_cast<std::int32_t>(threadIdx.x); i < place.queries * a.heads.width;
       i += static_cast<std::int32_t>(blockDim.x))
    a.out.row(place.row)[place.head * a.heads.width + i] = T{};
}

/// The keys of the block, every decode_warps-th tile of them by this warp, through `memory`: queries in front, then the
/// tiles of each warp.
template <class T, int Width>
__device__ inline void attend_keys(const Attention<T>& a, const DecodePlace& place, const KeyRange& range,
                                   std::int32_t position, std::uint32_t memory,
                                   AttentionTile<T, Width>& tile) {
  constexpr int warps = decode_warps<Width>, keys = decode_keys, stages = decode_stages<Width>;
  constexpr auto bytes = static_cast<std::uint32_t>(tile_bytes<Width>(keys));
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  load_queries<T, Width>(
      memory, static_cast<int>(threadIdx.x), 32 * warps, tile_queries, a.heads.width, [&](int q) {
        return q < place.queries ? a.q.row(place.row) + (place.head + q) * a.heads.width : nullptr;
      });
  const std::uint32_t mine = memory + static_cast<std::uint32_t>(tile_bytes<Width>(tile_queries)) +
                             static_cast<std::uint32_t>(warp) * 2 * stages * bytes;
  const std::int64_t from = cache_line(a, a.rows.sequence(place.row), place.kv_head);
  const auto tile_at = [&](std::int32_t i) { return range.first + (i * warps + warp) * keys; };
  const auto stage_of = [&](std::int32_t i) {
    return mine + static_cast<std::uint32_t>(i % stages) * 2 * bytes;
  };
  const auto copy = [&](std::int32_t i) {
    if (tile_at(i) < range.end)
      copy_tiles<T, Width, keys, 32>(stage_of(i), a.cache.keys + from, a.cache.values + from, tile_at(i),
                                     range.end, a.heads.stored_width(), lane);
    gpu::commit_copies();
  };
  clear_ends<Width>(mine, 2 * stages * keys, a.heads.stored_width(), lane, 32);
  for (std::int32_t i = 0; i < stages - 1; ++i) copy(i);
  __syncthreads();  // queries
  tile.begin(memory);
  const KeyLimits limits = key_limits(position, position, position, position, a.window);
  for (std::int32_t i = 0; tile_at(i) < range.end; ++i) {
    copy(i + stages - 1);
    gpu::wait_copies<stages - 1>();
    __syncwarp();
    tile.template attend<keys>(stage_of(i), stage_of(i) + bytes, tile_at(i), limits, a.scale * log2_e);
    __syncwarp();
  }
  gpu::wait_copies<0>();
}

/// Adds the sums of the warps: to the outputs if the row has one split, else to `sums` (count, splits, width + 2).
template <class T, int Width>
__device__ inline void add_warps(const Attention<T>& a, const DecodePlace& place, const WarpSums<Width>& from,
                                 const WarpWeights<Width>& weights, float* sums, std::int32_t splits,
                                 bool alone) {
  constexpr int warps = decode_warps<Width>;
  const std::int32_t width = a.heads.width;
  for (std::int32_t i = static_cast<std::int32_t>(threadIdx.x); i < place.queries * width; i += 32 * warps) {
    const std::int32_t q = i / width, c = i % width;
    float highest = weights.most[0][q], total = 0, sum = 0;
    HIGGS_UNROLL for (int w = 1; w < warps; ++w)
      highest = fmaxf(highest, weights.most[w][q]);
    HIGGS_UNROLL for (int w = 0; w < warps; ++w) {
      const float factor = exp2_approximate(weights.most[w][q] - highest);
      total = fmaf(factor, weights.total[w][q], total);
      sum = fmaf(factor, from.values[w][q][c], sum);
    }
    if (alone) {
      a.out.row(place.row)[(place.head + q) * width + c] = gpu::from_float<T>(sum / total);
      continue;
    }
    float* to = sums + (static_cast<std::int64_t>(place.head + q) * splits + place.split) * (width + 2);
    to[c] = sum;
    if (c == 0) {
      to[width] = highest;
      to[width + 1] = total;
    }
  }
}

/// True in the last of `used` blocks that call it for one counter, which is 0 again then; what the others stored before
/// can be read there, past the first-level cache.
__device__ inline bool last_block(std::uint32_t* counter, std::int32_t used) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(counter, 1) + 1 == static_cast<std::uint32_t>(used);
    if (last) *counter = 0;
    __threadfence();
  }
  __syncthreads();
  return last;
}

/// Adds what all splits left in `sums` (count, splits, width + 2), in the order of the splits.
template <class T>
__device__ inline void add_splits(const Attention<T>& a, const DecodePlace& place, const float* sums,
                                  std::int32_t splits, std::int32_t used) {
  const std::int32_t width = a.heads.width, pitch = width + 2;
  for (std::int32_t i = static_cast<std::int32_t>(threadIdx.x); i < place.queries * width;
       i += static_cast<std::int32_t>(blockDim.x)) {
    const float* from = sums + static_cast<std::int64_t>(place.head + i / width) * splits * pitch;
    float most = -INFINITY, weights = 0, sum = 0;
    for (std::int32_t s = 0; s < used; ++s) most = fmaxf(most, __ldcg(from + s * pitch + width));
    for (std::int32_t s = 0; s < used; ++s) {
      const float factor = exp2_approximate(__ldcg(from + s * pitch + width) - most);
      weights = fmaf(factor, __ldcg(from + s * pitch + width + 1), weights);
      sum = fmaf(factor, __ldcg(from + s * pitch + i % width), sum);
    }
    a.out.row(place.row)[place.head * width + i] = gpu::from_float<T>(sum / weights);
  }
}

// Grid (splits, kv heads x tiles of query heads, rows).
template <class T, int Width>
__global__ void __launch_bounds__(32 * decode_warps<Width>)
    decode_attention_kernel(const __grid_constant__ Attention<T> a, std::int32_t splits,
                            DecodeWorkspace workspace) {
  begin_kernel();
  extern __shared__ uint4 memory[];
  __shared__ WarpWeights<Width> weights;
  const DecodePlace place = decode_place(a.heads);
  const std::int32_t position = min(a.rows.positions[place.row], a.cache.capacity - 1);
  if (position < 0) {
    if (place.split == 0) write_zeros(a, place);
    return;
  }
  const KeyRange range = split_range(position, a.window, splits, place.split);
  if (place.split >= range.used) return;

  AttentionTile<T, Width> tile;
  attend_keys<T, Width>(a, place, range, position, gpu::shared_address(memory), tile);
  __syncthreads();  // the tiles of keys are read: their memory takes the warps' sums
  auto& warp_sums = *reinterpret_cast<WarpSums<Width>*>(memory);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  tile.finish(warp_sums.values[warp], weights.most[warp], weights.total[warp]);
  __syncthreads();
  float* sums =
      workspace.sums + static_cast<std::int64_t>(place.row) * a.heads.count * splits * (a.heads.width + 2);
  add_warps<T, Width>(a, place, warp_sums, weights, sums, splits, range.used == 1);
  if (range.used == 1) return;
  if (last_block(workspace.finished + static_cast<std::int64_t>(place.row) * gridDim.y + blockIdx.y,
                 range.used))
    add_splits(a, place, sums, splits, range.used);
}

// Grid (tiles of queries, kv heads). Query i of a kv head is that of token i / shared and head i % shared, so that few
// tokens of many heads fill tiles too. Long rows of keys come first.
template <class T, int Width>
__global__ void __launch_bounds__(32 * prefill_warps)
    prefill_attention_kernel(const __grid_constant__ Attention<T> a) {
  begin_kernel();
  constexpr int keys = prefill_keys;
  extern __shared__ uint4 memory[];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const std::int32_t shared = a.heads.shared(), kv_head = static_cast<std::int32_t>(blockIdx.y);
  const auto count = static_cast<std::int32_t>(a.q.rows) * shared;
  const auto first_query = static_cast<std::int32_t>(gridDim.x - 1 - blockIdx.x) * prefill_queries;
  const auto token_of = [&](std::int32_t query) { return min(query, count - 1) / shared; };
  const auto element_of = [&](std::int32_t query) {
    return (kv_head * shared + query % shared) * a.heads.width;
  };

  const std::uint32_t query_tiles = gpu::shared_address(memory);
  load_queries<T, Width>(query_tiles, static_cast<int>(threadIdx.x), 32 * prefill_warps, prefill_queries,
                         a.heads.width, [&](int q) {
                           const std::int32_t query = first_query + q;
                           return query < count ? a.q.row(token_of(query)) + element_of(query) : nullptr;
                         });
  const std::uint32_t key_tiles =
      query_tiles + static_cast<std::uint32_t>(tile_bytes<Width>(prefill_queries));
  const std::int64_t from = cache_line(a, a.rows.sequence(token_of(first_query)), kv_head);
  const std::int32_t last = a.rows.positions[token_of(first_query + prefill_queries - 1)];
  const std::int32_t end = min(last, a.cache.capacity - 1) + 1;
  const std::int32_t first = window_begin(a.rows.positions[token_of(first_query)], a.window) / keys * keys;
  const auto stage_of = [&](std::int32_t key) {
    return key_tiles + static_cast<std::uint32_t>((key / keys) % 2) * 2 * tile_bytes<Width>(keys);
  };
  const auto copy = [&](std::int32_t key) {
    if (key < end)
      copy_tiles<T, Width, keys, 32 * prefill_warps>(stage_of(key), a.cache.keys + from,
                                                     a.cache.values + from, key, end, a.heads.stored_width(),
                                                     static_cast<int>(threadIdx.x));
    gpu::commit_copies();
  };
  clear_ends<Width>(key_tiles, 4 * keys, a.heads.stored_width(), static_cast<int>(threadIdx.x),
                    32 * prefill_warps);
  copy(first);
  __syncthreads();  // queries
  AttentionTile<T, Width> tile;
  tile.begin(query_tiles + static_cast<std::uint32_t>(warp * tile_bytes<Width>(tile_queries)));
  const std::int32_t query = first_query + warp * tile_queries + static_cast<int>(threadIdx.x) % 32 / 4;
  const auto position_of = [&](std::int32_t i) { return a.rows.positions[token_of(i)]; };
  const std::int32_t warp_first = first_query + warp * tile_queries;
  const KeyLimits limits = key_limits(position_of(query), position_of(query + 8), position_of(warp_first),
                                      position_of(warp_first + tile_queries - 1), a.window);
  for (std::int32_t key = first; key < end; key += keys) {
    copy(key + keys);
    gpu::wait_copies<1>();
    __syncthreads();
    if (key <= limits.any_last && key + keys > limits.any_first)
      tile.template attend<keys>(stage_of(key), stage_of(key) + tile_bytes<Width>(keys), key, limits,
                                 a.scale * log2_e);
    __syncthreads();
  }
  gpu::wait_copies<0>();
  tile.template write<T>(
      [&](int half) {
        const std::int32_t mine = query + 8 * half;
        return mine < count ? a.out.row(token_of(mine)) + element_of(mine) : nullptr;
      },
      a.heads.width);
}

/// Calls put<Width>() for the narrowest rows of tiles that hold a head.
template <class Put>
void with_width(const Heads& heads, Put put) {
  if (heads.width <= 64)
    put.template operator()<64>();
  else if (heads.width <= 128)
    put.template operator()<128>();
  else
    put.template operator()<256>();
}

/// Throws InvalidArgument unless the shapes are those of the kernels.
template <class T>
void check_attention(const Attention<T>& a) {
  check_heads(a.heads);
  const std::int64_t cols = std::int64_t{a.heads.count} * a.heads.width;
  expects(a.q.cols == cols && a.out.cols == cols && a.q.rows == a.out.rows, [&] {
    return "higgs::model::attention: q and out must be (rows, " + std::to_string(cols) + "), q is (" +
           std::to_string(a.q.rows) + ", " + std::to_string(a.q.cols) + "), out (" +
           std::to_string(a.out.rows) + ", " + std::to_string(a.out.cols) + ")";
  });
  expects(a.window >= 0 && a.rows.positions != nullptr,
          "higgs::model::attention: the window must not be negative, and rows need positions");
  check_cache(a.cache);
}

}  // namespace detail

inline std::int32_t decode_splits(const Heads& heads, std::int32_t capacity) {
  constexpr std::int64_t blocks = 256;  // two for each multiprocessor of the largest devices
  const std::int64_t wanted = gpu::ceil_div(blocks, std::int64_t{heads.kv_count} * detail::tiles_of(heads));
  const std::int64_t most =
      std::min<std::int64_t>(detail::longest_split_list, gpu::ceil_div(capacity, detail::split_keys));
  return static_cast<std::int32_t>(std::clamp<std::int64_t>(wanted, 1, std::max<std::int64_t>(most, 1)));
}

inline std::size_t decode_attention_workspace(const Heads& heads, std::int64_t rows, std::int32_t splits) {
  const std::int64_t sums = rows * heads.count * splits * (heads.width + 2);
  return detail::most_counters * sizeof(std::uint32_t) + static_cast<std::size_t>(sums) * sizeof(float);
}

template <class T>
void decode_attention_async(const Attention<T>& attention, std::int32_t splits, std::byte* workspace,
                            Queue queue) {
  detail::check_attention(attention);
  expects(splits > 0, "higgs::model::decode_attention_async: splits must be positive");
  expects(splits == 1 || (workspace && reinterpret_cast<std::uintptr_t>(workspace) % 16 == 0),
          "higgs::model::decode_attention_async: the workspace must be at a multiple of 16 bytes");
  const Heads& heads = attention.heads;
  const std::int64_t counters = attention.q.rows * heads.kv_count * detail::tiles_of(heads);
  expects(counters <= detail::most_counters, [&] {
    return "higgs::model::decode_attention_async: " + std::to_string(attention.q.rows) + " rows of " +
           std::to_string(heads.kv_count) + " heads of keys are more than the workspace has counters for";
  });
  const detail::DecodeWorkspace parts{
      reinterpret_cast<std::uint32_t*>(workspace),
      reinterpret_cast<float*>(workspace + detail::most_counters * sizeof(std::uint32_t))};
  const dim3 grid(static_cast<unsigned>(splits),
                  static_cast<unsigned>(heads.kv_count * detail::tiles_of(heads)),
                  static_cast<unsigned>(attention.q.rows));
  const auto put = [&]<int Width>() {
    gpu::launch(queue.options(), detail::decode_attention_kernel<T, Width>, grid,
                32 * detail::decode_warps<Width>, detail::decode_shared_bytes<Width>, queue.stream, attention,
                splits, parts);
  };
  detail::with_width(heads, put);
}

template <class T>
void prefill_attention_async(const Attention<T>& attention, Queue queue) {
  detail::check_attention(attention);
  const Heads& heads = attention.heads;
  const dim3 grid(
      static_cast<unsigned>(gpu::ceil_div(attention.q.rows * heads.shared(), detail::prefill_queries)),
      static_cast<unsigned>(heads.kv_count));
  const auto put = [&]<int Width>() {
    gpu::launch(queue.options(), detail::prefill_attention_kernel<T, Width>, grid, 32 * detail::prefill_warps,
                detail::prefill_shared_bytes<Width>, queue.stream, attention);
  };
  detail::with_width(heads, put);
}

}  // namespace higgs::model
