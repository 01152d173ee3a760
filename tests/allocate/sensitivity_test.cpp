// SPDX-License-Identifier: Apache-2.0
#include <higgs/allocate/sensitivity.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

using higgs::fit_sensitivity;
using higgs::insert_noise;
using higgs::MatrixView;
using higgs::measure_sensitivities;
using higgs::noise_levels;
using higgs::NoisePoint;
using higgs::ProbedLayer;
using higgs::random_normal;
using higgs::Sensitivity;

namespace {

std::vector<float> random_weights(std::size_t count, std::uint64_t seed) {
  std::vector<float> out(count);
  for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<float>(0.02 * random_normal(seed, i));
  return out;
}

double squared(const std::vector<float>& values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * static_cast<double>(value);
  return sum;
}

}  // namespace

TEST_CASE("noise levels are even and end at the most", "[allocate][sensitivity]") {
  CHECK(noise_levels(1) == std::vector<double>{higgs::linear_t2});
  CHECK(noise_levels(4, 2.0) == std::vector<double>{0.5, 1.0, 1.5, 2.0});
  CHECK(higgs::linear_t2 == std::pow(4.0, -2.625));
  CHECK_THROWS_AS(noise_levels(0), higgs::InvalidArgument);
  CHECK_THROWS_AS(noise_levels(3, 0), higgs::InvalidArgument);
}

TEST_CASE("noise has the wanted norm, mean zero, and no link between seeds", "[allocate][sensitivity]") {
  constexpr std::int64_t rows = 150, cols = 400;
  constexpr double count = rows * cols;
  const std::vector<float> w = random_weights(rows * cols, 1);
  std::vector<float> a(w.size()), b(w.size());
  for (const double t2 : {1e-4, 0.01, 0.3}) {
    const double reported = insert_noise({w.data(), rows, cols}, t2, 5, {a.data(), rows, cols});
    insert_noise({w.data(), rows, cols}, t2, 6, {b.data(), rows, cols});
    double mean = 0, square = 0, product = 0;
    for (std::size_t i = 0; i < w.size(); ++i) {
      const double x = static_cast<double>(a[i] - w[i]), y = static_cast<double>(b[i] - w[i]);
      mean += x;
      square += x * x;
      product += x * y;
    }
    // Sums of `count` squares, values and products of normals, within five standard deviations.
    CAPTURE(t2);
    CHECK(square / squared(w) == Approx(t2).epsilon(5 * std::sqrt(2 / count)));
    CHECK(std::fabs(mean) < 5 * std::sqrt(t2 * squared(w)));
    CHECK(std::fabs(product) < 5 * t2 * squared(w) / std::sqrt(count));
    CHECK(reported == Approx(square / squared(w)).epsilon(1e-9));
  }
}

TEST_CASE("noise by column gives every column the same t^2", "[allocate][sensitivity]") {
  constexpr std::int64_t rows = 500, cols = 40;
  std::vector<float> w = random_weights(rows * cols, 7), out(w.size());
  const MatrixView<float> view(w.data(), rows, cols), noisy(out.data(), rows, cols);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; ++c) view(r, c) *= c == 3 ? 0.0f : static_cast<float>(1 + c);
  const double t2 = insert_noise(view, 0.02, 3, noisy, higgs::NoiseShape::ByColumn);
  double mean = 0;
  for (std::int64_t c = 0; c < cols; ++c) {
    double error = 0, norm = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
      error += std::pow(static_cast<double>(noisy(r, c) - view(r, c)), 2);
      norm += std::pow(static_cast<double>(view(r, c)), 2);
    }
    if (c == 3) CHECK(error == 0);
    if (c == 3) continue;
    CHECK(error / norm == Approx(0.02).epsilon(5 * std::sqrt(2.0 / rows)));
    mean += error / norm / cols;
  }
  CHECK(t2 == Approx(mean).epsilon(1e-9));
}

