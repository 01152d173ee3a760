// SPDX-License-Identifier: Apache-2.0
// higgs-model allocate: which layer gets how many bits.
#include "commands.hpp"
#include "plan.hpp"
#include "source.hpp"

#include <higgs/codebook/shipped.hpp>
#include <higgs/core/error.hpp>

#include <cstdio>
#include <map>
#include <memory>
#include <ostream>

namespace higgs::model {
namespace {

struct Options : CommonOptions {
  std::string model, alpha, out, report, metric = "kl";
  PlanRequest request;
  PlanOptions plan;
  double bits = 0;
  std::int64_t bytes = -1;
};

void allocate_bits(Options& options) {
  expects((options.bits > 0) != (options.bytes >= 0), "allocate: give --bits or --bytes");
  const ModelSource source(options.model);
  const SensitivityFile file = read_sensitivities(read_text(options.alpha), options.alpha);
  options.request.options.input_scales = file.protocol.input_scales;
  options.request.metric = metric_named(options.metric);
  const std::vector<PlanLayer> layers = plan_layers(source, file, options.request);
  const Budget budget = options.bytes >= 0 ? Budget::bytes(options.bytes) : Budget::bits(options.bits);
  const auto plan = allocate(layers, budget, options.plan);
  if (!plan) throw InvalidArgument("even the smallest formats exceed the budget");
  if (!options.out.empty()) write_text(options.out, write_plan(*plan, options.request, file));
  if (!options.report.empty())
    write_text(options.report, allocation_page("Bits for " + source.path().filename().string(), file, layers,
                                               *plan, options.request.metric));

  std::ostream& out = options.text();
  std::map<std::string, int> counts;
  for (const PlannedLayer& layer : plan->layers) ++counts[layer.format];
  char line[200];
  std::snprintf(line, sizeof line, "%.4f bits a weight, %lld bytes, predicted %s +%.5f [%.5f, %.5f], %s\n",
                plan->bits_per_weight(), static_cast<long long>(plan->bytes), options.metric.c_str(),
                plan->loss, plan->low, plan->high, plan->proven ? "proven optimal" : "not proven optimal");
  out << line;
  for (const auto& [format, count] : counts) out << "  " << format << ": " << count << " layers\n";
  nlohmann::ordered_json results{
      {"bits_per_weight", plan->bits_per_weight()}, {"bytes", plan->bytes},   {"loss", plan->loss},
      {"lower_bound", plan->lower_bound},           {"proven", plan->proven}, {"counts", counts}};
  if (const auto uniform = allocate_uniform(layers, budget, options.plan)) {
    std::snprintf(line, sizeof line, "best uniform: %s, %.4f bits, predicted +%.5f\n",
                  uniform->layers.empty() ? "" : uniform->layers[0].format.c_str(),
                  uniform->bits_per_weight(), uniform->loss);
    out << line;
    results["uniform_loss"] = uniform->loss;
  }
  for (const std::string& warning : plan->warnings) out << "note: " << warning << "\n";
  options.write(results);
}

}  // namespace

void add_allocate(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "allocate", "Finds the plan of least predicted loss for a budget: bits for each layer");
  command->add_option("model", options->model, "model in its original form")->required()->type_name("MODEL");
  command->add_option("--alpha", options->alpha, "what sensitivity wrote")->required()->type_name("JSON");
  auto* bits = command->add_option("--bits", options->bits, "average bits for a weight, scales included")
                   ->check(CLI::PositiveNumber);
  command->add_option("--bytes", options->bytes, "bytes of codes and scales")
      ->check(CLI::NonNegativeNumber)
      ->excludes(bits);
  command->add_option("-o,--output", options->out, "plan to write, for quantize --plan")->type_name("JSON");
  command->add_option("--report", options->report, "write a page with pictures to this file")
      ->type_name("HTML");
  command->add_option("--codebooks", options->request.codebooks, "to choose from")
      ->delimiter(',')
      ->capture_default_str()
      ->check(CLI::IsMember(shipped_codebook_names()));
  command->add_option("--metric", options->metric, "kl, nll or ppl")
      ->capture_default_str()
      ->check(CLI::IsMember({"kl", "nll", "ppl"}));
  command->add_option("--group", options->request.options.group, "at most so many weights share a scale")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 30));
  command->add_option("--max-t2", options->plan.max_t2, "leave out formats with a larger t^2")
      ->check(CLI::PositiveNumber);
  command->add_option("--caution", options->plan.caution, "count alphas higher by so many of their margins")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--fused", options->request.fused,
                    "one format for q, k, v of a block, one for gate and up");
  options->add_to(*command);
  command->callback([options] { allocate_bits(*options); });
}

}  // namespace higgs::model
