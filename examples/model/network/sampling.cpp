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

// The likeliest tokens with their weights. A place in their order is found without sorting them all: sums of integers do
// not depend on an order.
class TokenOrder {
 public:
  struct Place {
    std::int32_t token;
    std::uint64_t weight;  // of the token and all likelier ones
  };

  // The `count` likeliest of all tokens, the likeliest of which has the logit `most`.
  TokenOrder(std::span<const float> logits, float slope, float most, std::int64_t count) {
    tokens_.reserve(logits.size());
    for (const float logit : logits)
      tokens_.push_back(
          {logit, static_cast<std::int32_t>(tokens_.size()), weight_of(log2_odds(logit, most, slope))});
    if (count == std::ssize(tokens_)) return;
    std::nth_element(tokens_.begin(), tokens_.begin() + count, tokens_.end(), likelier);
    tokens_.resize(static_cast<std::size_t>(count));
  }

  std::uint64_t total() const { return sum(tokens_.begin(), tokens_.end()); }

  // The likeliest token that has `weight` together with all likelier ones; weight <= total().
  Place reach(std::uint64_t weight) {
    auto first = tokens_.begin(), last = tokens_.end();
    std::uint64_t before = 0;  // weight of the tokens in front of `first`, which are likelier
    while (last - first > 1) {
      const auto middle = first + (last - first) / 2;
      std::nth_element(first, middle, last, likelier);
      const std::uint64_t front = sum(first, middle);
      if (before + front >= weight) {
        last = middle;
      } else {
        before += front;
        first = middle;
      }
    }
    return {first->id, before + first->weight};
  }

 private:
  struct Token {
    float logit;
    std::int32_t id;
    std::uint64_t weight;
  };
  static bool likelier(const Token& a, const Token& b) noexcept {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  }
  template <class Iterator>
  static std::uint64_t sum(Iterator first, Iterator last) {
    return std::accumulate(first, last, std::uint64_t{0},
                           [](std::uint64_t all, const Token& token) { return all + token.weight; });
  }

  std::vector<Token> tokens_;
};

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

  const auto kept_count = choice.top_k > 0 && choice.top_k < count ? choice.top_k : count;
  TokenOrder order(logits, choice.slope, *likeliest, kept_count);
  const std::uint64_t kept = order.reach(nucleus_of(choice.top_p, order.total())).weight;
  return order.reach(multiply_high(random, kept) + 1).token;
}

std::int32_t Sampler::choose(std::span<const float> logits) {
  const std::int32_t token = choose_token(logits, choice_, random_bits(seed_, drawn_++));
  if (token >= 0) return token;
  const std::int32_t damaged = -1 - token;
  throw FormatError("the model gives the token " + std::to_string(damaged) + " a logit of " +
                    std::to_string(logits[static_cast<std::size_t>(damaged)]) + ": its weights are damaged");
}

}  // namespace higgs::model
