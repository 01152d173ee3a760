// SPDX-License-Identifier: Apache-2.0
// higgs-model sensitivity: how much the error of each layer costs the model.
#include "commands.hpp"
#include "evaluate.hpp"
#include "fisher.hpp"
#include "sensitivity.hpp"
#include "source.hpp"

#include <cmath>
#include <cstdio>
#include <memory>
#include <ostream>

namespace higgs::model {
namespace {

struct Options : CommonOptions {
  std::string model, text_file, out, metric = "kl";
  std::int64_t window = 256, tokens = 2048;
  int levels = 3, gradients = 0;
  double most_t2 = linear_t2;
  std::uint64_t seed = 1;
  bool no_input_scales = false;
};

void sensitivity(const Options& options) {
  const auto executor = options.executor();
  const ModelSource source(options.model);
  const Transformer model = Transformer::load(source, *executor);
  ProbeProtocol protocol{.model = source.path().filename().string(),
                         .text = "random tokens",
                         .window = options.window,
                         .input_scales = !options.no_input_scales,
                         .seed = options.seed,
                         .levels = noise_levels(options.levels, options.most_t2)};
  std::vector<TokenId> tokens;
  if (options.text_file.empty()) {
    tokens = random_tokens(options.tokens, model.config().vocabulary, options.seed);
  } else {
    const Tokenizer tokenizer(source.vocabulary(), options.model);
    tokens = read_tokens(options.text_file, tokenizer, options.tokens);
    protocol.text = std::filesystem::path(options.text_file).filename().string();
  }
  const Metric metric = metric_named(options.metric);
  SensitivityFile file;
  {
    ProgressBar bar("sensitivity", options.gradients > 0 ? "windows" : "layers");
    const auto progress = [&](std::int64_t done, std::int64_t total) { bar.update(done, total); };
    if (options.gradients > 0) {
      protocol.levels.clear();
      file = measure_fisher(model, std::move(tokens), protocol, options.gradients, progress, *executor);
      write_text(options.out, write_sensitivities(file, metric));
    } else {
      on_interrupt(Interrupted::GoesOn);
      file = measure_model(model, std::move(tokens), protocol, metric, options.out, progress, *executor);
    }
  }

  double sum = 0, worst = 1;
  const LayerProbe* dearest = nullptr;
  double most = 0;
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (const LayerProbe& layer : file.layers) {
    const Sensitivity fit = fit_layer(layer, metric, file.protocol);
    sum += fit.alpha;
    worst = std::min(worst, fit.r_squared);
    if (fit.alpha > most) dearest = &layer, most = fit.alpha;
    layers.push_back({{"name", layer.name}, {"alpha", fit.alpha}, {"r2", fit.r_squared}});
  }
  char line[160];
  std::snprintf(line, sizeof line, "%zu layers, sum of alpha %.4g (%s), least R^2 %.3f\n", file.layers.size(),
                sum, options.metric.c_str(), worst);
  options.text() << options.out << ": " << line;
  if (dearest) options.text() << "dearest: " << dearest->name << " with alpha " << most << "\n";
  options.write({{"metric", options.metric}, {"sum", sum}, {"layers", std::move(layers)}});
}

}  // namespace

void add_sensitivity(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "sensitivity",
      "Measures how much the error of each layer costs, by noise; goes on where a killed run stopped");
  command->add_option("model", options->model, "model in its original form")->required()->type_name("MODEL");
  command->add_option("-o,--output", options->out, "file to write")->required()->type_name("JSON");
  command->add_option("--text", options->text_file, "text to predict (none: random tokens, no data needed)")
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
  command->add_option("--levels", options->levels, "noise levels, evenly spaced in t^2")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  command->add_option("--most", options->most_t2, "the largest t^2 of the noise")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command
      ->add_option(
          "--gradients", options->gradients,
          "no noise: estimate from gradients, going back through the model so many times; far cheaper")
      ->type_name("DRAWS")
      ->check(CLI::Range(1, 100000));
  command->add_option("--seed", options->seed, "of the noise and of random tokens")->capture_default_str();
  command->add_flag("--no-input-scales", options->no_input_scales,
                    "spread noise evenly, for quantization without input scales");
  options->add_to(*command);
  command->callback([options] { sensitivity(*options); });
}

}  // namespace higgs::model
