// SPDX-License-Identifier: Apache-2.0
#include "device/sampling.hpp"

#include "network/generate.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

using namespace higgs::model;

namespace {

std::vector<float> random_logits(std::uint64_t seed, std::size_t count) {
  std::vector<float> out(count);
  for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<float>(3 * higgs::random_normal(seed, i));
  return out;
}

}  // namespace

TEST_CASE("integer weights are the powers of 2 within 2^-21", "[model][device]") {
  CHECK(weight_of(0) == std::uint64_t{1} << 38);
  for (float odds = 0; odds > -16; odds -= 0.00137f) {
    const double exact = std::exp2(static_cast<double>(odds)) * 0x1p38;
    REQUIRE(std::abs(static_cast<double>(weight_of(odds)) - exact) <= exact * 0x1p-21 + 1);
  }
  CHECK(weight_of(-41) == 0);
  CHECK(weight_of(-std::numeric_limits<float>::infinity()) == 0);
}

TEST_CASE("orders rise with logits and give them back", "[model][device]") {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> rising{-inf, -1e30f, -1, -1e-40f, 0, 1e-40f, 1, 1e30f, inf};
  for (std::size_t i = 1; i < rising.size(); ++i) REQUIRE(order_of(rising[i - 1]) < order_of(rising[i]));
  for (const float logit : rising) REQUIRE(logit_of(order_of(logit)) == logit);
  CHECK(order_of(-0.0f) == order_of(0.0f));
}

TEST_CASE("the upper half of a product of 64 bits", "[model][device]") {
  const std::uint64_t all = ~std::uint64_t{0};
  CHECK(multiply_high(all, all) == all - 1);
  CHECK(multiply_high(std::uint64_t{1} << 63, 6) == 3);
  CHECK(multiply_high(all, 1) == 0);
  CHECK(multiply_high(0x123456789abcdef0u, 0xfedcba9876543210u) == 0x121fa00ad77d7422u);
}

TEST_CASE("integers choose the tokens that the Sampler chooses with doubles", "[model][device]") {
  int choices = 0, different = 0;
  for (const double temperature : {0.0, 0.3, 1.0, 5.0})
    for (const std::int64_t top_k : {0, 1, 5, 1000})
      for (const double top_p : {1.0, 0.9, 0.01}) {
        const Sampling sampling{.temperature = temperature, .top_k = top_k, .top_p = top_p, .seed = 7};
        Sampler sampler(sampling);
        for (std::uint64_t draw = 0; draw < 40; ++draw) {
          const std::vector<float> logits = random_logits(draw, 300);
          ++choices;
          if (choose_token(logits, TokenChoice(sampling), higgs::random_bits(7, draw)) !=
              sampler.choose(logits))
            ++different;
        }
      }
  // A choice differs with a probability of about 1e-6.
  CHECK(choices == 4 * 4 * 3 * 40);
  CHECK(different == 0);
}

TEST_CASE("equal logits, extreme temperatures and damaged logits have a choice", "[model][device]") {
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
