// SPDX-License-Identifier: Apache-2.0
#include "product.cuh"

#include <higgs/core/random.hpp>
#include <higgs/matmul/matmul.cuh>

#include <array>
#include <stdexcept>
#include <string>

#include "code_kernels.cuh"

namespace gpu = higgs::gpu;
using higgs::Half;

namespace bench {
namespace {

#if defined(HIGGS_BENCH_FEW_CODES)
constexpr std::array all_codes{BenchCode{"4 bits", 4}, BenchCode{"2 bits", 2}};
const CodeKernels& kernels_at(std::size_t i) { return i == 0 ? grid4_kernels() : grid2_kernels(); }
#else
constexpr std::array all_codes{BenchCode{"4 bits", 4},   BenchCode{"3 bits", 3},   BenchCode{"2 bits", 2},
                               BenchCode{"w4", 4, true}, BenchCode{"w3", 3, true}, BenchCode{"w2", 2, true}};
const CodeKernels& kernels_at(std::size_t i) {
  return i == 0   ? grid4_kernels()
         : i == 1 ? grid3_kernels()
         : i == 2 ? grid2_kernels()
         : i == 3 ? window8_kernels()
         : i == 4 ? window6_kernels()
                  : window4_kernels();
}
#endif

const CodeKernels& kernels_of(std::string_view code) {
  for (std::size_t i = 0; i < all_codes.size(); ++i)
    if (all_codes[i].name == code) return kernels_at(i);
  throw std::runtime_error("no code " + std::string(code));
}
const CodeKernels& kernels_of(const gpu::PackedView& w) {
  for (std::size_t i = 0; i < all_codes.size(); ++i)
    if (kernels_at(i).format == w.layout.format) return kernels_at(i);
  throw std::runtime_error("no code has the format of this matrix");
}

}  // namespace

std::span<const BenchCode> codes() { return all_codes; }

gpu::PackedMatrix random_weights(std::string_view code, std::int64_t rows, std::int64_t cols) {
  return kernels_of(code).random_weights(rows, cols);
}

std::vector<Half> random_halves(std::int64_t count) {
  std::vector<Half> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = i < 4096 ? Half(static_cast<float>(higgs::random_normal(2, i))) : values[i - 4096];
  return values;
}

void multiply(gpu::DenseView<const Half> x, const gpu::PackedView& w, gpu::DenseView<Half> y,
              std::span<std::byte> workspace, const gpu::MatmulPlan& plan, const gpu::Device& device,
              cudaStream_t stream) {
  kernels_of(w).multiply(x, w, y, workspace, plan, device, stream);
}

void dequantize(const gpu::PackedView& w, gpu::DenseView<float> out, const gpu::Device& device,
                cudaStream_t stream, std::span<float> space) {
  kernels_of(w).dequantize(w, out, device, stream, space);
}

double relative_error(std::string_view code) { return kernels_of(code).relative_error(); }

Product::Product(const gpu::PackedView& matrix, std::int64_t rows, const gpu::MatmulPlan& cut,
                 const gpu::Device& where)
    : w(matrix),
      batch(rows),
      plan(cut),
      device(where),
      x(std::span<const Half>(random_halves(rows * w.rotation.cols))),
      y(static_cast<std::size_t>(rows * w.layout.rows)),
      workspace(gpu::DeviceBuffer<std::byte>::zeros(gpu::matmul_workspace(w, rows, plan, device))) {}

void Product::with(const gpu::PackedView& other, cudaStream_t stream) const {
  multiply(gpu::DenseView<const Half>(x.data(), batch, w.rotation.cols), other,
           gpu::DenseView<Half>(y.data(), batch, w.layout.rows), workspace.span(), plan, device, stream);
}

PackedCopy::PackedCopy(const gpu::PackedView& original)
    : codes(static_cast<std::size_t>(original.layout.load_count())),
      scales(static_cast<std::size_t>(original.layout.scale_count())),
      view(original) {
  const auto copy = [](auto& to, const auto* from) {
    gpu::check(cudaMemcpy(to.data(), from, to.size_bytes(), cudaMemcpyDeviceToDevice), "PackedCopy");
  };
  copy(codes, original.codes);
  copy(scales, original.scales);
  view.codes = codes.data();
  view.scales = scales.data();
}

}  // namespace bench
