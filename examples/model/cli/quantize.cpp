// SPDX-License-Identifier: Apache-2.0
// higgs-model quantize: writes a folder that runs on its own, from packed weights.
#include "quantize/quantize.hpp"
#include "architecture/parts.hpp"
#include "cli/commands.hpp"
#include "plan/plan.hpp"
#include "quantize/moment_parts.hpp"
#include "quantize/sizes.hpp"
#include "quantize/tokens_file.hpp"
#include "terminal/machine.hpp"

#include <higgs/codes/registry.hpp>
#include <higgs/core/error.hpp>
#include <higgs/rotate/hadamard.hpp>
#include <higgs/store/checkpoint.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

namespace higgs::model {
namespace {

using nlohmann::ordered_json;

struct Options : CommonOptions {
  std::string model, out, skip, plan, calibrate = "random", round = "nearest", scales = "fp16";
  std::int64_t calibrate_tokens = calibration_token_count;
  std::int64_t round_memory = 0, round_gradients = 0;
  double round_damping = SecondMomentOptions{}.damping;
  QuantizeRequest request;
  std::optional<StoredPlan> stored_plan{};  // what --plan holds, but for its codebooks
  std::uint64_t seed = 0;
  bool no_input_scales = false;
  bool no_signs = false;
  bool fused = false;
  bool dry_run = false;
  CLI::Option* embedding_option = nullptr;
  CLI::Option* output_option = nullptr;
  CLI::Option* calibrate_option = nullptr;
  CLI::Option* tokens_option = nullptr;
  CLI::Option* memory_option = nullptr;
  CLI::Option* gradients_option = nullptr;
  CLI::Option* damping_option = nullptr;

