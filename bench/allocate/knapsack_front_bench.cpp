// SPDX-License-Identifier: Apache-2.0
// Every budget of an 8B model's 224 layers with 12 bit widths each: the exact front, and its convex hull.
#include <higgs/allocate/knapsack_front.hpp>
#include <higgs/core/random.hpp>

#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <vector>

namespace {

higgs::KnapsackProblem<> layers(std::int64_t count) {
  constexpr std::int64_t shapes[] = {16, 4, 4, 16, 56, 56, 56};
  higgs::KnapsackProblem<> problem;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t size = shapes[i % 7];
    const double alpha = std::exp(higgs::random_normal(1, static_cast<std::uint64_t>(i)));
    std::vector<higgs::KnapsackOption<>> added;
    for (const double width : {1.5, 2.0, 2.25, 2.5, 3.0, 3.25, 3.5, 4.0, 4.25, 5.0, 6.0, 8.0}) {
      added.push_back({static_cast<std::int64_t>(4 * width) * size, alpha * 1.8 * std::pow(4, -width), 0});
    }
    problem.add_class(added);
    problem.budget += added.back().weight;
  }
  return problem;
}

void front(benchmark::State& state) {
  const auto problem = layers(state.range(0));
  std::size_t points = 0;
  for (auto _ : state) {
    const higgs::KnapsackFront<> found(problem, static_cast<std::size_t>(state.range(1)));
    points = found.points().size();
  }
  state.counters["points"] = static_cast<double>(points);
}
BENCHMARK(front)
    ->Name("allocate/knapsack_front/cpu")
    ->ArgNames({"classes", "cells"})
    ->Args({224, 1 << 26})
    ->Args({224, 0})
    ->Args({100000, 0})
    ->Unit(benchmark::kMillisecond);

}  // namespace
