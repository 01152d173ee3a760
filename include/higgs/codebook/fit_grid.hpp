// SPDX-License-Identifier: Apache-2.0
// Makes Gaussian-optimal grids: the tables that ship come from here, and so can any other pair of Dim and Size.
#pragma once

#include <higgs/codebook/fit_line.hpp>
#include <higgs/codebook/gaussian_cloud.hpp>
#include <higgs/codebook/grid.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/random.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <mutex>
#include <numbers>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {

/// Where a fit stands: `done` runs from 0 to 1 in each of the phases "anneal" (once a start), "polish" and "round";
/// `mse` is the error by the rule in use.
struct FitProgress {
  const char* phase;
  int start;
  double done;
  double mse;
};

/// How hard `fit_grid` searches. The defaults take seconds; the shipped tables took minutes.
struct FitOptions {
  std::uint64_t seed = 1;
  int starts = 4;         ///< annealed runs; the best is polished
  int steps = 400;        ///< Lloyd steps of a run
  int polish_steps = 60;  ///< Lloyd steps without noise at the end
  double heat = 0.5;      ///< first random displacement, in units of the root mean squared error
  int log2_samples = 18;  ///< integration points of a polishing step; a step of a run uses a sixteenth
  int rotations = 8;      ///< orientations in which rounding to integers is tried
  int repeats = 8;        ///< independent rules that measure the result (3 dimensions and more)
  std::function<void(const FitProgress&)> progress = {};
};

/// A fitted grid. Point k of `points` was rounded to step * integers[k]; the order is that of the integers.
template <int Dim, int Size>
struct FittedGrid {
  std::vector<std::array<double, Dim>> points;
  GridError points_error;
  typename GridCodebook<Dim, Size>::Points integers;
  double step = 0.0;
  GridError error;  ///< of the integers with cells of their own

  GridCodebook<Dim, Size> codebook() const { return {integers, step, error.mse}; }
};

namespace detail {

// ---------------------------------------------------------------------------------------------------------------
// Two dimensions and more: clouds.

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
  std::array<std::size_t, Dim> axis_{};
  std::array<int, Dim> sign_{};
};

/// Whole coordinates for centers that `fit` has found.
template <int Dim>
struct RoundedGrid {
  Centers<Dim> points;  // as they were before, perhaps turned
  std::vector<std::array<int, Dim>> integers;
  double step = 0.0;
  double mse = std::numeric_limits<double>::infinity();
};

