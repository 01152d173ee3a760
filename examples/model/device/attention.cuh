// SPDX-License-Identifier: Apache-2.0
// Attention of a decoder on the device: softmax(scale * q k^T) v of each head, causal, over the keys and values in the
// cache, those of the rows themselves included (turn_and_append_async comes first). Sums are float, probabilities are
// rounded to T. attention_reference() in attention.hpp is the definition. A row's result depends on its own sequence
// alone, bit for bit: not on the batch, nor on the device.
#pragma once

#include "device/kv_layer.cuh"

#include <higgs/core/half.hpp>
#include <higgs/gpu/matrix.cuh>

#include <cuda_runtime.h>

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
std::int32_t decode_splits(const Heads& heads, std::int32_t capacity);
/// Bytes of workspace for up to `rows` rows. The workspace begins as zeros, at a multiple of 16 bytes. Each call leaves
/// it ready for the next; no two calls may use it at the same time.
std::size_t decode_attention_workspace(const Heads& heads, std::int64_t rows, std::int32_t splits);

/// Attention of one token each of several sequences. Query heads that share keys read them once. The keys of a sequence
/// are divided into at most `splits` parts by its own length; the last block of a head to finish adds the parts, in
/// their order.
template <class T>
void decode_attention_async(const Attention<T>& attention, std::int32_t splits, std::byte* workspace,
                            cudaStream_t stream);

/// Attention of rows that are neighbouring tokens of one sequence, in the order of their positions: a prompt, or a chunk
/// of one. None of them may be idle.
template <class T>
void prefill_attention_async(const Attention<T>& attention, cudaStream_t stream);

}  // namespace higgs::model
