// SPDX-License-Identifier: Apache-2.0
// The Hadamard transform of hot rows against plain loops and against what this core can do at best: its additions, or
// reading and writing the row once. Rows beyond the caches against scaling them.
#include <higgs/rotate/random_hadamard.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <span>
#include <string>
#include <vector>

#if defined(HIGGS_TARGET_BEGIN)
#  include <immintrin.h>
#endif

namespace {

using higgs::Isa;

constexpr int rounds = 1000, chains = 10;  // ten sums at once hide the latency of one

#if defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)
[[gnu::noinline]] double add_avx2() {
  const __m256 b = _mm256_set1_ps(0.5f);
  __m256 a0 = b, a1 = b, a2 = b, a3 = b, a4 = b, a5 = b, a6 = b, a7 = b, a8 = b, a9 = b;
  for (int i = 0; i < rounds; ++i) {
    a0 = _mm256_add_ps(a0, b), a1 = _mm256_add_ps(a1, b), a2 = _mm256_add_ps(a2, b),
    a3 = _mm256_add_ps(a3, b);
    a4 = _mm256_add_ps(a4, b), a5 = _mm256_add_ps(a5, b), a6 = _mm256_add_ps(a6, b),
    a7 = _mm256_add_ps(a7, b);
    a8 = _mm256_add_ps(a8, b), a9 = _mm256_add_ps(a9, b);
    asm volatile("" : "+x"(a0), "+x"(a1), "+x"(a2), "+x"(a3), "+x"(a4), "+x"(a5), "+x"(a6), "+x"(a7));
    asm volatile("" : "+x"(a8), "+x"(a9));
  }
  return 8.0 * rounds * chains;
}
HIGGS_TARGET_END
HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
[[gnu::noinline]] double add_avx512() {
  const __m512 b = _mm512_set1_ps(0.5f);
  __m512 a0 = b, a1 = b, a2 = b, a3 = b, a4 = b, a5 = b, a6 = b, a7 = b, a8 = b, a9 = b;
  for (int i = 0; i < rounds; ++i) {
    a0 = _mm512_add_ps(a0, b), a1 = _mm512_add_ps(a1, b), a2 = _mm512_add_ps(a2, b),
    a3 = _mm512_add_ps(a3, b);
    a4 = _mm512_add_ps(a4, b), a5 = _mm512_add_ps(a5, b), a6 = _mm512_add_ps(a6, b),
    a7 = _mm512_add_ps(a7, b);
    a8 = _mm512_add_ps(a8, b), a9 = _mm512_add_ps(a9, b);
    asm volatile("" : "+v"(a0), "+v"(a1), "+v"(a2), "+v"(a3), "+v"(a4), "+v"(a5), "+v"(a6), "+v"(a7));
    asm volatile("" : "+v"(a8), "+v"(a9));
  }
  return 16.0 * rounds * chains;
}
HIGGS_TARGET_END
#endif

[[gnu::noinline]] double add_portable() {
  float a[32] = {};
  for (int i = 0; i < rounds; ++i) {
    for (float& value : a) value += 0.5f;
    benchmark::DoNotOptimize(a);
  }
  return 32.0 * rounds;
}

// The best of many short samples: what the core can do while nobody else uses it.
double adds_per_second() {
  static const double rate = [] {
    double best = 0;
    for (int sample = 0; sample < 5000; ++sample) {
      const auto begin = std::chrono::steady_clock::now();
      double adds = 0;
#if defined(HIGGS_TARGET_BEGIN)
      if (higgs::best_isa() == Isa::Avx512) adds = add_avx512();
      if (higgs::best_isa() == Isa::Avx2) adds = add_avx2();
#endif
      if (higgs::best_isa() == Isa::Portable) adds = add_portable();
      const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
      best = std::max(best, adds / time.count());
    }
    return best;
  }();
  return rate;
}

// Reads and writes a row once: times one, so that values stay.
[[gnu::noinline]] void scale_row(float* x, std::int64_t n, float factor) {
  for (std::int64_t i = 0; i < n; ++i) x[i] *= factor;
}
#if defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
[[gnu::noinline]] void scale_row_avx512(float* x, std::int64_t n, float factor) {
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    _mm512_storeu_ps(x + i, _mm512_mul_ps(_mm512_loadu_ps(x + i), _mm512_set1_ps(factor)));
  for (; i < n; ++i) x[i] *= factor;
}
HIGGS_TARGET_END
#endif
void read_and_write(std::span<float> x) {
  volatile float one = 1.0f;
#if defined(HIGGS_TARGET_BEGIN)
  if (higgs::best_isa() == Isa::Avx512) return scale_row_avx512(x.data(), std::ssize(x), one);
#endif
  scale_row(x.data(), std::ssize(x), one);
}

// The textbook: one stride after another, left to the compiler.
void radix2(std::span<float> x) {
  const std::size_t n = x.size();
  for (std::size_t h = 1; h < n; h *= 2)
    for (std::size_t i = 0; i < n; i += 2 * h)
      for (std::size_t j = i; j < i + h; ++j) {
        const float u = x[j], v = x[j + h];
        x[j] = u + v;
        x[j + h] = u - v;
      }
  const float scale = 1.0f / std::sqrt(static_cast<float>(n));
  for (float& value : x) value *= scale;
}

// The same with vectors, as public AVX code has it: strides inside a register, then one pass for each stride.
#if defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)
[[gnu::noinline]] void radix2_avx2_pass(float* x, std::size_t n, std::size_t h) {
  for (std::size_t i = 0; i < n; i += 2 * h)
    for (std::size_t j = i; j < i + h; j += 8) {
      const __m256 u = _mm256_loadu_ps(x + j), v = _mm256_loadu_ps(x + j + h);
      _mm256_storeu_ps(x + j, _mm256_add_ps(u, v));
      _mm256_storeu_ps(x + j + h, _mm256_sub_ps(u, v));
    }
}
void radix2_avx2(std::span<float> x) {
  const std::size_t n = x.size();
  for (std::size_t i = 0; i < n; i += 8)
    _mm256_storeu_ps(&x[i], higgs::cpu::hadamard_avx2::inside(_mm256_loadu_ps(&x[i])));
  for (std::size_t h = 8; h < n; h *= 2) radix2_avx2_pass(x.data(), n, h);
  const float scale = 1.0f / std::sqrt(static_cast<float>(n));
  for (float& value : x) value *= scale;
}
HIGGS_TARGET_END
#endif

// Additions of the documented order of operations.
double adds_of(std::int64_t n) {
  const higgs::detail::HadamardShape shape = higgs::detail::hadamard_shape(n);
  const double base = shape.base == 1 ? 0.0 : 2.0 + static_cast<double>(shape.base) / 4.0;
  return static_cast<double>(n) * (std::log2(static_cast<double>(shape.run)) + base);
}

template <class Transform>
void measure(benchmark::State& state, std::int64_t n, Transform transform) {
  std::vector<float> x(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 17) - 8.0f;
  if (n <= 4096) {
    std::vector<float> y = x;
    transform(y);
    const std::vector<double> expected = higgs::hadamard_reference(x);
    for (std::size_t i = 0; i < x.size(); ++i)
      if (std::abs(y[i] - expected[i]) > 1e-3) return state.SkipWithError("the result is wrong");
  }
  const std::clock_t begin = std::clock();  // of processor time: others on the machine do not count
  for (auto _ : state) {
    transform(x);
    benchmark::ClobberMemory();
  }
  const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  const double rows = static_cast<double>(state.iterations()) / seconds;
  state.counters["GB/s"] = 8e-9 * static_cast<double>(n) * rows;
  state.counters["adds/s"] = adds_of(n) * rows;
  double once = 1e9;  // seconds to read and write the row, the best of many
  for (int sample = 0; sample < 200; ++sample) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < 64; ++i) read_and_write(x);
    once =
        std::min(once, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / 64);
  }
  state.counters["share_of_limit"] = std::max(adds_of(n) / adds_per_second(), once) * rows;
}

