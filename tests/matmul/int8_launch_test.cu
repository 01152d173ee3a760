// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/grouped.cuh>
#include <higgs/matmul/int8_launch.cuh>
#include <higgs/matmul/linear.cuh>
#include <higgs/matmul/matmul.cuh>

#include <catch2/catch.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "device_matrices.cuh"
#include "emulator/emulator.hpp"
#include "int8_reference.cuh"

using higgs::GridCodebook;
using higgs::Half;
namespace gpu = higgs::gpu;

// Four points of 2 bits, two of which no byte holds. Not in the unnamed namespace, where nvcc would say that some of its
// functions are only named.
struct WideBook {
  static constexpr int dim = 1, size = 4;
  using Element = std::int16_t;
  using Index = std::uint8_t;
  using Point = std::array<std::int16_t, 1>;
  Point decode(Index index) const noexcept {
    constexpr std::int16_t points[] = {-300, -100, 100, 300};
    return {points[index]};
  }
  double step() const noexcept { return 0.005; }
  double mse() const noexcept { return 0.12; }
  static std::string name() { return "wide"; }
};

namespace {

// All cases have the same instances of matmul_async, for a short build.
using Formats = gpu::MatmulFormats<gpu::TableFormat<2>, gpu::TableFormat<4>>;

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

gpu::MatmulPlan plan_of(int planes, std::int64_t grid = 3) {
  gpu::MatmulPlan plan;
  plan.int8_planes = planes;
  plan.grid = grid;
  return plan;
}

bool last_is(const char* kernel) {
  return emulator::launches().back().kernel.find(kernel) != std::string::npos;
}

}  // namespace

TEST_CASE("one launch rotates few aligned rows inside, two or three serve all others, with equal bits",
          "[matmul][int8_launch][gpu]") {
  constexpr std::int64_t cols = 1288, rows = 70;
  const gpu::PackedMatrix w(random_matrix<GridCodebook<2, 16>>(rows, cols, 64, 64, 5, true));
  const gpu::Device device = gpu::current_device();
  const Normals<Half> all(5, cols, 6);
  for (const int planes : {1, 2})
    for (const std::int64_t batch : {1, 4, 5}) {
      std::vector<float> first;
      for (const std::int64_t inside : {4, 0})
        for (const std::int64_t unaligned : {0, 1}) {
          gpu::MatmulPlan plan = plan_of(planes);
          plan.rotate_inside = inside;
          std::vector<Half> x(static_cast<std::size_t>(unaligned));
          x.insert(x.end(), all.data.begin(), all.data.begin() + batch * cols);
          const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x)};
          const gpu::DeviceBuffer<float> y(static_cast<std::size_t>(batch * rows));
          const auto space =
              gpu::DeviceBuffer<std::byte>::zeros(gpu::matmul_workspace(w.view(), batch, plan, device));
          emulator::clear_launches();
          gpu::matmul_async<Formats>(gpu::DenseView<const Half>(x_device.data() + unaligned, batch, cols),
                                     w.view(), gpu::DenseView<float>(y.data(), batch, rows), space.span(),
                                     plan, device, nullptr);
          gpu::check(cudaDeviceSynchronize(), "product");
          if (emulator::in_use) {
            CHECK(last_is("int8_kernel"));
            CHECK(emulator::launches().size() == (unaligned != 0 ? 3u : batch <= inside ? 1u : 2u));
          }
          if (first.empty()) first = y.to_host();
          CHECK(same_bits(first, y.to_host()));
        }
    }
}

