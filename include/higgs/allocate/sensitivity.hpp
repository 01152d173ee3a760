// SPDX-License-Identifier: Apache-2.0
// How much the error of each layer costs a model: the linearity theorem (HIGGS, NAACL 2025, eq. 4) says
//
//   metric(W') = metric(W) + sum over layers of alpha * t^2,      t^2 = ||W' - W||^2 / ||W||^2 of a layer
//
// for small t^2, with an alpha that depends on the layer and not on the quantizer. It is measured once, by
// inserting noise into one layer at a time (the paper's algorithm 3), and serves every budget.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/core/random.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {

/// Where the theorem is trusted: t^2 up to 4^-2.625, a little below the error of a good 3-bit grid.
inline constexpr double linear_t2 = 0.026278012976678578;

/// `count` noise levels, evenly spaced up to `most`.
HIGGS_INLINE std::vector<double> noise_levels(int count, double most = linear_t2);

/// How noise spreads over the inputs of a matrix: evenly (the paper's eq. 9), as the error of rotated weights
/// does; or each column in proportion to its own norm, as it does where columns are divided by their RMS
/// before rotation. Sensitivities hold for quantizers whose error spreads as their noise did.
enum class NoiseShape { Even, ByColumn };

/// Writes a matrix with Gaussian noise of expected squared norm t2 * ||w||^2; `out` may be `w`. The element
/// at (r, c) gets normal r * cols + c of the seed, for any number of threads. Returns the t^2 of this very
/// noise; with NoiseShape::ByColumn of columns of equal norm, which is the mean of what the columns got.
inline double insert_noise(MatrixView<const float> w, double t2, std::uint64_t seed, MatrixView<float> out,
                           NoiseShape shape = NoiseShape::Even, Executor& executor = default_executor()) {
  expects(out.rows == w.rows && out.cols == w.cols, [&] {
    return "higgs::insert_noise: out is " + detail::shape_text(out.rows, out.cols) + ", but w is " +
           detail::shape_text(w.rows, w.cols);
  });
  detail::expect_data("higgs::insert_noise", "w", w);
  detail::expect_data("higgs::insert_noise", "out", out);
  expects(t2 >= 0 && t2 < 1e30, [&] {
    return detail::sentence("higgs::insert_noise: t2 is ", t2, ", but must be a number and not negative");
  });
  if (w.rows == 0 || w.cols == 0) return 0;
  const auto square = [](float value) { return static_cast<double>(value) * static_cast<double>(value); };
  // Sums over columns do not depend on threads.
  const auto cols = static_cast<std::size_t>(w.cols);
  const auto column_sums = [&](auto&& value) {
    std::vector<double> sums(cols);
    parallel_for(executor, w.cols, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = 0; r < w.rows; ++r)
        for (std::int64_t c = begin; c < end; ++c) sums[static_cast<std::size_t>(c)] += value(r, c);
    });
    return sums;
  };
  const std::vector<double> norms =
      column_sums([&](std::int64_t r, std::int64_t c) { return square(w(r, c)); });
  const double norm = std::accumulate(norms.begin(), norms.end(), 0.0);
  expects(std::isfinite(norm), "higgs::insert_noise: weights must be finite");
  std::vector<double> deviations(cols);
  for (std::size_t c = 0; c < cols; ++c) {
    const double mean = shape == NoiseShape::Even ? norm / static_cast<double>(cols) : norms[c];
    deviations[c] = std::sqrt(t2 * mean / static_cast<double>(w.rows));
  }
  const std::vector<double> errors = column_sums([&](std::int64_t r, std::int64_t c) {
    const std::uint64_t element =
        static_cast<std::uint64_t>(r) * static_cast<std::uint64_t>(w.cols) + static_cast<std::uint64_t>(c);
    const float before = w(r, c);
    out(r, c) = static_cast<float>(static_cast<double>(before) +
                                   deviations[static_cast<std::size_t>(c)] * random_normal(seed, element));
    return square(out(r, c) - before);
  });
  if (norm == 0) return 0;
  if (shape == NoiseShape::Even) return std::accumulate(errors.begin(), errors.end(), 0.0) / norm;
  double sum = 0;
  for (std::size_t c = 0; c < cols; ++c) sum += norms[c] > 0 ? errors[c] / norms[c] : 0;
  return sum / static_cast<double>(cols);
}

/// What an error in one layer did to the metric: metric(W') - metric(W).
struct NoisePoint {
  double t2 = 0;
  double change = 0;
};

/// A line through the origin, change = alpha * t^2, and how well it fits.
struct Sensitivity {
  double alpha = 0;
  double standard_error = 0;  // standard error of alpha; infinite with fewer than two points
  double low = 0, high = 0;   // alpha lies between with 95 % confidence (Student's t)
  double r_squared = 1;       // 1 - sum(residual^2) / sum(change^2)
  double residual = 0;        // root mean square, in units of the metric
};

