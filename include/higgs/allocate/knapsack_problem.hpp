// SPDX-License-Identifier: Apache-2.0
// The multiple-choice knapsack: exactly one option from every class, the least total cost, a budget of
// weight.
//
// Numbers. Weights and costs of any sign are taken, NaN and infinities are refused. All search happens in
// 64-bit fixed point. Integers, and floating-point numbers that are all whole, are exact. Others are
// rounded up to a multiple of a step: 2^-59 (costs under two budgets: 2^-49) or less of the sum over the
// classes of the largest magnitude, where that sum exceeds 2^-960.
//
// Guarantee. With whole weights and costs `proven` means optimal: no feasible choice costs less, and under
// one budget none of the same cost weighs less. With rounded costs no feasible choice is cheaper by more
// than 2 * classes * cost_step. With rounded weights the answer still keeps the budget in exact arithmetic,
// and competes with the choices that leave classes * weight_step of it unused. Of the choices equal in cost
// and weight one is returned that depends on the problem alone, not on the machine.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {

/// One way to serve a class: its weight, its cost, and what it takes of the second budget, if there is one.
template <class Weight = std::int64_t, class Cost = double>
struct KnapsackOption {
  Weight weight{};
  Cost cost{};
  Weight second{};
};

/// Classes of options and what may be chosen. Plain data: the solvers check it and throw InvalidArgument.
template <class Weight = std::int64_t, class Cost = double>
struct KnapsackProblem {
  static_assert(std::is_arithmetic_v<Weight> && std::is_arithmetic_v<Cost>, "weights and costs are numbers");
  using Option = KnapsackOption<Weight, Cost>;

  std::vector<Option> options;          // class after class
  std::vector<std::size_t> begin{0};    // class i owns options [begin[i], begin[i + 1])
  Weight budget{};                      // for the sum of the weights
  std::optional<Weight> second_budget;  // for the sum of the second weights
  std::vector<std::uint8_t> forbidden;  // nonzero: this option may not be taken; may be shorter than options
  std::vector<std::size_t> leader;      // leader[i] <= i: class i takes the same option index; may be shorter

  std::size_t classes() const noexcept { return begin.empty() ? 0 : begin.size() - 1; }

  /// Appends a class.
  void add_class(std::span<const Option> added) {
    options.insert(options.end(), added.begin(), added.end());
    begin.push_back(options.size());
  }
  void add_class(std::initializer_list<Option> added) { add_class(std::span(added.begin(), added.size())); }

  /// Rules out one option of a class.
  void forbid(std::size_t of_class, std::size_t option) {
    expect_option("forbid", of_class, option);
    forbidden.resize(options.size());
    forbidden[begin[of_class] + option] = 1;
  }

  /// Leaves a class this one option.
  void pin(std::size_t of_class, std::size_t option) {
    expect_option("pin", of_class, option);
    for (std::size_t j = 0; begin[of_class] + j < begin[of_class + 1]; ++j) {
      if (j != option) forbid(of_class, j);
    }
  }

  /// Makes two classes, and all that are tied to them, take the same option index.
  void tie(std::size_t a, std::size_t b) {
    expects(a < classes() && b < classes(), [&] {
      return detail::sentence("higgs::KnapsackProblem::tie: classes ", a, " and ", b, ", but there are ",
                              classes());
    });
    for (std::size_t i = leader.size(); i < classes(); ++i) leader.push_back(i);
    const auto root = [this](std::size_t i) {
      while (leader[i] != i) {
        const std::size_t up = leader[i];
        expects(up < i, "higgs::KnapsackProblem::tie: leader[i] must not exceed i");
        leader[i] = leader[up];  // halves the path of later calls
        i = up;
      }
      return i;
    };
    std::tie(a, b) = std::minmax({root(a), root(b)});
    leader[b] = a;
  }

 private:
  void expect_option(const char* function, std::size_t of_class, std::size_t option) const {
    const std::size_t count = of_class < classes() ? begin[of_class + 1] - begin[of_class] : 0;
    expects(option < count, [&] {
      return detail::sentence("higgs::KnapsackProblem::", function, ": option ", option, " of class ",
                              of_class, ", but there are ", count, " in it, and ", classes(), " classes");
    });
  }
};

