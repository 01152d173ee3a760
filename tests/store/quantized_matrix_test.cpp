// SPDX-License-Identifier: Apache-2.0
#include <higgs/store/quantized_matrix.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>
#include <variant>
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

TEST_CASE("a matrix without weights takes no bits for each", "[store][quantized_matrix]") {
  higgs::QuantizedMatrix<higgs::GridCodebook<2, 256>> w;
  CHECK(w.bits_per_weight() == 0);
  w.layout = {0, 64, 64, 32};
  CHECK(w.bits_per_weight() == 0);
  CHECK(higgs::AnyQuantizedMatrix{}.bits_per_weight() == 0);
}

TEST_CASE("what a matrix was moved from is empty, and copies are whole", "[store][quantized_matrix]") {
  auto codes = std::make_shared<std::vector<std::uint8_t>>(3 * 32);
  std::vector<higgs::Half> scales(3 * 2), input_scales(64);
  higgs::QuantizedMatrix<higgs::GridCodebook<2, 256>> w;
  w.layout = {3, 64, 64, 32, true};
  w.seed = 7;
  w.exponent = -2;
  w.t2 = 0.5;
  w.weight_error = 0.75;
  w.codes = *codes;
  w.scales = scales;
  w.input_scales = input_scales;
  w.owner = codes;
  const auto same = [&](const auto& other) {
    return other.layout == higgs::CodeLayout{3, 64, 64, 32, true} && other.seed == 7 &&
           other.exponent == -2 && other.t2 == 0.5 && other.weight_error == 0.75 &&
           other.codes.data() == codes->data() && other.scales.data() == scales.data() &&
           other.input_scales.size() == 64 && other.owner == codes;
  };
  const auto empty = [](const auto& other) {
    return other.rows() == 0 && other.cols() == 0 && other.codes.empty() && other.scales.empty() &&
           other.input_scales.empty() && !other.owner && !other.seed && other.bits_per_weight() == 0;
  };
  const auto copy = w;
  CHECK((same(copy) && same(w)));
  auto moved = std::move(w);
  CHECK((same(moved) && empty(w)));
  w = std::move(moved);
  CHECK((same(w) && empty(moved)));
  auto& self = w;
  w = std::move(self);
  CHECK(same(w));
  higgs::AnyQuantizedMatrix any = w, other;
  other = std::move(any);
  CHECK(other.rows() == 3);
  CHECK(any.rows() == 0);
}

TEST_CASE("a matrix of any codebook answers for the one that it holds", "[store][quantized_matrix]") {
  std::vector<std::uint8_t> codes(3 * 48);
  std::vector<higgs::Half> scales(3 * 2);
  higgs::QuantizedMatrix<higgs::GridCodebook<2, 64>> w;
  w.layout = {3, 128, 64, 64};
  w.codes = codes;
  w.scales = scales;
  w.seed = 9;
  w.exponent = 4;
  w.t2 = 0.25;
  w.weight_error = 0.375;
  const higgs::AnyQuantizedMatrix any = w;
  CHECK(any.rows() == 3);
  CHECK(any.cols() == 128);
  CHECK(any.layout() == w.layout);
  CHECK(any.seed() == 9);
  CHECK(any.exponent() == 4);
  CHECK(any.t2() == 0.25);
  CHECK(any.weight_error() == 0.375);
  CHECK(any.codebook() == "2x64");
  CHECK(any.bits_per_weight() == w.bits_per_weight());
  CHECK(any.visit([](const auto& matrix) { return matrix.codes.data(); }) == codes.data());
  CHECK(std::get<higgs::QuantizedMatrix<higgs::GridCodebook<2, 64>>>(any).rows() == 3);
  CHECK(std::visit([](const auto& matrix) { return matrix.rows(); }, any) == 3);
  using Other = higgs::QuantizedMatrix<higgs::GridCodebook<3, 100>>;
  STATIC_REQUIRE(!std::is_convertible_v<Other, higgs::AnyQuantizedMatrix>);
  higgs::AnyQuantizedMatrix none;
  CHECK((none.rows() == 0 && none.cols() == 0));
}