namespace detail {

/// The t with P(|T| < t) = 0.95 for Student's distribution: exact for 1 and 2 degrees of freedom, then the
/// expansion in their inverse (Abramowitz and Stegun 26.7.5), good to 1 % at 3 and better above.
HIGGS_INLINE double student_95(std::size_t freedom);

}  // namespace detail

/// Least squares through the origin: alpha = sum(change t^2) / sum(t^4). Alpha may come out negative where a
/// layer hardly matters or the model is no minimum of the metric; plans count it as 0.
HIGGS_INLINE Sensitivity fit_sensitivity(std::span<const NoisePoint> points);

/// A layer under measurement.
struct ProbedLayer {
  std::string name;
  std::vector<NoisePoint> points{};  // empty: not measured yet
};

/// Measures every layer that has no points yet. `measure(i, levels)` inserts noise of each level in turn into
/// layer i alone and returns the points; `save(i)` is called after it, so that a killed run can go on: keep
/// the layers and call again.
template <class Measure, class Save>
void measure_sensitivities(std::span<ProbedLayer> layers, std::span<const double> levels, Measure&& measure,
                           Save&& save) {
  for (const double level : levels)
    expects(level > 0 && std::isfinite(level), [&] {
      return detail::sentence("higgs::measure_sensitivities: a level is ", level,
                              ", but must be positive and finite");
    });
  expects(!levels.empty(), "higgs::measure_sensitivities: a level is needed");
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (!layers[i].points.empty()) continue;
    std::vector<NoisePoint> points = measure(i, levels);
    expects(points.size() == levels.size(), [&] {
      return detail::sentence("higgs::measure_sensitivities: layer \"", layers[i].name,
                              "\": measure returned ", points.size(), " points for ", levels.size(),
                              " levels");
    });
    layers[i].points = std::move(points);
    save(i);
  }
}

#if HIGGS_DEFINITIONS

HIGGS_INLINE std::vector<double> noise_levels(int count, double most) {
  expects(count >= 1 && most > 0, [&] {
    return detail::sentence("higgs::noise_levels: count ", count, " and most ", most, " must be positive");
  });
  std::vector<double> levels;
  for (int i = 1; i <= count; ++i) levels.push_back(most * i / count);
  return levels;
}

namespace detail {

HIGGS_INLINE double student_95(std::size_t freedom) {
  constexpr double pi = 3.14159265358979323846, p = 0.95;
  if (freedom == 1) return std::tan(pi * p / 2);
  if (freedom == 2) return p * std::sqrt(2 / (1 - p * p));
  constexpr double z = 1.959963984540054, z2 = z * z;
  const double v = 1 / static_cast<double>(freedom);
  const double g1 = (z2 + 1) / 4, g2 = ((5 * z2 + 16) * z2 + 3) / 96,
               g3 = (((3 * z2 + 19) * z2 + 17) * z2 - 15) / 384,
               g4 = ((((79 * z2 + 776) * z2 + 1482) * z2 - 1920) * z2 - 945) / 92160;
  return z * (1 + v * (g1 + v * (g2 + v * (g3 + v * g4))));
}

}  // namespace detail

HIGGS_INLINE Sensitivity fit_sensitivity(std::span<const NoisePoint> points) {
  double xx = 0, xy = 0, yy = 0;
  for (const NoisePoint& point : points) {
    expects(std::isfinite(point.t2) && point.t2 >= 0 && std::isfinite(point.change), [&] {
      return detail::sentence("higgs::fit_sensitivity: point ", &point - points.data(), " has t2 ", point.t2,
                              " and change ", point.change, "; both must be finite and t2 not negative");
    });
    xx += point.t2 * point.t2;
    xy += point.t2 * point.change;
    yy += point.change * point.change;
  }
  expects(xx > 0, "higgs::fit_sensitivity: a point with t2 > 0 is needed");
  Sensitivity fit;
  fit.alpha = xy / xx;
  double squares = 0;
  for (const NoisePoint& point : points) {
    const double rest = point.change - fit.alpha * point.t2;
    squares += rest * rest;
  }
  fit.r_squared = yy > 0 ? 1 - squares / yy : 1;
  fit.residual = std::sqrt(squares / static_cast<double>(points.size()));
  if (points.size() < 2) {
    fit.standard_error = fit.high = HUGE_VAL;
    fit.low = -HUGE_VAL;
    return fit;
  }
  const std::size_t freedom = points.size() - 1;
  fit.standard_error = std::sqrt(squares / static_cast<double>(freedom) / xx);
  const double half_width = detail::student_95(freedom) * fit.standard_error;
  fit.low = fit.alpha - half_width;
  fit.high = fit.alpha + half_width;
  return fit;
}

#endif

}  // namespace v0
}  // namespace higgs
