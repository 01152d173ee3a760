// SPDX-License-Identifier: Apache-2.0
// higgs-model linearity: what plans were predicted to lose beside what they lose.
#include "architecture/parts.hpp"
#include "cli/commands.hpp"
#include "measure/calibrate.hpp"
#include "measure/evaluate.hpp"
#include "pages/page.hpp"
#include "plan/plan.hpp"
#include "source/source.hpp"

#include <higgs/codes/registry.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/random.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <memory>
#include <numeric>
#include <ostream>
#include <system_error>

namespace higgs::model {
namespace {

struct Options : CommonOptions {
  std::string model, text_file, report, calibrate = "random";
  std::vector<std::string> alphas, uniform = shipped_code_names();
  PlanRequest request;
  std::vector<double> bits{2.5, 3, 3.25, 3.5, 4, 4.25, 5};
  std::int64_t window = 256, tokens = 2048;
  int random = 8;
  double most_t2 = 0.03;
  CLI::Option* calibrate_option = nullptr;
};

struct Row {
  std::string kind{}, name{};
  double bits = 0, t2 = 0, kl = 0, perplexity = 0;  // t2: of the worst layer
  std::vector<double> predicted_kl{};               // by file of alphas
  double predicted_perplexity = 0;
};

double predict_kl(const SensitivityFile& file, const std::vector<double>& t2) {
  double sum = 0;
  for (std::size_t i = 0; i < t2.size(); ++i)
    sum += std::max(0.0, fit_layer(file.layers[i], Metric::Kl, file.protocol).alpha) * t2[i];
  return sum;
}

// How well y = x describes the points: 1 - sum (y - x)^2 / sum (y - mean)^2, and the mean of |y - x| / y.
std::pair<double, double> agreement(const std::vector<std::pair<double, double>>& points) {
  double mean = 0, rest = 0, total = 0, relative = 0;
  for (const auto& [x, y] : points) mean += y / static_cast<double>(points.size());
  for (const auto& [x, y] : points) {
    rest += (y - x) * (y - x);
    total += (y - mean) * (y - mean);
    relative += std::fabs(y - x) / y / static_cast<double>(points.size());
  }
  return {total > 0 ? 1 - rest / total : 0, relative};
}

// Spearman's correlation: that of the ranks.
double rank_correlation(const SensitivityFile& a, const SensitivityFile& b, Metric metric) {
  const auto ranks = [&](const SensitivityFile& file) {
    std::vector<double> alphas;
    for (const LayerProbe& layer : file.layers)
      alphas.push_back(fit_layer(layer, metric, file.protocol).alpha);
    std::vector<std::size_t> order(alphas.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(),
              [&](std::size_t i, std::size_t j) { return alphas[i] < alphas[j]; });
    std::vector<double> out(alphas.size());
    for (std::size_t i = 0; i < order.size(); ++i) out[order[i]] = static_cast<double>(i);
    return out;
  };
  const std::vector<double> x = ranks(a), y = ranks(b);
  const auto n = static_cast<double>(x.size());
  double squares = 0;
  for (std::size_t i = 0; i < x.size(); ++i) squares += (x[i] - y[i]) * (x[i] - y[i]);
  return 1 - 6 * squares / (n * (n * n - 1));
}

// Formats of random width for every layer: uniform, or leaning to the small or the large ones.
std::vector<std::string> random_plan(const std::vector<PlanLayer>& layers, double most_t2,
                                     std::uint64_t seed) {
  constexpr double leanings[] = {1, 0.5, 2};
  std::vector<std::string> out;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    std::vector<std::string> names;
    for (const Format& format : layers[i].formats)
      if (format.t2 <= most_t2) names.push_back(format.name);
    expects(!names.empty(), "linearity: no codebook has a t^2 within --most");
    const double u = std::pow(random_uniform(seed, i), leanings[seed % 3]);
    out.push_back(names[static_cast<std::size_t>(u * static_cast<double>(names.size()))]);
  }
  return out;
}

std::string linearity_page(const std::string& title, const Options& options, const Row& reference,
                           const std::vector<Row>& rows, const SensitivityFile& file,
                           const std::string& summary) {
  Chart chart("predicted KL, nats a token", "measured KL", Chart::Scale::Log, Chart::Scale::Log);
  double low = 1e300, high = 0;
  for (const std::string kind : {"uniform", "random", "optimal"}) {
    std::vector<Chart::Point> points;
    for (const Row& row : rows) {
      if (row.kind != kind || !(row.kl > 0)) continue;
      points.push_back({row.predicted_kl[0], row.kl, row.kind + " " + row.name});
      low = std::min(low, row.kl), high = std::max(high, row.kl);
    }
    chart.add(kind, Chart::Mark::Points, std::move(points));
  }
  chart.add("equal", Chart::Mark::Line, {{low, low}, {high, high}});
  Chart loss("bits a weight", "measured KL", Chart::Scale::Linear, Chart::Scale::Log);
  for (const std::string kind : {"uniform", "random", "optimal"}) {
    std::vector<Chart::Point> points;
    for (const Row& row : rows)
      if (row.kind == kind) points.push_back({row.bits, row.kl, row.kind + " " + row.name});
    loss.add(kind, Chart::Mark::Points, std::move(points));
  }
  std::string body =
      joined("<p>", escaped(summary), "</p>\n<h2>Predicted and measured</h2>\n", chart.svg(),
             "<h2>Loss over bits</h2>\n", loss.svg(), sensitivity_section(file, options.request.metric),
             "<table><thead><tr><th>plan<th>bits<th>largest t&sup2;<th>predicted KL<th>KL<th>predicted "
             "perplexity<th>perplexity</tr></thead>\n");
  for (const Row& row : rows)
    body += joined("<tr><td>", escaped(row.kind + " " + row.name), "<td>", fixed(row.bits, 4), "<td>",
                   fixed(row.t2, 5), "<td>", fixed(row.predicted_kl[0], 5), "<td>", fixed(row.kl, 5), "<td>",
                   fixed(row.predicted_perplexity, 3), "<td>", fixed(row.perplexity, 3), "</tr>\n");
  return html_page(title, joined("<p>Reference perplexity ", fixed(reference.perplexity, 4), ".</p>\n", body,
                                 "</table>\n"));
}

// What is wrong with a format for all layers, CODEBOOK or CODEBOOK/GROUP; empty if nothing is. Bits in place of a
// codebook become its name.
std::string check_format(std::string& format) {
  const std::size_t slash = std::min(format.find('/'), format.size());
  const std::string suffix = format.substr(slash);
  if (!suffix.empty()) {
    int group = 0;
    const char* end = suffix.data() + suffix.size();
    const auto [stop, error] = std::from_chars(suffix.data() + 1, end, group);
    if (error != std::errc{} || stop != end || group <= 0)
      return format + ": the group is no positive number";
  }
  try {
    format = code_named(format.substr(0, slash)) + suffix;
    return {};
  } catch (const InvalidArgument& error) {
    return error.what();
  }
}

// What quantization balances input scales against, where the sensitivities were measured for that.
InputSquares squares_for(const Options& options, const ModelSource& source, const ProbeProtocol& protocol,
                         Executor& executor) {
  if (!protocol.calibrated) return {};
  const auto tokens = tokens_to_calibrate(source, options.calibrate, calibration_token_count, executor);
  ProgressBar bar("calibrate", "blocks");
  return measure_inputs(source, tokens, std::min(calibration_window, source.require_config().context),
                        executor, [&](std::int64_t done, std::int64_t total) { bar.update(done, total); });
}

// Measures plans, prints a line for each, and keeps what the page and the results need.
class Measurement {
 public:
  Measurement(const Options& options, const ModelSource& source, const std::vector<SensitivityFile>& files,
              std::int64_t weights, Executor& executor)
      : options_(options),
        files_(files),
        weights_(weights),
        evaluator_(text_tokens(options.text_file, Tokenizer(source.vocabulary(), options.model),
                               options.tokens, options.window),
                   options.window, executor),
        model_(Transformer::load(source, executor)),
        runner_(model_, options.request.options, squares_for(options, source, files[0].protocol, executor),
                executor) {
    ProgressBar bar("reference", "tokens");
    reference_.perplexity = evaluator_.set_reference(model_, show_means(bar)).perplexity();
  }

