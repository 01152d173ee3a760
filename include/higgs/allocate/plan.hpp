// SPDX-License-Identifier: Apache-2.0
// Which format each layer of a model gets: the plan whose predicted loss is least within a budget.
//
//   std::vector<PlanLayer> layers;                // name, weights, alpha, formats (see shipped_formats())
//   if (auto plan = allocate(layers, Budget::bits(3.25))) use(plan->layers[0].format);
//
// The loss is the sum of max(alpha, 0) * t^2 (see sensitivity.hpp), and the plan is its optimum with a proof
// (see knapsack.hpp), so no uniform plan within the budget is better.
#pragma once

#include <higgs/allocate/knapsack.hpp>
#include <higgs/allocate/sensitivity.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#if HIGGS_DEFINITIONS
#  include <map>
#  include <set>
#endif

namespace higgs {
inline namespace v0 {

/// A layer and the ways to store it.
struct PlanLayer {
  std::string name;
  std::int64_t weights = 0;  // rows * cols: what average bits are counted over
  double alpha = 0;          // the loss for a unit of t^2; counted as 0 where negative
  double margin = 0;         // alpha lies within +-margin with 95 % confidence
  std::vector<Format> formats{};
  std::string pinned{};  // the name of its format; empty: free
  std::string tie{};     // layers of one tie take one format, as fused kernels ask; empty: none
};

/// What a plan may take: bytes of codes and scales.
class Budget {
 public:
  /// So many bits for each weight, on average.
  static Budget bits(double average) { return Budget(average, -1); }
  static Budget bytes(std::int64_t count) { return Budget(0, count); }

  /// The budget in bytes for a model with so many weights. Throws InvalidArgument for a negative budget.
  std::int64_t bytes_for(std::int64_t weights) const;

 private:
  Budget(double bits, std::int64_t bytes) : bits_(bits), bytes_(bytes) {}
  double bits_;
  std::int64_t bytes_;  // negative: none, the bits count
};

/// Limits of a plan.
struct PlanOptions {
  double trusted_t2 = linear_t2;  // a plan that exceeds it somewhere says so
  double max_t2 =
      std::numeric_limits<double>::infinity();  // formats beyond are left out, except where pinned
  /// Alphas count as alpha + caution * margin: more than 0 guards layers whose alpha is uncertain.
  double caution = 0;
  std::optional<std::int64_t> second_budget;  // for the sum of Format::second
  KnapsackLimits limits;
};

/// The format that a plan gives to a layer, and its predicted loss.
struct PlannedLayer {
  std::string name;
  std::string format;
  double t2 = 0;
  std::int64_t bytes = 0;
  double loss = 0;  // alpha * t2, as predicted; alpha as measured, negative or not
};

/// A format for each layer, with predicted loss and bytes.
struct Plan {
  std::vector<PlannedLayer> layers;
  std::int64_t bytes = 0;
  std::int64_t weights = 0;
  double loss = 0;  // predicted change of the metric: the sum of max(alpha, 0) * t2
  double low = 0;   // 95 % interval of the sum of alpha * t2, if the errors of the alphas are independent
  double high = 0;
  double lower_bound = 0;             // no plan within the budget is predicted to lose less
  bool proven = false;                // and this one is the best
  double bytes_price = 0;             // the loss that one byte more would save, about
  std::vector<std::string> warnings;  // for people

  double bits_per_weight() const {
    return weights > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(weights) : 0;
  }
};

namespace detail {

HIGGS_INLINE std::int64_t sum_of_weights(std::span<const PlanLayer> layers);

inline double counted_alpha(const PlanLayer& layer, double caution) {
  return std::max(0.0, caution > 0 ? layer.alpha + caution * layer.margin : layer.alpha);
}

/// What is known of a choice of formats.
HIGGS_INLINE Plan describe_plan(std::span<const PlanLayer> layers, std::span<const std::uint32_t> choice,
                                const PlanOptions& options);

/// The cheapest choice of one format for all layers that are free, within the budgets.
HIGGS_INLINE std::optional<std::vector<std::uint32_t>> best_uniform(std::span<const PlanLayer> layers,
                                                                    const KnapsackProblem<>& problem);

}  // namespace detail

/// The knapsack behind allocate(): option j of class i is format j of layer i, its weight the bytes, its cost
/// the predicted loss. KnapsackFront makes of it every budget's plan.
HIGGS_INLINE KnapsackProblem<> plan_problem(std::span<const PlanLayer> layers, const Budget& budget,
                                            const PlanOptions& options = {});

/// The plan of least predicted loss; std::nullopt if even the smallest formats exceed the budget.
HIGGS_INLINE std::optional<Plan> allocate(std::span<const PlanLayer> layers, const Budget& budget,
                                          const PlanOptions& options = {});

/// The best plan that gives all layers (but pinned ones) one format; std::nullopt if none is within the
/// budget.
HIGGS_INLINE std::optional<Plan> allocate_uniform(std::span<const PlanLayer> layers, const Budget& budget,
                                                  const PlanOptions& options = {});

#if HIGGS_DEFINITIONS

HIGGS_INLINE std::int64_t Budget::bytes_for(std::int64_t weights) const {
  if (bytes_ >= 0) return bytes_;
  expects(bits_ > 0 && bits_ <= 1024, [&] {
    return detail::sentence("higgs::Budget: bits must lie in (0, 1024], bytes not be negative, but bits are ",
                            bits_);
  });
  return static_cast<std::int64_t>(std::floor(bits_ * static_cast<double>(weights) / 8));
}

namespace detail {

HIGGS_INLINE std::int64_t sum_of_weights(std::span<const PlanLayer> layers) {
  std::int64_t sum = 0;
  for (const PlanLayer& layer : layers) {
    expects(layer.weights >= 0 && layer.weights <= std::numeric_limits<std::int64_t>::max() - sum, [&] {
      return sentence("higgs::allocate: layer \"", layer.name, "\" has ", layer.weights,
                      " weights; they must not be negative, nor their sum overflow");
    });
    sum += layer.weights;
  }
  return sum;
}

HIGGS_INLINE Plan describe_plan(std::span<const PlanLayer> layers, std::span<const std::uint32_t> choice,
                                const PlanOptions& options) {
  Plan plan;
  plan.weights = sum_of_weights(layers);
  double sum = 0, variance = 0;
  std::size_t beyond = 0;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const PlanLayer& layer = layers[i];
    const Format& format = layer.formats[choice[i]];
    plan.layers.push_back({layer.name, format.name, format.t2, format.bytes, layer.alpha * format.t2});
    plan.bytes += format.bytes;
    plan.loss += counted_alpha(layer, options.caution) * format.t2;
    sum += layer.alpha * format.t2;
    const double margin = format.t2 > 0 ? layer.margin * format.t2 : 0;
    variance += margin * margin;
    beyond += format.t2 > options.trusted_t2;
  }
  plan.low = sum - std::sqrt(variance);
  plan.high = sum + std::sqrt(variance);
  if (beyond > 0) {
    plan.warnings.push_back(std::to_string(beyond)
                                .append(" of ")
                                .append(std::to_string(layers.size()))
                                .append(" layers have a t^2 beyond the range of the linearity theorem: "
                                        "expect to lose more than predicted"));
  }
  return plan;
}

HIGGS_INLINE std::optional<std::vector<std::uint32_t>> best_uniform(std::span<const PlanLayer> layers,
                                                                    const KnapsackProblem<>& problem) {
  std::optional<std::vector<std::uint32_t>> best;
  double least = std::numeric_limits<double>::infinity();
  std::set<std::string, std::less<>> names;
  std::map<std::string, std::string, std::less<>> pinned;  // by tie
  for (const PlanLayer& layer : layers) {
    for (const Format& format : layer.formats) names.insert(format.name);
    if (!layer.tie.empty() && !layer.pinned.empty()) pinned[layer.tie] = layer.pinned;
  }
  for (const std::string& name : names) {
    std::vector<std::uint32_t> choice;
    double cost = 0;
    std::int64_t bytes = 0, second = 0;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const auto tied = pinned.find(layers[i].tie);
      const std::string& wanted = !layers[i].pinned.empty() ? layers[i].pinned
                                  : tied != pinned.end()    ? tied->second
                                                            : name;
      const auto& formats = layers[i].formats;
      const auto at = std::find_if(formats.begin(), formats.end(),
                                   [&](const Format& format) { return format.name == wanted; });
      if (at == formats.end()) break;
      const auto j = static_cast<std::size_t>(at - formats.begin());
      if (problem.begin[i] + j < problem.forbidden.size() && problem.forbidden[problem.begin[i] + j]) break;
      choice.push_back(static_cast<std::uint32_t>(j));
      cost += problem.options[problem.begin[i] + j].cost;
      bytes += at->bytes;
      second += at->second;
    }
    if (choice.size() != layers.size() || bytes > problem.budget || cost >= least) continue;
    if (problem.second_budget && second > *problem.second_budget) continue;
    least = cost;
    best = std::move(choice);
  }
  return best;
}

}  // namespace detail

