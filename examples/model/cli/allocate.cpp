// SPDX-License-Identifier: Apache-2.0
// higgs-model allocate: which layer gets how many bits.
#include "cli/commands.hpp"
#include "plan/plan.hpp"
#include "quantize/outline.hpp"
#include "quantize/sizes.hpp"
#include "source/source.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <ostream>

namespace higgs::model {
namespace {

struct Options : CommonOptions {
  std::string model, alpha, rounding, out, report, metric = "kl";
  PlanRequest request;
  PlanOptions plan;
  double bits = 0;
  std::int64_t bytes = -1;
};

[[noreturn]] void refuse_budget(const Options& options, const ModelSource& source,
                                const std::vector<PlanLayer>& layers) {
  const std::optional<Plan> least = smallest_plan(layers, options.plan);
  if (!least)
    throw InvalidArgument("no codebook has a t^2 within --max-t2 " + std::to_string(options.plan.max_t2));
  char bits[64];
  std::snprintf(bits, sizeof bits, "%.4f bits a weight", least->bits_per_weight());
  throw InvalidArgument("even the smallest formats exceed the budget: they take " + std::string(bits) +
                        (options.request.fused ? ", somewhat more with --fused" : "") +
                        ", and the whole file " +
                        std::to_string(outline_of(source, options.request, *least).file_bytes) + " bytes");
}

std::string next_command(const Options& options) {
  std::string out =
      "higgs-model quantize " + shell_quoted(options.model) + " -o OUT --plan " + shell_quoted(options.out);
  const auto& rounding = options.request.rounding;
  if (rounding) out += " --round hessian";
  if (rounding && !rounding->calibration.empty())
    out += " --calibrate " + shell_quoted(rounding->calibration) + " --calibrate-tokens " +
           std::to_string(rounding->tokens);
  return out;
}

// What the plan promises, and how many layers have each format.
void report_choice(const Options& options, const Plan& plan, const std::map<std::string, int>& counts,
                   std::ostream& out) {
  const bool certain = std::isfinite(plan.low) && std::isfinite(plan.high);
  char line[200];
  std::snprintf(line, sizeof line, "%.4f bits a weight in the planned layers, predicted %s +%.5f%s",
                plan.bits_per_weight(), options.metric.c_str(), plan.loss,
                options.request.rounding ? " with --round hessian" : "");
  out << line;
  if (certain) {
    std::snprintf(line, sizeof line, " (95 %% interval %.5f to %.5f)", plan.low, plan.high);
    out << line;
  }
  out << (plan.proven ? "; no other choice is predicted to lose less\n" : "; a better choice may exist\n");
  if (!certain)
    out << "  no interval: some layers were measured once; sensitivity --gradients 2 or --levels 2 gives "
           "one\n";
  for (const auto& [format, count] : counts) out << "  " << format << ": " << counted(count, "layer") << "\n";
}

void allocate_bits(Options& options) {
  expects((options.bits > 0) != (options.bytes >= 0), "allocate: give --bits or --bytes");
  Output plan_file(options.out), report(options.report);
  const ModelSource source(options.model);
  const SensitivityFile file = read_sensitivities(read_text(options.alpha), options.alpha);
  options.request.options.input_scales = file.protocol.input_scales;
  options.request.calibrated = file.protocol.input_scales;
  options.request.metric = metric_named(options.metric);
  if (!options.rounding.empty())
    options.request.rounding = read_rounding(read_text(options.rounding), options.rounding);
  const std::vector<PlanLayer> layers = plan_layers(source, file, options.request);
  for (const std::string& doubt : doubts_about(file, source)) tell(doubt);
  if (options.request.rounding)
    if (const std::string note = layers_without_feedback(*options.request.rounding, layers); !note.empty())
      tell(note);
  const auto plan = options.bytes >= 0
                        ? allocate_file(source, layers, options.request, options.bytes, options.plan)
                        : allocate(layers, Budget::bits(options.bits), options.plan);
  if (!plan) refuse_budget(options, source, layers);
  const Outline outline = outline_of(source, options.request, *plan);
  const Sizes before = sizes_of(source), after = sizes_of(source, outline);
  plan_file.commit(write_plan(*plan, options.request, file));
  report.commit(allocation_page("Bits for " + source.path().filename().string() +
                                    (options.request.rounding ? ", rounded with feedback" : ""),
                                file, layers, *plan, options.request.metric));

  std::ostream& out = options.text();
  std::map<std::string, int> counts;
  for (const PlannedLayer& layer : plan->layers) ++counts[layer.format];
  report_choice(options, *plan, counts, out);
  out << "before: " << before.total() << "\nafter:  " << after.total() << "\n";
  for (const std::string& each : after.lines()) out << "  " << each << "\n";
  nlohmann::ordered_json results{{"bits_per_weight", plan->bits_per_weight()},
                                 {"bytes", plan->bytes},
                                 {"file_bytes", after.file_bytes},
                                 {"file_bits_per_weight", after.bits()},
                                 {"before", to_json(before)},
                                 {"after", to_json(after)},
                                 {"loss", plan->loss},
                                 {"lower_bound", plan->lower_bound},
                                 {"proven", plan->proven},
                                 {"counts", counts}};
  const Budget spent =
      Budget::bytes(options.bytes >= 0 ? plan->bytes : Budget::bits(options.bits).bytes_for(plan->weights));
  if (const auto uniform = allocate_uniform(layers, spent, options.plan)) {
    char line[200];
    std::snprintf(line, sizeof line, "one codebook for all layers would be %s: %.4f bits, predicted +%.5f\n",
                  uniform->layers.empty() ? "" : uniform->layers[0].format.c_str(),
                  uniform->bits_per_weight(), uniform->loss);
    out << line;
    results["uniform_loss"] = uniform->loss;
  }
  for (const std::string& warning : plan->warnings) out << "note: " << warning << "\n";
  if (!options.out.empty()) {
    results["next"] = next_command(options);
    out << "next: " << next_command(options) << "\n";
  }
  options.write(results);
}

}  // namespace

void add_allocate(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "allocate", "Finds the plan of least predicted loss for a budget: bits for each layer");
  add_model_option(*command, *options, options->model, "model in its original form");
  options->reads(command->add_option("--alpha", options->alpha, "what sensitivity wrote"))
      ->required()
      ->type_name("JSON");
  options
      ->reads(command->add_option("--rounding", options->rounding,
                                  "what quantize --round hessian --json wrote about this model: losses are "
                                  "predicted for layers rounded so"))
      ->type_name("JSON");
  auto* bits = command
                   ->add_option("--bits", options->bits,
                                "average bits for a weight of the planned layers, scales included")
                   ->check(positive());
  command
      ->add_option("--bytes", options->bytes,
                   "bytes of the whole file, embedding, kept tensors and header included")
      ->check(not_negative())
      ->excludes(bits);
  command->add_option("-o,--output", options->out, "plan to write, for quantize --plan")->type_name("JSON");
  command->add_option("--report", options->report, "write a page with pictures to this file")
      ->type_name("HTML");
  as_list(command->add_option("--codebooks", options->request.codebooks, "to choose from"))
      ->capture_default_str()
      ->type_name("CODEBOOK|BITS")
      ->transform(as_code());
  command->add_option("--metric", options->metric, "kl, nll or ppl")
      ->capture_default_str()
      ->check(CLI::IsMember({"kl", "nll", "ppl"}));
  command->add_option("--group", options->request.options.group, "at most so many weights share a scale")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 30));
  command->add_option("--max-t2", options->plan.max_t2, "leave out formats with a larger t^2")
      ->check(positive());
  command->add_option("--caution", options->plan.caution, "count alphas higher by so many of their margins")
      ->capture_default_str()
      ->check(not_negative());
  command->add_flag("--fused", options->request.fused,
                    "one format and one set of input scales for q, k, v of a block, one for gate and up");
  options->add_to(*command);
  command->callback([options] { allocate_bits(*options); });
}

}  // namespace higgs::model
