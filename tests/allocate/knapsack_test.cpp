// SPDX-License-Identifier: Apache-2.0
#include <higgs/allocate/knapsack.hpp>
#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

using higgs::knapsack_reference;
using higgs::KnapsackLimits;
using higgs::KnapsackOption;
using higgs::KnapsackProblem;
using higgs::KnapsackSolution;
using higgs::random_bits;
using higgs::random_normal;
using higgs::random_uniform;
using higgs::solve_knapsack;

namespace {

using Exact = KnapsackProblem<std::int64_t, std::int64_t>;

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : seed_(seed) {}
  std::int64_t operator()(std::int64_t low, std::int64_t high) {  // inclusive
    const auto span = static_cast<std::uint64_t>(high - low + 1);
    return low + static_cast<std::int64_t>(random_bits(seed_, next_++) % span);
  }

 private:
  std::uint64_t seed_, next_ = 0;
};

enum Constraint : unsigned { bans = 1, pins = 2, ties = 4, second = 8, signs = 16 };

template <class Weight, class Cost>
KnapsackProblem<Weight, Cost> random_problem(std::uint64_t seed, unsigned constraints, Weight weight_unit = 1,
                                             Cost cost_unit = 1) {
  Dice dice(seed);
  const auto classes = static_cast<std::size_t>(dice(1, 5));
  const std::int64_t options = dice(1, 4), heaviest = dice(0, 9), dearest = dice(0, 1) ? 9 : 200;
  const std::int64_t low = constraints & signs ? -5 : 0;
  KnapsackProblem<Weight, Cost> problem;
  const auto weight = [&](std::int64_t units) {
    return static_cast<Weight>(static_cast<Weight>(units) * weight_unit);
  };
  for (std::size_t i = 0; i < classes; ++i) {
    std::vector<KnapsackOption<Weight, Cost>> added;
    for (std::int64_t j = constraints & ties ? options : dice(1, options); j > 0; --j) {
      added.push_back({weight(dice(low, heaviest)),
                       static_cast<Cost>(static_cast<Cost>(dice(low, dearest)) * cost_unit),
                       weight(dice(low, 6))});
    }
    problem.add_class(added);
  }
  const auto n = static_cast<std::int64_t>(classes);
  problem.budget = weight(dice(std::min<std::int64_t>(low * n, 0), heaviest * n));
  if (constraints & second) problem.second_budget = weight(dice(low * n, 5 * n));
  const auto any_class = [&] { return static_cast<std::size_t>(dice(0, n - 1)); };
  for (std::size_t i = any_class(), j = any_class(); constraints & ties && dice(0, 3);
       i = any_class(), j = any_class()) {
    problem.tie(i, j);
  }
  const auto any_option = [&](std::size_t i) {
    return static_cast<std::size_t>(
        dice(0, static_cast<std::int64_t>(problem.begin[i + 1] - problem.begin[i]) - 1));
  };
  for (std::size_t i = any_class(); constraints & bans && dice(0, 2); i = any_class())
    problem.forbid(i, any_option(i));
  if (const std::size_t i = any_class(); constraints & pins) problem.pin(i, any_option(i));
  return problem;
}

/// Whether the choice keeps every rule and is what the solution says it is.
template <class Weight, class Cost>
bool is_honest(const KnapsackProblem<Weight, Cost>& problem, const KnapsackSolution<Weight, Cost>& solution) {
  Cost cost{};
  Weight weight{}, taken{};
  if (solution.choice.size() != problem.classes()) return false;
  for (std::size_t i = 0; i < problem.classes(); ++i) {
    const std::size_t at = problem.begin[i] + solution.choice[i];
    if (at >= problem.begin[i + 1] || (at < problem.forbidden.size() && problem.forbidden[at])) return false;
    if (i < problem.leader.size() && solution.choice[problem.leader[i]] != solution.choice[i]) return false;
    cost = static_cast<Cost>(cost + problem.options[at].cost);
    weight = static_cast<Weight>(weight + problem.options[at].weight);
    taken = static_cast<Weight>(taken + problem.options[at].second);
  }
  return cost == solution.cost && weight == solution.weight && weight <= problem.budget &&
         taken == solution.second && (!problem.second_budget || taken <= *problem.second_budget) &&
         solution.lower_bound <= cost;
}

