// SPDX-License-Identifier: Apache-2.0
// Fused products on a GPU, layer by layer: microseconds, the share of the rate of a copy at which their bytes
// pass, cuBLAS in fp16 beside them, and what bench/gpu/gpus.hpp predicted. First the product is compared with
// the reference.
//
//     matmul_matmul_bench_gpu [MODEL]     all layers, or those of models that contain the word
//     matmul_matmul_bench_gpu --tiny      one small layer, each measurement once: does the program run?
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#if defined(HIGGS_BENCH_CUBLAS)
#  include <higgs/matmul/cublas_gemm.cuh>
#endif

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "../gpu/answer.hpp"
#include "../gpu/gpus.hpp"
#include "../gpu/product.cuh"
#include "../gpu/shapes.hpp"
#include "../gpu/timing.cuh"

using higgs::Half;
namespace gpu = higgs::gpu;

namespace {

class Bench {
 public:
  explicit Bench(bool thorough) : stopwatch_(thorough), copy_rate_(stopwatch_.copy_rate()) {
    model_ = bench::gpu_like(device_.multiprocessors, copy_rate_);
  }

  double copy_rate() const { return copy_rate_; }
  const bench::Gpu* model() const { return model_; }

  /// Rows of the table for one layer. `planes`: of int8 activations; batches that have no int8 product are left out.
  void run(const bench::Layer& layer, const bench::BenchCode& code, std::span<const std::int64_t> batches,
           int planes = 0) const {
    const gpu::PackedMatrix w = bench::random_weights(code.name, layer.rows, layer.cols);
    const std::string name = std::string(code.name) + (planes == 0   ? ""
                                                       : planes == 1 ? ", one plane of int8"
                                                                     : ", two planes of int8");
    for (const std::int64_t batch : batches) {
      const bench::Problem problem{.batch = batch,
                                   .rows = layer.rows,
                                   .cols = layer.cols,
                                   .bits = code.bits,
                                   .window = code.window,
                                   .planes = planes};
      if (planes > 0 && !problem.int8()) continue;
      gpu::MatmulPlan plan = gpu::plan_matmul(w.view().layout, device_);
      plan.int8_planes = planes;
      const bench::Product product(w.view(), batch, plan, device_);
      const double us = stopwatch_.median_us(product);
      std::printf("| %s %s | %s | %lld | %.1f | %.0f %% |", layer.model.data(), layer.name.data(),
                  name.c_str(), static_cast<long long>(batch), us,
                  100e-3 * problem.bytes() / us / copy_rate_);
      const std::optional<double> fp16 = dense(layer, batch);
      fp16 ? std::printf(" %.1f | %.2f |", *fp16, *fp16 / us) : std::printf(" - | - |");
      const double predicted = model_ != nullptr ? bench::predict(*model_, problem).total() : 0;
      model_ != nullptr ? std::printf(" %.1f |\n", predicted) : std::printf(" - |\n");
      if (layer.rows == 14336 && (batch == 1 || batch == 16 || batch == 64)) {
        char question[96], expected[32];
        std::snprintf(question, sizeof question, "us of 14336 x 4096, %s, M = %lld", name.c_str(),
                      static_cast<long long>(batch));
        std::snprintf(expected, sizeof expected, "%.1f", predicted);
        bench::answer(question, expected, "%.1f (cuBLAS fp16 %.1f)", us, fp16.value_or(0));
      }
    }
  }

 private:
  std::optional<double> dense([[maybe_unused]] const bench::Layer& layer,
                              [[maybe_unused]] std::int64_t batch) const {
#if defined(HIGGS_BENCH_CUBLAS)
    const auto random = [](std::int64_t count) {
      return gpu::DeviceBuffer<Half>(std::span<const Half>(bench::random_halves(count)));
    };
    const gpu::DeviceBuffer<Half> w = random(layer.rows * layer.cols), x = random(batch * layer.cols),
                                  y(static_cast<std::size_t>(batch * layer.rows));
    return stopwatch_.median_us([&](cudaStream_t stream) {
      blas_(gpu::DenseView<const Half>(x.data(), batch, layer.cols),
            gpu::DenseView<const Half>(w.data(), layer.rows, layer.cols),
            gpu::DenseView<Half>(y.data(), batch, layer.rows), false, stream);
    });
#else
    return std::nullopt;
#endif
  }

  gpu::Device device_ = gpu::current_device();
  bench::Stopwatch stopwatch_;
  double copy_rate_;
  const bench::Gpu* model_ = nullptr;
#if defined(HIGGS_BENCH_CUBLAS)
  gpu::CublasGemm blas_;
#endif
};

/// A layer with every product that its code has.
void run_all(const Bench& products, const bench::Layer& layer, const bench::BenchCode& code,
             std::span<const std::int64_t> batches) {
  products.run(layer, code, batches);
  if (code.bits == 2 && !code.window)
    for (const int planes : {1, 2}) products.run(layer, code, batches, planes);
}

}  // namespace

int main(int argc, char** argv) try {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no GPU: nothing was measured; predict_matmul prints what is expected\n");
    return 0;
  }
  const std::string_view argument = argc > 1 ? argv[1] : "";
  const bool tiny = argument == "--tiny";
  cudaDeviceProp properties;
  gpu::check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  const Bench products(!tiny);
  double error = 0;
  for (const bench::BenchCode& code : bench::codes())
    error = std::max(error, bench::relative_error(code.name));
  std::printf("%s: a copy moves %.0f GB/s; relative error of a product %.1e\n", properties.name,
              products.copy_rate(), error);
  if (!(error < 6e-4)) return 1;  // 3e-4 of the product, as much of rounding y to fp16
  std::printf(
      "\"predicted\" is a model's word for %s (bench/gpu/gpus.hpp), the other columns are measured.\n\n",
      products.model() != nullptr ? products.model()->name.data() : "no GPU that it knows");
  std::printf("| layer | codes | M | us | of copy | cuBLAS fp16, us | speed-up | predicted, us |\n");
  std::printf("|---|---|---:|---:|---:|---:|---:|---:|\n");
  for (const bench::Layer& layer : bench::layers) {
    if (tiny || layer.model.find(argument) == std::string_view::npos) continue;
    for (const bench::BenchCode& code : bench::codes()) run_all(products, layer, code, bench::batches);
  }
  if (tiny)
    for (const bench::BenchCode& code : bench::codes())
      if (!code.window)
        run_all(products, {"tiny", "layer", 192, 1024}, code, std::span(bench::batches).subspan(3, 2));
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
