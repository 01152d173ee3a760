// SPDX-License-Identifier: Apache-2.0
#include "network/generate.hpp"

#include "model/tiny_model.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <string>
#include <vector>

using namespace higgs::model;

namespace {

using Tokens = std::vector<TokenId>;
using Texts = std::vector<Tokens>;

Texts tokens_of(const std::vector<Generation>& all) {
  Texts out;
  for (const Generation& each : all) out.push_back(each.tokens);
  return out;
}

}  // namespace

TEST_CASE("greedy generation appends the likeliest token again and again", "[model][generate]") {
  const Transformer model = load_tiny(tiny_config("llama"));
  const Texts prompts{tiny_text(10)};
  Tokens seen;
  const Generation result = generate(model, prompts, 20, {}, [&](std::size_t text, TokenId id) {
                              CHECK(text == 0);
                              seen.push_back(id);
                            }).at(0);
  CHECK(result.prompt_tokens == 10);
  CHECK(result.tokens.size() == 20);
  CHECK(seen == result.tokens);

  Tokens text = prompts[0];
  for (int i = 0; i < 20; ++i) {  // without a cache
    const auto count = static_cast<std::int64_t>(text.size());
    KvCache cache(model.config(), count);
    std::vector<float> hidden(text.size() * 24), logits(40);
    model.forward(text, cache, {hidden.data(), count, 24});
    model.logits(higgs::MatrixView<const float>(hidden.data() + (count - 1) * 24, 1, 24),
                 {logits.data(), 1, 40});
    text.push_back(static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
  }
  CHECK(Tokens(text.begin() + 10, text.end()) == result.tokens);
}

TEST_CASE("texts that grow together are what each would be alone", "[model][generate]") {
  Texts prompts{tiny_text(3), tiny_text(17), tiny_text(9), tiny_text(1), tiny_text(60)};
  for (int length = 51; length < 62; ++length)
    prompts.push_back(tiny_text(length));  // more than are read at once
  for (const std::string family : {"llama", "qwen3"}) {
    ModelConfig config = tiny_config(family);
    const Transformer free = load_tiny(config);
    for (const double temperature : {0.0, 1.5}) {
      const Sampling sampling{.temperature = temperature, .top_k = 20, .top_p = 0.9, .seed = 5};
      // Texts end at different times: this is a token of the first.
      config.end_tokens = {generate(free, {prompts.data(), 1}, 9, sampling, {})[0].tokens[6]};
      const Transformer model(config, free.weights);
      Texts seen(prompts.size());
      const std::vector<Generation> results =
          generate(model, prompts, 24, sampling,
                   [&](std::size_t text, TokenId token) { seen[text].push_back(token); });
      const Texts together = tokens_of(results);
      CHECK(seen == together);
      CHECK(together[0].size() <= 7);
      CHECK(together[4].size() <= 4);  // context 64
      for (std::size_t text = 0; text < prompts.size(); ++text) {
        CHECK(results[text].prompt_tokens == std::ssize(prompts[text]));
        Sampling alone = sampling;
        alone.seed += text;
        CAPTURE(family, temperature, text);
        CHECK(generate(model, {&prompts[text], 1}, 24, alone, {})[0].tokens == together[text]);
      }
    }
  }
}

TEST_CASE("generation ends with an end token and with the context", "[model][generate]") {
  ModelConfig config = tiny_config("llama");
  const Transformer model = load_tiny(config);
  const Texts prompts{tiny_text(10)};
  const Tokens free = generate(model, prompts, 1000, {}, {})[0].tokens;
  CHECK(free.size() == 54);  // context 64
  config.end_tokens = {free[5]};
  const Transformer ending(config, model.weights);
  const Tokens ended = generate(ending, prompts, 1000, {}, {})[0].tokens;
  CHECK(ended == Tokens(free.begin(), std::find(free.begin(), free.end(), free[5]) + 1));
  CHECK(generate(model, prompts, 1000, {}, {}, higgs::default_executor(), Tokens{free[5]})[0].tokens ==
        ended);
  CHECK(generate(model, prompts, 0, {}, {})[0].tokens.empty());
}

TEST_CASE("the prompt that cannot be continued is named", "[model][generate]") {
  const Transformer model = load_tiny(tiny_config("llama"));
  const auto message = [&](const Texts& prompts) {
    return message_of<higgs::InvalidArgument>([&] { generate(model, prompts, 5, {}, {}); });
  };
  CHECK_THAT(message({}), Catch::Contains("there is no prompt"));
  CHECK_THAT(message({{1}, {}}), Catch::Contains("prompt 2 is empty"));
  CHECK_THAT(message({{1}, {2}, tiny_text(64)}), Catch::Contains("prompt 3 has 64 tokens"));
}

TEST_CASE("the same seed gives the same text", "[model][generate]") {
  const Transformer model = load_tiny(tiny_config("qwen2"));
  const auto text = [&](std::uint64_t seed) {
    return tokens_of(generate(model, Texts{tiny_text(5)}, 40, {.temperature = 1, .seed = seed}, {}));
  };
  CHECK(text(1) == text(1));
  CHECK(text(1) != text(2));
}