/// Layers of a model: bit widths for options, errors that fall by 4 with every bit.
KnapsackProblem<> layers(std::size_t count, double bits, std::uint64_t seed, double noise = 0.02) {
  constexpr double widths[] = {1.5, 2, 2.25, 2.5, 3, 3.25, 3.5, 4, 4.25, 5, 6, 8};
  KnapsackProblem<> problem;
  std::uint64_t counter = 0;
  std::int64_t total = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const auto size = static_cast<std::int64_t>(1 + random_bits(seed, counter++) % 4096);
    const double alpha = std::exp(random_normal(seed, counter++)) * std::sqrt(static_cast<double>(size));
    std::vector<KnapsackOption<>> options;
    for (const double width : widths) {
      options.push_back({static_cast<std::int64_t>(4 * width) * size,
                         alpha * 1.8 * std::pow(4, -width) * (1 + noise * random_normal(seed, counter++)),
                         0});
    }
    problem.add_class(options);
    total += 4 * size;
  }
  problem.budget = static_cast<std::int64_t>(bits * static_cast<double>(total));
  return problem;
}

}  // namespace

TEST_CASE("whole numbers: the cost, and among equals the weight, are those of the definition",
          "[allocate][knapsack]") {
  for (const unsigned constraints : {0u, +bans, +pins, +ties, +signs, +second, bans | pins | ties | signs,
                                     ties | second | signs, bans | pins | ties | second | signs}) {
    for (std::uint64_t seed = 0; seed < 1500; ++seed) {
      const Exact problem = random_problem<std::int64_t, std::int64_t>(seed, constraints);
      const auto expected = knapsack_reference(problem);
      const auto found = solve_knapsack(problem);
      CAPTURE(seed, constraints);
      REQUIRE(found.has_value() == expected.has_value());
      if (!found) continue;
      REQUIRE(is_honest(problem, *found));
      REQUIRE(found->cost == expected->cost);
      REQUIRE((constraints & second || found->weight == expected->weight));
      REQUIRE(found->proven);
      REQUIRE(found->gap() == 0);
    }
  }
}

TEST_CASE("fractions: within the stated rounding of the definition", "[allocate][knapsack]") {
  for (const unsigned constraints : {0u, +second, bans | ties | signs, bans | pins | ties | second | signs}) {
    for (std::uint64_t seed = 0; seed < 500; ++seed) {
      // Weights in eighths are summed exactly by the reference too.
      const auto problem = random_problem<double, double>(seed, constraints, 0.125, 1.0 / 3);
      const auto expected = knapsack_reference(problem);
      const auto found = solve_knapsack(problem);
      CAPTURE(seed, constraints);
      REQUIRE(found.has_value() == expected.has_value());
      if (!found) continue;
      REQUIRE(is_honest(problem, *found));
      // Both sums of at most 5 costs of at most 67 are rounded, besides the solver's own steps.
      const double rounding = 2 * 5 * found->cost_step + 2 * 4 * 335 * 0x1p-53;
      REQUIRE(std::abs(found->cost - expected->cost) <= rounding);
      REQUIRE(found->lower_bound <= expected->cost);
      REQUIRE(found->gap() <= rounding);
      REQUIRE(found->proven);
    }
  }
}

TEST_CASE("narrow and unsigned types work", "[allocate][knapsack]") {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    const auto small = random_problem<std::int8_t, float>(seed, bans | second);
    const auto natural = random_problem<std::uint32_t, std::uint64_t>(seed, ties);
    const auto a = solve_knapsack(small), b = knapsack_reference(small);
    const auto c = solve_knapsack(natural), d = knapsack_reference(natural);
    CAPTURE(seed);
    REQUIRE((a.has_value() == b.has_value() && c.has_value() == d.has_value()));
    if (a) REQUIRE((is_honest(small, *a) && a->cost == b->cost && a->proven));
    if (c) REQUIRE((is_honest(natural, *c) && c->cost == d->cost && c->weight == d->weight));
  }
}

