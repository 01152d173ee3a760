// SPDX-License-Identifier: Apache-2.0
// What an emulator cannot know of a GPU, a few seconds for each question. bench/gpu/native.sh runs it first.
//
//     probe            all questions
//     probe one        a few launches for a profiler: 4 bits at M = 1, 8, 16, 64, then 2 bits at M = 1
//     probe --tiny     all questions, each as small as it can be: does the program run? Also `probe one --tiny`
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/pack/fragment_decoder.cuh>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "answer.hpp"
#include "product.cuh"
#include "timing.cuh"

namespace gpu = higgs::gpu;
using bench::answer;
using bench::check;
using bench::Product;
using higgs::Half;

namespace {

/// Where and when a block runs, and where its dynamic shared memory begins; the part that CUDA keeps for itself.
struct Placement {
  unsigned multiprocessor, base, reserved_begin, reserved_end;
  unsigned long long began;  // nanoseconds
};

__global__ void placement_kernel(Placement* out) {
  extern __shared__ unsigned space[];
  space[threadIdx.x] = threadIdx.x;
  Placement here{};
#if !defined(HIGGS_EMULATED)
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(here.began));
  asm volatile("mov.u32 %0, %%smid;" : "=r"(here.multiprocessor));
  asm volatile("mov.u32 %0, %%reserved_smem_offset_begin;" : "=r"(here.reserved_begin));
  asm volatile("mov.u32 %0, %%reserved_smem_offset_end;" : "=r"(here.reserved_end));
  const long long begin = clock64();
  while (clock64() - begin < 100000) {
  }
#endif
  here.base = gpu::shared_address(space);
  if (threadIdx.x == 0) out[blockIdx.x] = here;
}

/// Counts the words that are not their own index.
__global__ void stale_kernel(const int* data, int n, unsigned* wrong) {
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < n;
       i += static_cast<int>(gridDim.x * blockDim.x))
    if (data[i] != i) atomicAdd(wrong, 1u);
}

__global__ void differ_kernel(const Half* a, const Half* b, std::int64_t n, unsigned* wrong) {
  for (std::int64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    if (a[i].bits != b[i].bits) atomicAdd(wrong, 1u);
}

/// y = x w^T in double, a warp for each output; w in the original basis.
__global__ void exact_kernel(const Half* x, const float* w, double* y, int rows, int cols) {
  const int n = static_cast<int>(blockIdx.x), m = static_cast<int>(blockIdx.y);
  double sum = 0;
  for (int k = static_cast<int>(threadIdx.x); k < cols; k += 32)
    sum += static_cast<double>(gpu::to_float(x[std::int64_t{m} * cols + k])) *
           static_cast<double>(w[std::int64_t{n} * cols + k]);
  for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
  if (threadIdx.x == 0) y[std::int64_t{m} * rows + n] = sum;
}

class Probe {
 public:
  explicit Probe(bool tiny)
      : tiny_(tiny), small_(bench::random_weights("4 bits", size(), tiny ? 256 : 4096)) {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
    check(cudaStreamCreateWithFlags(&noise_, cudaStreamNonBlocking), "stream");
  }
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;
  ~Probe() {
    static_cast<void>(cudaStreamDestroy(stream_));
    static_cast<void>(cudaStreamDestroy(noise_));
  }

  void device() const;
  void shared_memory() const;
  std::vector<Placement> placements(int blocks) const;
  void cold_capture() const;
  void uploads() const;
  void repetitions() const;
  void host_cost() const;
  void sweep(const bench::BenchCode& code, std::int64_t rows, std::int64_t cols) const;
  void one(std::string_view code, std::int64_t batch) const;
  bool tiny() const { return tiny_; }

 private:
  std::int64_t size() const { return tiny_ ? 64 : 4096; }
  gpu::MatmulPlan plan(const gpu::PackedView& w) const { return gpu::plan_matmul(w.layout, device_); }
  double graph_us(const Product& product, const std::vector<bench::PackedCopy>& copies) const;

  bool tiny_;
  gpu::Device device_ = gpu::current_device();
  gpu::PackedMatrix small_;
  cudaStream_t stream_ = nullptr, noise_ = nullptr;
};

void Probe::device() const {
  int runtime = 0, driver = 0, l2 = 0;
  check(cudaRuntimeGetVersion(&runtime), "runtime version");
  check(cudaDriverGetVersion(&driver), "driver version");
  check(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, 0), "L2 cache size");
  std::printf(
      "sm_%d, %d multiprocessors, %d bytes of shared memory a block, L2 %d bytes, runtime %d, driver %d\n",
      device_.architecture, device_.multiprocessors, device_.shared_bytes, l2, runtime, driver);
}

