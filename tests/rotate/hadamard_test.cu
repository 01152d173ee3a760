// SPDX-License-Identifier: Apache-2.0
#include <higgs/rotate/hadamard.cuh>

#include <catch2/catch.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "emulator/emulator.hpp"
#include "emulator/schedules.hpp"
#include "matmul/matrices.hpp"

using higgs::BFloat16;
using higgs::Half;
namespace gpu = higgs::gpu;

namespace {

template <class In, class Out>
std::vector<Out> rotate_on_device(const Normals<In>& x, gpu::Rotation r, std::uint64_t seed,
                                  std::int64_t stride) {
  const gpu::Device device = gpu::current_device();
  const std::vector<std::uint32_t> signs = gpu::sign_words(seed, r.cols);
  const gpu::DeviceBuffer<std::uint32_t> signs_device{std::span<const std::uint32_t>(signs)};
  r.signs = signs_device.data();
  const gpu::DeviceBuffer<In> in{std::span<const In>(x.data)};
  const gpu::DeviceBuffer<Out> out{
      std::span<const Out>(std::vector<Out>(static_cast<std::size_t>(x.view.rows * stride)))};
  const gpu::DeviceBuffer<float> scratch(
      static_cast<std::size_t>(gpu::rotate_scratch(r, x.view.rows, device)));
  gpu::rotate_async(r, gpu::DeviceMatrixView<const In>(in.data(), x.view.rows, r.cols),
                    gpu::DeviceMatrixView<Out>(out.data(), x.view.rows, stride), device, nullptr,
                    scratch.data());
  gpu::check(cudaDeviceSynchronize(), "rotate_on_device");
  return out.to_host();
}

template <class In, class Out>
void check_equals_host(std::int64_t rows, std::int64_t cols, std::int64_t block, std::int64_t group,
                       bool input_scales = false) {
  INFO("cols " << cols << ", block " << block << ", group " << group);
  const Normals<In> x(rows, cols, 4);
  const std::int64_t padded = gpu::ceil_div(cols, block) * block, padded_group = group + 3 * (group != block);
  std::vector<float> factors;
  for (std::int64_t c = 0; input_scales && c < cols; ++c)
    factors.push_back(0.25f + static_cast<float>(c % 7));
  const gpu::DeviceBuffer<float> factors_device{std::span<const float>(factors)};
  gpu::Rotation r{cols, block, nullptr, factors_device.data(), group, padded_group};
  const std::int64_t stride = padded / group * padded_group;
  const std::vector<Out> y = rotate_on_device<In, Out>(x, r, 99, stride);
  for (std::int64_t m = 0; m < rows; ++m) {
    std::vector<float> row(static_cast<std::size_t>(padded));
    for (std::int64_t c = 0; c < cols; ++c) {
      row[static_cast<std::size_t>(c)] = static_cast<float>(x.view(m, c));
      if (input_scales) row[static_cast<std::size_t>(c)] *= factors[static_cast<std::size_t>(c)];
    }
    higgs::rotate_row(row, block, 99);
    std::size_t wrong = 0;
    for (std::int64_t c = 0; c < padded; ++c) {
      const Out device = y[static_cast<std::size_t>(m * stride + c / group * padded_group + c % group)];
      const Out host = static_cast<Out>(row[static_cast<std::size_t>(c)]);
      wrong += std::memcmp(&device, &host, sizeof(Out)) != 0;
    }
    REQUIRE(wrong == 0);
  }
}

}  // namespace

TEST_CASE("rotation on the device has the host's bits for every order", "[rotate][hadamard][gpu]") {
  for (const int order : higgs::hadamard_orders())
    if (order <= 2048 || order == 28672 || order == 32768)
      check_equals_host<float, float>(1, order, order, order);
}

TEST_CASE("rows, padding, groups, types and input scales are the host's", "[rotate][hadamard][gpu]") {
  for (const std::int64_t cols : {1, 7, 64, 100, 257, 512, 1030, 2048}) {
    check_equals_host<Half, Half>(3, cols, 64, 16, true);
    check_equals_host<Half, Half>(2, cols, 256, 256);
    check_equals_host<BFloat16, BFloat16>(2, cols, 512, 64, true);
    check_equals_host<BFloat16, Half>(2, cols, 1024, 1024);
    check_equals_host<Half, Half>(2, cols, 1024, 1024, true);
    check_equals_host<float, Half>(2, cols, 96, 12, true);
  }
}

TEST_CASE("no schedule of the rotation has a race", "[rotate][hadamard][gpu]") {
  emulator::for_each_schedule(5, [](std::uint32_t) {
    check_equals_host<Half, Half>(2, 1024, 1024, 1024);
    check_equals_host<Half, Half>(1, 1536, 768, 96);
  });
}

TEST_CASE("rotation is right to two units in the last place of fp16", "[rotate][hadamard][gpu]") {
  const Normals<BFloat16> x(2, 1024, 4);
  const std::vector<Half> y =
      rotate_on_device<BFloat16, Half>(x, {1024, 1024, nullptr, nullptr, 1024, 1024}, 9, 1024);
  const std::uint64_t count = 1024;
  double worst = 0;
  for (std::size_t m = 0; m < 2; ++m)
    for (std::uint64_t k = 0; k < count; ++k) {
      double exact = 0;
      for (std::uint64_t c = 0; c < count; ++c) {
        const double value = static_cast<double>(static_cast<float>(x.data[m * count + c]));
        const bool negative = (std::popcount(k & c) & 1) != 0;
        const bool sign = (higgs::sign_bits(9, static_cast<std::int64_t>(c / 64 * 64)) >> c % 64 & 1u) != 0;
        exact += negative != sign ? -value : value;
      }
      exact /= 32;
      const double unit = std::ldexp(1.0, std::max(std::ilogb(exact), -14) - 10);
      worst =
          std::max(worst, std::abs(static_cast<double>(static_cast<float>(y[m * count + k])) - exact) / unit);
    }
  CHECK(worst <= 0.51);  // rounding to fp16, and 10 additions of floats
}

TEST_CASE("rotation reads and writes each sector once, without bank conflicts and in few instructions",
          "[rotate][hadamard][gpu]") {
  if (!emulator::in_use) return;
  const Normals<Half> x(64, 1024, 4);
  for (const std::int64_t block : {128, 512, 1024}) {
    emulator::clear_launches();
    rotate_on_device<Half, Half>(x, {1024, block, nullptr, nullptr, block, block}, 1, 1024);
    const emulator::Counters& c = emulator::launches().back().counters;
    const std::uint64_t rows = 64 * 1024 * 2 / 32;
    CHECK(c.sectors_read <= rows + 64 * 4 * 1024 / 256);  // and the signs: one sector for each warp's load
    CHECK(c.sectors_written <= rows + 10);                // and what it clears
    CHECK(c.shared_passes == c.shared_passes_ideal);
    CHECK(c.work() * 1000 <= 600 * 65536);  // signs included
  }
}