/// The search for one grid in Dim >= 2 dimensions.
template <int Dim>
class GridFitter {
 public:
  GridFitter(std::size_t size, const FitOptions& options, Executor& executor)
      : size_(size), options_(options), executor_(executor) {
    if constexpr (Dim == 2) {
      clouds_.push_back(GaussianCloud<2>::midpoints(midpoint_density(options.log2_samples)));
    } else {
      for (std::uint64_t i = 0; i < 16; ++i) {
        clouds_.push_back(GaussianCloud<Dim>::quasi_random(random_bits(options.seed, i), options.log2_samples - 4));
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

  /// Integers of at most `limit` for the centers: several orientations and steps are rounded, the best are improved by
  /// moves of one coordinate.
  RoundedGrid<Dim> round(const Centers<Dim>& centers, int limit) {
    constexpr std::size_t kept = 3;
    std::vector<RoundedGrid<Dim>> trials;
    for (int turn = 0; turn < options_.rotations; ++turn) {
      const Centers<Dim> turned = turn == 0 ? centers : reflect(centers, random_bits(options_.seed, 500 + turn));
      // Errors by the same cloud are compared, so its own error cancels.
      const double unrounded = error(turned, 1);
      double greatest = 0.0;
      for (const auto& center : turned) {
        for (double x : center) greatest = std::max(greatest, std::abs(x));
      }
      for (int finer = -4; finer <= 10; ++finer) {
        RoundedGrid<Dim> trial{turned, {}, snap(greatest / limit * (1.0 - 0.02 * finer)), 0.0};
        for (const auto& center : turned) {
          std::array<int, Dim> integer;
          for (std::size_t d = 0; d < Dim; ++d) {
            integer[d] = std::clamp(static_cast<int>(std::floor(center[d] / trial.step + 0.5)), -limit, limit);
          }
          trial.integers.push_back(integer);
        }
        trial.mse = error(real(trial), 1) - unrounded;
        trials.push_back(std::move(trial));
      }
      report("round", 0, turn, options_.rotations, unrounded);
    }
    std::stable_sort(trials.begin(), trials.end(), [](const auto& a, const auto& b) { return a.mse < b.mse; });
    trials.resize(std::min(kept, trials.size()));
    RoundedGrid<Dim>* best = nullptr;
    for (RoundedGrid<Dim>& trial : trials) {
      improve(trial, limit);
      if (best == nullptr || trial.mse < best->mse) best = &trial;
    }
    return *best;
  }

 private:
  static int midpoint_density(int log2_samples) { return std::clamp((log2_samples - 7) / 2, 1, 8); }

  std::uint64_t seed(int start, int what) const {
    return random_bits(options_.seed, 1000 + 4 * static_cast<std::uint64_t>(start + 1) + static_cast<std::uint64_t>(what));
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
        const double mean = static_cast<double>(cells.sum[k][d]) / static_cast<double>(cells.mass[k]) * 0x1p-12;
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
      const auto& cloud = clouds_[counter % clouds_.size()];
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
          centers[k][d] = inside(centers[k][d] + snap(amplitude * (random_uniform(noise, k * Dim + d) - 0.5)));
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
        const AxisShuffle<Dim> shuffle(random_bits(seed(start, 3), static_cast<std::uint64_t>(step) * 16 + i));
        const Centers<Dim> shuffled = shuffle.apply(centers);
        const Cells<Dim> part = clouds_[i].divide(shuffled, executor_);
        mse += clouds_[i].error(shuffled, part) / static_cast<double>(clouds_.size());
        shuffle.gather(part, cells);
      }
      // Long steps go far along the flat directions, the last ones settle.
      step_toward(cells, steps - step > 6 ? 1.8125 : 1.0, centers);
      if (start < 0) report("polish", 0, step, steps, mse);
    }
    return mse;
  }

  static Centers<Dim> real(const RoundedGrid<Dim>& grid) {
    Centers<Dim> centers(grid.integers.size());
    for (std::size_t k = 0; k < centers.size(); ++k) {
      for (std::size_t d = 0; d < Dim; ++d) centers[k][d] = inside(grid.step * grid.integers[k][d]);
    }
    return centers;
  }

  /// The mirror image in a random direction.
  static Centers<Dim> reflect(Centers<Dim> centers, std::uint64_t seed) {
    std::array<double, Dim> normal;  // small integers, so that products with coordinates are exact
    double square = 0.0;
    for (std::size_t d = 0; d < Dim; ++d) {
      normal[d] = static_cast<double>(random_bits(seed, d) % 2001) - 1000.0;
      square += normal[d] * normal[d];
    }
    for (auto& center : centers) {
      double product = 0.0;
      for (std::size_t d = 0; d < Dim; ++d) product += normal[d] * center[d];
      for (std::size_t d = 0; d < Dim; ++d) center[d] = snap(std::fma(-2 * product / square, normal[d], center[d]));
    }
    return centers;
  }

  /// By the first `count` clouds.
  double error(const Centers<Dim>& centers, std::size_t count) const {
    double mse = 0.0;
    for (std::size_t i = 0; i < count; ++i) {
      mse += clouds_[i].error(centers, clouds_[i].divide(centers, executor_)) / static_cast<double>(count);
    }
    return mse;
  }

  /// Moves single coordinates by one while that lowers the error.
  void improve(RoundedGrid<Dim>& grid, int limit) {
    Centers<Dim> centers = real(grid);
    grid.mse = error(centers, clouds_.size());
    for (int round = 0; round < 100; ++round) {
      MoveGains gains(size_);
      for (const auto& cloud : clouds_) gains.gather(cloud, centers, grid.step, executor_);
      RoundedGrid<Dim> next = grid;
      if (gains.apply(next.integers, limit) == 0) break;
      next.step = best_step(next);
      centers = real(next);
      next.mse = error(centers, clouds_.size());
      if (!(next.mse < grid.mse * (1 - 1e-8))) break;
      if(getenv("VERB")) printf("  round %d mse %.9f step %.8f\n",round,next.mse,next.step);
      grid = std::move(next);
    }
  }

  /// The step that suits the cells of the step in use.
  double best_step(const RoundedGrid<Dim>& grid) const {
    const Centers<Dim> centers = real(grid);
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

  /// What moving one coordinate by one would gain, for all coordinates and both directions.
  class MoveGains {
   public:
    explicit MoveGains(std::size_t size) : gains_(size) {}

    /// A sample whose two nearest centers are a and b stays with one of them: others may only gain more.
    void gather(const GaussianCloud<Dim>& cloud, const Centers<Dim>& centers, double step, Executor& executor) {
      std::mutex mutex;
      executor.run(cloud.tasks(), [&](std::int64_t task) {
        std::vector<std::array<std::int64_t, 2 * Dim>> gains(centers.size());
        std::vector<std::uint64_t> pairs;
        cloud.visit_nearest_two(task, centers, [&](const auto& sample, std::uint32_t a, std::uint32_t b, double lead) {
          for (std::size_t d = 0; d < Dim; ++d) {
            const double x = sample.x[d] * 0x1p-12;
            for (const int sign : {0, 1}) {
              const double move = sign == 0 ? -step : step;
              const std::size_t at = 2 * d + static_cast<std::size_t>(sign);
              gains[a][at] += sample.mass * whole(std::max(move * (x - centers[a][d]) - 0.5 * step * step, -lead));
              gains[b][at] += sample.mass * whole(std::max(move * (x - centers[b][d]) - 0.5 * step * step - lead, 0.0));
            }
          }
          const std::uint64_t pair = std::uint64_t{std::min(a, b)} << 32 | std::max(a, b);
          if (pairs.empty() || pairs.back() != pair) pairs.push_back(pair);
        });
        std::sort(pairs.begin(), pairs.end());
        pairs.erase(std::unique(pairs.begin(), pairs.end()), pairs.end());
        const std::lock_guard lock(mutex);
        for (std::size_t k = 0; k < gains.size(); ++k) {
          for (std::size_t i = 0; i < 2 * Dim; ++i) gains_[k][i] += gains[k][i];
        }
        pairs_.insert(pairs_.end(), pairs.begin(), pairs.end());
      });
    }

    /// Makes the moves that gain, the greatest first, as long as no neighbour has moved; returns their number.
    int apply(std::vector<std::array<int, Dim>>& integers, int limit) const {
      struct Move {
        std::int64_t gain;
        std::size_t center, direction;
      };
      std::vector<Move> moves;
      for (std::size_t k = 0; k < gains_.size(); ++k) {
        for (std::size_t i = 0; i < 2 * Dim; ++i) {
          if (gains_[k][i] > 0) moves.push_back({gains_[k][i], k, i});
        }
      }
      std::stable_sort(moves.begin(), moves.end(), [](const Move& a, const Move& b) { return a.gain > b.gain; });
      std::vector<std::vector<std::size_t>> neighbours(gains_.size());
      for (const std::uint64_t pair : pairs_) {
        neighbours[pair >> 32].push_back(pair & 0xffffffffu);
        neighbours[pair & 0xffffffffu].push_back(pair >> 32);
      }
      std::vector<bool> settled(gains_.size());
      int count = 0;
      for (const Move& move : moves) {
        int& coordinate = integers[move.center][move.direction / 2];
        const int moved = coordinate + (move.direction % 2 == 0 ? -1 : 1);
        if (settled[move.center] || std::abs(moved) > limit) continue;
        coordinate = moved;
        ++count;
        settled[move.center] = true;
        for (const std::size_t neighbour : neighbours[move.center]) settled[neighbour] = true;
      }
      return count;
    }

   private:
    static std::int64_t whole(double gain) noexcept { return static_cast<std::int64_t>(gain * 0x1p22); }

    std::vector<std::array<std::int64_t, 2 * Dim>> gains_;
    std::vector<std::uint64_t> pairs_;
  };

  std::size_t size_;
  const FitOptions& options_;
  Executor& executor_;
  std::vector<GaussianCloud<Dim>> clouds_;
};

}  // namespace detail

/// The error of step * points with cells of their own. In 3 dimensions and more it is the mean over `repeats`
/// independent rules of 2^log2_samples points; step * points must stay below 7.5.
template <int Dim, int Size>
GridError measure_grid(const typename GridCodebook<Dim, Size>::Points& points, double step, int log2_samples = 20,
                       int repeats = 8, std::uint64_t seed = 1, Executor& executor = default_executor()) {
  GridError result;
  return result;
}

}  // namespace v0
}  // namespace higgs
