// SPDX-License-Identifier: Apache-2.0
// Products from tiles that lie beyond the caches, beside what limits them: the time to read the same bytes for few rows
// of x, the rate of int8 dot products for many. Limits are measured in turns with the products.
#include <higgs/core/random.hpp>
#include <higgs/matmul/matmul.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
#include <span>
#include <string>
#include <vector>

#if defined(HIGGS_TARGET_BEGIN)
#  include <immintrin.h>
#endif

namespace {

using higgs::Activations;
using higgs::Isa;
using higgs::MatrixView;
using higgs::PackedForm;

constexpr std::int64_t size = 4096;               // rows and cols
constexpr std::size_t beyond_cache = 160u << 20;  // bytes of weights between two uses of the same

// Processor time of this thread: others on the machine do not count.
double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}
double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

// Random codes; what they stand for does not change the time.
template <class Book>
higgs::PackedMatrix random_matrix(std::int64_t rows, std::int64_t cols, PackedForm order) {
  higgs::QuantizedMatrix<Book> w;
  w.layout = {.rows = rows, .cols = cols, .block = 1024, .group = 1024};
  w.seed = 1;
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(rows * w.row_bytes()));
  for (std::size_t i = 0; i < codes.size(); ++i)
    codes[i] = static_cast<std::uint8_t>(higgs::random_bits(1, i));
  const std::vector<higgs::Half> scales(static_cast<std::size_t>(rows * w.layout.groups()),
                                        higgs::Half(0.01f));
  w.codes = codes;
  w.scales = scales;
  return higgs::PackedMatrix(w, higgs::default_executor(), order);
}

template <class T>
[[gnu::noinline]] T sum_of(const T* x, std::size_t count) {
  T sums[64] = {};
  for (std::size_t i = 0; i + 64 <= count; i += 64)
    for (std::size_t lane = 0; lane < 64; ++lane) sums[lane] += x[i + lane];
  T sum = 0;
  for (const T each : sums) sum += each;
  return sum;
}
#if defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
[[gnu::noinline]] void read_avx512(std::span<const std::uint8_t> bytes) {
  __m512i sums[4] = {};
  for (std::size_t i = 0; i + 256 <= bytes.size(); i += 256)
    for (std::size_t j = 0; j < 4; ++j)
      sums[j] = _mm512_add_epi32(sums[j], _mm512_loadu_si512(bytes.data() + i + 64 * j));
  benchmark::DoNotOptimize(sums);
}
// Independent chains of dot products in registers; operations, an addition and a multiplication each counted.
[[gnu::noinline]] double dot_avx512() {
  __m512i sums[12] = {};
  __m512i x = _mm512_set1_epi8(3);
  for (int i = 0; i < 20000; ++i) HIGGS_UNROLL
    for (int j = 0; j < 12; ++j) sums[j] = higgs::cpu::avx512::add_dot(sums[j], x, x);
  benchmark::DoNotOptimize(sums);
  return 20000.0 * 12 * 128;
}
HIGGS_TARGET_END
#endif

void read_all(std::span<const std::uint8_t> bytes) {
#if defined(HIGGS_TARGET_BEGIN)
  if (higgs::isa_includes(higgs::best_isa(), Isa::Avx512)) return read_avx512(bytes);
#endif
  benchmark::DoNotOptimize(sum_of(reinterpret_cast<const std::uint32_t*>(bytes.data()), bytes.size() / 4));
}

struct Case {
  std::int64_t batch;
  Isa isa = higgs::best_isa();
  Activations activations = Activations::Int16;
  int threads = 1;
  PackedForm order = higgs::best_packed_form();
};

