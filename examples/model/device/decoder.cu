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

// Numbers of a row of queries, keys and values.
std::int64_t qkv_cols(const ModelConfig& config) { return config.query_width() + 2 * config.kv_width(); }

// Whether products add to the states. A factor that is not 1 takes a sum of its own.
bool adds_to_states(const ModelConfig& config) { return config.residual_scale == 1; }

// Bytes of all buffers but the cache and what products share.
std::int64_t scratch_bytes(const ModelConfig& config, const DecoderSize& size, std::int64_t feed_parts) {
  const std::int64_t of_16_bits =
      config.width + qkv_cols(config) + config.query_width() + feed_parts * config.ffn_width;
  const std::int64_t floats = (adds_to_states(config) ? 1 : 2) * config.width;
  const Heads heads = heads_of(config);
  const std::size_t attention = decode_attention_workspace(
      heads, size.sequences, decode_splits(heads, static_cast<std::int32_t>(size.capacity)));
  return size.rows * (2 * of_16_bits + 4 * floats) + size.logit_rows * config.vocabulary * 4 +
         config.head_width / 2 * 4 + static_cast<std::int64_t>(attention);
}

}  // namespace

template <class T>
LayerNeeds layer_needs(const DeviceWeights<T>& weights, const DecoderSize& size) {
  LayerNeeds out{.products = {weights.output.weight->workspace_bytes(size.logit_rows)}};
  for (const DeviceBlock<T>& block : weights.blocks) {
    for (const auto* group : {&block.qkv, &block.gate_up})
      out.products = largest(out.products, group->needs(size.rows));
    for (const auto* linear : {&block.o, &block.down})
      out.products = largest(out.products, {linear->weight->workspace_bytes(size.rows)});
    const DeviceLinear<T>& joined = block.gate_up.joined;
    const std::int64_t parts = !joined.weight ? 2 : size.rows < joined.weight->gated_below() ? 1 : 3;
    out.feed_parts = std::max(out.feed_parts, parts);
  }
  return out;
}
template LayerNeeds layer_needs(const DeviceWeights<Half>&, const DecoderSize&);
template LayerNeeds layer_needs(const DeviceWeights<BFloat16>&, const DecoderSize&);

DeviceNeeds decoder_needs(const ModelConfig& config, const DecoderSize& size, const LayerNeeds& layers) {
  return {.cache = static_cast<std::int64_t>(2 * sizeof(Half) * cache_size(config, size)),
          .workspace =
              scratch_bytes(config, size, layers.feed_parts) +
              static_cast<std::int64_t>(layers.products.workspace + layers.products.rotated + gemm_bytes())};
}

template <class T>
Decoder<T>::Decoder(const ModelConfig& config, DeviceWeights<T> weights, const DecoderSize& size)
    : config_(config),
      weights_(std::move(weights)),
      size_(size),
      heads_(heads_of(config)),
      splits_(decode_splits(heads_, static_cast<std::int32_t>(size.capacity))),
      needs_(layer_needs(weights_, size)),
      states_(room<float>(size.rows, config.width)),
      added_(room<float>(adds_to_states(config) ? 0 : size.rows, config.width)),
      normed_(room<T>(size.rows, config.width)),
      qkv_(room<T>(size.rows, qkv_cols(config))),
      attended_(room<T>(size.rows, config.query_width())),
      feed_(room<T>(size.rows, needs_.feed_parts * config.ffn_width)),
      logits_(room<float>(size.logit_rows, config.vocabulary)),
      frequencies_(std::span<const float>(rope_frequencies(config, size.capacity))),
      keys_(gpu::DeviceBuffer<T>::zeros(cache_size(config, size))),
      values_(gpu::DeviceBuffer<T>::zeros(cache_size(config, size))),
      space_(needs_.products, Rows::Many),
      attention_workspace_(
          gpu::DeviceBuffer<std::byte>::zeros(decode_attention_workspace(heads_, size.sequences, splits_))) {}

template <class T>
std::size_t Decoder<T>::size_bytes() const noexcept {
  return states_.size_bytes() + added_.size_bytes() + normed_.size_bytes() + qkv_.size_bytes() +
         attended_.size_bytes() + feed_.size_bytes() + logits_.size_bytes() + frequencies_.size_bytes() +
         keys_.size_bytes() + values_.size_bytes() + space_.size_bytes() + attention_workspace_.size_bytes();
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
                            Queue queue) {
  const gpu::DenseView<float> x(states_.data() + first * config_.width, rows, config_.width);
  const auto epsilon = static_cast<float>(config_.rms_epsilon);
  if (added_pending_)
    add_norm_async<T, float>(x, {added_.data() + first * config_.width, rows, config_.width},
                             static_cast<float>(config_.residual_scale), gain->data(), epsilon, factor,
                             hidden(rows), queue);
  else
    model::norm_async<T>(x, gain->data(), epsilon, factor, hidden(rows), queue);
  added_pending_ = false;
}

