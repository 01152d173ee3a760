// SPDX-License-Identifier: Apache-2.0
// Makes Gaussian-optimal grids: the tables that ship come from here, and so can any other pair of Dim and Size.
#pragma once

#include <higgs/codes/grid/grid.hpp>
#include <higgs/config.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/random.hpp>
#include <higgs/fit/fit_line.hpp>
#include <higgs/fit/gaussian_cloud.hpp>
#include <higgs/fit/measure_grid.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <mutex>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {

/// Where a fit stands: `done` runs from 0 to 1 in each of the phases "anneal" (once a start), "polish" and "round";
/// `mse` is the error by the integration points in use.
struct FitProgress {
  const char* phase;
  int start;
  double done;
  double mse;
};

/// How hard `fit_grid` searches; the defaults take seconds. One dimension is exact and heeds `limit` alone.
struct FitOptions {
  std::uint64_t seed = 1;
  int starts = 4;         ///< annealed runs; the best is polished
  int steps = 400;        ///< Lloyd steps of a run
  int polish_steps = 60;  ///< Lloyd steps without noise at the end
  double heat = 0.5;      ///< first random displacement, in units of the root mean squared error
  int log2_samples =
      20;             ///< integration points of a polishing step, 12 ... 24; a step of a run uses a sixteenth
  int rotations = 8;  ///< orientations in which rounding to integers is tried
  int stages = 0;     ///< parts in which points become integers, the others making up for it; 0: all at once
  int rounds = 40;    ///< times that moves of single coordinates improve the integers
  int limit =
      0;  ///< greatest integer; 0: 127, or where Element has 16 bits 2047 (exact in fp16), past 256 points 32767
  MeasureOptions measure = {};
  std::function<void(const FitProgress&)> progress = {};
};

/// A fitted grid: point k of `points` became step * integers[k]. The integers ascend in lexicographic order.
template <int Dim, int Size>
struct FittedGrid {
  std::vector<std::array<double, detail::extent<Dim>>> points;
  GridError points_error;
  typename GridCodebook<Dim, Size>::Points integers{};
  double step = 0.0;
  GridError error;  ///< error of the integers with cells of their own

  GridCodebook<Dim, Size> codebook() const { return {integers, step, error.mse}; }
};

namespace detail {

/// One of the 2^Dim Dim! signed permutations of the axes. N(0, I) does not notice them, a cloud does: they make many
/// rules out of one, without rounding.
template <int Dim>
class AxisShuffle {
 public:
  AxisShuffle() { std::iota(axis_.begin(), axis_.end(), std::size_t{0}), sign_.fill(1); }
  explicit AxisShuffle(std::uint64_t seed) : AxisShuffle() {
    for (std::size_t d = 0; d < Dim; ++d) {
      std::swap(axis_[d], axis_[d + random_bits(seed, 2 * d) % (Dim - d)]);
      if (random_bits(seed, 2 * d + 1) & 1u) sign_[d] = -1;
    }
  }
  Centers<Dim> apply(const Centers<Dim>& centers) const {
    Centers<Dim> shuffled(centers.size());
    for (std::size_t k = 0; k < centers.size(); ++k) {
      for (std::size_t d = 0; d < Dim; ++d) shuffled[k][d] = sign_[d] * centers[k][axis_[d]];
    }
    return shuffled;
  }
  /// Adds `cells` of shuffled centers to `total`, in the axes of the centers themselves.
  void gather(const Cells<Dim>& cells, Cells<Dim>& total) const {
    for (std::size_t k = 0; k < cells.mass.size(); ++k) {
      total.mass[k] += cells.mass[k];
      for (std::size_t d = 0; d < Dim; ++d) total.sum[k][axis_[d]] += sign_[d] * cells.sum[k][d];
    }
  }