/// Blocks with as much shared memory as those of products.
std::vector<Placement> Probe::placements(int blocks) const {
  const gpu::DeviceBuffer<Placement> out(static_cast<std::size_t>(blocks));
  gpu::launch(placement_kernel, dim3(static_cast<unsigned>(blocks)), 128,
              static_cast<std::size_t>(gpu::LookupTable::end), stream_, out.data());
  check(cudaStreamSynchronize(stream_), "placement");
  return out.to_host();
}

void Probe::shared_memory() const {
  std::map<unsigned, int> on;
  unsigned base = 0;
  int most = 0;
  const std::vector<Placement> all = placements(device_.multiprocessors);
  for (const Placement& each : all) {
    most = std::max(most, ++on[each.multiprocessor]);
    base = std::max(base, each.base);
  }
  answer("shared memory begins at, at most 1024 is supported", "1024 or 0", "%u; reserved [%u, %u)", base,
         all[0].reserved_begin, all[0].reserved_end);
  answer("most blocks of 66 KiB on one multiprocessor, as many blocks as multiprocessors", "1", "%d", most);
  if (gpu::blocks_per_multiprocessor(device_) < 2) return;
  // CUDA divides a multiprocessor's memory between shared memory and first-level cache; a block lasts 50 us and more.
  const std::vector<Placement> pairs = placements(2 * device_.multiprocessors);
  const auto first = std::ranges::min(pairs, {}, [](const Placement& each) { return each.began; }).began;
  const auto late =
      std::ranges::count_if(pairs, [&](const Placement& each) { return each.began > first + 30000; });
  answer("two blocks of 66 KiB for each multiprocessor: those that began when others had ended", "0", "%d",
         static_cast<int>(late));
}

void Probe::cold_capture() const {
  const Product product(small_.view(), 2, plan(small_.view()), device_);
  std::string what = "no error";
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal), "begin");
  try {
    product(stream_);
  } catch (const std::exception& error) {
    what = error.what();
  }
  cudaGraph_t graph = nullptr;
  const cudaError_t end = cudaStreamEndCapture(stream_, &graph);
  answer("the first call of a kernel inside a capture (global mode)", "no error", "%s; %s", what.c_str(),
         cudaGetErrorString(end));
  if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
  static_cast<void>(cudaGetLastError());
}

void Probe::uploads() const {
  unsigned stale = 0;
  for (const std::size_t n : {256u, 8192u, 16384u, 262144u}) {
    if (tiny_ && n > 256) break;
    std::vector<int> host(n);
    for (std::size_t i = 0; i < n; ++i) host[i] = static_cast<int>(i);
    const auto wrong = gpu::DeviceBuffer<unsigned>::zeros(1);
    for (int k = 0; k < (tiny_ ? 2 : 500); ++k) {
      const gpu::DeviceBuffer<int> uploaded{std::span<const int>(host)};
      gpu::launch(stale_kernel, dim3(4), 256, 0, stream_, uploaded.data(), static_cast<int>(n), wrong.data());
      check(cudaStreamSynchronize(stream_), "stale");
    }
    stale += wrong.to_host()[0];
  }
  answer("stale words read by a non-blocking stream right after an upload", "0", "%u", stale);
}