TEST_CASE("hard families equal a table over every budget", "[allocate][knapsack]") {
  // Costs close to a line in the weight leave the bounds little to work with.
  for (const int family : {0, 1, 2, 3}) {
    for (std::uint64_t seed = 0; seed < 6; ++seed) {
      Dice dice(1000 * seed + static_cast<std::uint64_t>(family));
      Exact problem;
      std::vector<std::int64_t> least(1, 0);  // by the weight
      for (int i = 0; i < 16; ++i) {
        std::vector<Exact::Option> options;
        for (int j = 0; j < 5; ++j) {
          std::int64_t weight = dice(1, 40), cost = dice(1, 1000);
          if (family == 1) cost = 100 - weight;
          if (family == 2) cost = 500 - 10 * weight + dice(-3, 3);
          if (family == 3) cost = (50 - weight) * (50 - weight), weight *= 2;
          options.push_back({weight, cost, 0});
        }
        problem.add_class(options);
        std::vector<std::int64_t> next(least.size() + 80, std::numeric_limits<std::int64_t>::max() / 2);
        for (std::size_t w = 0; w < least.size(); ++w) {
          for (const auto& option : options) {
            auto& cell = next[w + static_cast<std::size_t>(option.weight)];
            cell = std::min(cell, least[w] + option.cost);
          }
        }
        least = next;
      }
      for (std::size_t w = 1; w < least.size(); ++w) least[w] = std::min(least[w], least[w - 1]);
      for (problem.budget = 0; problem.budget < 700; problem.budget += 7) {
        const auto found = solve_knapsack(problem);
        const std::int64_t expected = least[static_cast<std::size_t>(problem.budget)];
        CAPTURE(family, seed, problem.budget);
        REQUIRE(found.has_value() == (expected < std::numeric_limits<std::int64_t>::max() / 4));
        if (!found) continue;
        REQUIRE(is_honest(problem, *found));
        REQUIRE(found->cost == expected);
        REQUIRE((found->weight == 0 || least[static_cast<std::size_t>(found->weight) - 1] > expected));
      }
    }
  }
}

TEST_CASE("more budget never costs more, and no uniform choice is better", "[allocate][knapsack]") {
  KnapsackProblem<> problem = layers(300, 1.5, 7);
  double last = std::numeric_limits<double>::max(), last_lambda = last;
  for (const double bits : {1.5, 1.6, 2.0, 2.3, 2.5, 3.0, 3.1, 4.0, 4.25, 5.5, 7.9, 8.0, 9.0}) {
    problem.budget = layers(300, bits, 7).budget;
    const auto found = solve_knapsack(problem);
    CAPTURE(bits);
    REQUIRE(found);
    CHECK(found->proven);
    CHECK(found->cost <= last);
    CHECK(found->lambda <= last_lambda);
    CHECK(found->gap() <= 2 * 300 * found->cost_step + 300 * 0x1p-53 * found->cost);
    last = found->cost;
    last_lambda = found->lambda;
    for (std::size_t j = 0; j < 12; ++j) {
      double cost = 0;
      std::int64_t weight = 0;
      for (std::size_t k = j; k < problem.options.size(); k += 12) {
        cost += problem.options[k].cost;
        weight += problem.options[k].weight;
      }
      CHECK((weight > problem.budget || found->cost <= cost));
    }
  }
}

TEST_CASE("the dual price certifies: cost + lambda * weight is least in every class",
          "[allocate][knapsack]") {
  const KnapsackProblem<> problem = layers(500, 3.25, 3);
  const auto found = solve_knapsack(problem);
  REQUIRE(found);
  double bound = -found->lambda * static_cast<double>(problem.budget);
  for (std::size_t i = 0; i < problem.classes(); ++i) {
    double least = std::numeric_limits<double>::max();
    for (std::size_t k = problem.begin[i]; k < problem.begin[i + 1]; ++k) {
      least = std::min(
          least, problem.options[k].cost + found->lambda * static_cast<double>(problem.options[k].weight));
    }
    bound += least;
  }
  CHECK(bound <= found->cost * (1 + 1e-12));
  CHECK(bound >= found->cost * (1 - 1e-4));
}

TEST_CASE("the order of classes and options does not change the optimum", "[allocate][knapsack]") {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const Exact problem = random_problem<std::int64_t, std::int64_t>(seed, signs);
    Exact reversed;
    for (std::size_t i = problem.classes(); i-- > 0;) {
      const auto from = problem.options.begin();
      std::vector<Exact::Option> options(from + static_cast<std::ptrdiff_t>(problem.begin[i]),
                                         from + static_cast<std::ptrdiff_t>(problem.begin[i + 1]));
      std::reverse(options.begin(), options.end());
      reversed.add_class(options);
    }
    reversed.budget = problem.budget;
    const auto a = solve_knapsack(problem), b = solve_knapsack(reversed);
    CAPTURE(seed);
    REQUIRE(a.has_value() == b.has_value());
    if (a) REQUIRE((a->cost == b->cost && a->weight == b->weight && a->gap() == b->gap()));
  }
}

TEST_CASE("a pin in a large problem is kept and costs no less than freedom", "[allocate][knapsack]") {
  KnapsackProblem<> problem = layers(1000, 3, 1);
  const auto free = solve_knapsack(problem);
  for (std::size_t i = 0; i < 1000; i += 97) problem.pin(i, 11);
  problem.forbid(1, free->choice[1]);
  for (std::size_t i = 3; i < 996; i += 97) problem.tie(i, i + 1);
  const auto bound = solve_knapsack(problem);
  REQUIRE(bound);
  CHECK(is_honest(problem, *bound));
  CHECK(bound->proven);
  CHECK(bound->cost > free->cost);
}

