// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/grid/fragments.cuh>
#include <higgs/matmul/matmul_task.cuh>

#include <catch2/catch.hpp>

#include <cstdint>

namespace gpu = higgs::gpu;

namespace {

gpu::PackedLayout layout_of(std::int64_t rows, std::int64_t cols) {
  return gpu::packed_layout<gpu::TableFormat<4>>(2, 8, rows, cols / 64, 64);
}

}  // namespace

TEST_CASE("a plan has a block for each multiprocessor unless there is less work",
          "[matmul][matmul_task][gpu]") {
  const gpu::Device device{108, 160 * 1024};
  CHECK(gpu::plan_matmul(layout_of(4096, 4096), device).grid == 108);
  CHECK(gpu::plan_matmul(layout_of(256, 256), device).grid ==
        2);  // 4 warp tiles of each of 4 rows, 2 a block
  CHECK(gpu::plan_matmul(layout_of(1, 64), device).grid == 1);
  CHECK(gpu::plan_matmul(layout_of(128, 64), device).row_warps == 2);
  CHECK(gpu::plan_matmul(layout_of(129, 64), device).row_warps == 4);
}

TEST_CASE("AcrossDevices does not see the device, PerBatch sees the batch", "[matmul][matmul_task][gpu]") {
  using gpu::Reproducibility;
  const gpu::PackedLayout layout = layout_of(4096, 4096);
  const gpu::Device small{20, 160 * 1024}, large{160, 160 * 1024};
  CHECK(gpu::plan_matmul(layout, small, Reproducibility::AcrossDevices) ==
        gpu::plan_matmul(layout, large, Reproducibility::AcrossDevices));
  CHECK(gpu::plan_matmul(layout, large, Reproducibility::PerDevice, 640) == gpu::plan_matmul(layout, large));
  CHECK(gpu::plan_matmul(layout, large, Reproducibility::PerBatch, 640).grid == 32);
}

TEST_CASE("a workspace must be large enough and aligned", "[matmul][matmul_task][gpu]") {
  auto* const at = reinterpret_cast<std::byte*>(std::uintptr_t{4096});
  CHECK_NOTHROW(gpu::detail::check_workspace("f", {at, 512}, 512));
  CHECK_THROWS_WITH(gpu::detail::check_workspace("f", {at, 511}, 512),
                    Catch::Contains("f: the workspace holds 511"));
  CHECK_THROWS_AS(gpu::detail::check_workspace("f", {at + 128, 512}, 512), higgs::InvalidArgument);
}
