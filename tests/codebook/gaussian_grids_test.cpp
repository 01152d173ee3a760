// SPDX-License-Identifier: Apache-2.0
#include <higgs/codebook/gaussian_grids.hpp>
#include <higgs/codebook/measure_grid.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <span>

using higgs::GaussianGrid;

namespace {

// The error by plain closed forms: cells between midpoints of ascending points, moments by erf and exp.
template <int Size>
double line_error() {
  using Grid = GaussianGrid<1, Size>;
  const auto cdf = [](double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); };
  const auto pdf = [](double x) { return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi); };
  double sum = 0, low = -40;
  for (std::size_t i = 0; i < Size; ++i) {
    const double c = Grid::step * Grid::points[i][0];
    const double high = i + 1 < Size ? Grid::step * (Grid::points[i][0] + Grid::points[i + 1][0]) / 2 : 40;
    const double mass = cdf(high) - cdf(low), mean = pdf(low) - pdf(high);
    sum += mass + low * pdf(low) - high * pdf(high) - 2 * c * mean + c * c * mass;
    low = high;
  }
  return sum;
}

// The error by a plain midpoint rule over [-6, 6]^2, which leaves out less than 1e-8.
template <int Size>
double plane_error(double h) {
  using Grid = GaussianGrid<2, Size>;
  double sum = 0, mass = 0;
  const int n = static_cast<int>(6 / h);
  for (int i = -n; i < n; ++i)
    for (int j = -n; j < n; ++j) {
      const double x = (i + 0.5) * h, y = (j + 0.5) * h, density = std::exp(-(x * x + y * y) / 2);
      double nearest = 1e9;
      for (const auto& point : Grid::points) {
        const double dx = x - Grid::step * point[0], dy = y - Grid::step * point[1];
        nearest = std::min(nearest, dx * dx + dy * dy);
      }
      sum += density * nearest;
      mass += density;
    }
  return sum / mass / 2;
}

template <int Dim, int Size>
higgs::GridError measured() {
  using Grid = GaussianGrid<Dim, Size>;
  using Element = typename decltype(Grid::points)::value_type::value_type;
  return higgs::measure_grid(std::span<const std::array<Element, Dim>>(Grid::points), Grid::step,
                             {.log2_samples = 16, .repeats = 8, .seed = 77});
}

}  // namespace

TEST_CASE("tables on the line have the error they claim, next to the optimum", "[codebook][gaussian_grids]") {
  CHECK(line_error<4>() == Approx(GaussianGrid<1, 4>::mse).epsilon(1e-6));
  CHECK(line_error<8>() == Approx(GaussianGrid<1, 8>::mse).epsilon(1e-6));
  CHECK(line_error<16>() == Approx(GaussianGrid<1, 16>::mse).epsilon(1e-6));
  CHECK(line_error<256>() == Approx(GaussianGrid<1, 256>::mse).epsilon(1e-6));
  // Optima by Lloyd 1957 and Max 1960; integers cost at most 0.1 %, at 8 bits 0.3 %.
  CHECK(line_error<4>() < 0.1174818478 * 1.001);
  CHECK(line_error<8>() < 0.0345477608 * 1.001);
  CHECK(line_error<16>() < 0.0095010080 * 1.001);
  CHECK(line_error<256>() < 0.0000411851 * 1.003);
}

TEST_CASE("tables in the plane have the error they claim, no more than the best published", "[codebook][gaussian_grids]") {
  CHECK(plane_error<16>(0.02) == Approx(GaussianGrid<2, 16>::mse).epsilon(2e-4));
  CHECK(plane_error<64>(0.02) == Approx(GaussianGrid<2, 64>::mse).epsilon(4e-4));
  CHECK(plane_error<256>(0.02) == Approx(GaussianGrid<2, 256>::mse).epsilon(1e-3));
  CHECK(GaussianGrid<2, 16>::mse < 0.1078);
  CHECK(GaussianGrid<2, 64>::mse < 0.02968);
  CHECK(GaussianGrid<2, 256>::mse < 0.00780);
}

TEST_CASE("the table in four dimensions has the error it claims", "[codebook][gaussian_grids]") {
  const higgs::GridError error = measured<4, 256>();
  CHECK(std::fabs(error.mse - GaussianGrid<4, 256>::mse) < 5 * error.standard_error + 2e-5);
  CHECK(GaussianGrid<4, 256>::mse < 0.0966);
}

TEST_CASE("int8 tables keep to 127 and hold no point twice", "[codebook][gaussian_grids]") {
  const auto check = [](const auto& points) {
    auto sorted = points;
    std::ranges::sort(sorted);
    CHECK(std::ranges::adjacent_find(sorted) == sorted.end());
    for (const auto& point : points)
      for (const int c : point) REQUIRE(std::abs(c) <= 127);
  };
  check(GaussianGrid<1, 16>::points);
  check(GaussianGrid<2, 16>::points);
  check(GaussianGrid<2, 64>::points);
  check(GaussianGrid<2, 256>::points);
  check(GaussianGrid<4, 256>::points);
}
