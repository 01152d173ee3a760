// SPDX-License-Identifier: Apache-2.0
// Integration over the cells of a grid under N(0, I).
//
// The result is the same on every machine, with any compiler and any number of threads: coordinates of the cloud are
// multiples of 2^-12 and those of grid points multiples of 2^-20, all below 8, so every product and sum that decides
// about a cell is exact in double; what a cell gathers is counted in integers.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/random.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <mutex>
#include <numbers>
#include <span>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace detail {

/// The nearest multiple of 2^-20.
inline double snap(double x) noexcept { return std::floor(x * 0x1p20 + 0.5) * 0x1p-20; }

/// Quantiles of |N(0, 1)| in multiples of 2^-12, by exact comparison with a table of the distribution function.
class HalfNormal {
 public:
  static const HalfNormal& instance() {
    static const HalfNormal table;
    return table;
  }
  /// `u` is uniform on 31 bits.
  std::int16_t operator()(std::uint32_t u) const noexcept {
    return static_cast<std::int16_t>(std::upper_bound(below_.begin(), below_.end(), u) - below_.begin());
  }

 private:
  HalfNormal();
  std::vector<std::uint32_t> below_;  // below_[v] * 2^-31 = P(|x| < (v + 1/2) 2^-12)
};

/// A (t, s)-sequence in base 2 (Sobol 1967) with random direction numbers and a random digital shift: every seed gives
/// another unbiased rule.
template <int Dim>
class Sobol {
  static_assert(Dim >= 1 && Dim <= 16);

 public:
  explicit Sobol(std::uint64_t seed) {
    // Primitive polynomials over GF(2), one bit for each coefficient.
    constexpr std::array<unsigned, 16> polynomials{1,  3,  7,  11, 13, 19, 25, 37,
                                                   41, 47, 55, 59, 61, 67, 91, 97};
    for (std::size_t d = 0; d < Dim; ++d) {
      digits_[d] = static_cast<std::uint32_t>(random_bits(seed, d));
      const auto degree = static_cast<std::size_t>(std::bit_width(polynomials[d]) - 1);
      auto& v = directions_[d];
      for (std::size_t j = 0; j < 32; ++j) {
        const std::uint32_t last = 0x80000000u >> j;  // the lowest digit that is set; those above it are free
        if (degree == 0) {
          v[j] = last;
        } else if (j < degree) {
          v[j] = last | (static_cast<std::uint32_t>(random_bits(seed, 64 * (d + 1) + j)) & ~(2 * last - 1));
        } else {
          v[j] = v[j - degree] >> degree;
          for (std::size_t i = 0; i < degree; ++i) {
            if ((polynomials[d] >> i) & 1u) v[j] ^= v[j - degree + i];
          }
        }
      }
    }
  }

  /// The next point, 32 bits a coordinate, in Gray code order.
  std::array<std::uint32_t, extent<Dim>> next() noexcept {
    const auto point = digits_;
    const auto j = static_cast<std::size_t>(std::countr_zero(++count_));
    for (std::size_t d = 0; d < Dim; ++d) digits_[d] ^= directions_[d][j];
    return point;
  }

 private:
  std::array<std::array<std::uint32_t, 32>, extent<Dim>> directions_{};
  std::array<std::uint32_t, extent<Dim>> digits_{};
  std::uint32_t count_ = 0;
};

/// Grid points with coordinates that are multiples of 2^-20, below 8 in magnitude.
template <int Dim>
using Centers = std::vector<std::array<double, extent<Dim>>>;

/// What each cell of a grid gathers.
template <int Dim>
struct Cells {
  explicit Cells(std::size_t size) : mass(size), sum(size) {}
  std::vector<std::int64_t> mass;
  std::vector<std::array<std::int64_t, extent<Dim>>> sum;  // in multiples of 2^-12
};

/// Weighted points that stand for N(0, I), in a tree of boxes so that whole boxes fall to a cell at once
/// (the filtering of Kanungo et al., PAMI 2002).
template <int Dim>
class GaussianCloud {
 public:
  using Coordinates = std::array<std::int16_t, extent<Dim>>;  // multiples of 2^-12
  struct Sample {
    Coordinates x;
    std::int64_t mass;
  };

