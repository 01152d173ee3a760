// SPDX-License-Identifier: Apache-2.0
// The whole way from weights to packed codes, beside what this machine reads from memory in the same run.
#include <higgs/core/executor.hpp>
#include <higgs/core/random.hpp>
#include <higgs/quantizer.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

namespace {

constexpr std::int64_t rows = 4096, cols = 4096;  // 64 MiB of floats: no cache keeps them

// Roughly Gaussian: sums of four uniform numbers are enough to time with, and quick to make.
template <class T>
const std::vector<T>& weights() {
  static const std::vector<T> all = [] {
    std::vector<T> made(static_cast<std::size_t>(rows * cols));
    for (std::size_t i = 0; i < made.size(); ++i) {
      const std::uint64_t bits = higgs::random_bits(1, i);
      const std::uint64_t sum =
          (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
      made[i] = static_cast<T>((static_cast<float>(sum) - 131070.0f) * 1e-6f);
    }
    return made;
  }();
  return all;
}

// Bytes per second, the best of some passes over the weights.
double read_bandwidth(higgs::Executor& executor) {
  const std::vector<float>& data = weights<float>();
  const std::int64_t grain = 1 << 18, count = rows * cols;
  double best = 0;
  for (int pass = 0; pass < 8; ++pass) {
    std::vector<std::uint32_t> sums(static_cast<std::size_t>(count / grain));
    const auto begin = std::chrono::steady_clock::now();
    higgs::parallel_for(executor, count, grain, [&](std::int64_t first, std::int64_t last) {
      std::uint32_t lanes[64] = {};
      for (std::int64_t i = first; i < last; i += 64)
        for (std::int64_t lane = 0; lane < 64; ++lane)
          lanes[lane] ^= std::bit_cast<std::uint32_t>(data[static_cast<std::size_t>(i + lane)]);
      for (const std::uint32_t lane : lanes) sums[static_cast<std::size_t>(first / grain)] ^= lane;
    });
    benchmark::DoNotOptimize(sums.data());
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
    best = std::max(best, static_cast<double>(count) * sizeof(float) / time.count());
  }
  return best;
}

template <class T, higgs::Code Book>
void quantize(benchmark::State& state) {
  const higgs::MatrixView<const T> w(weights<T>().data(), rows, cols);
  higgs::ThreadPool pool(static_cast<int>(state.range(0)));
  const double bandwidth = read_bandwidth(pool);
  for (auto _ : state) benchmark::DoNotOptimize(higgs::quantize(w, Book{}, {}, pool).codes.data());
  const auto count = static_cast<double>(w.size());
  state.counters["weights/s"] = benchmark::Counter(count, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["share_of_read_bandwidth"] =
      benchmark::Counter(count * sizeof(T) / bandwidth, benchmark::Counter::kIsIterationInvariantRate);
}

template <class T, higgs::Code Book>
void register_one(const std::string& type) {
  benchmark::RegisterBenchmark(("quantizer/quantize/cpu/" + type + "/" + Book::name()).c_str(),
                               quantize<T, Book>)
      ->ArgName("threads")
      ->Arg(1)
      ->Arg(2)
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}
template <class... Books>
bool register_all(higgs::TypeList<Books...>) {
  (register_one<float, Books>("f32"), ...);
  register_one<higgs::Half, higgs::GridCodebook<2, 256>>("f16");
  register_one<higgs::BFloat16, higgs::GridCodebook<2, 256>>("bf16");
  return true;
}
const bool registered = register_all(higgs::ShippedCodes{});

}  // namespace
