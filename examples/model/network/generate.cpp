// SPDX-License-Identifier: Apache-2.0
#include "network/generate.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <chrono>

namespace higgs::model {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Generation generate(const Transformer& model, std::span<const TokenId> prompt, std::int64_t count,
                    const Sampling& sampling, const std::function<void(TokenId)>& on_token,
                    Executor& executor, std::span<const TokenId> more_ends) {
  const ModelConfig& config = model.config();
  const auto length = static_cast<std::int64_t>(prompt.size());
  expects(length > 0, "higgs::model::generate: the prompt is empty");
  expects(length < config.context, "higgs::model::generate: the prompt fills the model's context");
  count = std::min(count, config.context - length);

  Sampler sampler(sampling);
  KvCache cache(config, length + count, KvType::Half);
  std::vector<float> hidden(static_cast<std::size_t>(length * config.width));
  std::vector<float> logits(static_cast<std::size_t>(config.vocabulary));
  // Reads tokens and returns the one to follow the last of them.
  const auto next = [&](std::span<const TokenId> tokens) {
    const auto rows = static_cast<std::int64_t>(tokens.size());
    const MatrixView<float> states(hidden.data(), rows, config.width);
    model.forward(tokens, cache, states, executor);
    model.logits(states.row_range(rows - 1, 1), {logits.data(), 1, config.vocabulary}, executor);
    return sampler.choose(logits);
  };

  Generation out;
  out.prompt_tokens = length;
  auto start = std::chrono::steady_clock::now();
  TokenId token = next(prompt);
  out.prefill_seconds = seconds_since(start);
  start = std::chrono::steady_clock::now();
  while (static_cast<std::int64_t>(out.tokens.size()) < count) {
    out.tokens.push_back(token);
    on_token(token);
    const auto ends = [&](std::span<const TokenId> list) {
      return std::find(list.begin(), list.end(), token) != list.end();
    };
    const bool ended = ends(config.end_tokens) || ends(more_ends);
    if (ended || static_cast<std::int64_t>(out.tokens.size()) == count) break;
    token = next({&token, 1});
  }
  out.decode_seconds = seconds_since(start);
  return out;
}

}  // namespace higgs::model
