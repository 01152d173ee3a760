// SPDX-License-Identifier: Apache-2.0
// The small operations of a decoder on the device; network/ops.hpp is their definition on the CPU. Activations and the
// cache are fp16 or bf16 (T), the residual stream and all sums are float. Every function puts one kernel on a stream,
// allocates nothing, waits for nothing and reads tokens and positions from device memory: a CUDA graph serves all steps.
// A row's result depends on that row alone. Views may have row strides.
#pragma once

#include "device/kv_layer.hpp"
#include "device/queue.cuh"

#include <higgs/core/half.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace higgs::model {

/// x(r, :) = scale * table(tokens[r], :). A token that has no row gives NaN, which sampling reports.
/// table (vocabulary, width) of fp16, bf16 or float, tokens (rows) in device memory, x (rows, width).
template <class Table>
void embed_async(gpu::DenseView<const Table> table, const std::int32_t* tokens, float scale,
                 gpu::DenseView<float> x, cudaStream_t stream);

/// out = x / rms(x) * gain * factor for each row: rms(x)^2 = mean(x^2) + epsilon.
/// x and out (rows, width), gain (width) in device memory.
template <class T>
void norm_async(gpu::DenseView<const float> x, const float* gain, float epsilon, float factor,
                gpu::DenseView<T> out, Queue queue);

/// x += y_factor * y, then norm_async(x) in the same kernel: the residual stream joins what a layer adds.
/// x (rows, width) is read and written; y (rows, width) of T or float.
template <class T, class Y>
void add_norm_async(gpu::DenseView<float> x, gpu::DenseView<const Y> y, float y_factor, const float* gain,
                    float epsilon, float factor, gpu::DenseView<T> out, Queue queue);

/// x += y_factor * y.
template <class Y>
void add_async(gpu::DenseView<float> x, gpu::DenseView<const Y> y, float y_factor, cudaStream_t stream);

/// How heads of queries and keys are normalized and turned. All arrays are in device memory.
struct HeadTurns {
  const float* q_gain = nullptr;       // (width): RMSNorm of each query head; null: none
  const float* k_gain = nullptr;       // (width): RMSNorm of each key head; null: none
  float epsilon = 0;                   // epsilon of both norms
  const float* frequencies = nullptr;  // (width / 2): angle per position, rope_frequencies()
  float attention_factor = 1;          // multiplies cosines and sines
};

/// Normalizes and turns the heads of q in place and those of k on their way to the cache; copies v to the cache.
/// Elements i and i + width / 2 of a head turn by the angle positions[r] * frequencies[i], rounded to float as the
/// CPU does. q (rows, count * width), k and v (rows, kv_count * width). Idle rows change nothing.
template <class T>
void turn_and_append_async(const Heads& heads, gpu::DenseView<T> q, gpu::DenseView<const T> k,
                           gpu::DenseView<const T> v, const HeadTurns& turns, const TokenRows& rows,
                           const KvLayer<T>& cache, Queue queue);

/// out = silu(gate) * up, (rows, width) each; `out` may be `gate`.
template <class T>
void swiglu_async(gpu::DenseView<const T> gate, gpu::DenseView<const T> up, gpu::DenseView<T> out,
                  Queue queue);

/// The same for gates and what they multiply in turn: pairs (rows, 2 width), out (rows, width), which is apart from pairs.
template <class T>
void swiglu_pairs_async(gpu::DenseView<const T> pairs, gpu::DenseView<T> out, Queue queue);

