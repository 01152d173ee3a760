// SPDX-License-Identifier: Apache-2.0
// The choice of a token by arithmetic that a GPU repeats bit for bit: probabilities are integers, so their sums do not
// depend on an order. Sampler (network/generate.hpp) makes the same choice with doubles.
#pragma once

#include "network/generate.hpp"

#include <higgs/config.hpp>

#include <cstdint>
#include <span>

namespace higgs::model {

/// Sampling as kernels take it.
struct TokenChoice {
  float slope = 0;         // log2(e) / temperature; 0: the likeliest token
  std::int32_t top_k = 0;  // among the k likeliest tokens; 0: all
  double top_p = 1;        // among the likeliest tokens that together have this probability

  TokenChoice() = default;
  explicit TokenChoice(const Sampling& sampling);
};

/// The token that 64 random bits choose. Ties go to the lowest id. Returns -1 - id if the logit of `id` is NaN or
/// +infinity, the lowest such id.
TokenId choose_token(std::span<const float> logits, const TokenChoice& choice, std::uint64_t random);

}  // namespace higgs::model