 private:
  std::array<std::size_t, extent<Dim>> axis_{};
  std::array<int, extent<Dim>> sign_{};
};

/// Whole coordinates for centers that `fit` has found.
template <int Dim>
struct RoundedGrid {
  Centers<Dim> points;  // as they were before, perhaps turned
  std::vector<std::array<int, extent<Dim>>> integers;
  double step = 0.0;
  double loss = 0.0;  // in mean squared error against `points`, by the same cloud: its own error cancels

  Centers<Dim> centers() const {
    Centers<Dim> result(integers.size());
    for (std::size_t k = 0; k < result.size(); ++k) {
      for (std::size_t d = 0; d < Dim; ++d) result[k][d] = step * integers[k][d];
    }
    return result;
  }
};

/// The search for one grid in Dim >= 2 dimensions.
template <int Dim>
class GridFitter {
 public:
  GridFitter(std::size_t size, const FitOptions& options, Executor& executor)
      : size_(size), options_(options), executor_(executor) {
    if constexpr (Dim == 2) {
      // A coarse rule would be exploited: borders that run along its axes err all alike. So it serves runs alone.
      coarse_.push_back(GaussianCloud<2>::midpoints(midpoint_density(options.log2_samples - 4)));
      clouds_.push_back(GaussianCloud<2>::midpoints(midpoint_density(options.log2_samples)));
    } else {
      for (std::uint64_t i = 0; i < 16; ++i) {
        clouds_.push_back(
            GaussianCloud<Dim>::quasi_random(random_bits(options.seed, i), options.log2_samples - 4));
      }
    }
  }

  /// The best of the annealed runs, polished.
  Centers<Dim> fit() {
    Centers<Dim> best;
    double best_mse = std::numeric_limits<double>::infinity();
    for (int start = 0; start < options_.starts; ++start) {
      Centers<Dim> centers = anneal(start);
      const double mse = descend(centers, start, 12);
      if (mse < best_mse) best_mse = mse, best = centers;
    }
    descend(best, -1, options_.polish_steps);
    return best;
  }

  /// Integers of at most `limit` for the centers: several orientations and steps are rounded, then the best are improved
  /// by moves of single coordinates.
  RoundedGrid<Dim> round(const Centers<Dim>& centers, int limit) {
    std::vector<RoundedGrid<Dim>> trials;
    for (int turn = 0; turn < options_.rotations; ++turn) {
      const Centers<Dim> turned =
          turn == 0 ? centers
                    : reflect(centers, random_bits(options_.seed, 500 + static_cast<std::uint64_t>(turn)));
      double greatest = 0.0;
      for (const auto& center : turned) {
        for (const double x : center) greatest = std::max(greatest, std::abs(x));
      }
      const double unrounded = error(turned, 1);
      for (int finer = -5; finer <= (options_.stages > 0 ? 16 : 10); ++finer) {
        RoundedGrid<Dim> trial{turned, {}, snap(greatest / limit * (1.0 - 0.02 * finer))};
        for (const auto& center : turned)
          trial.integers.push_back(nearest_integers(center, trial.step, limit));
        trial.loss = error(trial.centers(), 1) - unrounded;
        trials.push_back(std::move(trial));
      }
      report("round", 0, turn, 2 * options_.rotations, unrounded);
    }
    const auto better = [](const auto& a, const auto& b) {
      return std::pair(a.loss, a.step) < std::pair(b.loss, b.step);
    };
    std::sort(trials.begin(), trials.end(), better);
    trials.resize(Dim == 2 ? 4 : 1);  // in the plane an improvement is quick
    for (RoundedGrid<Dim>& trial : trials) {
      if (options_.stages > 0) settle(trial, limit);
      improve(trial, limit);
    }
    const RoundedGrid<Dim> best = *std::min_element(trials.begin(), trials.end(), better);
    return best;
  }

 private:
  std::uint64_t seed(int start, int what) const {
    return random_bits(options_.seed,
                       1000 + 4 * static_cast<std::uint64_t>(start + 1) + static_cast<std::uint64_t>(what));
  }
  void report(const char* phase, int start, int step, int steps, double mse) const {
    if (options_.progress) options_.progress({phase, start, static_cast<double>(step) / steps, mse});
  }

