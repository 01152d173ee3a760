// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/half.hpp>

#include <catch2/catch.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

using higgs::BFloat16;
using higgs::Half;

namespace {
// The definition: sign, exponent and fraction taken apart.
double value_of(Half h) {
  const int exponent = (h.bits >> 10) & 31, fraction = h.bits & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return (h.bits & 0x8000) ? -magnitude : magnitude;
}
bool is_finite(Half h) { return (h.bits & 0x7c00) != 0x7c00; }
}  // namespace

TEST_CASE("every finite fp16 value widens exactly and comes back", "[core][half]") {
  for (int bits = 0; bits < 65536; ++bits) {
    const Half h = Half::from_bits(static_cast<std::uint16_t>(bits));
    const float wide = static_cast<float>(h);
    if (is_finite(h)) {
      REQUIRE(static_cast<double>(wide) == value_of(h));
      REQUIRE(std::signbit(wide) == ((bits & 0x8000) != 0));
      REQUIRE(Half(wide) == h);
    } else if ((bits & 1023) == 0) {
      REQUIRE(std::isinf(wide));
      REQUIRE(Half(wide) == h);
    } else {
      REQUIRE(std::isnan(wide));
      REQUIRE(std::isnan(static_cast<float>(Half(wide))));
    }
  }
}

TEST_CASE("floats between two fp16 values round to the nearer one, ties to the even one", "[core][half]") {
  for (int bits = 0; bits < 0x7bff; ++bits) {
    const Half low = Half::from_bits(static_cast<std::uint16_t>(bits));
    const Half high = Half::from_bits(static_cast<std::uint16_t>(bits + 1));
    const float middle = static_cast<float>((value_of(low) + value_of(high)) / 2);  // exact: one more bit
    REQUIRE(Half(middle) == (bits % 2 == 0 ? low : high));
    REQUIRE(Half(std::nextafter(middle, 0.0f)) == low);
    REQUIRE(Half(std::nextafter(middle, 1e9f)) == high);
    REQUIRE(Half(-middle).bits == ((bits % 2 == 0 ? low.bits : high.bits) | 0x8000));
  }
  CHECK(Half(65519.996f).bits == 0x7bff);
  CHECK(Half(65520.0f).bits == 0x7c00);
  CHECK(Half(1e30f).bits == 0x7c00);
}

TEST_CASE("bfloat16 is the upper half of a float, rounded to nearest even", "[core][half]") {
  for (std::uint32_t high = 0; high < 0x7f80; ++high) {
    const auto expect = [&](std::uint32_t low, std::uint32_t bits) {
      REQUIRE(BFloat16(std::bit_cast<float>(high << 16 | low)).bits == bits);
    };
    expect(0, high);
    expect(0x7fff, high);
    expect(0x8000, high + (high & 1));
    expect(0x8001, high + 1);
    REQUIRE(BFloat16(static_cast<float>(BFloat16::from_bits(static_cast<std::uint16_t>(high)))).bits == high);
  }
  CHECK(std::isnan(static_cast<float>(BFloat16(std::numeric_limits<float>::quiet_NaN()))));
  CHECK(std::isinf(static_cast<float>(BFloat16(-std::numeric_limits<float>::infinity()))));
}

TEST_CASE("conversions are usable at compile time", "[core][half]") {
  static_assert(Half(1.0f).bits == 0x3c00 && static_cast<float>(Half::from_bits(0xc000)) == -2.0f);
  static_assert(BFloat16(1.0f).bits == 0x3f80);
  CHECK(static_cast<float>(Half()) == 0.0f);
}