/// A choice and what is known about it.
template <class Weight = std::int64_t, class Cost = double>
struct KnapsackSolution {
  std::vector<std::uint32_t> choice;  // (classes): an option index each
  Cost cost{};                        // cost of the choice, summed in class order
  Weight weight{};                    // likewise
  Weight second{};                    // likewise
  Cost lower_bound{};                 // no choice within the budgets costs less
  bool proven = false;                // optimal, in the sense given at the top of this file
  double lambda = 0;                  // the dual price of a unit of weight
  double mu = 0;                      // the dual price of a unit of the second weight
  double cost_step = 0;               // costs were rounded to multiples of it; 0: they are exact
  double weight_step = 0;             // likewise
  std::size_t states = 0;             // visited by the dynamic programming

  Cost gap() const { return cost - lower_bound; }
};

namespace detail {

/// An option in fixed point. Both weights are counted from the least of the class.
struct KnapsackEntry {
  std::int64_t weight, cost, second;
  std::uint32_t option;
};

/// A map from numbers to integers whose sums, one number from each class, stay within 2^60.
struct FixedScale {
  double factor = 1;  // a power of two
  bool exact = true;
  std::int64_t whole_factor = 1;  // the same, when exact

  template <class T>
  std::int64_t operator()(T value) const noexcept {
    if constexpr (std::is_integral_v<T>) {
      return static_cast<std::int64_t>(value) * whole_factor;
    } else {
      const auto scaled = std::common_type_t<T, double>{value} * factor;
      const auto whole = static_cast<std::int64_t>(scaled);
      return whole + (static_cast<decltype(scaled)>(whole) < scaled);
    }
  }
  double step() const noexcept { return exact ? 0 : 1 / factor; }
  double undo(std::int64_t fixed) const noexcept { return static_cast<double>(fixed) / factor; }
};

/// Gathers the largest magnitude of each class and derives the scale.
class FixedRange {
 public:
  template <class T>
  void add(T value) noexcept {
    const double size = std::abs(static_cast<double>(value));
    largest_ = std::max(largest_, size);
    if constexpr (std::is_floating_point_v<T>) {
      finite_ &= size <= std::numeric_limits<double>::max();
      whole_ = whole_ && size < 0x1p60 && static_cast<T>(static_cast<std::int64_t>(value)) == value;
    }
  }
  void close_class() noexcept { sum_ += std::exchange(largest_, 0.0); }
  double sum() const noexcept { return sum_; }
  template <class T>
  FixedScale scale(int bits, const char* message) const {
    expects(finite_ && sum_ <= static_cast<double>(std::numeric_limits<T>::max()), message);
    if (whole_ && sum_ <= std::ldexp(1.0, bits)) return {};
    expects(std::is_floating_point_v<T>, message);
    return {std::ldexp(1.0, std::min(bits - std::ilogb(sum_) - 1, 1023)), false, 0};
  }

