// SPDX-License-Identifier: Apache-2.0
#include "plan/plan.hpp"

#include "architecture/parts.hpp"
#include "json/fields.hpp"
#include "json/parse_json.hpp"
#include "network/network.hpp"
#include "pages/page.hpp"
#include "quantize/quantize.hpp"

#include <higgs/allocate/knapsack_front.hpp>
#include <higgs/codes/rates.hpp>
#include <higgs/core/error.hpp>
#include <higgs/matmul/decode.hpp>
#include <higgs/rotate/hadamard.hpp>
#include <higgs/store/checkpoint.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <set>
#include <variant>

namespace higgs::model {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view format_name = "higgs plan 1";

// What ties the formats of fused layers: the first that reads their input. Empty for a layer that is alone.
std::string tie_of(const std::string& name) {
  const std::vector<BlockLinear> readers = sharing_layers(name, Sharing::Fused);
  return readers.size() > 1 ? readers.front().name : "";
}

// Rows of the matrices that share input scales with a tensor, its own among them.
std::int64_t sharing_rows(const ModelSource& source, const ModelTensor& tensor, Sharing sharing) {
  std::int64_t rows = 0;
  for (const BlockLinear& layer : sharing_layers(tensor.name, sharing))
    if (const ModelTensor* found = source.find(layer.name); found && found->cols() == tensor.cols())
      rows += found->rows();
  return std::max(rows, tensor.rows());
}

// Name, expected t^2 and bytes of a tensor in each of the codebooks, in the order of shipped_code_names().
std::vector<Format> formats_of(const ModelSource& source, const ModelTensor& tensor,
                               const PlanRequest& request) {
  const QuantizeOptions options =
      options_for(source, role_of(source, tensor), request.options, request.calibrated);
  const std::int64_t all_rows = sharing_rows(source, tensor, request.sharing());
  std::vector<Format> out;
  for (const std::string& name : shipped_code_names())
    if (std::ranges::find(request.codebooks, name) != request.codebooks.end())
      with_shipped_code(name, [&]<class Book>(std::type_identity<Book>) {
        const CodeLayout layout = shared_layout(tensor.rows(), all_rows, tensor.cols(), Book::dim, options);
        out.push_back({name, Book{}.mse(), code_bytes<Book>(layout)});
      });
  return out;
}

std::string short_part(const std::string& part) {
  const std::size_t dot = part.find('.');
  std::string out = dot == part.npos ? part : part.substr(dot + 1);
  if (out.ends_with("_proj")) out.resize(out.size() - 5);
  return out;
}

}  // namespace

namespace {

std::string shape_text(std::int64_t rows, std::int64_t cols) {
  return std::to_string(rows) + " x " + std::to_string(cols);
}

// Throws FormatError unless the model has a matrix of that name, and of that shape where it is known (not 0).
const ModelTensor& find_matrix(const ModelSource& source, const std::string& name, std::int64_t rows,
                               std::int64_t cols, const std::string& path) {
  const std::string model = source.path().string();
  if (source.checkpoint())
    throw FormatError(model + ": is quantized already; plans are for the model in its original form");
  const ModelTensor* tensor = source.find(name);
  if (!tensor || !tensor->is_matrix())
    throw FormatError(path + ": layer \"" + name + "\" is no matrix of " + model +
                      "; is it of another model?");
  if (rows > 0 && (rows != tensor->rows() || cols != tensor->cols()))
    throw FormatError(path + ": layer \"" + name + "\" is " + shape_text(rows, cols) + ", but " +
                      shape_text(tensor->rows(), tensor->cols()) + " in " + model +
                      "; is it of another model?");
  return *tensor;
}

// Throws FormatError if a linear layer of the model is not among the names.
template <class Contains>
void require_all_layers(const ModelSource& source, const std::string& path, Contains&& contains) {
  std::int64_t missing = 0, all = 0;
  std::string first;
  for (const ModelTensor& tensor : source.tensors()) {
    if (role_of(source, tensor) != Role::Linear || !tensor.is_matrix()) continue;
    ++all;
    if (contains(tensor.name)) continue;
    if (missing++ == 0) first = tensor.name;
  }
  if (missing > 0)
    throw FormatError(path + ": lacks " + std::to_string(missing) + " of the " + std::to_string(all) +
                      " linear layers of " + source.path().string() + ", " + first +
                      " first: it is of another model, or of a measurement that is not finished");
}

}  // namespace

