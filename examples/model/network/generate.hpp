// SPDX-License-Identifier: Apache-2.0
// Writing on from a prompt.
#pragma once

#include "network/sampling.hpp"
#include "network/transformer.hpp"
#include "tokenizer/tokenizer.hpp"

#include <higgs/core/executor.hpp>

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace higgs::model {

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