namespace detail {

constexpr int row_threads = 1024;  // threads that work on one row
constexpr int head_warps = 4;      // heads that one block turns at a time
constexpr int swiglu_threads = 256;
constexpr int most_pairs = 4;  // pairs of a head that one lane turns

/// True if pieces of `count` elements of all rows may be loaded at once.
template <class T>
bool in_pieces(gpu::DenseView<T> view, std::int64_t count) {
  return view.cols % count == 0 && view.row_stride % count == 0 &&
         reinterpret_cast<std::uintptr_t>(view.data) % (static_cast<std::size_t>(count) * sizeof(T)) == 0;
}
template <class A, class B>
bool same_shape(gpu::DenseView<A> a, gpu::DenseView<B> b) {
  return a.rows == b.rows && a.cols == b.cols;
}
inline dim3 grid_of(std::int64_t x, std::int64_t y = 1) {
  return {static_cast<unsigned>(x), static_cast<unsigned>(y), 1};
}

__device__ inline float sum_warp(float value) {
  for (int by = 16; by > 0; by /= 2) value += __shfl_xor_sync(0xffffffffu, value, by);
  return value;
}
/// The sum over a block of row_threads, in every thread; once in a kernel.
__device__ inline float sum_block(float value) {
  __shared__ float parts[row_threads / 32];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  value = sum_warp(value);
  if (lane == 0) parts[warp] = value;
  __syncthreads();
  return sum_warp(lane < row_threads / 32 ? parts[lane] : 0.0f);
}

/// Four neighbours of a row: one load if `together`, else those below `count`, and zeros.
__device__ inline float4 load_four(const float* from, bool together, std::int64_t count) {
  if (together) return *reinterpret_cast<const float4*>(from);
  return {from[0], count > 1 ? from[1] : 0, count > 2 ? from[2] : 0, count > 3 ? from[3] : 0};
}
template <class T>
__device__ inline float4 load_four(const T* from, bool together, std::int64_t count) {
  if (together) {
    const uint2 pairs = *reinterpret_cast<const uint2*>(from);
    const float2 low = gpu::to_floats<T>(pairs.x), high = gpu::to_floats<T>(pairs.y);
    return {low.x, low.y, high.x, high.y};
  }
  return {gpu::to_float(from[0]), count > 1 ? gpu::to_float(from[1]) : 0,
          count > 2 ? gpu::to_float(from[2]) : 0, count > 3 ? gpu::to_float(from[3]) : 0};
}
__device__ inline void store_four(float* to, float4 v, bool together, std::int64_t count) {
  if (together) {
    *reinterpret_cast<float4*>(to) = v;
    return;
  }
  to[0] = v.x;
  if (count > 1) to[1] = v.y;
  if (count > 2) to[2] = v.z;
  if (count > 3) to[3] = v.w;
}
template <class T>
__device__ inline void store_four(T* to, float4 v, bool together, std::int64_t count) {
  if (together) {
    *reinterpret_cast<uint2*>(to) = make_uint2(gpu::round_pair<T>(v.x, v.y), gpu::round_pair<T>(v.z, v.w));
    return;
  }
  to[0] = gpu::from_float<T>(v.x);
  if (count > 1) to[1] = gpu::from_float<T>(v.y);
  if (count > 2) to[2] = gpu::from_float<T>(v.z);
  if (count > 3) to[3] = gpu::from_float<T>(v.w);
}
__device__ inline float4 add_scaled(float4 x, float4 y, float factor) {
  return {fmaf(factor, y.x, x.x), fmaf(factor, y.y, x.y), fmaf(factor, y.z, x.z), fmaf(factor, y.w, x.w)};
}

// One block a row. The sum of x and y goes to `sum` if there is one.
template <class T, class Y>
__global__ void __launch_bounds__(row_threads)
    norm_kernel(gpu::DenseView<const float> x, gpu::DenseView<const Y> y, float y_factor,
                gpu::DenseView<float> sum, const float* gain, float epsilon, float factor,
                gpu::DenseView<T> out, bool together) {
  begin_kernel();
  const std::int64_t r = blockIdx.x, first = 4 * threadIdx.x, step = 4 * row_threads;
  const auto norm_square = [](float4 v) { return fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, v.w * v.w))); };
  const auto take = [&](std::int64_t c) {  // four numbers of x, or of the sum, which is stored
    float4 v = load_four(x.row(r) + c, together, x.cols - c);
    if (sum.data) {
      v = add_scaled(v, load_four(y.row(r) + c, together, x.cols - c), y_factor);
      store_four(sum.row(r) + c, v, together, x.cols - c);
    }
    return v;
  };
  // The first four stay in registers and their gains are under way while the block sums up.
  float4 kept = {}, kept_gain = {};
  if (first < x.cols) {
    kept_gain = load_four(gain + first, together, x.cols - first);
    kept = take(first);
  }
  float square = norm_square(kept);
  for (std::int64_t c = first + step; c < x.cols; c += step) square += norm_square(take(c));
  const float mean = sum_block(square) / static_cast<float>(x.cols);
  const float inverse = factor / sqrtf(mean + epsilon);
  const auto put = [&](std::int64_t c, float4 v, float4 g) {
    v = {v.x * inverse * g.x, v.y * inverse * g.y, v.z * inverse * g.z, v.w * inverse * g.w};
    store_four(out.row(r) + c, v, together, x.cols - c);
  };
  if (first < x.cols) put(first, kept, kept_gain);
  const float* in = sum.data ? sum.row(r) : x.row(r);
  for (std::int64_t c = first + step; c < x.cols; c += step)  // what this thread stored
    put(c, load_four(in + c, together, x.cols - c), load_four(gain + c, together, x.cols - c));
}