HIGGS_INLINE KnapsackProblem<> plan_problem(std::span<const PlanLayer> layers, const Budget& budget,
                                            const PlanOptions& options) {
  KnapsackProblem<> problem;
  std::map<std::string, std::size_t, std::less<>> ties;
  std::int64_t most_bytes = std::int64_t{1} << 60;
  for (const PlanLayer& layer : layers) {
    const auto refuse = [&](const auto&... what) {
      return detail::sentence("higgs::allocate: layer \"", layer.name, "\" ", what...);
    };
    expects(!layer.formats.empty(), [&] { return refuse("has no format to choose from"); });
    const double alpha = detail::counted_alpha(layer, options.caution);
    expects(std::isfinite(layer.alpha) && std::isfinite(alpha) && layer.margin >= 0, [&] {
      return refuse("has alpha ", layer.alpha, " and margin ", layer.margin,
                    ", but alpha must be finite and the margin not negative");
    });
    const std::size_t i = problem.classes();
    std::vector<KnapsackProblem<>::Option> added;
    std::int64_t largest = 0;
    for (const Format& format : layer.formats) {
      expects(format.t2 >= 0 && format.bytes >= 0 && format.bytes <= most_bytes, [&] {
        return refuse("has format \"", format.name, "\" with t2 ", format.t2, " and ", format.bytes,
                      " bytes; they must not be negative, nor the sum of bytes exceed 2^60");
      });
      largest = std::max(largest, format.bytes);
      added.push_back({format.bytes, alpha * format.t2, format.second});
    }
    most_bytes -= largest;
    problem.add_class(added);
    bool found = false;
    for (std::size_t j = 0; j < layer.formats.size(); ++j) {
      const bool wanted = layer.pinned.empty() ? layer.formats[j].t2 <= options.max_t2
                                               : !found && layer.formats[j].name == layer.pinned;
      found = found || wanted;
      if (!wanted) problem.forbid(i, j);
    }
    expects(found || layer.pinned.empty(), [&] {
      std::string known;
      for (const Format& format : layer.formats) known.append(" ").append(format.name);
      return refuse("is pinned to \"", layer.pinned, "\", but has:", known);
    });
    if (layer.tie.empty()) continue;
    const std::size_t first = ties.emplace(layer.tie, i).first->second;
    const auto same_name = [](const Format& a, const Format& b) { return a.name == b.name; };
    expects(std::equal(layer.formats.begin(), layer.formats.end(), layers[first].formats.begin(),
                       layers[first].formats.end(), same_name),
            [&] {
              return refuse("is tied to \"", layers[first].name,
                            "\", so both must list the same formats in the same order");
            });
    if (first != i) problem.tie(first, i);
  }
  problem.budget = budget.bytes_for(detail::sum_of_weights(layers));
  problem.second_budget = options.second_budget;
  return problem;
}

