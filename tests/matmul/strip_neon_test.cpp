// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/strip_neon.hpp>

#include <catch2/catch.hpp>

#include "strips.hpp"

TEST_CASE("lookups of 16, 64 and 256 entries give the points of every table", "[matmul][strip_neon]") {
#if defined(HIGGS_NEON)
  namespace detail = higgs::detail;
  for_each_strip(64, [](const RandomStrip& strip, const auto& book) {
    INFO(book.name());
    REQUIRE(strip.decoded(detail::neon::decode_chunk) == strip.decoded(detail::portable::decode_chunk));
  });
#endif
}