TEST_CASE("noise does not depend on threads, strides or place", "[allocate][sensitivity]") {
  constexpr std::int64_t rows = 70, cols = 33;
  std::vector<float> w = random_weights(rows * cols, 2), a(w.size()), b(w.size()), padded(rows * 40);
  higgs::SerialExecutor one;
  higgs::ThreadPool four(4);
  const double t2 =
      insert_noise({w.data(), rows, cols}, 0.02, 9, {a.data(), rows, cols}, higgs::NoiseShape::Even, one);
  CHECK(insert_noise({w.data(), rows, cols}, 0.02, 9, {b.data(), rows, cols}, higgs::NoiseShape::Even,
                     four) == t2);
  CHECK(a == b);
  const MatrixView<float> strided(padded.data(), rows, cols, 40);
  insert_noise({w.data(), rows, cols}, 0.02, 9, strided);
  for (std::int64_t i = 0; i < rows * cols; ++i)
    REQUIRE(strided(i / cols, i % cols) == a[static_cast<std::size_t>(i)]);
  insert_noise({w.data(), rows, cols}, 0.02, 9, {w.data(), rows, cols});
  CHECK(w == a);
}

TEST_CASE("noise of nothing is nothing, and bad requests are refused", "[allocate][sensitivity]") {
  std::vector<float> w = random_weights(12, 3), out(12);
  CHECK(insert_noise({w.data(), 3, 4}, 0, 1, {out.data(), 3, 4}) == 0);
  CHECK(out == w);
  const std::vector<float> zeros(12);
  CHECK(insert_noise({zeros.data(), 3, 4}, 0.5, 1, {out.data(), 3, 4}) == 0);
  CHECK(out == zeros);
  CHECK(insert_noise({w.data(), 0, 4}, 0.5, 1, {out.data(), 0, 4}) == 0);
  CHECK_THROWS_AS(insert_noise({w.data(), 3, 4}, 0.5, 1, {out.data(), 4, 3}), higgs::InvalidArgument);
  for (const double t2 : {-1.0, std::nan(""), HUGE_VAL})
    CHECK_THROWS_AS(insert_noise({w.data(), 3, 4}, t2, 1, {out.data(), 3, 4}), higgs::InvalidArgument);
  w[5] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_AS(insert_noise({w.data(), 3, 4}, 0.5, 1, {out.data(), 3, 4}), higgs::InvalidArgument);
}

TEST_CASE("the fit is exact on a line and least squares elsewhere", "[allocate][sensitivity]") {
  const std::vector<NoisePoint> line{{0.01, 0.03}, {0.02, 0.06}, {0.04, 0.12}};
  const Sensitivity exact = fit_sensitivity(line);
  CHECK(exact.alpha == Approx(3));
  CHECK(exact.r_squared == Approx(1));
  CHECK(exact.high - exact.low < 1e-12);

  const std::vector<NoisePoint> bent{{1, 2}, {2, 3}, {3, 7}};
  const Sensitivity fit = fit_sensitivity(bent);
  CHECK(fit.alpha == Approx(29.0 / 14));  // (1*2 + 2*3 + 3*7) / (1 + 4 + 9)
  const double squares = 62 - 29.0 * 29 / 14;
  CHECK(fit.residual == Approx(std::sqrt(squares / 3)));
  CHECK(fit.r_squared == Approx(1 - squares / 62));
  CHECK(fit.standard_error == Approx(std::sqrt(squares / 2 / 14)));
  CHECK(fit.high - fit.alpha == Approx(4.30265 * fit.standard_error).epsilon(1e-4));
  CHECK(fit.alpha - fit.low == Approx(fit.high - fit.alpha));

  CHECK(fit_sensitivity(std::vector<NoisePoint>{{1, -2}}).alpha == -2);
  CHECK(fit_sensitivity(std::vector<NoisePoint>{{1, -2}}).high == HUGE_VAL);
  for (const std::vector<NoisePoint>& bad :
       {std::vector<NoisePoint>{}, {{0, 0}}, {{-1, 2}}, {{1, HUGE_VAL}}, {{std::nan(""), 1}}})
    CHECK_THROWS_AS(fit_sensitivity(bad), higgs::InvalidArgument);
}

TEST_CASE("Student's quantiles are those of the tables", "[allocate][sensitivity]") {
  // Two-sided 95 %.
  for (const auto& [freedom, t, tolerance] :
       std::vector<std::tuple<std::size_t, double, double>>{{1, 12.7062, 1e-5},
                                                            {2, 4.30265, 1e-5},
                                                            {3, 3.18245, 1e-2},
                                                            {4, 2.77645, 3e-3},
                                                            {9, 2.26216, 1e-4},
                                                            {14, 2.14479, 1e-5},
                                                            {100, 1.98397, 1e-5}})
    CHECK(higgs::detail::student_95(freedom) == Approx(t).epsilon(tolerance));
}

