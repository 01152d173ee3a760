// SPDX-License-Identifier: Apache-2.0
// The multiple-choice knapsack: exactly one option from every class, the least total cost, a budget of weight.
//
// Numbers. Weights and costs of any sign are taken, NaN and infinities are refused. All search happens in 64-bit fixed
// point. Integers, and floating-point numbers that are all whole, are exact. Other floating-point numbers are rounded
// up to a multiple of a step, 2^-59 or less of the sum over the classes of the largest magnitude. For whole weights
// and costs, `proven` means optimal: no feasible choice costs less, and none of the same cost weighs less. With rounded
// costs no feasible choice is cheaper by more than 2 * classes * cost_step. With rounded weights the answer still keeps
// the budget in exact arithmetic, and competes with the choices that leave classes * weight_step of it unused.
// Of the choices equal in cost and weight one is returned that depends on the problem alone, not on the machine.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <numeric>
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

  std::vector<Option> options;           // class after class
  std::vector<std::size_t> begin{0};     // class i owns options [begin[i], begin[i + 1])
  Weight budget{};                       // for the sum of the weights
  std::optional<Weight> second_budget;   // for the sum of the second weights
  std::vector<std::uint8_t> forbidden;   // nonzero: this option may not be taken; may be shorter than options
  std::vector<std::size_t> leader;       // leader[i] <= i: class i takes the same option index; may be shorter

  std::size_t classes() const noexcept { return begin.size() - 1; }

  /// Appends a class.
  void add_class(std::span<const Option> added) {
    options.insert(options.end(), added.begin(), added.end());
    begin.push_back(options.size());
  }

  /// Rules out one option of a class.
  void forbid(std::size_t of_class, std::size_t option) {
    expects(of_class < classes() && option < begin[of_class + 1] - begin[of_class],
            "higgs::KnapsackProblem::forbid: no such option");
    forbidden.resize(options.size());
    forbidden[begin[of_class] + option] = 1;
  }

  /// Leaves a class this one option.
  void pin(std::size_t of_class, std::size_t option) {
    expects(of_class < classes() && option < begin[of_class + 1] - begin[of_class],
            "higgs::KnapsackProblem::pin: no such option");
    for (std::size_t j = 0; begin[of_class] + j < begin[of_class + 1]; ++j) {
      if (j != option) forbid(of_class, j);
    }
  }

  /// Makes two classes, and all that are tied to them, take the same option index.
  void tie(std::size_t a, std::size_t b) {
    expects(a < classes() && b < classes(), "higgs::KnapsackProblem::tie: no such class");
    for (std::size_t i = leader.size(); i < classes(); ++i) leader.push_back(i);
    const auto root = [this](std::size_t i) {
      while (leader[i] != i) i = leader[i] = leader[leader[i]];
      return i;
    };
    std::tie(a, b) = std::minmax({root(a), root(b)});
    leader[b] = a;
  }
};

/// A choice and what is known about it.
template <class Weight = std::int64_t, class Cost = double>
struct KnapsackSolution {
  std::vector<std::uint32_t> choice;  // (classes): an option index each
  Cost cost{};                        // of the choice, summed in class order
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

/// An option in fixed point. Weights are counted from the lightest option of the class.
struct KnapsackEntry {
  std::int64_t weight, cost, second;
  std::uint32_t option;
};

/// A map from numbers to integers whose sums, one number from each class, stay within 2^60.
struct FixedScale {
  double factor = 1;  // a power of two
  bool exact = true;

