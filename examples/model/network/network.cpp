// SPDX-License-Identifier: Apache-2.0
#include "network/network.hpp"

#include "architecture/parts.hpp"

#include <higgs/core/error.hpp>

#include <utility>

namespace higgs::model {
namespace {

// The linear layer of a block that has that name; null if there is none.
template <class AnyWeights>
auto find_linear(const ModelConfig& config, AnyWeights& weights, std::string_view name)
    -> decltype(&weights.output) {
  for (const BlockLinear& each : block_linears(config))
    if (each.name == name) return &each.in(weights);
  return name == output_name && !config.tied_embeddings ? &weights.output : nullptr;
}

[[noreturn]] void refuse_name(const std::string& model, std::string_view name) {
  throw InvalidArgument(model + ": has no matrix \"" + std::string(name) + "\"");
}

std::variant<SharedMatrix, PackedMatrix> packed(const Replacement& weight, Executor& executor) {
  if (const auto* dense = std::get_if<SharedMatrix>(&weight)) return *dense;
  return PackedMatrix(std::get<AnyQuantizedMatrix>(weight), executor);
}

}  // namespace

void Network::forward(std::span<const TokenId> tokens, MatrixView<float> hidden) {
  embed(tokens, hidden);
  run_blocks(0, static_cast<std::size_t>(config().layers), hidden);
  finish(hidden, hidden);
}

HostNetwork::HostNetwork(Transformer model, Executor& executor, KvType kv)
    : model_(std::move(model)), executor_(executor), kv_(kv) {}

void HostNetwork::embed(std::span<const TokenId> tokens, MatrixView<float> x) { model_.embed(tokens, x); }

void HostNetwork::run_blocks(std::size_t first, std::size_t last, MatrixView<float> x) {
  if (x.rows == 0) return;
  if (!cache_ || cache_->capacity() != x.rows) cache_.emplace(model_.config(), x.rows, kv_);
  model_.run_blocks(first, last, x, *cache_, executor_);
}

void HostNetwork::finish(MatrixView<const float> x, MatrixView<float> hidden) {
  model_.finish(x, hidden, executor_);
}

void HostNetwork::logits(MatrixView<const float> hidden, MatrixView<float> logits) {
  model_.logits(hidden, logits, executor_);
}

OutputLayer HostNetwork::output() const {
  return [layer = model_.weights.output, &executor = executor_](MatrixView<const float> hidden,
                                                                MatrixView<float> logits) {
    layer.apply(hidden, logits, executor);
  };
}

SharedMatrix HostNetwork::dense(std::string_view matrix, const char* function) const {
  if (matrix == embedding_name) return require_dense(model_.weights.embedding, function);
  const Linear* linear = find_linear(model_.config(), model_.weights, matrix);
  if (!linear) refuse_name(name(), matrix);
  return require_dense(*linear, function);
}

std::unique_ptr<Network> HostNetwork::copy() const {
  return std::make_unique<HostNetwork>(model_, executor_, kv_);
}

void HostNetwork::replace(std::string_view matrix, const Replacement& weight) {
  if (matrix == embedding_name) {
    std::visit([&](const auto& content) { model_.weights.embedding.weight = content; }, weight);
    if (config().tied_embeddings) model_.weights.output.weight = packed(weight, executor_);
    return;
  }
  Linear* linear = find_linear(model_.config(), model_.weights, matrix);
  if (!linear) refuse_name(name(), matrix);
  linear->weight = packed(weight, executor_);
}

}  // namespace higgs::model
