// SPDX-License-Identifier: Apache-2.0
// Makes the tables of window codes: the ones that ship come from here.
#pragma once

#include <higgs/codes/window/viterbi.hpp>
#include <higgs/codes/window/window.hpp>
#include <higgs/config.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/random.hpp>
#include <higgs/encode/nearest.hpp>
#include <higgs/fit/fit_grid.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <mutex>
#include <numbers>
#include <span>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {

/// How hard fit_window() searches; the defaults take a minute of one core.
struct WindowFitOptions {
  std::uint64_t seed = 1;  ///< seed of the random points and weights
  int starts = 4;          ///< tables that begin as random points; the best is polished
  int steps = 100;         ///< Lloyd steps of each
  int polish_steps = 100;  ///< Lloyd steps at the end, on 8 times as many weights
  int log2_weights = 18;   ///< weights of a step, 12 to 24, fresh for each step
  double heat = 1.0;  ///< first random displacement of the weights, in units of the root mean squared error
  int log2_measured = 23;  ///< weights that measure the result, none of which the fit has seen
  std::function<void(const FitProgress&)> progress =
      {};  ///< phases "anneal" (once a start), "polish" and "round"
};

/// A fitted table: points of WindowCode<SymbolBits> in steps of `step`.
template <int SymbolBits>
struct FittedWindow {
  typename WindowCode<SymbolBits>::Points integers{};  ///< the table
  double step = 0;                                     ///< size of an integer in standard deviations
  double mse = 0;             ///< by groups of 1024 weights of N(0, 1), each from its start
  double standard_error = 0;  ///< the standard error of `mse`

  /// The code with this table.
  WindowCode<SymbolBits> code() const { return {integers, step, mse}; }
};

/// The squared error of a code on weights of N(0, 1), with its standard error, over 2^log2_weights weights in groups of
/// `group`. Groups have no scale of their own: the step is the code's.
struct WindowError {
  double mse = 0;             ///< squared error over squared weight
  double standard_error = 0;  ///< the standard error of `mse`
};
template <int SymbolBits>
WindowError measure_window(const WindowCode<SymbolBits>& code, int log2_weights = 23,
                           std::int64_t group = 1024, std::uint64_t seed = 0x6d656173,
                           Executor& executor = default_executor());

/// Lloyd's method on the trellis: encode fresh weights of N(0, 1), move each point to the mean of the weights that chose
/// it, with their signs undone. A start is annealed: the encoder sees weights with noise that fades. The result is the
/// same on every machine and number of threads where std::log, std::sqrt and std::cos are. Throws InvalidArgument for
/// options out of range.
template <int SymbolBits>
FittedWindow<SymbolBits> fit_window(const WindowFitOptions& options = {},
                                    Executor& executor = default_executor());

// Implementation.

namespace detail {

/// Points as real numbers, and Lloyd's method on them. Numbers are in units of `step`.
template <int K>
class WindowFitter {
 public:
  static constexpr std::size_t group = 1024, size = WindowCode<K>::size;
  static constexpr double unit = 4;  // weights and points are whole fourths of a step while they are encoded

  struct Table {
    std::array<std::array<double, 2>, size> points{};  // in steps
    double step = 0;                                   // in standard deviations
  };

  WindowFitter(std::uint64_t seed, Executor& executor) : seed_(seed), executor_(executor) {}

  /// Points of N(0, 1 - rate-distortion bound).
  static Table random_table(std::uint64_t seed) {
    Table out;
    out.step = reach / 127;
    const double deviation = std::sqrt(1 - std::exp2(-static_cast<double>(K)));
    for (std::size_t i = 0; i < size; ++i)
      for (std::size_t d = 0; d < 2; ++d)
        out.points[i][d] = std::clamp(deviation * random_normal(seed, 2 * i + d) / out.step, -127.0, 127.0);
    return out;
  }

  /// One step on 2^log2_weights fresh weights; the mean squared error before it. `noise`: in standard deviations.
  double lloyd_step(Table& table, int log2_weights, double noise) {
    const Sums sums = gather(table, log2_weights, noise);
    for (std::size_t i = 0; i < size; ++i) {
      if (sums.count[i] == 0) {  // nobody chose it: it begins anew beside one that many chose
        const auto most = static_cast<std::size_t>(std::max_element(sums.count.begin(), sums.count.end()) -
                                                   sums.count.begin());
        for (std::size_t d = 0; d < 2; ++d)
          table.points[i][d] = table.points[most][d] + random_normal(seed_ ^ ++used_, i + d);
        continue;
      }
      for (std::size_t d = 0; d < 2; ++d)
        table.points[i][d] = std::clamp(
            static_cast<double>(sums.sum[i][d]) / static_cast<double>(sums.count[i]) / unit, -127.0, 127.0);
    }
    const double units = unit / table.step;
    return static_cast<double>(sums.error) / static_cast<double>(std::size_t{1} << log2_weights) /
           (units * units);
  }

