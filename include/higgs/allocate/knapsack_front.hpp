// SPDX-License-Identifier: Apache-2.0
// The Pareto front of a multiple-choice knapsack: the cheapest choice for every budget in one pass.
#pragma once

#include <higgs/allocate/knapsack.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {

/// The choices that no other beats in weight and cost, up to the problem's budget. Exact by dynamic
/// programming over the weights (in units of their greatest common divisor) when that takes at most
/// `max_cells` bytes; otherwise the choices on the lower convex hull, in O(n log n). One budget, rounding
/// as in knapsack_problem.hpp.
template <class Weight = std::int64_t, class Cost = double>
class KnapsackFront {
 public:
  /// A choice that no other choice beats in both weight and cost.
  struct Point {
    Weight weight;
    Cost cost;
  };

  explicit KnapsackFront(const KnapsackProblem<Weight, Cost>& problem,
                         std::size_t max_cells = std::size_t{1} << 26)
      : classes_(problem.classes()) {
    expects(!problem.second_budget, "higgs::KnapsackFront: one budget only");
    const detail::FixedProblem fixed(problem);
    if (!fixed.feasible) return;
    std::vector<std::uint32_t> identity(fixed.classes());
    std::iota(identity.begin(), identity.end(), std::uint32_t{0});
    merged_ = fixed.spread(std::move(identity));
    exact_ = build_rows(fixed, max_cells);
    if (exact_)
      fill_rows(fixed);
    else
      follow_hull(fixed);
  }

  /// Weights rise, costs fall. Empty when the budget is below every choice.
  std::span<const Point> points() const noexcept { return points_; }

  /// Whether every point of the front is there; if not, those of its convex hull are.
  bool exact() const noexcept { return exact_; }

  /// Costs were rounded to multiples of it in every class; 0: they are exact.
  double cost_step() const noexcept { return cost_step_; }

  /// The best point within a budget.
  std::optional<std::size_t> find(Weight budget) const {
    const auto after =
        std::upper_bound(points_.begin(), points_.end(), budget,
                         [](Weight limit, const Point& point) { return limit < point.weight; });
    if (after == points_.begin()) return std::nullopt;
    return static_cast<std::size_t>(after - points_.begin()) - 1;
  }

  /// The option index of every class at a point.
  std::vector<std::uint32_t> choice(std::size_t point) const {
    expects(point < points_.size(), [&] {
      return detail::sentence("higgs::KnapsackFront::choice: point ", point, ", but there are ",
                              points_.size());
    });
    std::vector<std::uint32_t> picked(base_);
    if (exact_) {
      std::size_t left = cells_of_[point];
      for (std::size_t r = rows_.size(); r-- > 0;) {
        const Row& row = rows_[r];
        left = std::min(left, row.cells - 1);
        const Item& item = items_[row.first + choices_[row.first_cell + left]];
        picked[row.of_class] = item.option;
        left -= static_cast<std::size_t>(item.weight);
      }
    } else {
      for (std::size_t k = 0; k < point; ++k) picked[steps_[k].of_class] = steps_[k].option;
    }
    std::vector<std::uint32_t> choice(classes_);
    for (std::size_t i = 0; i < classes_; ++i) choice[i] = picked[merged_[i]];
    return choice;
  }

 private:
  struct Item {
    std::int64_t weight, cost;
    std::uint32_t option;
  };
  struct Row {                          // a row of the dynamic program: a class and the classes before it
    std::size_t of_class, first, last;  // its items are [first, last), weights rising from 0, costs falling
    std::size_t first_cell, cells;
  };
  struct Step {
    double slope;
    std::int64_t weight, cost;
    std::uint32_t of_class, option;
  };

  Point point(const detail::FixedProblem& fixed, std::int64_t weight, std::int64_t cost) const {
    const auto number = []<class T>(T, std::int64_t value, const detail::FixedScale& scale) {
      if constexpr (std::is_integral_v<T>)
        return static_cast<T>(value);
      else
        return static_cast<T>(scale.undo(value));
    };
    return {number(Weight{}, fixed.lightest + weight, fixed.weight_scale),
            number(Cost{}, cost, fixed.cost_scale)};
  }

  /// Lays out the table; false when it would be too large.
  bool build_rows(const detail::FixedProblem& fixed, std::size_t max_cells) {
    std::int64_t unit = 0;
    base_.resize(fixed.classes());
    for (std::size_t i = 0; i < fixed.classes(); ++i) {
      if (fixed[i].size() > 256) return false;
      rows_.push_back({i, items_.size(), items_.size() + fixed[i].size(), 0, 0});
      for (const auto& entry : fixed[i]) {
        items_.push_back({entry.weight, entry.cost, entry.option});
        unit = std::gcd(unit, entry.weight);
      }
    }
    unit_ = std::max<std::int64_t>(unit, 1);
    // Narrow classes first keep the early rows short.
    const auto range = [this](const Row& row) { return items_[row.last - 1].weight; };
    std::stable_sort(rows_.begin(), rows_.end(),
                     [&](const Row& a, const Row& b) { return range(a) < range(b); });
    std::int64_t heaviest = 0;
    std::size_t cells = 0;
    for (Row& row : rows_) {
      heaviest = std::min(heaviest + range(row), fixed.budget);
      row.first_cell = cells;
      row.cells = static_cast<std::size_t>(heaviest / unit_) + 1;
      if (row.cells > max_cells - cells) return false;
      cells += row.cells;
    }
    for (Item& item : items_) item.weight /= unit_;
    choices_.resize(cells);
    return true;
  }

