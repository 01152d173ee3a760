// SPDX-License-Identifier: Apache-2.0
#include "network/generate.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/random.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>

namespace higgs::model {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Sampler::Sampler(const Sampling& sampling) : sampling_(sampling) {
  expects(sampling.temperature >= 0 && std::isfinite(sampling.temperature),
          "higgs::model::Sampler: temperature must not be negative");
  expects(sampling.top_k >= 0, "higgs::model::Sampler: top_k must not be negative");
  expects(sampling.top_p > 0 && sampling.top_p <= 1, "higgs::model::Sampler: top_p must lie in (0, 1]");
}

TokenId Sampler::choose(std::span<const float> logits) {
  for (std::size_t id = 0; id < logits.size(); ++id)
    if (!(logits[id] < std::numeric_limits<float>::infinity()))
      throw FormatError("the model gives the token " + std::to_string(id) + " a logit of " +
                        std::to_string(logits[id]) + ": its weights are damaged");
  if (sampling_.temperature == 0)
    return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());

  std::vector<TokenId> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto logit = [&](TokenId id) { return logits[static_cast<std::size_t>(id)]; };
  const auto likelier = [&](TokenId a, TokenId b) {
    return logit(a) != logit(b) ? logit(a) > logit(b) : a < b;
  };
  if (sampling_.top_k > 0 && sampling_.top_k < static_cast<std::int64_t>(order.size())) {
    const auto end = order.begin() + static_cast<std::ptrdiff_t>(sampling_.top_k);
    std::partial_sort(order.begin(), end, order.end(), likelier);
    order.erase(end, order.end());
  } else {
    std::sort(order.begin(), order.end(), likelier);
  }

  std::vector<double> up_to;  // probability of a token and all likelier ones, not normalized
  double total = 0;
  for (const TokenId id : order) {
    total += std::exp(static_cast<double>(logit(id) - logit(order[0])) / sampling_.temperature);
    up_to.push_back(total);
  }
  const auto first_at_least = [&](double mass) {
    const auto found = std::lower_bound(up_to.begin(), up_to.end(), mass);
    return found == up_to.end() ? up_to.end() - 1 : found;
  };
  const double kept = *first_at_least(sampling_.top_p * total);
  const double drawn = random_uniform(sampling_.seed, drawn_++) * kept;
  return order[static_cast<std::size_t>(first_at_least(drawn) - up_to.begin())];
}

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