  template <class T>
  std::int64_t operator()(T value) const noexcept {
    if constexpr (std::is_integral_v<T>) {
      return static_cast<std::int64_t>(value);
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
  template <class T>
  FixedScale scale(int bits, const char* message) const {
    expects(finite_ && sum_ <= std::numeric_limits<double>::max(), message);
    if (whole_ && sum_ <= std::ldexp(1.0, bits)) return {};
    expects(std::is_floating_point_v<T>, message);
    return {std::ldexp(1.0, std::min(bits - std::ilogb(sum_) - 1, 1000)), false};
  }

 private:
  double largest_ = 0, sum_ = 0;
  bool whole_ = true, finite_ = true;
};

/// The largest fixed-point number that is not above `budget`, cut where no sum can reach.
template <class T>
std::int64_t fixed_budget(T budget, const FixedScale& scale) {
  constexpr std::int64_t reach = std::int64_t{1} << 61;
  if constexpr (std::is_integral_v<T>) {
    if constexpr (std::is_unsigned_v<T>) return static_cast<std::int64_t>(std::min<std::uint64_t>(budget, reach));
    else return std::clamp<std::int64_t>(budget, -reach, reach);
  } else {
    expects(budget == budget, "higgs::solve_knapsack: the budget is NaN");
    const auto scaled = std::floor(std::common_type_t<T, double>{budget} * scale.factor);
    return static_cast<std::int64_t>(std::clamp<decltype(scaled)>(scaled, -0x1p61, 0x1p61));
  }
}

/// A checked problem as fixed-point classes, those tied together merged into one.
template <class Weight, class Cost>
class FixedProblem {
 public:
  explicit FixedProblem(const KnapsackProblem<Weight, Cost>& problem) : problem_(problem) {
    check_shape();
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
    weight_scale = weights.scale<Weight>(60, "higgs::solve_knapsack: weights must be finite, their sums below 2^60");
    second_scale = seconds.scale<Weight>(60, "higgs::solve_knapsack: weights must be finite, their sums below 2^60");
    // With a second budget ten bits are left for its tolls, which may exceed the costs.
    cost_scale = costs.scale<Cost>(problem.second_budget ? 50 : 60,
                                   "higgs::solve_knapsack: costs must be finite, their sums below 2^60 (two budgets: 2^50)");
    merge_tied();

    budget = fixed_budget(problem.budget, weight_scale);
    second_budget = problem.second_budget ? fixed_budget(*problem.second_budget, second_scale) : 0;
    std::vector<KnapsackEntry> entries;
    for (std::size_t i = 0; i < classes(); ++i) {
      const auto [weight, second] = load(i, entries);
      lightest += weight;
      budget -= weight;
      second_budget -= second;
      feasible = feasible && !entries.empty();
      std::int64_t most = 0;
      for (const KnapsackEntry& entry : entries) most = std::max(most, entry.second);
      second_total += most;
    }
    feasible = feasible && budget >= 0 && second_budget >= 0;
  }

  std::size_t classes() const noexcept { return tied_ ? first_.size() - 1 : problem_.classes(); }

  /// Reads a class; returns the weights of the lightest options, which the entries leave out.
  std::pair<std::int64_t, std::int64_t> load(std::size_t i, std::vector<KnapsackEntry>& entries) const {
    const std::size_t head = tied_ ? members_[first_[i]] : i;
    entries.resize(problem_.begin[head + 1] - problem_.begin[head]);
    for (std::size_t j = 0; j < entries.size(); ++j) {
      const auto& option = problem_.options[problem_.begin[head] + j];
      entries[j] = {weight_scale(option.weight), cost_scale(option.cost),
                    problem_.second_budget ? second_scale(option.second) : 0, static_cast<std::uint32_t>(j)};
    }
    for (std::size_t m = tied_ ? first_[i] + 1 : 0; tied_ && m < first_[i + 1]; ++m) {
      for (std::size_t j = 0; j < entries.size(); ++j) {
        const auto& option = problem_.options[problem_.begin[members_[m]] + j];
        entries[j].weight += weight_scale(option.weight);
        entries[j].cost += cost_scale(option.cost);
        if (problem_.second_budget) entries[j].second += second_scale(option.second);
      }
    }
    if (!problem_.forbidden.empty()) {
      std::erase_if(entries, [&](const KnapsackEntry& entry) { return is_forbidden(i, entry.option); });
    }
    std::pair<std::int64_t, std::int64_t> least{entries.empty() ? 0 : entries[0].weight,
                                                entries.empty() ? 0 : entries[0].second};
    for (const KnapsackEntry& entry : entries) {
      least = {std::min(least.first, entry.weight), std::min(least.second, entry.second)};
    }
    for (KnapsackEntry& entry : entries) {
      entry.weight -= least.first;
      entry.second -= least.second;
    }
    return least;
  }

  /// A number for every class of the problem, from one for each merged class.
  std::vector<std::uint32_t> spread(std::vector<std::uint32_t> merged) const {
    if (!tied_) return merged;
    std::vector<std::uint32_t> all(problem_.classes());
    for (std::size_t i = 0; i < merged.size(); ++i) {
      for (std::size_t m = first_[i]; m < first_[i + 1]; ++m) all[members_[m]] = merged[i];
    }
    return all;
  }

  /// How far a proven optimum may be from the true one, in fixed-point costs.
  std::int64_t tolerance() const noexcept {
    return cost_scale.exact ? 0 : static_cast<std::int64_t>(problem_.classes());
  }

  FixedScale weight_scale, cost_scale, second_scale;
  std::int64_t budget = 0, second_budget = 0;  // what the lightest options leave of them
  std::int64_t lightest = 0;                   // the weight of the lightest options
  std::int64_t second_total = 0;               // the largest sum of second weights, beyond the least
  bool feasible = true;                        // as far as each budget alone can tell

 private:
  void check_shape() const {
    const auto& begin = problem_.begin;
    expects(!begin.empty() && begin.front() == 0 && begin.back() == problem_.options.size(),
            "higgs::solve_knapsack: begin must run from 0 to the number of options");
    expects(problem_.forbidden.size() <= problem_.options.size() && problem_.leader.size() <= problem_.classes(),
            "higgs::solve_knapsack: more marks than options or classes");
    expects(problem_.classes() <= std::numeric_limits<std::uint32_t>::max(), "higgs::solve_knapsack: too many classes");
    for (std::size_t i = 0; i < problem_.classes(); ++i) {
      expects(begin[i] < begin[i + 1] && begin[i + 1] <= problem_.options.size(),
              "higgs::solve_knapsack: a class must hold an option");
      expects(begin[i + 1] - begin[i] <= std::numeric_limits<std::uint32_t>::max(),
              "higgs::solve_knapsack: a class holds fewer than 2^32 options");
    }
    for (std::size_t i = 0; i < problem_.leader.size(); ++i) {
      const std::size_t head = problem_.leader[i];
      expects(head <= i, "higgs::solve_knapsack: leader[i] must not exceed i");
      expects(begin[i + 1] - begin[i] == begin[head + 1] - begin[head],
              "higgs::solve_knapsack: tied classes must hold equally many options");
    }
  }

  /// Sorts the classes into groups, in the order of their first members.
  void merge_tied() {
    const std::size_t count = problem_.classes();
    std::vector<std::size_t> root(count);
    std::iota(root.begin(), root.end(), std::size_t{0});
    for (std::size_t i = 0; i < problem_.leader.size(); ++i) {
      root[i] = root[problem_.leader[i]];
      tied_ = tied_ || root[i] != i;
    }
    if (!tied_) return;
    members_.resize(count);
    std::iota(members_.begin(), members_.end(), std::size_t{0});
    std::stable_sort(members_.begin(), members_.end(), [&](auto a, auto b) { return root[a] < root[b]; });
    for (std::size_t m = 0; m < count; ++m) {
      if (root[members_[m]] == members_[m]) first_.push_back(m);
    }
    first_.push_back(count);
  }

  bool is_forbidden(std::size_t i, std::size_t option) const {
    const auto marked = [&](std::size_t of_class) {
      const std::size_t at = problem_.begin[of_class] + option;
      return at < problem_.forbidden.size() && problem_.forbidden[at] != 0;
    };
    if (!tied_) return marked(i);
    return std::any_of(&members_[first_[i]], members_.data() + first_[i + 1], marked);
  }

  const KnapsackProblem<Weight, Cost>& problem_;
  bool tied_ = false;
  std::vector<std::size_t> members_, first_;  // group i holds members [first[i], first[i + 1])
};

}  // namespace detail

/// The definition: dynamic programming over every pair of weights that can be reached. For small problems; a budget
/// buys the least cost, then the least weight, then the first choice in lexicographic order.
template <class Weight, class Cost>
std::optional<KnapsackSolution<Weight, Cost>> knapsack_reference(const KnapsackProblem<Weight, Cost>& problem) {
  const detail::FixedProblem<Weight, Cost> checked(problem);
  struct Best {
    Cost cost;
    std::vector<std::uint32_t> choice;
  };
  const std::size_t classes = problem.classes();
  std::map<std::pair<Weight, Weight>, Best> table{{{}, {Cost{}, std::vector<std::uint32_t>(classes)}}};
  const auto leader = [&](std::size_t i) {
    while (i < problem.leader.size() && problem.leader[i] != i) i = problem.leader[i];
    return i;
  };
  for (std::size_t head = 0; head < classes; ++head) {
    if (leader(head) != head) continue;
    std::map<std::pair<Weight, Weight>, Best> next;
    for (const auto& [weights, best] : table) {
      for (std::size_t j = 0; j < problem.begin[head + 1] - problem.begin[head]; ++j) {
        auto [sum, candidate] = std::pair{weights, best};
        bool allowed = true;
        for (std::size_t i = head; i < classes; ++i) {
          if (leader(i) != head) continue;
          const std::size_t at = problem.begin[i] + j;
          allowed = allowed && !(at < problem.forbidden.size() && problem.forbidden[at]);
          sum.first = static_cast<Weight>(sum.first + problem.options[at].weight);
          sum.second = static_cast<Weight>(sum.second + (problem.second_budget ? problem.options[at].second : 0));
          candidate.cost = static_cast<Cost>(candidate.cost + problem.options[at].cost);
          candidate.choice[i] = static_cast<std::uint32_t>(j);
        }
        if (!allowed) continue;
        auto [found, added] = next.try_emplace(sum, candidate);
        if (!added && std::tie(candidate.cost, candidate.choice) < std::tie(found->second.cost, found->second.choice)) {
          found->second = candidate;
        }
      }
    }
    table = std::move(next);
  }
  std::optional<KnapsackSolution<Weight, Cost>> solution;
  for (const auto& [weights, best] : table) {
    if (weights.first > problem.budget || (problem.second_budget && weights.second > *problem.second_budget)) continue;
    if (solution && std::tie(solution->cost, solution->weight, solution->choice) <=
                        std::tie(best.cost, weights.first, best.choice)) {
      continue;
    }
    solution = KnapsackSolution<Weight, Cost>{best.choice, best.cost, weights.first, weights.second, best.cost, true};
  }
  return solution;
}

}  // namespace v0
}  // namespace higgs
