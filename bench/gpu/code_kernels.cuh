// SPDX-License-Identifier: Apache-2.0
// The kernels of one code, compiled by one file of bench/gpu/codes, so that a machine of many cores is soon done.
#pragma once
#include <higgs/codes/formats.cuh>
#include <higgs/core/half.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/core/random.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/decode.cuh>
#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/packed_matrix.cuh>
#include <higgs/matmul/reference.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "product.cuh"

namespace bench {

/// The functions of product.cuh for one code.
struct CodeKernels {
  higgs::gpu::PackedFormat format;
  higgs::gpu::PackedMatrix (*random_weights)(std::int64_t rows, std::int64_t cols);
  void (*multiply)(higgs::gpu::DenseView<const higgs::Half> x, const higgs::gpu::PackedView& w,
                   higgs::gpu::DenseView<higgs::Half> y, std::span<std::byte> workspace,
                   const higgs::gpu::MatmulPlan& plan, const higgs::gpu::Device& device, cudaStream_t stream);
  void (*dequantize)(const higgs::gpu::PackedView& w, higgs::gpu::DenseView<float> out,
                     const higgs::gpu::Device& device, cudaStream_t stream, std::span<float> space);
  double (*relative_error)();
};
const CodeKernels& grid4_kernels();
const CodeKernels& grid3_kernels();
const CodeKernels& grid2_kernels();
const CodeKernels& window8_kernels();
const CodeKernels& window6_kernels();
const CodeKernels& window4_kernels();

template <class Book>
higgs::QuantizedMatrix<Book> random_codes(std::int64_t rows, std::int64_t cols) {
  struct Storage {
    std::vector<std::uint8_t> codes;
    std::vector<higgs::Half> scales;
  };
  auto storage = std::make_shared<Storage>();
  higgs::QuantizedMatrix<Book> w;
  w.layout = {rows, cols, std::min<std::int64_t>(1024, cols & -cols),
              std::min<std::int64_t>(1024, cols & -cols)};
  w.seed = 1;
  storage->codes.resize(static_cast<std::size_t>(rows * w.row_bytes()));
  for (std::size_t i = 0; i < storage->codes.size(); ++i)
    storage->codes[i] = static_cast<std::uint8_t>(higgs::random_bits(1, i));
  storage->scales.assign(static_cast<std::size_t>(rows * w.layout.groups()), higgs::Half(0.01f));
  w.codes = storage->codes;
  w.scales = storage->scales;
  w.owner = storage;
  return w;
}

/// ||y - reference|| / ||reference|| of 3 rows of x and 192 x 1024 weights.
template <class Book>
double error_of_product() {
  namespace gpu = higgs::gpu;
  constexpr std::int64_t batch = 3, rows = 192, cols = 1024;
  const higgs::QuantizedMatrix<Book> w = random_codes<Book>(rows, cols);
  const gpu::PackedMatrix matrix(w);
  const gpu::Device device = gpu::current_device();
  const Product product(matrix.view(), batch, gpu::plan_matmul(matrix.view().layout, device), device);
  product(nullptr);
  gpu::check(cudaDeviceSynchronize(), "product");
  const std::vector<higgs::Half> x = random_halves(batch * cols), y = product.y.to_host();
  std::vector<double> exact(static_cast<std::size_t>(batch * rows));
  higgs::matmul_reference(higgs::MatrixView<const higgs::Half>(x.data(), batch, cols), w,
                          higgs::MatrixView<double>(exact.data(), batch, rows));
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    error += std::pow(static_cast<double>(static_cast<float>(y[i])) - exact[i], 2);
    norm += exact[i] * exact[i];
  }
  return std::sqrt(error / norm);
}

template <class Book>
const CodeKernels& code_kernels() {
  namespace gpu = higgs::gpu;
  using higgs::Half;
  using Format = typename gpu::FormatOf<Book>::type;
  using Formats = gpu::MatmulFormats<Format>;
  static constexpr CodeKernels kernels{
      Format::format,
      [](std::int64_t rows, std::int64_t cols) { return gpu::PackedMatrix(random_codes<Book>(rows, cols)); },
      [](gpu::DenseView<const Half> x, const gpu::PackedView& w, gpu::DenseView<Half> y,
         std::span<std::byte> workspace, const gpu::MatmulPlan& plan, const gpu::Device& device,
         cudaStream_t stream) { gpu::matmul_async<Formats>(x, w, y, workspace, plan, device, stream); },
      [](const gpu::PackedView& w, gpu::DenseView<float> out, const gpu::Device& device, cudaStream_t stream,
         std::span<float> space) {
        gpu::dequantize_async<Formats>(w, out, gpu::Basis::Original, device, stream, space);
      },
      error_of_product<Book>};
  return kernels;
}

}  // namespace bench
