// SPDX-License-Identifier: Apache-2.0
#include "device/decoder.cuh"

#include "architecture/rope.hpp"
#include "device/attention.cuh"

#include <higgs/core/half.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

namespace higgs::model {
namespace {

Heads heads_of(const ModelConfig& config) {
  return {static_cast<std::int32_t>(config.heads), static_cast<std::int32_t>(config.kv_heads),
          static_cast<std::int32_t>(config.head_width)};
}

template <class T>
gpu::DeviceBuffer<T> room(std::int64_t rows, std::int64_t cols) {
  return gpu::DeviceBuffer<T>(static_cast<std::size_t>(rows * cols));
}

// Elements of the keys of all layers.
std::size_t cache_size(const ModelConfig& config, const DecoderSize& size) {
  return static_cast<std::size_t>(config.layers) *
         KvLayer<Half>::size(heads_of(config), size.sequences, size.capacity);
}

template <class T>
std::size_t workspace_of(const DeviceWeights<T>& weights, const DecoderSize& size) {
  std::size_t bytes = weights.output.weight->workspace_bytes(size.logit_rows);
  for (const DeviceBlock<T>& block : weights.blocks)
    for (const auto* linear : {&block.q, &block.k, &block.v, &block.o, &block.gate, &block.up, &block.down})
      bytes = std::max(bytes, linear->weight->workspace_bytes(size.rows));
  return bytes;
}

// Bytes of all buffers but the cache and the workspace of products.
std::int64_t scratch_bytes(const ModelConfig& config, const DecoderSize& size) {
  const std::int64_t of_16_bits =
      config.width + 2 * config.query_width() + 2 * config.kv_width() + 2 * config.ffn_width;
  const Heads heads = heads_of(config);
  const std::size_t attention = decode_attention_workspace(
      heads, size.sequences, decode_splits(heads, static_cast<std::int32_t>(size.capacity)));
  return size.rows * (2 * of_16_bits + 8 * config.width) + size.logit_rows * config.vocabulary * 4 +
         config.head_width / 2 * 4 + static_cast<std::int64_t>(attention);
}

}  // namespace

DeviceNeeds decoder_needs(const ModelConfig& config, const DecoderSize& size) {
  return {.cache = static_cast<std::int64_t>(2 * sizeof(Half) * cache_size(config, size)),
          .workspace = scratch_bytes(config, size)};
}

template <class T>
Decoder<T>::Decoder(const ModelConfig& config, DeviceWeights<T> weights, const DecoderSize& size)
    : config_(config),
      weights_(std::move(weights)),
      size_(size),
      heads_(heads_of(config)),
      splits_(decode_splits(heads_, static_cast<std::int32_t>(size.capacity))),
      states_(room<float>(size.rows, config.width)),
      added_(room<float>(size.rows, config.width)),
      normed_(room<T>(size.rows, config.width)),
      q_(room<T>(size.rows, config.query_width())),
      attended_(room<T>(size.rows, config.query_width())),
      k_(room<T>(size.rows, config.kv_width())),
      v_(room<T>(size.rows, config.kv_width())),
      gate_(room<T>(size.rows, config.ffn_width)),
      up_(room<T>(size.rows, config.ffn_width)),
      logits_(room<float>(size.logit_rows, config.vocabulary)),
      frequencies_(std::span<const float>(rope_frequencies(config, size.capacity))),
      keys_(gpu::DeviceBuffer<T>::zeros(cache_size(config, size))),
      values_(gpu::DeviceBuffer<T>::zeros(cache_size(config, size))),
      workspace_(gpu::DeviceBuffer<std::byte>::zeros(workspace_of(weights_, size))),
      attention_workspace_(
          gpu::DeviceBuffer<std::byte>::zeros(decode_attention_workspace(heads_, size.sequences, splits_))) {}

template <class T>
std::size_t Decoder<T>::size_bytes() const noexcept {
  return states_.size_bytes() + added_.size_bytes() + normed_.size_bytes() + q_.size_bytes() +
         attended_.size_bytes() + k_.size_bytes() + v_.size_bytes() + gate_.size_bytes() + up_.size_bytes() +
         logits_.size_bytes() + frequencies_.size_bytes() + keys_.size_bytes() + values_.size_bytes() +
         workspace_.size_bytes() + attention_workspace_.size_bytes();
}

template <class T>
void Decoder<T>::embed_async(const std::int32_t* tokens, std::int64_t rows, float scale,
                             cudaStream_t stream) {
  model::embed_async<T>({weights_.embedding->data(), config_.vocabulary, config_.width}, tokens, scale,
                        states(rows), stream);
  added_pending_ = false;
}

// normed_ = norm(states + what the last layer added) of rows from `first` on.
template <class T>
void Decoder<T>::norm_async(const SharedFloats& gain, std::int64_t first, std::int64_t rows, float factor,
                            cudaStream_t stream) {
  const gpu::DenseView<float> x(states_.data() + first * config_.width, rows, config_.width);
  const gpu::DenseView<const float> added(added_.data() + first * config_.width, rows, config_.width);
  const auto epsilon = static_cast<float>(config_.rms_epsilon);
  if (added_pending_)
    add_norm_async<T, float>(x, added, static_cast<float>(config_.residual_scale), gain->data(), epsilon,
                             factor, hidden(rows), stream);
  else
    model::norm_async<T>(x, gain->data(), epsilon, factor, hidden(rows), stream);
  added_pending_ = false;
}

template <class T>
void Decoder<T>::blocks_async(std::size_t first, std::size_t last, std::int64_t rows, const TokenRows& tokens,
                              Pass pass, cudaStream_t stream) {
  for (std::size_t index = first; index < last; ++index) {
    attend_async(index, rows, tokens, pass, stream);
    feed_forward_async(weights_.blocks[index], rows, stream);
  }
}

template <class T>
void Decoder<T>::attend_async(std::size_t index, std::int64_t rows, const TokenRows& tokens, Pass pass,
                              cudaStream_t stream) {
  const DeviceBlock<T>& block = weights_.blocks[index];
  const gpu::DenseView<T> q(q_.data(), rows, config_.query_width()), k(k_.data(), rows, config_.kv_width()),
      v(v_.data(), rows, config_.kv_width()), attended(attended_.data(), rows, config_.query_width());
  norm_async(block.attention_norm, 0, rows, 1, stream);
  block.q.multiply_async(hidden(rows), q, workspace_.span(), stream);
  block.k.multiply_async(hidden(rows), k, workspace_.span(), stream);
  block.v.multiply_async(hidden(rows), v, workspace_.span(), stream);

  const HeadTurns turns{.q_gain = block.q_norm ? block.q_norm->data() : nullptr,
                        .k_gain = block.k_norm ? block.k_norm->data() : nullptr,
                        .epsilon = static_cast<float>(config_.rms_epsilon),
                        .frequencies = frequencies_.data(),
                        .attention_factor = static_cast<float>(config_.rope_scaling.attention_factor)};
  const std::size_t layer = KvLayer<T>::size(heads_, size_.sequences, size_.capacity);
  const KvLayer<T> cache{keys_.data() + index * layer, values_.data() + index * layer,
                         static_cast<std::int32_t>(size_.capacity)};
  turn_and_append_async<T>(heads_, q, k, v, turns, tokens, cache, stream);
  const double usual = 1.0 / std::sqrt(static_cast<double>(config_.head_width));
  const double scale = config_.attention_scale != 0 ? config_.attention_scale : usual;
  const Attention<T> attention{.heads = heads_,
                               .q = q,
                               .cache = cache,
                               .rows = tokens,
                               .scale = static_cast<float>(scale),
                               .out = attended};
  if (pass == Pass::Step)
    decode_attention_async<T>(attention, splits_, attention_workspace_.data(), stream);
  else
    prefill_attention_async<T>(attention, stream);
  block.o.multiply_async(gpu::DenseView<const T>(attended),
                         gpu::DenseView<float>(added_.data(), rows, config_.width), workspace_.span(),
                         stream);
  added_pending_ = true;
}

template <class T>
void Decoder<T>::feed_forward_async(const DeviceBlock<T>& block, std::int64_t rows, cudaStream_t stream) {
  const gpu::DenseView<T> gate(gate_.data(), rows, config_.ffn_width),
      up(up_.data(), rows, config_.ffn_width);
  norm_async(block.ffn_norm, 0, rows, 1, stream);
  block.gate.multiply_async(hidden(rows), gate, workspace_.span(), stream);
  block.up.multiply_async(hidden(rows), up, workspace_.span(), stream);
  swiglu_async<T>(gate, up, gate, stream);
  block.down.multiply_async(gpu::DenseView<const T>(gate),
                            gpu::DenseView<float>(added_.data(), rows, config_.width), workspace_.span(),
                            stream);
  added_pending_ = true;
}

template <class T>
void Decoder<T>::settle_async(std::int64_t rows, cudaStream_t stream) {
  if (!added_pending_) return;
  add_async<float>(states(rows), {added_.data(), rows, config_.width},
                   static_cast<float>(config_.residual_scale), stream);
  added_pending_ = false;
}

template <class T>
void Decoder<T>::finish_async(std::int64_t first, std::int64_t count, cudaStream_t stream) {
  norm_async(weights_.norm, first, count, static_cast<float>(1 / config_.logits_scale), stream);
}

template <class T>
void Decoder<T>::logits_async(std::int64_t count, cudaStream_t stream) {
  weights_.output.multiply_async(hidden(count), logits(count), workspace_.span(), stream);
}

template class Decoder<Half>;
template class Decoder<BFloat16>;

}  // namespace higgs::model