TEST_CASE("the ends: no class, one class, one option, the least budget, duplicates", "[allocate][knapsack]") {
  Exact problem;
  CHECK(solve_knapsack(problem)->proven);
  CHECK(solve_knapsack(problem)->cost == 0);
  problem.budget = -1;
  CHECK_FALSE(solve_knapsack(problem));

  problem.add_class({{5, 3, 0}, {5, 3, 0}, {7, 1, 0}, {6, 4, 0}});
  for (const auto& [budget, choice] :
       std::vector<std::pair<int, std::uint32_t>>{{5, 0}, {6, 0}, {7, 2}, {900, 2}}) {
    problem.budget = budget;
    CHECK(solve_knapsack(problem)->choice == std::vector<std::uint32_t>{choice});
  }
  problem.budget = 4;
  CHECK_FALSE(solve_knapsack(problem));

  Exact single;
  for (int i = 0; i < 50; ++i) single.add_class({{i, -i, 0}});
  single.budget = 49 * 25;
  CHECK(solve_knapsack(single)->cost == -49 * 25);
  --single.budget;
  CHECK_FALSE(solve_knapsack(single));

  KnapsackProblem<> least = layers(200, 1.5, 9);
  const auto found = solve_knapsack(least);  // exactly the lightest options
  REQUIRE(found);
  CHECK(found->choice == std::vector<std::uint32_t>(200, 0));
  --least.budget;
  CHECK_FALSE(solve_knapsack(least));
}

TEST_CASE("ten thousand equal classes are solved at once", "[allocate][knapsack]") {
  Exact whole;
  KnapsackProblem<double> fractions;
  for (int i = 0; i < 10000; ++i) {
    whole.add_class({{4, 90, 0}, {6, 40, 0}, {10, 10, 0}});
    fractions.add_class({{0.4, 0.9, 0}, {0.6, 0.4, 0}, {1.0, 0.1, 0}});
  }
  whole.budget = 50001;
  const auto a = solve_knapsack(whole);
  REQUIRE(a);
  CHECK(a->cost == 5000 * 90 + 5000 * 40);
  CHECK(a->weight == 50000);
  CHECK(a->proven);
  CHECK(a->states < 1000);
  fractions.budget = 5000.1;
  const auto b = solve_knapsack(fractions);
  REQUIRE(b);
  CHECK(b->cost == Approx(6500));
  CHECK(b->proven);
}

TEST_CASE("equal slopes in classes of all sizes are no trap", "[allocate][knapsack]") {
  // Equal sensitivities: the cost is in proportion to the size, and so is the weight.
  for (const std::size_t classes : {100u, 1000u, 20000u}) {
    KnapsackProblem<> problem;
    std::int64_t total = 0;
    for (std::size_t i = 0; i < classes; ++i) {
      const auto size = static_cast<std::int64_t>(1 + random_bits(classes, i) % 4096);
      std::vector<KnapsackOption<>> options;
      for (const int bits : {2, 3, 4, 8})
        options.push_back({bits * size, static_cast<double>(size) * std::pow(4, -bits) / 3, 0});
      problem.add_class(options);
      total += size;
    }
    problem.budget = total * 13 / 4;
    const auto found = solve_knapsack(problem);
    REQUIRE(found);
    CAPTURE(classes, found->states);
    CHECK(found->proven);
    CHECK(found->weight == problem.budget);
    CHECK(found->cost == Approx(static_cast<double>(total) / 3 * (0.75 / 64 + 0.25 / 256)).epsilon(1e-6));
  }
}

TEST_CASE("when the states run out the answer stays feasible and its bound true", "[allocate][knapsack]") {
  Dice dice(5);
  Exact problem;
  for (int i = 0; i < 60; ++i) {
    std::vector<Exact::Option> options;
    for (int j = 0; j < 6; ++j) {
      const std::int64_t weight = dice(1, 1 << 20);
      options.push_back({weight, (1 << 21) - weight + dice(0, 2000), dice(1, 100)});
    }
    problem.add_class(options);
  }
  problem.budget = 60 * (1 << 19);
  const auto best = solve_knapsack(problem);
  REQUIRE(best);
  CHECK(best->proven);
  for (const std::size_t states : {0u, 10u, 100u, 1000u}) {
    const auto rough = solve_knapsack(problem, KnapsackLimits{states});
    REQUIRE(rough);
    CHECK(is_honest(problem, *rough));
    CHECK(rough->lower_bound <= best->cost);
    CHECK(rough->cost >= best->cost);
    CHECK((rough->proven ? rough->cost == best->cost : rough->gap() > 0));
    if (states == 0) CHECK_FALSE(rough->proven);
  }
  problem.second_budget = 60 * 40;
  for (const std::size_t states : {0u, 100u, 10000u}) {
    const auto rough = solve_knapsack(problem, KnapsackLimits{states});
    REQUIRE(rough);
    CHECK(is_honest(problem, *rough));
    CHECK((rough->proven || rough->gap() > 0));
    CHECK(rough->gap() <= rough->cost / 100);
  }
}