  /// Points with the optimal density of many points, that of N(0, (Dim + 2) / Dim) (Zador 1982).
  Centers<Dim> scatter_points(std::uint64_t seed) const {
    Centers<Dim> centers(size_);
    Sobol<Dim> sequence(seed);
    const double spread = 0.9 * std::sqrt((Dim + 2.0) / Dim) * 0x1p-12;
    for (auto& center : centers) {
      const auto u = sequence.next();
      for (std::size_t d = 0; d < Dim; ++d) {
        const double x = spread * HalfNormal::instance()(u[d] & 0x7fffffffu);
        center[d] = inside(snap((u[d] >> 31) != 0 ? -x : x));
      }
    }
    return centers;
  }
  static double inside(double x) { return std::clamp(x, -7.5, 7.5); }

  /// Moves the centers `gain` times the way to the centroids of their cells. Factors with few bits keep this exact.
  static void step_toward(const Cells<Dim>& cells, double gain, Centers<Dim>& centers) {
    for (std::size_t k = 0; k < centers.size(); ++k) {
      if (cells.mass[k] == 0) continue;
      for (std::size_t d = 0; d < Dim; ++d) {
        const double mean =
            static_cast<double>(cells.sum[k][d]) / static_cast<double>(cells.mass[k]) * 0x1p-12;
        centers[k][d] = inside(centers[k][d] + gain * (snap(mean) - centers[k][d]));
        centers[k][d] = snap(centers[k][d]);
      }
    }
  }

  /// Lloyd steps, lengthened by half, with noise that falls to nothing: it carries the grid over low barriers.
  Centers<Dim> anneal(int start) {
    Centers<Dim> centers = scatter_points(seed(start, 0));
    for (int step = 0; step < options_.steps; ++step) {
      const auto counter = static_cast<std::uint64_t>(step);
      const auto& cloud = Dim == 2 ? coarse_[0] : clouds_[counter % clouds_.size()];
      const AxisShuffle<Dim> shuffle(random_bits(seed(start, 1), counter));
      const Centers<Dim> shuffled = shuffle.apply(centers);
      const Cells<Dim> part = cloud.divide(shuffled, executor_);
      const double mse = cloud.error(shuffled, part);
      Cells<Dim> cells(size_);
      shuffle.gather(part, cells);
      step_toward(cells, 1.5, centers);
      const double left = 1.0 - static_cast<double>(step) / options_.steps;
      const double amplitude = 2 * options_.heat * std::sqrt(mse) * left;
      const std::uint64_t noise = random_bits(seed(start, 2), counter);
      for (std::size_t k = 0; k < size_; ++k) {
        for (std::size_t d = 0; d < Dim; ++d) {
          centers[k][d] =
              inside(centers[k][d] + snap(amplitude * (random_uniform(noise, k * Dim + d) - 0.5)));
        }
      }
      if (step % 16 == 0) report("anneal", start, step, options_.steps, mse);
    }
    return centers;
  }

  /// Lloyd steps by all clouds at once; returns the error of the last centers but one.
  double descend(Centers<Dim>& centers, int start, int steps) {
    double mse = 0.0;
    for (int step = 0; step < steps; ++step) {
      Cells<Dim> cells(size_);
      mse = 0.0;
      for (std::size_t i = 0; i < clouds_.size(); ++i) {
        const AxisShuffle<Dim> shuffle(
            random_bits(seed(start, 3), static_cast<std::uint64_t>(step) * 16 + i));
        const Centers<Dim> shuffled = shuffle.apply(centers);
        const Cells<Dim> part = clouds_[i].divide(shuffled, executor_);
        mse += clouds_[i].error(shuffled, part) / static_cast<double>(clouds_.size());
        shuffle.gather(part, cells);
      }
      // Long steps go far along flat directions. The last third settles: by the mean over all clouds so far where the
      // clouds differ from step to step.
      const int settling = step - steps * 2 / 3;
      const double gain = Dim == 2 || settling < 1 ? 1.0 : std::floor(1024.0 / settling) / 1024;
      step_toward(cells, settling < 0 ? 1.8125 : gain, centers);
      if (start < 0) report("polish", 0, step, steps, mse);
    }
    return mse;
  }

