// SPDX-License-Identifier: Apache-2.0
// higgs-model sensitivity: how much the error of each layer costs the model.
#include "measure/sensitivity.hpp"
#include "cli/commands.hpp"
#include "measure/calibrate.hpp"
#include "measure/evaluate.hpp"
#include "measure/fisher.hpp"
#include "source/source.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <ostream>

namespace higgs::model {
namespace {

struct Options : CommonOptions {
  std::string model, text_file, out, metric = "kl", calibrate = "random";
  std::int64_t window = 256, tokens = 2048;
  int levels = 3, gradients = 0;
  double most_t2 = linear_t2;
  std::uint64_t seed = 1;
  bool no_input_scales = false;
  ProcessorOptions processor;
  CLI::Option* calibrate_option = nullptr;
};

// What the command line asks for is sound before any work begins.
void check_request(const Options& options, Metric metric) {
  options.processor.require();
  if (options.no_input_scales) require_no_calibration(*options.calibrate_option, "--no-input-scales");
  if (options.gradients > 0 && options.processor.on_gpu())
    throw InvalidArgument("--gradients goes back through the model, which only --device cpu can do");
  if (metric == Metric::Perplexity && options.text_file.empty())
    throw InvalidArgument(
        "--metric ppl needs --text: the perplexity of random tokens means nothing; kl needs no text");
  if (options.tokens < options.window)
    throw InvalidArgument("--tokens " + std::to_string(options.tokens) + " is less than one window of " +
                          std::to_string(options.window) + " tokens");
}

// The tokens to predict; `name` becomes that of the text.
std::vector<TokenId> tokens_of(const Options& options, const ModelSource& source, std::string& name) {
  std::vector<TokenId> tokens;
  if (options.text_file.empty()) {
    name = "random tokens";
    tokens = random_tokens(options.tokens, source.require_config().vocabulary, options.seed);
  } else {
    name = std::filesystem::path(options.text_file).filename().string();
    tokens = text_tokens(options.text_file, Tokenizer(source.vocabulary(), options.model), options.tokens,
                         options.window);
  }
  return tokens;
}

// What inputs the layers read, measured as quantize will.
InputSquares calibrate(const Options& options, const ModelSource& source, Executor& executor) {
  const auto tokens = tokens_to_calibrate(source, options.calibrate, calibration_token_count, executor);
  ProgressBar bar("calibrate", "blocks");
  return measure_inputs(source, tokens, std::min(calibration_window, source.require_config().context),
                        executor, [&](std::int64_t done, std::int64_t total) { bar.update(done, total); });
}

SensitivityFile measure(const Options& options, const ModelSource& source, Metric metric,
                        Executor& executor) {
  ProbeProtocol protocol{.model = source.path().filename().string(),
                         .window = options.window,
                         .input_scales = !options.no_input_scales,
                         .calibrated = !options.no_input_scales && options.calibrate != "none",
                         .seed = options.seed,
                         .levels = noise_levels(options.levels, options.most_t2),
                         .weights = weights_fingerprint(source),
                         .device = options.processor.device,
                         .dtype = options.processor.measuring_type()};
  std::vector<TokenId> tokens = tokens_of(options, source, protocol.text);
  const InputSquares squares = protocol.calibrated ? calibrate(options, source, executor) : InputSquares();
  ProgressBar bar("sensitivity", options.gradients > 0 ? "windows" : "layers");
  const auto progress = [&](std::int64_t done, std::int64_t total) { bar.update(done, total); };
  if (options.gradients > 0) {
    protocol.levels.clear();
    const SensitivityFile file = measure_fisher(Transformer::load(source, executor), std::move(tokens),
                                                protocol, options.gradients, progress, executor, squares);
    write_text(options.out, write_sensitivities(file, metric));
    return file;
  }
  on_interrupt(Interrupted::GoesOn);
  const std::unique_ptr<Network> model =
      options.processor.open(source, options.window, executor, KvType::Float, Copies::OneMatrix);
  return measure_model(*model, std::move(tokens), protocol, metric, options.out, progress, executor, squares);
}

void report(const Options& options, const SensitivityFile& file, Metric metric) {
  double sum = 0, worst = 1, most = 0;
  const LayerProbe* dearest = nullptr;
  bool certain = true;
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (const LayerProbe& layer : file.layers) {
    const Sensitivity fit = fit_layer(layer, metric, file.protocol);
    sum += fit.alpha;
    worst = std::min(worst, fit.r_squared);
    certain = certain && layer.results.size() > 1;
    if (fit.alpha > most) dearest = &layer, most = fit.alpha;
    layers.push_back({{"name", layer.name}, {"alpha", fit.alpha}, {"r2", fit.r_squared}});
  }
  std::ostream& out = options.text();
  out << options.out << ": " << file.layers.size() << " layers, each with its alpha: the growth of "
      << options.metric << " for a relative squared error t^2 of 1 in that layer; measured on "
      << options.processor.describe() << "\n";
  if (dearest) {
    char line[200];
    std::snprintf(line, sizeof line, "all alphas add up to %.4g; the largest, %.4g, is that of %s\n", sum,
                  most, dearest->name.c_str());
    out << line;
  }
  if (certain) {
    char line[160];
    std::snprintf(line, sizeof line,
                  "a straight line explains at least %.1f %% of what was measured of each layer\n",
                  100 * worst);
    out << line;
  } else {
    out << "each layer was measured once, so nothing says how certain its alpha is; --gradients 2 does\n";
  }
  out << "next: higgs-model allocate " << shell_quoted(options.model) << " --alpha "
      << shell_quoted(options.out) << " --bits 4 -o plan.json\n";
  options.write({{"metric", options.metric}, {"sum", sum}, {"layers", std::move(layers)}});
}

void sensitivity(const Options& options) {
  {
    const Output writable(options.out);
  }  // before the work; it is written as results come
  const Metric metric = metric_named(options.metric);
  check_request(options, metric);
  const auto executor = options.executor();
  const ModelSource source(options.model);
  note_unused(source);
  report(options, measure(options, source, metric, *executor), metric);
}

}  // namespace

void add_sensitivity(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("sensitivity",
                         "Measures how much the error of each layer costs, embedding and output layer among "
                         "them, by noise; goes on where a killed run stopped");
  add_model_option(*command, *options, options->model, "model in its original form");
  command->add_option("-o,--output", options->out, "file to write")->required()->type_name("JSON");
  options
      ->reads(command->add_option("--text", options->text_file,
                                  "text to predict (none: random tokens, no data needed)"))
      ->type_name("FILE");
  command->add_option("--metric", options->metric, "kl, nll (the logarithm of the perplexity) or ppl")
      ->capture_default_str()
      ->check(CLI::IsMember({"kl", "nll", "ppl"}));
  command->add_option("--window", options->window, "tokens in a window")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{2}, std::int64_t{1} << 30));
  command->add_option("--tokens", options->tokens, "tokens to use")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{2}, std::int64_t{1} << 40));
  auto* levels = command->add_option("--levels", options->levels, "noise levels, evenly spaced in t^2")
                     ->capture_default_str()
                     ->check(CLI::Range(1, 1000));
  auto* most = command->add_option("--most", options->most_t2, "the largest t^2 of the noise")
                   ->capture_default_str()
                   ->check(positive());
  command
      ->add_option(
          "--gradients", options->gradients,
          "no noise: estimate from gradients, going back through the model so many times; far cheaper")
      ->type_name("DRAWS")
      ->check(CLI::Range(1, 100000))
      ->excludes(levels)
      ->excludes(most);
  command->add_option("--seed", options->seed, "of the noise and of random tokens")
      ->capture_default_str()
      ->check(seed_number());
  options->calibrate_option =
      options
          ->reads(command->add_option("--calibrate", options->calibrate,
                                      "spread noise as the error of quantize with the same option does: "
                                      "random, self, none or a text file"))
          ->capture_default_str()
          ->type_name("random|self|none|FILE");
  command->add_flag("--no-input-scales", options->no_input_scales,
                    "spread noise evenly, for quantization without input scales");
  options->processor.add_to(*command);
  options->add_to(*command);
  command->callback([options] { sensitivity(*options); });
}

}  // namespace higgs::model
