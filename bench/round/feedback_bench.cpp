// SPDX-License-Identifier: Apache-2.0
// Factors of second moments on one core: rotated by both sides, damped, factored.
#include <higgs/core/executor.hpp>
#include <higgs/core/random.hpp>
#include <higgs/rotate/hadamard.hpp>
#include <higgs/round/feedback.hpp>
#include <higgs/round/second_moment.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <vector>

namespace {

// `range(1)`: inputs of a part, 0 for all.
void feedback(benchmark::State& state) {
  constexpr std::int64_t rows = 64;
  const std::int64_t cols = state.range(0);
  std::vector<float> x(static_cast<std::size_t>(rows * cols));
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = static_cast<float>(static_cast<int>(higgs::random_bits(1, i) >> 56) - 128);
  higgs::SecondMoment moment(cols, state.range(1));
  moment.add({x.data(), rows, cols});
  const higgs::CodeLayout layout{.rows = 1, .cols = cols, .block = higgs::choose_block(cols)};
  higgs::SerialExecutor serial;
  const std::clock_t begin = std::clock();  // processor time: other programs do not count
  for (auto _ : state) {
    const higgs::Feedback made(moment, layout, 1, {}, higgs::Feedback::default_damping, serial);
    if (made.damping() != higgs::Feedback::default_damping) return state.SkipWithError("damped further");
    benchmark::DoNotOptimize(made.d().data());
  }
  const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  const auto each = static_cast<double>(moment.part());
  const double count = static_cast<double>(cols) * each * each / 6 * static_cast<double>(state.iterations());
  state.counters["multiply-adds/s"] = count / seconds;
}
BENCHMARK(feedback)
    ->Name("round/feedback/cpu/f32")
    ->Args({576, 0})
    ->Args({1536, 0})
    ->Args({8960, 0})
    ->Args({8960, 1792})
    ->Unit(benchmark::kMillisecond);

}  // namespace