  /// The mirror image in a random direction.
  static Centers<Dim> reflect(Centers<Dim> centers, std::uint64_t seed) {
    std::array<double, extent<Dim>> normal;  // small integers, so that products with coordinates are exact
    double square = 0.0;
    for (std::size_t d = 0; d < Dim; ++d) {
      normal[d] = static_cast<double>(random_bits(seed, d) % 2001) - 1000.0;
      square += normal[d] * normal[d];
    }
    for (auto& center : centers) {
      double product = 0.0;
      for (std::size_t d = 0; d < Dim; ++d) product += normal[d] * center[d];
      for (std::size_t d = 0; d < Dim; ++d)
        center[d] = snap(std::fma(-2 * product / square, normal[d], center[d]));
    }
    return centers;
  }

  static std::array<int, extent<Dim>> nearest_integers(const std::array<double, extent<Dim>>& center,
                                                       double step, int limit) {
    std::array<int, extent<Dim>> integers;
    for (std::size_t d = 0; d < Dim; ++d)
      integers[d] = std::clamp(static_cast<int>(std::floor(center[d] / step + 0.5)), -limit, limit);
    return integers;
  }

  /// Replaces the integers of a grid: in each stage those centers become integers that lie outside of the range, then
  /// those next to integers; Lloyd steps of the others follow.
  void settle(RoundedGrid<Dim>& grid, int limit) const {
    Centers<Dim> centers = grid.points;
    std::vector<std::size_t> open(size_);
    std::iota(open.begin(), open.end(), std::size_t{0});
    for (int stage = 1; stage <= options_.stages; ++stage) {
      std::vector<double> away(size_);
      for (const std::size_t k : open) {
        grid.integers[k] = nearest_integers(centers[k], grid.step, limit);
        for (std::size_t d = 0; d < Dim; ++d) {
          const double distance = std::abs(centers[k][d] - grid.step * grid.integers[k][d]);
          away[k] += distance <= grid.step ? distance * distance : -1.0;
        }
      }
      std::sort(open.begin(), open.end(),
                [&](std::size_t a, std::size_t b) { return std::pair(away[a], a) < std::pair(away[b], b); });
      const std::size_t left =
          size_ - size_ * static_cast<std::size_t>(stage) / static_cast<std::size_t>(options_.stages);
      for (const std::size_t k : std::span(open).first(open.size() - left))
        for (std::size_t d = 0; d < Dim; ++d) centers[k][d] = grid.step * grid.integers[k][d];
      open.erase(open.begin(), open.end() - static_cast<std::ptrdiff_t>(left));
      for (int step = 0; step < 3 && left > 0; ++step) {
        Cells<Dim> cells(size_), of_open(size_);
        for (const auto& cloud : clouds_) AxisShuffle<Dim>().gather(cloud.divide(centers, executor_), cells);
        for (const std::size_t k : open) of_open.mass[k] = cells.mass[k], of_open.sum[k] = cells.sum[k];
        step_toward(of_open, 1.5, centers);
      }
    }
  }

  /// By the first `count` clouds.
  double error(const Centers<Dim>& centers, std::size_t count) const {
    double mse = 0.0;
    for (std::size_t i = 0; i < count; ++i) {
      mse += clouds_[i].error(centers, clouds_[i].divide(centers, executor_)) / static_cast<double>(count);
    }
    return mse;
  }

