// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/strip_avx2.hpp>

#include <catch2/catch.hpp>

#include "strips.hpp"

TEST_CASE("slices of 16 entries give the points of every table", "[matmul][strip_avx2]") {
#if defined(HIGGS_TARGET_BEGIN)
  namespace detail = higgs::detail;
  if (higgs::best_isa() < higgs::Isa::Avx2) return;
  for_each_strip(64, [](const RandomStrip& strip, const auto& book) {
    INFO(book.name());
    const detail::avx2::Slices slices(strip.tables);
    REQUIRE(strip.decoded([&](const auto& product, auto... arguments) {
      return detail::avx2::decode_chunk(product, slices, arguments...);
    }) == strip.decoded(detail::portable::decode_chunk));
  });
#endif
}