std::vector<std::string> plan_codebooks() {
  std::vector<std::string> names;
  for (const RatedCode& code : best_codes())
    if (code.bits >= 1.5) names.push_back(code.name);
  return names;
}

namespace {

// Throws FormatError unless the report is of this model.
void check_rounding(const RoundingReport& report, const ModelSource& source) {
  for (const auto& [name, layer] : report.layers)
    find_matrix(source, name, layer.rows, layer.cols, report.path);
  if (report.weights != weights_fingerprint(source))
    throw FormatError(report.path + ": is of " + report.model + ", whose weights are not those of " +
                      source.path().string() + "; what feedback leaves holds for one model alone");
}

}  // namespace

std::vector<PlanLayer> plan_layers(const ModelSource& source, const SensitivityFile& file,
                                   const PlanRequest& request) {
  source.require_sound();
  if (request.rounding) check_rounding(*request.rounding, source);
  for (const std::string& codebook : request.codebooks) with_shipped_code(codebook, [](auto) {});
  std::vector<PlanLayer> layers;
  std::set<std::string_view> names;
  for (const LayerProbe& probed : file.layers) {
    const ModelTensor& tensor = find_matrix(source, probed.name, probed.rows, probed.cols, file.path);
    names.insert(probed.name);
    const Sensitivity fit = fit_layer(probed, request.metric, file.protocol);
    const double left = request.rounding ? request.rounding->left_of(probed.name) : 1;
    PlanLayer layer{.name = probed.name,
                    .weights = tensor.rows() * tensor.cols(),
                    .alpha = left * fit.alpha,
                    .margin = left > 0 ? left * (fit.high - fit.alpha) : 0,
                    .formats = formats_of(source, tensor, request)};
    if (request.fused) layer.tie = tie_of(probed.name);
    layers.push_back(std::move(layer));
  }
  require_all_layers(source, file.path, [&](const std::string& name) { return names.contains(name); });
  return layers;
}

namespace {

// What a checkpoint keeps of a codebook for each layer.
std::int64_t point_bytes(const std::string& codebook) {
  std::int64_t bytes = 0;
  with_shipped_code(codebook, [&]<class Book>(std::type_identity<Book>) {
    bytes = detail::stored_points<Book> * Book::dim * std::int64_t{sizeof(typename Book::Element)};
  });
  return bytes;
}

}  // namespace

Outline outline_of(const ModelSource& source, const PlanRequest& request, const Plan& plan) {
  QuantizeRequest wanted{
      .options = request.options, .sharing = request.sharing(), .calibrated = request.calibrated};
  for (const PlannedLayer& layer : plan.layers) wanted.codebooks.emplace(layer.name, layer.format);
  return outline_of(source, wanted);
}

std::optional<Plan> allocate_file(const ModelSource& source, const std::vector<PlanLayer>& layers,
                                  const PlanRequest& request, std::int64_t bytes,
                                  const PlanOptions& options) {
  const auto file_of = [&](const Plan& plan) {
    return static_cast<std::int64_t>(outline_of(source, request, plan).file_bytes);
  };
  const std::optional<Plan> smallest = smallest_plan(layers, options);
  if (!smallest || file_of(*smallest) > bytes) return std::nullopt;
  // Each layer's points are in the file too; what is left beside are kept tensors and the header.
  std::vector<PlanLayer> with_points = layers;
  for (PlanLayer& layer : with_points)
    for (Format& format : layer.formats) format.bytes += point_bytes(format.name);
  const auto allocated = [&](std::int64_t budget) {
    auto plan = allocate(with_points, Budget::bytes(budget), options);
    if (!plan) return plan;
    for (PlannedLayer& layer : plan->layers) {
      const std::int64_t points = point_bytes(layer.format);
      layer.bytes -= points;
      plan->bytes -= points;
    }
    return plan;
  };
  std::int64_t rest = 0;
  while (rest < bytes) {
    auto plan = allocated(bytes - rest);
    if (!plan) break;
    const std::int64_t over = file_of(*plan) - bytes;
    if (over <= 0) return plan;
    rest += over;
  }
  return allocate(layers, Budget::bytes(smallest->bytes), options);
}

