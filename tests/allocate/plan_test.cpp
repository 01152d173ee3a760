// SPDX-License-Identifier: Apache-2.0
#include <higgs/allocate/knapsack_front.hpp>
#include <higgs/allocate/plan.hpp>
#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

using higgs::allocate;
using higgs::allocate_uniform;
using higgs::Budget;
using higgs::Format;
using higgs::knapsack_reference;
using higgs::Plan;
using higgs::plan_problem;
using higgs::PlanLayer;
using higgs::PlanOptions;
using higgs::random_bits;
using higgs::random_normal;

namespace {

std::vector<Format> formats(std::int64_t weights) {
  return {{"2 bits", 0.1076, weights / 4 + 8, 3},
          {"3 bits", 0.0296, weights * 3 / 8 + 8, 5},
          {"4 bits", 0.00775, weights / 2 + 8, 4},
          {"8 bits", 4.1e-5, weights + 8, 8}};
}

/// Layers of random sizes and sensitivities, some of them negative.
std::vector<PlanLayer> random_layers(std::size_t count, std::uint64_t seed) {
  std::vector<PlanLayer> layers;
  for (std::size_t i = 0; i < count; ++i) {
    const auto weights = static_cast<std::int64_t>(64 * (1 + random_bits(seed, i) % 50));
    const double alpha = std::exp(1.5 * random_normal(seed, 1000 + i)) - 0.1;
    layers.push_back({"layer " + std::to_string(i), weights, alpha, 0.1, formats(weights), "", ""});
  }
  return layers;
}

}  // namespace

TEST_CASE("a plan is the optimum of the definition", "[allocate][plan]") {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    std::vector<PlanLayer> layers = random_layers(1 + seed % 6, seed);
    PlanOptions options;
    if (seed % 3 == 1) layers.back().pinned = "3 bits";
    if (seed % 4 == 1 && layers.size() > 2) layers[0].tie = layers[2].tie = "fused";
    if (seed % 5 == 1) options.second_budget = static_cast<std::int64_t>(5 * layers.size());
    const Budget budget = Budget::bits(2.2 + 0.013 * static_cast<double>(seed));
    const auto expected = knapsack_reference(plan_problem(layers, budget, options));
    const auto plan = allocate(layers, budget, options);
    CAPTURE(seed);
    REQUIRE(plan.has_value() == expected.has_value());
    if (!plan) continue;
    CHECK(plan->proven);
    CHECK(plan->loss == Approx(expected->cost).epsilon(1e-12));
    CHECK(plan->lower_bound <= plan->loss);
    std::int64_t bytes = 0;
    for (const auto& layer : plan->layers) bytes += layer.bytes;
    CHECK(plan->bytes == bytes);
    CHECK(plan->bits_per_weight() <= 2.2 + 0.013 * static_cast<double>(seed));
    if (seed % 3 == 1) CHECK(plan->layers.back().format == "3 bits");
    if (!layers[0].tie.empty()) CHECK(plan->layers[0].format == plan->layers[2].format);
  }
}

TEST_CASE("no uniform plan within the budget is better", "[allocate][plan]") {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    std::vector<PlanLayer> layers = random_layers(40, seed);
    if (seed % 2) layers[3].pinned = "8 bits";
    for (std::size_t i = 0; seed % 3 && i + 2 < 40; i += 3)
      layers[i].tie = layers[i + 1].tie = std::to_string(i);
    for (int step = 0; step < 25; ++step) {
      const Budget budget = Budget::bits(2 + 0.27 * step);
      const auto plan = allocate(layers, budget), uniform = allocate_uniform(layers, budget);
      CAPTURE(seed, step);
      REQUIRE((plan.has_value() || !uniform.has_value()));
      if (!uniform) continue;
      REQUIRE(plan->loss <= uniform->loss);
      REQUIRE(uniform->bytes <= budget.bytes_for(uniform->weights));
      // Nor where the search may not work at all.
      PlanOptions lazy;
      lazy.limits.max_states = 0;
      const auto rough = allocate(layers, budget, lazy);
      REQUIRE(rough->loss <= uniform->loss);
      REQUIRE(rough->lower_bound <= plan->loss);
    }
  }
}

TEST_CASE("equal layers get equal formats when these fill the budget", "[allocate][plan]") {
  std::vector<PlanLayer> layers;
  for (int i = 0; i < 30; ++i) layers.push_back({std::to_string(i), 6400, 0.7, 0, formats(6400)});
  for (const std::size_t format : {0u, 1u, 2u, 3u}) {
    const std::int64_t bytes = 30 * formats(6400)[format].bytes;
    const auto plan = allocate(layers, Budget::bytes(bytes));
    REQUIRE(plan);
    CHECK(plan->bytes == bytes);
    for (const auto& layer : plan->layers) CHECK(layer.format == formats(6400)[format].name);
    CHECK(plan->loss == Approx(30 * 0.7 * formats(6400)[format].t2));
  }
  CHECK_FALSE(allocate(layers, Budget::bytes(30 * formats(6400)[0].bytes - 1)));
  CHECK_FALSE(allocate_uniform(layers, Budget::bytes(30 * formats(6400)[0].bytes - 1)));
}

