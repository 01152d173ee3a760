// SPDX-License-Identifier: Apache-2.0
// Attention of 16 queries by one warp: tiles of keys and values come through shared memory, products are mma, the
// softmax is online (Milakov and Gimelshein, 2018): sums are kept relative to the largest score so far. Queries, keys and
// values share a layout: a row of Width numbers, whose pieces of 16 bytes are swizzled by the row's number, so that
// ldmatrix reads 8 rows without a bank conflict. Width is 64, 128 or 256; narrower heads have zeros at the end of each row.
#pragma once

#include <higgs/config.hpp>
#include <higgs/gpu/instructions.cuh>

#include <cstddef>
#include <cstdint>

namespace higgs::model::detail {

constexpr int tile_queries = 16;
constexpr float log2_e = 1.44269504f;

/// Bytes of a tile of `rows` rows.
template <int Width>
HIGGS_HOST_DEVICE constexpr std::size_t tile_bytes(int rows) {
  return static_cast<std::size_t>(rows) * Width * 2;
}

/// ldmatrix: four 8 x 8 matrices of 16-bit numbers; lanes 8k to 8k + 7 give the addresses of the rows of matrix k. Lane
/// 4g + t receives numbers 2t, 2t + 1 of row g of each, or of column g if Transposed.
template <bool Transposed>
__device__ inline void load_matrices(std::uint32_t (&out)[4], std::uint32_t address) {
  if constexpr (Transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}

/// ex2.approx: 2^x within 2 ulp; 0 for -infinity.
__device__ inline float exp2_approximate(float x) {
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}

/// The address of piece `piece`, 8 numbers, of row `row` of a tile.
template <int Width>
__device__ inline std::uint32_t piece_address(std::uint32_t tile, int row, int piece) {
  return tile + static_cast<std::uint32_t>((row * (Width / 8) + (piece ^ (row & 7))) * 16);
}

/// Copies the keys and values from `key` on to two tiles of Keys rows, one behind the other; zeros from `end` on. Threads
/// threads call it; their copies end with wait_copies().
template <class T, int Width, int Keys, int Threads>
__device__ inline void copy_tiles(std::uint32_t to, const T* keys, const T* values, std::int32_t key,
                                  std::int32_t end, int stored_width, int thread) {
  constexpr int pieces = Width / 8, rows = Threads / pieces;  // rows that are copied at once
  static_assert(Threads % pieces == 0 && Keys % rows == 0);
  const int row = thread / pieces, piece = thread % pieces;
  if (8 * piece >= stored_width) return;
  const std::int64_t first = static_cast<std::int64_t>(key + row) * stored_width + 8 * piece;
  const T *key_row = keys + first, *value_row = values + first;
  HIGGS_UNROLL for (int n = 0; n < Keys / rows; ++n) {
    const bool exists = key + row + n * rows < end;
    const std::uint32_t address = piece_address<Width>(to, row + n * rows, piece);
    gpu::copy_async_128<0, 0>(address, key_row, exists);
    gpu::copy_async_128<static_cast<int>(tile_bytes<Width>(Keys)), 0>(address, value_row, exists);
    key_row += rows * stored_width;
    value_row += rows * stored_width;
  }
}

/// Zeros at the end of `rows` rows of tiles, behind the numbers that heads have: copy_tiles() leaves them.
template <int Width>
__device__ inline void clear_ends(std::uint32_t tiles, int rows, int stored_width, int thread, int threads) {
  if (stored_width == Width) return;
  for (int i = thread; i < rows * (Width / 8); i += threads)
    if (i % (Width / 8) * 8 >= stored_width)
      gpu::store_shared_128(piece_address<Width>(tiles, i / (Width / 8), i % (Width / 8)),
                            make_uint4(0, 0, 0, 0));
}

/// Stores `rows` queries as tiles: query_at(row) is where one begins, or null for zeros.
template <class T, int Width, class QueryAt>
__device__ inline void load_queries(std::uint32_t to, int thread, int threads, int rows, int width,
                                    QueryAt query_at) {
  for (int i = thread; i < rows * (Width / 8); i += threads) {
    const int row = i / (Width / 8), piece = i % (Width / 8);
    const T* from = query_at(row);
    std::uint32_t pairs[4] = {};
    HIGGS_UNROLL for (int p = 0; p < 4; ++p) {
      const int c = 8 * piece + 2 * p;  // widths are even
      if (from && c < width) pairs[p] = from[c].bits | static_cast<std::uint32_t>(from[c + 1].bits) << 16;
    }
    gpu::store_shared_128(piece_address<Width>(to, row, piece),
                          make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]));
  }
}

