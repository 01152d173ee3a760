// SPDX-License-Identifier: Apache-2.0
// Writing on from a prompt.
#pragma once

#include "network/transformer.hpp"
#include "tokenizer/tokenizer.hpp"

#include <higgs/core/executor.hpp>

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace higgs::model {

/// How the next token is chosen.
struct Sampling {
  double temperature = 0;  ///< 0: the likeliest token
  std::int64_t top_k = 0;  ///< among the k likeliest tokens; 0: all
  double top_p = 1;        ///< among the likeliest tokens that together have this probability
  std::uint64_t seed = 0;
};

/// Chooses tokens; the same seed gives the same choices for the same logits.
class Sampler {
 public:
  /// Throws InvalidArgument for a negative temperature or top_k, and for top_p outside (0, 1].
  explicit Sampler(const Sampling& sampling);
  /// Throws FormatError, which names the token, for a logit that is NaN or +infinity: the model is damaged.
  TokenId choose(std::span<const float> logits);

 private:
  Sampling sampling_;
  std::uint64_t drawn_ = 0;
};

/// What generate() did, and how fast.
struct Generation {
  std::vector<TokenId> tokens;  // without the prompt, with the end token if one came
  std::int64_t prompt_tokens = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;  // for all tokens but the first, which the prefill predicts
};

/// Continues `prompt` by at most `count` tokens, until an end token of the model, one of `more_ends`, or the end of the
/// model's context. Calls `on_token` with each token as it comes. Throws InvalidArgument if the prompt is empty or
/// leaves no room.
Generation generate(const Transformer& model, std::span<const TokenId> prompt, std::int64_t count,
                    const Sampling& sampling, const std::function<void(TokenId)>& on_token,
                    Executor& executor = default_executor(), std::span<const TokenId> more_ends = {});

}  // namespace higgs::model