  static constexpr double reach = 4;  // largest coordinate of a random table, in standard deviations

 private:
  struct Sums {
    std::array<std::array<std::int64_t, 2>, size> sum{};
    std::array<std::int64_t, size> count{};
    std::int64_t error = 0;
    void add(const Sums& other) {
      for (std::size_t i = 0; i < size; ++i) {
        count[i] += other.count[i];
        for (std::size_t d = 0; d < 2; ++d) sum[i][d] += other.sum[i][d];
      }
      error += other.error;
    }
  };

  Sums gather(const Table& table, int log2_weights, double noise) {
    std::array<std::array<int, 2>, size> whole;
    for (std::size_t i = 0; i < size; ++i)
      for (std::size_t d = 0; d < 2; ++d)
        whole[i][d] = static_cast<int>(std::lrint(unit * table.points[i][d]));
    // |p|^2 - 2 y p, all integers.
    const WindowEncoder<K> encoder(cpu::WindowPoints<K>([&](int window) {
      const auto [x, y] = whole[static_cast<std::size_t>(window)];
      return std::array<float, 3>{static_cast<float>(2 * x), static_cast<float>(2 * y),
                                  static_cast<float>(x * x + y * y)};
    }));
    const std::uint64_t seed = random_bits(seed_, ++used_);
    const double units = unit / table.step;
    Sums total;
    std::mutex lock;
    parallel_for(executor_, std::int64_t{1} << log2_weights >> 10, 16,
                 [&](std::int64_t begin, std::int64_t end) {
                   Sums own;
                   std::vector<float> weights(group), seen(group);
                   std::vector<typename WindowCode<K>::Symbol> symbols(group / 2);
                   for (std::int64_t g = begin; g < end; ++g) {
                     for (std::size_t i = 0; i < group; ++i) {
                       const std::uint64_t at = static_cast<std::uint64_t>(g) * group + i;
                       const double weight = random_normal(seed, at);
                       const auto round = [&](double x) {
                         return static_cast<float>(std::clamp(std::rint(x * units), -limit, limit));
                       };
                       weights[i] = seen[i] = round(weight);
                       if (noise > 0) seen[i] = round(weight + noise * random_normal(~seed, at));
                     }
                     encoder.encode(seen, symbols);
                     unsigned window = 0, signs = 0;
                     for (std::size_t t = 0; t < symbols.size(); ++t) {
                       window = WindowCode<K>::next_window(window, symbols[t]);
                       const unsigned negated = WindowCode<K>::negated(signs);
                       for (std::size_t d = 0; d < 2; ++d) {
                         const auto weight = static_cast<std::int64_t>(weights[2 * t + d]);
                         const std::int64_t y = (negated >> d & 1u) != 0 ? -weight : weight,
                                            miss = y - whole[window][d];
                         own.sum[window][d] += y;
                         own.error += miss * miss;
                       }
                       ++own.count[window];
                       signs = signs << 1 | window >> (WindowCode<K>::window_bits - 1);
                     }
                   }
                   const std::lock_guard guard(lock);
                   total.add(own);
                 });
    return total;
  }

  static constexpr double limit = 700;  // keeps distances below 2^21; five standard deviations and more
  std::uint64_t seed_, used_ = 0;
  Executor& executor_;
};

/// The best of the steps within 5 % of the code's. Rounded points are noisy, so their best step is a little larger than that
/// of the points before.
template <int SymbolBits>
double best_step(const WindowCode<SymbolBits>& code, int log2_weights, std::uint64_t seed,
                 Executor& executor) {
  double best = code.step(), least = std::numeric_limits<double>::infinity();
  for (int i = -10; i <= 10; ++i) {
    const double step = code.step() * (1 + i / 200.0);
    const double mse = measure_window(WindowCode<SymbolBits>(code.points(), step, 0), log2_weights, 1024,
                                      seed ^ 0x73746570, executor)
                           .mse;
    if (mse < least) least = mse, best = step;
  }
  return best;
}

}  // namespace detail

