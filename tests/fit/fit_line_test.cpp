// SPDX-License-Identifier: Apache-2.0
#include <higgs/fit/fit_line.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstddef>
#include <numbers>
#include <vector>

TEST_CASE("points on the line reach the known optima", "[fit][fit_line]") {
  // Lloyd 1957, Max 1960, to ten digits.
  const std::pair<int, double> optima[] = {
      {2, .3633802276},  {3, .1901740392},  {4, .1174818478},  {8, .0345477608},   {16, .0095010080},
      {19, .0068481657}, {32, .0025046684}, {64, .0006442397}, {128, .0001634782}, {256, .0000411851}};
  for (const auto& [size, mse] : optima) {
    INFO(size);
    CHECK(std::fabs(higgs::detail::measure_line(higgs::detail::fit_line(size)).mse - mse) < 6e-11);
  }
}

TEST_CASE("each point is the centroid of its cell, and mirrored", "[fit][fit_line]") {
  const std::vector<double> points = higgs::detail::fit_line(17);
  const auto cells = higgs::detail::line_cells(points);
  for (std::size_t i = 0; i < points.size(); ++i) {
    CHECK(std::fabs(points[i] - cells[i].mean / cells[i].mass) < 1e-12);
    CHECK(points[i] == -points[16 - i]);
  }
  CHECK(higgs::detail::fit_line(2)[1] == Approx(std::sqrt(2 / std::numbers::pi)).epsilon(1e-14));
}

TEST_CASE("rounded points are integers within the limit that cost little", "[fit][fit_line]") {
  const std::vector<double> points = higgs::detail::fit_line(16);
  const auto [integers, step] = higgs::detail::round_line(points, 127);
  REQUIRE(integers.size() == 16);
  std::vector<double> real;
  for (std::size_t i = 0; i < 16; ++i) {
    CHECK(std::abs(integers[i]) <= 127);
    CHECK(integers[i] == -integers[15 - i]);
    real.push_back(step * integers[i]);
  }
  CHECK(higgs::detail::measure_line(real).mse < 0.0095010080 * 1.001);
  CHECK(higgs::detail::round_line(points, 5).first.empty());  // 11 integers cannot hold 16 points
}