/// The first position that a token at `position` sees through a window; 0: all.
HIGGS_HOST_DEVICE constexpr std::int32_t window_begin(std::int32_t position, std::int32_t window) {
  return window == 0 || position < window ? 0 : position - window + 1;
}

/// The first and last keys that queries see: g and g + 8 of a lane, every and any query of its warp.
struct KeyLimits {
  std::int32_t first[2], last[2];
  std::int32_t every_first, every_last, any_first, any_last;
};
/// The limits of queries g and g + 8 at positions `low` and `high`, in a warp whose queries are at positions from
/// `lowest` to `highest`.
__device__ inline KeyLimits key_limits(std::int32_t low, std::int32_t high, std::int32_t lowest,
                                       std::int32_t highest, std::int32_t window) {
  return {{window_begin(low, window), window_begin(high, window)},
          {low, high},
          window_begin(highest, window),
          lowest,
          window_begin(lowest, window),
          highest};
}

/// Numbers between the sums of two queries in shared memory: rows begin 8 banks after each other.
template <int Width>
constexpr int sums_pitch = Width + 8;

/// The state of one warp: lane 4g + t has the sums of queries g and g + 8 and of the numbers 8j + 2t, 8j + 2t + 1.
template <class T, int Width>
class AttentionTile {
  static constexpr int steps = Width / 16;
  static constexpr bool queries_stay = Width <= 128;  // in registers; else they are read again for each tile

 public:
  /// `queries` is the address of a tile of 16.
  __device__ void begin(std::uint32_t queries) {
    const int lane = gpu::thread_index() % 32;
    query_row_ = queries;

    if constexpr (queries_stay) {
      HIGGS_UNROLL for (int step = 0; step < steps; ++step)
        load_query(queries_[step], step, lane);
    }
  }

  /// Adds the keys and values of one tile, whose first key is `key`. `slope` is the scale of scores times log2(e).
  template <int Keys>
  __device__ void attend(std::uint32_t keys, std::uint32_t values, std::int32_t key, const KeyLimits& limits,
                         float slope) {
    const int lane = gpu::thread_index() % 32;
    float scores[Keys / 8][4] = {};
    multiply_keys<Keys>(scores, keys, lane);
    mask<Keys>(scores, key, limits, slope, lane);
    std::uint32_t weights[Keys / 8][2];  // pairs of queries g and g + 8
    weigh<Keys>(scores, weights);
    add_values<Keys>(weights, values, lane);
  }

  /// Writes the sums (16, Width), the largest scores and the sums of weights (16).
  __device__ void finish(float (*sums)[sums_pitch<Width>], float* most, float* weights) {
    const int lane = gpu::thread_index() % 32, g = lane / 4, t = lane % 4;
    HIGGS_UNROLL for (int half = 0; half < 2; ++half) {
      const float total = sum_quad(total_[half]);
      if (t == 0) {
        most[g + 8 * half] = most_[half];
        weights[g + 8 * half] = total;
      }
    }
    HIGGS_UNROLL for (int j = 0; j < Width / 8; ++j) {
      *reinterpret_cast<float2*>(&sums[g][8 * j + 2 * t]) = make_float2(sums_[j][0], sums_[j][1]);
      *reinterpret_cast<float2*>(&sums[g + 8][8 * j + 2 * t]) = make_float2(sums_[j][2], sums_[j][3]);
    }
  }

  /// Writes the results of both queries to where row_at(0) and row_at(1) say, unless that is null.
  template <class Out, class RowAt>
  __device__ void write(RowAt row_at, int width) {
    const int t = gpu::thread_index() % 4;
    HIGGS_UNROLL for (int half = 0; half < 2; ++half) {
      const float total = sum_quad(total_[half]), inverse = total == 0 ? 0 : 1 / total;
      Out* row = row_at(half);
      if (!row) continue;
      HIGGS_UNROLL for (int j = 0; j < Width / 8; ++j) {
        const int c = 8 * j + 2 * t;
        if (c >= width) continue;
        row[c] = gpu::from_float<Out>(sums_[j][2 * half] * inverse);
        row[c + 1] = gpu::from_float<Out>(sums_[j][2 * half + 1] * inverse);
      }
    }
  }

 private:
  __device__ static float sum_quad(float value) {
    value += __shfl_xor_sync(0xffffffffu, value, 1);
    return value + __shfl_xor_sync(0xffffffffu, value, 2);
  }
  __device__ void load_query(std::uint32_t (&out)[4], int step, int lane) const {
    load_matrices<false>(out, piece_address<Width>(query_row_, lane % 16, 2 * step + lane / 16));
  }