template <int SymbolBits>
WindowError measure_window(const WindowCode<SymbolBits>& code, int log2_weights, std::int64_t group,
                           std::uint64_t seed, Executor& executor) {
  using Code = WindowCode<SymbolBits>;
  expects(log2_weights >= 12 && log2_weights <= 40 && group >= 2 && group % 2 == 0,
          "higgs::measure_window: log2_weights must lie in [12, 40], and group be even");
  const std::int64_t groups = (std::int64_t{1} << log2_weights) / group;
  const WindowEncoder<SymbolBits> encoder(code);
  const double units = (1 << Code::fraction_bits) / code.step();
  std::vector<double> errors(static_cast<std::size_t>(groups)), norms(errors.size());
  parallel_for(executor, groups, 16, [&](std::int64_t begin, std::int64_t end) {
    const auto count = static_cast<std::size_t>(group);
    std::vector<float> fixed(count);
    std::vector<double> weights(count);
    std::vector<typename Code::Symbol> symbols(count / 2);
    std::vector<std::int8_t> values(count);
    for (std::int64_t g = begin; g < end; ++g) {
      for (std::size_t i = 0; i < count; ++i) {
        weights[i] = random_normal(seed, static_cast<std::uint64_t>(g) * count + i);
        constexpr auto limit = static_cast<double>(fixed_limit<Code>);
        fixed[i] = static_cast<float>(std::clamp(std::rint(weights[i] * units), -limit, limit));
      }
      encoder.encode(fixed, symbols);
      code.decode(symbols, values);
      double error = 0, norm = 0;
      for (std::size_t i = 0; i < count; ++i) {
        error += std::pow(weights[i] - code.step() * values[i], 2);
        norm += weights[i] * weights[i];
      }
      errors[static_cast<std::size_t>(g)] = error;
      norms[static_cast<std::size_t>(g)] = norm;
    }
  });
  // The ratio of two sums: most of the sample's own deviation cancels.
  double error = 0, norm = 0, square = 0;
  for (std::size_t g = 0; g < errors.size(); ++g) error += errors[g], norm += norms[g];
  WindowError out{.mse = error / norm};
  for (std::size_t g = 0; g < errors.size(); ++g) square += std::pow(errors[g] - out.mse * norms[g], 2);
  out.standard_error = std::sqrt(square) / norm;
  return out;
}

template <int SymbolBits>
FittedWindow<SymbolBits> fit_window(const WindowFitOptions& options, Executor& executor) {
  expects(options.starts >= 1 && options.steps >= 1 && options.polish_steps >= 0 &&
              options.log2_weights >= 12 && options.log2_weights <= 24 && options.heat >= 0 &&
              options.log2_measured >= 12,
          "higgs::fit_window: starts and steps must be at least 1, and log2_weights lie in [12, 24]");
  using Fitter = detail::WindowFitter<SymbolBits>;
  using Table = typename Fitter::Table;
  const auto tell = [&](const char* phase, int start, double done, double mse) {
    if (options.progress) options.progress({phase, start, done, mse});
  };
  Table best;
  double least = std::numeric_limits<double>::infinity();
  for (int start = 0; start < options.starts; ++start) {
    const std::uint64_t seed = random_bits(options.seed, static_cast<std::uint64_t>(start));
    Fitter fitter(seed, executor);
    Table table = Fitter::random_table(seed);
    double mse = 0, noise = options.heat * std::exp2(-0.5 * SymbolBits);
    const int cool = std::max(1, options.steps * 4 / 5);
    for (int step = 0; step < options.steps; ++step) {
      const double left = std::max(0.0, 1 - static_cast<double>(step) / cool);
      mse = fitter.lloyd_step(table, options.log2_weights, noise * left * left);
      tell("anneal", start, (step + 1.0) / options.steps, mse);
    }
    mse = Fitter(seed ^ 1, executor).lloyd_step(table, options.log2_weights + 2, 0);
    if (mse < least) least = mse, best = table;
  }
  Fitter fitter(~options.seed, executor);
  for (int step = 0; step < options.polish_steps; ++step)
    tell("polish", 0, (step + 1.0) / options.polish_steps,
         fitter.lloyd_step(best, std::min(options.log2_weights + 3, 24), 0));
  // A smaller step rounds less and cuts more of the outermost points.
  double reach = 0;
  for (const auto& point : best.points) reach = std::max({reach, std::fabs(point[0]), std::fabs(point[1])});
  FittedWindow<SymbolBits> out;
  out.mse = std::numeric_limits<double>::infinity();
  constexpr int tries = 8;
  for (int i = 0; i < tries; ++i) {
    Table table = best;
    table.step = best.step * reach / 127 * (1 - 0.04 * i);
    for (auto& point : table.points)
      for (double& c : point) c = std::clamp(c * best.step / table.step, -127.0, 127.0);
    for (int step = 0; step < 4 && options.polish_steps > 0; ++step)
      fitter.lloyd_step(table, std::min(options.log2_weights + 3, 24), 0);
    FittedWindow<SymbolBits> rounded{.step = table.step};
    for (std::size_t k = 0; k < rounded.integers.size(); ++k)
      for (std::size_t d = 0; d < 2; ++d)
        rounded.integers[k][d] = static_cast<std::int8_t>(std::lrint(table.points[k][d]));
    rounded.mse = measure_window(WindowCode<SymbolBits>(rounded.integers, rounded.step, 0),
                                 options.log2_measured - 2, 1024, options.seed ^ 0x726f756e, executor)
                      .mse;
    tell("round", i, (i + 1.0) / tries, rounded.mse);
    if (rounded.mse < out.mse) out = rounded;
  }
  out.step = detail::best_step(out.code(), options.log2_measured - 2, options.seed, executor);
  const WindowError error =
      measure_window(out.code(), options.log2_measured, 1024, options.seed ^ 0x6d656173, executor);
  out.mse = error.mse, out.standard_error = error.standard_error;
  return out;
}

}  // namespace v0
}  // namespace higgs
