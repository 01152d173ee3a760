// SPDX-License-Identifier: Apache-2.0
#include "product.cuh"

#include <higgs/codes/grid/grid.hpp>
#include <higgs/codes/window/window.hpp>
#include <higgs/core/random.hpp>
#include <higgs/matmul/decode.cuh>
#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/reference.hpp>

#include <array>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>

namespace gpu = higgs::gpu;
using higgs::Half;

namespace bench {
namespace {

#if defined(HIGGS_BENCH_ONE_CODE)
using Formats = gpu::MatmulFormats<gpu::TableFormat<4>>;
constexpr std::array all_codes{BenchCode{"4 bits", 4}};
#else
using Formats = gpu::MatmulFormats<gpu::TableFormat<4>, gpu::TableFormat<3>, gpu::TableFormat<2>,
                                   gpu::WindowFormat<8>, gpu::WindowFormat<6>, gpu::WindowFormat<4>>;
constexpr std::array all_codes{BenchCode{"4 bits", 4},   BenchCode{"3 bits", 3},   BenchCode{"2 bits", 2},
                               BenchCode{"w4", 4, true}, BenchCode{"w3", 3, true}, BenchCode{"w2", 2, true}};
#endif

// Calls use(code object) for the name of a code.
template <class Use>
void with_code(std::string_view name, const Use& use) {
  if (name == "4 bits") return use(higgs::GridCodebook<2, 256>{});
#if !defined(HIGGS_BENCH_ONE_CODE)
  if (name == "3 bits") return use(higgs::GridCodebook<2, 64>{});
  if (name == "2 bits") return use(higgs::GridCodebook<2, 16>{});
  if (name == "w4") return use(higgs::WindowCode<8>{});
  if (name == "w3") return use(higgs::WindowCode<6>{});
  if (name == "w2") return use(higgs::WindowCode<4>{});
#endif
  throw std::runtime_error("no code " + std::string(name));
}

template <class Book>
higgs::QuantizedMatrix<Book> random_matrix(std::int64_t rows, std::int64_t cols) {
  struct Storage {
    std::vector<std::uint8_t> codes;
    std::vector<Half> scales;
  };
  auto storage = std::make_shared<Storage>();
  higgs::QuantizedMatrix<Book> w;
  w.layout = {rows, cols, std::min<std::int64_t>(1024, cols & -cols),
              std::min<std::int64_t>(1024, cols & -cols)};
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

}  // namespace

std::span<const BenchCode> codes() { return all_codes; }

gpu::PackedMatrix random_weights(std::string_view code, std::int64_t rows, std::int64_t cols) {
  gpu::PackedMatrix out;
  with_code(code, [&]<class Book>(Book) { out = gpu::PackedMatrix(random_matrix<Book>(rows, cols)); });
  return out;
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
  gpu::matmul_async<Formats>(x, w, y, workspace, plan, device, stream);
}

void dequantize(const gpu::PackedView& w, gpu::DenseView<float> out, const gpu::Device& device,
                cudaStream_t stream, std::span<float> space) {
  gpu::dequantize_async<gpu::MatmulFormats<gpu::TableFormat<4>>>(w, out, gpu::Basis::Original, device, stream,
                                                                 space);
}

double relative_error(std::string_view code) {
  constexpr std::int64_t batch = 3, rows = 192, cols = 1024;
  double error = 0, norm = 0;
  with_code(code, [&]<class Book>(Book) {
    const higgs::QuantizedMatrix<Book> w = random_matrix<Book>(rows, cols);
    const gpu::PackedMatrix matrix(w);
    const gpu::Device device = gpu::current_device();
    const Product product(matrix.view(), batch, gpu::plan_matmul(matrix.view().layout, device), device);
    product(nullptr);
    gpu::check(cudaDeviceSynchronize(), "product");
    const std::vector<Half> x = random_halves(batch * cols), y = product.y.to_host();
    std::vector<double> exact(static_cast<std::size_t>(batch * rows));
    higgs::matmul_reference(higgs::MatrixView<const Half>(x.data(), batch, cols), w,
                            higgs::MatrixView<double>(exact.data(), batch, rows));
    for (std::size_t i = 0; i < y.size(); ++i) {
      error += std::pow(static_cast<double>(static_cast<float>(y[i])) - exact[i], 2);
      norm += exact[i] * exact[i];
    }
  });
  return std::sqrt(error / norm);
}

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