TEST_CASE(
    "a plan without planes, more rows, other formats and 16-bit coordinates have the streaming kernel's bits",
    "[matmul][int8_launch][gpu]") {
  const gpu::PackedMatrix two(random_matrix<GridCodebook<2, 16>>(65, 320, 64, 64, 5)),
      four(random_matrix<GridCodebook<2, 256>>(65, 320, 64, 64, 5)),
      wide(random_matrix<WideBook>(65, 320, 64, 64, 5));
  const auto product = [](const gpu::PackedMatrix& w, std::int64_t batch, int planes) {
    return device_product<float, Formats>(w.view(), Normals<Half>(batch, 320, 6), plan_of(planes));
  };
  for (const int planes : {1, 2}) {
    const std::int64_t most = 32 / planes;
    CHECK(same_bits(product(two, most + 1, planes), product(two, most + 1, 0)));
    CHECK(!same_bits(product(two, most, planes), product(two, most, 0)));
    CHECK(same_bits(product(four, 3, planes), product(four, 3, 0)));
    CHECK(same_bits(product(wide, 3, planes), product(wide, 3, 0)));
  }
}

TEST_CASE("planes other than 0, 1 and 2 are refused", "[matmul][int8_launch][gpu]") {
  const gpu::PackedMatrix w(random_matrix<GridCodebook<2, 16>>(64, 64, 64, 64, 5));
  for (const int planes : {-1, 3, 8})
    CHECK_THROWS_WITH((device_product<float, Formats>(w.view(), Normals<Half>(1, 64, 6), plan_of(planes))),
                      Catch::Contains("plan.int8_planes is " + std::to_string(planes)));
}

TEST_CASE("experts have the same bits with planes as without", "[matmul][int8_launch][gpu]") {
  const std::vector matrices{random_matrix<GridCodebook<2, 16>>(70, 128, 64, 64, 5),
                             random_matrix<GridCodebook<2, 16>>(70, 128, 64, 64, 6)};
  const gpu::Experts experts{std::span<const higgs::QuantizedMatrix<GridCodebook<2, 16>>>(matrices)};
  const gpu::Device device = gpu::current_device();
  const Normals<Half> x(5, 128, 6);
  const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)};
  const std::vector<std::int32_t> offsets{0, 2, 5};
  const gpu::DeviceBuffer<std::int32_t> offsets_device{std::span<const std::int32_t>(offsets)};
  std::vector<float> first;
  for (const int planes : {0, 1, 2}) {
    gpu::MatmulPlan plan = gpu::plan_experts(experts[0].layout, device, 2);
    plan.int8_planes = planes;
    const gpu::DeviceBuffer<float> y(5 * 70);
    const auto space =
        gpu::DeviceBuffer<std::byte>::zeros(gpu::matmul_grouped_workspace(experts, 5, plan, device));
    gpu::matmul_grouped_async<gpu::MatmulFormats<gpu::TableFormat<2>>>(
        gpu::DenseView<const Half>(x_device.data(), 5, 128), experts, {5, offsets_device.data()},
        gpu::DenseView<float>(y.data(), 5, 70), space.span(), plan, device, nullptr);
    gpu::check(cudaDeviceSynchronize(), "experts");
    if (first.empty()) first = y.to_host();
    CHECK(same_bits(first, y.to_host()));
  }
}

TEST_CASE("rows that the caller rotated become int8, too", "[matmul][int8_launch][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 16>>(70, 320, 64, 64, 5);
  gpu::Linear<Formats> linear{gpu::PackedMatrix(w)};
  for (const int planes : {1, 2}) {
    linear.plan() = plan_of(planes);
    const Normals<Half> x(7, linear.rotated_cols(), 6);
    const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)};
    const gpu::DeviceBuffer<float> y(7 * 70);
    const auto space = gpu::DeviceBuffer<std::byte>::zeros(linear.workspace_bytes(7));
    linear.multiply_rotated(gpu::DenseView<const Half>(x_device.data(), 7, linear.rotated_cols()),
                            gpu::DenseView<float>(y.data(), 7, 70), space.span(), nullptr);
    gpu::check(cudaDeviceSynchronize(), "product");
    if (emulator::in_use) CHECK(last_is("int8_kernel"));
    const std::vector<float> all = y.to_host();
    for (std::int64_t n = 0; n < 70; ++n) {
      std::vector<float> scales, row;
      for (const Half one : w.row_scales(n)) scales.push_back(static_cast<float>(one));
      for (std::int64_t m = 0; m < 7; ++m) {
        row.clear();
        for (std::int64_t i = 0; i < x.view.cols; ++i) row.push_back(static_cast<float>(x.view(m, i)));
        REQUIRE(all[static_cast<std::size_t>(m * 70 + n)] ==
                int8_sum(Int8Row(row, planes), planes,
                         padded_coordinates(w, linear.weights().view().layout, n), scales,
                         linear.weights().view().layout, linear.plan(), n) *
                    std::ldexp(1.0f, w.exponent));
      }
    }
  }
}

