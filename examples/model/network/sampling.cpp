// SPDX-License-Identifier: Apache-2.0
#include "network/sampling.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>
#include <numeric>
#include <string>
#include <vector>

namespace higgs::model {
namespace {

// A temperature above 0 stays one, however large or small.
float slope_of(double temperature) {
  using Limits = std::numeric_limits<float>;
  return static_cast<float>(
      std::clamp(std::numbers::log2e / temperature, double{Limits::min()}, double{Limits::max()}));
}

}  // namespace

TokenChoice::TokenChoice(const Sampling& sampling)
    : slope(sampling.temperature == 0 ? 0.0f : slope_of(sampling.temperature)),
      top_k(static_cast<std::int32_t>(std::min<std::int64_t>(sampling.top_k, most_tokens))),
      top_p(sampling.top_p) {
  expects(sampling.temperature >= 0 && std::isfinite(sampling.temperature),
          "higgs::model::TokenChoice: temperature must be finite and not negative");
  expects(sampling.top_k >= 0, "higgs::model::TokenChoice: top_k must not be negative");
  expects(sampling.top_p > 0 && sampling.top_p <= 1, "higgs::model::TokenChoice: top_p must lie in (0, 1]");
}

std::int32_t choose_token(std::span<const float> logits, const TokenChoice& choice, std::uint64_t random) {
  const auto count = static_cast<std::int64_t>(logits.size());
  expects(count > 0 && count <= most_tokens, "higgs::model::choose_token: logits must be 1 to most_tokens");
  const auto damaged = std::find_if(logits.begin(), logits.end(), [](float logit) {
    return !(logit < std::numeric_limits<float>::infinity());
  });
  if (damaged != logits.end()) return -1 - static_cast<std::int32_t>(damaged - logits.begin());
  const auto likeliest = std::max_element(logits.begin(), logits.end());
  if (choice.slope == 0) return static_cast<std::int32_t>(likeliest - logits.begin());

  const auto logit = [&](std::int32_t id) { return logits[static_cast<std::size_t>(id)]; };
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto kept_count = choice.top_k > 0 && choice.top_k < count ? choice.top_k : count;
  std::partial_sort(
      order.begin(), order.begin() + kept_count, order.end(),
      [&](std::int32_t a, std::int32_t b) { return logit(a) != logit(b) ? logit(a) > logit(b) : a < b; });
  order.resize(static_cast<std::size_t>(kept_count));

  std::vector<std::uint64_t> up_to;  // weight of a token and all likelier ones
  std::uint64_t total = 0;
  for (const std::int32_t id : order)
    up_to.push_back(total += weight_of(log2_odds(logit(id), *likeliest, choice.slope)));
  const auto first_at_least = [&](std::uint64_t weight) {
    return std::lower_bound(up_to.begin(), up_to.end(), weight);
  };
  const std::uint64_t kept = *first_at_least(nucleus_of(choice.top_p, total));
  const std::uint64_t drawn = multiply_high(random, kept) + 1;
  return order[static_cast<std::size_t>(first_at_least(drawn) - up_to.begin())];
}

std::int32_t Sampler::choose(std::span<const float> logits) {
  const std::int32_t token = choose_token(logits, choice_, random_bits(seed_, drawn_++));
  if (token >= 0) return token;
  const std::int32_t damaged = -1 - token;
  throw FormatError("the model gives the token " + std::to_string(damaged) + " a logit of " +
                    std::to_string(logits[static_cast<std::size_t>(damaged)]) + ": its weights are damaged");
}

}  // namespace higgs::model
