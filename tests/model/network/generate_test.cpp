// SPDX-License-Identifier: Apache-2.0
#include "network/generate.hpp"

#include "model/tiny_model.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <vector>

using namespace higgs::model;

TEST_CASE("greedy generation appends the likeliest token again and again", "[model][generate]") {
  const Transformer model = load_tiny(tiny_config("llama"));
  const std::vector<TokenId> prompt = tiny_text(10);
  std::vector<TokenId> seen;
  const Generation result = generate(model, prompt, 20, {}, [&](TokenId id) { seen.push_back(id); });
  CHECK(result.prompt_tokens == 10);
  CHECK(result.tokens.size() == 20);
  CHECK(seen == result.tokens);

  std::vector<TokenId> text = prompt;
  for (int i = 0; i < 20; ++i) {  // without a cache
    const auto count = static_cast<std::int64_t>(text.size());
    KvCache cache(model.config(), count);
    std::vector<float> hidden(text.size() * 24), logits(40);
    model.forward(text, cache, {hidden.data(), count, 24});
    model.logits(higgs::MatrixView<const float>(hidden.data() + (count - 1) * 24, 1, 24),
                 {logits.data(), 1, 40});
    text.push_back(static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
  }
  CHECK(std::vector<TokenId>(text.begin() + 10, text.end()) == result.tokens);
}

TEST_CASE("generation ends with an end token and with the context", "[model][generate]") {
  ModelConfig config = tiny_config("llama");
  const Transformer model = load_tiny(config);
  const auto ignore = [](TokenId) {};
  const Generation free = generate(model, tiny_text(10), 1000, {}, ignore);
  CHECK(free.tokens.size() == 54);  // context 64
  config.end_tokens = {free.tokens[5]};
  const Transformer ending(config, model.weights);
  const Generation ended = generate(ending, tiny_text(10), 1000, {}, ignore);
  const auto first = std::find(free.tokens.begin(), free.tokens.end(), free.tokens[5]);
  CHECK(ended.tokens == std::vector<TokenId>(free.tokens.begin(), first + 1));
  const Generation told = generate(model, tiny_text(10), 1000, {}, ignore, higgs::default_executor(),
                                   std::vector<TokenId>{free.tokens[5]});
  CHECK(told.tokens == ended.tokens);

  CHECK_THROWS_AS(generate(model, {}, 5, {}, ignore), higgs::InvalidArgument);
  CHECK_THROWS_AS(generate(model, tiny_text(64), 5, {}, ignore), higgs::InvalidArgument);
}

TEST_CASE("the same seed gives the same text", "[model][generate]") {
  const Transformer model = load_tiny(tiny_config("qwen2"));
  const auto text = [&](std::uint64_t seed) {
    return generate(model, tiny_text(5), 40, {.temperature = 1, .seed = seed}, [](TokenId) {}).tokens;
  };
  CHECK(text(1) == text(1));
  CHECK(text(1) != text(2));
}
