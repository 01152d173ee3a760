// SPDX-License-Identifier: Apache-2.0
// Sums of outer products on one core, against the multiply-adds that this core can do in registers.
#include <higgs/core/executor.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/round/outer_product.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <string>
#include <vector>

namespace {

using higgs::Isa;
using higgs::MatrixView;

// Twelve chains at once hide the latency of one.
#if defined(HIGGS_TARGET_BEGIN)
constexpr int rounds = 2000;
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)
[[gnu::noinline]] double multiply_avx2() {
  const __m256 b = _mm256_set1_ps(0.5f);
  __m256 a0 = b, a1 = b, a2 = b, a3 = b, a4 = b, a5 = b, a6 = b, a7 = b, a8 = b, a9 = b, aa = b, ab = b;
  for (int i = 0; i < rounds; ++i) {
    a0 = _mm256_fmadd_ps(a0, b, b), a1 = _mm256_fmadd_ps(a1, b, b), a2 = _mm256_fmadd_ps(a2, b, b),
    a3 = _mm256_fmadd_ps(a3, b, b), a4 = _mm256_fmadd_ps(a4, b, b), a5 = _mm256_fmadd_ps(a5, b, b),
    a6 = _mm256_fmadd_ps(a6, b, b), a7 = _mm256_fmadd_ps(a7, b, b), a8 = _mm256_fmadd_ps(a8, b, b),
    a9 = _mm256_fmadd_ps(a9, b, b), aa = _mm256_fmadd_ps(aa, b, b), ab = _mm256_fmadd_ps(ab, b, b);
    asm volatile("" : "+x"(a0), "+x"(a1), "+x"(a2), "+x"(a3), "+x"(a4), "+x"(a5));
    asm volatile("" : "+x"(a6), "+x"(a7), "+x"(a8), "+x"(a9), "+x"(aa), "+x"(ab));
  }
  return 8.0 * 12 * rounds;
}
HIGGS_TARGET_END
HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
[[gnu::noinline]] double multiply_avx512() {
  const __m512 b = _mm512_set1_ps(0.5f);
  __m512 a0 = b, a1 = b, a2 = b, a3 = b, a4 = b, a5 = b, a6 = b, a7 = b, a8 = b, a9 = b, aa = b, ab = b;
  for (int i = 0; i < rounds; ++i) {
    a0 = _mm512_fmadd_ps(a0, b, b), a1 = _mm512_fmadd_ps(a1, b, b), a2 = _mm512_fmadd_ps(a2, b, b),
    a3 = _mm512_fmadd_ps(a3, b, b), a4 = _mm512_fmadd_ps(a4, b, b), a5 = _mm512_fmadd_ps(a5, b, b),
    a6 = _mm512_fmadd_ps(a6, b, b), a7 = _mm512_fmadd_ps(a7, b, b), a8 = _mm512_fmadd_ps(a8, b, b),
    a9 = _mm512_fmadd_ps(a9, b, b), aa = _mm512_fmadd_ps(aa, b, b), ab = _mm512_fmadd_ps(ab, b, b);
    asm volatile("" : "+v"(a0), "+v"(a1), "+v"(a2), "+v"(a3), "+v"(a4), "+v"(a5));
    asm volatile("" : "+v"(a6), "+v"(a7), "+v"(a8), "+v"(a9), "+v"(aa), "+v"(ab));
  }
  return 16.0 * 12 * rounds;
}
HIGGS_TARGET_END
#endif

// Multiply-adds a second that a core of this set can do, the best of many samples; 0 where no loop measures it.
double limit_of(Isa isa) {
  double best = 0;
  for (int sample = 0; sample < 3000; ++sample) {
    const auto begin = std::chrono::steady_clock::now();
    double count = 0;
#if defined(HIGGS_TARGET_BEGIN)
    if (isa == Isa::Avx512) count = multiply_avx512();
    if (isa == Isa::Avx2) count = multiply_avx2();
#else
    static_cast<void>(isa);
#endif
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
    best = std::max(best, count / time.count());
  }
  return best;
}

struct Shape {
  std::int64_t k, m, n;
  bool upper;
};

void measure(benchmark::State& state, Isa isa, Shape shape) {
  const std::int64_t k = shape.k, m = shape.m, n = shape.n;
  const bool upper = shape.upper;
  const std::vector<float> a(static_cast<std::size_t>(k * m), 0.5f),
      b(static_cast<std::size_t>(k * n), 0.25f);
  std::vector<float> sums(static_cast<std::size_t>(m * n));
  const MatrixView<const float> left(a.data(), k, m), right(b.data(), k, n);
  const MatrixView<float> c(sums.data(), m, n);
  higgs::SerialExecutor serial;
  const auto add = [&] {
    if (upper)
      higgs::add_upper_outer_products(left, right, c, serial, isa);
    else
      higgs::add_outer_products(left, right, c, isa);
  };
  add();
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n; ++j)
      if (c(i, j) != (upper && j < i ? 0.0f : 0.125f * static_cast<float>(k)))
        return state.SkipWithError("the result is wrong");
  const std::clock_t begin = std::clock();  // processor time: other programs do not count
  for (auto _ : state) {
    add();
    benchmark::ClobberMemory();
  }
  const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  const double count = static_cast<double>(k) * static_cast<double>(upper ? m * (m + 1) / 2 : m * n);
  const double rate = count * static_cast<double>(state.iterations()) / seconds;
  state.counters["multiply-adds/s"] = rate;
  if (const double limit = limit_of(isa); limit > 0) state.counters["share_of_limit"] = rate / limit;
}

const int registered = [] {
  const struct {
    const char* where;
    Isa isa;
  } paths[] = {{"cpu", higgs::best_isa()}, {"cpu_avx2", Isa::Avx2}, {"cpu_portable", Isa::Portable}};
  // Second moments of three layers, then what rounding adds to later targets: 64 rows, feedback from 16 inputs.
  constexpr Shape shapes[] = {
      {1024, 576, 576, true}, {1024, 1536, 1536, true}, {1024, 8960, 8960, true}, {16, 64, 1024, false}};
  for (const auto& [where, isa] : paths)
    for (const Shape& shape : shapes)
      if (higgs::usable_isa(isa) == isa && (isa != Isa::Portable || shape.n <= 1024)) {
        const std::string name = std::string("round/outer_product/") + where +
                                 (shape.upper ? "/f32/upper/" : "/f32/") + std::to_string(shape.k) + "x" +
                                 std::to_string(shape.m) + "x" + std::to_string(shape.n);
        benchmark::RegisterBenchmark(
            name.c_str(), [set = isa, shape](benchmark::State& state) { measure(state, set, shape); });
      }
  return 0;
}();

}  // namespace
