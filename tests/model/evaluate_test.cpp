// SPDX-License-Identifier: Apache-2.0
#include "../../examples/model/evaluate.hpp"

#include "tiny_model.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

using namespace higgs::model;
using Architecture = ModelConfig::Architecture;

namespace {

Transformer load_tiny(const ModelConfig& config) {
  const TemporaryFolder folder;
  write_folder(folder.path(), config);
  return Transformer::load(ModelSource(folder.path()));
}

// Log-probabilities of all next tokens after each token of a window.
std::vector<std::vector<double>> log_probabilities(const Transformer& model,
                                                   std::span<const TokenId> window) {
  const auto count = static_cast<std::int64_t>(window.size());
  KvCache cache(model.config(), count);
  std::vector<float> hidden(window.size() * 24), logits(window.size() * 40);
  model.forward(window, cache, {hidden.data(), count, 24});
  model.logits(higgs::MatrixView<const float>(hidden.data(), count, 24), {logits.data(), count, 40});
  std::vector<std::vector<double>> out;
  for (std::size_t t = 0; t < window.size(); ++t) {
    double sum = 0;
    for (std::size_t i = 0; i < 40; ++i) sum += std::exp(static_cast<double>(logits[t * 40 + i]));
    out.emplace_back();
    for (std::size_t i = 0; i < 40; ++i)
      out.back().push_back(static_cast<double>(logits[t * 40 + i]) - std::log(sum));
  }
  return out;
}

// Mean cross entropy and KL(p || q) over the windows of a text, straight from their definitions.
std::pair<double, double> slow_evaluation(const Transformer& p, const Transformer& q,
                                          const std::vector<TokenId>& text, std::size_t window) {
  double entropy = 0, kl = 0, count = 0;
  for (std::size_t begin = 0; begin + window <= text.size(); begin += window) {
    const auto log_p = log_probabilities(p, {text.data() + begin, window}),
               log_q = log_probabilities(q, {text.data() + begin, window});
    for (std::size_t t = 0; t + 1 < window; ++t, ++count) {
      entropy -= log_q[t][static_cast<std::size_t>(text[begin + t + 1])];
      for (std::size_t i = 0; i < 40; ++i) kl += std::exp(log_p[t][i]) * (log_p[t][i] - log_q[t][i]);
    }
  }
  return {entropy / count, kl / count};
}

}  // namespace

TEST_CASE("perplexity and KL are what their definitions say", "[model][evaluate]") {
  const Transformer reference = load_tiny(tiny_config(Architecture::Llama));
  Transformer other = reference;  // the same but for one layer
  other.weights.blocks[1][Part::Up] = other.weights.blocks[0][Part::Up];
  const std::vector<TokenId> text = tiny_text(150);
  for (const std::size_t window : {2u, 20u, 50u}) {
    Evaluator evaluator(text, static_cast<std::int64_t>(window));
    CHECK(evaluator.tokens() == static_cast<std::int64_t>(text.size() / window * window));
    const Evaluation alone = evaluator.evaluate(other);
    CHECK_FALSE(alone.kl.has_value());
    CHECK(alone.tokens == static_cast<std::int64_t>(text.size() / window * (window - 1)));
    const auto [entropy, kl] = slow_evaluation(reference, other, text, window);
    CHECK(alone.cross_entropy == Approx(entropy).epsilon(1e-5));
    CHECK(alone.perplexity() == Approx(std::exp(entropy)).epsilon(1e-4));

    const Evaluation first = evaluator.set_reference(reference);
    CHECK_FALSE(first.kl.has_value());
    const Evaluation second = evaluator.evaluate(other);
    CHECK(second.cross_entropy == alone.cross_entropy);
    REQUIRE(second.kl.has_value());
    CHECK(*second.kl == Approx(kl).epsilon(1e-4).margin(2e-6));
    CHECK(*second.kl > 1e-3);
    const Evaluation same = evaluator.evaluate(reference);
    CHECK(same.cross_entropy == first.cross_entropy);
    CHECK(std::fabs(*same.kl) < 2e-6);
  }
}

TEST_CASE("a window of many tokens is evaluated in pieces", "[model][evaluate]") {
  ModelConfig config = tiny_config(Architecture::Qwen3);
  config.context = 200;
  const Transformer model = load_tiny(config);
  const std::vector<TokenId> text = tiny_text(200);
  std::vector<std::pair<std::int64_t, std::int64_t>> steps;
  const Evaluation result = Evaluator(text, 150).evaluate(
      model, [&](std::int64_t done, std::int64_t total) { steps.emplace_back(done, total); });
  CHECK(result.tokens == 149);
  CHECK(result.cross_entropy == Approx(slow_evaluation(model, model, text, 150).first).epsilon(1e-5));
  CHECK(steps == std::vector<std::pair<std::int64_t, std::int64_t>>{{150, 150}});
}

TEST_CASE("the number of threads changes no bit of an evaluation", "[model][evaluate]") {
  const Transformer model = load_tiny(tiny_config(Architecture::Qwen2));
  higgs::SerialExecutor one;
  higgs::ThreadPool four(4);
  CHECK(Evaluator(tiny_text(120), 60, one).evaluate(model).cross_entropy ==
        Evaluator(tiny_text(120), 60, four).evaluate(model).cross_entropy);
}

TEST_CASE("texts and windows that do not fit are refused", "[model][evaluate]") {
  using Catch::Contains;
  CHECK_THAT(message_of<higgs::InvalidArgument>([] { Evaluator(tiny_text(9), 10); }),
             Contains("9 tokens") && Contains("10"));
  CHECK_THROWS_AS(Evaluator(tiny_text(9), 1), higgs::InvalidArgument);
  ModelConfig small = tiny_config(Architecture::Llama), large = small;
  const Transformer model = load_tiny(small);
  CHECK_THAT(message_of<higgs::InvalidArgument>([&] { Evaluator(tiny_text(100), 65).evaluate(model); }),
             Contains("context"));
  large.vocabulary = 41;
  Evaluator evaluator(tiny_text(20), 10);
  evaluator.set_reference(load_tiny(large));
  CHECK_THROWS_AS(evaluator.evaluate(model), higgs::InvalidArgument);
}

TEST_CASE("the first tokens of a text are those of the whole text", "[model][evaluate]") {
  const Tokenizer tokenizer(tiny_vocabulary(), "test");
  std::string text;
  for (int i = 0; i < 5000; ++i) text += static_cast<char>('!' + (i * i + i) % 39);
  const TemporaryFolder folder;
  write_file(folder / "text", text);
  const std::vector<TokenId> all = read_tokens(folder / "text", tokenizer, 0);
  CHECK(all.size() == 5000);
  for (const std::int64_t most : {1, 10, 100, 200, 4999, 5000, 6000}) {
    std::vector<TokenId> expected = all;
    expected.resize(static_cast<std::size_t>(std::min<std::int64_t>(most, 5000)));
    CHECK(read_tokens(folder / "text", tokenizer, most) == expected);
  }
  CHECK_THROWS_AS(read_tokens(folder / "nothing", tokenizer, 0), higgs::IoError);
}