std::optional<Plan> smallest_plan(const std::vector<PlanLayer>& layers, const PlanOptions& options) {
  Plan out;
  for (const PlanLayer& layer : layers) {
    const Format* least = nullptr;
    for (const Format& format : layer.formats)
      if (format.t2 <= options.max_t2 && (!least || format.bytes < least->bytes)) least = &format;
    if (!least) return std::nullopt;
    out.layers.push_back({layer.name, least->name, least->t2, least->bytes, layer.alpha * least->t2});
    out.bytes += least->bytes;
    out.weights += layer.weights;
  }
  return out;
}

std::vector<std::string> doubts_about(const SensitivityFile& file, const ModelSource& source) {
  const std::string model = source.path().filename().string();
  const bool known = file.protocol.weights != 0;
  if (known && file.protocol.weights == weights_fingerprint(source)) return {};
  if (!known && file.protocol.model == model) return {};
  return {file.path + ": was measured on " + file.protocol.model + ", whose weights " +
          (known ? "are not" : "may not be") + " those of " + model +
          "; sensitivities hold for the model that they were measured on"};
}

std::string layers_without_feedback(const RoundingReport& report, const std::vector<PlanLayer>& layers) {
  const auto lacks = [&](const PlanLayer& layer) { return !report.layers.contains(layer.name); };
  const std::int64_t count = std::ranges::count_if(layers, lacks);
  if (count == 0) return "";
  return report.path + ": lacks " + std::to_string(count) + " of the " + std::to_string(layers.size()) +
         " planned layers, which count as rounded to the nearest: " +
         std::ranges::find_if(layers, lacks)->name + (count > 1 ? ", ..." : "");
}

std::string write_plan(const Plan& plan, const PlanRequest& request, const SensitivityFile& file) {
  ordered_json layers = ordered_json::array();
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    const PlannedLayer& layer = plan.layers[i];
    ordered_json one{{"name", layer.name}};
    if (file.layers[i].rows > 0) one["shape"] = {file.layers[i].rows, file.layers[i].cols};
    one["codebook"] = layer.format;
    one["bytes"] = layer.bytes;
    one["t2"] = layer.t2;
    one["loss"] = layer.loss;
    layers.push_back(std::move(one));
  }
  const ordered_json out{{"format", format_name},
                         {"model", file.protocol.model},
                         {"metric", name_of(request.metric)},
                         {"bits_per_weight", plan.bits_per_weight()},
                         {"bytes", plan.bytes},
                         {"loss", plan.loss},
                         {"interval", {plan.low, plan.high}},
                         {"lower_bound", plan.lower_bound},
                         {"proven", plan.proven},
                         {"block", request.options.block},
                         {"group", request.options.group},
                         {"input_scales", request.options.input_scales},
                         {"fused", request.fused},
                         {"round", request.rounding ? "hessian" : "nearest"},
                         {"layers", std::move(layers)}};
  return out.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

StoredPlan read_plan(std::string_view text, const std::string& source) {
  return parse_json(text, source, [&](const nlohmann::json& json) {
    constexpr std::int64_t most = std::int64_t{1} << 48;
    const Fields fields(json, source);
    fields.choice("format", {format_name});
    StoredPlan plan;
    plan.block = fields.integer("block", 0, max_hadamard_order);
    if (plan.block != 0 && !is_hadamard_order(plan.block))
      fields.refuse("block", "0 or the order of a Hadamard transform");
    plan.group = fields.integer("group", 1, most);
    plan.input_scales = fields.flag("input_scales");
    plan.sharing = fields.flag("fused", false) ? Sharing::Fused : Sharing::Alike;
    plan.with_feedback = fields.choice("round", {"nearest", "hessian"}, "nearest") == "hessian";
    if (fields.has("loss")) plan.loss = fields.number("loss");
    plan.metric = fields.choice("metric", {"kl", "nll", "ppl"}, "");
    // What a plan says for people.
    for (const char* key : {"model", "bits_per_weight", "bytes", "interval", "lower_bound", "proven"})
      fields.find(key);
    const nlohmann::json* layers = fields.array("layers");
    if (!layers) fields.fail("layers is missing");
    fields.refuse_other_keys();
    const std::vector<std::string> known = shipped_code_names();
    for (std::size_t i = 0; i < layers->size(); ++i) {
      const Fields layer((*layers)[i], source, "layers[" + std::to_string(i) + "]");
      const std::string name = layer.text("name"), codebook = layer.text("codebook");
      if (std::find(known.begin(), known.end(), codebook) == known.end())
        throw FormatError(source + ": layer \"" + name + "\": no codebook is named \"" + codebook + "\"");
      if (!plan.codebooks.emplace(name, codebook).second)
        throw FormatError(source + ": layer \"" + name + "\" is planned twice");
      if (const auto shape = read_shape(layer)) plan.shapes[name] = *shape;
      for (const char* key : {"bytes", "t2", "loss"}) layer.find(key);
      layer.refuse_other_keys();
    }
    return plan;
  });
}