template <class Book>
void measure(benchmark::State& state, const Case& c) {
  static std::vector<higgs::PackedMatrix> matrices[2];  // matrices of this codebook, by form
  std::vector<higgs::PackedMatrix>& all = matrices[static_cast<int>(c.order)];
  if (all.empty())
    for (std::size_t bytes = 0; bytes < beyond_cache; bytes += all.back().bytes().size())
      all.push_back(random_matrix<Book>(size, size, c.order));
  std::vector<float> x(static_cast<std::size_t>(c.batch * size)), y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(higgs::random_normal(2, i));
  higgs::ThreadPool pool(c.threads);
  higgs::SerialExecutor serial;
  const auto product = [&](const higgs::PackedMatrix& w, higgs::Executor& executor) {
    higgs::matmul(MatrixView<const float>(x.data(), c.batch, size), w,
                  MatrixView<float>(y.data(), c.batch, size), {}, executor,
                  {.activations = c.activations, .isa = c.isa});
  };
  const auto now = c.threads == 1 ? thread_seconds : wall_seconds;
  std::vector<double> times, reads, serial_times;
  std::size_t i = 0;
  for (auto _ : state) {
    const higgs::PackedMatrix &w = all[i % all.size()], &other = all[(i + all.size() / 2) % all.size()];
    ++i;
    double begin = now();
    product(w, pool);
    times.push_back(now() - begin);
    state.SetIterationTime(times.back());
    begin = now();
    if (c.threads > 1) {
      product(other, serial);
      serial_times.push_back(now() - begin);
    } else if (c.batch <= 8) {
      read_all(other.bytes());
      reads.push_back(now() - begin);
    }
#if defined(HIGGS_TARGET_BEGIN)
    if (c.batch > 8 && c.threads == 1 && higgs::isa_includes(higgs::best_isa(), Isa::Avx512)) {
      begin = now();
      const double operations = dot_avx512();
      reads.push_back((now() - begin) / operations);  // seconds an operation
    }
#endif
  }
  const double time = median(times), operations = 2.0 * static_cast<double>(c.batch * size * size);
  const double bytes = static_cast<double>(all[0].bytes().size());
  state.counters["GB/s"] = 1e-9 * bytes / time;
  state.counters["GFLOP/s"] = 1e-9 * operations / time;
  if (!serial_times.empty()) state.counters["speedup"] = median(serial_times) / time;
  if (reads.empty()) return;
  const double limit = median(reads);
  state.counters["limit"] = c.batch <= 8 ? 1e-9 * bytes / limit : 1e-9 / limit;
  const double planes = c.activations == Activations::Int16 ? 2 : 1;  // int8 dot products for each of ours
  state.counters["share_of_limit"] = c.batch <= 8 ? limit / time : planes * operations * limit / time;
}

template <class Book>
void add_book() {
  const auto add = [](const std::string& where, const Case& c) {
    const std::string name =
        "matmul/matmul/" + where + "/" + Book::name() + "/" + std::to_string(c.batch) + "x4096x4096";
    benchmark::RegisterBenchmark(name.c_str(), [c](benchmark::State& state) { measure<Book>(state, c); })
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond);
  };
  for (const std::int64_t batch : {1, 2, 4, 16, 64, 256}) {
    add("cpu", {.batch = batch});
    add("cpu_int8", {.batch = batch, .activations = Activations::Int8});
  }
  for (const std::int64_t batch : {1, 256}) {
    add("cpu_2_threads", {.batch = batch, .threads = 2});
    if (higgs::best_isa() != Isa::Avx2 && higgs::isa_includes(higgs::best_isa(), Isa::Avx2)) {
      add("cpu_avx2", {.batch = batch, .isa = Isa::Avx2, .order = PackedForm::Coordinates});
      if (higgs::detail::looks_up_256<higgs::PackedFormatOf<Book>>)
        add("cpu_avx2_codes", {.batch = batch, .isa = Isa::Avx2, .order = PackedForm::Codes});
    }
    if (higgs::best_isa() != Isa::Portable) add("cpu_portable", {.batch = batch, .isa = Isa::Portable});
  }
}

template <class... Books>
int add_books(higgs::TypeList<Books...>) {
  (add_book<Books>(), ...);
  return 0;
}
const int registered = add_books(higgs::ShippedCodes{});

}  // namespace
