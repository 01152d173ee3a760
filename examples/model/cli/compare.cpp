// SPDX-License-Identifier: Apache-2.0
// higgs-model compare: HIGGS beside its peers, on one model and one text.
#include "compare/compare.hpp"
#include "cli/commands.hpp"
#include "measure/evaluate.hpp"
#include "network/network.hpp"
#include "source/source.hpp"

#include <higgs/core/error.hpp>

#include <cstdint>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

namespace higgs::model {
namespace {

struct Options : CommonOptions {
  std::string model, text_file, report;
  std::int64_t window = 512, tokens = 8192;
  std::vector<std::string> methods = default_methods();
  ProcessorOptions processor;
};

constexpr std::int64_t calibrate_tokens = 4096;

std::string table_line(const ComparisonRow& row) {
  const Evaluation& result = row.evaluation;
  char line[240];
  const int width =
      std::snprintf(line, sizeof line, "%-18s %7.4f  %9.6f  %12.6f  %10.4f +- %-7.2g", row.method.c_str(),
                    row.bits, row.t2, row.weight_error, result.perplexity(), result.perplexity_error());
  if (result.divergence)
    std::snprintf(line + width, sizeof line - static_cast<std::size_t>(width), "  %9.6f +- %.2g",
                  result.divergence->kl.mean, result.divergence->kl.standard_error);
  return std::string(line) + "\n";
}

nlohmann::ordered_json describe_row(const ComparisonRow& row) {
  nlohmann::ordered_json out{{"method", row.method},
                             {"bits", row.bits},
                             {"t2", row.t2},
                             {"weight_error", row.weight_error},
                             {"choices", row.choices}};
  out.update(describe(row.evaluation));
  return out;
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  char text[40];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", std::gmtime(&now));
  return text;
}

Protocol protocol_of(const Options& options, const ModelSource& source, const Evaluator& evaluator) {
  return {{"model", source.path().string() + ", stored as " + stored_types(source)},
          {"text", options.text_file + ", " + std::to_string(std::filesystem::file_size(options.text_file)) +
                       " bytes"},
          {"tokens", evaluator.coverage() + ", in windows of " + std::to_string(options.window)},
          {"device", options.processor.describe()},
          {"command", command_line()},
          {"date", today()},
          {"higgs", version()}};
}

std::unique_ptr<Network> rounded(const Network& model, const Method& method,
                                 const InputSquares& input_squares, ComparisonRow& row, Executor& executor) {
  ProgressBar bar("round to " + method.name, "weights");
  std::unique_ptr<Network> out = model.copy();
  apply_method(*out, method, input_squares, row, executor,
               [&](std::int64_t done, std::int64_t all) { bar.update(done, all); });
  return out;
}

void compare(const Options& options) {
  options.processor.require();
  std::vector<Method> methods;
  for (const std::string& name : options.methods) methods.push_back(parse_method(name));
  Output report(options.report);
  const auto executor = options.executor();
  const ModelSource source(options.model);
  note_unused(source);
  require_original(source);
  require_context(source, options.window);
  const Tokenizer tokenizer(source.vocabulary(), options.model);
  Evaluator evaluator(text_tokens(options.text_file, tokenizer, options.tokens, options.window),
                      options.window, *executor);
  const Protocol protocol = protocol_of(options, source, evaluator);
  const std::unique_ptr<Network> model =
      options.processor.open(source, options.window, *executor, KvType::Float, Copies::AllLayers);
  std::ostream& out = options.text();

  const auto total = static_cast<std::int64_t>(methods.size()) + 1;
  std::int64_t finished = 0;
  std::string name = "reference";
  ProgressBar bar("compare", "tokens");
  const auto progress = [&](std::int64_t done, std::int64_t each, const Evaluation& so_far) {
    bar.update(finished * each + done, total * each,
               std::to_string(finished + 1) + " of " + std::to_string(total) + ", " + name + ", " +
                   describe_means(so_far));
  };
  ComparisonRow reference = reference_row(source);
  reference.evaluation = evaluator.set_reference(*model, progress);
  out << evaluator.coverage() << "\nmeasured on " << options.processor.describe() << "\n"
      << "method                bits         t2  weight_error  perplexity             KL\n"
      << table_line(reference) << std::flush;

  InputSquares input_squares;  // on random tokens; measured if a method wants them
  std::vector<ComparisonRow> rows;
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const Method& method : methods) {
    ++finished;
    name = method.name;
    if (method.calibrated && input_squares.empty())
      input_squares = measure_inputs(source, calibration_tokens(source, "random", calibrate_tokens),
                                     std::min(calibration_window, model->config().context), *executor);
    ComparisonRow row;
    const std::unique_ptr<Network> candidate = rounded(*model, method, input_squares, row, *executor);
    row.evaluation = evaluator.evaluate(*candidate, progress);
    out << table_line(row) << std::flush;
    json.push_back(describe_row(row));
    rows.push_back(row);
  }
  out << describe_errors(reference.evaluation) << "\n";
  nlohmann::ordered_json how;
  for (const auto& [key, value] : protocol) how[key] = value;
  options.write({{"protocol", how},
                 {"tokens", evaluator.tokens()},
                 {"reference_ppl", reference.evaluation.perplexity()},
                 {"reference", describe_row(reference)},
                 {"rows", json}});
  report.commit(
      comparison_page("Formats on " + source.path().filename().string(), protocol, reference, rows));
}

// What is wrong with a method's name; empty if nothing is.
std::string check_method(const std::string& name) {
  try {
    parse_method(name);
    return {};
  } catch (const InvalidArgument& error) {
    return error.what();
  }
}

}  // namespace

void add_compare(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("compare", "Measures HIGGS beside other formats on a text");
  add_model_option(*command, *options, options->model, "model in its original form");
  add_text_options(*command, *options, options->text_file, options->window, options->tokens);
  as_list(
      command->add_option(
          "--methods", options->methods,
          "formats: a baseline's name, or \"higgs CODEBOOK\", then \" g128\" for groups of 128 with 8-bit "
          "scales,\n"
          "\" random\" for calibration by random tokens; any codebook of the library, such as 3x512 or e8n4"))
      ->check(CLI::Validator(check_method, ""))
      ->capture_default_str();
  command->add_option("--report", options->report, "write a page with table and picture to this file")
      ->type_name("HTML");
  options->processor.add_to(*command);
  options->add_to(*command);
  command->callback([options] { compare(*options); });
}

}  // namespace higgs::model