  // scores (queries, keys) = q k^T
  template <int Keys>
  __device__ void multiply_keys(float (&scores)[Keys / 8][4], std::uint32_t keys, int lane) const {
    HIGGS_UNROLL for (int step = 0; step < steps; ++step) {
      std::uint32_t a[4];
      if constexpr (queries_stay) {
        HIGGS_UNROLL for (int i = 0; i < 4; ++i)
          a[i] = queries_[step][i];
      } else {
        load_query(a, step, lane);
      }
      HIGGS_UNROLL for (int k = 0; k < Keys / 16; ++k) {
        std::uint32_t b[4];  // two operands of 8 keys
        load_matrices<false>(
            b, piece_address<Width>(keys, 16 * k + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
        gpu::mma_m16n8k16<T>(scores[2 * k], a, make_uint2(b[0], b[1]));
        gpu::mma_m16n8k16<T>(scores[2 * k + 1], a, make_uint2(b[2], b[3]));
      }
    }
  }

  // Scores times the slope; minus infinity for keys that a query does not see.
  template <int Keys>
  __device__ static void mask(float (&scores)[Keys / 8][4], std::int32_t key, const KeyLimits& limits,
                              float slope, int lane) {
    const bool all = key >= limits.every_first && key + Keys - 1 <= limits.every_last;
    HIGGS_UNROLL for (int i = 0; i < Keys / 2; ++i)
      scores[i / 4][i % 4] *= slope;
    if (all) return;
    HIGGS_UNROLL for (int i = 0; i < Keys / 2; ++i) {
      const int half = i % 4 / 2;
      const std::int32_t at = key + i / 4 * 8 + 2 * (lane % 4) + i % 2;
      if (at < limits.first[half] || at > limits.last[half]) scores[i / 4][i % 4] = -INFINITY;
    }
  }

  // weights = 2^(scores - largest score so far), rounded to T; what was summed before becomes relative to that.
  template <int Keys>
  __device__ void weigh(const float (&scores)[Keys / 8][4], std::uint32_t (&weights)[Keys / 8][2]) {
    HIGGS_UNROLL for (int half = 0; half < 2; ++half) {
      float most = most_[half];
      HIGGS_UNROLL for (int j = 0; j < Keys / 8; ++j)
        most = fmaxf(most, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
      const float zero = most == -INFINITY ? 0 : most;  // no key yet
      const float kept = exp2_approximate(most_[half] - zero);
      most_[half] = most;
      total_[half] *= kept;
      HIGGS_UNROLL for (int j = 0; j < Keys / 8; ++j) {
        weights[j][half] = gpu::round_pair<T>(exp2_approximate(scores[j][2 * half] - zero),
                                              exp2_approximate(scores[j][2 * half + 1] - zero));
        const float2 rounded = gpu::to_floats<T>(weights[j][half]);
        total_[half] += rounded.x + rounded.y;
      }
      HIGGS_UNROLL for (int j = 0; j < Width / 8; ++j) {
        sums_[j][2 * half] *= kept;
        sums_[j][2 * half + 1] *= kept;
      }
    }
  }

  // sums (queries, numbers) += weights (queries, keys) * values (keys, numbers)
  template <int Keys>
  __device__ void add_values(const std::uint32_t (&weights)[Keys / 8][2], std::uint32_t values, int lane) {
    HIGGS_UNROLL for (int k = 0; k < Keys / 16; ++k) {
      const std::uint32_t a[4] = {weights[2 * k][0], weights[2 * k][1], weights[2 * k + 1][0],
                                  weights[2 * k + 1][1]};
      HIGGS_UNROLL for (int step = 0; step < steps; ++step) {
        std::uint32_t b[4];  // two operands of 8 numbers
        load_matrices<true>(b, piece_address<Width>(values, 16 * k + lane % 16, 2 * step + lane / 16));
        gpu::mma_m16n8k16<T>(sums_[2 * step], a, make_uint2(b[0], b[1]));
        gpu::mma_m16n8k16<T>(sums_[2 * step + 1], a, make_uint2(b[2], b[3]));
      }
    }
  }

  float sums_[Width / 8][4] = {};
  float most_[2] = {-INFINITY, -INFINITY}, total_[2] = {};  // total_: of this lane's keys
  std::uint32_t queries_[queries_stay ? steps : 1][4] = {};
  std::uint32_t query_row_ = 0;
};

}  // namespace higgs::model::detail
