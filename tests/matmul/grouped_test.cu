// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/grouped.cuh>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "device_matrices.cuh"
#include "emulator/emulator.hpp"
#include "emulator/schedules.hpp"

using higgs::GridCodebook;
using higgs::Half;
namespace gpu = higgs::gpu;

namespace {

using Book = GridCodebook<2, 256>;
using Formats = gpu::MatmulFormats<gpu::TableFormat<4>>;

template <class T>
bool same_bits(std::span<const T> a, std::span<const T> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

template <class Y = float>
std::vector<Y> grouped_product(const gpu::Experts& w, const Normals<Half>& x,
                               const std::vector<std::int32_t>& offsets, const gpu::MatmulPlan& plan,
                               const std::vector<float>& bias = {}, const std::vector<Y>& residual = {}) {
  const gpu::Device device = gpu::current_device();
  const std::int64_t batch = x.view.rows, rows = w[0].layout.rows;
  const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)};
  const gpu::DeviceBuffer<std::int32_t> offsets_device{std::span<const std::int32_t>(offsets)};
  const gpu::DeviceBuffer<Y> y(static_cast<std::size_t>(batch * rows));
  const gpu::DeviceBuffer<float> bias_device{std::span<const float>(bias)};
  const gpu::DeviceBuffer<Y> residual_device{std::span<const Y>(residual)};
  const auto workspace =
      gpu::DeviceBuffer<std::byte>::zeros(gpu::matmul_grouped_workspace(w, batch, plan, device));
  gpu::matmul_grouped_async<Formats>(gpu::DenseView<const Half>(x_device.data(), batch, x.view.cols), w,
                                     offsets_device.data(), gpu::DenseView<Y>(y.data(), batch, rows),
                                     workspace.span(), plan, device, nullptr,
                                     {bias_device.data(), residual_device.data()});
  gpu::check(cudaDeviceSynchronize(), "grouped_product");
  return y.to_host();
}

}  // namespace

TEST_CASE("experts in one launch give the bits of one call for each", "[matmul][grouped][gpu]") {
  std::vector<higgs::QuantizedMatrix<Book>> matrices;
  for (int e = 0; e < 5; ++e) {
    matrices.push_back(random_matrix<Book>(150, 192, 64, 32, static_cast<std::uint64_t>(20 + e)));
    matrices.back().seed = 7;
    matrices.back().exponent = -e;
  }
  const gpu::Experts experts{std::span<const higgs::QuantizedMatrix<Book>>(matrices)};
  const gpu::MatmulPlan plan = gpu::plan_matmul(experts[0].layout, gpu::current_device());
  const std::vector<std::int32_t> all_offsets[] = {
      {0, 0, 0, 1, 1, 1}, {0, 3, 3, 11, 12, 12}, {0, 20, 21, 21, 30, 47}, {0, 0, 0, 0, 0, 99}};
  for (const std::vector<std::int32_t>& offsets : all_offsets) {
    const Normals<Half> x(offsets.back(), 192, 6);
    emulator::for_each_schedule(2, [&](std::uint32_t) {
      const auto y = grouped_product(experts, x, offsets, plan);
      for (std::size_t e = 0; e < 5; ++e) {
        const std::int64_t first = offsets[e], count = offsets[e + 1] - first;
        if (count == 0) continue;
        Normals<Half> some(count, 192, 6);
        std::copy_n(x.data.begin() + first * 192, count * 192, some.data.begin());
        const auto alone = device_product<float, Formats>(experts[static_cast<int>(e)], some, plan);
        const std::span<const float> together(y.data() + first * 150, alone.size());
        REQUIRE(same_bits<float>(together, alone));
      }
    });
  }
  const Normals bias(1, 150, 8);
  const Normals<Half> x(3, 192, 6), residual(3, 150, 9);
  const auto y = grouped_product<Half>(experts, x, {0, 1, 1, 3, 3, 3}, plan, bias.data, residual.data);
  const auto plain = grouped_product<float>(experts, x, {0, 1, 1, 3, 3, 3}, plan);
  for (std::size_t i = 0; i < y.size(); ++i)
    CHECK(y[i] == Half(plain[i] + bias.data[i % 150] + static_cast<float>(residual.data[i])));
  matrices.back().seed = 8;
  CHECK_THROWS_AS(gpu::Experts{std::span<const higgs::QuantizedMatrix<Book>>(matrices)},
                  higgs::InvalidArgument);
}

TEST_CASE("a launch of experts costs one table and one run for each that has rows",
          "[matmul][grouped][gpu]") {
  if (!emulator::in_use) return;
  std::vector<higgs::QuantizedMatrix<Book>> matrices(40, random_matrix<Book>(256, 256, 256, 256, 3));
  const gpu::Experts experts{std::span<const higgs::QuantizedMatrix<Book>>(matrices)};
  gpu::MatmulPlan plan = gpu::plan_matmul(experts[0].layout, gpu::current_device());
  std::vector<std::int32_t> offsets(41, 2);
  offsets[0] = 0;
  std::fill(offsets.begin() + 36, offsets.end(), 3);  // experts 0 and 35
  emulator::clear_launches();
  static_cast<void>(grouped_product(experts, Normals<Half>(3, 256, 6), offsets, plan));
  CHECK(emulator::launches().size() == 2);  // the rotation and the product
  const emulator::Counters grouped = emulator::launches().back().counters;
  static_cast<void>(device_product<float, Formats>(experts[0], Normals<Half>(1, 256, 6), plan));
  CHECK(grouped[emulator::Class::Mma] == 2 * emulator::launches().back().counters[emulator::Class::Mma]);
}
