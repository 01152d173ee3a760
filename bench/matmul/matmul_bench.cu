// SPDX-License-Identifier: Apache-2.0
// Fused products on a GPU, layer by layer: microseconds, share of the bytes that a copy moves in the same time,
// cuBLAS in fp16, and the prediction of bench/gpu/gpus.hpp. Without a GPU it says so. `matmul_matmul_bench_gpu [MODEL]`
#include <higgs/codebook/grid.hpp>
#include <higgs/core/random.hpp>
#include <higgs/matmul/matmul.cuh>

#include <cublas_v2.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "../gpu/gpus.hpp"
#include "../gpu/shapes.hpp"
#include "../gpu/timing.cuh"

using higgs::Half;
namespace gpu = higgs::gpu;

namespace {

template <class Book>
higgs::QuantizedMatrix<Book> random_matrix(const bench::Layer& l) {
  struct Storage {
    std::vector<std::uint8_t> codes;
    std::vector<Half> scales;
  };
  auto storage = std::make_shared<Storage>();
  higgs::QuantizedMatrix<Book> w;
  w.layout = {l.rows, l.cols, 1024, 1024};
  w.seed = 1;
  storage->codes.resize(static_cast<std::size_t>(l.rows * w.row_bytes()));
  for (std::size_t i = 0; i < storage->codes.size(); ++i)
    storage->codes[i] = static_cast<std::uint8_t>(higgs::random_bits(1, i));
  storage->scales.assign(static_cast<std::size_t>(l.rows * w.layout.groups()), Half(0.01f));
  w.codes = storage->codes;
  w.scales = storage->scales;
  w.owner = storage;
  return w;
}

struct Bench {
  gpu::Device device = gpu::current_device();
  bench::CacheFlush flush;
  double copy = bench::copy_bytes_per_us(flush, nullptr);
  cublasHandle_t blas = nullptr;

  template <class Book>
  double fused(const gpu::DeviceMatrix& w, std::int64_t batch) const {
    const gpu::MatmulPlan plan = gpu::plan_matmul(w.view().order, device);
    const gpu::DeviceBuffer<Half> x(static_cast<std::size_t>(batch * w.cols())),
        y(static_cast<std::size_t>(batch * w.rows()));
    bench::check(cudaMemset(x.data(), 0, x.size_bytes()));
    const gpu::DeviceBuffer<std::byte> workspace(gpu::matmul_workspace(w.view(), batch, plan, device));
    return bench::median_us(flush, nullptr, [&](cudaStream_t stream) {
      gpu::matmul_async<gpu::MatmulBits<higgs::code_bits<Book> / Book::dim>>(
          gpu::DeviceMatrixView<const Half>(x.data(), batch, w.cols()), w.view(),
          gpu::DeviceMatrixView<Half>(y.data(), batch, w.rows()),
          std::span(workspace.data(), workspace.size()), plan, device, stream);
    });
  }

  double dense(const bench::Layer& l, std::int64_t batch) const {
    const gpu::DeviceBuffer<Half> w(static_cast<std::size_t>(l.rows * l.cols)),
        x(static_cast<std::size_t>(batch * l.cols)), y(static_cast<std::size_t>(batch * l.rows));
    const auto rows = static_cast<int>(l.rows), cols = static_cast<int>(l.cols);
    const float one = 1, zero = 0;
    return bench::median_us(flush, nullptr, [&](cudaStream_t) {  // column-major: y^T = W x^T
      cublasGemmEx(blas, CUBLAS_OP_T, CUBLAS_OP_N, rows, static_cast<int>(batch), cols, &one, w.data(),
                   CUDA_R_16F, cols, x.data(), CUDA_R_16F, cols, &zero, y.data(), CUDA_R_16F, rows,
                   CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    });
  }

  template <class Book>
  void run(const bench::Layer& l, const bench::Gpu* model) const {
    const gpu::DeviceMatrix w(random_matrix<Book>(l));
    for (const std::int64_t batch : bench::batches) {
      constexpr double bits = static_cast<double>(higgs::code_bits<Book>) / Book::dim;
      const bench::Problem problem{
          .batch = batch, .rows = l.rows, .cols = l.cols, .bits = bits, .group = 1024};
      const double us = fused<Book>(w, batch), fp16 = dense(l, batch);
      std::printf("%-14s %-9s %-6s M=%-4lld %8.1f us  %3.0f %% of copy  cuBLAS fp16 %8.1f us  %.2fx",
                  l.model.data(), l.name.data(), Book::name().c_str(), static_cast<long long>(batch), us,
                  100 * problem.bytes() / us / copy, fp16, fp16 / us);
      if (model != nullptr) std::printf("  predicted %8.1f us", bench::predict(*model, problem).total());
      std::printf("\n");
    }
  }
};

}  // namespace

int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no GPU: nothing was measured; predict_matmul prints what is expected\n");
    return 0;
  }
  cudaDeviceProp properties;
  bench::check(cudaGetDeviceProperties(&properties, 0));
  const bench::Gpu* model = nullptr;  // the first of that many multiprocessors
  for (const bench::Gpu& each : bench::gpus)
    if (model == nullptr && each.sms == properties.multiProcessorCount) model = &each;
  Bench b;
  cublasCreate(&b.blas);
  std::printf("%s, copy %.0f GB/s\n", properties.name, b.copy / 1e3);
  for (const bench::Layer& l : bench::layers) {
    if (argc > 1 && l.model.find(argv[1]) == std::string_view::npos) continue;
    b.run<higgs::GridCodebook<2, 256>>(l, model);
    b.run<higgs::GridCodebook<2, 64>>(l, model);
    b.run<higgs::GridCodebook<2, 16>>(l, model);
  }
  cublasDestroy(b.blas);
  return 0;
}