  /// Moves coordinates by one while that lowers the error by all clouds. Moves of neighbours meddle with each other:
  /// where all together fail, half of them are tried, those that gain most alone.
  void improve(RoundedGrid<Dim>& grid, int limit) {
    const double unrounded = error(grid.points, clouds_.size());
    grid.loss = error(grid.centers(), clouds_.size()) - unrounded;
    std::size_t at_once = size_;
    for (int round = 0; round < options_.rounds; ++round) {
      const std::vector<Move> moves = gainful_moves(grid, limit);
      bool better = false;
      at_once = std::min(2 * at_once, moves.size());
      for (; at_once > 0 && !better; at_once /= 2) {
        RoundedGrid<Dim> next = grid;
        for (std::size_t i = 0; i < at_once; ++i)
          next.integers[moves[i].center][moves[i].axis] += moves[i].sign;
        next.step = best_step(next);
        next.loss = error(next.centers(), clouds_.size()) - unrounded;
        better = next.loss < grid.loss - 1e-6 * unrounded;
        if (better) grid = std::move(next);
      }
      report("round", 0, options_.rounds + round, 2 * options_.rounds, unrounded + grid.loss);
      if (!better) break;
      at_once *= 2;
    }
  }

  /// The step that suits the cells of the step in use.
  double best_step(const RoundedGrid<Dim>& grid) const {
    const Centers<Dim> centers = grid.centers();
    double product = 0.0, square = 0.0;
    for (const auto& cloud : clouds_) {
      const Cells<Dim> cells = cloud.divide(centers, executor_);
      for (std::size_t k = 0; k < size_; ++k) {
        std::int64_t norm = 0;
        double along = 0.0;
        for (std::size_t d = 0; d < Dim; ++d) {
          norm += std::int64_t{grid.integers[k][d]} * grid.integers[k][d];
          along = std::fma(grid.integers[k][d], static_cast<double>(cells.sum[k][d]), along);
        }
        product += along;
        square = std::fma(static_cast<double>(norm), static_cast<double>(cells.mass[k]), square);
      }
    }
    return snap(product / square * 0x1p-12);
  }

  struct Move {
    std::int64_t gain;
    std::size_t center, axis;
    int sign;
  };

  /// The best move of each center that gains anything by itself, the greatest gain first. A sample is taken to stay with
  /// one of its two nearest centers, so that gains are underrated.
  std::vector<Move> gainful_moves(const RoundedGrid<Dim>& grid, int limit) const {
    const Centers<Dim> centers = grid.centers();
    const double step = grid.step, penalty = 0.5 * step * step;
    // Gains are summed as integers: any order gives the same sum, and the sum of all stays below 2^63.
    const double unit = std::ldexp(1.0, std::min(22, 60 - std::ilogb(clouds_[0].mass())));
    const auto whole = [unit](double gain) {
      return static_cast<std::int64_t>(std::floor(gain * unit + 0.5));
    };
    using Gains = std::vector<std::array<std::array<std::int64_t, 2>, extent<Dim>>>;
    Gains total(size_);
    std::mutex mutex;
    for (const auto& cloud : clouds_) {
      executor_.run(cloud.tasks(), [&](std::int64_t task) {
        Gains gains(size_);
        cloud.visit_nearest_two(
            task, centers, [&](const auto& sample, std::size_t a, std::size_t b, double lead) {
              for (std::size_t d = 0; d < Dim; ++d) {
                const double to_a = step * (sample.x[d] * 0x1p-12 - centers[a][d]);
                const double to_b = step * (sample.x[d] * 0x1p-12 - centers[b][d]);
                gains[a][d][0] += sample.mass * whole(std::max(-to_a - penalty, -lead));
                gains[a][d][1] += sample.mass * whole(std::max(to_a - penalty, -lead));
                gains[b][d][0] += sample.mass * whole(std::max(-to_b - penalty - lead, 0.0));
                gains[b][d][1] += sample.mass * whole(std::max(to_b - penalty - lead, 0.0));
              }
            });
        const std::lock_guard lock(mutex);
        for (std::size_t k = 0; k < size_; ++k) {
          for (std::size_t d = 0; d < Dim; ++d) {
            for (const std::size_t up : {0u, 1u}) total[k][d][up] += gains[k][d][up];
          }
        }
      });
    }
    std::vector<Move> moves;
    for (std::size_t k = 0; k < size_; ++k) {
      Move best{0, k, 0, 0};
      for (std::size_t d = 0; d < Dim; ++d) {
        for (const int sign : {-1, 1}) {
          const std::int64_t gain = total[k][d][sign < 0 ? 0 : 1];
          if (gain > best.gain && std::abs(grid.integers[k][d] + sign) <= limit) best = {gain, k, d, sign};
        }
      }
      if (best.gain > 0) moves.push_back(best);
    }
    std::sort(moves.begin(), moves.end(), [](const Move& a, const Move& b) {
      return a.gain != b.gain ? a.gain > b.gain : a.center < b.center;
    });
    return moves;
  }

