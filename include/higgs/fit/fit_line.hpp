// SPDX-License-Identifier: Apache-2.0
// Gaussian-optimal grids on a line, by closed forms. They are symmetric about 0.
#pragma once

#include <higgs/fit/measure_grid.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <limits>
#include <numbers>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace detail {

/// The optimal points in ascending order (they are unique, as the density is log-concave), by Newton's method on the
/// condition that each point is the centroid of its cell (Lloyd 1957, Max 1960).
HIGGS_INLINE std::vector<double> fit_line(int size);

/// The error between two neighbours a < b that belongs to their cells.
inline double error_between(double a, double b) noexcept {
  const double middle = (a + b) / 2;
  return NormalMoments(a, middle).error(a) + NormalMoments(middle, b).error(b);
}

/// Integers of magnitude at most `limit`, symmetric and ascending, so that step * integers has the least error among all
/// that differ from points / step by at most `reach`: the error is a sum over neighbours, so dynamic programming finds
/// them. Empty where the integers are too few.
HIGGS_INLINE std::vector<int> round_line(const std::vector<double>& points, double step, int limit,
                                         int reach);

/// The best integers of magnitude at most `limit` over all steps, and that step (a multiple of 2^-30).
HIGGS_INLINE std::pair<std::vector<int>, double> round_line(const std::vector<double>& points, int limit);

}  // namespace detail
#if HIGGS_DEFINITIONS

namespace detail {

HIGGS_INLINE std::vector<double> fit_line(int size) {
  const auto n = static_cast<std::size_t>(size);
  std::vector<double> points(n);
  for (std::size_t i = 0; i < n; ++i) {
    // Start at the density of many optimal points, which is that of N(0, 3) (Panter and Dite 1951).
    const double share = (2.0 * static_cast<double>(i) + 1.0) / size - 1.0;
    double low = -8.0, high = 8.0;
    for (int bit = 0; bit < 50; ++bit) {
      const double middle = (low + high) / 2;
      (std::erf(middle / std::numbers::sqrt2) < share ? low : high) = middle;
    }
    points[i] = std::sqrt(3.0) * low;
  }
  for (int iteration = 0; iteration < 50;
       ++iteration) {  // centroids, until Newton's method has a convex valley
    const auto cells = line_cells(points);
    for (std::size_t i = 0; i < n; ++i) points[i] = cells[i].mean / cells[i].mass;
  }
  for (int iteration = 0; iteration < 100; ++iteration) {
    // Half the gradient is point * mass - mean; a border between a < b couples them by density * (b - a) / 4.
    const auto cells = line_cells(points);
    std::vector<double> diagonal(n), coupling(n), move(n);
    for (std::size_t i = 0; i < n; ++i) {
      move[i] = cells[i].mean - points[i] * cells[i].mass;
      diagonal[i] += cells[i].mass;
      if (i == 0) continue;
      coupling[i] =
          -NormalMoments::density((points[i - 1] + points[i]) / 2) * (points[i] - points[i - 1]) / 4;
      diagonal[i] += coupling[i];
      diagonal[i - 1] += coupling[i];
    }
    for (std::size_t i = 1; i < n; ++i) {
      const double factor = coupling[i] / diagonal[i - 1];
      diagonal[i] -= factor * coupling[i];
      move[i] -= factor * move[i - 1];
    }
    for (std::size_t i = n; i-- > 0;) {
      if (i + 1 < n) move[i] -= coupling[i + 1] * move[i + 1];
      move[i] /= diagonal[i];
    }
    double largest = 0.0;
    for (const double d : move) largest = std::max(largest, std::abs(d));
    std::vector<double> next(n);
    for (double fraction = 1.0; fraction > 1e-9; fraction /= 2) {  // keeps the order
      for (std::size_t i = 0; i < n; ++i) next[i] = points[i] + fraction * move[i];
      if (std::is_sorted(next.begin(), next.end(), std::less_equal<>{})) break;
    }
    for (std::size_t i = 0; i < n; ++i) points[i] = (next[i] - next[n - 1 - i]) / 2;
    if (largest < 1e-14) break;
  }
  return points;
}

HIGGS_INLINE std::vector<int> round_line(const std::vector<double>& points, double step, int limit,
                                         int reach) {
  struct Choice {
    int value;
    double error;  // error of the line from 0 to here
    std::size_t previous;
  };
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const std::size_t half = points.size() / 2,
                    first = points.size() - half;  // the positive points follow `first`
  const bool odd = first != half;
  std::vector<std::vector<Choice>> columns(half);
  for (std::size_t i = 0; i < half; ++i) {
    const int middle = static_cast<int>(std::min<double>(limit, points[first + i] / step + 0.5));
    for (int value = std::max(1, middle - reach); value <= std::min(limit, middle + reach); ++value) {
      const double x = step * value;
      Choice choice{value, infinity, 0};
      if (i == 0) choice.error = odd ? error_between(0.0, x) : NormalMoments(0.0, x).error(x);
      for (std::size_t j = 0; i > 0 && j < columns[i - 1].size(); ++j) {
        const Choice& before = columns[i - 1][j];
        if (before.value >= value) break;
        const double error = before.error + error_between(step * before.value, x);
        if (error < choice.error) choice.error = error, choice.previous = j;
      }
      if (choice.error < infinity) columns[i].push_back(choice);
    }
  }
  double best = infinity;
  std::size_t at = 0;
  for (std::size_t j = 0; j < columns.back().size(); ++j) {
    const double x = step * columns.back()[j].value;
    const double error = columns.back()[j].error + NormalMoments(x, infinity).error(x);
    if (error < best) best = error, at = j;
  }
  if (best == infinity) return {};
  std::vector<int> integers(points.size());
  for (std::size_t i = half; i-- > 0;) {
    integers[first + i] = columns[i][at].value;
    integers[half - 1 - i] = -columns[i][at].value;
    at = columns[i][at].previous;
  }
  return integers;
}

HIGGS_INLINE std::pair<std::vector<int>, double> round_line(const std::vector<double>& points, int limit) {
  std::pair<std::vector<int>, double> best;
  double best_mse = std::numeric_limits<double>::infinity();
  const bool coarse = limit < 1000;  // then points compete for integers, and luck differs from step to step
  const int reach = coarse ? 4 : 1, trials = coarse ? 2048 : 512;
  const auto real = [](const std::vector<int>& integers, double step) {
    std::vector<double> line;
    for (const int v : integers) line.push_back(step * v);
    return line;
  };
  for (int trial = 0; trial < trials; ++trial) {
    double step = points.back() / limit * (0.7 + 1.3 * trial / trials);
    for (int i = 0; i < 3; ++i) {
      step = std::round(step * 0x1p30) * 0x1p-30;
      const std::vector<int> integers = round_line(points, step, limit, reach);
      if (integers.empty()) break;
      const std::vector<double> line = real(integers, step);
      const double mse = measure_line(line).mse;
      if (mse < best_mse * (1 - 1e-9)) best_mse = mse, best = {integers, step};
      // The step that suits these integers and cells.
      const auto cells = line_cells(line);
      double product = 0.0, square = 0.0;
      for (std::size_t k = 0; k < line.size(); ++k) {
        product += integers[k] * cells[k].mean;
        square += 1.0 * integers[k] * integers[k] * cells[k].mass;
      }
      step = product / square;
    }
  }
  return best;
}

}  // namespace detail

#endif

}  // namespace v0
}  // namespace higgs
