// SPDX-License-Identifier: Apache-2.0
// Solves the multiple-choice knapsack, with a proof.
//
//   KnapsackProblem<> problem;                    // int64 weights, double costs
//   problem.add_class({{2, 9.0}, {3, 4.0}});      // {weight, cost}: options 0 and 1 of class 0
//   problem.budget = 3;
//   if (auto best = solve_knapsack(problem)) use(best->choice);
//
// Method. The LP relaxation is that of Dyer and Zemel, solved by partitioning in linear time. Dynamic programming over
// the core of Pisinger (EJOR 83, 1995) follows: classes enter it in ascending order of their least reduced cost, until
// no class outside can improve the incumbent. A second budget is relaxed with a Lagrange multiplier. Memory beside the
// problem: at most 48 bytes an option, 60 a class, 80 more for each option and class that may improve on the LP, and 92
// (with two budgets 150) times KnapsackLimits::max_states.
#pragma once

#include <higgs/allocate/knapsack_problem.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#if HIGGS_DEFINITIONS
#  include <bit>
#  include <map>
#  include <numeric>
#endif

namespace higgs {
inline namespace v0 {

/// Limits of the work for one answer.
struct KnapsackLimits {
  std::size_t max_states = std::size_t{1}
                           << 22;  // states of the dynamic programming; beyond them `proven` is false
};

namespace detail {

/// An edge of the lower convex hull of a class: `weight` more buys `cost` less.
struct HullStep {
  std::int64_t weight, cost;
  double slope() const noexcept { return static_cast<double>(cost) / static_cast<double>(weight); }
};

/// The objective of a search: the cost plus a Lagrange multiplier times the second weight, or the second weight itself.
struct KnapsackPrice {
  double multiplier = 0;
  bool second_only = false;

  std::int64_t operator()(const KnapsackEntry& entry) const noexcept {
    if (second_only) return entry.second;
    if (multiplier == 0) return entry.cost;
    return entry.cost + static_cast<std::int64_t>(multiplier * static_cast<double>(entry.second));
  }
};

/// Appends the hull of a class, whose entries are sorted by weight. The slopes fall strictly.
HIGGS_INLINE void append_hull(std::span<const KnapsackEntry> entries, const KnapsackPrice& price,
                              std::vector<HullStep>& steps);

struct KnapsackOutcome {
  std::vector<KnapsackEntry> picked;  // one for each merged class
  std::int64_t cost = 0, weight = 0, second = 0;
  std::int64_t bound = 0;  // lower bound of the objective; with two budgets, of the cost
  bool proven = false;
  HullStep rate{1, 0};  // the dual price of weight is cost / weight
  std::size_t states = 0;
};

/// One budget: the least sum of costs within it.
HIGGS_INLINE KnapsackOutcome search_one(const FixedProblem& problem, std::size_t max_states);

/// Two budgets: relaxes the second with a Lagrange multiplier and solves the first exactly. The best multiplier is the
/// one at which a choice within the second budget and one beyond it have the same objective. A search over both budgets
/// closes the remaining optimality gap.
HIGGS_INLINE std::optional<KnapsackOutcome> search_two(const FixedProblem& problem, std::size_t max_states,
                                                       double& best_multiplier);

/// A number that is at most `fixed`, as a cost.
template <class Cost>
Cost cost_below(std::int64_t fixed, const FixedScale& scale) {
  if constexpr (std::is_integral_v<Cost>) {
    if (std::is_unsigned_v<Cost> && fixed < 0) return 0;
    return static_cast<Cost>(fixed / scale.whole_factor + (fixed % scale.whole_factor > 0));
  } else {
    // int64 to double rounds by at most 2^-53.
    const double exact = scale.undo(fixed - (std::abs(fixed) >> 53));
    const auto cost = static_cast<Cost>(exact);
    return cost <= exact ? cost : std::nextafter(cost, std::numeric_limits<Cost>::lowest());
  }
}

}  // namespace detail

/// The cheapest choice within the budgets, with its certificate; std::nullopt when there is none.
/// When the limit stops the search, `proven` is false and `gap()` bounds what is left.
template <class Weight, class Cost>
std::optional<KnapsackSolution<Weight, Cost>> solve_knapsack(const KnapsackProblem<Weight, Cost>& problem,
                                                             const KnapsackLimits& limits = {}) {
  const detail::FixedProblem fixed(problem);
  if (!fixed.feasible) return std::nullopt;
  KnapsackSolution<Weight, Cost> solution;
  std::optional<detail::KnapsackOutcome> outcome;
  double multiplier = 0;
  if (problem.second_budget) {
    outcome = detail::search_two(fixed, limits.max_states, multiplier);
    if (!outcome) return std::nullopt;
  } else {
    outcome = detail::search_one(fixed, limits.max_states);
  }
  for (const detail::KnapsackEntry& entry : outcome->picked) solution.choice.push_back(entry.option);
  solution.choice = fixed.spread(std::move(solution.choice));
  for (std::size_t i = 0; i < problem.classes(); ++i) {
    const auto& option = problem.options[problem.begin[i] + solution.choice[i]];
    solution.cost = static_cast<Cost>(solution.cost + option.cost);
    solution.weight = static_cast<Weight>(solution.weight + option.weight);
    solution.second = static_cast<Weight>(solution.second + option.second);
  }
  solution.lower_bound =
      std::min(solution.cost, detail::cost_below<Cost>(outcome->bound - fixed.rounding, fixed.cost_scale));
  solution.proven = outcome->proven;
  solution.lambda = outcome->rate.slope() / fixed.cost_scale.factor * fixed.weight_scale.factor;
  solution.mu = multiplier / fixed.cost_scale.factor * fixed.second_scale.factor;
  solution.cost_step = fixed.cost_scale.step();
  solution.weight_step = fixed.weight_scale.step();
  solution.states = outcome->states;
  return solution;
}

#if HIGGS_DEFINITIONS

namespace detail {

__extension__ typedef __int128 Wide;  // products of two fixed-point numbers

HIGGS_INLINE void append_hull(std::span<const KnapsackEntry> entries, const KnapsackPrice& price,
                              std::vector<HullStep>& steps) {
  const std::size_t first = steps.size();
  std::int64_t weight = entries[0].weight, least = price(entries[0]);
  for (const KnapsackEntry& entry : entries) {
    const std::int64_t here = price(entry);
    if (here >= least) continue;
    HullStep step{entry.weight - weight, least - here};
    for (; steps.size() > first && (step.weight == 0 || step.slope() >= steps.back().slope());
         steps.pop_back()) {
      step = {step.weight + steps.back().weight, step.cost + steps.back().cost};
    }
    if (step.weight > 0) steps.push_back(step);
    weight = entry.weight;
    least = here;
  }
}

/// The break step: edges are taken in descending order of slope, and the budget runs out in this one. {1, 0} if the
/// budget suffices for all. The edges are partitioned by the bits of their slopes, twelve at a time, as positive doubles
/// sort like their bits. Slopes that differ in the last 16 bits alone count as equal: `steps` then holds these edges, and
/// the result is their sum.
inline HullStep break_step(std::vector<HullStep>& steps, std::int64_t budget) {
  std::int64_t total = 0;
  for (const HullStep& step : steps) total += step.weight;
  if (total <= budget) return {1, 0};
  std::vector<std::int64_t> weight_of(4096);
  for (int shift = 52; steps.size() > 1 && shift >= 16; shift -= 12) {
    const auto digit = [shift](const HullStep& step) {
      return (std::bit_cast<std::uint64_t>(step.slope()) >> shift) & 4095;
    };
    std::fill(weight_of.begin(), weight_of.end(), 0);
    for (const HullStep& step : steps) weight_of[digit(step)] += step.weight;
    std::size_t top = 4095;
    while (weight_of[top] <= budget) budget -= weight_of[top--];
    std::erase_if(steps, [&](const HullStep& step) { return digit(step) != top; });
  }
  return std::accumulate(steps.begin(), steps.end(), HullStep{0, 0},
                         [](const HullStep& sum, const HullStep& step) {
                           return HullStep{sum.weight + step.weight, sum.cost + step.cost};
                         });
}

enum class Budgets { One, Two };

/// Minimizes the sum of the prices within the budget. With two budgets it minimizes the sum of the costs, starts from the
/// incumbent `known`, and takes its bounds from the prices.
template <Budgets Count>
class CoreSearch {
 public:
  CoreSearch(const FixedProblem& problem, const KnapsackPrice& price, std::size_t max_states)
      : problem_(problem), price_(price), max_states_(std::min<std::size_t>(max_states, outside)) {
    const bool of_costs = Count == Budgets::Two || (price.multiplier == 0 && !price.second_only);
    least_gain_ = of_costs ? problem.least_gain : 1;
    rounding_ = of_costs ? problem.rounding : 0;
  }

  /// `relaxed_second` is the largest product of multiplier and second weight within the second budget. It and `known` are
  /// for Budgets::Two.
  KnapsackOutcome run(std::int64_t relaxed_second = 0, const KnapsackOutcome* known = nullptr) {
    relax();
    const bool tied = Count == Budgets::One && (ties_at_break_ || residual_ < 0);
    if (tied) fill();
    relaxation_ += relaxed_second;
    if (known)
      adopt(*known);
    else if (residual_ < 0)
      adopt(lightest());
    out_.proven = Count == Budgets::One && dual_price_.cost == 0;
    if (!out_.proven) {
      const std::size_t few = 4096;  // classes that narrow the optimality gap before all are searched
      if (problem_.classes() > 2 * few && !tied) {
        collect(few);
        expand(max_states_ / 2);
      }
      collect(problem_.classes());
      narrow();
      out_.proven = expand(max_states_);
    }
    finish();
    return std::move(out_);
  }

 private:
  struct Move {  // to another option of a class; all numbers are differences from the base
    std::int64_t weight, cost, second, price;
    Wide reduced;  // price + dual price * weight, times dual_price_.weight; at least -excess_
    std::uint32_t of_class, entry;
  };
  struct MoveClass {
    std::size_t first, last;  // the moves of the class
    Wide nearest;             // the least reduced price of the moves
    Wide next = 0;            // `nearest` of the next class
    HullStep saving{0, 1};    // least price per unit of weight saved, over all later classes
    HullStep gain{1, 0};      // most price saved per unit of weight, over all later classes
  };
  struct State {
    std::int64_t weight, cost, second, price;
    std::uint32_t node;
  };
  struct Node {  // a node of the tree of moves taken; node 0 is the base
    std::uint32_t parent, of_class, entry;
  };
  struct Incumbent {
    std::int64_t cost, weight;
    std::uint32_t node;
  };
  static constexpr std::uint32_t outside = std::numeric_limits<std::uint32_t>::max();

  Wide reduced(std::int64_t price, std::int64_t weight) const {
    return Wide{price} * dual_price_.weight + Wide{weight} * dual_price_.cost;
  }

  /// Solves the LP relaxation. The base is its solution, with the lighter option in the class that it splits.
  void relax() {
    std::vector<HullStep> steps;
    steps.reserve(problem_.entries() - problem_.classes());
    for (std::size_t i = 0; i < problem_.classes(); ++i) append_hull(problem_[i], price_, steps);
    dual_price_ = break_step(steps, problem_.budget);
    ties_at_break_ = dual_price_.cost > 0 && steps.size() > 1;
    residual_ = problem_.budget;
    out_.picked.reserve(problem_.classes());
    for (std::size_t i = 0; i < problem_.classes(); ++i) {
      const KnapsackEntry* least = nullptr;
      Wide least_reduced = 0;
      for (const KnapsackEntry& entry : problem_[i]) {
        if (entry.weight > problem_.budget) break;
        const Wide value = reduced(price_(entry), entry.weight);
        if (least && (value > least_reduced || (value == least_reduced && entry.weight >= least->weight)))
          continue;
        least = &entry;
        least_reduced = value;
      }
      out_.picked.push_back(*least);
      residual_ -= least->weight;
      second_residual_ -= least->second;
      relaxation_ -= price_(*least) - least->cost;
    }
    second_residual_ += problem_.second_budget;
    if constexpr (Count == Budgets::One) relaxation_ = 0;
  }

  /// Makes `known` the incumbent: a choice outside the tree of moves.
  void adopt(const KnapsackOutcome& known) {
    incumbent_entries_ = known.picked;
    incumbent_ = {0, 0, outside};
    for (std::size_t i = 0; i < incumbent_entries_.size(); ++i) {
      incumbent_.weight += incumbent_entries_[i].weight - out_.picked[i].weight;
      incumbent_.cost += objective(incumbent_entries_[i]) - objective(out_.picked[i]);
    }
  }

  KnapsackOutcome lightest() {
    KnapsackOutcome light;
    for (std::size_t i = 0; i < problem_.classes(); ++i) {
      const auto entries = problem_[i];
      light.picked.push_back(
          *std::min_element(entries.begin(), entries.end(), [&](const auto& a, const auto& b) {
            return a.weight != b.weight ? a.weight < b.weight : price_(a) < price_(b);
          }));
    }
    return light;
  }

  std::int64_t objective(const KnapsackEntry& entry) const {
    return Count == Budgets::One ? price_(entry) : entry.cost;
  }

  /// Whether the weight breaks ties between equal costs.
  bool by_weight() const { return Count == Budgets::One && rounding_ == 0; }

  /// The optimality gap: the largest reduced price of a choice that is better than the incumbent, that is cheaper, or as
  /// cheap and lighter. Negative if no choice can be better.
  Wide gap() const {
    const Wide cheaper = reduced(incumbent_.cost - least_gain_ + relaxation_, residual_);
    return excess_ +
           (by_weight() ? std::max(cheaper, reduced(incumbent_.cost, incumbent_.weight - 1)) : cheaper);
  }

  bool fits(std::int64_t weight, std::int64_t second) const {
    return weight <= residual_ && (Count == Budgets::One || second <= second_residual_);
  }

  bool better(std::int64_t cost, std::int64_t weight) const {
    return cost < incumbent_.cost || (cost == incumbent_.cost && weight < incumbent_.weight);
  }

  /// Where many classes tie at the break step, up to rounding: moves the base along these ties until the budget is used.
  /// Its reduced price may then exceed the least by `excess_`.
  void fill() {
    const std::size_t count = problem_.classes();
    std::size_t stride = count / 2 + count / 8;  // scatters the classes that move
    while (std::gcd(stride, count) != 1) ++stride;
    std::vector<bool> moved(count);
    for (const bool lighter : {true, false}) {
      for (std::size_t n = 0, i = 0; n < count; ++n, i = (i + stride) % count) {
        const auto entries = problem_[i];
        for (std::size_t k = 0; k < entries.size() && !moved[i]; ++k) {
          const KnapsackEntry& entry = entries[lighter ? entries.size() - 1 - k : k];
          const std::int64_t weight = entry.weight - out_.picked[i].weight;
          if (lighter ? weight >= 0 || residual_ >= 0 : weight <= 0 || weight > residual_) continue;
          const Wide more = reduced(price_(entry) - price_(out_.picked[i]), weight);
          if (more > (Wide{std::abs(weight)} * dual_price_.cost >> 30)) continue;
          moved[i] = true;
          excess_ += more;
          residual_ -= weight;
          out_.picked[i] = entry;
        }
      }
    }
  }

  /// Collects the moves within the gap. A single move that is better becomes the incumbent.
  void collect(std::size_t classes) {
    Wide limit = gap();
    moves_.clear();
    for (std::size_t i = 0; i < classes && limit >= 0; ++i) {
      const KnapsackEntry& base = out_.picked[i];
      std::uint32_t index = 0;
      for (const KnapsackEntry& entry : problem_[i]) {
        if (entry.weight > problem_.budget) break;
        Move move{entry.weight - base.weight,
                  objective(entry) - objective(base),
                  entry.second - base.second,
                  price_(entry) - price_(base),
                  0,
                  static_cast<std::uint32_t>(i),
                  index++};
        if (Count == Budgets::One) move.second = 0;
        if (move.weight >= 0 && move.cost >= 0 && move.second >= 0) continue;
        move.reduced = reduced(move.price, move.weight);
        if (move.reduced > limit) continue;
        moves_.push_back(move);
        if (!fits(move.weight, move.second) || !better(move.cost, move.weight)) continue;
        nodes_.push_back({0, move.of_class, move.entry});
        incumbent_ = {move.cost, move.weight, static_cast<std::uint32_t>(nodes_.size() - 1)};
        limit = gap();
      }
    }
  }

  /// Rounds the residual capacity down to a multiple of the common divisor of the weights of the moves.
  void narrow() {
    for (std::int64_t before = residual_ + 1; before != residual_;) {
      before = residual_;
      const Wide limit = gap();
      std::erase_if(moves_, [&](const Move& move) { return move.reduced > limit; });
      std::int64_t divisor = 0;
      for (const Move& move : moves_) divisor = std::gcd(divisor, move.weight);
      if (divisor > 1) residual_ -= (residual_ % divisor + divisor) % divisor;
    }
  }

  /// Sorts the next `count` classes of the core by their least reduced price and computes their bounds.
  void order(std::vector<MoveClass>& classes, std::size_t count) const {
    std::partial_sort(classes.begin(), classes.begin() + static_cast<std::ptrdiff_t>(count), classes.end(),
                      [](const MoveClass& a, const MoveClass& b) {
                        return a.nearest != b.nearest ? a.nearest < b.nearest : a.first < b.first;
                      });
    HullStep saving{0, 1}, gain{1, 0};
    Wide next = 0;
    for (std::size_t i = classes.size(); i-- > 0;) {
      classes[i].saving = saving;
      classes[i].gain = gain;
      classes[i].next = next;
      next = i + 1 == classes.size() ? classes[i].nearest : std::min(next, classes[i].nearest);
      for (std::size_t k = classes[i].first; k < classes[i].last; ++k) {
        const HullStep step{std::abs(moves_[k].weight), std::abs(moves_[k].price)};
        if (moves_[k].weight < 0 && Wide{step.cost} * saving.weight < Wide{saving.cost} * step.weight)
          saving = step;
        if (moves_[k].weight > 0 && moves_[k].price < 0 &&
            Wide{step.cost} * gain.weight > Wide{gain.cost} * step.weight) {
          gain = step;
        }
      }
    }
  }

  /// Whether later classes can make the state better than the incumbent. A move costs at least `next`; each unit of the
  /// residual capacity saves at most `gain`; each unit beyond the budget costs at least `saving`.
  bool can_improve(const State& state, const MoveClass& after, Wide limit) const {
    if (reduced(state.price, state.weight) + after.next > limit) return false;
    if (excess_ > 0) return true;
    const std::int64_t left = residual_ - state.weight;
    const HullStep& rate = left >= 0 ? after.gain : after.saving;
    const std::int64_t gain = by_weight() ? 0 : least_gain_;
    return Wide{state.price - incumbent_.cost - relaxation_ + gain} * rate.weight <= Wide{left} * rate.cost;
  }

  /// The dynamic programming over the moves. False if it stopped at `max_states`.
  bool expand(std::size_t max_states) {
    std::vector<MoveClass> classes;
    for (std::size_t k = 0; k < moves_.size(); ++k) {
      if (k == 0 || moves_[k].of_class != moves_[k - 1].of_class) {
        classes.push_back({k, k, moves_[k].reduced, 0, {}, {}});
      }
      classes.back().last = k + 1;
      classes.back().nearest = std::min(classes.back().nearest, moves_[k].reduced);
    }
    std::vector<State> states{{0, 0, 0, 0, 0}}, next;
    // The gap narrows quickly, so classes are sorted a few at a time.
    for (std::size_t count = 64; !classes.empty() && !states.empty(); count *= 4) {
      const Wide limit = gap();
      std::erase_if(classes, [&](const MoveClass& c) { return c.nearest > limit; });
      count = std::min(count, classes.size());
      order(classes, count);
      for (std::size_t i = 0; i < count && !states.empty() && classes[i].nearest <= gap(); ++i) {
        if (!merge(classes[i], max_states, states, next)) return false;
        std::swap(states, next);
        out_.states += states.size();
      }
      classes.erase(classes.begin(), classes.begin() + static_cast<std::ptrdiff_t>(count));
    }
    return true;
  }

  /// One class of the dynamic programming: each state stays or makes one of the moves. The states and the moved states are
  /// sorted by weight and are merged; states that are dominated or cannot improve the incumbent are dropped. False if the
  /// states exceed their limit.
  bool merge(const MoveClass& move_class, std::size_t max_states, const std::vector<State>& states,
             std::vector<State>& next) {
    Wide limit = gap();
    heads_.assign(1, {0, nullptr});
    for (std::size_t k = move_class.first; k < move_class.last; ++k) {
      if (moves_[k].reduced <= limit) heads_.push_back({0, &moves_[k]});
    }
    next.clear();
    std::int64_t least_cost = std::numeric_limits<std::int64_t>::max();
    staircase_.clear();
    while (!heads_.empty()) {
      std::size_t chosen = 0;
      State state{};
      for (std::size_t h = 0; h < heads_.size(); ++h) {
        const auto [at, move] = heads_[h];
        const std::int64_t weight = states[at].weight + (move ? move->weight : 0);
        const std::int64_t cost = states[at].cost + (move ? move->cost : 0);
        if (h > 0 && (weight > state.weight || (weight == state.weight && cost >= state.cost))) continue;
        chosen = h;
        state = states[at];
        state.weight = weight;
        state.cost = cost;
      }
      const Move* move = heads_[chosen].second;
      if (move) {
        state.second += move->second;
        state.price += move->price;
      }
      if (++heads_[chosen].first == states.size())
        heads_.erase(heads_.begin() + static_cast<std::ptrdiff_t>(chosen));

      if constexpr (Count == Budgets::One) {
        if (state.cost >= least_cost) continue;
        least_cost = state.cost;
      } else {
        if (dominated(state.second, state.cost)) continue;
      }
      const bool improves = fits(state.weight, state.second) && better(state.cost, state.weight);
      if (!improves && !can_improve(state, move_class, limit)) continue;
      if (move) {
        if (nodes_.size() >= max_states) return false;
        nodes_.push_back({state.node, move->of_class, move->entry});
        state.node = static_cast<std::uint32_t>(nodes_.size() - 1);
      }
      if (improves) {
        incumbent_ = {state.cost, state.weight, state.node};
        limit = gap();
      }
      next.push_back(state);
    }
    return true;
  }

  /// Whether a lighter state dominates in second weight and cost; otherwise records this one.
  bool dominated(std::int64_t second, std::int64_t cost) {
    auto at = staircase_.upper_bound(second);
    if (at != staircase_.begin() && std::prev(at)->second <= cost) return true;
    while (at != staircase_.end() && at->second >= cost) at = staircase_.erase(at);
    staircase_.insert_or_assign(second, cost);
    return false;
  }

  void finish() {
    std::int64_t base = 0;
    for (const KnapsackEntry& entry : out_.picked) base += objective(entry);
    const auto dual = static_cast<std::int64_t>(Wide{residual_} * dual_price_.cost / dual_price_.weight);
    const auto over = static_cast<std::int64_t>(excess_ / dual_price_.weight) + (excess_ > 0);
    const std::int64_t best = base + incumbent_.cost;
    out_.bound = best - rounding_;
    if (!out_.proven) out_.bound = std::min(out_.bound, base - relaxation_ - dual - over);
    if (incumbent_.node == outside) out_.picked = incumbent_entries_;
    for (std::uint32_t node = incumbent_.node; node != outside && node != 0; node = nodes_[node].parent) {
      out_.picked[nodes_[node].of_class] = problem_[nodes_[node].of_class][nodes_[node].entry];
    }
    for (const KnapsackEntry& entry : out_.picked) {
      out_.cost += entry.cost;
      out_.weight += entry.weight;
      out_.second += entry.second;
    }
    out_.rate = dual_price_;
  }

  const FixedProblem& problem_;
  KnapsackPrice price_;
  std::size_t max_states_;
  std::int64_t least_gain_, rounding_;  // of the objective
  KnapsackOutcome out_;                 // `picked` is the base before finish()
  HullStep dual_price_{1, 0};
  bool ties_at_break_ = false;        // whether several classes have the slope of the break step
  Wide excess_ = 0;                   // reduced price of the base, less the least
  std::int64_t residual_ = 0;         // residual capacity: the budget less the weight of the base
  std::int64_t second_residual_ = 0;  // the same of the second budget
  std::int64_t relaxation_ =
      0;  // largest multiplier * second weight that the base leaves to the second budget
  Incumbent incumbent_{0, 0, 0};
  std::vector<KnapsackEntry> incumbent_entries_;
  std::vector<Move> moves_;
  std::vector<Node> nodes_{{0, 0, 0}};
  std::vector<std::pair<std::size_t, const Move*>> heads_;
  std::map<std::int64_t, std::int64_t> staircase_;  // second weight -> cost
};

HIGGS_INLINE KnapsackOutcome search_one(const FixedProblem& problem, std::size_t max_states) {
  return CoreSearch<Budgets::One>(problem, {}, max_states).run();
}

HIGGS_INLINE std::optional<KnapsackOutcome> search_two(const FixedProblem& problem, std::size_t max_states,
                                                       double& best_multiplier) {
  const auto solve = [&](KnapsackPrice price) {
    return CoreSearch<Budgets::One>(problem, price, max_states).run();
  };
  KnapsackOutcome over = solve({});
  if (over.second <= problem.second_budget) return over;
  KnapsackOutcome within = solve({0, true});
  if (within.second > problem.second_budget) return std::nullopt;

  const double largest_multiplier = 0x1p60 / static_cast<double>(problem.second_total);
  const auto relaxation_of = [&](double multiplier) {  // 2^-48: rounding of the products
    return static_cast<std::int64_t>(multiplier * static_cast<double>(problem.second_budget) *
                                     (1 + 0x1p-48)) +
           1;
  };
  KnapsackOutcome best = within;
  std::int64_t bound = over.bound;
  std::size_t states = over.states + within.states;
  while (within.cost > over.cost) {
    const double multiplier =
        std::min(largest_multiplier, static_cast<double>(within.cost - over.cost) /
                                         static_cast<double>(over.second - within.second));
    KnapsackOutcome middle = solve({multiplier});
    states += middle.states;
    if (middle.bound - relaxation_of(multiplier) > bound) {
      bound = middle.bound - relaxation_of(multiplier);
      best_multiplier = multiplier;
    }
    const bool fits = middle.second <= problem.second_budget;
    if (fits && middle.cost < best.cost) best = middle;
    if (!middle.proven || middle.second <= within.second || middle.second >= over.second) break;
    (fits ? within : over) = std::move(middle);
  }
  best.proven = best.cost - problem.least_gain < bound;
  best.bound = best.cost - problem.rounding;
  if (!best.proven)
    best = CoreSearch<Budgets::Two>(problem, {best_multiplier}, max_states)
               .run(relaxation_of(best_multiplier), &best);
  best.bound = std::max(best.bound, bound);
  best.states += states;
  return best;
}

}  // namespace detail

#endif

}  // namespace v0
}  // namespace higgs