  /// 2^log2_count equally weighted points; each seed is an independent randomization.
  static GaussianCloud quasi_random(std::uint64_t seed, int log2_count) {
    GaussianCloud cloud;
    Sobol<Dim> sequence(seed);
    const HalfNormal& quantile = HalfNormal::instance();
    cloud.samples_.resize(std::size_t{1} << log2_count);
    for (Sample& sample : cloud.samples_) {
      const auto u = sequence.next();
      for (std::size_t d = 0; d < Dim; ++d) {
        const std::int16_t v = quantile(u[d] & 0x7fffffffu);
        sample.x[d] = (u[d] >> 31) != 0 ? static_cast<std::int16_t>(-v) : v;
      }
      sample.mass = 1;
    }
    cloud.build();
    return cloud;
  }

  /// The midpoints of squares with sides of 2^-log2_density (at most 11), out to a radius of 6.5.
  static GaussianCloud midpoints(int log2_density)
    requires(Dim == 2)
  {
    GaussianCloud cloud;
    const int odd = 1 << (11 - log2_density);  // half a side in multiples of 2^-12
    std::vector<float> density;                // a product of two floats is exact in double
    for (int v = odd; v < 6.5 * 4096; v += 2 * odd) {
      density.push_back(static_cast<float>(std::exp(-0.5 * (v * 0x1p-12) * (v * 0x1p-12))));
    }
    const double unit = 0x1p46 / (2 * std::numbers::pi) / std::ldexp(1.0, 2 * log2_density);
    const double scale = std::ldexp(1.0, std::ilogb(unit));  // the total mass lies in [2^45, 2^46]
    const auto side = static_cast<int>(density.size());
    for (int i = -side; i < side; ++i) {
      for (int j = -side; j < side; ++j) {
        const auto a = static_cast<double>(density[static_cast<std::size_t>(i < 0 ? -i - 1 : i)]);
        const auto b = static_cast<double>(density[static_cast<std::size_t>(j < 0 ? -j - 1 : j)]);
        const auto mass = static_cast<std::int64_t>(a * b * scale + 0.5);
        if (mass == 0) continue;  // beyond the radius
        cloud.samples_.push_back(
            {{static_cast<std::int16_t>((2 * i + 1) * odd), static_cast<std::int16_t>((2 * j + 1) * odd)},
             mass});
      }
    }
    cloud.build();
    return cloud;
  }

  std::size_t size() const noexcept { return samples_.size(); }
  double mass() const noexcept { return static_cast<double>(nodes_[0].mass); }

  /// Divides the cloud among the cells of `centers`; a tie goes to the lower index.
  Cells<Dim> divide(const Centers<Dim>& centers, Executor& executor) const {
    Cells<Dim> total(centers.size());
    std::mutex mutex;
    executor.run(static_cast<std::int64_t>(tasks_.size()), [&](std::int64_t task) {
      Filter filter{*this, centers};
      Cells<Dim> cells(centers.size());
      filter.divide(tasks_[static_cast<std::size_t>(task)], 0, cells);
      const std::lock_guard lock(mutex);
      for (std::size_t k = 0; k < centers.size(); ++k) {
        total.mass[k] += cells.mass[k];
        for (std::size_t d = 0; d < Dim; ++d) total.sum[k][d] += cells.sum[k][d];
      }
    });
    return total;
  }

  /// The mean squared error per coordinate of rounding to `centers`, whose cells are `cells`.
  double error(const Centers<Dim>& centers, const Cells<Dim>& cells) const {
    double sum = moment_;  // fma is one rounding everywhere
    for (std::size_t k = 0; k < centers.size(); ++k) {
      double square = 0.0, product = 0.0;
      for (std::size_t d = 0; d < Dim; ++d) {
        square += centers[k][d] * centers[k][d];
        product = std::fma(centers[k][d], 0x1p-12 * static_cast<double>(cells.sum[k][d]), product);
      }
      sum = std::fma(square, static_cast<double>(cells.mass[k]), sum) - 2 * product;
    }
    return sum / mass() / Dim;
  }