  void run(const std::string& kind, const std::string& name, const std::vector<std::string>& formats) {
    Row row{.kind = kind, .name = name};
    std::vector<double> t2;
    std::vector<std::int64_t> bytes;
    {
      ProgressBar bar(kind + " " + name, "tokens");
      const Evaluation result = evaluator_.evaluate(runner_.with(formats, t2, bytes), show_means(bar));
      row.kl = result.divergence.value().kl.mean;
      row.perplexity = result.perplexity();
    }
    row.bits = 8.0 * static_cast<double>(std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0})) /
               static_cast<double>(weights_);
    row.t2 = *std::max_element(t2.begin(), t2.end());
    for (const SensitivityFile& file : files_) row.predicted_kl.push_back(predict_kl(file, t2));
    // In models that lose much the cross entropy stays linear for longer than its exponential.
    row.predicted_perplexity = reference_.perplexity * std::exp(row.predicted_kl[0]);
    char line[200];
    std::snprintf(line, sizeof line, "%-25s %8.4f  %10.5f  %12.5f  %9.5f  %14.4f  %9.4f\n",
                  (kind + " " + name).c_str(), row.bits, row.t2, row.predicted_kl[0], row.kl,
                  row.predicted_perplexity, row.perplexity);
    options_.text() << line << std::flush;
    rows_.push_back(std::move(row));
  }

  const Row& reference() const noexcept { return reference_; }
  const std::vector<Row>& rows() const noexcept { return rows_; }
  std::int64_t tokens() const noexcept { return evaluator_.tokens(); }

 private:
  const Options& options_;
  const std::vector<SensitivityFile>& files_;
  std::int64_t weights_;  // number of weights of the planned layers
  Evaluator evaluator_;
  Transformer model_;
  PlanRunner runner_;
  Row reference_{.kind = "reference"};
  std::vector<Row> rows_;
};