 private:
  double largest_ = 0, sum_ = 0;
  bool whole_ = true, finite_ = true;
};

/// The largest fixed-point number that is not above `budget`, clamped to +-2^61, beyond all sums.
template <class T>
std::int64_t fixed_budget(T budget, const FixedScale& scale) {
  constexpr std::int64_t most = std::int64_t{1} << 61;
  if constexpr (std::is_integral_v<T>) {
    if constexpr (std::is_unsigned_v<T>)
      return static_cast<std::int64_t>(std::min<std::uint64_t>(budget, most));
    else
      return std::clamp<std::int64_t>(budget, -most, most);
  } else {
    expects(budget == budget, "higgs::solve_knapsack: the budget is NaN");
    const auto scaled = std::floor(std::common_type_t<T, double>{budget} * scale.factor);
    return static_cast<std::int64_t>(std::clamp<decltype(scaled)>(scaled, -0x1p61, 0x1p61));
  }
}

/// A checked problem in fixed point: tied classes merged into one, forbidden options left out, under one
/// budget also the dominated ones; the rest sorted by weight, then cost.
class FixedProblem {
 public:
  template <class Weight, class Cost>
  explicit FixedProblem(const KnapsackProblem<Weight, Cost>& problem) {
    check_shape(problem);
    set_scales(problem);
    const bool two = problem.second_budget.has_value();
    const bool tied = merge_tied(problem.leader, problem.classes());
    budget = fixed_budget(problem.budget, weight_scale);
    second_budget = two ? fixed_budget(*problem.second_budget, second_scale) : 0;

    entries_.reserve(problem.options.size());
    for (std::size_t i = 0; i < problem.classes(); ++i) {
      const std::size_t count = problem.begin[i + 1] - problem.begin[i];
      const bool opens = !tied || merged_[i] + 1 == begin_.size();
      if (opens) {
        for (std::size_t j = 0; j < count; ++j) entries_.push_back({0, 0, 0, static_cast<std::uint32_t>(j)});
        begin_.push_back(entries_.size());
      }
      KnapsackEntry* entry = entries_.data() + begin_[tied ? merged_[i] : i];
      for (std::size_t k = problem.begin[i]; k < problem.begin[i + 1]; ++k, ++entry) {
        const auto& option = problem.options[k];
        entry->weight += weight_scale(option.weight);
        entry->cost += cost_scale(option.cost);
        if (two) entry->second += second_scale(option.second);
        if (k < problem.forbidden.size() && problem.forbidden[k]) entry->option = forbidden;
      }
    }
    std::size_t kept = 0;
    for (std::size_t i = 0; i < classes(); ++i) {
      const std::size_t first = std::exchange(begin_[i], kept);
      kept = settle(first, begin_[i + 1], kept, two);
      feasible = feasible && kept > begin_[i];
    }
    begin_.back() = kept;
    entries_.resize(kept);
    feasible = feasible && budget >= 0 && second_budget >= 0;
  }

  /// The classes after merging.
  std::size_t classes() const noexcept { return begin_.size() - 1; }
  std::size_t entries() const noexcept { return entries_.size(); }
  std::span<const KnapsackEntry> operator[](std::size_t i) const noexcept {
    return {entries_.data() + begin_[i], begin_[i + 1] - begin_[i]};
  }

  /// A number for every class of the problem, from one for each merged class.
  std::vector<std::uint32_t> spread(std::vector<std::uint32_t> of_merged) const;

  FixedScale weight_scale, cost_scale, second_scale;
  std::int64_t budget = 0, second_budget = 0;  // what the lightest options leave of them
  std::int64_t lightest = 0;                   // the weight of the lightest options
  std::int64_t rounding = 0;                   // rounding of a sum of costs, at most
  std::int64_t least_gain = 1;                 // a choice that is cheaper by less counts as equal
  std::int64_t second_total = 0;               // the largest sum of second weights, beyond the least
  bool feasible = true;                        // as far as each budget alone can tell

 private:
  static constexpr std::uint32_t forbidden = std::numeric_limits<std::uint32_t>::max();

  template <class Weight, class Cost>
  static void check_shape(const KnapsackProblem<Weight, Cost>& problem) {
    using detail::sentence;
    const auto& begin = problem.begin;
    constexpr std::size_t most = std::numeric_limits<std::uint32_t>::max();
    expects(!begin.empty() && begin.front() == 0 && begin.back() == problem.options.size(),
            "higgs::solve_knapsack: begin must run from 0 to the number of options");
    expects(problem.forbidden.size() <= problem.options.size() && problem.leader.size() <= problem.classes(),
            "higgs::solve_knapsack: more marks than options or classes");
    expects(problem.classes() < most, "higgs::solve_knapsack: too many classes");
    for (std::size_t i = 0; i < problem.classes(); ++i) {
      expects(
          begin[i] < begin[i + 1] && begin[i + 1] <= problem.options.size() && begin[i + 1] - begin[i] < most,
          [&] {
            return sentence("higgs::solve_knapsack: class ", i, " runs from option ", begin[i], " to ",
                            begin[i + 1], " of ", problem.options.size(),
                            ", but must hold one, and fewer than 2^32");
          });
    }
    for (std::size_t i = 0; i < problem.leader.size(); ++i) {
      const std::size_t head = problem.leader[i];
      expects(head <= i, [&] {
        return sentence("higgs::solve_knapsack: leader[", i, "] is ", head, ", but must not exceed ", i);
      });
      expects(begin[i + 1] - begin[i] == begin[head + 1] - begin[head], [&] {
        return sentence("higgs::solve_knapsack: tied classes ", head, " and ", i, " hold ",
                        begin[head + 1] - begin[head], " and ", begin[i + 1] - begin[i],
                        " options, but must hold equally many");
      });
    }
  }