  /// The number of parts that may be visited at once.
  std::int64_t tasks() const noexcept { return static_cast<std::int64_t>(tasks_.size()); }

  /// For each sample of a part the two nearest centers: visit(sample, first, second, lead) with `lead` = half the
  /// difference of their squared distances.
  template <class Visit>
  void visit_nearest_two(std::int64_t task, const Centers<Dim>& centers, Visit&& visit) const {
    Filter filter{*this, centers};
    filter.nearest_two(tasks_[static_cast<std::size_t>(task)], 0, visit);
  }

 private:
  struct Node {
    std::uint32_t begin, end;  // samples
    std::uint32_t right;       // the left child follows its parent; 0 in a leaf
    Coordinates low, high;
    std::int64_t mass;
    std::array<std::int64_t, extent<Dim>> sum;
  };
  static constexpr std::uint32_t leaf_size = 32;

  /// Centers, coordinate by coordinate: what the lanes of a vector unit want.
  struct Candidates {
    std::vector<std::uint32_t> index;
    std::vector<double> half_square;
    std::array<std::vector<double>, extent<Dim>> x;

    std::size_t size() const noexcept { return index.size(); }
    void resize(std::size_t size) {
      index.resize(size), half_square.resize(size);
      for (auto& axis : x) axis.resize(size);
    }
  };

  /// One walk down the tree with the list of centers that may still be nearest.
  struct Filter {
    const GaussianCloud& cloud;
    Candidates stack;  // candidates of the nodes above, each list behind its parent's, indices ascending
    std::vector<double> scores;

    Filter(const GaussianCloud& the_cloud, const Centers<Dim>& centers)
        : cloud(the_cloud), scores(centers.size()) {
      stack.resize(centers.size());
      for (std::size_t k = 0; k < centers.size(); ++k) {
        double square = 0.0;
        for (std::size_t d = 0; d < Dim; ++d) {
          square += centers[k][d] * centers[k][d];
          stack.x[d][k] = centers[k][d];
        }
        stack.half_square[k] = 0.5 * square;
        stack.index[k] = static_cast<std::uint32_t>(k);
      }
    }

    // scores[i] of candidate first + i at the middle of the box. The nearest center has the greatest score.
    void score_middle(const Node& node, std::size_t first, std::size_t count) {
      for (std::size_t i = 0; i < count; ++i) scores[i] = -stack.half_square[first + i];
      for (std::size_t d = 0; d < Dim; ++d) {
        const double x = (node.low[d] + node.high[d]) * 0x1p-13, *centers = stack.x[d].data() + first;
        for (std::size_t i = 0; i < count; ++i) scores[i] += x * centers[i];
      }
    }
    // scores[i] > 0 where `rival` is nearer than candidate first + i at every point of the box: it is so at the corner
    // that suits the candidate best.
    void score_against(std::size_t rival, const Node& node, std::size_t first, std::size_t count) {
      const double own = stack.half_square[rival];
      for (std::size_t i = 0; i < count; ++i) scores[i] = stack.half_square[first + i] - own;
      for (std::size_t d = 0; d < Dim; ++d) {
        const double low = node.low[d] * 0x1p-12, high = node.high[d] * 0x1p-12;
        const double from = stack.x[d][rival], *centers = stack.x[d].data() + first;
        for (std::size_t i = 0; i < count; ++i) {
          const double toward = centers[i] - from;
          scores[i] -= std::max(toward * low, toward * high);
        }
      }
    }
    // Puts those of the candidates [first, first + kept.size()) behind the stack that `kept` names.
    void push(std::size_t first, std::span<const std::uint8_t> kept) {
      const std::size_t count = kept.size();
      std::size_t top = stack.size();
      stack.resize(top + count);
      for (std::size_t i = 0; i < count; ++i) {
        stack.index[top] = stack.index[first + i];
        stack.half_square[top] = stack.half_square[first + i];
        for (std::size_t d = 0; d < Dim; ++d) stack.x[d][top] = stack.x[d][first + i];
        top += kept[i];
      }
      stack.resize(top);
    }

