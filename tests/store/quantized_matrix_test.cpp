// SPDX-License-Identifier: Apache-2.0
#include <higgs/store/quantized_matrix.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <vector>

TEST_CASE("a layout pads columns to blocks, groups to vectors and rows to bytes",
          "[store][quantized_matrix]") {
  constexpr higgs::CodeLayout layout{10, 577, 64, 32};
  STATIC_REQUIRE(layout.padded_cols() == 640);
  STATIC_REQUIRE(layout.groups() == 20);
  STATIC_REQUIRE(layout.codes_per_group(2) == 16);
  STATIC_REQUIRE(layout.codes_per_group(3) == 11);
  STATIC_REQUIRE(layout.codes_per_row(3) == 220);
  STATIC_REQUIRE(layout.row_bytes(2, 6) == 240);
  STATIC_REQUIRE(layout.row_bytes(3, 9) == 248);  // 1980 bits
  STATIC_REQUIRE(higgs::CodeLayout{1, 1, 1, 1}.row_bytes(2, 8) == 1);
}

TEST_CASE("rows of codes and scales lie one after the other", "[store][quantized_matrix]") {
  std::vector<std::uint8_t> codes(3 * 32);
  std::vector<higgs::Half> scales(3 * 2);
  higgs::QuantizedMatrix<higgs::GridCodebook<2, 256>> w;
  w.layout = {3, 64, 64, 32};
  w.codes = codes;
  w.scales = scales;
  CHECK(w.row_codes(2).data() == codes.data() + 64);
  CHECK(w.row_codes(2).size() == 32);
  CHECK(w.row_scales(1).data() == scales.data() + 2);
  CHECK(w.bits_per_weight() == 4.5);
}
