// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/int8_kernel.cuh>
#include <higgs/matmul/matmul.cuh>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "device_matrices.cuh"
#include "emulator/emulator.hpp"
#include "emulator/schedules.hpp"
#include "int8_reference.cuh"

using higgs::GridCodebook;
using higgs::Half;
namespace gpu = higgs::gpu;

namespace {

using TwoBits = gpu::MatmulFormats<gpu::TableFormat<2>>;

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

struct Shape {
  std::int64_t rows, cols, block, group;
  bool input_scales = false;
};

std::string name_of(const Shape& s) {
  return std::to_string(s.rows) + " x " + std::to_string(s.cols) + ", block " + std::to_string(s.block) +
         ", group " + std::to_string(s.group);
}

// A cut of another kind for each batch.
gpu::MatmulPlan plan_of(int planes, std::int64_t batch) {
  gpu::MatmulPlan plan;
  plan.int8_planes = planes;
  plan.row_warps = batch % 3 == 2 ? 2 : 4;
  plan.grid = 1 + batch * 5 % 7;
  return plan;
}

void check_product(const Shape& shape, std::int64_t batch, int planes) {
  INFO(name_of(shape) << ", M " << batch << ", " << planes << " planes");
  const auto w = random_matrix<GridCodebook<2, 16>>(shape.rows, shape.cols, shape.block, shape.group, 5,
                                                    shape.input_scales);
  const gpu::PackedMatrix device(w);
  const Normals<Half> x(batch, shape.cols, 6);
  const Normals<float> bias(1, shape.rows, 7), residual(batch, shape.rows, 8);
  const gpu::MatmulPlan plan = plan_of(planes, batch);
  emulator::clear_launches();
  const auto y = device_product<float, TwoBits>(device.view(), x, plan, bias.data, residual.data);
  if (emulator::in_use) CHECK(emulator::launches().back().kernel.find("int8_kernel") != std::string::npos);
  REQUIRE(same_bits(y, int8_reference(w, device.view().layout, x, plan, bias.data, residual.data)));
}

// For 1000 weights of 4096 x 4096: warp instructions without mov and parameters, and passes of shared memory. Sectors
// relative to weights, scales, activations and outputs read or written once.
struct Counts {
  double instructions, passes, sectors;
};

void check_counts(const gpu::PackedMatrix& w, std::int64_t batch, int planes, const Counts& most) {
  constexpr std::int64_t n = 4096;
  gpu::MatmulPlan plan = gpu::plan_matmul(w.view().layout, gpu::current_device());
  plan.int8_planes = planes;
  emulator::clear_launches();
  static_cast<void>(device_product<float, TwoBits>(w.view(), Normals<Half>(batch, n, 6), plan));
  const emulator::Counters& c = emulator::launches().back().counters;
  const double least =
      (static_cast<double>(n * n) / 4 + static_cast<double>(n * n / 512 + batch * n * 6)) / 32;
  const auto each = [](std::uint64_t events) { return static_cast<double>(events) / (n * n / 1e3); };
  const Counts found{each(c.work()), each(c.shared_passes),
                     static_cast<double>(c.sectors_read + c.sectors_written) / least};
  std::printf("| %lld | %d | %.1f | %.1f | %.2f |\n", static_cast<long long>(batch), planes,
              found.instructions, found.passes, found.sectors);
  INFO("M = " << batch << ", planes " << planes);
  CHECK(found.instructions <= most.instructions);
  CHECK(found.passes <= most.passes);
  CHECK(found.sectors <= most.sectors);
  CHECK(c.shared_passes == c.shared_passes_ideal);
  CHECK(c[emulator::Class::LocalMemory] == 0);
  CHECK(c[emulator::Class::Mma] == static_cast<std::uint64_t>(n * n / 512 * ((batch * planes + 7) / 8)));
}

}  // namespace