    // Samples of a leaf, coordinate by coordinate; the last fills what is left.
    struct Batch {
      double x[extent<Dim>][leaf_size];
      Batch(const GaussianCloud& cloud, const Node& node) noexcept {
        for (std::uint32_t i = 0; i < leaf_size; ++i) {
          const Sample& sample = cloud.samples_[std::min(node.begin + i, node.end - 1)];
          for (std::size_t d = 0; d < Dim; ++d) x[d][i] = sample.x[d] * 0x1p-12;
        }
      }
    };
    void score_batch(const Batch& batch, std::size_t candidate, double* score) const noexcept {
      const double half_square = stack.half_square[candidate];
      for (std::size_t i = 0; i < leaf_size; ++i) score[i] = -half_square;
      for (std::size_t d = 0; d < Dim; ++d) {
        const double center = stack.x[d][candidate];
        for (std::size_t i = 0; i < leaf_size; ++i) score[i] += batch.x[d][i] * center;
      }
    }

    // The candidates are those from `first` on.
    void divide(std::uint32_t index, std::size_t first, Cells<Dim>& cells) {
      const Node& node = cloud.nodes_[index];
      const std::size_t last = stack.size(), count = last - first;
      score_middle(node, first, count);
      const auto best = static_cast<std::size_t>(
          std::max_element(scores.begin(), scores.begin() + static_cast<std::ptrdiff_t>(count)) -
          scores.begin());
      score_against(first + best, node, first, count);
      std::vector<std::uint8_t> kept(count);
      for (std::size_t i = 0; i < count; ++i) kept[i] = scores[i] <= 0;
      push(first, kept);
      if (stack.size() == last + 1) {
        const std::uint32_t k = stack.index[last];
        cells.mass[k] += node.mass;
        for (std::size_t d = 0; d < Dim; ++d) cells.sum[k][d] += node.sum[d];
      } else if (node.right != 0) {
        divide(index + 1, last, cells);
        divide(node.right, last, cells);
      } else {
        const Batch batch(cloud, node);
        double most[leaf_size], score[leaf_size];
        std::int64_t nearest[leaf_size];
        std::fill_n(most, leaf_size, -std::numeric_limits<double>::infinity());
        for (std::size_t j = last; j < stack.size(); ++j) {
          score_batch(batch, j, score);
          for (std::size_t i = 0; i < leaf_size; ++i) {
            nearest[i] = score[i] > most[i] ? static_cast<std::int64_t>(j) : nearest[i];
            most[i] = std::max(most[i], score[i]);
          }
        }
        for (std::uint32_t i = node.begin; i < node.end; ++i) {
          const Sample& sample = cloud.samples_[i];
          const std::uint32_t k = stack.index[static_cast<std::size_t>(nearest[i - node.begin])];
          cells.mass[k] += sample.mass;
          for (std::size_t d = 0; d < Dim; ++d) cells.sum[k][d] += sample.mass * sample.x[d];
        }
      }
      stack.resize(last);
    }