  template <class Weight, class Cost>
  void set_scales(const KnapsackProblem<Weight, Cost>& problem) {
    FixedRange weights, costs, seconds;
    for (std::size_t i = 0; i < problem.classes(); ++i) {
      for (std::size_t k = problem.begin[i]; k < problem.begin[i + 1]; ++k) {
        weights.add(problem.options[k].weight);
        costs.add(problem.options[k].cost);
        if (problem.second_budget) seconds.add(problem.options[k].second);
      }
      weights.close_class();
      costs.close_class();
      seconds.close_class();
    }
    constexpr auto* heavy = "higgs::solve_knapsack: weights are finite, their sums fit the type and 2^60";
    constexpr auto* dear =
        "higgs::solve_knapsack: costs are finite, their sums fit the type and 2^60 (two budgets: 2^50)";
    weight_scale = weights.scale<Weight>(60, heavy);
    second_scale = seconds.scale<Weight>(60, heavy);
    // With a second budget ten bits are left for products with its Lagrange multiplier, which may exceed the costs. Whole
    // costs are spread over the other fifty, because these products are rounded.
    cost_scale = costs.scale<Cost>(problem.second_budget ? 50 : 60, dear);
    if (problem.second_budget && cost_scale.exact) {
      cost_scale.whole_factor = std::int64_t{1} << (49 - std::min(49, std::ilogb(costs.sum() + 1)));
      cost_scale.factor = static_cast<double>(cost_scale.whole_factor);
    }
    rounding = cost_scale.exact ? 0 : static_cast<std::int64_t>(problem.classes());
    least_gain = cost_scale.exact ? cost_scale.whole_factor : rounding + 1;
  }

  /// Numbers the merged classes in the order of their first members; false when no two are tied.
  bool merge_tied(const std::vector<std::size_t>& leader, std::size_t count);

  /// Moves what is left of a class to `to` and takes its least weights out; returns the end.
  std::size_t settle(std::size_t first, std::size_t last, std::size_t to, bool two);

  std::vector<KnapsackEntry> entries_;
  std::vector<std::size_t> begin_{0};  // merged class i owns entries [begin[i], begin[i + 1])
  std::vector<std::uint32_t> merged_;  // number of each class; empty when none are tied
};

}  // namespace detail