TEST_CASE("the int8 product has the bits of plain loops", "[matmul][int8_kernel][gpu]") {
  for (const int planes : {1, 2}) {
    check_product({64, 64, 64, 64}, 1, planes);
    check_product({1, 2048, 1024, 1024}, 2, planes);
    check_product({130, 1088, 64, 64}, 3, planes);
    check_product({300, 2048, 256, 2048, true}, 4, planes);
    check_product({65, 1280, 320, 320}, 5, planes);
    check_product({200, 4096, 1024, 512}, 8, planes);
    check_product({70, 300, 60, 20}, 9, planes);
    check_product({70, 8192, 4096, 4096}, 3, planes);
    check_product({129, 3400, 8, 200}, 16, planes);
  }
  check_product({64, 1024, 1024, 256}, 17, 1);
  check_product({260, 2112, 64, 192}, 32, 1);
}

TEST_CASE("the int8 product has the bits of plain loops for every batch", "[matmul][int8_kernel][gpu]") {
  for (std::int64_t batch = 1; batch <= 32; ++batch) {
    check_product({66, 320, 64, 64}, batch, 1);
    if (batch <= 16) check_product({66, 320, 64, 64}, batch, 2);
  }
}

TEST_CASE("no schedule changes a bit of the int8 product, and none has a race",
          "[matmul][int8_kernel][gpu]") {
  struct Case {
    std::int64_t batch, block;
    int planes;
  };
  for (const Case& one : {Case{3, 64, 2}, Case{1, 64, 1}, Case{12, 320, 1}, Case{11, 320, 2}}) {
    const auto w = random_matrix<GridCodebook<2, 16>>(330, 2240, one.block, 64, 5);
    const gpu::PackedMatrix device(w);
    const Normals<Half> x(one.batch, 2240, 6);
    std::vector<float> first;
    emulator::for_each_schedule(one.batch == 3 ? 6 : 3, [&](std::uint32_t seed) {
      emulator::options().resident_blocks = 1 + seed % 5;
      gpu::MatmulPlan plan = plan_of(one.planes, one.batch);
      plan.grid = one.batch <= 4 ? 2 : 5;  // three chunks of rows that are rotated inside
      const auto y = device_product<float, TwoBits>(device.view(), x, plan);
      if (seed == 0) first = y;
      REQUIRE(same_bits(y, first));
    });
  }
}

TEST_CASE("no tensor core's rounding changes a bit of the int8 product", "[matmul][int8_kernel][gpu]") {
  const gpu::PackedMatrix w(random_matrix<GridCodebook<2, 16>>(130, 1088, 64, 64, 5));
  const Normals<Half> x(5, 1088, 6);
  std::vector<float> first;
  emulator::for_each_mma_rounding([&](emulator::MmaRounding) {
    const auto y = device_product<float, TwoBits>(w.view(), x, plan_of(2, 5));
    if (first.empty()) first = y;
    CHECK(same_bits(y, first));
  });
}

TEST_CASE("one plane has a relative error below .01, two planes have less than fp16",
          "[matmul][int8_kernel][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 16>>(256, 4096, 1024, 1024, 5);
  const gpu::PackedMatrix device(w);
  const Normals<float> x(4, 4096, 6);
  std::vector<double> exact(4 * 256);
  higgs::matmul_reference(x.view, w, higgs::MatrixView<double>(exact.data(), 4, 256));
  double errors[3];
  for (const int planes : {0, 1, 2}) {
    gpu::MatmulPlan plan = plan_of(planes, 4);
    errors[planes] = relative_error(device_product<float, TwoBits>(device.view(), x, plan), exact);
  }
  std::printf("relative error: fp16 %.2e, one plane %.2e, two planes %.2e\n", errors[0], errors[1],
              errors[2]);
  CHECK(errors[1] < 0.01);
  CHECK(errors[2] < 0.00005);
  CHECK(errors[2] < errors[0]);
}

