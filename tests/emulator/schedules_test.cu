// SPDX-License-Identifier: Apache-2.0
// Products under many schedules and all models of tensor cores: shapes that reach each reuse of shared memory and of the
// workspace.
#include "emulator/schedules.hpp"

#include <higgs/matmul/matmul.cuh>

#include <catch2/catch.hpp>
#include <cstdint>
#include <cstring>
#include <vector>

#include "emulator/emulator.hpp"
#include "matmul/device_matrices.cuh"

namespace {

using higgs::GridCodebook;
using higgs::Half;
namespace gpu = higgs::gpu;
using Book = GridCodebook<2, 256>;
using Formats = gpu::MatmulFormats<gpu::TableFormat<4>>;

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

std::vector<double> reference_of(const Normals<Half>& x, const higgs::QuantizedMatrix<Book>& w) {
  std::vector<double> y(static_cast<std::size_t>(x.view.rows * w.layout.rows));
  higgs::matmul_reference(higgs::MatrixView<const Half>(x.view), w,
                          higgs::MatrixView<double>(y.data(), x.view.rows, w.layout.rows));
  return y;
}

// All schedules give the bits of the first, and y is right.
void check_schedules(const gpu::PackedMatrix& w, const higgs::QuantizedMatrix<Book>& host, std::int64_t batch,
                     const gpu::MatmulPlan& plan, std::uint32_t count) {
  INFO("M " << batch << ", grid " << plan.grid);
  const Normals<Half> x(batch, host.layout.cols, 6);
  std::vector<float> first;
  emulator::for_each_schedule(count, [&](std::uint32_t seed) {
    emulator::options().resident_blocks = 1 + seed % 5;
    const auto y = device_product<float, Formats>(w.view(), x, plan);
    if (seed == 0) {
      first = y;
      REQUIRE(relative_error(y, reference_of(x, host)) < 1e-3);
    }
    REQUIRE(same_bits(y, first));
  });
}

}  // namespace

TEST_CASE("a block that multiplies many chunks of activations has no race, and one bit pattern",
          "[matmul][schedules][gpu]") {
  const auto host = random_matrix<Book>(256, 3072, 1024, 1024, 5);
  const gpu::PackedMatrix w(host);
  gpu::MatmulPlan plan = gpu::plan_matmul(w.view().layout, gpu::current_device());
  plan.grid = 1;                         // 48 warp tiles for each warp: 3, 6, 12 or 24 chunks
  check_schedules(w, host, 3, plan, 8);  // rotated by the kernel
  plan.rotate_inside = 0;
  check_schedules(w, host, 8, plan, 6);
  check_schedules(w, host, 16, plan, 4);
}

TEST_CASE("a block that multiplies chunks for 64 rows of x has no race, and one bit pattern",
          "[matmul][schedules][gpu]") {
  const auto host = random_matrix<Book>(256, 512, 512, 512, 5);
  const gpu::PackedMatrix w(host);
  gpu::MatmulPlan plan = gpu::plan_matmul(w.view().layout, gpu::current_device());
  plan.grid = 1;
  check_schedules(w, host, 25, plan, 4);
  check_schedules(w, host, 40, plan, 4);
}

TEST_CASE("row blocks that no other block shares have no race, and one bit pattern",
          "[matmul][schedules][gpu]") {
  const auto host = random_matrix<Book>(600, 320, 64, 64, 5);
  const gpu::PackedMatrix w(host);
  gpu::MatmulPlan plan = gpu::plan_matmul(w.view().layout, gpu::current_device());
  for (const std::int64_t grid : {3, 1, 2}) {  // each block has one row block; one has all; some are shared
    plan.grid = grid;
    for (const std::int64_t batch : {2, 13, 40}) check_schedules(w, host, batch, plan, grid == 3 ? 6 : 3);
  }
  const auto few =
      random_matrix<Book>(65, 64, 64, 64, 5);  // warps share the inputs of two rows of warp tiles
  const gpu::PackedMatrix w_of_few(few);
  gpu::MatmulPlan plan_of_few = gpu::plan_matmul(w_of_few.view().layout, gpu::current_device());
  plan_of_few.grid = 1;
  for (const std::int64_t batch : {2, 13, 40}) check_schedules(w_of_few, few, batch, plan_of_few, 8);
}

TEST_CASE("the promises of equal bits hold in the arithmetic of each generation of tensor cores",
          "[matmul][schedules][gpu]") {
  const auto host = random_matrix<Book>(260, 640, 128, 128, 5);
  const gpu::PackedMatrix w(host);
  const Normals<Half> x(20, 640, 6);
  const auto expected = reference_of(x, host);
  std::vector<std::vector<float>> of_models;
  emulator::for_each_mma_rounding([&](emulator::MmaRounding) {
    std::vector<float> first;
    emulator::for_each_device([&](int) {
      const gpu::Device here = gpu::current_device();
      const auto everywhere = gpu::plan_matmul(w.view().layout, here, gpu::Reproducibility::AcrossDevices);
      const auto y = device_product<float, Formats>(w.view(), x, everywhere);
      if (first.empty()) first = y;
      CHECK(same_bits(y, first));
    });
    CHECK(relative_error(first, expected) < 3e-4);
    const gpu::MatmulPlan plan = gpu::plan_matmul(w.view().layout, gpu::current_device());
    const auto all = device_product<float, Formats>(w.view(), x, plan);
    for (const std::int64_t batch : {1, 5, 9}) {
      const auto part = device_product<float, Formats>(w.view(), Normals<Half>(batch, 640, 6), plan);
      CHECK(same_bits(part, std::vector<float>(all.begin(), all.begin() + batch * 260)));
    }
    of_models.push_back(first);
  });
  // Why AcrossDevices means devices of one architecture.
  for (std::size_t i = 1; i < of_models.size(); ++i) CHECK(!same_bits(of_models[i], of_models[i - 1]));
}
