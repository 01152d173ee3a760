// SPDX-License-Identifier: Apache-2.0
#include "compare/compare.hpp"

#include <higgs/codes/rates.hpp>
#include <higgs/codes/registry.hpp>
#include <higgs/core/error.hpp>
#include <higgs/quantizer.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <ranges>
#include <set>
#include <span>
#include <utility>
#include <variant>

#include "architecture/parts.hpp"
#include "compare/round_to_codebook.hpp"
#include "pages/page.hpp"
#include "quantize/quantize.hpp"

namespace higgs::model {

namespace {

constexpr std::string_view higgs_prefix = "higgs ", group_suffix = " g128", random_suffix = " random";

double relative_error(MatrixView<const float> rounded, MatrixView<const float> exact) {
  double error = 0, norm = 0;
  for (std::int64_t r = 0; r < exact.rows; ++r)
    for (std::int64_t c = 0; c < exact.cols; ++c) {
      const double w = static_cast<double>(exact(r, c)), d = static_cast<double>(rounded(r, c)) - w;
      error += d * d;
      norm += w * w;
    }
  return norm > 0 ? error / norm : 0;
}

// One layer's weights in the format, its bits a weight and its errors.
struct Converted {
  Replacement weight;
  double bits = 0;
  double t2 = 0;
  double weight_error = 0;
};

bool ships(std::string_view codebook) {
  const std::vector<std::string> names = shipped_code_names();
  return std::find(names.begin(), names.end(), codebook) != names.end();
}

// `columns` are those of all layers that share input scales.
Converted convert(const Matrix& dense, const Method& method, std::span<const double> input_squares,
                  const ColumnStatistics& columns, Executor& executor) {
  if (method.baseline) {
    Matrix rounded = dense;
    const double bits = round_to(*method.baseline, rounded.view(), executor);
    const double error = relative_error(rounded.view(), dense.view());
    return {share(std::move(rounded)), bits, error, error};
  }
  QuantizeOptions options = method.options;
  options.statistics = &columns;
  if (method.calibrated) options.input_squares = input_squares;
  if (!ships(method.codebook)) {
    RoundedMatrix rounded = round_to_codebook(dense.view(), method.codebook, options, executor);
    return {share(std::move(rounded.weight)), rounded.bits, rounded.t2, rounded.weight_error};
  }
  const AnyQuantizedMatrix quantized = quantize(dense.view(), method.codebook, options, executor);
  return {quantized, quantized.bits_per_weight(), quantized.t2(), quantized.weight_error()};
}

// Cuts `suffix` off the end of `text`, if it is there.
bool remove_suffix(std::string& text, std::string_view suffix) {
  if (!text.ends_with(suffix)) return false;
  text.resize(text.size() - suffix.size());
  return true;
}

std::string choices_of(const Method& method) {
  if (method.baseline) return std::string(method.baseline->choices);
  return joined(
      "groups of ", std::to_string(method.options.group),
      method.options.scale_format == ScaleFormat::Log8 ? ", 8-bit scales, searched" : ", fp16 scales",
      method.calibrated ? ", input scales from random tokens" : ", input scales from the weights");
}

// "36.0201 ± 0.61".
std::string with_error(double value, double error, int digits) {
  return fixed(value, digits) + (std::isfinite(error) ? " ± " + fixed(error, digits) : "");
}

std::string table_row(const ComparisonRow& row, const char* kind) {
  const Evaluation& result = row.evaluation;
  std::string out =
      joined("<tr class=\"", kind, "\"><td>", escaped(row.method), "<td>", fixed(row.bits, 3), "<td>",
             fixed(row.t2, 6), "<td>", fixed(row.weight_error, 6), "<td>",
             with_error(result.perplexity(), result.perplexity_error(), result.perplexity() < 1000 ? 3 : 0));
  if (const auto& away = result.divergence)
    out += joined("<td>", with_error(away->kl.mean, away->kl.standard_error, 5), "<td>",
                  fixed(away->quantile_99, 3), "<td>", fixed(away->most, 3), "<td>",
                  fixed(100 * away->top_agreement, 1), " %");
  else
    out += "<td>&ndash;<td>&ndash;<td>&ndash;<td>&ndash;";
  return out + joined("<td>", escaped(row.choices), "</tr>\n");
}

}  // namespace

std::vector<std::string> default_methods() {
  std::vector<std::string> out;
  const auto add = [&](const std::string& name) {
    if (std::find(out.begin(), out.end(), name) == out.end()) out.push_back(name);
  };
  for (const RatedCode& code : best_codes() | std::views::reverse)
    if (code.bits >= 2 && code.bits <= 4)
      for (const std::string_view suffix : {std::string_view(), random_suffix})
        add(joined(higgs_prefix, code.name, suffix));
  for (const char* name : {"higgs 1x16",
                           "higgs 2x256",
                           "higgs 2x256 random",
                           "nf4-64",
                           "nf4-64 dq",
                           "nf4-1024",
                           "nf4-1024 dq",
                           "af4-64",
                           "af4-1024",
                           "int4-64",
                           "hqq4-64",
                           "higgs 1x8",
                           "higgs 2x64",
                           "higgs 2x64 random",
                           "int3-64",
                           "hqq3-64",
                           "higgs 1x4",
                           "higgs 2x16",
                           "higgs 2x16 random",
                           "higgs 4x256",
                           "higgs 4x256 random",
                           "int2-64",
                           "hqq2-64"})
    add(name);
  return out;
}

Method parse_method(std::string_view name) {
  Method out{.name = std::string(name)};
  for (const Baseline& each : baselines())
    if (each.name == name) {
      out.baseline = &each;
      return out;
    }
  std::vector<std::string> codebooks = shipped_code_names();
  for (const std::string& each : further_codebook_names()) codebooks.push_back(each);
  if (name.starts_with(higgs_prefix)) {
    out.codebook = name.substr(higgs_prefix.size());
    out.calibrated = remove_suffix(out.codebook, random_suffix);
    if (remove_suffix(out.codebook, group_suffix)) {
      out.options.group = 128;
      out.options.scale_format = ScaleFormat::Log8;
      out.options.scale_search = 6;
    }
    if (std::find(codebooks.begin(), codebooks.end(), out.codebook) != codebooks.end()) return out;
  }
  std::string known;
  for (const Baseline& each : baselines()) known.append(each.name).append(", ");
  known += "and higgs CODEBOOK[ g128][ random] with a CODEBOOK of";
  for (const std::string& each : codebooks) known += " " + each;
  throw InvalidArgument("no format is named \"" + std::string(name) + "\"; there are " + known);
}

void apply_method(Network& model, const Method& method, const InputSquares& input_squares, ComparisonRow& row,
                  Executor& executor,
                  const std::function<void(std::int64_t done, std::int64_t total)>& progress) {
  row = {.method = method.name, .choices = choices_of(method)};
  std::int64_t weights = 0, done = 0;
  const std::vector<BlockLinear> layers = block_linears(model.config());
  for (const BlockLinear& layer : layers) {
    const Shape shape = layer.part->shape(model.config());
    weights += shape[0] * shape[1];
  }
  const auto dense_named = [&](std::string_view name) {
    return model.dense(name, "higgs::model::apply_method");
  };
  std::string first;                        // first of the layers that share input scales
  std::optional<ColumnStatistics> columns;  // statistics of these, before any is replaced
  for (const BlockLinear& layer : layers) {
    const std::string sharing = sharing_layers(layer.name, Sharing::Alike).front().name;
    if (first != sharing)
      columns.emplace(shared_columns(model.config(), layer.name, Sharing::Alike, dense_named, executor));
    first = sharing;
    const auto squares = input_squares.find(layer.name);
    expects(!method.calibrated || squares != input_squares.end(),
            "higgs::model::apply_method: the method wants input squares of every layer");
    const SharedMatrix dense = dense_named(layer.name);
    const Converted converted =
        convert(*dense, method,
                squares != input_squares.end() ? std::span(squares->second) : std::span<const double>(),
                *columns, executor);
    const std::int64_t count = dense->size();
    const double part = static_cast<double>(count) / static_cast<double>(weights);
    row.bits += converted.bits * part;
    row.t2 += converted.t2 * part;
    row.weight_error += converted.weight_error * part;
    model.replace(layer.name, converted.weight);
    if (progress) progress(done += count, weights);
  }
}

Transformer with_method(const Transformer& model, const Method& method, const InputSquares& input_squares,
                        ComparisonRow& row, Executor& executor,
                        const std::function<void(std::int64_t done, std::int64_t total)>& progress) {
  HostNetwork network(model, executor);
  apply_method(network, method, input_squares, row, executor, progress);
  return network.model();
}

std::string stored_types(const ModelSource& source) {
  std::map<std::string, double> counts;
  double all = 0;
  for (const ModelTensor& tensor : source.tensors()) {
    if (!tensor.is_matrix()) continue;
    const double count = static_cast<double>(tensor.rows()) * static_cast<double>(tensor.cols());
    counts[tensor.stored->dtype] += count;
    all += count;
  }
  std::vector<std::pair<std::string, double>> sorted(counts.begin(), counts.end());
  std::ranges::stable_sort(sorted, [](const auto& a, const auto& b) { return a.second > b.second; });
  std::string out;
  for (const auto& [type, count] : sorted)
    out += joined(
        out.empty() ? "" : ", ", type,
        sorted.size() == 1 ? "" : joined(" (", fixed(100 * count / all, count / all < 0.01 ? 1 : 0), " %)"));
  return out;
}

ComparisonRow reference_row(const ModelSource& source) {
  double bytes = 0, weights = 0;
  std::set<std::string> types;
  for (const ModelTensor& tensor : source.tensors()) {
    if (!tensor.is_matrix() || !is_block_linear(tensor.name)) continue;
    bytes += static_cast<double>(tensor.stored->data.size());
    weights += static_cast<double>(tensor.rows()) * static_cast<double>(tensor.cols());
    types.insert(tensor.stored->dtype);
  }
  std::string names;
  for (const std::string& each : types) names += (names.empty() ? "" : ", ") + each;
  return {
      .method = "reference", .bits = weights > 0 ? 8 * bytes / weights : 0, .choices = "as stored: " + names};
}

std::string comparison_page(const std::string& title, const Protocol& protocol,
                            const ComparisonRow& reference, const std::vector<ComparisonRow>& rows) {
  Chart chart("bits a weight, scales included", "KL to the reference, nats a token", Chart::Scale::Linear,
              Chart::Scale::Log);
  std::string table;
  for (const bool ours : {true, false}) {
    std::vector<Chart::Point> points;
    for (const ComparisonRow& row : rows) {
      if (row.method.starts_with(higgs_prefix) != ours || !row.evaluation.divergence) continue;
      const Estimate& kl = row.evaluation.divergence->kl;
      points.push_back(
          {row.bits, kl.mean, row.method, std::isfinite(kl.standard_error) ? kl.standard_error : 0});
    }
    if (!points.empty())
      chart.add(ours ? "HIGGS" : "other formats", Chart::Mark::Labelled, std::move(points));
  }
  for (const ComparisonRow& row : rows)
    table += table_row(row, row.method.starts_with(higgs_prefix) ? "ours" : "peer");
  std::string how;
  for (const auto& [name, value] : protocol)
    how += joined("<dt>", escaped(name), "<dd>", escaped(value), "\n");
  return html_page(
      title,
      joined("<style>\nbody { max-width: 84rem } svg { max-width: 60rem }\n"
             "tr.ours { font-weight: 600 } tr.reference { color: #666 }\n"
             "table { font-size: 13px } td { white-space: nowrap; vertical-align: top } td, th { padding: "
             ".15rem .4rem }\n"
             "td:last-child { text-align: left; font-weight: 400; white-space: normal; min-width: 12rem }\n"
             "</style>\n<dl>",
             how, "</dl>\n<p>Lower and further left is better. Bars are standard errors.</p>\n", chart.svg(),
             "<p>t&sup2; is the relative squared error in the basis in which a layer was rounded (rotated "
             "and scaled for "
             "HIGGS), weight error that of the weights themselves; KL is that of the next token's "
             "distribution, in nats; "
             "agreement is how often the likeliest token is the reference's.</p>\n"
             "<div style=\"overflow-x: auto\"><table><thead><tr><th>method<th>bits<th>t&sup2;<th>weight "
             "error<th>perplexity<th>KL<th>KL, 99 %<th>largest KL<th>agreement<th>choices</tr></thead>\n",
             table_row(reference, "reference"), table, "</table></div>\n"));
}

}  // namespace higgs::model
