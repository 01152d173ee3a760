// SPDX-License-Identifier: Apache-2.0
#include <higgs/allocate/knapsack_problem.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

using higgs::InvalidArgument;
using higgs::knapsack_reference;
using higgs::KnapsackOption;
using higgs::KnapsackProblem;

namespace {

using Exact = KnapsackProblem<std::int64_t, std::int64_t>;
using Choice = std::vector<std::uint32_t>;

Exact small_problem() {
  Exact problem;
  problem.add_class({{1, 10, 0}, {2, 6, 3}, {4, 1, 1}});
  problem.add_class({{1, 9, 0}, {3, 2, 2}, {5, 1, 9}});
  problem.budget = 6;
  return problem;
}

// Every entry point reads a problem through this check.
template <class Weight, class Cost>
void check(const KnapsackProblem<Weight, Cost>& problem) {
  const higgs::detail::FixedProblem checked(problem);
}

}  // namespace

TEST_CASE("the reference finds the best choice by definition", "[allocate][knapsack_problem]") {
  Exact problem = small_problem();
  const auto best = knapsack_reference(problem);
  REQUIRE(best);
  CHECK(best->choice == Choice{1, 1});  // 6 + 2; 1 + 9 is the other that fits
  CHECK(best->cost == 8);
  CHECK(best->weight == 5);
  problem.budget = 1;
  CHECK_FALSE(knapsack_reference(problem));
  problem.budget = 2;
  CHECK(knapsack_reference(problem)->choice == Choice{0, 0});
}

TEST_CASE("the reference keeps a second budget, bans, pins and ties", "[allocate][knapsack_problem]") {
  Exact problem = small_problem();
  problem.second_budget = 3;
  CHECK(knapsack_reference(problem)->cost == 10);  // {2, 0}: {1, 1} takes 5 of the second
  problem = small_problem();
  problem.forbid(1, 1);
  CHECK(knapsack_reference(problem)->choice == Choice{2, 0});
  problem = small_problem();
  problem.pin(0, 0);
  CHECK(knapsack_reference(problem)->choice == Choice{0, 2});
  problem.tie(0, 1);
  CHECK(knapsack_reference(problem)->choice == Choice{0, 0});
  problem.pin(1, 1);
  CHECK_FALSE(knapsack_reference(problem));
}

TEST_CASE("among equal costs the reference takes less weight, then the first choice",
          "[allocate][knapsack_problem]") {
  Exact problem;
  problem.add_class({{3, 1, 0}, {2, 1, 0}, {2, 1, 0}});
  problem.budget = 9;
  CHECK(knapsack_reference(problem)->choice == Choice{1});
}

TEST_CASE("ties are transitive and do not depend on their order", "[allocate][knapsack_problem]") {
  for (const auto& pairs :
       {std::vector<std::pair<int, int>>{{0, 3}, {3, 1}}, {{1, 3}, {1, 0}}, {{3, 0}, {0, 1}}}) {
    Exact problem;
    for (int i = 0; i < 4; ++i) problem.add_class({{0, 5, 0}, {1, 0, 0}});
    problem.budget = 3;
    for (const auto& [a, b] : pairs) problem.tie(static_cast<std::size_t>(a), static_cast<std::size_t>(b));
    CHECK(knapsack_reference(problem)->choice == Choice{1, 1, 0, 1});
    const higgs::detail::FixedProblem fixed(problem);
    REQUIRE(fixed.classes() == 2);
    CHECK(fixed.spread({7, 8}) == Choice{7, 7, 8, 7});
    CHECK(fixed[0].back().weight == 3);
    CHECK(fixed[0].front().cost == 15);
  }
}

