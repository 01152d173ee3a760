// SPDX-License-Identifier: Apache-2.0
#include <higgs/allocate/knapsack_front.hpp>
#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

using higgs::KnapsackFront;
using higgs::KnapsackOption;
using higgs::KnapsackProblem;
using higgs::random_bits;
using higgs::random_normal;
using higgs::solve_knapsack;

namespace {

using Exact = KnapsackProblem<std::int64_t, std::int64_t>;

Exact random_problem(std::uint64_t seed, std::int64_t weight_unit = 1) {
  std::uint64_t counter = 0;
  const auto dice = [&](std::uint64_t faces) {
    return static_cast<std::int64_t>(random_bits(seed, counter++) % faces);
  };
  Exact problem;
  const std::int64_t classes = 1 + dice(6), count = 1 + dice(5);
  for (std::int64_t i = 0; i < classes; ++i) {
    std::vector<Exact::Option> options;
    for (std::int64_t j = 0; j < count; ++j)
      options.push_back({(dice(20) - 5) * weight_unit, dice(60) - 10, 0});
    problem.add_class(options);
  }
  const auto any = [&](std::int64_t n) {
    return static_cast<std::size_t>(dice(static_cast<std::uint64_t>(n)));
  };
  if (dice(2)) problem.tie(any(classes), any(classes));
  if (dice(2)) problem.forbid(any(classes), any(count));
  problem.budget = (dice(100) - 10) * weight_unit;
  return problem;
}

template <class Weight, class Cost>
void check_point(const KnapsackProblem<Weight, Cost>& problem, const KnapsackFront<Weight, Cost>& front,
                 std::size_t k) {
  const auto choice = front.choice(k);
  REQUIRE(choice.size() == problem.classes());
  Weight weight{};
  Cost cost{};
  for (std::size_t i = 0; i < choice.size(); ++i) {
    const std::size_t at = problem.begin[i] + choice[i];
    REQUIRE(at < problem.begin[i + 1]);
    REQUIRE((at >= problem.forbidden.size() || !problem.forbidden[at]));
    if (i < problem.leader.size()) REQUIRE(choice[i] == choice[problem.leader[i]]);
    weight = static_cast<Weight>(weight + problem.options[at].weight);
    cost = static_cast<Cost>(cost + problem.options[at].cost);
  }
  REQUIRE(weight == front.points()[k].weight);
  const double rounding = static_cast<double>(problem.classes()) * front.cost_step();
  REQUIRE(std::abs(static_cast<double>(cost - front.points()[k].cost)) <=
          rounding + 1e-15 * std::abs(static_cast<double>(cost)));
}

KnapsackProblem<> layers(std::size_t count) {
  constexpr double widths[] = {1.5, 2, 2.25, 2.5, 3, 3.25, 3.5, 4, 4.25, 5, 6, 8};
  constexpr std::int64_t sizes[] = {16, 4, 4, 16, 56, 56, 56};
  KnapsackProblem<> problem;
  for (std::size_t i = 0; i < count; ++i) {
    const double alpha = std::exp(random_normal(1, i));
    std::vector<KnapsackOption<>> options;
    for (const double width : widths) {
      options.push_back(
          {static_cast<std::int64_t>(4 * width) * sizes[i % 7], alpha * std::pow(4, -width), 0});
      problem.budget += options.back().weight;
    }
    problem.add_class(options);
  }
  return problem;
}

}  // namespace

TEST_CASE("the front holds every budget's optimum and nothing else", "[allocate][knapsack_front]") {
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    Exact problem = random_problem(seed, seed % 3 == 0 ? 1000 : 1);
    const std::int64_t unit = seed % 3 == 0 ? 1000 : 1;
    const KnapsackFront<std::int64_t, std::int64_t> front(problem);
    CAPTURE(seed);
    const std::int64_t top = problem.budget;
    if (front.points().empty()) {
      REQUIRE_FALSE(solve_knapsack(problem));
      continue;
    }
    REQUIRE(front.exact());
    REQUIRE(front.cost_step() == 0);
    for (std::size_t k = 0; k < front.points().size(); ++k) {
      check_point(problem, front, k);
      if (k == 0) continue;
      REQUIRE(front.points()[k].weight > front.points()[k - 1].weight);
      REQUIRE(front.points()[k].cost < front.points()[k - 1].cost);
    }
    for (problem.budget = -40 * unit; problem.budget <= top; problem.budget += unit) {
      const auto best = solve_knapsack(problem);
      const auto k = front.find(problem.budget);
      REQUIRE(best.has_value() == k.has_value());
      if (!best) continue;
      REQUIRE(front.points()[*k].cost == best->cost);
      REQUIRE(front.points()[*k].weight == best->weight);
    }
  }
}