nlohmann::ordered_json describe(const Row& row) {
  return {{"kind", row.kind},
          {"name", row.name},
          {"bits", row.bits},
          {"t2", row.t2},
          {"predicted_kl", row.predicted_kl},
          {"kl", row.kl},
          {"predicted_ppl", row.predicted_perplexity},
          {"ppl", row.perplexity}};
}

// How well the predictions hold, in a sentence; the numbers join `results`.
std::string summarize(const Options& options, const std::vector<SensitivityFile>& files,
                      const Measurement& measured, nlohmann::ordered_json& results) {
  std::vector<std::pair<double, double>> within, losses;
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const Row& row : measured.rows()) {
    rows.push_back(describe(row));
    if (row.t2 > options.most_t2) continue;
    within.emplace_back(row.predicted_kl[0], row.kl);
    losses.emplace_back(row.predicted_kl[0], std::log(row.perplexity / measured.reference().perplexity));
  }
  const auto [r2, error] = agreement(within);
  const double loss_r2 = agreement(losses).first;
  std::string summary =
      joined(std::to_string(within.size()), " plans with t^2 <= ", fixed(options.most_t2, 4), ": KL R^2 ",
             fixed(r2, 4), ", mean relative error ", fixed(100 * error, 1),
             " %; growth of the cross entropy beside predicted KL, R^2 ", fixed(loss_r2, 4), ".");
  results = {{"tokens", measured.tokens()},
             {"reference_ppl", measured.reference().perplexity},
             {"kl_r2", r2},
             {"kl_relative_error", error},
             {"nll_r2", loss_r2},
             {"rows", std::move(rows)}};
  for (std::size_t f = 1; f < files.size(); ++f) {
    const double correlation = rank_correlation(files[0], files[f], Metric::Kl);
    summary += joined(" Rank correlation of the alphas with those of ", options.alphas[f], ": ",
                      fixed(correlation, 4), ".");
    results["rank_correlation"].push_back(correlation);
  }
  return summary;
}

