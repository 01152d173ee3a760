// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/half.hpp>
#include <higgs/gpu/matrix.cuh>
#include <higgs/round/feedback.cuh>
#include <higgs/round/feedback.hpp>
#include <higgs/round/second_moment.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

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