TEST_CASE("bytes buy the layers that matter", "[allocate][plan]") {
  const std::vector<PlanLayer> layers{{"dear", 800, 9, 1, formats(800)},
                                      {"cheap", 800, 0.01, 0.02, formats(800)},
                                      {"negative", 800, -0.5, 0.3, formats(800)}};
  const auto plan = allocate(layers, Budget::bytes(808 + 208 + 208));
  REQUIRE(plan);
  CHECK(plan->layers[0].format == "8 bits");
  CHECK(plan->layers[1].format == "2 bits");
  CHECK(plan->layers[2].format == "2 bits");
  CHECK(plan->bytes == 808 + 208 + 208);
  CHECK(plan->bits_per_weight() == Approx(8.0 * 1224 / 2400));
  // A negative alpha counts as 0 in the loss, and as measured in the interval.
  CHECK(plan->loss == Approx(9 * 4.1e-5 + 0.01 * 0.1076));
  const double sum = plan->loss - 0.5 * 0.1076;
  const double reach =
      std::sqrt(std::pow(4.1e-5, 2) + std::pow(0.02 * 0.1076, 2) + std::pow(0.3 * 0.1076, 2));
  CHECK(plan->low == Approx(sum - reach));
  CHECK(plan->high == Approx(sum + reach));
  CHECK(plan->layers[2].loss == Approx(-0.5 * 0.1076));
  // Caution: what is uncertain is treated as dear.
  PlanOptions options;
  options.caution = 1e6;
  CHECK(allocate(layers, Budget::bytes(808 + 408 + 208), options)->layers[2].format != "2 bits");
}

TEST_CASE("what is beyond the theorem is said, and left out on request", "[allocate][plan]") {
  std::vector<PlanLayer> layers = random_layers(10, 1);
  for (PlanLayer& layer : layers) layer.alpha = std::fabs(layer.alpha);  // 0 would always take the smallest
  CHECK(allocate(layers, Budget::bits(16))->warnings.empty());
  const auto low = allocate(layers, Budget::bits(2.5));
  REQUIRE(low->warnings.size() == 1);
  CHECK(low->warnings[0].find("beyond the range") != std::string::npos);
  PlanOptions options;
  options.trusted_t2 = 0.2;
  CHECK(allocate(layers, Budget::bits(2.5), options)->warnings.empty());
  options.max_t2 = higgs::linear_t2;
  CHECK_FALSE(allocate(layers, Budget::bits(3.5), options));
  const auto rest = allocate(layers, Budget::bits(5), options);
  REQUIRE(rest);
  for (const auto& layer : rest->layers) CHECK(layer.t2 <= higgs::linear_t2);
  options.max_t2 = 0;
  CHECK_FALSE(allocate(layers, Budget::bits(16), options));
}

TEST_CASE("the front of the plan's problem holds the plans of all budgets", "[allocate][plan]") {
  const std::vector<PlanLayer> layers = random_layers(12, 5);
  const higgs::KnapsackFront<> front(plan_problem(layers, Budget::bits(9)));
  REQUIRE(front.exact());
  for (std::size_t i = 0; i < front.points().size(); i += 11) {
    const auto plan = allocate(layers, Budget::bytes(front.points()[i].weight));
    REQUIRE(plan);
    REQUIRE(plan->bytes == front.points()[i].weight);
    REQUIRE(plan->loss == Approx(front.points()[i].cost).epsilon(1e-9));
  }
}

TEST_CASE("budgets in bits round down to bytes, and nonsense is refused", "[allocate][plan]") {
  CHECK(Budget::bits(3.25).bytes_for(1000) == 406);
  CHECK(Budget::bytes(7).bytes_for(1000) == 7);
  CHECK_THROWS_AS(Budget::bits(0).bytes_for(1), higgs::InvalidArgument);
  CHECK_THROWS_AS(Budget::bits(std::nan("")).bytes_for(1), higgs::InvalidArgument);
  CHECK_THROWS_AS(Budget::bytes(-1).bytes_for(1), higgs::InvalidArgument);

  const auto refused = [](const auto& change) {
    std::vector<PlanLayer> layers = random_layers(3, 2);
    change(layers);
    CHECK_THROWS_AS(allocate(layers, Budget::bits(8)), higgs::InvalidArgument);
    CHECK_THROWS_AS(allocate_uniform(layers, Budget::bits(8)), higgs::InvalidArgument);
  };
  refused([](auto& layers) { layers[1].formats.clear(); });
  refused([](auto& layers) { layers[1].alpha = std::nan(""); });
  refused([](auto& layers) { layers[1].margin = -1; });
  refused([](auto& layers) { layers[1].weights = -1; });
  refused([](auto& layers) { layers[1].formats[0].bytes = -1; });
  refused([](auto& layers) { layers[1].formats[0].t2 = -1; });
  refused([](auto& layers) { layers[1].pinned = "5 bits"; });
  refused([](auto& layers) {
    for (auto& layer : layers) layer.formats[0].bytes = std::int64_t{1} << 59;
  });
  refused([](auto& layers) {
    layers[0].tie = layers[1].tie = "x";
    layers[1].formats.pop_back();
  });
  CHECK(allocate({}, Budget::bytes(0))->layers.empty());
}