/// Right, and the same bits every time, while another stream keeps the memory busy.
void Probe::repetitions() const {
  const gpu::PackedView& w = small_.view();
  const std::int64_t rows = w.layout.rows, cols = w.rotation.cols;
  const gpu::DeviceBuffer<float> dense(static_cast<std::size_t>(rows * cols)),
      space(static_cast<std::size_t>(64 * cols));
  bench::dequantize(w, gpu::DenseView<float>(dense.data(), rows, cols), device_, stream_, space.span());
  const gpu::DeviceBuffer<std::byte> from(std::size_t{1} << (tiny_ ? 10 : 28)), to(from.size());
  double worst = 0;
  unsigned differ = 0;
  const int times = tiny_ ? 1 : 50;
  for (const std::int64_t batch : {1, 3, 8, 16, 33, 64, 130}) {
    if (tiny_ && batch != 3 && batch != 16) continue;
    const std::int64_t usual = plan(w).grid;
    for (const std::int64_t grid : {usual, 2 * usual, std::int64_t{37}}) {
      if (tiny_ && grid != usual) continue;
      gpu::MatmulPlan cut = plan(w);
      cut.grid = grid;
      const Product product(w, batch, cut, device_);
      const gpu::DeviceBuffer<Half> first(product.y.size());
      const gpu::DeviceBuffer<double> exact(product.y.size());
      const auto wrong = gpu::DeviceBuffer<unsigned>::zeros(1);
      product(stream_);
      check(cudaMemcpyAsync(first.data(), product.y.data(), first.size_bytes(), cudaMemcpyDeviceToDevice,
                            stream_),
            "keep");
      for (int k = 0; k < times; ++k) {
        if (k % 4 == 0)
          check(cudaMemcpyAsync(to.data(), from.data(), to.size(), cudaMemcpyDeviceToDevice, noise_),
                "noise");
        check(cudaMemsetAsync(product.y.data(), 0xff, product.y.size_bytes(), stream_), "poison");
        product(stream_);
        gpu::launch(differ_kernel, dim3(tiny_ ? 1 : 64), 256, 0, stream_, first.data(), product.y.data(),
                    static_cast<std::int64_t>(first.size()), wrong.data());
      }
      gpu::launch(exact_kernel, dim3(static_cast<unsigned>(rows), static_cast<unsigned>(batch)), 32, 0,
                  stream_, product.x.data(), dense.data(), exact.data(), static_cast<int>(rows),
                  static_cast<int>(cols));
      check(cudaDeviceSynchronize(), "repetitions");
      const std::vector<Half> y = first.to_host();
      const std::vector<double> e = exact.to_host();
      double error = 0, norm = 0;
      for (std::size_t i = 0; i < y.size(); ++i) {
        error += std::pow(static_cast<double>(static_cast<float>(y[i])) - e[i], 2);
        norm += e[i] * e[i];
      }
      worst = std::max(worst, std::sqrt(error / norm));
      differ += wrong.to_host()[0];
      std::printf("M %lld, %lld blocks: error %.2e, %u numbers differ in %d repetitions\n",
                  static_cast<long long>(batch), static_cast<long long>(grid), std::sqrt(error / norm),
                  wrong.to_host()[0], times);
    }
  }
  answer("largest relative error beside double", "< 6e-4", "%.1e", worst);
  answer("numbers that differ between repetitions under load", "0", "%u of %d runs each", differ, times);
}

void Probe::host_cost() const {
  for (const std::int64_t batch : {1, 16}) {
    const Product product(small_.view(), batch, plan(small_.view()), device_);
    const int calls = tiny_ ? 1 : 200;
    check(cudaDeviceSynchronize(), "before");
    const auto begin = std::chrono::steady_clock::now();
    for (int k = 0; k < calls; ++k) product(stream_);
    const double us =
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
    check(cudaDeviceSynchronize(), "after");
    answer(batch == 1 ? "host time of a call, M = 1, us" : "host time of a call, M = 16, us",
           batch == 1 ? "< 5" : "< 10", "%.1f", us / calls);
  }
}

/// Microseconds a product, of a graph through all copies of a matrix, more bytes than the second-level cache holds.
double Probe::graph_us(const Product& product, const std::vector<bench::PackedCopy>& copies) const {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t work = nullptr;
  product(stream_);
  check(cudaStreamSynchronize(stream_), "warm-up");
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capture");
  for (const bench::PackedCopy& copy : copies) product.with(copy.view, stream_);
  check(cudaStreamEndCapture(stream_, &graph), "end");
  check(cudaGraphInstantiate(&work, graph, 0), "instantiate");
  const double us = bench::median_launch_us(work, stream_, tiny_ ? 1 : 11);
  check(cudaGraphExecDestroy(work), "destroy");
  check(cudaGraphDestroy(graph), "destroy");
  return us / static_cast<double>(copies.size());
}