TEST_CASE("a damaged problem is refused", "[allocate][knapsack_problem]") {
  CHECK_NOTHROW(check(small_problem()));
  CHECK_NOTHROW(check(Exact{}));
  Exact problem = small_problem();
  problem.add_class({});
  CHECK_THROWS_AS(check(problem), InvalidArgument);
  problem = small_problem();
  problem.begin.clear();
  CHECK_THROWS_AS(check(problem), InvalidArgument);
  problem.begin = {0, 9, 6};
  CHECK_THROWS_AS(check(problem), InvalidArgument);
  problem.begin = {0, 3, 5};
  CHECK_THROWS_AS(check(problem), InvalidArgument);
  problem.begin = {1, 3, 6};
  CHECK_THROWS_AS(check(problem), InvalidArgument);
  problem = small_problem();
  problem.forbidden.resize(7);
  CHECK_THROWS_AS(check(problem), InvalidArgument);
  problem = small_problem();
  problem.leader = {0, 1, 2};
  CHECK_THROWS_AS(check(problem), InvalidArgument);
  problem.leader = {1, 1};
  CHECK_THROWS_AS(check(problem), InvalidArgument);
  problem = small_problem();
  problem.add_class({{1, 1, 1}});
  problem.tie(0, 2);
  CHECK_THROWS_AS(check(problem), InvalidArgument);
  CHECK_THROWS_AS(problem.forbid(0, 3), InvalidArgument);
  CHECK_THROWS_AS(problem.forbid(3, 0), InvalidArgument);
  CHECK_THROWS_AS(problem.pin(2, 1), InvalidArgument);
  CHECK_THROWS_AS(problem.tie(0, 3), InvalidArgument);
}

TEST_CASE("numbers that cannot be summed are refused", "[allocate][knapsack_problem]") {
  constexpr double huge = std::numeric_limits<double>::max(), inf = std::numeric_limits<double>::infinity(),
                   nan = std::numeric_limits<double>::quiet_NaN();
  for (const double bad : {nan, inf, -inf}) {
    KnapsackProblem<double> problem;
    problem.add_class({{1, 1, 1}, {2, 0.5, 1}});
    problem.budget = 2;
    CHECK_NOTHROW(check(problem));
    problem.options[1].second = bad;
    CHECK_NOTHROW(check(problem));  // nobody reads it
    problem.second_budget = 3;
    CHECK_THROWS_AS(check(problem), InvalidArgument);
    problem.options[1] = {bad, 0, 0};
    CHECK_THROWS_AS(check(problem), InvalidArgument);
    problem.options[1] = {0, bad, 0};
    CHECK_THROWS_AS(check(problem), InvalidArgument);
  }
  KnapsackProblem<double> floating;
  floating.add_class({{1, 1, 1}});
  floating.budget = nan;
  CHECK_THROWS_AS(check(floating), InvalidArgument);
  floating.budget = inf;
  CHECK_NOTHROW(check(floating));
  floating.options[0].cost = -huge;
  CHECK_NOTHROW(check(floating));
  floating.add_class({{1, huge, 1}});
  CHECK_THROWS_AS(check(floating), InvalidArgument);

  constexpr std::int64_t most = std::int64_t{1} << 60;
  for (const std::int64_t size : {most, -most}) {
    Exact problem = small_problem();
    problem.options[0].weight = size - (size > 0 ? 5 : -5);
    CHECK_NOTHROW(check(problem));
    problem.options[0].weight = size + size / 4;
    CHECK_THROWS_AS(check(problem), InvalidArgument);
    problem.options[0] = {1, size + size / 4, 0};
    CHECK_THROWS_AS(check(problem), InvalidArgument);
  }
  for (const std::int64_t worst :
       {std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()}) {
    Exact problem = small_problem();
    problem.budget = worst;
    CHECK_NOTHROW(check(problem));
    problem.options[5].weight = worst;
    CHECK_THROWS_AS(check(problem), InvalidArgument);
  }
  KnapsackProblem<std::uint64_t, std::uint64_t> natural;
  natural.add_class({{1, ~std::uint64_t{0}, 0}});
  CHECK_THROWS_AS(check(natural), InvalidArgument);
}

TEST_CASE("fixed point rounds up by less than a step and keeps whole numbers",
          "[allocate][knapsack_problem]") {
  for (const double unit : {1.0, 1e-285, 1e-30, 0.1, 1.0 / 3, 1e30, 1e300}) {
    higgs::detail::FixedRange range;
    std::vector<double> values;
    for (int i = -20; i <= 20; ++i) {
      values.push_back(i * unit);
      range.add(values.back());
      range.close_class();
    }
    const higgs::detail::FixedScale scale = range.scale<double>(60, "");
    CHECK(scale.exact == (unit == 1));
    double sum = 0;
    for (const double value : values) {
      const std::int64_t fixed = scale(value);
      sum += std::abs(static_cast<double>(fixed));
      const double excess = static_cast<double>(fixed) - value * scale.factor;  // exact: neighbours, or equal
      CHECK(excess >= 0);
      CHECK(excess < 1);
    }
    CHECK(sum <= 0x1p60);
    if (!scale.exact) CHECK(sum >= 0x1p58);
  }
}
