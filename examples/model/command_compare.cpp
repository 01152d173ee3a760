// SPDX-License-Identifier: Apache-2.0
// higgs-model compare: HIGGS beside its peers, on one model and one text.
#include "commands.hpp"
#include "compare.hpp"
#include "evaluate.hpp"
#include "source.hpp"

#include <higgs/core/error.hpp>

#include <cstdint>
#include <cstdio>
#include <fstream>
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
};

constexpr std::int64_t calibrate_tokens = 4096;

std::string table_line(const ComparisonRow& row) {
  char line[160];
  std::snprintf(line, sizeof line, "%-18s %7.4f  %9.6f  %10.4f  %9.6f\n", row.method.c_str(), row.bits,
                row.t2, row.perplexity, row.kl);
  return line;
}

void compare(const Options& options) {
  const auto executor = options.executor();
  const ModelSource source(options.model);
  const Tokenizer tokenizer(source.vocabulary(), options.model);
  const Transformer model = Transformer::load(source, *executor);
  Evaluator evaluator(read_tokens(options.text_file, tokenizer, options.tokens), options.window, *executor);
  std::ostream& out = options.text();

  const auto total = static_cast<std::int64_t>(options.methods.size()) + 1;
  std::int64_t finished = 0;
  ProgressBar bar("compare", "tokens");
  const auto progress = [&](std::int64_t done, std::int64_t each) {
    bar.update(finished * each + done, total * each);
  };
  ComparisonRow reference{.method = "reference", .bits = 32};
  reference.perplexity = evaluator.set_reference(model, progress).perplexity();
  out << "method                bits         t^2  perplexity         KL\n"
      << table_line(reference) << std::flush;

  InputSquares input_squares;  // on random tokens; measured if a method wants them
  std::vector<ComparisonRow> rows;
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const std::string& method : options.methods) {
    ++finished;
    ComparisonRow row;
    if (wants_input_squares(method) && input_squares.empty())
      input_squares = measure_inputs(source, calibration_tokens(source, "random", calibrate_tokens),
                                     std::min(calibration_window, model.config().context), *executor);
    const Transformer candidate = with_method(model, method, input_squares, row, *executor);
    const Evaluation result = evaluator.evaluate(candidate, progress);
    row.perplexity = result.perplexity();
    row.kl = result.kl.value();
    out << table_line(row) << std::flush;
    json.push_back({{"method", row.method},
                    {"bits", row.bits},
                    {"t2", row.t2},
                    {"ppl", row.perplexity},
                    {"kl", row.kl}});
    rows.push_back(row);
  }
  options.write({{"tokens", evaluator.tokens()}, {"reference_ppl", reference.perplexity}, {"rows", json}});
  if (options.report.empty()) return;
  std::ofstream page(options.report, std::ios::binary);
  page << comparison_page("Formats on " + source.path().filename().string(), reference, rows) << std::flush;
  if (!page) throw IoError(options.report + ": cannot be written");
}

}  // namespace

void add_compare(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("compare", "Measures HIGGS beside other formats on a text");
  command->add_option("model", options->model, "model in its original form")->required()->type_name("MODEL");
  add_text_options(*command, options->text_file, options->window, options->tokens);
  command
      ->add_option(
          "--methods", options->methods,
          "formats: a baseline's name, or \"higgs CODEBOOK\", then \" g128\" for groups of 128 with 8-bit "
          "scales,\n"
          "\" random\" for calibration by random tokens; any codebook of the library, such as 3x512 or e8n4")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--report", options->report, "write a page with table and picture to this file")
      ->type_name("HTML");
  options->add_to(*command);
  command->callback([options] { compare(*options); });
}

}  // namespace higgs::model