    template <class Visit>
    void nearest_two(std::uint32_t index, std::size_t first, Visit& visit) {
      const Node& node = cloud.nodes_[index];
      const std::size_t last = stack.size(), count = last - first;
      score_middle(node, first, count);
      std::size_t best = 0, second = 1;
      for (std::size_t i = 1; i < count; ++i) {
        if (scores[i] > scores[best])
          second = best, best = i;
        else if (i > 1 && scores[i] > scores[second])
          second = i;
      }
      // Out goes what both beat everywhere.
      std::vector<std::uint8_t> kept(count);
      for (const std::size_t rival : {best, second}) {
        score_against(first + rival, node, first, count);
        for (std::size_t i = 0; i < count; ++i) kept[i] |= scores[i] <= 0;
      }
      push(first, kept);
      if (node.right != 0) {
        nearest_two(index + 1, last, visit);
        nearest_two(node.right, last, visit);
      } else {
        const Batch batch(cloud, node);
        double most[leaf_size], next[leaf_size], score[leaf_size];
        std::int64_t nearest[leaf_size], other[leaf_size];
        std::fill_n(most, leaf_size, -std::numeric_limits<double>::infinity());
        std::fill_n(next, leaf_size, -std::numeric_limits<double>::infinity());
        for (std::size_t j = last; j < stack.size(); ++j) {
          score_batch(batch, j, score);
          const auto place = static_cast<std::int64_t>(j);
          for (std::size_t i = 0; i < leaf_size; ++i) {
            const bool wins = score[i] > most[i], follows = score[i] > next[i];
            other[i] = wins ? nearest[i] : follows ? place : other[i];
            next[i] = wins ? most[i] : follows ? score[i] : next[i];
            nearest[i] = wins ? place : nearest[i];
            most[i] = wins ? score[i] : most[i];
          }
        }
        for (std::uint32_t i = node.begin; i < node.end; ++i) {
          const std::size_t lane = i - node.begin;
          visit(cloud.samples_[i], stack.index[static_cast<std::size_t>(nearest[lane])],
                stack.index[static_cast<std::size_t>(other[lane])], most[lane] - next[lane]);
        }
      }
      stack.resize(last);
    }
  };

  void build() {
    moment_ = 0.0;
    for (const Sample& sample : samples_) {
      std::int64_t square = 0;
      for (std::size_t d = 0; d < Dim; ++d) square += std::int64_t{sample.x[d]} * sample.x[d];
      moment_ = std::fma(static_cast<double>(square) * 0x1p-24, static_cast<double>(sample.mass), moment_);
    }
    nodes_.reserve(4 * samples_.size() / leaf_size + 1);
    build(0, static_cast<std::uint32_t>(samples_.size()), 0);
  }

  std::uint32_t build(std::uint32_t begin, std::uint32_t end, int depth) {
    const auto index = static_cast<std::uint32_t>(nodes_.size());
    Node node{begin, end, 0, samples_[begin].x, samples_[begin].x, 0, {}};
    for (std::uint32_t i = begin; i < end; ++i) {
      for (std::size_t d = 0; d < Dim; ++d) {
        node.low[d] = std::min(node.low[d], samples_[i].x[d]);
        node.high[d] = std::max(node.high[d], samples_[i].x[d]);
        node.sum[d] += samples_[i].mass * samples_[i].x[d];
      }
      node.mass += samples_[i].mass;
    }
    nodes_.push_back(node);
    if (depth == task_depth || (depth < task_depth && end - begin <= leaf_size)) tasks_.push_back(index);
    if (end - begin > leaf_size) {
      std::size_t widest = 0;
      for (std::size_t d = 1; d < Dim; ++d) {
        if (node.high[d] - node.low[d] > node.high[widest] - node.low[widest]) widest = d;
      }
      const std::uint32_t half = begin + (end - begin) / 2;
      std::nth_element(samples_.begin() + begin, samples_.begin() + half, samples_.begin() + end,
                       [widest](const Sample& a, const Sample& b) { return a.x[widest] < b.x[widest]; });
      build(begin, half, depth + 1);
      nodes_[index].right = build(half, end, depth + 1);
    }
    return index;
  }
  static constexpr int task_depth = 4;

  std::vector<Sample> samples_;
  std::vector<Node> nodes_;
  std::vector<std::uint32_t> tasks_;  // disjoint subtrees that hold all samples
  double moment_ = 0.0;
};

}  // namespace detail
#if HIGGS_DEFINITIONS

namespace detail {

HIGGS_INLINE HalfNormal::HalfNormal() {
  for (int v = 0;; ++v) {
    const double share = std::erf((v + 0.5) * 0x1p-12 / std::numbers::sqrt2);
    const auto rounded = static_cast<std::uint32_t>(share * 0x1p31 + 0.5);
    if (rounded >= 0x7fffffffu) break;
    below_.push_back(rounded);
  }
}

}  // namespace detail

#endif

}  // namespace v0
}  // namespace higgs