TEST_CASE("the workspace for many rows of x is enough for fewer, and no more than the plan allows",
          "[matmul][int8_launch][gpu]") {
  const auto layout = gpu::packed_layout<gpu::TableFormat<2>>(2, 4, 8192, 4, 1024);
  const gpu::PackedView w{.layout = layout,
                          .rotation = {.cols = 4096, .block = 1024, .group = 1024, .padded_group = 1024},
                          .int8_table = true};
  const gpu::Device device{132, 227 * 1024, 90};
  for (const int planes : {1, 2})
    for (const std::int64_t limit : {std::int64_t{64} << 20, std::int64_t{3} << 20}) {
      gpu::MatmulPlan plan = plan_of(planes, 264);
      plan.most_workspace = limit;
      std::size_t before = 0;
      for (std::int64_t batch = 1; batch <= 70; ++batch) {
        const std::size_t bytes = gpu::matmul_workspace(w, batch, plan, device);
        CHECK(bytes >= before);
        CHECK(bytes <= static_cast<std::size_t>(limit));
        before = bytes;
      }
    }
}

TEST_CASE("few bytes of workspace take several launches and the same bits", "[matmul][int8_launch][gpu]") {
  const gpu::PackedMatrix w(random_matrix<GridCodebook<2, 16>>(1024, 512, 64, 64, 5));
  const Normals<Half> x(9, 512, 6);
  gpu::MatmulPlan plan = plan_of(1, 8);
  const auto all = device_product<float, Formats>(w.view(), x, plan);
  plan.most_workspace = 1;
  emulator::clear_launches();
  CHECK(same_bits(all, device_product<float, Formats>(w.view(), x, plan)));
  if (emulator::in_use)
    CHECK(emulator::launches().size() == 5);  // one makes int8, one for each of 4 row blocks
}

TEST_CASE("gated int8 products are silu(gate) * up", "[matmul][int8_launch][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 16>>(134, 320, 64, 64, 5);
  const gpu::PackedMatrix device_w(w);
  const gpu::Device device = gpu::current_device();
  const Normals<Half> x(5, 320, 6);
  const gpu::MatmulPlan plan = plan_of(2);
  const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)};
  const gpu::DeviceBuffer<float> y(5 * 67);
  const auto space = gpu::DeviceBuffer<std::byte>::zeros(
      gpu::matmul_workspace({device_w.view(), 5, plan, false, true}, device));
  gpu::matmul_async<Formats>(gpu::DenseView<const Half>(x_device.data(), 5, 320), device_w.view(),
                             gpu::DenseView<float>(y.data(), 5, 67), space.span(), plan, device, nullptr,
                             {.gated = true});
  gpu::check(cudaDeviceSynchronize(), "product");
  const std::vector<float> all = y.to_host(), sums = int8_reference(w, device_w.view().layout, x, plan);
  for (std::size_t m = 0; m < 5; ++m)
    for (std::size_t i = 0; i < 67; ++i) {
      const double gate = sums[m * 134 + 2 * i], up = sums[m * 134 + 2 * i + 1];
      const double expected = gate / (1 + std::exp(-gate)) * up;
      CHECK(std::fabs(all[m * 67 + i] - expected) <= 1e-5 * std::fabs(expected) + 1e-9);
    }
}
