// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/rates.hpp>

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

using higgs::best_code_of_bits;
using higgs::best_codes;
using higgs::rate_of_code;
using higgs::RatedCode;

TEST_CASE("at its rate no shipped code errs less than the best one", "[codes][rates]") {
  for (const std::string& name : higgs::shipped_code_names()) {
    INFO(name);
    const RatedCode code = rate_of_code(name), best = rate_of_code(best_code_of_bits(code.bits));
    CHECK(best.bits == code.bits);
    CHECK(best.mse <= code.mse);
  }
}

TEST_CASE("each rate has one best code, and more bits err less", "[codes][rates]") {
  const std::vector<RatedCode> codes = best_codes();
  for (std::size_t i = 1; i < codes.size(); ++i) {
    CHECK(codes[i - 1].bits < codes[i].bits);
    CHECK(codes[i - 1].mse > codes[i].mse);
  }
  for (const std::string& name : higgs::shipped_code_names()) {
    const double bits = rate_of_code(name).bits;
    CHECK(std::count_if(codes.begin(), codes.end(), [&](const RatedCode& c) { return c.bits == bits; }) == 1);
  }
}

TEST_CASE("bits that no code has are refused with the rates that there are", "[codes][rates]") {
  for (const double bits :
       {0.0, -2.0, 2.0001, 3.9999, 7.0, 64.0, 1e300, std::numeric_limits<double>::infinity(),
        std::numeric_limits<double>::quiet_NaN()}) {
    std::string message;
    try {
      best_code_of_bits(bits);
    } catch (const higgs::InvalidArgument& error) {
      message = error.what();
    }
    INFO(bits);
    CHECK_THAT(message, Catch::Contains("no code has " + higgs::detail::sentence(bits) + " bits"));
    for (const RatedCode& code : best_codes())
      CHECK_THAT(message, Catch::Contains(" " + higgs::detail::sentence(code.bits)));
  }
  CHECK_THROWS_AS(rate_of_code("3x7"), higgs::InvalidArgument);
}
