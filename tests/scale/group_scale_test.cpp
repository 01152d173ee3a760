// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/random.hpp>
#include <higgs/scale/group_scale.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace {
struct Case {
  std::vector<float> x;
  std::vector<std::int8_t> q;
};
Case random_case(std::size_t size, std::uint64_t seed, double noise) {
  Case c;
  for (std::size_t i = 0; i < size; ++i) {
    const double value = higgs::random_normal(seed, i) * 40;
    c.q.push_back(static_cast<std::int8_t>(std::clamp(std::round(value), -127.0, 127.0)));
    c.x.push_back(static_cast<float>(0.03 * (value + noise * higgs::random_normal(seed + 1, i))));
  }
  return c;
}
double error_at(const Case& c, higgs::Half scale) {
  double sum = 0;
  for (std::size_t i = 0; i < c.x.size(); ++i) {
    const double d = double{c.x[i]} - static_cast<double>(static_cast<float>(scale)) * c.q[i];
    sum += d * d;
  }
  return sum;
}
}  // namespace

TEST_CASE("the refit scale beats every other fp16 scale", "[scale][group_scale]") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const Case c = random_case(64 + seed, seed, 5);
    const auto fit = higgs::fit_group_scale(std::span<const float>(c.x), std::span<const std::int8_t>(c.q),
                                            higgs::sum_of_squares(c.x));
    const double best = error_at(c, fit.scale);
    CHECK(fit.squared_error == Approx(best).epsilon(1e-9));
    for (int bits = 0; bits < 0x7c00; ++bits)
      REQUIRE(best <= error_at(c, higgs::Half::from_bits(static_cast<std::uint16_t>(bits))) * (1 + 1e-12));
  }
}

TEST_CASE("the refit scale of 8 bits beats every other one", "[scale][group_scale]") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const Case c = random_case(64 + seed, seed, 5);
    const auto fit = higgs::fit_group_scale(std::span<const float>(c.x), std::span<const std::int8_t>(c.q),
                                            higgs::sum_of_squares(c.x), higgs::ScaleFormat::Log8);
    const double best = error_at(c, fit.scale);
    CHECK(fit.squared_error == Approx(best).epsilon(1e-9));
    for (int code = 0; code < 256; ++code) {
      const auto other = static_cast<higgs::Half>(higgs::Log8::from_code(static_cast<std::uint8_t>(code)));
      REQUIRE(best <= error_at(c, other) * (1 + 1e-12));
    }
  }
}

TEST_CASE("sums do not depend on how the compiler fuses them", "[scale][group_scale]") {
  // Products of floats are exact in double, so a fused and an unfused sum agree bit for bit.
  for (const std::size_t size : {1u, 15u, 16u, 17u, 33u, 1024u}) {
    const Case c = random_case(size, size, 1);
    double lanes[16] = {};
    for (std::size_t i = 0; i < size; ++i)
      lanes[i % 16] = std::fma(double{c.x[i]}, double{c.x[i]}, lanes[i % 16]);
    for (int half = 8; half > 0; half /= 2)
      for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    CHECK(higgs::sum_of_squares(c.x) == lanes[0]);
  }
}

TEST_CASE("dot products are the same bits on every instruction set", "[scale][group_scale]") {
  for (std::size_t size = 0; size <= 70; ++size) {
    const Case c = random_case(size, size, 1);
    const std::vector<std::int16_t> wide(c.q.begin(), c.q.end());
    const auto same = [&](const auto& a, const auto& b) {
      const double portable = higgs::exact_dot(std::span(a), std::span(b), higgs::Isa::Portable);
      return portable == higgs::exact_dot(std::span(a), std::span(b));
    };
    REQUIRE(same(c.x, c.x));
    REQUIRE(same(c.x, c.q));
    REQUIRE(same(c.x, wide));
    REQUIRE(same(c.q, c.q));
    REQUIRE(same(wide, wide));
  }
}

TEST_CASE("groups without a direction get scale zero, huge ones the largest finite scale",
          "[scale][group_scale]") {
  const std::vector<float> zero(8, 0.0f), large(8, 3e38f);
  const std::vector<std::int8_t> ones(8, 1), against(8, -1), none(8, 0);
  const auto fit = [](const std::vector<float>& x, const std::vector<std::int8_t>& q) {
    return higgs::fit_group_scale(std::span<const float>(x), std::span<const std::int8_t>(q),
                                  higgs::sum_of_squares(x));
  };
  CHECK(fit(zero, ones).scale == higgs::Half(0.0f));
  CHECK(fit(zero, ones).squared_error == 0);
  CHECK(fit(large, none).scale == higgs::Half(0.0f));
  CHECK(fit(large, against).scale == higgs::Half(0.0f));
  CHECK(fit(large, ones).scale == higgs::Half(65504.0f));
  CHECK(std::isfinite(fit(large, ones).squared_error));
}