/// The definition: dynamic programming over every pair of weights that can be reached, for small problems.
/// A budget buys the least cost, then the least weight, then the first choice in lexicographic order.
template <class Weight, class Cost>
std::optional<KnapsackSolution<Weight, Cost>> knapsack_reference(
    const KnapsackProblem<Weight, Cost>& problem) {
  const detail::FixedProblem checked(problem);
  struct Best {
    Cost cost;
    std::vector<std::uint32_t> choice;
  };
  using Table = std::map<std::pair<Weight, Weight>, Best>;
  const std::size_t classes = problem.classes();
  const auto leader = [&](std::size_t i) {
    while (i < problem.leader.size() && problem.leader[i] != i) i = problem.leader[i];
    return i;
  };
  Table table{{{}, {Cost{}, std::vector<std::uint32_t>(classes)}}};
  for (std::size_t head = 0; head < classes; ++head) {
    if (leader(head) != head) continue;
    Table next;
    for (std::size_t j = 0; j < problem.begin[head + 1] - problem.begin[head]; ++j) {
      KnapsackOption<Weight, Cost> sum;  // sum of this option over all classes tied to the head
      bool allowed = true;
      for (std::size_t i = head; i < classes; ++i) {
        if (leader(i) != head) continue;
        const std::size_t at = problem.begin[i] + j;
        allowed = allowed && !(at < problem.forbidden.size() && problem.forbidden[at]);
        sum.weight = static_cast<Weight>(sum.weight + problem.options[at].weight);
        sum.cost = static_cast<Cost>(sum.cost + problem.options[at].cost);
        if (problem.second_budget) sum.second = static_cast<Weight>(sum.second + problem.options[at].second);
      }
      if (!allowed) continue;
      for (const auto& [weights, best] : table) {
        const auto cost = static_cast<Cost>(best.cost + sum.cost);
        auto [cell, added] = next.try_emplace({static_cast<Weight>(weights.first + sum.weight),
                                               static_cast<Weight>(weights.second + sum.second)});
        if (!added && cell->second.cost < cost) continue;
        Best candidate{cost, best.choice};
        for (std::size_t i = head; i < classes; ++i) {
          if (leader(i) == head) candidate.choice[i] = static_cast<std::uint32_t>(j);
        }
        if (!added && cell->second.cost == cost && cell->second.choice <= candidate.choice) continue;
        cell->second = std::move(candidate);
      }
    }
    table = std::move(next);
  }
  std::optional<KnapsackSolution<Weight, Cost>> solution;
  for (const auto& [weights, best] : table) {
    if (weights.first > problem.budget || (problem.second_budget && weights.second > *problem.second_budget))
      continue;
    if (solution && std::tie(solution->cost, solution->weight, solution->choice) <=
                        std::tie(best.cost, weights.first, best.choice)) {
      continue;
    }
    solution = KnapsackSolution<Weight, Cost>{best.choice,    best.cost, weights.first,
                                              weights.second, best.cost, true};
  }
  return solution;
}

#if HIGGS_DEFINITIONS

namespace detail {

HIGGS_INLINE std::vector<std::uint32_t> FixedProblem::spread(std::vector<std::uint32_t> of_merged) const {
  if (merged_.empty()) return of_merged;
  std::vector<std::uint32_t> all(merged_.size());
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = of_merged[merged_[i]];
  return all;
}

HIGGS_INLINE bool FixedProblem::merge_tied(const std::vector<std::size_t>& leader, std::size_t count) {
  bool tied = false;
  for (std::size_t i = 0; i < leader.size(); ++i) tied = tied || leader[i] != i;
  std::uint32_t next = 0;
  for (std::size_t i = 0; tied && i < count; ++i) {
    merged_.push_back(i < leader.size() && leader[i] != i ? merged_[leader[i]] : next++);
  }
  return tied;
}

HIGGS_INLINE std::size_t FixedProblem::settle(std::size_t first, std::size_t last, std::size_t to, bool two) {
  const auto at = [this](std::size_t k) { return entries_.begin() + static_cast<std::ptrdiff_t>(k); };
  const auto end =
      std::remove_if(at(first), at(last), [](const auto& entry) { return entry.option == forbidden; });
  if (end == at(first)) return to;
  const auto lighter = [](const KnapsackEntry& a, const KnapsackEntry& b) {
    return a.weight != b.weight ? a.weight < b.weight : a.cost < b.cost;
  };
  if (!std::is_sorted(at(first), end, lighter)) std::stable_sort(at(first), end, lighter);
  const std::int64_t weight = at(first)->weight;
  std::int64_t second = at(first)->second, most = second;
  for (auto entry = at(first); two && entry != end; ++entry) {
    second = std::min(second, entry->second);
    most = std::max(most, entry->second);
  }
  lightest += weight;
  budget -= weight;
  second_budget -= second;
  second_total += most - second;
  const std::size_t begin = to;
  for (auto entry = at(first); entry != end; ++entry) {
    if (!two && to > begin && entry->cost >= entries_[to - 1].cost) continue;
    entries_[to++] = {entry->weight - weight, entry->cost, entry->second - second, entry->option};
  }
  return to;
}

}  // namespace detail

#endif

}  // namespace v0
}  // namespace higgs
