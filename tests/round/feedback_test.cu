// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/half.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/round/feedback.cuh>
#include <higgs/round/feedback.hpp>
#include <higgs/round/second_moment.cuh>
#include <higgs/round/second_moment.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "emulator/schedules.hpp"
#include "round/inputs.hpp"

namespace gpu = higgs::gpu;

namespace {

// Whether U and d on the device are the host's.
void check_same(const gpu::DeviceFeedback& found, const higgs::Feedback& expected) {
  REQUIRE(found.empty() == expected.empty());
  CHECK(found.damping() == expected.damping());
  CHECK(found.mean_cost() == expected.mean_cost());
  REQUIRE(found.cols() == expected.cols());
  REQUIRE(found.parts() == expected.parts());
  const auto to_host = [](const float* from, std::int64_t count) {
    std::vector<float> out(static_cast<std::size_t>(count));
    gpu::check(cudaMemcpy(out.data(), from, out.size() * sizeof(float), cudaMemcpyDeviceToHost), "copy");
    return out;
  };
  CHECK(std::ranges::equal(to_host(found.d(), found.cols()), expected.d()));
  for (std::int64_t i = 0; !found.empty() && i < found.parts(); ++i) {
    const higgs::MatrixView<const float> u = expected.rows(i);
    REQUIRE(found.rows(i).rows == u.rows);
    CHECK(std::ranges::equal(to_host(found.rows(i).data, u.size()),
                             std::span(u.data, static_cast<std::size_t>(u.size()))));
  }
}

}  // namespace

TEST_CASE("factors are copied to the device, whole, in parts, and where there are none",
          "[round][feedback][gpu]") {
  const std::vector<float> x = inputs(30, 80, 3);
  for (const std::int64_t part : {0, 32}) {
    higgs::SecondMoment moment(80, part);
    const higgs::CodeLayout layout{.rows = 1, .cols = 80, .block = 16};
    const auto check = [&] {
      const higgs::Feedback feedback(moment, layout, 7);
      check_same(gpu::DeviceFeedback(feedback), feedback);
    };
    check();
    moment.add({x.data(), 30, 80});
    check();
  }
}

TEST_CASE("factors made on the device are the host's, bit for bit", "[round][feedback][gpu]") {
  struct Case {
    std::int64_t rows, cols, block, part;
    bool scales, seed;
  };
  const gpu::Device device = gpu::current_device();
  for (const Case& c : {Case{3, 1, 1, 0, false, true},
                        {50, 64, 64, 0, false, false},
                        {90, 100, 32, 0, true, true},
                        {40, 300, 20, 0, true, true},
                        {60, 200, 64, 128, true, true},
                        {30, 90, 12, 24, false, true}}) {
    INFO("cols " << c.cols << ", block " << c.block << ", part " << c.part);
    const std::vector<float> x = inputs(c.rows, c.cols, 5);
    std::vector<higgs::Half> scales;
    for (std::int64_t i = 0; c.scales && i < c.cols; ++i)
      scales.emplace_back(i == 9 ? 0.0f : 0.5f + 0.01f * static_cast<float>(i));
    const higgs::CodeLayout layout{.rows = 1, .cols = c.cols, .block = c.block, .input_scales = c.scales};
    const auto seed = c.seed ? std::optional<std::uint64_t>(77) : std::nullopt;
    higgs::SecondMoment moment(c.cols, c.part);
    moment.add({x.data(), c.rows, c.cols});
    const gpu::DeviceSecondMoment on_device(moment);
    for (const double damping :
         {0.01, 0.0})  // without damping the factors of fewer rows than columns fail at first
      check_same(gpu::DeviceFeedback::from(on_device, layout, seed, scales, damping, device, nullptr),
                 higgs::Feedback(moment, layout, seed, scales, damping));
    std::fill(scales.begin(), scales.end(), higgs::Half());
    if (c.scales)
      check_same(gpu::DeviceFeedback::from(on_device, layout, seed, scales, 0.01, device, nullptr),
                 higgs::Feedback(moment, layout, seed, scales, 0.01));
  }
}

TEST_CASE("no schedule of factors on the device has a race or changes a bit", "[round][feedback][gpu]") {
  const gpu::Device device = gpu::current_device();
  const std::vector<float> x = inputs(80, 160, 5);
  higgs::SecondMoment moment(160);
  moment.add({x.data(), 80, 160});
  const higgs::CodeLayout layout{.rows = 1, .cols = 160, .block = 32};
  const higgs::Feedback expected(moment, layout, 3);
  emulator::for_each_schedule(3, [&](std::uint32_t) {
    check_same(
        gpu::DeviceFeedback::from(gpu::DeviceSecondMoment(moment), layout, 3, {}, 0.01, device, nullptr),
        expected);
  });
}

TEST_CASE("second moments on the device that cannot be factored or do not fit are refused",
          "[round][feedback][gpu]") {
  const gpu::Device device = gpu::current_device();
  higgs::SecondMoment large(64);
  const std::vector<float> x(64, 1.5e19f);
  large.add({x.data(), 1, 64});
  const gpu::DeviceSecondMoment moment(large);
  const auto make = [&](std::int64_t cols) {
    return gpu::DeviceFeedback::from(moment, {.rows = 1, .cols = cols, .block = 64}, 1, {}, 0.01, device,
                                     nullptr);
  };
  CHECK_THROWS_WITH(make(64), Catch::Contains("64 inputs cannot be factored"));
  CHECK_THROWS_WITH(make(63), Catch::Contains("has 64 inputs, but the layout has 63"));
  const gpu::DeviceBuffer<float> h = gpu::DeviceBuffer<float>::zeros(6);
  CHECK_THROWS_WITH(gpu::factor_async(gpu::DenseView<float>(h.data(), 2, 3), h.data(), 0, h.data(), nullptr,
                                      device, nullptr),
                    Catch::Contains("h is (2, 3), but must be square"));
}