template <class T>
void Decoder<T>::blocks_async(std::size_t first, std::size_t last, std::int64_t rows, const TokenRows& tokens,
                              Pass pass, cudaStream_t stream) {
  for (std::size_t index = first; index < last; ++index) {
    attend_async(index, rows, tokens, pass, queue_on(stream));
    feed_forward_async(weights_.blocks[index], rows, queue_on(stream));
  }
}

template <class T>
void Decoder<T>::attend_async(std::size_t index, std::int64_t rows, const TokenRows& tokens, Pass pass,
                              Queue queue) {
  const DeviceBlock<T>& block = weights_.blocks[index];
  const std::int64_t cols = qkv_cols(config_), q_cols = config_.query_width(), kv_cols = config_.kv_width();
  const gpu::DenseView<T> qkv(qkv_.data(), rows, cols), q(qkv.data, rows, q_cols, cols),
      k(q.data + q_cols, rows, kv_cols, cols), v(k.data + kv_cols, rows, kv_cols, cols),
      attended(attended_.data(), rows, q_cols);
  norm_async(block.attention_norm, 0, rows, 1, queue);
  if (block.qkv.is_joined())
    block.qkv.joined.multiply_async(hidden(rows), qkv, space_, queue);
  else
    block.qkv.multiply_parts_async(hidden(rows), qkv, space_, queue);

  const HeadTurns turns{.q_gain = block.q_norm ? block.q_norm->data() : nullptr,
                        .k_gain = block.k_norm ? block.k_norm->data() : nullptr,
                        .epsilon = static_cast<float>(config_.rms_epsilon),
                        .frequencies = frequencies_.data(),
                        .attention_factor = static_cast<float>(config_.rope_scaling.attention_factor)};
  const std::size_t layer = KvLayer<T>::size(heads_, size_.sequences, size_.capacity);
  const KvLayer<T> cache{keys_.data() + index * layer, values_.data() + index * layer,
                         static_cast<std::int32_t>(size_.capacity)};
  turn_and_append_async<T>(heads_, q, k, v, turns, tokens, cache, queue);
  const double usual = 1.0 / std::sqrt(static_cast<double>(config_.head_width));
  const double scale = config_.attention_scale != 0 ? config_.attention_scale : usual;
  const Attention<T> attention{.heads = heads_,
                               .q = q,
                               .cache = cache,
                               .rows = tokens,
                               .scale = static_cast<float>(scale),
                               .out = attended};
  if (pass == Pass::Step)
    decode_attention_async<T>(attention, splits_, attention_workspace_.data(), queue);
  else
    prefill_attention_async<T>(attention, queue);
  add_product_async(block.o, attended, queue);
}

// silu(gate) * up of the rows of hidden().
template <class T>
gpu::DenseView<const T> Decoder<T>::gate_async(const DeviceGroup<T>& gate_up, std::int64_t rows,
                                               Queue queue) {
  if (gate_up.is_joined()) {
    const gpu::DenseView<T> out(feed_.data(), rows, config_.ffn_width),
        pairs(out.row(rows), rows, 2 * config_.ffn_width);
    if (rows < gate_up.joined.weight->gated_below()) {
      gate_up.joined.template multiply_async<T>(hidden(rows), out, space_, queue, {.gated = true});
    } else {
      gate_up.joined.multiply_async(hidden(rows), pairs, space_, queue);
      swiglu_pairs_async<T>(pairs, out, queue);
    }
    return out;
  }
  const gpu::DenseView<T> both(feed_.data(), rows, 2 * config_.ffn_width),
      gate(both.data, rows, config_.ffn_width, both.cols),
      up(both.data + config_.ffn_width, rows, config_.ffn_width, both.cols);
  gate_up.multiply_parts_async(hidden(rows), both, space_, queue);
  swiglu_async<T>(gate, up, gate, queue);
  return gate;
}

template <class T>
void Decoder<T>::feed_forward_async(const DeviceBlock<T>& block, std::int64_t rows, Queue queue) {
  norm_async(block.ffn_norm, 0, rows, 1, queue);
  add_product_async(block.down, gate_async(block.gate_up, rows, queue), queue);
}

// The product joins the states, or is left for the next norm to add.
template <class T>
void Decoder<T>::add_product_async(const DeviceLinear<T>& linear, gpu::DenseView<const T> x, Queue queue) {
  const gpu::DenseView<float> sums = states(x.rows);
  if (adds_to_states(config_)) {
    linear.template multiply_async<float>(x, sums, space_, queue, {.residual = sums.data});
    return;
  }
  linear.multiply_async(x, gpu::DenseView<float>(added_.data(), x.rows, config_.width), space_, queue);
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
  norm_async(weights_.norm, first, count, static_cast<float>(1 / config_.logits_scale), queue_on(stream));
}

template <class T>
void Decoder<T>::logits_async(std::int64_t count, cudaStream_t stream) {
  weights_.output.multiply_async(hidden(count), logits(count), space_, queue_on(stream));
}

template class Decoder<Half>;
template class Decoder<BFloat16>;

}  // namespace higgs::model
