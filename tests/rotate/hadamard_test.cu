// SPDX-License-Identifier: Apache-2.0
#include <higgs/rotate/hadamard.cuh>

#include <catch2/catch.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <utility>
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
                                  std::int64_t stride, int shared_bytes = 0) {
  gpu::Device device = gpu::current_device();
  if (shared_bytes != 0) device.shared_bytes = shared_bytes;
  const std::vector<std::uint32_t> signs = gpu::sign_words(seed, r.cols);
  const gpu::DeviceBuffer<std::uint32_t> signs_device{std::span<const std::uint32_t>(signs)};
  r.signs = signs_device.data();
  const gpu::DeviceBuffer<In> in{std::span<const In>(x.data)};
  const gpu::DeviceBuffer<Out> out{
      std::span<const Out>(std::vector<Out>(static_cast<std::size_t>(x.view.rows * stride)))};
  const gpu::DeviceBuffer<float> scratch(
      static_cast<std::size_t>(gpu::rotate_scratch(r, x.view.rows, device)));
  gpu::rotate_async(r, gpu::DenseView<const In>(in.data(), x.view.rows, x.view.cols),
                    gpu::DenseView<Out>(out.data(), x.view.rows, stride), device, nullptr, scratch.data());
  gpu::check(cudaDeviceSynchronize(), "rotate_on_device");
  return out.to_host();
}