  std::size_t size_;
  const FitOptions& options_;
  Executor& executor_;
  std::vector<GaussianCloud<Dim>> coarse_;  // clouds for runs in the plane
  std::vector<GaussianCloud<Dim>> clouds_;
};

}  // namespace detail

/// Makes the grid of `Size` points in `Dim` dimensions that rounds N(0, I) with the least mean squared error. The same
/// options give the same grid on every machine. Throws InvalidArgument where an option is out of its range.
template <int Dim, int Size>
FittedGrid<Dim, Size> fit_grid(const FitOptions& options = {}, Executor& executor = default_executor()) {
  using Element = typename GridCodebook<Dim, Size>::Element;
  expects(options.starts >= 1 && options.steps >= 1 && options.polish_steps >= 0 && options.rotations >= 1 &&
              options.stages >= 0 && options.rounds >= 0,
          "higgs::fit_grid: starts, steps and rotations must be positive, polish_steps, stages and rounds "
          "not negative");
  expects(options.log2_samples >= 12 && options.log2_samples <= 24,
          "higgs::fit_grid: log2_samples must lie in [12, 24]");
  expects(options.heat >= 0 && options.heat <= 10, "higgs::fit_grid: heat must lie in [0, 10]");
  const int greatest = std::numeric_limits<Element>::max();
  const int limit = options.limit != 0 ? options.limit : greatest > 127 && Size <= 256 ? 2047 : greatest;
  expects(limit >= 1 && limit <= greatest, "higgs::fit_grid: limit must be positive and fit the element");

  FittedGrid<Dim, Size> grid;
  detail::RoundedGrid<Dim> rounded;
  if constexpr (Dim == 1) {
    const std::vector<double> line = detail::fit_line(Size);
    const auto [integers, step] = detail::round_line(line, limit);
    expects(!integers.empty(), "higgs::fit_grid: limit leaves fewer integers than points");
    std::vector<double> real;
    for (std::size_t k = 0; k < Size; ++k) {
      rounded.points.push_back({line[k]});
      rounded.integers.push_back({integers[k]});
      real.push_back(step * integers[k]);
    }
    rounded.step = step;
    grid.points_error = detail::measure_line(line);
    grid.error = detail::measure_line(real);
  } else {
    detail::GridFitter<Dim> fitter(Size, options, executor);
    rounded = fitter.round(fitter.fit(), limit);
    const auto errors =
        detail::measure_centers<Dim>({rounded.points, rounded.centers()}, options.measure, executor);
    grid.points_error = errors[0];
    grid.error = errors[1];
  }
  grid.step = rounded.step;

  std::vector<std::size_t> order(Size);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(rounded.integers[a], rounded.points[a]) <
           std::pair(rounded.integers[b], rounded.points[b]);
  });
  for (std::size_t k = 0; k < Size; ++k) {
    grid.points.push_back(rounded.points[order[k]]);
    for (std::size_t d = 0; d < Dim; ++d)
      grid.integers[k][d] = static_cast<Element>(rounded.integers[order[k]][d]);
  }
  return grid;
}

}  // namespace v0
}  // namespace higgs
