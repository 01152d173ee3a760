// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/half.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/round/second_moment.cuh>
#include <higgs/round/second_moment.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "round/inputs.hpp"

namespace gpu = higgs::gpu;

namespace {

template <class T>
void check_equals_host(std::int64_t rows, std::int64_t cols, std::int64_t part, std::int64_t first) {
  INFO(rows << " x " << cols << ", parts of " << part);
  std::vector<T> x;
  for (const float value : inputs(rows, cols, 4)) x.push_back(static_cast<T>(value));
  const std::vector<float> x_host(x.begin(), x.end());
  const gpu::DeviceBuffer<T> x_device{std::span<const T>(x)};
  const gpu::Device device = gpu::current_device();
  higgs::SecondMoment host(cols, part);
  host.add({x_host.data(), rows, cols});

  gpu::DeviceSecondMoment moment(cols, part);
  moment.add_async(gpu::DenseView<const T>(x_device.data(), first, cols), device, nullptr);
  gpu::DeviceSecondMoment resumed(moment.to_host(nullptr));
  resumed.add_async(gpu::DenseView<const T>(x_device.data() + first * cols, rows - first, cols), device,
                    nullptr);
  const higgs::SecondMoment found = resumed.to_host(nullptr);
  CHECK(found.rows() == rows);
  CHECK(found.part() == host.part());
  CHECK(std::ranges::equal(found.sums(), host.sums()));
}

}  // namespace

TEST_CASE("second moments on the device are the host's, whole or in parts, over any calls",
          "[round][second_moment][gpu]") {
  check_equals_host<float>(1, 1, 0, 0);
  check_equals_host<float>(37, 130, 0, 12);
  check_equals_host<float>(20, 200, 64, 20);
  check_equals_host<higgs::Half>(21, 96, 0, 3);
  check_equals_host<higgs::BFloat16>(21, 96, 32, 3);
}

TEST_CASE("inputs on the device that are no numbers or too many are refused", "[round][second_moment][gpu]") {
  CHECK_THROWS_WITH(gpu::DeviceSecondMoment(0), Catch::Contains("0 inputs in parts of 0"));
  CHECK_THROWS_WITH(gpu::DeviceSecondMoment(3, -1), Catch::Contains("3 inputs in parts of -1"));
  const gpu::Device device = gpu::current_device();
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 3e19f}) {
    std::vector<float> x(10, 1.0f);
    x[7] = bad;
    const gpu::DeviceBuffer<float> x_device{std::span<const float>(x)};
    gpu::DeviceSecondMoment moment(5);
    moment.add_async(gpu::DenseView<const float>(x_device.data(), 2, 5), device, nullptr);
    CHECK_THROWS_WITH(moment.to_host(nullptr), Catch::Contains("input 2 is"));
    CHECK_THROWS_WITH(moment.add_async(gpu::DenseView<const float>(x_device.data(), 1, 6), device, nullptr),
                      Catch::Contains("x is (1, 6), but there are 5 inputs"));
  }
}
