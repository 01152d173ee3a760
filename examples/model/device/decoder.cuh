// SPDX-License-Identifier: Apache-2.0
// The forward pass of a decoder on the device, put on a stream without allocating or waiting. Transformer
// (network/transformer.hpp) is its definition. Activations, keys and values are fp16 or bf16 (T), the residual stream,
// logits and all sums are float.
#pragma once

#include "architecture/config.hpp"
#include "device/kv_layer.hpp"
#include "device/memory.hpp"
#include "device/ops.cuh"
#include "device/product_space.cuh"
#include "device/queue.cuh"
#include "device/weights.cuh"

#include <higgs/gpu/matrix.cuh>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace higgs::model {

/// What the rows of a pass are.
enum class Pass {
  Prompt,  // neighbouring tokens of one text, in the order of their positions
  Step     // one token of each text: row r belongs to text r
};

/// What the layers of a model ask of the memory of a Decoder.
struct LayerNeeds {
  ProductNeeds products;
  std::int64_t feed_parts =
      1;  // arrays (rows, ffn_width) between gate and down: 2 where both are apart, 3 before a GEMM
};
/// For passes of that size.
template <class T>
LayerNeeds layer_needs(const DeviceWeights<T>& weights, const DecoderSize& size);

/// Device memory of a Decoder apart from weights.
DeviceNeeds decoder_needs(const ModelConfig& config, const DecoderSize& size, const LayerNeeds& layers);

/// A model with the memory of its activations, keys and values. One stream may use it at a time.
template <class T>
class Decoder {
 public:
  /// Allocates all that passes need. Throws CudaError if the device has no room.
  Decoder(const ModelConfig& config, DeviceWeights<T> weights, const DecoderSize& size);

  const DecoderSize& size() const noexcept { return size_; }
  /// Device memory apart from weights.
  std::size_t size_bytes() const noexcept;

  /// The states become `scale` times the rows of the embedding that `tokens` (rows) in device memory name.
  void embed_async(const std::int32_t* tokens, std::int64_t rows, float scale, cudaStream_t stream);
  /// Blocks [first, last) work on the states of `rows` tokens, whose keys and values join the cache. What the last block
  /// adds may be kept apart until settle_async() or finish_async() adds it.
  void blocks_async(std::size_t first, std::size_t last, std::int64_t rows, const TokenRows& tokens,
                    Pass pass, cudaStream_t stream);
  /// The states take up what the last block added.
  void settle_async(std::int64_t rows, cudaStream_t stream);
  /// hidden() becomes what the output layer sees of rows [first, first + count) of the states, count <= rows.
  void finish_async(std::int64_t first, std::int64_t count, cudaStream_t stream);
  /// logits() of the first `count` rows of hidden(), count <= logit_rows.
  void logits_async(std::int64_t count, cudaStream_t stream);

  /// The residual stream (rows, width).
  gpu::DenseView<float> states(std::int64_t rows) const { return {states_.data(), rows, config_.width}; }
  gpu::DenseView<T> hidden(std::int64_t rows) const { return {normed_.data(), rows, config_.width}; }
  gpu::DenseView<float> logits(std::int64_t rows) const { return {logits_.data(), rows, config_.vocabulary}; }

 private:
  Queue queue_on(cudaStream_t stream) const noexcept { return {stream, weights_.overlap}; }
  void attend_async(std::size_t index, std::int64_t rows, const TokenRows& tokens, Pass pass, Queue queue);
  void feed_forward_async(const DeviceBlock<T>& block, std::int64_t rows, Queue queue);
  gpu::DenseView<const T> gate_async(const DeviceGroup<T>& gate_up, std::int64_t rows, Queue queue);
  void add_product_async(const DeviceLinear<T>& linear, gpu::DenseView<const T> x, Queue queue);
  void norm_async(const SharedFloats& gain, std::int64_t first, std::int64_t rows, float factor, Queue queue);

  ModelConfig config_;
  DeviceWeights<T> weights_;
  DecoderSize size_;
  Heads heads_;
  std::int32_t splits_;
  LayerNeeds needs_;
  bool added_pending_ = false;            // whether added_ has to join the states
  gpu::DeviceBuffer<float> states_;       // (rows, width)
  gpu::DeviceBuffer<float> added_;        // (rows, width); none where products add to the states
  gpu::DeviceBuffer<T> normed_;           // (rows, width)
  gpu::DeviceBuffer<T> qkv_;              // (rows, query_width + 2 kv_width)
  gpu::DeviceBuffer<T> attended_;         // (rows, query_width)
  gpu::DeviceBuffer<T> feed_;             // (rows, feed_parts * ffn_width)
  gpu::DeviceBuffer<float> logits_;       // (logit_rows, vocabulary)
  gpu::DeviceBuffer<float> frequencies_;  // (head_width / 2)
  gpu::DeviceBuffer<T> keys_, values_;    // (layers) of KvLayer
  ProductSpace space_;
  gpu::DeviceBuffer<std::byte> attention_workspace_;
};

}  // namespace higgs::model