TEST_CASE("two budgets of a model's size are solved with a proof", "[allocate][knapsack]") {
  KnapsackProblem<> problem = layers(224, 3.25, 4);
  const auto one = solve_knapsack(problem);
  std::int64_t taken = 0, least = 0;
  for (std::size_t i = 0; i < problem.classes(); ++i) {
    std::int64_t least_here = std::numeric_limits<std::int64_t>::max();
    for (std::size_t k = problem.begin[i]; k < problem.begin[i + 1]; ++k) {
      auto& option = problem.options[k];
      const double noise = 1 + 0.3 * random_uniform(11, k);
      option.second = static_cast<std::int64_t>(100 * std::sqrt(static_cast<double>(option.weight)) * noise);
      least_here = std::min(least_here, option.second);
      if (k - problem.begin[i] == one->choice[i]) taken += option.second;
    }
    least += least_here;
  }
  problem.second_budget = taken;
  CHECK(solve_knapsack(problem)->cost == one->cost);
  problem.second_budget = least + (taken - least) / 2;
  const auto two = solve_knapsack(problem);
  REQUIRE(two);
  CHECK(is_honest(problem, *two));
  CHECK(two->proven);
  CHECK(two->mu > 0);
  CHECK(two->cost > one->cost);
  CHECK(two->gap() <= 1e-10 * two->cost);
  problem.second_budget = least - 1;
  CHECK_FALSE(solve_knapsack(problem));
}

TEST_CASE("the numbers may be as large or as small as doubles go", "[allocate][knapsack]") {
  for (const double unit : {1e-300, 1e-30, 1.0, 1e30, 1e290}) {
    KnapsackProblem<double> problem = random_problem<double, double>(17, 0, 1e-200, unit);
    const auto expected = solve_knapsack(random_problem<std::int64_t, std::int64_t>(17, 0));
    problem.budget *= 1 + 1e-12;
    const auto found = solve_knapsack(problem);
    REQUIRE(found.has_value() == expected.has_value());
    if (found) CHECK(found->choice == expected->choice);
  }
  constexpr std::int64_t huge = std::int64_t{1} << 58;
  Exact problem;
  problem.add_class({{-huge, huge, 0}, {huge, -huge, 0}, {1, 0, 0}});
  problem.add_class({{-huge, huge - 1, 0}, {huge, -huge, 0}, {0, 1, 0}});
  problem.add_class({{-3, 2, 0}, {2, 1, 0}, {0, 0, 0}});
  for (const std::int64_t budget :
       {-2 * huge - 3, -2 * huge, -huge, std::int64_t{0}, huge, 2 * huge, 3 * huge}) {
    problem.budget = budget;
    CAPTURE(budget);
    const auto found = solve_knapsack(problem), expected = knapsack_reference(problem);
    REQUIRE((found && expected));
    CHECK(found->cost == expected->cost);
    CHECK(found->weight == expected->weight);
  }
}

TEST_CASE("the break step is the one that sorting by slope finds", "[allocate][knapsack]") {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Dice dice(seed);
    std::vector<higgs::detail::HullStep> steps;
    std::int64_t total = 0;
    for (std::int64_t k = dice(1, 300); k > 0; --k) {
      steps.push_back({dice(1, 50), dice(1, dice(0, 1) ? 9 : 1000000)});
      total += steps.back().weight;
    }
    auto sorted = steps;
    std::stable_sort(sorted.begin(), sorted.end(),
                     [](const auto& a, const auto& b) { return a.slope() > b.slope(); });
    const std::int64_t budget = dice(0, total - 1);
    std::int64_t left = budget;
    std::size_t at = 0;
    while (sorted[at].weight <= left) left -= sorted[at++].weight;
    CAPTURE(seed, budget);
    REQUIRE(higgs::detail::break_step(steps, budget).slope() == Approx(sorted[at].slope()).epsilon(0x1p-35));
    for (const auto& step : steps) REQUIRE(step.slope() == Approx(sorted[at].slope()).epsilon(0x1p-35));
    REQUIRE(higgs::detail::break_step(sorted, total).cost == 0);
  }
}