void Probe::sweep(const bench::BenchCode& code, std::int64_t rows, std::int64_t cols) const {
  const gpu::PackedMatrix w = bench::random_weights(code.name, rows, cols);
  const auto bytes = static_cast<double>(w.size_bytes());
  std::vector<bench::PackedCopy> copies;
  for (int i = 0; i < std::max(2, static_cast<int>(tiny_ ? 0 : 250e6 / bytes)); ++i)
    copies.emplace_back(w.view());
  for (const std::int64_t batch : {1, 4, 8, 16, 32, 64, 256}) {
    if (tiny_ && batch != 4) continue;
    double usual = 0, best = 0;
    std::string best_name;
    for (const std::int64_t inside : {4, 0})
      for (const double times : {0.5, 1.0, 2.0, 3.0}) {
        if ((inside == 0 && batch > 4) || (tiny_ && times > 1)) continue;
        gpu::MatmulPlan cut = plan(w.view());
        const bool is_usual = times == 1 && inside == cut.rotate_inside;
        cut.grid =
            std::max<std::int64_t>(1, static_cast<std::int64_t>(static_cast<double>(cut.grid) * times));
        cut.rotate_inside = inside;
        const double us = graph_us(Product(w.view(), batch, cut, device_), copies);
        if (is_usual) usual = us;
        char name[64];
        std::snprintf(name, sizeof name, "%lld blocks, inside %lld", static_cast<long long>(cut.grid),
                      static_cast<long long>(inside));
        std::printf("sweep %s %lld x %lld M %lld, %s: %.2f us, %.0f GB/s\n", code.name.data(),
                    static_cast<long long>(rows), static_cast<long long>(cols), static_cast<long long>(batch),
                    name, us, bytes / us * 1e-3);
        if (best == 0 || us < best) best = us, best_name = name;
      }
    if (batch == 1 || batch == 16 || tiny_) {
      char question[128];
      std::snprintf(question, sizeof question, "best grid for %s %lld x %lld, M = %lld: plan / best",
                    code.name.data(), static_cast<long long>(rows), static_cast<long long>(cols),
                    static_cast<long long>(batch));
      answer(question, "< 1.05", "%.2f; best %.2f us: %s", usual / best, best, best_name.c_str());
    }
  }
}

void Probe::one(std::string_view code, std::int64_t batch) const {
  const gpu::PackedMatrix w = bench::random_weights(code, tiny_ ? 64 : 14336, tiny_ ? 256 : 4096);
  const Product product(w.view(), batch, plan(w.view()), device_);
  for (int k = 0; k < 2; ++k) product(stream_);
  check(cudaDeviceSynchronize(), "one");
}

}  // namespace

int main(int argc, char** argv) try {
  const std::vector<std::string_view> arguments(argv + 1, argv + argc);
  const auto has = [&](std::string_view word) {
    return std::find(arguments.begin(), arguments.end(), word) != arguments.end();
  };
  const Probe probe(has("--tiny"));
  if (has("one")) {
    for (const std::int64_t batch : {1, 8, 16, 64}) probe.one("4 bits", batch);
    if (bench::codes().size() > 2) probe.one("2 bits", 1);
    return 0;
  }
  probe.device();
  probe.cold_capture();  // before any other product
  probe.shared_memory();
  probe.uploads();
  probe.repetitions();
  probe.host_cost();
  for (const bench::BenchCode& code : bench::codes())
    if (!code.window) probe.sweep(code, probe.tiny() ? 64 : 14336, probe.tiny() ? 256 : 4096);
  if (!probe.tiny()) probe.sweep(bench::codes()[0], 4096, 4096);
  return 0;
} catch (const std::exception& error) {
  std::printf("FAILED: %s\n", error.what());
  return 1;
}
