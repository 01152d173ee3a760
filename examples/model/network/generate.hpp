// SPDX-License-Identifier: Apache-2.0
// Writing on from prompts.
#pragma once

#include "network/sampling.hpp"
#include "network/transformer.hpp"
#include "tokenizer/tokenizer.hpp"

#include <higgs/core/executor.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace higgs::model {

/// What generate() did for one text, and how fast.
struct Generation {
  std::vector<TokenId> tokens;  // without the prompt, with the end token if one came
  std::int64_t prompt_tokens = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;  // for all tokens but the first, which the prefill predicts
};

/// Called with the place of a text among the prompts and its next token; may be null.
using OnToken = std::function<void(std::size_t text, TokenId token)>;

/// Continues each of the prompts by at most `count` tokens, until an end token of the model, one of `more_ends`, or the end
/// of the model's context. Text i draws with seed + i. Short prompts are read together; prefill_seconds are a prompt's
/// share by its tokens. Then all texts grow together: a step reads the weights once and gives each text its next token.
/// decode_seconds go from the end of all prompts to the last token of the text. A text has the tokens that it has when it
/// is written alone. Throws InvalidArgument, which names the prompt, if there is no prompt or one is empty or leaves no
/// room.
std::vector<Generation> generate(const Transformer& model, std::span<const std::vector<TokenId>> prompts,
                                 std::int64_t count, const Sampling& sampling, const OnToken& on_token,
                                 Executor& executor = default_executor(),
                                 std::span<const TokenId> more_ends = {});

}  // namespace higgs::model