  /// A value is the number 2^52 + (cost << bits) + item, a double: its last bits name the item, and an
  /// ordinary minimum prefers the cheaper, then the lighter. All sums are exact.
  void fill_rows(const detail::FixedProblem& fixed) {
    std::size_t widest = 1;
    std::int64_t least_cost = 0, cost_range = 0;
    for (const Row& row : rows_) {
      widest = std::max(widest, row.last - row.first);
      least_cost += items_[row.last - 1].cost;
      cost_range += items_[row.first].cost - items_[row.last - 1].cost;
    }
    const auto bits = static_cast<int>(std::bit_width(widest - 1));
    const std::uint64_t mask = (std::uint64_t{1} << bits) - 1;
    int shift = 0;
    while (((cost_range >> shift) + static_cast<std::int64_t>(rows_.size())) >> (52 - bits) != 0) ++shift;
    cost_step_ = shift == 0 ? fixed.cost_scale.step() : std::ldexp(1 / fixed.cost_scale.factor, shift);

    std::vector<double> row_values{0x1p52}, next;
    for (const Row& row : rows_) {
      row_values.resize(row.cells, row_values.back());
      next.assign(row.cells, 0x1p53);
      constexpr std::size_t tile = 2048;  // a part of the row that stays in the first-level cache
      for (std::size_t begin = 0; begin < row.cells; begin += tile) {
        const std::size_t end = std::min(begin + tile, row.cells);
        for (std::size_t k = row.first; k < row.last; ++k) {
          const std::int64_t above = items_[k].cost - items_[row.last - 1].cost;
          const std::int64_t rounded = (above + (std::int64_t{1} << shift) / 2) >> shift;
          relax(row_values, next, begin, end, static_cast<std::size_t>(items_[k].weight),
                static_cast<double>((rounded << bits) + static_cast<std::int64_t>(k - row.first)));
        }
        for (std::size_t x = begin; x < end; ++x) {
          const auto value = std::bit_cast<std::uint64_t>(next[x]);
          choices_[row.first_cell + x] = static_cast<std::uint8_t>(value & mask);
          next[x] = std::bit_cast<double>(value & ~mask);
        }
      }
      std::swap(row_values, next);
    }
    for (std::size_t x = 0; x < row_values.size(); ++x) {
      if (x > 0 && row_values[x] >= row_values[x - 1]) continue;
      const std::int64_t cost = static_cast<std::int64_t>(row_values[x] - 0x1p52) >> bits;
      points_.push_back(point(fixed, static_cast<std::int64_t>(x) * unit_, least_cost + (cost << shift)));
      cells_of_.push_back(x);
    }
  }

  static void relax(const std::vector<double>& from, std::vector<double>& to, std::size_t begin,
                    std::size_t end, std::size_t weight, double add) {
    const double* in = from.data();
    double* out = to.data() + weight;
    const std::size_t last = end > weight ? end - weight : 0;
    for (std::size_t x = begin > weight ? begin - weight : 0; x < last; ++x) {
      const double value = in[x] + add;
      out[x] = value < out[x] ? value : out[x];
    }
  }

  void follow_hull(const detail::FixedProblem& fixed) {
    std::vector<detail::HullStep> hull;
    std::int64_t weight = 0, cost = 0;
    for (std::size_t i = 0; i < fixed.classes(); ++i) {
      const auto entries = fixed[i];
      hull.clear();
      detail::append_hull(entries, {}, hull);
      base_[i] = entries.front().option;
      cost += entries.front().cost;
      auto entry = entries.begin();
      for (const detail::HullStep& step : hull) {
        const std::int64_t to = entry->weight + step.weight;
        entry = std::find_if(entry, entries.end(), [to](const auto& e) { return e.weight == to; });
        steps_.push_back(
            {step.slope(), step.weight, step.cost, static_cast<std::uint32_t>(i), entry->option});
      }
    }
    std::stable_sort(steps_.begin(), steps_.end(),
                     [](const Step& a, const Step& b) { return a.slope > b.slope; });
    cost_step_ = fixed.cost_scale.step();
    points_.push_back(point(fixed, 0, cost));
    for (const Step& step : steps_) {
      weight += step.weight;
      cost -= step.cost;
      if (weight > fixed.budget) break;
      points_.push_back(point(fixed, weight, cost));
    }
  }

  std::size_t classes_;
  bool exact_ = false;
  double cost_step_ = 0;
  std::int64_t unit_ = 1;
  std::vector<Point> points_;
  std::vector<std::uint32_t> merged_, base_;  // the merged class of each class; the lightest option of each
  std::vector<Item> items_;
  std::vector<Row> rows_;
  std::vector<std::uint8_t> choices_;  // the item taken in each cell of each row
  std::vector<std::size_t> cells_of_;  // cell of each point in the last row
  std::vector<Step> steps_;            // steps of the hull, steepest first
};

}  // namespace v0
}  // namespace higgs
