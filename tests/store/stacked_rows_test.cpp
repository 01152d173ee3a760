// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/grid/grid.hpp>
#include <higgs/core/random.hpp>
#include <higgs/store/stacked_rows.hpp>

#include <catch2/catch.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

using LineGrid = higgs::GridCodebook<1, 8>;
using Matrix = higgs::QuantizedMatrix<LineGrid>;

namespace {

/// Random codes and positive scales; 3 bits a symbol, so that a row of 50 inputs does not end with a byte.
Matrix stack_part(std::int64_t rows, int exponent, std::uint64_t seed) {
  struct Storage {
    std::vector<std::uint8_t> codes;
    std::vector<higgs::Half> scales, input_scales;
  };
  const auto storage = std::make_shared<Storage>();
  Matrix w;
  w.layout = {.rows = rows, .cols = 50, .block = 20, .group = 4, .input_scales = true};
  w.seed = 3;
  w.exponent = exponent;
  w.t2 = w.weight_error = 0.5;
  for (std::int64_t i = 0; i < rows * w.row_bytes(); ++i)
    storage->codes.push_back(
        static_cast<std::uint8_t>(higgs::random_bits(seed, static_cast<std::uint64_t>(i))));
  for (std::int64_t i = 0; i < rows * w.layout.groups(); ++i)
    storage->scales.push_back(
        higgs::Half(static_cast<float>(higgs::random_uniform(seed + 1, static_cast<std::uint64_t>(i)))));
  for (int i = 0; i < 50; ++i) storage->input_scales.push_back(higgs::Half(static_cast<float>(i + 1)));
  w.codes = storage->codes;
  w.scales = storage->scales;
  w.input_scales = storage->input_scales;
  w.owner = storage;
  return w;
}

/// Whether row `at` of `whole` has the codes of row `row` of `part`, and its scales but for the exponents.
bool same_row(const Matrix& whole, std::int64_t at, const Matrix& part, std::int64_t row) {
  bool same = std::ranges::equal(whole.row_codes(at), part.row_codes(row));
  for (std::size_t g = 0; g < static_cast<std::size_t>(part.layout.groups()); ++g)
    same = same && std::ldexp(static_cast<float>(whole.row_scales(at)[g]), whole.exponent) ==
                       std::ldexp(static_cast<float>(part.row_scales(row)[g]), part.exponent);
  return same;
}

}  // namespace

TEST_CASE("stacked matrices have the rows and the weights of their parts", "[store][stacked_rows]") {
  const std::array<Matrix, 3> parts{stack_part(3, -2, 1), stack_part(1, 1, 2), stack_part(4, 0, 3)};
  const Matrix all = higgs::concatenate_rows(std::span<const Matrix>(parts));
  REQUIRE(all.rows() == 8);
  REQUIRE((std::isnan(all.t2) && std::isnan(all.weight_error)));
  REQUIRE(rotates_alike(all, parts[1]));
  std::int64_t at = 0;
  for (const Matrix& part : parts)
    for (std::int64_t row = 0; row < part.rows(); ++row, ++at) REQUIRE(same_row(all, at, part, row));

  const Matrix gate = stack_part(4, -1, 4), both = higgs::interleave_rows(gate, parts[2]);
  REQUIRE(both.rows() == 8);
  for (std::int64_t row = 0; row < 4; ++row) {
    REQUIRE(same_row(both, 2 * row, gate, row));
    REQUIRE(same_row(both, 2 * row + 1, parts[2], row));
  }
  const higgs::AnyQuantizedMatrix any = higgs::interleave_rows(higgs::AnyQuantizedMatrix(gate), parts[2]);
  REQUIRE(std::ranges::equal(std::get<Matrix>(any).codes, both.codes));
}

TEST_CASE("matrices rotate alike only if all that the rotation depends on is equal",
          "[store][stacked_rows]") {
  const Matrix w = stack_part(2, 0, 1);
  std::vector<higgs::Half> input_scales(w.input_scales.begin(), w.input_scales.end());
  input_scales[49] = higgs::Half(1.0f);
  std::array<Matrix, 6> others{w, w, w, w, w, w};
  others[0].seed = 4;
  others[1].seed.reset();
  others[2].input_scales = {};
  others[3].input_scales = input_scales;
  others[4].layout.group = 5;
  others[5].layout.block = 40;
  REQUIRE(rotates_alike(w, stack_part(7, 5, 9)));
  for (const Matrix& other : others) REQUIRE_FALSE(rotates_alike(w, other));
  REQUIRE_FALSE(rotates_alike(higgs::AnyQuantizedMatrix(w), higgs::AnyQuantizedMatrix(others[0])));
}

TEST_CASE("stacking keeps every scale exact or refuses", "[store][stacked_rows]") {
  using Catch::Contains;
  std::array<Matrix, 2> parts{stack_part(1, 0, 1), stack_part(1, 0, 2)};
  const std::vector<higgs::Half> largest(15, higgs::Half(32768.0f)), odd(15, higgs::Half::from_bits(0x0401));
  const auto stack = [&] { return higgs::concatenate_rows(std::span<const Matrix>(parts)); };
  parts[0].scales = largest;
  parts[0].exponent = 3;
  REQUIRE(stack().exponent == 3);  // the scales of the smaller exponent lose no bit
  parts[1].scales = odd;           // 2^-14 and its next bit: smaller exponents are not exact
  REQUIRE_THROWS_WITH(stack(), Contains("concatenate_rows: the exponents 0 and 3"));
  parts[0].scales = parts[1].scales;
  REQUIRE(stack().exponent == 0);
  parts[1].layout.scale_format = higgs::ScaleFormat::Log8;
  REQUIRE(stack().layout.scale_format == higgs::ScaleFormat::Fp16);
  parts[1].seed = 4;
  REQUIRE_THROWS_WITH(stack(), Contains("matrix 1 has 50 columns, block 20") && Contains("the seed"));
  REQUIRE_THROWS_AS(higgs::interleave_rows(stack_part(2, 0, 1), stack_part(3, 0, 1)), higgs::InvalidArgument);
  REQUIRE_THROWS_AS(higgs::concatenate_rows(std::span<const Matrix>()), higgs::InvalidArgument);
}
