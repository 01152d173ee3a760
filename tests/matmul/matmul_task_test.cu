// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/grid/fragments.cuh>
#include <higgs/matmul/matmul_task.cuh>

#include <catch2/catch.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

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

TEST_CASE("a plan has two blocks for each multiprocessor from sm_90 on, if there is work for them",
          "[matmul][matmul_task][gpu]") {
  const auto grid = [](std::int64_t rows, std::int64_t cols, const gpu::Device& device) {
    return gpu::plan_matmul(layout_of(rows, cols), device).grid;
  };
  const gpu::Device hopper{132, 227 * 1024, 90}, ampere{108, 163 * 1024, 80},
      small_blackwell{170, 99 * 1024, 120};
  CHECK(grid(28672, 8192, hopper) == 264);
  CHECK(grid(28672, 8192, ampere) == 108);
  CHECK(grid(28672, 8192, small_blackwell) == 170);
  CHECK(grid(256 * 33, 64 * 64, hopper) == 264);  // 8 warp tiles of a row block for each of 264
  CHECK(grid(256 * 33, 64 * 63, hopper) == 132);
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

TEST_CASE("a plan that no kernel can follow is refused with its number", "[matmul][matmul_task][gpu]") {
  using Catch::Contains;
  const auto check = [](int row_warps, std::int64_t grid) {
    gpu::MatmulPlan plan;
    plan.row_warps = row_warps;
    plan.grid = grid;
    gpu::detail::check_plan("f", plan);
  };
  for (const int row_warps : {2, 4})
    for (const std::int64_t grid : {std::int64_t{1}, (std::int64_t{1} << 31) - 1})
      CHECK_NOTHROW(check(row_warps, grid));
  for (const int row_warps : {-2, 0, 1, 3, 8})
    CHECK_THROWS_WITH(check(row_warps, 1), Contains("plan.row_warps is " + std::to_string(row_warps)));
  for (const std::int64_t grid : {std::int64_t{-1}, std::int64_t{0}, std::int64_t{1} << 31})
    CHECK_THROWS_WITH(check(4, grid), Contains("plan.grid is " + std::to_string(grid)));
  gpu::MatmulPlan plan;
  for (const std::int64_t inside : {0, 4}) {
    plan.rotate_inside = inside;
    CHECK_NOTHROW(gpu::detail::check_plan("f", plan));
  }
  for (const std::int64_t inside : {-1, 5}) {
    plan.rotate_inside = inside;
    CHECK_THROWS_WITH(gpu::detail::check_plan("f", plan),
                      Contains("plan.rotate_inside is " + std::to_string(inside)));
  }
}

TEST_CASE("each pointer of a product must be aligned, and what is written must be apart from the rest",
          "[matmul][matmul_task][gpu]") {
  using Task = gpu::MatmulTask<higgs::Half, float>;
  // Addresses of 4 rows each, 4096 bytes apart; nothing reads them.
  const auto at = [](int number, int bytes = 0) {
    return std::uintptr_t{4096} * static_cast<unsigned>(number) + static_cast<std::uintptr_t>(bytes);
  };
  const auto pointer = []<class T>(T*& to, std::uintptr_t address) { to = reinterpret_cast<T*>(address); };
  std::span<std::byte> workspace{reinterpret_cast<std::byte*>(at(1)), 4096};
  Task good;
  good.x = {nullptr, 4, 64, 80};
  good.y = {nullptr, 4, 96, 100};
  pointer(good.x.data, at(2));
  pointer(good.y.data, at(3));
  pointer(good.epilogue.bias, at(4));
  pointer(good.epilogue.residual, at(5));
  good.w.layout.rows = 96;
  pointer(good.w.codes, at(6));
  pointer(good.w.scales, at(7));
  pointer(good.w.table, at(8));
  pointer(good.w.rotation.factors, at(9));
  const auto says = [&](auto change) -> std::string {
    Task task = good;
    change(task);
    try {
      gpu::detail::check_pointers("f", task, workspace);
    } catch (const higgs::InvalidArgument& error) {
      return error.what();
    }
    return "nothing";
  };
  CHECK(says([](Task&) {}) == "nothing");
  CHECK(says([](Task& t) { t.epilogue = {}; }) == "nothing");
  CHECK(says([](Task& t) { t.epilogue.residual = t.y.data; }) == "nothing");
  using Catch::StartsWith;
  CHECK(says([&](Task& t) { pointer(t.x.data, at(2, 1)); }) ==
        "f: x begins 1 bytes after a multiple of 2 bytes, but must begin at one");
  CHECK_THAT(says([&](Task& t) { pointer(t.rotated_x.data, at(10, 8)); }),
             StartsWith("f: rotated x begins 8"));
  CHECK_THAT(says([&](Task& t) { pointer(t.y.data, at(3, 2)); }), StartsWith("f: y begins 2"));
  CHECK_THAT(says([&](Task& t) { pointer(t.epilogue.bias, at(4, 2)); }), StartsWith("f: bias begins 2"));
  CHECK_THAT(says([&](Task& t) { pointer(t.epilogue.residual, at(5, 2)); }),
             StartsWith("f: residual begins 2"));
  CHECK_THAT(says([&](Task& t) { pointer(t.w.codes, at(6, 8)); }), StartsWith("f: w.codes begins 8"));
  CHECK_THAT(says([&](Task& t) { pointer(t.w.scales, at(7, 2)); }), StartsWith("f: w.scales begins 2"));
  CHECK_THAT(says([&](Task& t) { pointer(t.w.table, at(8, 2)); }), StartsWith("f: w.table begins 2"));
  CHECK_THAT(says([&](Task& t) { pointer(t.w.rotation.factors, at(9, 4)); }),
             StartsWith("f: w.rotation.factors begins 4"));
  CHECK_THAT(says([](Task& t) { t.y.row_stride = 95; }), StartsWith("f: rows of y are 95 elements apart"));
  CHECK_THAT(says([&](Task& t) { pointer(t.x.data, at(3, 400)); }),
             StartsWith("f: x and y must not share memory"));
  CHECK_THAT(says([&](Task& t) { pointer(t.epilogue.bias, at(3, 400)); }),
             StartsWith("f: bias and y must not"));
  CHECK_THAT(says([&](Task& t) { pointer(t.epilogue.residual, at(3, 400)); }),
             StartsWith("f: residual and y must not"));
  CHECK_THAT(says([&](Task& t) { pointer(t.x.data, at(1, 4094)); }),
             StartsWith("f: the workspace and x must not"));
  CHECK_THAT(says([&](Task& t) { pointer(t.y.data, at(1)); }), StartsWith("f: the workspace and y must not"));
  CHECK_THAT(says([&](Task& t) { pointer(t.epilogue.bias, at(1)); }),
             StartsWith("f: the workspace and bias"));
  CHECK_THAT(says([&](Task& t) { pointer(t.epilogue.residual, at(1)); }),
             StartsWith("f: the workspace and residual"));
  CHECK_THAT(says([&](Task& t) {
               t.rotated = true;
               t.rotated_x = {nullptr, 4, 64};
               pointer(t.rotated_x.data, at(3));
             }),
             StartsWith("f: x and y must not"));
  // x, y and the residual as columns of one matrix.
  CHECK(says([&](Task& t) {
          t.x.row_stride = 2 * t.y.row_stride;
          pointer(t.x.data, at(3, 400 - 16));
          t.y.cols = 40;
          pointer(t.epilogue.residual, at(3, 160));
        }) ==
        "f: x and y must not share memory, but x takes 1328 bytes and y begins -384 bytes after its first");
  CHECK(says([&](Task& t) {
          t.x.row_stride = 2 * t.y.row_stride;
          t.x.cols = 40;
          pointer(t.x.data, at(3, 320));
          t.y.cols = 40;
          pointer(t.epilogue.residual, at(3, 160));
        }) == "nothing");
}

TEST_CASE(
    "a product is refused for a matrix in the memory of another device, and where CUDA keeps much shared "
    "memory",
    "[matmul][matmul_task][gpu]") {
  gpu::PackedView w;
  gpu::Device device{108, 160 * 1024};
  CHECK_NOTHROW(gpu::detail::check_device("f", w, device));
  device.id = 1;
  CHECK_NOTHROW(gpu::detail::check_device("f", w, device));
  w.device = 1;
  CHECK_NOTHROW(gpu::detail::check_device("f", w, device));
  w.device = 2;
  CHECK_THROWS_WITH(gpu::detail::check_device("f", w, device),
                    "f: w is in the memory of device 2, but the call is for device 1");
  w.device = 1;
  device.reserved_shared_bytes = 1024;
  CHECK_NOTHROW(gpu::detail::check_device("f", w, device));
  device.reserved_shared_bytes = 2048;
  CHECK_THROWS_WITH(gpu::detail::check_device("f", w, device), Catch::Contains("the first 2048 bytes"));
}

TEST_CASE("a workspace must be large enough and aligned", "[matmul][matmul_task][gpu]") {
  auto* const at = reinterpret_cast<std::byte*>(std::uintptr_t{4096});
  CHECK_NOTHROW(gpu::detail::check_workspace("f", {at, 512}, 512));
  CHECK_THROWS_WITH(gpu::detail::check_workspace("f", {at, 511}, 512),
                    Catch::Contains("f: the workspace holds 511"));
  CHECK_THROWS_AS(gpu::detail::check_workspace("f", {at + 128, 512}, 512), higgs::InvalidArgument);
}
