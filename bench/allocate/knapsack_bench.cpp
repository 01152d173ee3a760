// SPDX-License-Identifier: Apache-2.0
// The instances: layers of random sensitivity, options by bit width. kind 0 has the layer shapes of an 8B
// model, kind 1 random sizes. The baseline is the plain table over every budget.
#include <higgs/allocate/knapsack_front.hpp>
#include <higgs/core/random.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace {

using higgs::KnapsackFront;
using higgs::KnapsackOption;
using higgs::KnapsackProblem;
using higgs::random_bits;
using higgs::random_normal;

std::span<const double> bit_widths(std::int64_t options) {
  static constexpr double five[] = {2, 2.5, 3, 3.5, 4};
  static constexpr double eight[] = {2, 2.25, 2.5, 3, 3.25, 3.5, 4, 5};
  static constexpr double twelve[] = {1.5, 2, 2.25, 2.5, 3, 3.25, 3.5, 4, 4.25, 5, 6, 8};
  if (options == 5) return five;
  return options == 8 ? std::span<const double>(eight) : twelve;
}

KnapsackProblem<> layers(std::int64_t count, std::int64_t options, std::int64_t kind, double bits,
                         std::uint64_t seed) {
  constexpr std::int64_t shapes[] = {16, 4, 4, 16, 56, 56, 56};
  KnapsackProblem<> problem;
  std::uint64_t counter = 0;
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto size =
        kind == 0 ? shapes[i % 7] : static_cast<std::int64_t>(1 + random_bits(seed, counter++) % 4096);
    const double alpha = std::exp(random_normal(seed, counter++)) * std::sqrt(static_cast<double>(size));
    std::vector<KnapsackOption<>> added;
    for (const double width : bit_widths(options)) {
      const double noise = 1 + 0.02 * random_normal(seed, counter++);
      added.push_back(
          {static_cast<std::int64_t>(4 * width) * size, alpha * 1.8 * std::pow(4, -width) * noise, 0});
    }
    problem.add_class(added);
    total += 4 * size;
  }
  problem.budget = static_cast<std::int64_t>(bits * static_cast<double>(total));
  return problem;
}

double plain_table(const KnapsackProblem<>& problem) {
  const auto size = static_cast<std::size_t>(problem.budget) + 1;
  std::vector<double> least(size), next(size);
  for (std::size_t i = 0; i < problem.classes(); ++i) {
    std::fill(next.begin(), next.end(), std::numeric_limits<double>::infinity());
    for (std::size_t k = problem.begin[i]; k < problem.begin[i + 1]; ++k) {
      const auto weight = static_cast<std::size_t>(problem.options[k].weight);
      for (std::size_t x = weight; x < size; ++x)
        next[x] = std::min(next[x], least[x - weight] + problem.options[k].cost);
    }
    std::swap(least, next);
  }
  return least.back();
}

void baseline_table(benchmark::State& state) {
  const auto problem = layers(state.range(0), state.range(1), 0, 3.25, 1);
  for (auto _ : state) benchmark::DoNotOptimize(plain_table(problem));
}
BENCHMARK(baseline_table)
    ->Name("allocate/knapsack/cpu/table")
    ->Args({224, 12})
    ->Unit(benchmark::kMillisecond);

void solve(benchmark::State& state) {
  std::vector<KnapsackProblem<>> problems;
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    problems.push_back(layers(state.range(0), state.range(1), state.range(2), 3.25, seed));
  }
  std::size_t next = 0, states = 0;
  double gap = 0;
  bool proven = true;
  for (auto _ : state) {
    const auto found = solve_knapsack(problems[next++ % problems.size()]);
    states = std::max(states, found->states);
    gap = std::max(gap, found->gap() / found->cost);
    proven = proven && found->proven;
  }
  if (!proven) state.SkipWithError("not proven");
  state.counters["states"] = static_cast<double>(states);
  state.counters["gap"] = gap;
}
BENCHMARK(solve)
    ->Name("allocate/knapsack/cpu/solve")
    ->ArgNames({"classes", "options", "kind"})
    ->ArgsProduct({{224, 1000, 10000, 100000}, {5, 8, 12}, {0, 1}})
    ->Unit(benchmark::kMillisecond);

// Three matrices of an expert share an option.
void experts(benchmark::State& state) {
  auto problem = layers(3 * state.range(0), state.range(1), 1, 3.25, 1);
  for (std::size_t i = 0; i < problem.classes(); i += 3) {
    problem.tie(i, i + 1);
    problem.tie(i, i + 2);
  }
  double gap = 0;
  for (auto _ : state) {
    const auto found = solve_knapsack(problem);
    gap = found->gap() / found->cost;
  }
  state.counters["gap"] = gap;
}
BENCHMARK(experts)
    ->Name("allocate/knapsack/cpu/experts")
    ->Args({25000, 5})
    ->Args({25000, 12})
    ->Unit(benchmark::kMillisecond);

// A second weight that grows more slowly than the first, such as a latency, halfway between its least and
// free use.
void two_budgets(benchmark::State& state) {
  auto problem = layers(state.range(0), state.range(1), 0, 3.25, 5);
  const auto free = solve_knapsack(problem);
  std::int64_t least = 0, taken = 0;
  for (std::size_t i = 0; i < problem.classes(); ++i) {
    std::int64_t least_here = std::numeric_limits<std::int64_t>::max();
    for (std::size_t k = problem.begin[i]; k < problem.begin[i + 1]; ++k) {
      auto& option = problem.options[k];
      const double noise = 1 + 0.3 * higgs::random_uniform(9, k);
      option.second = static_cast<std::int64_t>(100 * std::sqrt(static_cast<double>(option.weight)) * noise);
      least_here = std::min(least_here, option.second);
    }
    least += least_here;
    taken += problem.options[problem.begin[i] + free->choice[i]].second;
  }
  problem.second_budget = (least + taken) / 2;
  double gap = 0;
  for (auto _ : state) {
    const auto found = solve_knapsack(problem);
    gap = found->gap() / found->cost;
  }
  state.counters["gap"] = gap;
}
BENCHMARK(two_budgets)
    ->Name("allocate/knapsack/cpu/two_budgets")
    ->Args({224, 12})
    ->Args({1000, 12})
    ->Unit(benchmark::kMillisecond);

}  // namespace
