// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/random.hpp>
#include <higgs/quantizer.hpp>
#include <higgs/round/rotated_rows.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

#include "matmul/matrices.hpp"

TEST_CASE("an error of a rotated row is counted as what it does to the weights", "[round]") {
  for (const std::int64_t cols : {1, 37, 100, 576}) {
    const Normals w(1, cols, 3);
    const higgs::CodeLayout layout = higgs::make_layout(200, cols, 2);  // with input scales
    std::vector<higgs::Half> scales;
    for (std::int64_t c = 0; c < cols; ++c) scales.emplace_back(0.5f + static_cast<float>(c % 5));
    const higgs::detail::RotatedRows rows(layout, 11, -3, scales);
    std::vector<float> row(static_cast<std::size_t>(layout.padded_cols())), left(row.size());
    higgs::RoundingError error;
    rows.rotate(w.view, row, error);
    for (std::size_t i = 0; i < row.size(); ++i)
      left[i] = static_cast<float>(0.1 * higgs::random_normal(4, i));
    // The weights that come back from row - left, by the definition.
    std::vector<float> back = row;
    for (std::size_t i = 0; i < row.size(); ++i) back[i] -= left[i];
    higgs::unrotate_row(back, layout.block, 11);
    double expected = 0, norm = 0;
    for (std::int64_t c = 0; c < cols; ++c) {
      const auto at = static_cast<std::size_t>(c);
      const double weight = std::ldexp(static_cast<double>(w.data[at]), 3);
      const double d =
          static_cast<double>(back[at]) * static_cast<double>(static_cast<float>(scales[at])) - weight;
      expected += d * d;
      norm += weight * weight;
    }
    rows.finish(left, error);
    CHECK(error.weight_squared_error == Approx(expected).epsilon(1e-4));
    CHECK(error.weight_squared_norm == Approx(norm).epsilon(1e-6));
  }
}

TEST_CASE("without input scales and padding, the rotated row and the weights err alike", "[round]") {
  const Normals w(1, 64, 5);
  const higgs::CodeLayout layout = higgs::make_layout(1, 64, 2);
  const higgs::detail::RotatedRows rows(layout, 1, 0, {});
  REQUIRE(rows.keeps_errors());
  std::vector<float> row(64), left(64, 0.5f);
  higgs::RoundingError error;
  rows.rotate(w.view, row, error);
  error.squared_error = 3;
  error.squared_norm = 7;
  rows.finish(left, error);
  CHECK(error.t2() == 3.0 / 7);
  CHECK(error.weight_error() == error.t2());
}
