// SPDX-License-Identifier: Apache-2.0
#include "network/generate.hpp"

#include "model/tiny_model.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

using namespace higgs::model;

namespace {

// How often each token comes in `draws` draws.
std::vector<double> frequencies(const Sampling& sampling, const std::vector<float>& logits, int draws) {
  Sampler sampler(sampling);
  std::vector<double> out(logits.size());
  for (int i = 0; i < draws; ++i) out[static_cast<std::size_t>(sampler.choose(logits))] += 1.0 / draws;
  return out;
}

}  // namespace

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

TEST_CASE("tokens come as often as their probabilities say", "[model][generate]") {
  const std::vector<float> logits{0.5f, 2.0f, -1.0f, 1.0f, -INFINITY, 1.0f};
  constexpr int draws = 40000;
  const double limit = 5 * std::sqrt(0.25 / draws);  // five standard deviations
  for (const double temperature : {0.5, 1.0, 3.0}) {
    std::vector<double> expected;
    double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit) / temperature);
    for (const float logit : logits)
      expected.push_back(std::exp(static_cast<double>(logit) / temperature) / sum);
    const std::vector<double> found = frequencies({.temperature = temperature, .seed = 7}, logits, draws);
    for (std::size_t i = 0; i < logits.size(); ++i) CHECK(std::fabs(found[i] - expected[i]) < limit);

    // Among the two likeliest, of which the second shares its place: the lower id counts as likelier.
    const std::vector<double> two =
        frequencies({.temperature = temperature, .top_k = 2, .seed = 7}, logits, draws);
    CHECK(std::fabs(two[1] - expected[1] / (expected[1] + expected[3])) < limit);
    CHECK(two[1] + two[3] == Approx(1));

    // Just above the probability of the likeliest: two remain; just below: one.
    const std::vector<double> most =
        frequencies({.temperature = temperature, .top_p = expected[1] + 1e-6, .seed = 7}, logits, draws);
    CHECK(most[1] + most[3] == Approx(1));
    CHECK(most[3] > 0);
    CHECK(frequencies({.temperature = temperature, .top_p = expected[1] - 1e-6, .seed = 7}, logits,
                      1000)[1] == Approx(1));
  }
  CHECK(frequencies({}, logits, 100)[1] == Approx(1));
  CHECK(frequencies({.temperature = 1, .top_k = 1}, logits, 100)[1] == Approx(1));
}

TEST_CASE("sampling options out of range are refused", "[model][generate]") {
  CHECK_THROWS_AS(Sampler({.temperature = -1}), higgs::InvalidArgument);
  CHECK_THROWS_AS(Sampler({.temperature = INFINITY}), higgs::InvalidArgument);
  CHECK_THROWS_AS(Sampler({.top_k = -1}), higgs::InvalidArgument);
  CHECK_THROWS_AS(Sampler({.top_p = 0}), higgs::InvalidArgument);
  CHECK_THROWS_AS(Sampler({.top_p = 1.5}), higgs::InvalidArgument);
}

TEST_CASE("a logit that is no number ends generation with an error", "[model][generate]") {
  for (const double temperature : {0.0, 1.0})
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
      for (std::size_t at = 0; at < 5; ++at) {
        std::vector<float> logits{1, 2, 3, 2, 1};
        Sampler sampler({.temperature = temperature});
        CHECK_NOTHROW(sampler.choose(logits));
        logits[at] = bad;
        CHECK_THAT(message_of<higgs::FormatError>([&] { sampler.choose(logits); }),
                   Catch::Contains("the token " + std::to_string(at)));
        logits[at] = -std::numeric_limits<float>::infinity();  // a token that cannot come
        CHECK(sampler.choose(logits) != static_cast<TokenId>(at));
      }
}
