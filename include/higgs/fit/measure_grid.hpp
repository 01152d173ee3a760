// SPDX-License-Identifier: Apache-2.0
// What rounding N(0, I) to the points of a grid costs.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/random.hpp>
#include <higgs/fit/gaussian_cloud.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <span>
#include <vector>

namespace higgs {
inline namespace v0 {

/// The error of a grid and the entropy of its codes.
struct GridError {
  double mse = 0.0;             ///< per weight
  double standard_error = 0.0;  ///< standard error of mse; 0 where it is exact (1 and 2 dimensions)
  double entropy = 0.0;         ///< bits per weight
};

/// How closely `measure_grid` looks. One dimension is exact and takes no notice.
struct MeasureOptions {
  int log2_samples = 20;   ///< integration points of one rule, 8 ... 24
  int repeats = 8;         ///< independent rules in 3 dimensions and more, at least 2
  std::uint64_t seed = 1;  ///< seed of these rules
};

namespace detail {

/// The integrals of 1, x and x^2 against the normal density from a to b >= a, either of which may be infinite.
struct NormalMoments {
  double mass, mean, square;

  NormalMoments(double a, double b) noexcept;
  static double density(double x) noexcept {
    return std::exp(-0.5 * x * x) / std::sqrt(2 * std::numbers::pi);
  }

  double error(double point) const noexcept { return square - 2 * point * mean + point * point * mass; }
};

/// The cells of ascending points on the line.
HIGGS_INLINE std::vector<NormalMoments> line_cells(std::span<const double> points);

HIGGS_INLINE GridError measure_line(std::span<const double> points);

/// The square cells of the midpoint rule with about 2^log2_samples points have sides of 2^-midpoint_density.
constexpr int midpoint_density(int log2_samples) noexcept { return (log2_samples - 7) / 2; }

/// The errors of several grids by the same rules.
template <int Dim>
std::vector<GridError> measure_centers(const std::vector<Centers<Dim>>& grids, const MeasureOptions& options,
                                       Executor& executor) {
  expects(options.log2_samples >= 8 && options.log2_samples <= 24 && options.repeats >= 2,
          "higgs::measure_grid: log2_samples must lie in [8, 24], repeats be at least 2");
  for (const auto& grid : grids) {
    for (const auto& center : grid) {
      for (const double x : center) {
        expects(std::abs(x) < 8.0, "higgs::measure_grid: points must stay below 8 standard deviations");
      }
    }
  }
  std::vector<GridError> results(grids.size());
  std::vector<double> squares(grids.size());
  const auto add = [&](const GaussianCloud<Dim>& cloud, double share) {
    for (std::size_t i = 0; i < grids.size(); ++i) {
      const Cells<Dim> cells = cloud.divide(grids[i], executor);
      const double mse = cloud.error(grids[i], cells);
      results[i].mse += share * mse;
      squares[i] += share * mse * mse;
      for (const std::int64_t mass : cells.mass) {
        const double p = static_cast<double>(mass) / cloud.mass();
        if (mass > 0) results[i].entropy -= share * p * std::log2(p) / Dim;
      }
    }
  };
  if constexpr (Dim == 2) {
    add(GaussianCloud<2>::midpoints(midpoint_density(options.log2_samples)), 1.0);
  } else {
    for (int repeat = 0; repeat < options.repeats; ++repeat) {
      const std::uint64_t seed = random_bits(options.seed, static_cast<std::uint64_t>(repeat));
      add(GaussianCloud<Dim>::quasi_random(seed, options.log2_samples), 1.0 / options.repeats);
    }
    for (std::size_t i = 0; i < grids.size(); ++i) {
      const double variance = std::max(0.0, squares[i] - results[i].mse * results[i].mse);
      results[i].standard_error = std::sqrt(variance / (options.repeats - 1));
    }
  }
  return results;
}

}  // namespace detail

/// The error on N(0, I) of the grid step * points, by closed forms in one dimension, a midpoint rule in two, and the mean
/// of independent quasi-random rules beyond. Throws InvalidArgument where step * points reaches 8 (one dimension: never).
template <class Element, std::size_t Dim>
GridError measure_grid(std::span<const std::array<Element, Dim>> points, double step,
                       const MeasureOptions& options = {}, Executor& executor = default_executor()) {
  expects(points.size() >= 2, "higgs::measure_grid: a grid has at least 2 points");
  if constexpr (Dim == 1) {
    std::vector<double> line;
    for (const auto& point : points) line.push_back(step * point[0]);
    std::sort(line.begin(), line.end());
    return detail::measure_line(line);
  } else {
    detail::Centers<static_cast<int>(Dim)> centers(points.size());
    for (std::size_t k = 0; k < points.size(); ++k) {
      for (std::size_t d = 0; d < Dim; ++d)
        centers[k][d] = detail::snap(step * static_cast<double>(points[k][d]));
    }
    return detail::measure_centers<static_cast<int>(Dim)>({centers}, options, executor)[0];
  }
}

#if HIGGS_DEFINITIONS

namespace detail {

HIGGS_INLINE NormalMoments::NormalMoments(double a, double b) noexcept {
  const auto beyond = [](double x) { return 0.5 * std::erfc(x / std::numbers::sqrt2); };
  mass = a >= 0   ? beyond(a) - beyond(b)  // differences of tails, where they are small
         : b <= 0 ? beyond(-b) - beyond(-a)
                  : 1.0 - beyond(-a) - beyond(b);
  mean = density(a) - density(b);
  square = mass + (std::isinf(a) ? 0.0 : a * density(a)) - (std::isinf(b) ? 0.0 : b * density(b));
}

HIGGS_INLINE std::vector<NormalMoments> line_cells(std::span<const double> points) {
  std::vector<NormalMoments> cells;
  double low = -std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < points.size(); ++i) {
    const double high =
        i + 1 < points.size() ? (points[i] + points[i + 1]) / 2 : std::numeric_limits<double>::infinity();
    cells.emplace_back(low, high);
    low = high;
  }
  return cells;
}

HIGGS_INLINE GridError measure_line(std::span<const double> points) {
  GridError result;
  const auto cells = line_cells(points);
  for (std::size_t i = 0; i < points.size(); ++i) {
    result.mse += cells[i].error(points[i]);
    if (cells[i].mass > 0) result.entropy -= cells[i].mass * std::log2(cells[i].mass);
  }
  return result;
}

}  // namespace detail

#endif

}  // namespace v0
}  // namespace higgs
