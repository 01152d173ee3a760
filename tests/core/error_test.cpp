// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <stdexcept>
#include <string>

TEST_CASE("expects throws InvalidArgument with its own words, and only when the rule is broken",
          "[core][error]") {
  CHECK_NOTHROW(higgs::expects(true, "never said"));
  CHECK_THROWS_AS(higgs::expects(false, "x must be even"), higgs::InvalidArgument);
  CHECK_THROWS_WITH(higgs::expects(false, "x must be even"), "x must be even");
}

TEST_CASE("a message with numbers is made only when the rule is broken", "[core][error]") {
  int made = 0;
  const auto what = [&] {
    ++made;
    return higgs::detail::sentence("x is (", 8, ", ", std::int64_t{512}, "), not ", std::string("y"));
  };
  higgs::expects(true, what);
  CHECK(made == 0);
  CHECK_THROWS_WITH(higgs::expects(false, what), "x is (8, 512), not y");
  CHECK(made == 1);
}

TEST_CASE("errors can be caught as the standard's", "[core][error]") {
  CHECK_THROWS_AS(higgs::expects(false, ""), std::invalid_argument);
  CHECK_THROWS_AS(higgs::detail::throw_format("bad magic at byte 0"), std::runtime_error);
  CHECK_THROWS_AS(throw higgs::IoError("disk full"), std::runtime_error);
}