template <class In, class Out>
void check_equals_host(std::int64_t rows, std::int64_t cols, std::int64_t block, std::int64_t group,
                       bool input_scales = false, int shared_bytes = 0) {
  INFO("cols " << cols << ", block " << block << ", group " << group);
  const Normals<In> x(rows, cols, 4);
  const std::int64_t padded = gpu::ceil_div(cols, block) * block, padded_group = group + 3 * (group != block);
  std::vector<float> factors;
  for (std::int64_t c = 0; input_scales && c < cols; ++c)
    factors.push_back(0.25f + static_cast<float>(c % 7));
  const gpu::DeviceBuffer<float> factors_device{std::span<const float>(factors)};
  gpu::Rotation r{cols, block, nullptr, factors_device.data(), group, padded_group};
  const std::int64_t stride = padded / group * padded_group;
  const std::vector<Out> y = rotate_on_device<In, Out>(x, r, 99, stride, shared_bytes);
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

TEST_CASE("orders beyond shared memory have the host's bits", "[rotate][hadamard][gpu]") {
  for (const std::int64_t order : {2048, 1536, 960, 1088, 32768})
    check_equals_host<Half, float>(2, 2 * order, order, order, true, 2048);
}

TEST_CASE("the inverse on the device has the host's bits", "[rotate][hadamard][gpu]") {
  for (const auto& [cols, block] :
       {std::pair{64, 64}, {2048, 1024}, {1536, 768}, {1900, 960}, {72, 36}, {100, 136}}) {
    const std::int64_t padded = gpu::ceil_div(cols, block) * block;
    const Normals<float> x(2, padded, 8);
    std::vector<float> factors;
    for (int c = 0; c < cols; ++c) factors.push_back(0.25f + static_cast<float>(c % 7));
    const gpu::DeviceBuffer<float> factors_device{std::span<const float>(factors)};
    gpu::Rotation r{cols, block, nullptr, factors_device.data(), padded, padded};
    r.inverse = true;
    const std::vector<float> y = rotate_on_device<float, float>(x, r, 99, cols);
    for (std::int64_t m = 0; m < 2; ++m) {
      std::vector<float> row(x.data.begin() + m * padded, x.data.begin() + (m + 1) * padded);
      higgs::unrotate_row(row, block, 99);
      for (std::size_t c = 0; c < factors.size(); ++c) row[c] *= factors[c];
      CHECK(std::equal(y.begin() + m * cols, y.begin() + (m + 1) * cols, row.begin()));
    }
  }
}

TEST_CASE("rows are rotated in place, and into memory that x does not share", "[rotate][hadamard][gpu]") {
  for (const std::int64_t block : {1024, 48}) {
    const gpu::Rotation r{block, block, nullptr, nullptr, block, block};
    const Normals<Half> x(3, block, 4);
    const gpu::DeviceBuffer<Half> in{std::span<const Half>(x.data)}, out(x.data.size() + 1);
    const auto rotate = [&](auto* y, const gpu::Rotation& how, std::int64_t stride) {
      gpu::rotate_async(how, gpu::DenseView<const Half>(in.data(), 3, block),
                        gpu::DenseView(y, 3, block, stride), gpu::current_device(), nullptr);
    };
    rotate(out.data(), r, block);
    CHECK_THROWS_WITH(rotate(in.data() + 1, r, block),
                      Catch::Contains("rotate_async: x and y must not share memory"));
    CHECK_THROWS_AS(rotate(in.data(), r, block + 1), higgs::InvalidArgument);
    CHECK_THROWS_AS(rotate(reinterpret_cast<float*>(in.data()), r, block), higgs::InvalidArgument);
    gpu::Rotation with_gaps = r;
    with_gaps.group = block / 2;
    CHECK_THROWS_AS(rotate(in.data(), with_gaps, block), higgs::InvalidArgument);
    auto* odd = reinterpret_cast<Half*>(reinterpret_cast<char*>(out.data()) + 1);
    CHECK_THROWS_WITH(rotate(odd, r, block), Catch::Contains("y begins 1 bytes after a multiple of 2"));
    auto expected = out.to_host();
    expected.pop_back();
    rotate(in.data(), r, block);
    const auto got = in.to_host();
    CHECK(std::memcmp(got.data(), expected.data(), got.size() * sizeof(Half)) == 0);
  }
}

TEST_CASE("no schedule of the rotation has a race or changes a bit", "[rotate][hadamard][gpu]") {
  emulator::for_each_schedule(20, [](std::uint32_t) {
    check_equals_host<Half, Half>(1, 2048, 2048, 2048);
    check_equals_host<Half, Half>(3, 80, 80, 80);
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
          "[rotate][hadamard][counts][gpu]") {
  if (!emulator::in_use) return;
  struct Order {
    std::int64_t block;
    std::uint64_t most;  // warp instructions for 1000 elements
  };
  std::printf(
      "| order | instructions | passes | conflict-free passes | sectors / least |\n|--:|--:|--:|--:|--:|\n");
  for (const Order order : {Order{128, 500},
                            {512, 560},
                            {1024, 570},
                            {2048, 850},
                            {4096, 875},
                            {8192, 980},
                            {16384, 1000},
                            {32768, 930},
                            {576, 1400},
                            {640, 1250},
                            {768, 1050},
                            {896, 1150},
                            {960, 1350},
                            {1536, 1150},
                            {3072, 1050},
                            {14336, 1100}}) {
    const std::int64_t cols = std::max<std::int64_t>(order.block, 1024 / order.block * order.block);
    const std::int64_t rows = std::max<std::int64_t>(1, 65536 / cols);
    const Normals<Half> x(rows, cols, 4);
    emulator::clear_launches();
    rotate_on_device<Half, Half>(x, {cols, order.block, nullptr, nullptr, order.block, order.block}, 1, cols);
    const emulator::Counters& c = emulator::launches().back().counters;
    const auto elements = static_cast<std::uint64_t>(rows * cols), least = elements * 2 / 32;
    const auto each = [&](std::uint64_t events) {
      return static_cast<double>(events) * 1000 / static_cast<double>(elements);
    };
    std::printf("| %lld | %.0f | %.1f | %.1f | %.3f |\n", static_cast<long long>(order.block), each(c.work()),
                each(c.shared_passes), each(c.shared_passes_ideal),
                static_cast<double>(c.sectors_read + c.sectors_written) / static_cast<double>(2 * least));
    INFO("order " << order.block);
    CHECK(c.sectors_read <=
          least + elements / 128);  // and the signs: one or two sectors for each warp's load
    CHECK(c.sectors_written == least);
    CHECK(c.shared_passes == c.shared_passes_ideal);
    CHECK(each(c.work()) <= static_cast<double>(order.most));
    CHECK(c[emulator::Class::LocalMemory] == 0);
  }
}
