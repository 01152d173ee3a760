// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/scale_format.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <limits>

using higgs::Half;
using higgs::Log8;

namespace {
double value(int code) {
  return static_cast<float>(static_cast<Half>(Log8::from_code(static_cast<std::uint8_t>(code))));
}
}  // namespace

TEST_CASE("8-bit scales are the powers of 2^(1/16), rounded to fp16", "[core][scale_format]") {
  CHECK(value(0) == 0);
  CHECK(value(255) == 32768);
  for (int code = 1; code < 256; ++code) {
    const double exact = std::exp2((code - 15) / 16.0);
    CHECK(value(code) == static_cast<float>(Half(static_cast<float>(exact))));
    CHECK(value(code) > value(code - 1));
  }
}

TEST_CASE("rounding to 8 bits finds the nearest scale", "[core][scale_format]") {
  for (int code = 0; code < 256; ++code) {
    CHECK(Log8(value(code)).code == code);
    if (code == 255) continue;
    const double middle = (value(code) + value(code + 1)) / 2;
    CHECK(Log8(middle).code == code);
    CHECK(Log8(std::nextafter(middle, 1e9)).code == code + 1);
  }
  CHECK(Log8(-1.0).code == 0);
  CHECK(Log8(1e300).code == 255);
  CHECK(Log8(std::numeric_limits<double>::infinity()).code == 255);
  CHECK(Log8(std::numeric_limits<double>::quiet_NaN()).code == 0);
}