TEST_CASE("the interval holds the truth nineteen times in twenty", "[allocate][sensitivity]") {
  constexpr int trials = 4000;
  for (const int count : {2, 3, 5, 15}) {
    int inside = 0;
    for (int trial = 0; trial < trials; ++trial) {
      std::vector<NoisePoint> points;
      for (int i = 1; i <= count; ++i)
        points.push_back(
            {0.01 * i, 0.07 * i + 0.02 * random_normal(static_cast<std::uint64_t>(count * trials + trial),
                                                       static_cast<std::uint64_t>(i))});
      const Sensitivity fit = fit_sensitivity(points);
      inside += fit.low <= 7 && 7 <= fit.high;
    }
    CAPTURE(count);
    // Binomial: a standard deviation is 0.34 %.
    CHECK(static_cast<double>(inside) / trials == Approx(0.95).margin(0.018));
  }
}

TEST_CASE("a quadratic loss gives the sensitivity that its Hessian predicts", "[allocate][sensitivity]") {
  // loss = sum h_i w_i^2 / 2 around its minimum: alpha = ||w||^2 / (2 d) * sum h_i, the paper's closed form.
  constexpr std::int64_t rows = 40, cols = 100;
  const std::vector<float> w = random_weights(rows * cols, 4);
  std::vector<double> h(w.size());
  double trace = 0;
  for (std::size_t i = 0; i < h.size(); ++i) trace += h[i] = std::exp(random_normal(5, i));
  std::vector<ProbedLayer> layers{{"only"}};
  const std::vector<double> levels = noise_levels(15);
  measure_sensitivities(
      layers, levels,
      [&](std::size_t, std::span<const double> all) {
        std::vector<NoisePoint> points;
        std::vector<float> noisy(w.size());
        for (std::size_t j = 0; j < all.size(); ++j) {
          insert_noise({w.data(), rows, cols}, all[j], 100 + j, {noisy.data(), rows, cols});
          double loss = 0;
          for (std::size_t i = 0; i < w.size(); ++i) {
            const double error = static_cast<double>(noisy[i] - w[i]);
            loss += h[i] * error * error / 2;
          }
          points.push_back({all[j], loss});
        }
        return points;
      },
      [](std::size_t) {});
  const double expected = squared(w) / (2.0 * rows * cols) * trace;
  const Sensitivity fit = fit_sensitivity(layers[0].points);
  CHECK(fit.alpha == Approx(expected).epsilon(0.05));
  CHECK(std::fabs(fit.alpha - expected) < 5 * fit.standard_error);
  CHECK(fit.r_squared > 0.99);  // sums of 4,000 squares spread by 4 %
}

TEST_CASE("a measurement that broke off goes on where it stopped", "[allocate][sensitivity]") {
  std::vector<ProbedLayer> layers{{"a"}, {"b"}, {"c"}};
  std::vector<std::size_t> asked, saved;
  const auto run = [&](std::size_t fails_at) {
    measure_sensitivities(
        layers, std::vector<double>{0.1, 0.2},
        [&](std::size_t i, std::span<const double> levels) {
          if (i == fails_at) throw std::runtime_error("killed");
          asked.push_back(i);
          return std::vector<NoisePoint>{{levels[0], 1}, {levels[1], 2}};
        },
        [&](std::size_t i) { saved.push_back(i); });
  };
  CHECK_THROWS_AS(run(1), std::runtime_error);
  CHECK(layers[0].points.size() == 2);
  CHECK(layers[1].points.empty());
  run(99);
  CHECK(asked == std::vector<std::size_t>{0, 1, 2});
  CHECK(saved == asked);
  run(0);  // nothing is left to do

  layers[2].points.clear();
  const auto ignore = [](std::size_t) {};
  const auto none = [](std::size_t, std::span<const double>) { return std::vector<NoisePoint>{}; };
  CHECK_THROWS_AS(measure_sensitivities(layers, std::vector<double>{0.1}, none, ignore),
                  higgs::InvalidArgument);
  CHECK_THROWS_AS(measure_sensitivities(layers, std::vector<double>{}, none, ignore), higgs::InvalidArgument);
  CHECK_THROWS_AS(measure_sensitivities(layers, std::vector<double>{0.0}, none, ignore),
                  higgs::InvalidArgument);
}
