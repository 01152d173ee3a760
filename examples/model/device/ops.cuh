// SPDX-License-Identifier: Apache-2.0
// The small operations of a decoder on the device; network/ops.hpp is their definition on the CPU. Activations and the
// cache are fp16 or bf16 (T), the residual stream and all sums are float. Every function puts one kernel on a stream,
// allocates nothing, waits for nothing and reads tokens and positions from device memory: a CUDA graph serves all steps.
// A row's result depends on that row alone. Views may have row strides.
#pragma once

#include "device/kv_layer.cuh"

#include <higgs/core/half.hpp>
#include <higgs/gpu/matrix.cuh>

#include <cuda_runtime.h>

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
                gpu::DenseView<T> out, cudaStream_t stream);

/// x += y_factor * y, then norm_async(x) in the same kernel: the residual stream joins what a layer adds.
/// x (rows, width) is read and written; y (rows, width) of T or float.
template <class T, class Y>
void add_norm_async(gpu::DenseView<float> x, gpu::DenseView<const Y> y, float y_factor, const float* gain,
                    float epsilon, float factor, gpu::DenseView<T> out, cudaStream_t stream);

/// x += y_factor * y.
template <class Y>
void add_async(gpu::DenseView<float> x, gpu::DenseView<const Y> y, float y_factor, cudaStream_t stream);

/// How heads of queries and keys are normalized and turned. All arrays are in device memory.
struct HeadTurns {
  const float* q_gain = nullptr;       // (width): RMSNorm of each query head; null: none
  const float* k_gain = nullptr;       // (width): RMSNorm of each key head; null: none
  float epsilon = 0;                   // of both norms
  const float* frequencies = nullptr;  // (width / 2): angle per position, rope_frequencies()
  float attention_factor = 1;          // multiplies cosines and sines
};

/// Normalizes and turns the heads of q in place and those of k on their way to the cache; copies v to the cache.
/// Elements i and i + width / 2 of a head turn by the angle positions[r] * frequencies[i], rounded to float as the
/// CPU does. q (rows, count * width), k and v (rows, kv_count * width). Idle rows change nothing.
template <class T>
void turn_and_append_async(const Heads& heads, gpu::DenseView<T> q, gpu::DenseView<const T> k,
                           gpu::DenseView<const T> v, const HeadTurns& turns, const TokenRows& rows,
                           const KvLayer<T>& cache, cudaStream_t stream);

/// out = silu(gate) * up, (rows, width) each; `out` may be `gate`.
template <class T>
void swiglu_async(gpu::DenseView<const T> gate, gpu::DenseView<const T> up, gpu::DenseView<T> out,
                  cudaStream_t stream);

}  // namespace higgs::model
