// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/stream_launch.cuh>

#include <catch2/catch.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "device_matrices.cuh"
#include "emulator/emulator.hpp"

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

TEST_CASE("no product takes more than 64 MiB of workspace, and none more than one of more rows",
          "[matmul][stream_launch][gpu]") {
  using gpu::Reproducibility;
  const gpu::Device device{132, 227 * 1024, 90};
  gpu::PackedView w;
  for (const std::int64_t rows : {64, 4096, 14336, 28672, 128256})
    for (const std::int64_t cols : {4096, 8192})
      for (const auto sums :
           {Reproducibility::PerDevice, Reproducibility::AcrossDevices, Reproducibility::PerBatch}) {
        w.layout = gpu::packed_layout<gpu::TableFormat<4>>(2, 8, rows, cols / 1024, 1024);
        w.rotation = {cols, 1024, nullptr, nullptr, 1024, 1024};
        std::size_t before = 0;
        for (const std::int64_t batch : {1, 8, 9, 16, 17, 32, 33, 64, 65, 200, 2048, 8192, 1'000'000}) {
          INFO(rows << " x " << cols << ", M " << batch);
          const gpu::MatmulPlan plan = gpu::plan_matmul(w.layout, device, sums, batch);
          const std::size_t bytes = gpu::matmul_workspace(w, batch, plan, device);
          CHECK(bytes <= std::size_t{64} << 20);
          if (sums != Reproducibility::PerBatch) CHECK(bytes >= before);
          before = bytes;
        }
      }
}

TEST_CASE("a product in several launches has the bits of one", "[matmul][stream_launch][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 256>>(1030, 320, 64, 64, 5);
  const gpu::PackedMatrix device(w);
  const Normals bias(1, 1030, 8);
  const auto check = [&](std::int64_t batch, std::int64_t grid, std::int64_t most, std::size_t launches) {
    INFO("M " << batch << ", grid " << grid << ", workspace " << most);
    const Normals<Half> x(batch, 320, 6), residual(batch, 1030, 9);
    gpu::MatmulPlan plan = gpu::plan_matmul(device.view().layout, gpu::current_device());
    plan.grid = grid;
    const auto product = [&] {
      emulator::clear_launches();
      return device_product<Half, gpu::MatmulFormats<gpu::TableFormat<4>>>(device.view(), x, plan, bias.data,
                                                                           residual.data);
    };
    const auto one = product();
    plan.most_workspace = most;
    const auto several = product();
    if (emulator::in_use) CHECK(emulator::launches().size() == launches);
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < one.size(); ++i) wrong += one[i].bits != several[i].bits;
    CHECK(wrong == 0);
  };
  check(200, 7, 2400 << 10, 4);  // three tiles, then one: a rotation and a product each
  check(200, 7, 0, 8);           // a tile at a time
  check(70, 10, 600 << 10, 6);   // five parts of W for each tile, three at a time
  check(2, 10, 0, 5);            // x rotated inside
}

TEST_CASE("launches overlap where the device can do that, and are refused elsewhere",
          "[matmul][stream_launch][gpu]") {
  gpu::MatmulPlan plan;
  const gpu::Device ampere{108, 160 * 1024, 80}, hopper{132, 227 * 1024, 90};
  CHECK(!gpu::detail::launch_options(plan, hopper).overlaps_previous);
  CHECK_NOTHROW(gpu::detail::launch_options(plan, ampere));
  plan.overlap_launches = true;
  CHECK(gpu::detail::launch_options(plan, hopper).overlaps_previous);
  CHECK(!gpu::detail::launch_options(plan, hopper, true).overlaps_previous);
  CHECK_THROWS_WITH(gpu::detail::launch_options(plan, ampere), Catch::Contains("sm_80"));
}

TEST_CASE("a part of W has its weights, scales, outputs and ranges", "[matmul][stream_launch][gpu]") {
  gpu::MatmulTask<Half, float> task;
  task.w.layout =
      gpu::packed_layout<gpu::WindowFormat<7>>(2, 7, 1030, 3, 128);  // 5 row blocks of 6 warp tiles
  task.w.codes = reinterpret_cast<const uint4*>(std::uintptr_t{1} << 20);
  task.w.scales = reinterpret_cast<const Half*>(std::uintptr_t{1} << 30);
  task.y = {reinterpret_cast<float*>(std::uintptr_t{1} << 32), 4, 1030};
  task.plan.grid = 15;
  const auto part = gpu::detail::parts_of(task, 3, 2);
  CHECK(part.w.codes - task.w.codes == 12 * 6 * (3 * 32 + 20));
  CHECK(part.w.scales - task.w.scales == 12 * 3 * 64);
  CHECK(part.y.data - task.y.data == 768);
  CHECK(part.y.row_stride == 1030);
  CHECK(part.w.layout.rows == 1030 - 768);
  CHECK(part.plan.grid == 6);
  CHECK(part.epilogue.bias == nullptr);
  CHECK(part.epilogue.residual == nullptr);
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

TEST_CASE("a program without code for sm_90a takes the streaming kernel where a plan asks for warpgroups",
          "[matmul][stream_launch][gpu]") {
  const emulator::Options before = emulator::options();
  emulator::options().compute_capability = 90;
  using Formats = gpu::MatmulFormats<gpu::TableFormat<4>>;
  const gpu::PackedMatrix w(random_matrix<GridCodebook<2, 256>>(130, 200, 128, 64, 5));
  gpu::MatmulPlan plan = gpu::plan_matmul(w.view().layout, gpu::current_device());
  const Normals<Half> x(40, 200, 6);
  const auto expected = device_product<float, Formats>(w.view(), x, plan);
  plan.wgmma_from = 33;
  CHECK((!emulator::in_use || device_product<float, Formats>(w.view(), x, plan) == expected));
  emulator::options() = before;
}
