// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/decoded_gemm.cuh>
#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/reference.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "device_matrices.cuh"

using higgs::GridCodebook;
using higgs::Half;
using higgs::MatrixView;
namespace gpu = higgs::gpu;

namespace {

// y = x w^T (+ y), a thread for each output.
template <class T, class Y>
__global__ void gemm_kernel(gpu::DenseView<const T> x, gpu::DenseView<const T> w, gpu::DenseView<Y> y,
                            bool add) {
  const auto m = static_cast<std::int64_t>(blockIdx.x), n = static_cast<std::int64_t>(threadIdx.x);
  for (std::int64_t row = n; row < w.rows; row += blockDim.x) {
    float sum = add ? gpu::to_float(y.row(m)[row]) : 0.0f;
    for (std::int64_t k = 0; k < x.cols; ++k)
      sum = fmaf(gpu::to_float(x.row(m)[k]), gpu::to_float(w.row(row)[k]), sum);
    y.row(m)[row] = gpu::from_float<Y>(sum);
  }
}

const auto gemm = []<class T, class Y>(gpu::DenseView<const T> x, gpu::DenseView<const T> w,
                                       gpu::DenseView<Y> y, bool add, cudaStream_t stream) {
  gpu::launch(gemm_kernel<T, Y>, dim3(static_cast<unsigned>(x.rows)), 64, 0, stream, x, w, y, add);
};

}  // namespace

TEST_CASE("from dense_from rows on the caller's GEMM multiplies decoded weights",
          "[matmul][decoded_gemm][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 256>>(150, 140, 60, 20, 5, true);
  const gpu::PackedMatrix device(w);
  const gpu::Device here = gpu::current_device();
  gpu::MatmulPlan plan = gpu::plan_matmul(device.view().layout, here);
  plan.dense_from = 70;
  plan.dense_rows = 64;
  const std::int64_t batch = 71;
  const Normals<Half> x(batch, 140, 6);
  const Normals bias(1, 150, 8);
  const Normals<float> residual(batch, 150, 9);
  const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)};
  const gpu::DeviceBuffer<float> bias_device{std::span<const float>(bias.data)};
  const gpu::DeviceBuffer<float> y{std::span<const float>(residual.data)};
  const auto workspace =
      gpu::DeviceBuffer<std::byte>::zeros(gpu::matmul_workspace(device.view(), batch, plan, here));
  const auto call = [&](std::int64_t rows, const gpu::Epilogue<float>& epilogue, const auto& product) {
    gpu::matmul_async<gpu::MatmulFormats<gpu::TableFormat<4>>>(
        gpu::DenseView<const Half>(x_device.data(), rows, 140), device.view(),
        gpu::DenseView<float>(y.data(), rows, 150), workspace.span(), plan, here, nullptr, epilogue, product);
    gpu::check(cudaDeviceSynchronize(), "matmul_async");
  };
  call(batch, {bias_device.data(), y.data()}, gemm);  // the residual is y itself
  auto with_both = y.to_host();
  call(batch, {}, gemm);
  const auto plain = y.to_host();
  std::vector<double> exact(plain.size());
  higgs::matmul_reference(MatrixView<const Half>(x.view), w, MatrixView<double>(exact.data(), batch, 150));
  CHECK(relative_error(plain, exact) < 6e-4);  // activations and weights rounded to fp16
  for (std::size_t i = 0; i < exact.size(); ++i)
    exact[i] += static_cast<double>(bias.data[i % 150] + residual.data[i]);
  CHECK(relative_error(with_both, exact) < 6e-4);
  CHECK_THROWS_AS(call(batch, {}, gpu::NoGemm{}), higgs::InvalidArgument);
}

TEST_CASE("the plan for a GEMM goes dense where its tensor cores are faster, 32 MiB of weights at a time",
          "[matmul][decoded_gemm][gpu]") {
  constexpr std::int64_t never = std::numeric_limits<std::int64_t>::max();
  const auto plan_on = [](int architecture, std::int64_t depth) {
    const auto layout = gpu::packed_layout<gpu::TableFormat<4>>(2, 8, 4096, depth / 64, 64);
    return gpu::with_gemm({.grid = 7}, layout, {108, 166912, architecture});
  };
  for (const auto& [architecture, from] : {std::pair{80, std::int64_t{1024}},
                                           {86, never},
                                           {89, never},
                                           {90, 512},
                                           {100, 256},
                                           {103, 256},
                                           {120, never}})
    CHECK(plan_on(architecture, 4096).dense_from == from);
  gpu::MatmulPlan warpgroups;
  warpgroups.wgmma_from = 33;
  const auto layout = gpu::packed_layout<gpu::TableFormat<4>>(2, 8, 4096, 64, 64);
  CHECK(gpu::with_gemm(warpgroups, layout, {132, 232448, 90}).dense_from == 2048);
  for (const std::int64_t depth : std::vector<std::int64_t>{64, 640, 4096, 28672, std::int64_t{1} << 30}) {
    const gpu::MatmulPlan plan = plan_on(90, depth);
    CHECK(plan.grid == 7);
    CHECK(plan.dense_rows % 64 == 0);
    CHECK(plan.dense_rows >= 64);
    CHECK((plan.dense_rows == 64 || plan.dense_rows * depth * 2 <= std::int64_t{32} << 20));
    CHECK((plan.dense_rows + 64) * depth * 2 > std::int64_t{32} << 20);
  }
}
