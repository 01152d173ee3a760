// SPDX-License-Identifier: Apache-2.0
#include <higgs/fit/measure_grid.hpp>

#include <catch2/catch.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <span>
#include <vector>

namespace {
// Signs in every dimension: its error is that of two points on the line, 1 - 2 / pi, its entropy one bit a weight.
template <std::size_t Dim>
std::vector<std::array<std::int8_t, Dim>> cube() {
  std::vector<std::array<std::int8_t, Dim>> points(std::size_t{1} << Dim);
  for (std::size_t k = 0; k < points.size(); ++k)
    for (std::size_t d = 0; d < Dim; ++d) points[k][d] = k >> d & 1 ? 100 : -100;
  return points;
}
template <std::size_t Dim>
higgs::GridError measure(const higgs::MeasureOptions& options) {
  const auto points = cube<Dim>();
  return higgs::measure_grid(std::span<const std::array<std::int8_t, Dim>>(points),
                             std::sqrt(2 / std::numbers::pi) / 100, options);
}
}  // namespace

TEST_CASE("a grid that is a product has the error of its factors", "[fit][measure_grid]") {
  const double exact = 1 - 2 / std::numbers::pi;
  CHECK(measure<1>({}).mse == Approx(exact).epsilon(1e-12));
  CHECK(measure<2>({.log2_samples = 18}).mse ==
        Approx(exact).epsilon(3e-4));  // its borders run along the rule's axes
  for (const auto& error : {measure<3>({.log2_samples = 13}), measure<4>({.log2_samples = 13})}) {
    CHECK(std::fabs(error.mse - exact) < 6 * error.standard_error + 1e-6);
    CHECK(error.standard_error < 1e-3);
    CHECK(error.entropy == Approx(1).epsilon(1e-3));
  }
}

TEST_CASE("points too far out and odd options are refused", "[fit][measure_grid]") {
  const std::array<std::array<std::int8_t, 2>, 2> far{{{0, 0}, {100, 0}}};
  const std::span<const std::array<std::int8_t, 2>> points(far);
  CHECK_THROWS_AS(higgs::measure_grid(points, 0.08), higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::measure_grid(points, 0.01, {.log2_samples = 60}), higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::measure_grid(points.first(1), 0.01), higgs::InvalidArgument);
}