void check_plan(const StoredPlan& plan, const ModelSource& source, const std::string& path) {
  for (const auto& [name, codebook] : plan.codebooks) {
    const auto shape = plan.shapes.find(name);
    const auto [rows, cols] =
        shape == plan.shapes.end() ? std::pair<std::int64_t, std::int64_t>() : shape->second;
    find_matrix(source, name, rows, cols, path);
  }
  require_all_layers(source, path, [&](const std::string& name) { return plan.codebooks.contains(name); });
}

PlanRunner::PlanRunner(const Transformer& model, const QuantizeOptions& options, InputSquares input_squares,
                       Executor& executor)
    : model_(model), options_(options), input_squares_(std::move(input_squares)), executor_(executor) {}

const PlanRunner::Rounded& PlanRunner::rounded(const std::string& layer, const Matrix& dense,
                                               const std::string& format) {
  const auto [at, added] = kept_.try_emplace({layer, format});
  if (!added) return at->second;
  QuantizeOptions options = options_;
  const std::size_t slash = format.find('/');
  if (slash != format.npos) options.group = std::stoi(format.substr(slash + 1));
  if (const auto found = input_squares_.find(layer); found != input_squares_.end())
    options.input_squares = found->second;
  const HostNetwork network(model_, executor_);
  const ColumnStatistics columns = shared_columns(
      model_.config(), layer, Sharing::Alike,
      [&](std::string_view name) { return network.dense(name, "higgs::model::PlanRunner"); }, executor_);
  options.statistics = &columns;
  const AnyQuantizedMatrix matrix = quantize(dense.view(), format.substr(0, slash), options, executor_);
  Matrix weight(dense.rows, dense.cols);
  dequantize(matrix, weight.view(), executor_);
  Rounded& out = at->second;
  out.weight = share(std::move(weight));
  std::visit(
      [&](const auto& m) {
        out.t2 = m.t2;
        out.bytes = static_cast<std::int64_t>(m.codes.size_bytes() + m.scales.size_bytes() +
                                              m.input_scales.size_bytes());
      },
      matrix);
  return out;
}

Transformer PlanRunner::with(const std::vector<std::string>& formats, std::vector<double>& t2,
                             std::vector<std::int64_t>& bytes) {
  Transformer out = model_;
  const std::vector<BlockLinear> layers = block_linears(model_.config());
  expects(formats.size() == layers.size(), "higgs::model::PlanRunner: a format for every layer is needed");
  t2.clear();
  bytes.clear();
  for (std::size_t i = 0; i < formats.size(); ++i) {
    Linear& linear = layers[i].in(out.weights);
    const Rounded& each =
        rounded(layers[i].name, *require_dense(linear, "higgs::model::PlanRunner"), formats[i]);
    t2.push_back(each.t2);
    bytes.push_back(each.bytes);
    linear.weight = each.weight;
  }
  return out;
}

