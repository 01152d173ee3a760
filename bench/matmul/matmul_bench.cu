// SPDX-License-Identifier: Apache-2.0
// Fused products on a GPU, layer by layer: microseconds, the share of the rate of a copy at which their bytes
// pass, cuBLAS in fp16 beside them, and what bench/gpu/gpus.hpp predicted. First the product is compared with
// the reference.
//
//     matmul_matmul_bench_gpu [MODEL]     all layers, or those of models that contain the word
//     matmul_matmul_bench_gpu --tiny      one small layer, each measurement once: does the program run?
#include <higgs/codes/grid/grid.hpp>
#include <higgs/codes/window/window.hpp>
#include <higgs/core/random.hpp>
#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/reference.hpp>

#if defined(HIGGS_BENCH_CUBLAS)
#  include <cublas_v2.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "../gpu/gpus.hpp"
#include "../gpu/shapes.hpp"
#include "../gpu/timing.cuh"

using higgs::Half;
using higgs::WindowCode;
namespace gpu = higgs::gpu;

namespace {

template <class Code>
constexpr bool is_window = false;
template <int SymbolBits>
constexpr bool is_window<WindowCode<SymbolBits>> = true;

// Random codes of every value; what they stand for does not change the time.
template <class Book>
higgs::QuantizedMatrix<Book> random_matrix(std::int64_t rows, std::int64_t cols) {
  struct Storage {
    std::vector<std::uint8_t> codes;
    std::vector<Half> scales;
  };
  auto storage = std::make_shared<Storage>();
  higgs::QuantizedMatrix<Book> w;
  w.layout = {rows, cols, 1024, 1024};
  w.seed = 1;
  storage->codes.resize(static_cast<std::size_t>(rows * w.row_bytes()));
  for (std::size_t i = 0; i < storage->codes.size(); ++i)
    storage->codes[i] = static_cast<std::uint8_t>(higgs::random_bits(1, i));
  storage->scales.assign(static_cast<std::size_t>(rows * w.layout.groups()), Half(0.01f));
  w.codes = storage->codes;
  w.scales = storage->scales;
  w.owner = storage;
  return w;
}

// Zeros would draw less power. The first 4096 recur.
std::vector<Half> random_halves(std::int64_t count) {
  std::vector<Half> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = i < 4096 ? Half(static_cast<float>(higgs::random_normal(2, i))) : values[i - 4096];
  return values;
}

#if defined(HIGGS_BENCH_CUBLAS)
class Blas {
 public:
  Blas() { check(cublasCreate(&handle_)); }
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;
  ~Blas() { cublasDestroy(handle_); }
  // y (batch, rows) = x (batch, cols) W^T; cuBLAS counts columns first, so it sees y^T = W x^T.
  void multiply(const Half* x, const Half* w, Half* y, int batch, int rows, int cols,
                cudaStream_t stream) const {
    const float one = 1, zero = 0;
    check(cublasSetStream(handle_, stream));
    check(cublasGemmEx(handle_, CUBLAS_OP_T, CUBLAS_OP_N, rows, batch, cols, &one, w, CUDA_R_16F, cols, x,
                       CUDA_R_16F, cols, &zero, y, CUDA_R_16F, rows, CUBLAS_COMPUTE_32F,
                       CUBLAS_GEMM_DEFAULT));
  }

 private:
  static void check(cublasStatus_t status) {
    if (status != CUBLAS_STATUS_SUCCESS) throw std::runtime_error(cublasGetStatusString(status));
  }
  cublasHandle_t handle_ = nullptr;
};
#endif

class Bench {
 public:
  explicit Bench(bool thorough) : stopwatch_(thorough), copy_rate_(stopwatch_.copy_rate()) {
    model_ = bench::gpu_like(device_.multiprocessors, copy_rate_);
  }

  double copy_rate() const { return copy_rate_; }
  const bench::Gpu* model() const { return model_; }

  template <class Book>
  double relative_error() const {
    const higgs::QuantizedMatrix<Book> w = random_matrix<Book>(192, 1024);
    const gpu::PackedMatrix matrix(w);
    const std::vector<Half> x = random_halves(3 * 1024);
    const Product<Book> product(matrix, 3, device_);
    product(nullptr);
    gpu::check(cudaDeviceSynchronize(), "product");
    std::vector<double> exact(3 * 192);
    higgs::matmul_reference(higgs::MatrixView<const Half>(x.data(), 3, 1024), w,
                            higgs::MatrixView<double>(exact.data(), 3, 192));
    const std::vector<Half> y = product.y.to_host();
    double error = 0, norm = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      error += std::pow(static_cast<double>(static_cast<float>(y[i])) - exact[i], 2);
      norm += exact[i] * exact[i];
    }
    return std::sqrt(error / norm);
  }

