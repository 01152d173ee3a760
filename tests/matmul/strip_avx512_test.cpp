// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/strip_avx512.hpp>

#include <catch2/catch.hpp>

#include "strips.hpp"

TEST_CASE("byte permutes give the points of every table", "[matmul][strip_avx512]") {
#if defined(HIGGS_TARGET_BEGIN)
  namespace detail = higgs::detail;
  if (higgs::best_isa() < higgs::Isa::Avx512) return;
  for_each_strip(64, [](const RandomStrip& strip, const auto& book) {
    INFO(book.name());
    REQUIRE(strip.decoded([](const auto& product, auto... arguments) {
      return detail::avx512::decode_chunk(product, arguments...);
    }) == strip.decoded(detail::portable::decode_chunk));
  });
#endif
}