std::string sensitivity_section(const SensitivityFile& file, Metric metric) {
  std::vector<std::pair<std::string, std::vector<Chart::Point>>> by_part;  // in the order of the model
  for (const LayerProbe& layer : file.layers) {
    const auto [block, part] = split_name(layer.name);
    const Sensitivity fit = fit_layer(layer, metric, file.protocol);
    const std::string name = short_part(part);
    auto series = std::ranges::find_if(by_part, [&](const auto& each) { return each.first == name; });
    if (series == by_part.end()) series = by_part.insert(by_part.end(), {name, {}});
    series->second.push_back({static_cast<double>(block), fit.alpha, layer.name});
  }
  Chart chart("block", joined("alpha (", name_of(metric), " for a unit of t²)"), Chart::Scale::Linear,
              Chart::Scale::Log);
  for (auto& [part, points] : by_part) chart.add(part, Chart::Mark::Points, std::move(points));
  const ProbeProtocol& how = file.protocol;
  return joined("<h2>Sensitivities</h2>\n<p>", escaped(how.model),
                how.levels.empty() ? ", from gradients, " : ", noise in one layer at a time, ",
                std::to_string(how.tokens), " tokens of ", escaped(how.text), " in windows of ",
                std::to_string(how.window), ". Alphas that are not positive are not drawn.</p>\n",
                chart.svg());
}

std::string allocation_page(const std::string& title, const SensitivityFile& file,
                            const std::vector<PlanLayer>& layers, const Plan& plan, Metric metric) {
  std::string body =
      joined("<p>", fixed(plan.bits_per_weight(), 4), " bits a weight, ", std::to_string(plan.bytes),
             " bytes, predicted loss ", fixed(plan.loss, 5), ", at least ", fixed(plan.lower_bound, 5),
             plan.proven ? " (proven optimal)" : "", ".</p>\n");
  for (const std::string& warning : plan.warnings) body += joined("<p><b>", escaped(warning), ".</b></p>\n");

  // A row for each kind of layer, in the order of the model.
  std::vector<std::string> names;
  std::vector<std::vector<double>> bits;
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    const std::string part = short_part(split_name(plan.layers[i].name).second);
    auto row = static_cast<std::size_t>(std::find(names.begin(), names.end(), part) - names.begin());
    if (row == names.size()) {
      names.push_back(part);
      bits.emplace_back();
    }
    bits[row].push_back(8.0 * static_cast<double>(plan.layers[i].bytes) /
                        static_cast<double>(std::max<std::int64_t>(1, layers[i].weights)));
  }
  body += "<h2>Bits by layer</h2>\n" + heat_map(names, "block", bits);

  std::int64_t largest = 0;
  for (const PlanLayer& layer : layers) {
    std::int64_t most = 0;
    for (const Format& format : layer.formats) most = std::max(most, format.bytes);
    largest += most;
  }
  const KnapsackFront<> front(plan_problem(layers, Budget::bytes(largest)));
  std::vector<Chart::Point> line;
  const std::size_t stride = 1 + front.points().size() / 600;
  for (std::size_t i = 0; i < front.points().size(); i += stride)
    line.push_back({8.0 * static_cast<double>(front.points()[i].weight) / static_cast<double>(plan.weights),
                    front.points()[i].cost});
  Chart chart("bits a weight, scales and padding included",
              metric == Metric::Kl ? "predicted loss, KL in nats a token"
                                   : joined("predicted loss, change of ", name_of(metric)),
              Chart::Scale::Linear, Chart::Scale::Log);
  chart.add("all budgets", Chart::Mark::Line, std::move(line));
  std::vector<Chart::Point> uniform;
  for (const Format& format : layers.empty() ? std::vector<Format>{} : layers[0].formats) {
    double loss = 0;
    std::int64_t bytes = 0;
    for (const PlanLayer& layer : layers)
      for (const Format& each : layer.formats)
        if (each.name == format.name) loss += std::max(0.0, layer.alpha) * each.t2, bytes += each.bytes;
    uniform.push_back(
        {8.0 * static_cast<double>(bytes) / static_cast<double>(plan.weights), loss, format.name});
  }
  chart.add("uniform", Chart::Mark::Points, std::move(uniform));
  chart.add("this plan", Chart::Mark::Points, {{plan.bits_per_weight(), plan.loss, "this plan"}});
  body += "<h2>Every budget</h2>\n" + chart.svg();
  return html_page(title, body + sensitivity_section(file, metric));
}

}  // namespace higgs::model
