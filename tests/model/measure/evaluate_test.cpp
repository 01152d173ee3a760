// SPDX-License-Identifier: Apache-2.0
#include "measure/evaluate.hpp"

#include "model/tiny_model.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

using namespace higgs::model;
using Catch::Contains;

namespace {

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
  const Transformer reference = load_tiny(tiny_config("llama"));
  Transformer other = reference;  // the same but for one layer
  other.weights.blocks[1].up = other.weights.blocks[0].up;
  const std::vector<TokenId> text = tiny_text(150);
  for (const std::size_t window : {2u, 20u, 50u}) {
    Evaluator evaluator(text, static_cast<std::int64_t>(window));
    CHECK(evaluator.tokens() == static_cast<std::int64_t>(text.size() / window * window));
    const Evaluation alone = evaluator.evaluate(other);
    CHECK_FALSE(alone.divergence.has_value());
    CHECK(alone.tokens == static_cast<std::int64_t>(text.size() / window * (window - 1)));
    const auto [entropy, kl] = slow_evaluation(reference, other, text, window);
    CHECK(alone.cross_entropy.mean == Approx(entropy).epsilon(1e-5));
    CHECK(alone.perplexity() == Approx(std::exp(entropy)).epsilon(1e-4));

    const Evaluation first = evaluator.set_reference(reference);
    CHECK_FALSE(first.divergence.has_value());
    const Evaluation second = evaluator.evaluate(other);
    CHECK(second.cross_entropy.mean == alone.cross_entropy.mean);
    REQUIRE(second.divergence.has_value());
    CHECK(second.divergence->kl.mean == Approx(kl).epsilon(1e-4).margin(2e-6));
    CHECK(second.divergence->kl.mean > 1e-3);
    const Evaluation same = evaluator.evaluate(reference);
    CHECK(same.cross_entropy.mean == first.cross_entropy.mean);
    CHECK(std::fabs(same.divergence->kl.mean) < 2e-6);
  }
}

TEST_CASE("a window of many tokens is evaluated in pieces", "[model][evaluate]") {
  ModelConfig config = tiny_config("qwen3");
  config.context = 200;
  const Transformer model = load_tiny(config);
  const std::vector<TokenId> text = tiny_text(200);
  std::vector<std::pair<std::int64_t, std::int64_t>> steps;
  const Evaluation result = Evaluator(text, 150).evaluate(
      model,
      [&](std::int64_t done, std::int64_t total, const Evaluation&) { steps.emplace_back(done, total); });
  CHECK(result.tokens == 149);
  CHECK(result.cross_entropy.mean == Approx(slow_evaluation(model, model, text, 150).first).epsilon(1e-5));
  CHECK(steps == std::vector<std::pair<std::int64_t, std::int64_t>>{{150, 150}});
}

TEST_CASE("the number of threads changes no bit of an evaluation", "[model][evaluate]") {
  const Transformer model = load_tiny(tiny_config("qwen2"));
  higgs::SerialExecutor one;
  higgs::ThreadPool four(4);
  CHECK(Evaluator(tiny_text(120), 60, one).evaluate(model).cross_entropy.mean ==
        Evaluator(tiny_text(120), 60, four).evaluate(model).cross_entropy.mean);
}

