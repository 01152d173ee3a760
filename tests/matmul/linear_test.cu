// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/linear.cuh>

#include <catch2/catch.hpp>

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "device_matrices.cuh"

using higgs::GridCodebook;
using higgs::Half;
namespace gpu = higgs::gpu;

namespace {

using Formats = gpu::MatmulFormats<gpu::TableFormat<4>>;

}  // namespace

TEST_CASE("a linear layer gives the bits of matmul_async for every batch that its workspace is for",
          "[matmul][linear][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 256>>(150, 192, 64, 64, 5, true);
  const gpu::Linear<Formats> linear(w);
  CHECK(linear.rows() == 150);
  CHECK(linear.cols() == 192);
  const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(linear.workspace_bytes(20));
  for (const std::int64_t batch : {20, 3, 9}) {
    const Normals<Half> x(batch, 192, 6);
    const Normals bias(1, 150, 8);
    const Normals<float> residual(batch, 150, 9);
    const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)};
    const gpu::DeviceBuffer<float> bias_device{std::span<const float>(bias.data)},
        y{std::span<const float>(residual.data)};
    linear(gpu::DenseView<const Half>(x_device.data(), batch, 192),
           gpu::DenseView<float>(y.data(), batch, 150), workspace.span(), nullptr,
           {bias_device.data(), y.data()});
    gpu::check(cudaDeviceSynchronize(), "linear");
    CHECK(y.to_host() == device_product<float, Formats>(linear.weights().view(), x, linear.plan(), bias.data,
                                                        residual.data));
  }
}

TEST_CASE("a linear layer takes inputs that were rotated before", "[matmul][linear][gpu]") {
  const gpu::Linear<Formats> linear(
      higgs::AnyQuantizedMatrix(random_matrix<GridCodebook<2, 256>>(70, 128, 64, 64, 5)));
  const Normals<Half> x(6, 128, 6);  // more rows than the kernel rotates
  const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)}, rotated(x.data.size());
  const gpu::DeviceBuffer<float> y(6 * 70);
  const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(linear.workspace_bytes(6));
  gpu::rotate_async(linear.weights().view().rotation, gpu::DenseView<const Half>(x_device.data(), 6, 128),
                    gpu::DenseView<Half>(rotated.data(), 6, 128), linear.device(), nullptr);
  linear.multiply_rotated(gpu::DenseView<const Half>(rotated.data(), 6, 128),
                          gpu::DenseView<float>(y.data(), 6, 70), workspace.span(), nullptr);
  gpu::check(cudaDeviceSynchronize(), "linear");
  CHECK(y.to_host() == device_product<float, Formats>(linear.weights().view(), x, linear.plan()));
}

TEST_CASE("a linear layer refuses a format that is not in its list when it is made",
          "[matmul][linear][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 64>>(64, 64, 64, 64, 5);
  CHECK_THROWS_WITH(gpu::Linear<Formats>(w), Catch::Contains("gpu::Linear: no kernel was compiled"));
  gpu::Linear<gpu::MatmulFormats<gpu::TableFormat<3>>> linear(w);
  linear.plan().dense_from = 100;
  CHECK(linear.workspace_bytes(1000) >= linear.workspace_bytes(99));
}
