// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <bit>
#include <cmath>
#include <cstdint>

TEST_CASE("random bits are pinned: files depend on them", "[core][random]") {
  CHECK(higgs::random_bits(0, 0) == 0xa706dd2f4d197e6fu);
  CHECK(higgs::random_bits(0, 1) == 0xb382a305f4414f5eu);
  CHECK(higgs::random_bits(1, 0) == 0x5e41ab087439611eu);
  CHECK(higgs::random_bits(0x6869676773, 123456789) == 0x0eeecbd0e91e12cbu);
}

TEST_CASE("every bit is fair, and neighbouring seeds and counters are unrelated", "[core][random]") {
  constexpr int count = 20000;
  int ones[64] = {}, seeds_differ = 0, counters_differ = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t bits = higgs::random_bits(7, i);
    for (int b = 0; b < 64; ++b) ones[b] += static_cast<int>(bits >> b & 1);
    seeds_differ += std::popcount(bits ^ higgs::random_bits(8, i));
    counters_differ += std::popcount(bits ^ higgs::random_bits(7, i + 1));
  }
  const double sigma = std::sqrt(count) / 2;  // of a fair coin
  for (const int each : ones) CHECK(std::fabs(each - count / 2) < 5 * sigma);
  CHECK(std::fabs(seeds_differ - count * 32) < 5 * sigma * 8);
  CHECK(std::fabs(counters_differ - count * 32) < 5 * sigma * 8);
}

TEST_CASE("uniform numbers stay inside (0, 1) and normal ones have the moments of N(0, 1)",
          "[core][random]") {
  constexpr int count = 200000;
  double sum = 0, square = 0, fourth = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const double u = higgs::random_uniform(3, i);
    REQUIRE((u > 0 && u < 1));
    const double z = higgs::random_normal(3, i);
    sum += z;
    square += z * z;
    fourth += z * z * z * z;
  }
  // Five standard errors: variances 1, 2 and 96.
  CHECK(std::fabs(sum / count) < 5 * std::sqrt(1.0 / count));
  CHECK(std::fabs(square / count - 1) < 5 * std::sqrt(2.0 / count));
  CHECK(std::fabs(fourth / count - 3) < 5 * std::sqrt(96.0 / count));
}