// Rows beyond the caches, in turns with scaling others of them in place.
void measure_memory(benchmark::State& state) {
  constexpr std::int64_t part = 8 << 20;  // floats: 32 MiB
  const std::int64_t n = state.range(0);
  static std::vector<float> x(8 * part, 1.0f);
  std::vector<double> times, limits;
  std::int64_t at = 0;
  const auto timed = [&](auto&& body) {
    const auto start = std::chrono::steady_clock::now();
    body(std::span<float>(x.data() + at++ % 8 * part, part));
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  for (auto _ : state) {
    times.push_back(timed([n](std::span<float> rows) { higgs::hadamard_blocks(rows, n); }));
    state.SetIterationTime(times.back());
    limits.push_back(timed(read_and_write));
  }
  const auto median = [](std::vector<double>& values) {
    std::nth_element(values.begin(), values.begin() + std::ssize(values) / 2, values.end());
    return values[values.size() / 2];
  };
  const double time = median(times);
  state.counters["GB/s"] = 8e-9 * static_cast<double>(part) / time;
  state.counters["share_of_limit"] = median(limits) / time;
}
BENCHMARK(measure_memory)
    ->Name("rotate/hadamard/memory/f32")
    ->UseManualTime()
    ->Arg(256)
    ->Arg(1024)
    ->Arg(4096);

template <class Transform>
void add(const std::string& name, std::int64_t n, Transform transform) {
  benchmark::RegisterBenchmark((name + "/" + std::to_string(n)).c_str(),
                               [n, transform](benchmark::State& state) { measure(state, n, transform); });
}

const int registered = [] {
  const struct {
    const char* where;
    Isa isa;
  } paths[] = {{"cpu", higgs::best_isa()}, {"cpu_avx2", Isa::Avx2}, {"cpu_portable", Isa::Portable}};
  for (const auto& [where, isa] : paths)
    if (higgs::usable_isa(isa) == isa)
      for (const std::int64_t n : {64, 256, 512, 576, 768, 896, 1024, 1536, 2048, 4096, 32768})
        add("rotate/hadamard/" + std::string(where) + "/f32", n,
            [isa = isa](std::span<float> x) { higgs::hadamard(x, isa); });
  for (const std::int64_t n : {64, 256, 1024, 4096, 32768}) {
    add("rotate/hadamard/radix2_loop/f32", n, radix2);
#if defined(HIGGS_TARGET_BEGIN)
    if (higgs::isa_includes(higgs::best_isa(), Isa::Avx2))
      add("rotate/hadamard/radix2_avx2/f32", n, radix2_avx2);
#endif
  }
  return 0;
}();

// Rows of a matrix or of activations as they come: converted, signs flipped, transformed into a row of floats.
template <class X>
void rotate_rows(benchmark::State& state) {
  const std::int64_t n = state.range(0), block = higgs::choose_block(n);
  const std::vector<X> x(static_cast<std::size_t>(n), X(1.0f));
  std::vector<float> row(x.size());
  for (auto _ : state) {
    higgs::rotate_row(std::span<const X>(x), {}, std::span<float>(row), block, 1);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * n);
}
BENCHMARK(rotate_rows<float>)->Name("rotate/rotate_row/cpu/f32")->Arg(576)->Arg(4096);
BENCHMARK(rotate_rows<higgs::Half>)->Name("rotate/rotate_row/cpu/f16")->Arg(576)->Arg(4096);
BENCHMARK(rotate_rows<higgs::BFloat16>)->Name("rotate/rotate_row/cpu/bf16")->Arg(576)->Arg(4096);

void signs(benchmark::State& state) {
  std::vector<float> x(4096, 1.0f);
  for (auto _ : state) {
    higgs::apply_signs(x, 1);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * 8 * 4096);
}
BENCHMARK(signs)->Name("rotate/signs/cpu/f32/4096");

}  // namespace