template <class Y>
__global__ void __launch_bounds__(row_threads)
    add_kernel(gpu::DenseView<float> x, gpu::DenseView<const Y> y, float y_factor) {
  const std::int64_t r = blockIdx.x;
  for (std::int64_t c = threadIdx.x; c < x.cols; c += row_threads)
    x.row(r)[c] = fmaf(y_factor, gpu::to_float(y.row(r)[c]), x.row(r)[c]);
}

template <class Table>
__global__ void __launch_bounds__(row_threads)
    embed_kernel(gpu::DenseView<const Table> table, const std::int32_t* tokens, float scale,
                 gpu::DenseView<float> x) {
  const std::int64_t r = blockIdx.x, token = tokens[r];
  const bool known = token >= 0 && token < table.rows;
  for (std::int64_t c = threadIdx.x; c < x.cols; c += row_threads)
    x.row(r)[c] = known ? scale * gpu::to_float(table.row(token)[c]) : __int_as_float(0x7fffffff);
}

/// cos and sin of an angle up to 2^30, within 2^-22: the angle is reduced in double, then Taylor's series.
__device__ inline float2 cos_sin(float angle) {
  const double turns = rint(static_cast<double>(angle) * 0.63661977236758134);  // quarters of a circle
  const double rest =
      fma(-turns, 6.123233995736766e-17, fma(-turns, 1.5707963267948966, static_cast<double>(angle)));
  const auto x = static_cast<float>(rest);  // at most pi / 4
  const float x2 = x * x;
  float c = fmaf(x2, 1.0f / 40320, -1.0f / 720);
  c = fmaf(x2, c, 1.0f / 24);
  c = fmaf(x2, c, -0.5f);
  c = fmaf(x2, c, 1.0f);
  float s = fmaf(x2, 1.0f / 362880, -1.0f / 5040);
  s = fmaf(x2, s, 1.0f / 120);
  s = fmaf(x2, s, -1.0f / 6);
  s = fmaf(x2 * x, s, x);
  const int quarter = static_cast<int>(turns) & 3;
  const float cosine = quarter % 2 == 0 ? c : s, sine = quarter % 2 == 0 ? s : c;
  return {quarter == 1 || quarter == 2 ? -cosine : cosine, quarter >= 2 ? -sine : sine};
}

/// Normalizes (with a gain) and turns one head, from `in` to `out`, which may be the same; then zeros up to `stored`
/// elements. One warp; pair i is that of lane i % 32.
template <class T>
__device__ void turn_head_warp(const T* in, T* out, int half, int stored, const float* gain, float epsilon,
                               const float2* turns) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float a[most_pairs], b[most_pairs], square = 0;
  HIGGS_UNROLL for (int j = 0; j < most_pairs; ++j) {
    const int i = lane + 32 * j;
    a[j] = i < half ? gpu::to_float(in[i]) : 0;
    b[j] = i < half ? gpu::to_float(in[half + i]) : 0;
    square = fmaf(a[j], a[j], fmaf(b[j], b[j], square));
  }
  const float mean = sum_warp(square) / static_cast<float>(2 * half);
  const float inverse = 1 / sqrtf(mean + epsilon);
  HIGGS_UNROLL for (int j = 0; j < most_pairs; ++j) {
    const int i = lane + 32 * j;
    if (i >= half) continue;
    if (gain) {
      a[j] *= inverse * gain[i];
      b[j] *= inverse * gain[half + i];
    }
    const float2 turn = turns[i];
    out[i] = gpu::from_float<T>(a[j] * turn.x - b[j] * turn.y);
    out[half + i] = gpu::from_float<T>(b[j] * turn.x + a[j] * turn.y);
  }
  for (int i = 2 * half + lane; i < stored; i += 32) out[i] = T{};
}

