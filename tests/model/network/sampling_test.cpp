// SPDX-License-Identifier: Apache-2.0
#include "network/sampling.hpp"

#include "store/temporary_folder.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

using namespace higgs::model;

namespace {

std::vector<float> random_logits(std::uint64_t seed, std::size_t count) {
  std::vector<float> out(count);
  for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<float>(3 * higgs::random_normal(seed, i));
  return out;
}

// The definition of a choice in doubles: `random` is uniform in [0, 1).
std::int32_t choose_by_doubles(const std::vector<float>& logits, const Sampling& sampling, double random) {
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto logit = [&](std::int32_t id) {
    return static_cast<double>(logits[static_cast<std::size_t>(id)]);
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return logit(a) > logit(b); });
  if (sampling.top_k > 0 && sampling.top_k < std::ssize(order))
    order.resize(static_cast<std::size_t>(sampling.top_k));
  std::vector<double> up_to;  // probability of a token and all likelier ones, not normalized
  double total = 0;
  for (const std::int32_t id : order)
    up_to.push_back(total += std::exp((logit(id) - logit(order[0])) / sampling.temperature));
  const auto first_at_least = [&](double mass) {
    return std::min(std::lower_bound(up_to.begin(), up_to.end(), mass), up_to.end() - 1) - up_to.begin();
  };
  const double kept = up_to[static_cast<std::size_t>(first_at_least(sampling.top_p * total))];
  return order[static_cast<std::size_t>(first_at_least(random * kept))];
}

// How often each token comes in `draws` draws.
std::vector<double> frequencies(const Sampling& sampling, const std::vector<float>& logits, int draws) {
  Sampler sampler(sampling);
  std::vector<double> out(logits.size());
  for (int i = 0; i < draws; ++i) out[static_cast<std::size_t>(sampler.choose(logits))] += 1.0 / draws;
  return out;
}

}  // namespace

TEST_CASE("integer weights are the powers of 2 within 2^-21", "[model][generate]") {
  CHECK(weight_of(0) == std::uint64_t{1} << 38);
  for (float odds = 0; odds > -16; odds -= 0.00137f) {
    const double exact = std::exp2(static_cast<double>(odds)) * 0x1p38;
    REQUIRE(std::abs(static_cast<double>(weight_of(odds)) - exact) <= exact * 0x1p-21 + 1);
  }
  CHECK(weight_of(-41) == 0);
  CHECK(weight_of(-std::numeric_limits<float>::infinity()) == 0);
}

TEST_CASE("orders rise with logits and give them back", "[model][generate]") {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> rising{-inf, -1e30f, -1, -1e-40f, 0, 1e-40f, 1, 1e30f, inf};
  for (std::size_t i = 1; i < rising.size(); ++i) REQUIRE(order_of(rising[i - 1]) < order_of(rising[i]));
  for (const float logit : rising) REQUIRE(logit_of(order_of(logit)) == logit);
  CHECK(order_of(-0.0f) == order_of(0.0f));
}

TEST_CASE("the upper half of a product of 64 bits", "[model][generate]") {
  const std::uint64_t all = ~std::uint64_t{0};
  CHECK(multiply_high(all, all) == all - 1);
  CHECK(multiply_high(std::uint64_t{1} << 63, 6) == 3);
  CHECK(multiply_high(all, 1) == 0);
  CHECK(multiply_high(0x123456789abcdef0u, 0xfedcba9876543210u) == 0x121fa00ad77d7422u);
}

TEST_CASE("integers choose the tokens that doubles choose", "[model][generate]") {
  int choices = 0, different = 0;
  for (const double temperature : {0.3, 1.0, 5.0})
    for (const std::int64_t top_k : {0, 1, 5, 1000})
      for (const double top_p : {1.0, 0.9, 0.01}) {
        const Sampling sampling{.temperature = temperature, .top_k = top_k, .top_p = top_p};
        for (std::uint64_t draw = 0; draw < 40; ++draw) {
          const std::vector<float> logits = random_logits(draw, 300);
          ++choices;
          if (choose_token(logits, TokenChoice(sampling), higgs::random_bits(7, draw)) !=
              choose_by_doubles(logits, sampling, higgs::random_uniform(7, draw)))
            ++different;
        }
      }
  // A choice differs where a random number falls within 1e-6 of the border between two tokens.
  CHECK(choices == 3 * 4 * 3 * 40);
  CHECK(different == 0);
}

TEST_CASE("token i of a Sampler is the choice by random bits i of its seed", "[model][generate]") {
  const Sampling sampling{.temperature = 1.2, .top_k = 100, .top_p = 0.95, .seed = 9};
  Sampler sampler(sampling);
  for (std::uint64_t i = 0; i < 50; ++i) {
    const std::vector<float> logits = random_logits(i, 200);
    REQUIRE(sampler.choose(logits) == choose_token(logits, TokenChoice(sampling), higgs::random_bits(9, i)));
  }
}

TEST_CASE("equal logits, extreme temperatures and damaged logits have a choice", "[model][generate]") {
  const float inf = std::numeric_limits<float>::infinity();
  const auto choose = [](const std::vector<float>& logits, double temperature, std::int64_t top_k,
                         double top_p, std::uint64_t random) {
    return choose_token(
        logits, TokenChoice(Sampling{.temperature = temperature, .top_k = top_k, .top_p = top_p}), random);
  };
  const std::uint64_t last = ~std::uint64_t{0};
  CHECK(choose({1, 1, 1, 1}, 0, 0, 1, last) == 0);
  CHECK(choose({1, 1, 1, 1}, 1, 0, 1, 0) == 0);
  CHECK(choose({1, 1, 1, 1}, 1, 0, 1, last) == 3);
  CHECK(choose({1, 1, 1, 1}, 1, 2, 1, last) == 1);
  CHECK(choose({1, 1, 1, 1}, 1, 0, 0.5, last) == 1);
  CHECK(choose({0.0f, -0.0f}, 1, 1, 1, last) == 0);
  CHECK(choose({0, 1, 0.999f}, 1e-300, 0, 1, last) == 1);
  CHECK(choose({0, 1e30f, -1e30f, -inf}, 1e300, 0, 1, last) == 2);  // -infinity is never chosen
  CHECK(choose({-inf, -inf}, 1, 0, 1, last) == 1);
  CHECK(choose({1, 2, inf, std::nanf("")}, 0, 0, 1, 0) == -3);
  CHECK(choose({1, std::nanf(""), inf}, 1, 0, 1, 0) == -2);
  CHECK_THROWS_AS(choose({}, 0, 0, 1, 0), higgs::InvalidArgument);
  CHECK_THROWS_AS(TokenChoice(Sampling{.temperature = -1}), higgs::InvalidArgument);
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
  CHECK_THROWS_AS(TokenChoice({.temperature = -1}), higgs::InvalidArgument);
  CHECK_THROWS_AS(TokenChoice({.temperature = INFINITY}), higgs::InvalidArgument);
  CHECK_THROWS_AS(TokenChoice({.top_k = -1}), higgs::InvalidArgument);
  CHECK_THROWS_AS(TokenChoice({.top_p = 0}), higgs::InvalidArgument);
  CHECK_THROWS_AS(TokenChoice({.top_p = 1.5}), higgs::InvalidArgument);
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
        CHECK(sampler.choose(logits) != static_cast<std::int32_t>(at));
      }
}