TEST_CASE("an output is within half a step of each of its inputs, however different these are",
          "[matmul][int8_kernel][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 16>>(64, 2048, 64, 64, 5);
  const gpu::PackedMatrix device(w);
  Normals<float> x(2, 2048, 6);
  for (std::size_t i = 0; i < x.data.size(); ++i) x.data[i] *= i % 500 == 3 ? 1e4f : 1e-3f;
  std::vector<double> exact(2 * 64);
  higgs::matmul_reference(x.view, w, higgs::MatrixView<double>(exact.data(), 2, 64));
  for (const int planes : {1, 2}) {
    const auto y = device_product<float, TwoBits>(device.view(), x, plan_of(planes, 2));
    for (std::int64_t m = 0; m < 2; ++m) {
      const Int8Row row(
          padded_rotation(w, device.view().layout,
                          std::span<const float>(x.data).subspan(static_cast<std::size_t>(m) * 2048, 2048)),
          planes);
      for (std::int64_t n = 0; n < 64; ++n) {
        const std::vector<int> coordinates = padded_coordinates(w, device.view().layout, n);
        double bound = 0;
        for (std::size_t i = 0; i < 2048; ++i)
          bound += 0.5 * static_cast<double>(row.scales[i / 1024]) * std::abs(coordinates[i]) *
                   std::ldexp(static_cast<double>(static_cast<float>(w.row_scales(n)[i / 64])), w.exponent);
        const auto at = static_cast<std::size_t>(m * 64 + n);
        CHECK(std::fabs(static_cast<double>(y[at]) - exact[at]) <= bound + 1e-5 * std::fabs(exact[at]));
      }
    }
  }
}

TEST_CASE("a row with a NaN or an infinity is NaN, one of zeros is the bias, and others do not see them",
          "[matmul][int8_kernel][gpu]") {
  const gpu::PackedMatrix w(random_matrix<GridCodebook<2, 16>>(70, 2048, 64, 64, 5));
  const std::vector<float> bias = Normals<float>(1, 70, 7).data;
  for (const int planes : {1, 2})
    for (const std::int64_t batch : {4, 6}) {
      Normals<float> x(batch, 2048, 6);
      const auto before = device_product<float, TwoBits>(w.view(), x, plan_of(planes, batch), bias);
      x.data[1500] = std::numeric_limits<float>::quiet_NaN();
      x.data[2048 + 7] = std::numeric_limits<float>::infinity();
      std::fill(x.data.begin() + 2 * 2048, x.data.begin() + 3 * 2048, 0.0f);
      const auto y = device_product<float, TwoBits>(w.view(), x, plan_of(planes, batch), bias);
      for (std::size_t n = 0; n < 70; ++n) {
        CHECK(std::isnan(y[n]));
        CHECK(std::isnan(y[70 + n]));
        CHECK(y[140 + n] == bias[n]);
      }
      CHECK(std::memcmp(y.data() + 210, before.data() + 210, (y.size() - 210) * sizeof(float)) == 0);
    }
}

TEST_CASE("an int8 product executes no more instructions, passes and sectors than the table says",
          "[matmul][int8_kernel][counts][gpu]") {
  if (!emulator::in_use) return;
  std::printf("| M | planes | instructions | passes | sectors / least |\n|---:|---:|---:|---:|---:|\n");
  const gpu::PackedMatrix w(random_matrix<GridCodebook<2, 16>>(4096, 4096, 1024, 1024, 5));
  check_counts(w, 1, 1, {49.5, 12.6, 1.3});  // rotated inside, as up to 4 rows
  check_counts(w, 1, 2, {51.5, 12.8, 1.3});
  check_counts(w, 4, 1, {75, 17, 1.7});
  check_counts(w, 4, 2, {79, 17.6, 1.7});
  check_counts(w, 8, 1, {43, 11.5, 1.7});
  check_counts(w, 8, 2, {49.5, 12.8, 1.85});
  check_counts(w, 16, 1, {51, 12.8, 2.2});
  check_counts(w, 16, 2, {67, 15.5, 2.45});
  check_counts(w, 32, 1, {69, 15.5, 3.1});
}
