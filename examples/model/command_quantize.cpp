// SPDX-License-Identifier: Apache-2.0
// higgs-model quantize: writes a folder that runs on its own, from packed weights.
#include "commands.hpp"
#include "plan.hpp"
#include "quantize.hpp"

#include <higgs/codebook/shipped.hpp>
#include <higgs/rotate/hadamard.hpp>
#include <higgs/store/checkpoint.hpp>

#include <charconv>
#include <iomanip>
#include <iostream>
#include <map>
#include <memory>
#include <ostream>
#include <string>
#include <variant>

namespace higgs::model {
namespace {

using nlohmann::ordered_json;

struct Options : CommonOptions {
  std::string model, out, skip, calibrate, plan;
  std::int64_t calibrate_tokens = 4096;
  QuantizeRequest request;
  std::uint64_t seed = 0;
  bool no_input_scales = false;
  bool no_signs = false;
};

std::regex parse_regex(const std::string& text) {
  try {
    return std::regex(text);
  } catch (const std::regex_error& error) {
    throw CLI::ValidationError("--skip", error.what());
  }
}

// What is wrong with --block; nothing if it is 0 or the order of a Hadamard transform.
std::string check_block(const std::string& text) {
  std::int64_t block = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), block);
  const bool number = error == std::errc{} && end == text.data() + text.size();
  return number && (block == 0 || is_hadamard_order(block))
             ? ""
             : text + " is not 0 and no order of a transform: 64, 96, 128 and many more up to " +
                   std::to_string(max_hadamard_order) + " are";
}

// What the written file says about itself.
ordered_json describe(const std::string& folder) {
  const Checkpoint checkpoint = Checkpoint::open(folder);
  double bits = 0, weights = 0;
  ordered_json layers = ordered_json::array();
  for (const CheckpointLayer& layer : checkpoint.layers()) {
    const double count = static_cast<double>(layer.layout.rows) * static_cast<double>(layer.layout.cols);
    const double each =
        std::visit([](const auto& matrix) { return matrix.bits_per_weight(); }, checkpoint.load(layer.name));
    layers.push_back({{"name", layer.name},
                      {"rows", layer.layout.rows},
                      {"cols", layer.layout.cols},
                      {"block", layer.layout.block},
                      {"group", layer.layout.group},
                      {"bits", each},
                      {"t2", layer.t2},
                      {"expected_t2", layer.mse}});
    bits += each * count;
    weights += count;
  }
  return {{"bits_per_weight", weights > 0 ? bits / weights : 0}, {"layers", std::move(layers)}};
}

void quantize(Options& options) {
  if (!options.skip.empty()) options.request.skip = parse_regex(options.skip);
  options.request.options.seed = options.seed;
  options.request.options.input_scales = !options.no_input_scales;
  if (!options.plan.empty()) {
    StoredPlan plan = read_plan(read_text(options.plan), options.plan);
    options.request.codebooks = std::move(plan.codebooks);
    options.request.options.block = plan.block;
    options.request.options.group = plan.group;
    options.request.options.input_scales = plan.input_scales;
  }
  if (options.no_signs) options.request.options.seed.reset();
  const auto executor = options.executor();
  const ModelSource source(options.model);
  if (!options.calibrate.empty()) {
    const auto tokens = calibration_tokens(source, options.calibrate, options.calibrate_tokens);
    ProgressBar bar("calibrate", "blocks");
    options.request.input_squares =
        measure_inputs(source, tokens, std::min(calibration_window, source.require_config().context),
                       *executor, [&](std::int64_t done, std::int64_t total) { bar.update(done, total); });
  }
  std::string note;
  {
    ProgressBar bar("quantize", "weights");
    options.request.progress = [&](std::int64_t done, std::int64_t total, const std::string&) {
      bar.update(done, total);
    };
    on_interrupt(Interrupted::GoesOn);
    note = quantize_model(source, options.out, options.request, *executor);
  }
  if (!note.empty()) std::cerr << "higgs-model: " << note << "\n";

  const ordered_json results = describe(options.out);
  std::ostream& out = options.text();
  double worst = 0;
  for (const ordered_json& layer : results["layers"])
    worst = std::max(worst, layer["t2"].get<double>() / layer["expected_t2"].get<double>());
  out << options.out << ": " << results["layers"].size() << " matrices at " << std::setprecision(5)
      << results["bits_per_weight"].get<double>() << " bits a weight; t^2 at most " << worst
      << " times what the grid promises\n";
  options.write(results);
}

}  // namespace

void add_quantize(CLI::App& app) {
  auto options = std::make_shared<Options>();
  options->seed = QuantizeOptions{}.seed.value_or(0);
  CLI::App* command = app.add_subcommand(
      "quantize",
      "Quantizes the linear layers of a model; goes on where a killed run of the same command stopped");
  command->add_option("model", options->model, "GGUF file, safetensors file or folder")
      ->required()
      ->type_name("MODEL");
  command->add_option("-o,--output", options->out, "folder to write")->required()->type_name("OUT");
  command->add_option("--codebook", options->request.codebook, "points of the grid, DIMxSIZE")
      ->capture_default_str()
      ->check(CLI::IsMember(shipped_codebook_names()));
  command
      ->add_option("--plan", options->plan,
                   "what allocate wrote: a codebook, block and group for every layer")
      ->type_name("JSON");
  command
      ->add_option("--block", options->request.options.block, "order of the Hadamard transform (0: by width)")
      ->capture_default_str()
      ->check(check_block);
  command->add_option("--group", options->request.options.group, "at most so many weights share a scale")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 30));
  command
      ->add_option("--scales", options->request.options.scale_format, "how a file keeps the scale of a group")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, ScaleFormat>{{"fp16", ScaleFormat::Fp16}, {"log8", ScaleFormat::Log8}}))
      ->type_name("fp16|log8");
  command
      ->add_option("--scale-search", options->request.options.scale_search,
                   "scales tried to either side of a group's RMS, 4.4 % apart")
      ->capture_default_str()
      ->check(CLI::Range(0, 16));
  command->add_option("--seed", options->seed, "of the random signs")->capture_default_str();
  command->add_flag("--no-signs", options->no_signs, "rotate without random signs");
  command->add_flag("--no-input-scales", options->no_input_scales,
                    "leave the columns of a matrix as they are");
  command
      ->add_option(
          "--calibrate", options->calibrate,
          "measure the inputs of each layer first: \"random\" (random tokens, no data needed) or a text file")
      ->type_name("random|FILE")
      ->excludes("--no-input-scales");
  command->add_option("--calibrate-tokens", options->calibrate_tokens, "tokens to measure with")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30));
  command->add_option("--skip", options->skip, "leave matrices alone whose name this expression finds")
      ->type_name("REGEX");
  options->add_to(*command);
  command->callback([options] { quantize(*options); });
}

}  // namespace higgs::model