TEST_CASE("without room for the table the front is its convex hull", "[allocate][knapsack_front]") {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Exact problem = random_problem(seed);
    const KnapsackFront<std::int64_t, std::int64_t> all(problem), hull(problem, 0);
    CAPTURE(seed);
    REQUIRE(all.points().empty() == hull.points().empty());
    if (all.points().empty()) continue;
    REQUIRE_FALSE(hull.exact());
    const auto points = hull.points();
    for (std::size_t k = 0; k < points.size(); ++k) {
      check_point(problem, hull, k);
      REQUIRE(all.points()[*all.find(points[k].weight)].cost == points[k].cost);
      if (k < 2) continue;  // slopes may only flatten
      REQUIRE((points[k].cost - points[k - 1].cost) * (points[k - 1].weight - points[k - 2].weight) >=
              (points[k - 1].cost - points[k - 2].cost) * (points[k].weight - points[k - 1].weight));
    }
    // No exact point lies below the line between neighbours.
    for (const auto& point : all.points()) {
      const std::size_t k = *hull.find(point.weight);
      if (k + 1 == points.size()) continue;
      REQUIRE((point.cost - points[k].cost) * (points[k + 1].weight - points[k].weight) >=
              (points[k + 1].cost - points[k].cost) * (point.weight - points[k].weight));
    }
  }
}

TEST_CASE("a model's front agrees with the solver", "[allocate][knapsack_front]") {
  KnapsackProblem<> problem = layers(70);
  const KnapsackFront<> front(problem);
  REQUIRE(front.exact());
  for (std::size_t k = 0; k < front.points().size(); k += 199) {
    check_point(problem, front, k);
    problem.budget = front.points()[k].weight;
    const auto best = solve_knapsack(problem);
    CHECK(best->weight == problem.budget);
    // Both round every cost: the front to the nearest of its steps.
    CHECK(std::abs(best->cost - front.points()[k].cost) <= 70 * front.cost_step() + 1e-14 * best->cost);
  }
}

TEST_CASE("weights in fractions have a common unit too", "[allocate][knapsack_front]") {
  KnapsackProblem<double, float> problem;
  for (int i = 0; i < 20; ++i) {
    problem.add_class(std::vector<KnapsackOption<double, float>>{
        {0.125 * (i + 1), 64.0f / static_cast<float>(i + 1), 0}, {0.5 * (i + 1), 1, 0}, {1e-3, 200, 0}});
  }
  problem.budget = 1e9;
  for (int i = 0; i < 20; ++i) problem.forbid(static_cast<std::size_t>(i), 2);
  const KnapsackFront<double, float> front(problem);
  REQUIRE_FALSE(front.points().empty());
  CHECK(front.points().front().weight == 0.125 * 210);
  CHECK(front.points().back().cost == 20);
}

TEST_CASE("the ends of a front", "[allocate][knapsack_front]") {
  Exact problem;
  CHECK(KnapsackFront<std::int64_t, std::int64_t>(problem).points().size() == 1);
  CHECK_FALSE(KnapsackFront<std::int64_t, std::int64_t>(problem).find(-1));
  problem.budget = -1;
  CHECK(KnapsackFront<std::int64_t, std::int64_t>(problem).points().empty());
  problem.add_class({{-4, 7, 0}});
  const KnapsackFront<std::int64_t, std::int64_t> front(problem);
  REQUIRE(front.points().size() == 1);
  CHECK(front.points()[0].weight == -4);
  CHECK(front.points()[0].cost == 7);
  CHECK_THROWS_AS(front.choice(1), higgs::InvalidArgument);
  problem.second_budget = 1;
  CHECK_THROWS_AS((KnapsackFront<std::int64_t, std::int64_t>(problem)), higgs::InvalidArgument);
}
