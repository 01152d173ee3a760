// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/wgmma_launch.cuh>

#include <catch2/catch.hpp>

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "device_matrices.cuh"
#include "emulator/emulator.hpp"

using higgs::GridCodebook;
using higgs::Half;
namespace gpu = higgs::gpu;

namespace {

using Formats = gpu::MatmulFormats<gpu::TableFormat<4>>;

gpu::MatmulSize size_of(std::int64_t rows, std::int64_t depth, std::int64_t batch) {
  gpu::MatmulSize size;
  size.w.layout = gpu::packed_layout<gpu::TableFormat<4>>(2, 8, rows, depth / 64, 64);
  size.w.rotation = {depth, 64, nullptr, nullptr, 64, 64};
  size.batch = batch;
  size.plan.wgmma_from = 33;
  return size;
}

}  // namespace

TEST_CASE("warpgroups multiply from the plan's number of rows on, on compute capability 9.0 alone",
          "[matmul][wgmma_launch][gpu]") {
  gpu::Device device{132, 227 * 1024, 90};
  gpu::MatmulSize size = size_of(256, 256, 33);
  const auto can = [&] { return gpu::WgmmaKernel::can(size, device); };
  CHECK(can());
  CHECK(gpu::WgmmaKernel::workspace(size, device) >= gpu::StreamKernel::workspace(size, device));
  size.batch = 32;
  CHECK(!can());
  CHECK(gpu::WgmmaKernel::workspace(size, device) == 0);
  size.batch = 33;
  for (const int architecture : {80, 89, 100, 120}) {
    device.architecture = architecture;
    CHECK(!can());
  }
  device.architecture = 90;
  device.shared_bytes = 224 * 1024;
  CHECK(!can());
  device.shared_bytes = 227 * 1024;
  size.plan.dense_from = 33;  // then a GEMM multiplies
  CHECK(!can());
  size.gated = true;  // which is never dense
  CHECK(can());
  size.gated = false;
  size.rotated = true;  // nor is this
  CHECK(can());
}

TEST_CASE("a plan has warpgroups where the batch may change the bits", "[matmul][wgmma_launch][gpu]") {
  const gpu::PackedLayout layout = size_of(4096, 4096, 1).w.layout;
  constexpr std::int64_t never = std::numeric_limits<std::int64_t>::max();
  for (const int architecture : {80, 90, 100}) {
    const gpu::Device device{132, 227 * 1024, architecture};
    CHECK(gpu::plan_matmul(layout, device).wgmma_from == never);
    CHECK(gpu::plan_matmul(layout, device, gpu::Reproducibility::AcrossDevices).wgmma_from == never);
    CHECK(gpu::plan_matmul(layout, device, gpu::Reproducibility::PerBatch, 100).wgmma_from ==
          (architecture == 90 ? 65 : never));
  }
}

TEST_CASE("the workspace of warpgroup products keeps the plan's bound and is enough for fewer rows",
          "[matmul][wgmma_launch][gpu]") {
  const gpu::Device device{132, 227 * 1024, 90};
  for (const std::int64_t most : {64, 24})
    for (const std::int64_t rows : {1, 128, 1000, 4096, 28672, 152064})
      for (const std::int64_t depth : {64, 1024, 4096, 14336, 53248}) {
        std::size_t fewer = 0;
        for (const std::int64_t batch : {33, 64, 65, 128, 200, 256, 257, 1000, 2048, 8192, 1000000}) {
          gpu::MatmulSize size = size_of(rows, depth, batch);
          size.plan.most_workspace = most << 20;
          const gpu::detail::WgmmaSplit split(size, device);
          const gpu::detail::WgmmaWorkspace parts(size, split, device);
          INFO("N " << rows << ", K " << depth << ", M " << batch << ", at most " << most << " MiB");
          if (most == 64 || depth < 53248) REQUIRE(parts.bytes() <= static_cast<std::size_t>(most) << 20);
          REQUIRE(parts.bytes() >= fewer);
          fewer = parts.bytes();
          const std::int64_t units = split.row_blocks * split.batch_tiles;
          REQUIRE((split.splits == 1 || units * split.splits <= split.most_units));
          REQUIRE(split.batch_tiles >= 1);
          REQUIRE(split.batch_tiles <= split.most_tiles);
          REQUIRE((split.splits == 1 || units * 4 <= static_cast<std::int64_t>(gpu::workspace_counters)));
          REQUIRE(split.splits <= std::max<std::int64_t>(size.w.layout.warp_tile_cols() / 4, 1));
          REQUIRE(split.row_blocks * 2 * split.group_rows >= rows);
        }
      }
}

TEST_CASE("launches of equal size take all multiprocessors, and inputs are split where rows are few",
          "[matmul][wgmma_launch][gpu]") {
  const gpu::Device device{132, 227 * 1024, 90};
  const auto split = [&](std::int64_t rows, std::int64_t depth, std::int64_t batch) {
    return gpu::detail::WgmmaSplit(size_of(rows, depth, batch), device);
  };
  CHECK(split(14336, 4096, 256).splits == 1);       // 112 blocks
  CHECK(split(4096, 4096, 256).splits == 4);        // 32 blocks
  CHECK(split(4096, 4096, 128).splits == 5);        // 16 blocks
  CHECK(split(4096, 4096, 2048).batch_tiles == 4);  // 128 blocks, twice, instead of 224 and 32
  CHECK(split(4096, 4096, 2048).splits == 1);
}

TEST_CASE("strided outputs of any type and rows that the caller rotated have the bits of any other call",
          "[matmul][wgmma_launch][gpu]") {
  const emulator::Options before = emulator::options();
  emulator::options().compute_capability = 90;
  const gpu::Device here = gpu::current_device();
  if (here.architecture == 90) {
    constexpr std::int64_t batch = 70, rows = 131, cols = 512, stride = 140;
    const gpu::PackedMatrix w(random_matrix<GridCodebook<2, 256>>(rows, cols, 128, 128, 5));
    const gpu::MatmulPlan plan =
        gpu::plan_matmul(w.view().layout, here, gpu::Reproducibility::PerBatch, batch);
    const Normals<Half> x(batch, cols, 6);
    emulator::clear_launches();
    const auto want = device_product<float, Formats>(w.view(), x, plan);
    if (emulator::in_use) CHECK(emulator::launches().back().kernel.find("wgmma_kernel") != std::string::npos);

    const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)}, rotated(batch * cols);
    gpu::rotate_async<Half, Half>(w.view().rotation, gpu::DenseView<const Half>(x_device.data(), batch, cols),
                                  gpu::DenseView<Half>(rotated.data(), batch, cols), here, nullptr);
    gpu::DeviceBuffer<Half> y(1 + batch * stride);
    const auto workspace =
        gpu::DeviceBuffer<std::byte>::zeros(gpu::matmul_workspace({w.view(), batch, plan, true}, here));
    gpu::matmul_rotated_async<Formats>(gpu::DenseView<const Half>(rotated.data(), batch, cols), w.view(),
                                       gpu::DenseView<Half>(y.data() + 1, batch, rows, stride),
                                       workspace.span(), plan, here, nullptr);
    gpu::check(cudaDeviceSynchronize(), "matmul_rotated_async");
    const auto got = y.to_host();
    std::size_t wrong = 0;
    for (std::int64_t i = 0; i < batch * rows; ++i)
      wrong += !(got[static_cast<std::size_t>(1 + i / rows * stride + i % rows)] ==
                 Half(want[static_cast<std::size_t>(i)]));
    CHECK(wrong == 0);
  }
  emulator::options() = before;
}
