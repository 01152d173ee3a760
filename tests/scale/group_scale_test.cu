// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/random.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/scale/group_scale.cuh>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace gpu = higgs::gpu;

namespace {

// One warp: the first half takes group x, the second half the same group without its first input.
__global__ void fit_kernel(const float* x, const std::int16_t* q, int size, higgs::ScaleFormat format,
                           higgs::GroupFit* fits, double* norms) {
  const int half = static_cast<int>(threadIdx.x) / 16;
  const int count = half == 0 ? size : size - 1;
  const double norm = gpu::sum_of_squares_half_warp(x + half, count);
  fits[threadIdx.x] = gpu::fit_group_scale_half_warp(x + half, count, norm, format,
                                                     [&](std::int64_t i) { return q[half + i]; });
  norms[threadIdx.x] = norm;
}

}  // namespace

TEST_CASE("half a warp fits the scale of a group as the host does, bit for bit, in every lane",
          "[scale][group_scale][gpu]") {
  for (const std::size_t size : {1u, 2u, 15u, 16u, 17u, 100u, 1024u})
    for (const double magnitude : {1e-30, 1e-3, 1.0, 1e9})
      for (const auto format : {higgs::ScaleFormat::Fp16, higgs::ScaleFormat::Log8}) {
        std::vector<float> x(size);
        std::vector<std::int16_t> q(size);
        for (std::size_t i = 0; i < size; ++i) {
          x[i] = static_cast<float>(magnitude * higgs::random_normal(size, i));
          q[i] = static_cast<std::int16_t>(std::lrint(30 * higgs::random_normal(size, i)));
        }
        const gpu::DeviceBuffer<float> x_device{std::span<const float>(x)};
        const gpu::DeviceBuffer<std::int16_t> q_device{std::span<const std::int16_t>(q)};
        const gpu::DeviceBuffer<higgs::GroupFit> fits(32);
        const gpu::DeviceBuffer<double> norms(32);
        gpu::launch(fit_kernel, dim3(1), 32, 0, nullptr, x_device.data(), q_device.data(),
                    static_cast<int>(size), format, fits.data(), norms.data());
        const std::vector<higgs::GroupFit> found = fits.to_host();
        const std::vector<double> sums = norms.to_host();
        for (std::size_t lane = 0; lane < 32; ++lane) {
          const std::span<const float> mine = std::span<const float>(x).subspan(lane / 16);
          const double norm = higgs::sum_of_squares(mine);
          const higgs::GroupFit fit =
              higgs::fit_group_scale(mine, std::span<const std::int16_t>(q).subspan(lane / 16), norm, format);
          REQUIRE(sums[lane] == norm);
          REQUIRE(found[lane].scale == fit.scale);
          REQUIRE(found[lane].squared_error == fit.squared_error);
        }
      }
}