TEST_CASE("texts and windows that do not fit are refused", "[model][evaluate]") {
  CHECK_THAT(message_of<higgs::InvalidArgument>([] { Evaluator(tiny_text(9), 10); }),
             Contains("9 tokens") && Contains("10"));
  CHECK_THROWS_AS(Evaluator(tiny_text(9), 1), higgs::InvalidArgument);
  ModelConfig small = tiny_config("llama"), large = small;
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

TEST_CASE("a standard error is that of the mean of windows, or of tokens where there are few windows",
          "[model][evaluate]") {
  // Values that hang together within a window, and not between windows.
  constexpr std::size_t block = 16;
  const auto values_of = [&](std::size_t windows, std::uint64_t seed) {
    std::vector<double> out;
    for (std::size_t i = 0; i < windows * block; ++i)
      out.push_back(higgs::random_normal(seed, i / block) + 0.1 * higgs::random_normal(seed + 1000, i));
    return out;
  };
  // The error that is claimed is the spread of the mean over many texts.
  double squares = 0, claimed = 0, hopeful = 0;
  constexpr int texts = 2000;
  for (int i = 0; i < texts; ++i) {
    const std::vector<double> values = values_of(20, static_cast<std::uint64_t>(i));
    const Estimate estimate = estimate_mean(values, block);
    squares += estimate.mean * estimate.mean / texts;
    claimed += estimate.standard_error / texts;
    hopeful += estimate_mean(values, static_cast<std::int64_t>(values.size())).standard_error / texts;
  }
  // The spread of 2000 means is known to 1 / sqrt(4000), and a deviation from 20 values is low by 1 / 76.
  CHECK(claimed == Approx(std::sqrt(squares)).epsilon(0.07));
  CHECK(hopeful < claimed / 3);

  const std::vector<double> few{1, 2, 3, 4, 5, 6};
  CHECK(estimate_mean(few, 3).mean == 3.5);
  CHECK(estimate_mean(few, 3).standard_error == Approx(std::sqrt(3.5 / 6)));
  CHECK(std::isnan(estimate_mean(std::vector<double>{1}, 1).standard_error));
  CHECK_THROWS_AS(estimate_mean(few, 4), higgs::InvalidArgument);
}

TEST_CASE("a divergence tells its tail and how often the likeliest token is the same", "[model][evaluate]") {
  const Transformer reference = load_tiny(tiny_config("llama"));
  Transformer other = reference;
  other.weights.blocks[1].up = other.weights.blocks[0].up;
  for (const int length : {150, 60, 10}) {
    const std::vector<TokenId> text = tiny_text(length);
    constexpr std::size_t window = 10;
    std::vector<double> divergences;
    double agreed = 0;
    for (std::size_t begin = 0; begin + window <= text.size(); begin += window) {
      const auto log_p = log_probabilities(reference, {text.data() + begin, window}),
                 log_q = log_probabilities(other, {text.data() + begin, window});
      for (std::size_t t = 0; t + 1 < window; ++t) {
        double kl = 0;
        for (std::size_t i = 0; i < 40; ++i) kl += std::exp(log_p[t][i]) * (log_p[t][i] - log_q[t][i]);
        divergences.push_back(kl);
        agreed += std::max_element(log_p[t].begin(), log_p[t].end()) - log_p[t].begin() ==
                  std::max_element(log_q[t].begin(), log_q[t].end()) - log_q[t].begin();
      }
    }
    Evaluator evaluator(text, window);
    evaluator.set_reference(reference);
    const Evaluation result = evaluator.evaluate(other);
    REQUIRE(result.divergence.has_value());
    const Divergence& away = *result.divergence;
    CHECK(result.windows == length / 10);
    CHECK(result.by_windows() == (length >= 80));
    CHECK(away.kl.standard_error ==
          Approx(estimate_mean(divergences, window - 1).standard_error).epsilon(1e-3));
    std::sort(divergences.begin(), divergences.end());
    CHECK(away.most == Approx(divergences.back()).epsilon(1e-3));
    const std::size_t within = (divergences.size() * 99 + 99) / 100;
    CHECK(away.quantile_99 == Approx(divergences[within - 1]).epsilon(1e-3));
    CHECK(away.top_agreement == Approx(agreed / static_cast<double>(divergences.size())));
    CHECK(away.top_agreement < 1);
    CHECK(evaluator.evaluate(reference).divergence->top_agreement == 1);
  }
}

TEST_CASE("logits that are no numbers are an error", "[model][evaluate]") {
  const Transformer good = load_tiny(tiny_config("llama"));
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Transformer damaged = good;
    Matrix output = *require_dense(good.weights.output, "");
    output.row(7)[3] = bad;
    damaged.weights.output.weight = share(std::move(output));
    Evaluator evaluator(tiny_text(40), 20);
    CHECK_THROWS_AS(evaluator.evaluate(damaged), higgs::FormatError);
    CHECK_THROWS_AS(evaluator.set_reference(damaged), higgs::FormatError);
    evaluator.set_reference(good);
    CHECK_THROWS_AS(evaluator.evaluate(damaged), higgs::FormatError);
  }
}

TEST_CASE("every token of a text is accounted for, and means are told as they come", "[model][evaluate]") {
  const Transformer model = load_tiny(tiny_config("llama"));
  CHECK(Evaluator(tiny_text(600), 512).coverage() ==
        "511 of 600 tokens predicted; the last 88 do not fill a window");
  CHECK(Evaluator(tiny_text(21), 10).coverage() ==
        "18 of 21 tokens predicted; the last 1 does not fill a window");
  CHECK(Evaluator(tiny_text(20), 10).coverage() == "18 of 20 tokens predicted");

  Evaluator evaluator(tiny_text(45), 10);
  std::vector<double> means;
  const auto collect = [&](std::int64_t done, std::int64_t total, const Evaluation& so_far) {
    CHECK(so_far.tokens == done / 10 * 9);
    CHECK(total == 40);
    means.push_back(so_far.cross_entropy.mean);
  };
  evaluator.set_reference(model);
  const Evaluation last = evaluator.evaluate(model, collect);
  REQUIRE(means.size() == 4);
  for (int windows = 1; windows <= 4; ++windows)
    CHECK(means[static_cast<std::size_t>(windows - 1)] ==
          Approx(Evaluator(tiny_text(10 * windows), 10).evaluate(model).cross_entropy.mean).epsilon(1e-12));
  CHECK_THAT(describe_means(last), Contains("perplexity") && Contains("KL"));
}
