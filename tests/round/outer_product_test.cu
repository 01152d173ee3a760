// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/half.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/round/outer_product.cuh>
#include <higgs/round/outer_product.hpp>

#include <catch2/catch.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "emulator/emulator.hpp"
#include "emulator/schedules.hpp"
#include "round/inputs.hpp"

namespace gpu = higgs::gpu;
using higgs::MatrixView;

namespace {

std::vector<std::uint32_t> bits_of(const std::vector<float>& x) {
  std::vector<std::uint32_t> bits;
  for (const float value : x) bits.push_back(std::bit_cast<std::uint32_t>(value));
  return bits;
}

// Whether the device makes the host's bits. Matrices have `gap` numbers between their rows, and the t come in two calls.
template <class T>
bool equals_host(std::int64_t k, std::int64_t m, std::int64_t n, std::int64_t first, std::int64_t gap,
                 bool upper, const gpu::Device& device) {
  const auto numbers = [](std::int64_t count, std::uint64_t seed) {
    std::vector<T> out;
    for (const float value : normals(count, seed)) out.push_back(static_cast<T>(value));
    return out;
  };
  const std::int64_t step_a = m + gap, step_b = n + gap;
  std::vector<T> a = numbers(k * step_a, 1);
  const std::vector<T> b = numbers(k * step_b, 2);
  std::vector<float> c = normals(m * step_b, 3);
  // All terms of output (0, 0) are -0: a term of +0 too many would leave +0.
  c[0] = -0.0f;
  for (std::int64_t t = 0; t < k; ++t) {
    const bool positive = static_cast<float>(b[static_cast<std::size_t>(t * step_b)]) > 0;
    a[static_cast<std::size_t>(t * step_a)] = static_cast<T>(positive ? -0.0f : 0.0f);
  }
  const gpu::DeviceBuffer<T> a_device{std::span<const T>(a)}, b_device{std::span<const T>(b)};
  const gpu::DeviceBuffer<float> c_device{std::span<const float>(c)};
  const std::vector<float> a_host(a.begin(), a.end()), b_host(b.begin(), b.end());
  higgs::SerialExecutor serial;
  const MatrixView<const float> left(a_host.data(), k, m, step_a, 1), right(b_host.data(), k, n, step_b, 1);
  const MatrixView<float> sums(c.data(), m, n, step_b, 1);
  upper ? higgs::add_upper_outer_products(left, right, sums, serial)
        : higgs::add_outer_products(left, right, sums);
  for (const auto& [begin, rows] : {std::pair{std::int64_t{0}, first}, std::pair{first, k - first}}) {
    const gpu::DenseView<const T> x(a_device.data() + begin * step_a, rows, m, step_a);
    const gpu::DenseView<const T> y(b_device.data() + begin * step_b, rows, n, step_b);
    const gpu::DenseView<float> z(c_device.data(), m, n, step_b);
    upper ? gpu::add_upper_outer_products_async(x, y, z, device, nullptr)
          : gpu::add_outer_products_async(x, y, z, device, nullptr);
  }
  return bits_of(c_device.to_host()) == bits_of(c);
}

}  // namespace

TEST_CASE("outer products on the device have the host's bits for any shape, stride, type and split",
          "[round][outer_product][gpu]") {
  const gpu::Device device = gpu::current_device();
  struct Shape {
    std::int64_t k, m, n, first, gap;
  };
  for (const auto& [k, m, n, first, gap] : {Shape{0, 3, 5, 0, 0},
                                            {1, 1, 1, 0, 0},
                                            {8, 64, 64, 8, 0},
                                            {9, 65, 1, 1, 3},
                                            {17, 33, 130, 5, 1},
                                            {30, 129, 70, 16, 0}}) {
    INFO("k " << k << ", m " << m << ", n " << n);
    CHECK(equals_host<float>(k, m, n, first, gap, false, device));
    CHECK(equals_host<higgs::Half>(k, m, n, first, gap, false, device));
    CHECK(equals_host<higgs::BFloat16>(k, m, n, first, gap, false, device));
    CHECK(equals_host<float>(k, m, m, first, gap, true, device));
  }
  gpu::Device small = device;  // whose multiprocessors large tiles keep at work
  small.multiprocessors = 1;
  CHECK(equals_host<float>(19, 130, 257, 11, 2, false, small));
  CHECK(equals_host<float>(19, 257, 257, 8, 0, true, small));
  CHECK(equals_host<higgs::Half>(5, 128, 128, 0, 0, true, small));
}

TEST_CASE("no schedule of outer products has a race or changes a bit", "[round][outer_product][gpu]") {
  gpu::Device device = gpu::current_device();
  for (const int multiprocessors : {1, 1000}) {
    device.multiprocessors = multiprocessors;
    emulator::for_each_schedule(
        10, [&](std::uint32_t) { REQUIRE(equals_host<float>(26, 70, 130, 9, 0, false, device)); });
  }
}

TEST_CASE("tiles of outer products read shared memory without conflicts", "[round][outer_product][gpu]") {
  if (!emulator::in_use) return;
  gpu::Device device = gpu::current_device();
  const gpu::DeviceBuffer<float> x{std::span<const float>(normals(16 * 256, 1))};
  const gpu::DeviceBuffer<float> c = gpu::DeviceBuffer<float>::zeros(256 * 256);
  for (const int multiprocessors : {1, 1000}) {
    device.multiprocessors = multiprocessors;
    emulator::clear_launches();
    const gpu::DenseView<const float> rows(x.data(), 16, 256);
    gpu::add_outer_products_async(rows, rows, gpu::DenseView<float>(c.data(), 256, 256), device, nullptr);
    gpu::check(cudaDeviceSynchronize(), "outer products");
    const auto& launch = emulator::launches().back();
    CHECK(launch.counters.shared_passes == launch.counters.shared_passes_ideal);
  }
}

TEST_CASE("outer products of matrices that do not fit are refused with the numbers",
          "[round][outer_product][gpu]") {
  const gpu::Device device = gpu::current_device();
  const gpu::DeviceBuffer<float> space = gpu::DeviceBuffer<float>::zeros(64);
  const gpu::DenseView<const float> a(space.data(), 3, 4), b(space.data(), 3, 5), other(space.data(), 2, 5);
  const gpu::DenseView<float> c(space.data() + 20, 4, 5), overlapping(space.data() + 8, 4, 5);
  CHECK_NOTHROW(gpu::add_outer_products_async(a, b, c, device, nullptr));
  CHECK_THROWS_WITH(gpu::add_outer_products_async(a, other, c, device, nullptr),
                    Catch::Contains("a is (3, 4), b is (2, 5) and c is (4, 5)"));
  CHECK_THROWS_WITH(gpu::add_upper_outer_products_async(a, b, c, device, nullptr),
                    Catch::Contains("c is (4, 5), which has no upper triangle"));
  CHECK_THROWS_WITH(gpu::add_outer_products_async(a, b, overlapping, device, nullptr),
                    Catch::Contains("c and a must not share memory"));
}