// Grid (rows, heads of q, k and v over head_warps), one warp a head.
template <class T>
__global__ void __launch_bounds__(32 * head_warps)
    turn_kernel(Heads heads, gpu::DenseView<T> q, gpu::DenseView<const T> k, gpu::DenseView<const T> v,
                HeadTurns turns, TokenRows rows, KvLayer<T> cache) {
  begin_kernel();
  __shared__ float2 angles[32 * most_pairs];
  const int r = static_cast<int>(blockIdx.x), position = rows.positions[r], half = heads.width / 2;
  if (position < 0 || position >= cache.capacity) return;
  for (int i = static_cast<int>(threadIdx.x); i < half; i += 32 * head_warps) {
    const float2 turn = cos_sin(static_cast<float>(position) * turns.frequencies[i]);
    angles[i] = make_float2(turn.x * turns.attention_factor, turn.y * turns.attention_factor);
  }
  __syncthreads();
  int h = static_cast<int>(blockIdx.y) * head_warps + static_cast<int>(threadIdx.x) / 32;
  if (h < heads.count) {
    T* head = q.row(r) + h * heads.width;
    turn_head_warp(head, head, half, 0, turns.q_gain, turns.epsilon, angles);
    return;
  }
  h -= heads.count;
  if (h >= 2 * heads.kv_count) return;
  const int kv_head = h % heads.kv_count, stored = heads.stored_width();
  const std::int64_t line = static_cast<std::int64_t>(rows.sequence(r)) * heads.kv_count + kv_head;
  const std::int64_t at = (line * cache.capacity + position) * stored;
  if (h < heads.kv_count) {
    turn_head_warp(k.row(r) + kv_head * heads.width, cache.keys + at, half, stored, turns.k_gain,
                   turns.epsilon, angles);
  } else {
    const T* in = v.row(r) + kv_head * heads.width;
    for (int i = static_cast<int>(threadIdx.x) % 32; i < stored; i += 32)
      cache.values[at + i] = i < heads.width ? in[i] : T{};
  }
}

__device__ inline float silu_times(float gate, float up) { return gate / (1 + expf(-gate)) * up; }

// Grid (rows, cols over 8 * swiglu_threads), 8 neighbours a thread.
template <class T>
__global__ void __launch_bounds__(swiglu_threads)
    swiglu_kernel(gpu::DenseView<const T> gate, gpu::DenseView<const T> up, gpu::DenseView<T> out,
                  bool together) {
  begin_kernel();
  const std::int64_t r = blockIdx.x,
                     c = 8 * (static_cast<std::int64_t>(blockIdx.y) * swiglu_threads + threadIdx.x);
  if (c >= out.cols) return;
  const T *g = gate.row(r) + c, *u = up.row(r) + c;
  T* to = out.row(r) + c;
  if (!together) {
    for (std::int64_t i = 0; i < min(std::int64_t{8}, out.cols - c); ++i)
      to[i] = gpu::from_float<T>(silu_times(gpu::to_float(g[i]), gpu::to_float(u[i])));
    return;
  }
  const auto both = [](std::uint32_t a, std::uint32_t b) {
    const float2 x = gpu::to_floats<T>(a), y = gpu::to_floats<T>(b);
    return gpu::round_pair<T>(silu_times(x.x, y.x), silu_times(x.y, y.y));
  };
  const uint4 a = gpu::load_128(g), b = gpu::load_128(u);
  gpu::store_128(to, make_uint4(both(a.x, b.x), both(a.y, b.y), both(a.z, b.z), both(a.w, b.w)));
}

// Grid (rows, cols over 4 * swiglu_threads), 4 neighbours a thread.
template <class T>
__global__ void __launch_bounds__(swiglu_threads)
    swiglu_pairs_kernel(gpu::DenseView<const T> pairs, gpu::DenseView<T> out, bool together) {
  begin_kernel();
  const std::int64_t r = blockIdx.x,
                     c = 4 * (static_cast<std::int64_t>(blockIdx.y) * swiglu_threads + threadIdx.x);
  if (c >= out.cols) return;
  const auto pair = [&](std::int64_t i) {
    const float4 v = load_four(pairs.row(r) + 2 * (c + i), together, 2 * (out.cols - c - i));
    return make_float2(silu_times(v.x, v.y), silu_times(v.z, v.w));
  };
  const float2 low = pair(0), high = c + 2 < out.cols ? pair(2) : make_float2(0, 0);
  store_four(out.row(r) + c, {low.x, low.y, high.x, high.y}, together, out.cols - c);
}

}  // namespace detail

template <class Table>
void embed_async(gpu::DenseView<const Table> table, const std::int32_t* tokens, float scale,
                 gpu::DenseView<float> x, cudaStream_t stream) {
  expects(table.cols == x.cols, "higgs::model::embed_async: table and x must have equal columns");
  gpu::launch(detail::embed_kernel<Table>, detail::grid_of(x.rows), detail::row_threads, 0, stream, table,
              tokens, scale, x);
}