HIGGS_INLINE std::optional<Plan> allocate(std::span<const PlanLayer> layers, const Budget& budget,
                                          const PlanOptions& options) {
  const KnapsackProblem<> problem = plan_problem(layers, budget, options);
  const auto solution = solve_knapsack(problem, options.limits);
  if (!solution) return std::nullopt;
  Plan plan = detail::describe_plan(layers, solution->choice, options);
  if (!solution->proven) {  // the search stopped at its limit: what is simple may still be better
    if (const auto uniform = detail::best_uniform(layers, problem)) {
      Plan other = detail::describe_plan(layers, *uniform, options);
      if (other.loss < plan.loss) plan = std::move(other);
    }
    plan.warnings.push_back("the search for the best plan stopped at its limit");
  }
  plan.lower_bound = std::min(plan.loss, solution->lower_bound);
  plan.proven = solution->proven;
  plan.bytes_price = solution->lambda;
  return plan;
}

HIGGS_INLINE std::optional<Plan> allocate_uniform(std::span<const PlanLayer> layers, const Budget& budget,
                                                  const PlanOptions& options) {
  const auto choice = detail::best_uniform(layers, plan_problem(layers, budget, options));
  if (!choice) return std::nullopt;
  return detail::describe_plan(layers, *choice, options);
}

#endif

}  // namespace v0
}  // namespace higgs
