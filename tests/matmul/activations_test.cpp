// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/random.hpp>
#include <higgs/matmul/activations.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

using higgs::Isa;

TEST_CASE("a rotated row in 8 bits is the rotated row within half a step", "[matmul][activations]") {
  for (const std::int64_t block : {4, 36, 96}) {
    std::vector<float> x(static_cast<std::size_t>(3 * block - 1)), scales(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = static_cast<float>(higgs::random_normal(9, i));
      scales[i] = 0.5f + static_cast<float>(i % 3);
    }
    std::vector<float> row(x.size() + 1), steps((row.size() + 63) / 64);
    higgs::rotate_row(std::span<const float>(x), scales, std::span<float>(row), block, 5, 64);
    for (const Isa isa : {Isa::Portable, higgs::best_isa()}) {
      std::vector<std::int8_t> out(row.size());
      higgs::rotate_to_int8(std::span<const float>(x), scales, std::span<std::int8_t>(out), steps, block, 5,
                            64, isa);
      for (std::size_t i = 0; i < row.size(); ++i)  // half a step, and three roundings of 127
        REQUIRE(std::fabs(row[i] - static_cast<float>(out[i]) * steps[i / 64]) <= 0.50003f * steps[i / 64]);
    }
  }
  std::vector<float> x(8), steps(1);
  std::vector<std::int8_t> out(8);
  const auto rotate = [&](std::size_t size, std::size_t count) {
    higgs::rotate_to_int8(std::span<const float>(x), {}, std::span(out).first(size),
                          std::span(steps).first(count), 2, 1);
  };
  rotate(8, 1);
  CHECK_THROWS_AS(rotate(6, 1), higgs::InvalidArgument);
  CHECK_THROWS_AS(rotate(8, 0), higgs::InvalidArgument);
  CHECK_THROWS_AS(rotate(4, 1), higgs::InvalidArgument);
}
