// SPDX-License-Identifier: Apache-2.0
// Products of the layers of Llama 3.1 and Qwen3 on a GPU beside cuBLAS in fp16 and a plain copy, and what the model of
// bench/README.md predicts. Weights rotate through more memory than the second-level cache holds. Without a GPU it prints
// the predictions alone.
#include <higgs/codebook/grid.hpp>
#include <higgs/core/random.hpp>
#include <higgs/matmul/matmul.cuh>

#include <benchmark/benchmark.h>
#include <cublas_v2.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <vector>

using higgs::Half;
namespace gpu = higgs::gpu;

namespace {

struct Layer {
  const char* name;
  std::int64_t rows, cols;
};
constexpr Layer layers[] = {
    {"llama8b/qkv", 6144, 4096},       {"llama8b/o", 4096, 4096},        {"llama8b/gate_up", 28672, 4096},
    {"llama8b/down", 4096, 14336},     {"llama70b/qkv", 10240, 8192},    {"llama70b/gate_up", 57344, 8192},
    {"llama70b/down", 8192, 28672},    {"qwen3-32b/qkv", 10240, 5120},   {"qwen3-32b/gate_up", 51200, 5120},
    {"qwen3-32b/down", 5120, 25600},
};
constexpr std::int64_t batches[] = {1, 2, 4, 8, 16, 32, 64, 128, 256};

// Data-sheet figures: GB/s, multiprocessors, GHz, and mma.m16n8k16 with fp32 sums per clock and multiprocessor.
struct Machine {
  const char* name;
  double bandwidth, multiprocessors, clock, mma;
};
constexpr Machine machines[] = {
    {"A100-80", 2039, 108, 1.41, 0.5}, {"H100", 3350, 132, 1.755, 0.625}, {"H200", 4800, 132, 1.755, 0.625},
    {"RTX 4090", 1008, 128, 2.52, 0.125}, {"RTX 5090", 1792, 170, 2.41, 0.125},
};

double bytes_of(const Layer& l, std::int64_t batch, int bits, std::int64_t group) {
  const auto weights = static_cast<double>(l.rows * l.cols);
  return weights * bits / 8 + weights / static_cast<double>(group) * 2 + 2.0 * static_cast<double>(batch * (l.rows + l.cols));
}

// Microseconds: the slowest of memory, shared memory, tensor cores and issue, then two launches. The counts are those of
// the loop; see bench/README.md.
double predicted(const Machine& m, const Layer& l, std::int64_t batch, int bits, std::int64_t group) {
  const double tiles = static_cast<double>(l.rows * l.cols) / 256;
  const auto columns = static_cast<double>((std::min<std::int64_t>(batch, 64) + 7) / 8);  // of 8, in one pass over W
  const auto passes = static_cast<double>((batch + 63) / 64);
  const double clocks = m.multiprocessors * m.clock * 1e3;  // of all multiprocessors in a microsecond
  const double memory = bytes_of(l, batch, bits, group) / m.bandwidth / 1e3;
  const double shared = passes * tiles * (bits == 8 ? 8 + columns / 2 : 4 + columns / 2) / clocks;
  const double tensor = passes * tiles * columns / (m.mma * clocks);
  const double issue = passes * tiles * (9.4 + 1.5 * columns) / 4 / clocks;
  return std::max({memory, shared, tensor, issue}) + 2 * 2.0;
}

void print_predictions() {
  std::printf("PREDICTED microseconds (a model, not a measurement), 4 bits, groups of 1024:\n%-20s", "layer, M");
  for (const Machine& m : machines) std::printf("%10s", m.name);
  std::printf("\n");
  for (const Layer& l : layers)
    for (const std::int64_t batch : {1, 16, 64}) {
      std::printf("%-16s %3d", l.name, static_cast<int>(batch));
      for (const Machine& m : machines) std::printf("%10.1f", predicted(m, l, batch, 4, 1024));
      std::printf("\n");
    }
}

struct Timer {
  Timer() {
    gpu::check(cudaEventCreate(&begin), "cudaEventCreate");
    gpu::check(cudaEventCreate(&end), "cudaEventCreate");
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() {
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
  }
  template <class Work>
  double seconds(Work&& work) {
    gpu::check(cudaEventRecord(begin), "cudaEventRecord");
    work();
    gpu::check(cudaEventRecord(end), "cudaEventRecord");
    gpu::check(cudaEventSynchronize(end), "cudaEventSynchronize");
    float milliseconds = 0;
    gpu::check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    return milliseconds * 1e-3;
  }
  cudaEvent_t begin = nullptr, end = nullptr;
};

// As many copies of an operand as exceed any second-level cache.
std::size_t copies(double bytes) { return static_cast<std::size_t>(std::max(1.0, 512e6 / bytes)) + 1; }

double bandwidth_of_copies() {
  static const double bandwidth = [] {
    const gpu::DeviceBuffer<std::byte> from(1 << 30), to(1 << 30);
    Timer timer;
    double best = 1e9;
    for (int i = 0; i < 10; ++i)
      best = std::min(best, timer.seconds([&] {
        gpu::check(cudaMemcpyAsync(to.data(), from.data(), from.size(), cudaMemcpyDeviceToDevice), "cudaMemcpyAsync");
      }));
    return 2.0 * static_cast<double>(from.size()) / best;
  }();
  return bandwidth;
}

template <class Book>
higgs::QuantizedMatrix<Book> random_matrix(const Layer& l) {
  struct Storage {
    std::vector<std::uint8_t> codes;
    std::vector<Half> scales;
  };
  auto storage = std::make_shared<Storage>();
  higgs::QuantizedMatrix<Book> w;
  w.layout = {l.rows, l.cols, 1024, 1024};
  w.seed = 1;
  storage->codes.resize(static_cast<std::size_t>(l.rows * w.row_bytes()));
  for (std::size_t i = 0; i < storage->codes.size(); ++i) storage->codes[i] = static_cast<std::uint8_t>(higgs::random_bits(1, i));
  storage->scales.assign(static_cast<std::size_t>(l.rows * w.layout.groups()), Half(0.01f));
  w.codes = storage->codes;
  w.scales = storage->scales;
  w.owner = storage;
  return w;
}

template <class Book>
void higgs_product(benchmark::State& state, const Layer& l, std::int64_t batch) {
  constexpr int bits = higgs::code_bits<Book> / Book::dim;
  const gpu::Device device = gpu::current_device();
  const auto host = random_matrix<Book>(l);
  std::vector<gpu::DeviceMatrix> w;
  for (std::size_t i = 0; i < copies(bytes_of(l, 0, bits, 1024)); ++i) w.emplace_back(host);
  const gpu::MatmulPlan plan = gpu::plan_matmul(w[0].view().order, device);
  const gpu::DeviceBuffer<Half> x(static_cast<std::size_t>(batch * l.cols)), y(static_cast<std::size_t>(batch * l.rows));
  gpu::check(cudaMemset(x.data(), 0, x.size_bytes()), "cudaMemset");
  const gpu::DeviceBuffer<std::byte> workspace(gpu::matmul_workspace(w[0].view(), batch, plan, device));
  Timer timer;
  std::size_t turn = 0;
  for (auto _ : state)
    state.SetIterationTime(timer.seconds([&] {
      gpu::matmul_async<gpu::MatmulBits<bits>>(gpu::DeviceMatrixView<const Half>(x.data(), batch, l.cols),
                                               w[turn++ % w.size()].view(),
                                               gpu::DeviceMatrixView<Half>(y.data(), batch, l.rows),
                                               std::span(workspace.data(), workspace.size()), plan, device, nullptr);
    }));
  const double bytes = bytes_of(l, batch, bits, 1024) * static_cast<double>(state.iterations());
  state.counters["bytes/s"] = benchmark::Counter(bytes, benchmark::Counter::kIsRate);
  state.counters["share_of_copy"] = benchmark::Counter(bytes / bandwidth_of_copies(), benchmark::Counter::kIsRate);
}

void cublas_product(benchmark::State& state, const Layer& l, std::int64_t batch) {
  cublasHandle_t handle = nullptr;
  cublasCreate(&handle);
  std::vector<gpu::DeviceBuffer<Half>> w;
  const auto size = static_cast<std::size_t>(l.rows * l.cols);
  for (std::size_t i = 0; i < copies(2.0 * static_cast<double>(size)); ++i) w.emplace_back(size);
  const gpu::DeviceBuffer<Half> x(static_cast<std::size_t>(batch * l.cols)), y(static_cast<std::size_t>(batch * l.rows));
  const float one = 1, zero = 0;
  Timer timer;
  std::size_t turn = 0;
  for (auto _ : state)
    state.SetIterationTime(timer.seconds([&] {  // column-major: y^T = W x^T
      cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(l.rows), static_cast<int>(batch),
                   static_cast<int>(l.cols), &one, w[turn++ % w.size()].data(), CUDA_R_16F, static_cast<int>(l.cols),
                   x.data(), CUDA_R_16F, static_cast<int>(l.cols), &zero, y.data(), CUDA_R_16F,
                   static_cast<int>(l.rows), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    }));
  cublasDestroy(handle);
}

}  // namespace

int main(int argc, char** argv) {
  print_predictions();
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no GPU: nothing was measured\n");
    return 0;
  }
  for (const Layer& l : layers)
    for (const std::int64_t batch : batches) {
      const std::string shape = std::string(l.name).append("/").append(std::to_string(batch));
      const auto add = [&](const std::string& kernel, auto run) {
        benchmark::RegisterBenchmark(std::string("matmul/gpu/").append(kernel).append("/").append(shape).c_str(), run, l, batch)
            ->UseManualTime()
            ->Unit(benchmark::kMicrosecond);
      };
      add("2x256", higgs_product<higgs::GridCodebook<2, 256>>);
      add("2x64", higgs_product<higgs::GridCodebook<2, 64>>);
      add("2x16", higgs_product<higgs::GridCodebook<2, 16>>);
      add("cublas_fp16", cublas_product);
    }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