template <class T>
void norm_async(gpu::DenseView<const float> x, const float* gain, float epsilon, float factor,
                gpu::DenseView<T> out, Queue queue) {
  expects(detail::same_shape(x, out), "higgs::model::norm_async: x and out must have the same shape");
  const bool together = detail::in_pieces(x, 4) && detail::in_pieces(out, 4) &&
                        detail::in_pieces(gpu::DenseView<const float>(gain, 1, x.cols), 4);
  gpu::launch(queue.options(), detail::norm_kernel<T, float>, detail::grid_of(x.rows), detail::row_threads, 0,
              queue.stream, x, gpu::DenseView<const float>(), 0, gpu::DenseView<float>(), gain, epsilon,
              factor, out, together);
}

template <class T, class Y>
void add_norm_async(gpu::DenseView<float> x, gpu::DenseView<const Y> y, float y_factor, const float* gain,
                    float epsilon, float factor, gpu::DenseView<T> out, Queue queue) {
  expects(detail::same_shape(x, y) && detail::same_shape(x, out),
          "higgs::model::add_norm_async: x, y and out must have the same shape");
  const bool together = detail::in_pieces(x, 4) && detail::in_pieces(y, 4) && detail::in_pieces(out, 4) &&
                        detail::in_pieces(gpu::DenseView<const float>(gain, 1, x.cols), 4);
  gpu::launch(queue.options(), detail::norm_kernel<T, Y>, detail::grid_of(x.rows), detail::row_threads, 0,
              queue.stream, x, y, y_factor, x, gain, epsilon, factor, out, together);
}

template <class Y>
void add_async(gpu::DenseView<float> x, gpu::DenseView<const Y> y, float y_factor, cudaStream_t stream) {
  expects(detail::same_shape(x, y), "higgs::model::add_async: x and y must have the same shape");
  gpu::launch(detail::add_kernel<Y>, detail::grid_of(x.rows), detail::row_threads, 0, stream, x, y, y_factor);
}

template <class T>
void turn_and_append_async(const Heads& heads, gpu::DenseView<T> q, gpu::DenseView<const T> k,
                           gpu::DenseView<const T> v, const HeadTurns& turns, const TokenRows& rows,
                           const KvLayer<T>& cache, Queue queue) {
  check_heads(heads);
  check_cache(cache);
  expects(rows.positions != nullptr, "higgs::model::turn_and_append_async: rows need positions");
  expects(q.cols == heads.count * heads.width && k.cols == heads.kv_count * heads.width &&
              detail::same_shape(k, v) && k.rows == q.rows,
          "higgs::model::turn_and_append_async: q must be (rows, count * width), k and v (rows, kv_count * "
          "width)");
  gpu::launch(queue.options(), detail::turn_kernel<T>,
              detail::grid_of(q.rows, gpu::ceil_div(heads.count + 2 * heads.kv_count, detail::head_warps)),
              32 * detail::head_warps, 0, queue.stream, heads, q, k, v, turns, rows, cache);
}

template <class T>
void swiglu_async(gpu::DenseView<const T> gate, gpu::DenseView<const T> up, gpu::DenseView<T> out,
                  Queue queue) {
  expects(detail::same_shape(gate, up) && detail::same_shape(gate, out),
          "higgs::model::swiglu_async: gate, up and out must have the same shape");
  const bool together = detail::in_pieces(gate, 8) && detail::in_pieces(up, 8) && detail::in_pieces(out, 8);
  gpu::launch(queue.options(), detail::swiglu_kernel<T>,
              detail::grid_of(out.rows, gpu::ceil_div(out.cols, 8 * detail::swiglu_threads)),
              detail::swiglu_threads, 0, queue.stream, gate, up, out, together);
}

template <class T>
void swiglu_pairs_async(gpu::DenseView<const T> pairs, gpu::DenseView<T> out, Queue queue) {
  expects(pairs.rows == out.rows && pairs.cols == 2 * out.cols,
          "higgs::model::swiglu_pairs_async: pairs must have the rows of out and twice its columns");
  const bool together = detail::in_pieces(pairs, 8) && detail::in_pieces(out, 4);
  gpu::launch(queue.options(), detail::swiglu_pairs_kernel<T>,
              detail::grid_of(out.rows, gpu::ceil_div(out.cols, 4 * detail::swiglu_threads)),
              detail::swiglu_threads, 0, queue.stream, pairs, out, together);
}

}  // namespace higgs::model
