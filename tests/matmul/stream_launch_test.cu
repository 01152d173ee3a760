// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/stream_launch.cuh>

#include <catch2/catch.hpp>

#include <cstdint>
#include <span>
#include <vector>

#include "device_matrices.cuh"

using higgs::GridCodebook;
using higgs::Half;
namespace gpu = higgs::gpu;

TEST_CASE("any alignment gives the same bits", "[matmul][stream_launch][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 256>>(130, 200, 128, 64, 5);
  const gpu::PackedMatrix device(w);
  const gpu::Device here = gpu::current_device();
  const gpu::MatmulPlan plan = gpu::plan_matmul(device.view().layout, here);
  const Normals<Half> x(5, 200, 6);
  const auto expected = device_product<Half, gpu::MatmulFormats<gpu::TableFormat<4>>>(device.view(), x, plan);
  const auto workspace =
      gpu::DeviceBuffer<std::byte>::zeros(gpu::matmul_workspace(device.view(), 5, plan, here));
  std::vector<Half> spread(1 + 5 * 203);
  for (std::size_t i = 0; i < x.data.size(); ++i) spread[1 + i / 200 * 203 + i % 200] = x.data[i];
  const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(spread)}, y(1 + 5 * 137);
  gpu::matmul_async<gpu::MatmulFormats<gpu::TableFormat<4>>>(
      gpu::DenseView<const Half>(x_device.data() + 1, 5, 200, 203), device.view(),
      gpu::DenseView<Half>(y.data() + 1, 5, 130, 137), workspace.span(), plan, here, nullptr);
  gpu::check(cudaDeviceSynchronize(), "matmul_async");
  const auto got = y.to_host();
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < expected.size(); ++i)
    wrong += !(got[1 + i / 130 * 137 + i % 130] == expected[i]);
  CHECK(wrong == 0);
}

TEST_CASE("the kernel that rotates x takes few aligned rows alone", "[matmul][stream_launch][gpu]") {
  gpu::MatmulTask<Half, float> task;
  task.w.layout = gpu::packed_layout<gpu::TableFormat<4>>(2, 8, 64, 1, 64);
  task.w.rotation = {64, 64, nullptr, nullptr, 64, 64};
  task.x = {reinterpret_cast<const Half*>(std::uintptr_t{4096}), 4, 64};
  task.batch = 4;
  gpu::Device device{108, 160 * 1024};
  const auto rotates = [&] { return gpu::RotatingStreamKernel::can(task, device); };
  CHECK(rotates());
  CHECK(gpu::StreamKernel::can(task, device));
  task.x.data += 1;
  CHECK(!rotates());
  task.x.data -= 1;
  task.batch = 5;
  CHECK(!rotates());
  task.batch = 4;
  task.w.rotation.block = 48;
  CHECK(!rotates());
  task.w.rotation.block = 64;
  task.plan.dense_from = 4;
  CHECK(!rotates());
  CHECK(!gpu::StreamKernel::can(task, device));
  task.plan.dense_from = 5;
  device.shared_bytes = 48 * 1024;
  CHECK(!gpu::StreamKernel::can(task, device));
}