// Every plan that the command line asks for.
void run_plans(const Options& options, const std::vector<std::vector<PlanLayer>>& layers, Measurement& out) {
  for (const std::string& codebook : options.uniform)
    out.run("uniform", codebook, std::vector<std::string>(layers[0].size(), codebook));
  for (int i = 0; i < options.random; ++i)
    out.run("random", std::to_string(i),
            random_plan(layers[0], options.most_t2, static_cast<std::uint64_t>(i)));
  for (const double bits : options.bits)
    for (std::size_t f = 0; f < layers.size(); ++f) {
      const auto plan = allocate(layers[f], Budget::bits(bits));
      if (!plan) {
        tell("no plan takes only " + fixed(bits, 2) + " bits: the smallest formats take more");
        continue;
      }
      std::vector<std::string> formats;
      for (const PlannedLayer& layer : plan->layers) formats.push_back(layer.format);
      out.run("optimal", fixed(bits, 2) + (f == 0 ? "" : " by alphas " + std::to_string(f + 1)), formats);
    }
}

void linearity(Options& options) {
  Output report(options.report);
  const auto executor = options.executor();
  const ModelSource source(options.model);
  note_unused(source);
  require_original(source);
  require_context(source, options.window);
  std::vector<SensitivityFile> files;
  std::vector<std::vector<PlanLayer>> layers;  // by file of alphas
  for (const std::string& path : options.alphas) {
    files.push_back(read_sensitivities(read_text(path), path));
    // Plans are measured with the embedding and the output layer as they are.
    std::erase_if(files.back().layers, [](const LayerProbe& layer) { return !is_block_linear(layer.name); });
    options.request.options.input_scales = files[0].protocol.input_scales;
    layers.push_back(plan_layers(source, files.back(), options.request));
    for (const std::string& doubt : doubts_about(files.back(), source)) tell(doubt);
  }
  if (!files[0].protocol.calibrated && options.calibrate_option->count() > 0)
    throw InvalidArgument(options.alphas[0] + ": was measured without calibration, so " +
                          options.calibrate_option->get_name() + " must not be given");
  for (const double bits : options.bits) Budget::bits(bits).bytes_for(1);  // throws for what is no budget
  for (int i = 0; i < options.random; ++i)  // a codebook may be missing within --most
    random_plan(layers[0], options.most_t2, static_cast<std::uint64_t>(i));
  std::int64_t weights = 0;
  for (const PlanLayer& layer : layers[0]) weights += layer.weights;
  Measurement measured(options, source, files, weights, *executor);
  std::ostream& out = options.text();
  out << "reference perplexity " << measured.reference().perplexity << "\n"
      << "plan                          bits  largest t2  predicted KL         KL   predicted ppl        "
         "ppl\n";
  run_plans(options, layers, measured);
  nlohmann::ordered_json results;
  const std::string summary = summarize(options, files, measured, results);
  out << summary << "\n";
  options.write(results);
  report.commit(linearity_page("Linearity on " + source.path().filename().string(), options,
                               measured.reference(), measured.rows(), files[0], summary));
}

}  // namespace

void add_linearity(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("linearity", "Measures plans beside what the sensitivities predict of them");
  add_model_option(*command, *options, options->model, "model in its original form");
  as_list(
      options->reads(command->add_option(
          "--alpha", options->alphas, "what sensitivity wrote; of further files the plans are measured too")))
      ->required()
      ->type_name("JSON");
  add_text_options(*command, *options, options->text_file, options->window, options->tokens);
  as_list(command->add_option("--uniform", options->uniform,
                              "formats for all layers: CODEBOOK or CODEBOOK/GROUP"))
      ->transform(CLI::Validator(check_format, ""))
      ->capture_default_str();
  as_list(command->add_option("--codebooks", options->request.codebooks, "that plans choose from"))
      ->capture_default_str()
      ->type_name("CODEBOOK|BITS")
      ->transform(as_code());
  as_list(command->add_option("--bits", options->bits, "budgets of the optimal plans"))
      ->capture_default_str()
      ->check(positive());
  command->add_option("--random", options->random, "random plans")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000));
  command->add_option("--most", options->most_t2, "plans within this t^2 are counted in R^2")
      ->capture_default_str()
      ->check(positive());
  options->calibrate_option =
      options
          ->reads(command->add_option(
              "--calibrate", options->calibrate,
              "what sensitivity was given, if it calibrated: plans are rounded with such input scales"))
          ->capture_default_str()
          ->type_name("random|self|FILE");
  command->add_option("--report", options->report, "write a page with pictures to this file")
      ->type_name("HTML");
  options->add_to(*command);
  command->callback([options] { linearity(*options); });
}

}  // namespace higgs::model
