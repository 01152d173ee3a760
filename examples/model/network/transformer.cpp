// SPDX-License-Identifier: Apache-2.0
#include "network/transformer.hpp"

#include "math/math.hpp"
#include "source/load.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <utility>

namespace higgs::model {

void check_token(TokenId token, std::int64_t rows, const std::string& model) {
  if (token < 0 || token >= rows)
    throw InvalidArgument(model + ": token " + std::to_string(token) +
                          " has no row in the embedding, which has " + std::to_string(rows) + " rows");
}

Transformer::Transformer(ModelConfig model_config, Weights model_weights, std::string name)
    : weights(std::move(model_weights)), config_(std::move(model_config)), name_(std::move(name)) {}

Transformer Transformer::load(const ModelSource& source, Executor& executor) {
  return {source.require_config(), load_weights(source, executor), source.path().string()};
}

void Transformer::forward(std::span<const TokenId> tokens, KvCache& cache, MatrixView<float> hidden,
                          Executor& executor) const {
  forward(tokens, std::vector<TextPart>{{&cache, std::ssize(tokens)}}, hidden, executor);
}

void Transformer::forward(std::span<const TokenId> tokens, const std::vector<TextPart>& texts,
                          MatrixView<float> hidden, Executor& executor) const {
  const auto count = static_cast<std::int64_t>(tokens.size());
  expects(hidden.rows == count && hidden.cols == config_.width && hidden.col_stride == 1,
          "higgs::model::Transformer::forward: hidden must be (tokens, width)");
  if (count == 0) return;
  Matrix x(count, config_.width);
  embed(tokens, x.view());
  run_blocks(0, weights.blocks.size(), x.view(), texts, executor);
  for (const TextPart& text : texts) text.cache->advance(text.count);
  finish(x.view(), hidden, executor);
}

void Transformer::embed(std::span<const TokenId> tokens, MatrixView<float> x) const {
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    check_token(tokens[t], config_.vocabulary, name_);
    weights.embedding.read_row(tokens[t], x.row(static_cast<std::int64_t>(t)));
  }
}

void Transformer::run_blocks(std::size_t first, std::size_t last, MatrixView<float> x, KvCache& cache,
                             Executor& executor) const {
  run_blocks(first, last, x, {{&cache, x.rows}}, executor);
}

void Transformer::run_blocks(std::size_t first, std::size_t last, MatrixView<float> x,
                             const std::vector<TextPart>& texts, Executor& executor) const {
  std::int64_t rows = 0;
  for (const TextPart& text : texts) {
    expects(text.count >= 0 && text.count <= text.cache->capacity() - text.cache->size(),
            "higgs::model::Transformer::forward: the cache is full");
    rows += text.count;
  }
  expects(first <= last && last <= weights.blocks.size() && x.rows == rows && x.cols == config_.width,
          "higgs::model::Transformer::run_blocks: x must be (tokens, width), the blocks those of the model");
  Ops ops(config_, texts, executor, &observer);
  check_finite(x, first, ops);
  Value state = ops.begin(x);
  for (std::size_t index = first; index < last; ++index) state = run_block(index, std::move(state), ops);
  std::copy_n(state->value.values.data(), x.size(), x.data);
}

void Transformer::finish(MatrixView<const float> x, MatrixView<float> hidden, Executor& executor) const {
  Ops ops(config_, {}, executor);
  const Value out = last_norm(ops.begin(x), ops);
  for (std::int64_t r = 0; r < x.rows; ++r) std::copy_n(out->value.row(r), x.cols, hidden.row(r));
}

Value Transformer::run_block(std::size_t index, Value x, Ops& ops) const {
  const auto residual_scale = static_cast<float>(config_.residual_scale);
  if (index == 0) ops.scale(x, static_cast<float>(config_.embedding_scale));
  const Value attended = attend(index, x, ops);
  ops.scale(attended, residual_scale);
  x = ops.add(x, attended);
  const Value fed = feed_forward(weights.blocks[index], x, ops);
  ops.scale(fed, residual_scale);
  x = ops.add(x, fed);
  check_finite(x->value.view(), index, ops);
  return x;
}

// O(attention(Q(norm(x)), K(norm(x)), V(norm(x))))
Value Transformer::attend(std::size_t index, const Value& x, Ops& ops) const {
  const Block& block = weights.blocks[index];
  auto [q, k, v] = ops.linear(ops.norm(x, block.attention_norm), block.q, block.k, block.v);
  check_finite(v->value.view(), index, ops);  // here still each token for itself
  if (config_.head_norms) {
    q = ops.norm(q, block.q_norm);
    k = ops.norm(k, block.k_norm);
  }
  ops.rotate(q);
  ops.rotate(k);
  const double usual = 1.0 / std::sqrt(static_cast<double>(config_.head_width));
  const double scale = config_.attention_scale != 0 ? config_.attention_scale : usual;
  return ops.linear(ops.attention(index, q, k, v, static_cast<float>(scale)), block.o)[0];
}

// Down(silu(Gate(norm(x))) * Up(norm(x)))
Value Transformer::feed_forward(const Block& block, const Value& x, Ops& ops) const {
  const auto [gate, up] = ops.linear(ops.norm(x, block.ffn_norm), block.gate, block.up);
  return ops.linear(ops.swiglu(gate, up), block.down)[0];
}

Value Transformer::last_norm(const Value& x, Ops& ops) const {
  const Value out = ops.norm(x, weights.norm);
  ops.scale(out, static_cast<float>(1 / config_.logits_scale));  // the output layer is linear
  return out;
}

void Transformer::check_finite(MatrixView<const float> x, std::size_t layer, const Ops& ops) const {
  const std::int64_t at = find_not_finite(x.data, x.rows * x.cols);
  if (at >= 0)
    throw FormatError(name_ + ": " + ops.name_of(at / x.cols) + " becomes NaN or infinite in layer " +
                      std::to_string(layer) +
                      ": the model is damaged, or its activations exceed the range of floats");
}

void Transformer::logits(MatrixView<const float> hidden, MatrixView<float> logits, Executor& executor) const {
  expects(hidden.cols == config_.width && logits.rows == hidden.rows && logits.cols == config_.vocabulary,
          "higgs::model::Transformer::logits: hidden must be (M, width), logits (M, vocabulary)");
  weights.output.apply(hidden, logits, executor);
  parallel_for(executor, logits.rows, 1, [&](std::int64_t row, std::int64_t) {
    const std::int64_t at = find_not_finite(logits.row(row), logits.cols);
    if (at >= 0)
      throw FormatError(name_ + ": the logit of token " + std::to_string(at) + " is not finite, in row " +
                        std::to_string(row) +
                        " of those asked for: the output layer or the last norm is damaged");
  });
}

void Transformer::next_logits(std::span<const TokenId> tokens, const std::vector<TextPart>& texts,
                              MatrixView<float> logits, Executor& executor) const {
  Matrix hidden(std::ssize(tokens), config_.width), last(std::ssize(texts), config_.width);
  forward(tokens, texts, hidden.view(), executor);
  for (std::int64_t i = 0, end = 0; i < last.rows; ++i) {
    const std::int64_t count = texts[static_cast<std::size_t>(i)].count;
    expects(count > 0, "higgs::model::Transformer::next_logits: a text has no token");
    std::copy_n(hidden.row((end += count) - 1), last.cols, last.row(i));
  }
  this->logits(std::as_const(last).view(), logits, executor);
}

}  // namespace higgs::model