  template <class Book>
  void run(const bench::Layer& layer, std::span<const std::int64_t> batches) const {
    const gpu::PackedMatrix w(random_matrix<Book>(layer.rows, layer.cols));
    for (const std::int64_t batch : batches) {
      constexpr double bits = static_cast<double>(higgs::code_bits<Book>) / Book::dim;
      const bench::Problem problem{
          .batch = batch, .rows = layer.rows, .cols = layer.cols, .bits = bits, .window = is_window<Book>};
      const Product<Book> product(w, batch, device_);
      const double us = stopwatch_.median_us(product);
      std::printf("| %s %s | %s | %lld | %.1f | %.0f %% |", layer.model.data(), layer.name.data(),
                  Book::name().c_str(), static_cast<long long>(batch), us,
                  100e-3 * problem.bytes() / us / copy_rate_);
      const std::optional<double> fp16 = dense(layer, batch);
      fp16 ? std::printf(" %.1f | %.2f |", *fp16, *fp16 / us) : std::printf(" - | - |");
      model_ != nullptr ? std::printf(" %.1f |\n", bench::predict(*model_, problem).total())
                        : std::printf(" - |\n");
    }
  }

 private:
  template <class Book>
  struct Product {
    const gpu::PackedMatrix& w;
    std::int64_t batch;
    const gpu::Device& device;
    gpu::MatmulPlan plan = gpu::plan_matmul(w.view().layout, device);
    gpu::DeviceBuffer<Half> x{std::span<const Half>(random_halves(batch * w.cols()))};
    gpu::DeviceBuffer<Half> y{static_cast<std::size_t>(batch * w.rows())};
    gpu::DeviceBuffer<std::byte> workspace =
        gpu::DeviceBuffer<std::byte>::zeros(gpu::matmul_workspace(w.view(), batch, plan, device));

    Product(const gpu::PackedMatrix& matrix, std::int64_t rows, const gpu::Device& where)
        : w(matrix), batch(rows), device(where) {}
    void operator()(cudaStream_t stream) const {
      gpu::matmul_async<gpu::MatmulFormats<typename gpu::FormatOf<Book>::type>>(
          gpu::DenseView<const Half>(x.data(), batch, w.cols()), w.view(),
          gpu::DenseView<Half>(y.data(), batch, w.rows()), workspace.span(), plan, device, stream);
    }
  };

  std::optional<double> dense([[maybe_unused]] const bench::Layer& layer,
                              [[maybe_unused]] std::int64_t batch) const {
#if defined(HIGGS_BENCH_CUBLAS)
    const gpu::DeviceBuffer<Half> w(std::span<const Half>(random_halves(layer.rows * layer.cols))),
        x(std::span<const Half>(random_halves(batch * layer.cols))),
        y(static_cast<std::size_t>(batch * layer.rows));
    return stopwatch_.median_us([&](cudaStream_t stream) {
      blas_.multiply(x.data(), w.data(), y.data(), static_cast<int>(batch), static_cast<int>(layer.rows),
                     static_cast<int>(layer.cols), stream);
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
  Blas blas_;
#endif
};

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
  const Bench bench(!tiny);
  const double error =
      std::max(bench.relative_error<higgs::GridCodebook<2, 256>>(), bench.relative_error<WindowCode<8>>());
  std::printf("%s: a copy moves %.0f GB/s; relative error of a product %.1e\n", properties.name,
              bench.copy_rate(), error);
  if (!(error < 6e-4)) return 1;  // 3e-4 of the product, as much of rounding y to fp16
  std::printf(
      "\"predicted\" is a model's word for %s (bench/gpu/gpus.hpp), the other columns are measured.\n\n",
      bench.model() != nullptr ? bench.model()->name.data() : "no GPU that it knows");
  std::printf("| layer | codes | M | us | of copy | cuBLAS fp16, us | speed-up | predicted, us |\n");
  std::printf("|---|---|---:|---:|---:|---:|---:|---:|\n");
  if (tiny) {
    bench.run<higgs::GridCodebook<2, 256>>({"tiny", "layer", 192, 1024},
                                           std::span(bench::batches).subspan(3, 2));
    bench.run<WindowCode<8>>({"tiny", "layer", 192, 1024}, std::span(bench::batches).subspan(3, 2));
    return 0;
  }
  for (const bench::Layer& layer : bench::layers) {
    if (layer.model.find(argument) == std::string_view::npos) continue;
    bench.run<higgs::GridCodebook<2, 256>>(layer, bench::batches);
    bench.run<higgs::GridCodebook<2, 64>>(layer, bench::batches);
    bench.run<higgs::GridCodebook<2, 16>>(layer, bench::batches);
    bench.run<WindowCode<8>>(layer, bench::batches);
    bench.run<WindowCode<6>>(layer, bench::batches);
    bench.run<WindowCode<4>>(layer, bench::batches);
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