  bool by_second_moments() const { return round == "hessian"; }
  bool measures_inputs() const { return request.calibrated || by_second_moments(); }
  bool calibrates_on_file() const { return calibrate != "random" && calibrate != "self"; }
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

// Throws if rounding by second moments is asked for, and something else prevents it.
void check_rounding(const Options& options, const ModelSource& source) {
  if (!options.by_second_moments()) {
    if (options.memory_option->count() > 0)
      throw CLI::ValidationError("--round-memory", "is memory for --round hessian, which is not asked for");
    if (options.damping_option->count() > 0)
      throw CLI::ValidationError("--round-damping", "is for --round hessian, which is not asked for");
    if (options.gradients_option->count() > 0)
      throw CLI::ValidationError("--round-gradients", "are for --round hessian, which is not asked for");
    return;
  }
  if (options.round_gradients > options.calibrate_tokens)
    throw CLI::ValidationError("--round-gradients",
                               "asks for " + std::to_string(options.round_gradients) + " tokens of the " +
                                   std::to_string(options.calibrate_tokens) + " of --calibrate-tokens");
  if (options.calibrate == "none")
    throw CLI::ValidationError("--calibrate", "none leaves --round hessian without inputs to measure");
  if (options.request.options.scale_search != 0)
    throw CLI::ValidationError("--scale-search", "is for --round nearest: hessian fits scales of its own");
  if (!source.config())
    throw InvalidArgument(options.model +
                          ": --round hessian runs the model, which cannot run without config.json");
  source.require_config();
}

// Throws InvalidArgument for options of which one leaves nothing for the other to do.
void require_consistent(const Options& options) {
  if (options.by_second_moments()) return;  // which need inputs whatever else there is
  if (options.no_input_scales) require_no_calibration(*options.calibrate_option, "--no-input-scales");
  if (options.tokens_option->count() > 0 && (options.no_input_scales || options.calibrate == "none"))
    throw InvalidArgument("--calibrate-tokens has nothing to calibrate beside " +
                          std::string(options.no_input_scales ? "--no-input-scales" : "--calibrate none"));
}

// Throws InvalidArgument for an option of a matrix that the model lacks.
void require_matrices(const Options& options, const ModelSource& source) {
  const auto has = [&](auto&& accepts) { return std::ranges::any_of(source.tensors(), accepts); };
  const auto require_role = [&](const CLI::Option* option, Role role, const char* what) {
    if (option->count() > 0 && !has([&](const ModelTensor& each) { return role_of(source, each) == role; }))
      throw InvalidArgument(options.model + ": has no " + what + ", so " + option->get_name() +
                            " must not be given");
  };
  require_role(options.embedding_option, Role::Embedding, "embedding");
  require_role(options.output_option, Role::Output, "output layer of its own");
  if (options.request.skip &&
      !has([&](const ModelTensor& each) { return std::regex_search(each.name, *options.request.skip); }))
    throw InvalidArgument(options.model + ": no tensor has a name that --skip " + options.skip + " finds");
}

// What the command line and the plan ask for.
void complete_request(Options& options, const ModelSource& source) {
  QuantizeRequest& request = options.request;
  require_consistent(options);
  source.require_sound();
  if (!options.skip.empty()) request.skip = parse_regex(options.skip);
  request.options.seed = options.seed;
  if (options.no_signs) request.options.seed.reset();
  request.options.scale_format = options.scales == "log8" ? ScaleFormat::Log8 : ScaleFormat::Fp16;
  request.options.input_scales = !options.no_input_scales;
  if (options.fused) request.sharing = Sharing::Fused;
  if (options.by_second_moments()) {
    if (options.calibrate_option->count() == 0) options.calibrate = "self";
    if (options.tokens_option->count() == 0) options.calibrate_tokens = second_moment_token_count;
  }
  if (!options.plan.empty()) {
    StoredPlan plan = read_plan(read_text(options.plan), options.plan);
    check_plan(plan, source, options.plan);
    request.codebooks = std::move(plan.codebooks);
    request.options.block = plan.block;
    request.options.group = plan.group;
    request.options.input_scales = plan.input_scales && !options.no_input_scales;
    if (!plan.input_scales && !options.by_second_moments())  // which need inputs whatever else there is
      require_no_calibration(*options.calibrate_option, options.plan);
    if (plan.sharing == Sharing::Fused) request.sharing = Sharing::Fused;
    options.stored_plan = std::move(plan);
  }
  const auto refuse = [&](const CLI::Option* option, std::string_view tensor, const char* name) {
    if (option->count() > 0 && request.codebooks.contains(tensor))
      throw InvalidArgument(options.plan + ": has a codebook for " + std::string(tensor) + ", so " + name +
                            " must not be given");
  };
  for (const auto& [name, codebook] : request.codebooks)
    if (request.skip && std::regex_search(name, *request.skip))
      throw InvalidArgument(options.plan + ": has a codebook for " + name + ", so --skip " + options.skip +
                            " must not find it");
  refuse(options.embedding_option, embedding_name, "--embedding");
  refuse(options.output_option, output_name, "--lm-head");
  if (options.output_option->count() > 0 && source.config() && source.config()->tied_embeddings)
    throw InvalidArgument(options.model +
                          ": the output layer is the embedding: give --embedding, not --lm-head");
  request.calibrated = request.options.input_scales && options.calibrate != "none" && source.config();
  check_rounding(options, source);
  if (options.calibrate != "none" && !source.config())
    tell("without config.json the model cannot run, so nothing is calibrated");
}

// What a user wants to know before any work.
ordered_json describe(const ModelSource& source, const Outline& outline, std::ostream& out) {
  const Sizes before = sizes_of(source), after = sizes_of(source, outline);
  out << "before: " << before.total() << "\nafter:  " << after.total() << "\n";
  for (const std::string& line : after.lines()) out << "  " << line << "\n";
  ordered_json kept = ordered_json::array();
  for (const Outline::Kept& each : outline.kept)
    kept.push_back({{"name", each.tensor->name},
                    {"dtype", dtype_name(each.dtype)},
                    {"shape", each.tensor->stored->shape},
                    {"bytes", each.bytes}});
  std::int64_t bytes = 0, weights = 0;
  for (const Outline::Matrix& matrix : outline.matrices) bytes += matrix.bytes, weights += matrix.weights();
  return {{"model", source.path().filename().string()},
          {"weights_fingerprint", std::to_string(weights_fingerprint(source))},
          {"bits_per_weight", 8.0 * static_cast<double>(bytes) / static_cast<double>(weights)},
          {"file_bits_per_weight", after.bits()},
          {"bytes_before", before.file_bytes},
          {"bytes_after", after.file_bytes},
          {"before", to_json(before)},
          {"after", to_json(after)},
          {"kept", std::move(kept)},
          {"unused", outline.unused},
          {"notes", outline.notes}};
}

// What the plan promised, and whether the layers are rounded as it supposes.
void describe_plan(const Options& options, ordered_json& results) {
  const StoredPlan& plan = *options.stored_plan;
  const char* round = plan.with_feedback ? "hessian" : "nearest";
  if (plan.loss && !plan.metric.empty()) {
    char text[100];
    std::snprintf(text, sizeof text, "predicted %s +%.5f with --round %s\n", plan.metric.c_str(), *plan.loss,
                  round);
    options.text() << options.plan << ": " << text;
    results["plan"] = {{"metric", plan.metric}, {"loss", *plan.loss}, {"round", round}};
  }
  if (plan.with_feedback && !options.by_second_moments())
    tell(options.plan +
         ": is for --round hessian; rounded to the nearest, layers lose more than it predicts");
  if (!plan.with_feedback && options.by_second_moments())
    tell(options.plan +
         ": is for rounding to the nearest; allocate --rounding finds the plan for --round hessian");
}

// What the written file says about its layers.
ordered_json describe_layers(const std::string& folder) {
  const Checkpoint checkpoint = Checkpoint::open(folder);
  ordered_json layers = ordered_json::array();
  for (const CheckpointLayer& layer : checkpoint.layers())
    layers.push_back({{"name", layer.name},
                      {"codebook", layer.codebook},
                      {"rows", layer.layout.rows},
                      {"cols", layer.layout.cols},
                      {"block", layer.layout.block},
                      {"group", layer.layout.group},
                      {"bits", bits_of(checkpoint, layer)},
                      {"t2", number_or_null(layer.t2)},
                      {"weight_error", number_or_null(layer.weight_error)},
                      {"expected_t2", layer.mse}});
  return layers;
}

// How the errors are beside those of Gaussian weights, which rotation makes of any. Layers rounded with feedback are left
// out: there, larger errors of weights make smaller errors of products.
void report_errors(const ordered_json& layers, std::ostream& out) {
  double worst = 0;
  std::string name;
  for (const ordered_json& layer : layers) {
    if (layer.contains("loss")) continue;
    const double ratio = layer["t2"].get<double>() / layer["expected_t2"].get<double>();
    if (ratio > worst) worst = ratio, name = layer["name"];
  }
  if (name.empty()) return;
  char percent[64];
  std::snprintf(percent, sizeof percent, "%.1f %% %s", 100 * std::fabs(worst - 1),
                worst < 1 ? "below" : "above");
  out << "rounding errors: at most " << percent << " what the codebook promises, in " << name << "\n";
}

// The text that the model writes. What a killed run kept of it is taken as it is.
std::vector<TokenId> write_calibration(const Options& options, const ModelSource& source,
                                       Executor& executor) {
  const std::int64_t count = options.calibrate_tokens;
  const std::int64_t window = std::min(calibration_window, source.require_config().context);
  TokensFile file(checkpoint_in(options.out), files_fingerprint(source) + "\nwritten " +
                                                  std::to_string(count) + " " + std::to_string(window));
  if (const std::int64_t before = std::ssize(file.tokens()); before > 0)
    tell("goes on: " + std::to_string(before) + " of " + counted(count, "token is", "tokens are") +
         " written");
  on_interrupt(Interrupted::GoesOn);
  return tokens_to_calibrate(
      source, options.calibrate, count, executor,
      {.before = file.tokens(), .keep = [&](std::span<const TokenId> piece) { file.append(piece); }});
}

// The text to measure inputs with.
std::vector<TokenId> read_calibration(const Options& options, const ModelSource& source, Executor& executor) {
  if (options.calibrate == "self") return write_calibration(options, source, executor);
  std::vector<TokenId> tokens =
      tokens_to_calibrate(source, options.calibrate, options.calibrate_tokens, executor);
  const std::int64_t count = std::ssize(tokens);
  if (count == options.calibrate_tokens) return tokens;
  const std::string found = options.calibrate + ": has " + counted(count, "token");
  if (options.tokens_option->count() > 0)
    throw InvalidArgument(found + ", but --calibrate-tokens asks for " +
                          std::to_string(options.calibrate_tokens));
  tell(found + ", fewer than the " + std::to_string(options.calibrate_tokens) + " that are usual");
  return tokens;
}

// Measures what the way of rounding asks for, on the tokens of a file, or on those that come in another way.
void calibrate(Options& options, const ModelSource& source, std::vector<TokenId> tokens, Executor& executor,
               ordered_json& results) {
  QuantizeRequest& request = options.request;
  if (!options.measures_inputs()) return;
  if (tokens.empty()) tokens = read_calibration(options, source, executor);
  results["calibration"] = {{"source", options.calibrate}, {"tokens", tokens.size()}};
  const std::int64_t window = std::min(calibration_window, source.require_config().context);
  if (options.by_second_moments()) {
    const std::int64_t gradient_tokens = std::min(options.round_gradients, std::ssize(tokens));
    request.second_moments = {.tokens = std::move(tokens),
                              .window = window,
                              .damping = options.round_damping,
                              .gradient_tokens = gradient_tokens};
    if (options.memory_option->count() > 0) request.second_moments->memory = options.round_memory;
    return;
  }
  ProgressBar bar("calibrate", "blocks");
  request.input_squares =
      measure_inputs(source, tokens, window, executor,
                     [&](std::int64_t done, std::int64_t total) { bar.update(done, total); });
}

std::optional<RoundReport> write_model(Options& options, const ModelSource& source, const Outline& outline,
                                       Executor& executor) {
  QuantizeRequest& request = options.request;
  std::optional<ProgressBar> gradients, blocks, weights;
  if (request.second_moments) {
    request.second_moments->gradient_progress = [&](std::int64_t done, std::int64_t total) {
      if (!gradients) gradients.emplace("gradients", "steps");
      gradients->update(done, total);
    };
    request.second_moments->progress = [&](std::int64_t done, std::int64_t total) {
      gradients.reset();
      if (!blocks) blocks.emplace("round", "blocks");
      blocks->update(done, total);
    };
  }
  request.progress = [&](std::int64_t done, std::int64_t total, const std::string&) {
    blocks.reset();
    if (!weights) weights.emplace("quantize", "weights");
    weights->update(done, total);
  };
  request.say = tell;
  on_interrupt(Interrupted::GoesOn);
  return quantize_model(source, outline, options.out, request, executor);
}

// What rounding by second moments took.
ordered_json describe(const RoundReport& report) {
  const std::pair<const char*, double> seconds[] = {
      {"gradients", report.gradient_seconds},    {"forward", report.forward_seconds},
      {"second_moments", report.moment_seconds}, {"factors", report.factor_seconds},
      {"rounding", report.rounding_seconds},     {"states", report.file_seconds}};
  double total = 0;
  for (const auto& [part, each] : seconds) total += each;
  ordered_json shares, parts = ordered_json::object(), outputs = ordered_json::object();
  for (const auto& [part, each] : seconds) shares[part] = total > 0 ? each / total : 0;
  for (const auto& [input, part] : report.moments.parts) parts[std::string(input)] = part;
  for (const auto& [output, part] : report.moments.outputs) outputs[std::string(output)] = part;
  return {{"blocks", report.blocks},
          {"gradient_tokens", report.gradient_tokens},
          {"seconds", total},
          {"shares", std::move(shares)},
          {"memory_allowed", report.memory},
          {"memory", report.moments.bytes},
          {"parts", std::move(parts)},
          {"output_parts", std::move(outputs)},
          {"silent", report.silent}};
}

// Adds to layers what rounding by second moments says of them, and tells what is left of their losses.
void add_losses(ordered_json& layers, const RoundReport& report, std::ostream& out) {
  std::vector<std::pair<double, std::string>> left;
  for (ordered_json& layer : layers) {
    const auto found = report.layers.find(layer["name"].get<std::string>());
    if (found == report.layers.end()) continue;
    const RoundedLayer& rounded = found->second;
    layer["loss"] = rounded.loss;
    layer["expected_nearest_loss"] = rounded.expected_nearest_loss;
    layer["nearest_rows"] = rounded.nearest_rows;
    layer["damping"] = rounded.damping;
    if (rounded.expected_nearest_loss > 0)
      left.emplace_back(rounded.loss / rounded.expected_nearest_loss, found->first);
  }
  if (left.empty()) return;
  std::ranges::sort(left);
  char text[160];
  std::snprintf(
      text, sizeof text,
      "losses of rounding: %.3f of what rounding to the nearest is expected to lose (median of %s), at "
      "most %.3f, in ",
      left[left.size() / 2].first, counted(std::ssize(left), "matrix", "matrices").c_str(),
      left.back().first);
  out << text << left.back().second << "\n";
}

void quantize(Options& options) {
  const auto executor = options.executor();
  const ModelSource source(options.model);
  complete_request(options, source);
  require_matrices(options, source);
  const Outline outline = outline_of(source, options.request);
  check_folder(source, options.out,
               bytes_to_write(source, outline, options.out,
                              options.by_second_moments() ? options.calibrate_tokens : 0) +
                   (options.calibrate == "self" ? TokensFile::room(options.calibrate_tokens) : 0));
  if (options.memory_option->count() > 0)
    divide_moments(outline, options.round_memory, options.round_gradients > 0);
  std::vector<TokenId> tokens;
  if (options.measures_inputs() && options.calibrates_on_file())  // before any work
    tokens = read_calibration(options, source, *executor);
  for (const std::string& note : outline.notes) tell(note);
  ordered_json results = describe(source, outline, options.text());
  results["round"] = options.round;
  if (options.stored_plan) describe_plan(options, results);
  if (options.by_second_moments() && options.calibrate == "random")
    tell(
        "on text, feedback for random tokens was measured to lose more than rounding to the nearest; "
        "--calibrate self or a text serve --round hessian");
  if (options.dry_run) return options.write(results);
  {
    ProgressBar bar("check", "weights");
    check_weights(source, *executor, [&](std::int64_t done, std::int64_t total) { bar.update(done, total); });
  }
  calibrate(options, source, std::move(tokens), *executor, results);
  const auto report = write_model(options, source, outline, *executor);
  if (report) results["rounding"] = describe(*report);
  if (const auto peak = peak_memory()) results["peak_memory"] = *peak;
  results["layers"] = describe_layers(options.out);
  if (report) add_losses(results["layers"], *report, options.text());
  report_errors(results["layers"], options.text());
  options.write(results);
}

// Which codebook each matrix gets, and how its rows are cut.
void add_format_options(CLI::App* command, Options* options) {
  const CLI::Validator code_or_none = as_code({std::string(keep_codebook)});
  auto* bits = command
                   ->add_option("--bits", options->request.codebook,
                                "bits a weight of the linear layers, scales not counted: takes the most "
                                "accurate code of that rate")
                   ->default_str(higgs::detail::sentence(default_bits))
                   ->type_name("BITS")
                   ->transform(as_code_of_bits());
  auto* codebook =
      command->add_option("--codebook", options->request.codebook, "of the linear layers, in place of --bits")
          ->excludes(bits)
          ->check(CLI::IsMember(shipped_code_names()));
  options->embedding_option =
      command
          ->add_option("--embedding", options->request.embedding,
                       "codebook or bits of the embedding, which most small models "
                       "use as output layer too; none: keep it. Default: 5 bits, 4 if it is "
                       "only looked up, but no fewer than linear layers have")
          ->type_name("CODEBOOK|BITS|none")
          ->transform(code_or_none);
  options->output_option = command
                               ->add_option("--lm-head", options->request.output,
                                            "codebook or bits of an output layer of its own; none: keep it. "
                                            "Default: 5 bits, but no fewer than linear layers have")
                               ->type_name("CODEBOOK|BITS|none")
                               ->transform(code_or_none);
  auto* plan =
      options
          ->reads(command->add_option("--plan", options->plan,
                                      "what allocate wrote: a codebook, block and group for every layer"))
          ->type_name("JSON")
          ->excludes(bits)
          ->excludes(codebook);
  command
      ->add_option("--block", options->request.options.block, "order of the Hadamard transform (0: by width)")
      ->capture_default_str()
      ->excludes(plan)
      ->check(check_block);
  command->add_option("--group", options->request.options.group, "at most so many weights share a scale")
      ->capture_default_str()
      ->excludes(plan)
      ->check(CLI::Range(1, 1 << 30));
}

// How matrices are rounded in that format, and which.
void add_rounding_options(CLI::App* command, Options* options) {
  command
      ->add_option("--shards", options->request.options.shards,
                   "choose blocks so that the columns of linear layers come apart for so many ranks")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--scales", options->scales, "how a file keeps the scale of a group: fp16, or log8")
      ->capture_default_str()
      ->check(CLI::IsMember({"fp16", "log8"}));
  command
      ->add_option("--scale-search", options->request.options.scale_search,
                   "scales tried to either side of a group's RMS, 4.4 % apart")
      ->capture_default_str()
      ->check(CLI::Range(0, 16));
  auto* seed = command->add_option("--seed", options->seed, "of the random signs")
                   ->capture_default_str()
                   ->check(seed_number());
  command->add_flag("--no-signs", options->no_signs, "rotate without random signs")->excludes(seed);
  command->add_flag("--no-input-scales", options->no_input_scales,
                    "leave the columns of a matrix as they are");
  command->add_flag(
      "--fused", options->fused,
      "one set of input scales for q, k and v of a block, for kernels that fuse them; costs accuracy");
  options->calibrate_option =
      options
          ->reads(command->add_option(
              "--calibrate", options->calibrate,
              "measure the inputs of each layer first, for better input scales: with \"random\" tokens, or "
              "tokens that the model writes it\"self\", which need no data, or with a text file; \"none\": "
              "do not"))
          ->default_str("random, self with --round hessian")
          ->type_name("random|self|none|FILE");
  options->tokens_option =
      command->add_option("--calibrate-tokens", options->calibrate_tokens, "tokens to measure with")
          ->default_str(higgs::detail::sentence(calibration_token_count, ", ", second_moment_token_count,
                                                " with --round hessian"))
          ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30));
  command
      ->add_option("--round", options->round,
                   "each weight to the nearest code, or block by block so that errors cancel in the outputs "
                   "for inputs like those of --calibrate (their second moments, the Hessian of GPTQ)")
      ->capture_default_str()
      ->type_name("nearest|hessian")
      ->check(CLI::IsMember({"nearest", "hessian"}));
  options->memory_option = command
                               ->add_option("--round-memory", options->round_memory,
                                            "what second moments and their factor may take, \"4GB\"; the "
                                            "default is half of what the machine has free")
                               ->type_name("SIZE")
                               ->transform(CLI::AsSizeValue(true));
  options->damping_option =
      command
          ->add_option(
              "--round-damping", options->round_damping,
              "what --round hessian adds to the diagonal of second moments, relative to its mean: more "
              "for text that is less like what the model will read")
          ->capture_default_str()
          ->type_name("NUMBER")
          ->check(not_negative());
  options->gradients_option =
      command
          ->add_option("--round-gradients", options->round_gradients,
                       "so many tokens of --calibrate go back through the model first: then --round hessian "
                       "weighs the outputs of a layer, too, by how much depends on them")
          ->capture_default_str()
          ->type_name("TOKENS")
          ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 30));
  command->add_option("--skip", options->skip, "leave matrices alone whose name this expression finds")
      ->type_name("REGEX");
  command->add_flag(
      "--dry-run", options->dry_run,
      "check all but the values of weights, say how large the result will be, and write nothing");
}

}  // namespace

void add_quantize(CLI::App& app) {
  auto options = std::make_shared<Options>();
  options->seed = QuantizeOptions{}.seed.value_or(0);
  CLI::App* command = app.add_subcommand(
      "quantize", "Quantizes a model; goes on where a killed run of the same command stopped");
  add_model_option(*command, *options, options->model, "GGUF file, safetensors file or folder");
  command->add_option("-o,--output", options->out, "folder to write")->required()->type_name("OUT");
  add_format_options(command, options.get());
  add_rounding_options(command, options.get());
  options->add_to(*command);
  command->callback([options] { quantize(*options); });
}

}  // namespace higgs::model
