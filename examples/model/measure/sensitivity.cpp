// SPDX-License-Identifier: Apache-2.0
#include "measure/sensitivity.hpp"

#include "architecture/parts.hpp"
#include "json/parse_json.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/random.hpp>
#include <higgs/quantizer.hpp>
#include <higgs/store/journal.hpp>

#include <nlohmann/json.hpp>

#include <bit>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

namespace higgs::model {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view format_name = "higgs sensitivities 1";
// Where a quantizer has input scales, its error spreads over columns as their norms do.
constexpr std::string_view noise_even = "Gaussian, even", noise_by_column = "Gaussian, by column",
                           noise_calibrated = "Gaussian, by calibrated column";
constexpr std::string_view by_gradients = "gradients", by_noise = "noise in one layer at a time";
constexpr std::pair<Metric, std::string_view> metric_names[] = {
    {Metric::Kl, "kl"}, {Metric::CrossEntropy, "nll"}, {Metric::Perplexity, "ppl"}};

std::vector<NoisePoint> points_of(const LayerProbe& layer, Metric metric, const ProbeProtocol& protocol) {
  std::vector<NoisePoint> points;
  // What gradients say of a unit of t^2 holds for small errors: a perplexity's change is in proportion there.
  const bool small = protocol.levels.empty() && metric == Metric::Perplexity;
  for (const ProbeResult& each : layer.results) {
    const double change = small ? std::exp(protocol.cross_entropy) * each.cross_entropy
                                : change_of(metric, each.kl, each.cross_entropy, protocol.cross_entropy);
    points.push_back({each.t2, change});
  }
  return points;
}

}  // namespace

Metric metric_named(std::string_view name) {
  for (const auto& [metric, known] : metric_names)
    if (name == known) return metric;
  throw InvalidArgument("no metric is named \"" + std::string(name) + "\"; there are kl, nll and ppl");
}

std::string_view name_of(Metric metric) noexcept {
  for (const auto& [known, name] : metric_names)
    if (known == metric) return name;
  return "";
}

double change_of(Metric metric, double kl, double cross_entropy, double reference_cross_entropy) {
  if (metric == Metric::Kl) return kl;
  if (metric == Metric::CrossEntropy) return cross_entropy;
  return std::exp(reference_cross_entropy) * std::expm1(cross_entropy);
}

Sensitivity fit_layer(const LayerProbe& layer, Metric metric, const ProbeProtocol& protocol) {
  return fit_sensitivity(points_of(layer, metric, protocol));
}

std::uint64_t weights_fingerprint(const ModelSource& source) {
  std::map<std::string_view, const ModelTensor*> layers;
  for (const ModelTensor& tensor : source.tensors())
    if (is_block_linear(tensor.name) && tensor.is_matrix() && tensor.rows() > 0 && tensor.cols() > 0)
      layers.emplace(tensor.name, &tensor);
  std::uint64_t hash = 0;
  for (const auto& [name, tensor] : layers) {
    std::vector<float> row(static_cast<std::size_t>(tensor->cols()));
    tensor->read_rows(0, 1, row);
    hash = hash_text(name, hash);
    for (const float weight : row) hash = random_bits(hash, std::bit_cast<std::uint32_t>(weight));
  }
  return hash;
}

std::uint64_t fingerprint_of(std::span<const TokenId> tokens) noexcept {
  std::uint64_t hash = tokens.size();
  for (const TokenId token : tokens) hash = random_bits(hash, static_cast<std::uint64_t>(token));
  return hash;
}

std::string write_sensitivities(const SensitivityFile& file, Metric metric) {
  const ProbeProtocol& how = file.protocol;
  ordered_json layers = ordered_json::array();
  for (const LayerProbe& layer : file.layers) {
    const Sensitivity fit = fit_layer(layer, metric, how);
    ordered_json probes = ordered_json::array();
    for (const ProbeResult& each : layer.results)
      probes.push_back({{"t2", each.t2}, {"kl", each.kl}, {"nll", each.cross_entropy}});
    ordered_json one{{"name", layer.name}};
    if (layer.rows > 0) one["shape"] = {layer.rows, layer.cols};
    one["alpha"] = fit.alpha;
    if (std::isfinite(fit.low)) one["interval"] = {fit.low, fit.high};
    one["r2"] = fit.r_squared;
    one["residual"] = fit.residual;
    one["probes"] = std::move(probes);
    layers.push_back(std::move(one));
  }
  ordered_json out{{"format", format_name},
                   {"metric", name_of(metric)},
                   {"protocol",
                    {{"model", how.model},
                     {"text", how.text},
                     {"fingerprint", std::to_string(how.fingerprint)},
                     {"tokens", how.tokens},
                     {"window", how.window},
                     {"seed", std::to_string(how.seed)},
                     {"method", how.levels.empty() ? by_gradients : by_noise},
                     {"noise", how.calibrated     ? noise_calibrated
                               : how.input_scales ? noise_by_column
                                                  : noise_even},
                     {"levels", how.levels},
                     {"nll", how.cross_entropy}}},
                   {"layers", std::move(layers)}};
  if (how.input_scales && how.shared_scales) out["protocol"]["shared_scales"] = true;
  if (how.weights != 0) out["protocol"]["weights"] = std::to_string(how.weights);
  if (how.device != "cpu") {  // files without the two are of the CPU
    out["protocol"]["device"] = how.device;
    out["protocol"]["dtype"] = how.dtype;
  }
  return out.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

std::optional<std::pair<std::int64_t, std::int64_t>> read_shape(const Fields& fields) {
  const auto shape = fields.numbers("shape");
  if (!shape) return std::nullopt;
  const auto is_extent = [](double value) {
    return value >= 1 && value <= 0x1p48 && value == std::floor(value);
  };
  if (shape->size() != 2 || !is_extent((*shape)[0]) || !is_extent((*shape)[1]))
    fields.refuse("shape", "two whole numbers above 0");
  return std::pair(static_cast<std::int64_t>((*shape)[0]), static_cast<std::int64_t>((*shape)[1]));
}

namespace {

LayerProbe read_layer(const Fields& fields) {
  LayerProbe layer{fields.text("name"), {}};
  if (const auto shape = read_shape(fields)) std::tie(layer.rows, layer.cols) = *shape;
  for (const char* fitted : {"alpha", "r2", "residual"}) fields.number(fitted, 0.0);  // they are fitted anew
  fields.numbers("interval");
  const nlohmann::json* probes = fields.array("probes");
  if (!probes) fields.fail(fields.name("probes") + " is missing");
  double most = 0;
  for (std::size_t i = 0; i < probes->size(); ++i) {
    const Fields probe((*probes)[i], fields.source(), fields.name("probes[" + std::to_string(i) + "]"));
    layer.results.push_back({probe.number("t2"), probe.number("kl"), probe.number("nll")});
    if (layer.results.back().t2 < 0) probe.refuse("t2", "a number, not negative");
    most = std::max(most, layer.results.back().t2);
    probe.refuse_other_keys();
  }
  if (!(most > 0)) fields.fail("layer \"" + layer.name + "\" was not measured");
  fields.refuse_other_keys();
  return layer;
}

ProbeProtocol read_protocol(const Fields& fields) {
  const auto number = [&](const char* key, std::optional<std::string> fallback = {}) {
    return parse_decimal(fields.text(key, std::move(fallback)), fields.source() + ": " + fields.name(key));
  };
  constexpr std::int64_t most = std::int64_t{1} << 48;
  const std::string noise = fields.choice("noise", {noise_calibrated, noise_by_column, noise_even});
  ProbeProtocol out{.model = fields.text("model"),
                    .text = fields.text("text"),
                    .fingerprint = number("fingerprint"),
                    .tokens = fields.integer("tokens", 0, most),
                    .window = fields.integer("window", 0, most),
                    .input_scales = noise != noise_even,
                    .calibrated = noise == noise_calibrated,
                    .shared_scales = fields.flag("shared_scales", false) || noise == noise_even,
                    .seed = number("seed"),
                    .levels = fields.numbers("levels").value_or(std::vector<double>()),
                    .cross_entropy = fields.number("nll"),
                    .weights = number("weights", "0"),
                    .device = fields.text("device", "cpu"),
                    .dtype = fields.text("dtype", "float")};
  if (out.device == "cpu" ? out.dtype != "float" : out.dtype != "fp16" && out.dtype != "bf16")
    fields.refuse("dtype", "float on the cpu, fp16 or bf16 on a GPU");
  if (out.device != "cpu" && out.device != "cuda") fields.refuse("device", "cpu or cuda");
  const std::string_view method = out.levels.empty() ? by_gradients : by_noise;
  if (fields.text("method") != method)
    fields.refuse("method", "\"" + std::string(method) + "\", as \"levels\" says");
  fields.refuse_other_keys();
  return out;
}

}  // namespace

SensitivityFile read_sensitivities(std::string_view text, const std::string& source) {
  return parse_json(text, source, [&](const nlohmann::json& json) {
    const Fields fields(json, source);
    fields.choice("format", {format_name});
    metric_named(fields.choice("metric", {"kl", "nll", "ppl"}));
    const auto protocol = fields.object("protocol");
    const nlohmann::json* layers = fields.array("layers");
    if (!protocol || !layers) fields.fail(!protocol ? "protocol is missing" : "layers is missing");
    SensitivityFile out{read_protocol(*protocol), {}, source};
    std::set<std::string> names;
    for (std::size_t i = 0; i < layers->size(); ++i) {
      out.layers.push_back(read_layer(Fields((*layers)[i], source, "layers[" + std::to_string(i) + "]")));
      if (!names.insert(out.layers.back().name).second)
        fields.fail("layer \"" + out.layers.back().name + "\" is there twice");
    }
    fields.refuse_other_keys();
    return out;
  });
}

std::vector<std::string> probed_layers(const ModelConfig& config) {
  std::vector<std::string> out;
  for (BlockLinear& each : block_linears(config)) out.push_back(std::move(each.name));
  out.emplace_back(embedding_name);
  if (!config.tied_embeddings) out.emplace_back(output_name);
  return out;
}

std::vector<float> error_scales(const ColumnStatistics& columns, const std::string& name,
                                const ModelConfig& config, const ProbeProtocol& protocol,
                                const InputSquares& input_squares) {
  if (!protocol.input_scales || columns.rows() < min_rows_for_input_scales) return {};
  const bool lookup_only = name == embedding_name && !config.tied_embeddings;
  std::vector<double> squares;
  if (lookup_only) {
    squares.assign(static_cast<std::size_t>(columns.cols()), 1.0);
  } else if (protocol.calibrated) {
    const auto found = input_squares.find(name);
    expects(found != input_squares.end(),
            "higgs::model::error_scales: the inputs of a layer were not measured");
    squares = found->second;
  } else if (!is_block_linear(name)) {
    return {};
  }
  const std::vector<Half> scales = columns.input_scales(squares);
  return {scales.begin(), scales.end()};
}

SensitivityFile measure_model(const Transformer& model, std::vector<TokenId> tokens, ProbeProtocol protocol,
                              Metric metric, const std::filesystem::path& path,
                              const std::function<void(std::int64_t, std::int64_t)>& progress,
                              Executor& executor, const InputSquares& input_squares) {
  HostNetwork network(model, executor);
  return measure_model(network, std::move(tokens), std::move(protocol), metric, path, progress, executor,
                       input_squares);
}

SensitivityFile measure_model(Network& model, std::vector<TokenId> tokens, ProbeProtocol protocol,
                              Metric metric, const std::filesystem::path& path,
                              const std::function<void(std::int64_t, std::int64_t)>& progress,
                              Executor& executor, const InputSquares& input_squares) {
  NoiseProbe probe(model, std::move(tokens), protocol.window, executor);
  protocol.fingerprint = fingerprint_of(probe.tokens());
  protocol.tokens = static_cast<std::int64_t>(probe.tokens().size());
  protocol.cross_entropy = probe.cross_entropy();
  SensitivityFile file{protocol, {}};
  if (std::filesystem::exists(path)) {
    file = read_sensitivities(read_text(path), path.string());
    file.protocol.cross_entropy = protocol.cross_entropy;  // its last bits may differ on another machine
    if (file.protocol.device != protocol.device || file.protocol.dtype != protocol.dtype)
      throw InvalidArgument(path.string() + ": was measured with --device " + file.protocol.device + " in " +
                            file.protocol.dtype + ", and this measurement is with --device " +
                            protocol.device + " in " + protocol.dtype + "; choose another file");
    if (!file.protocol.shared_scales && protocol.shared_scales)
      throw InvalidArgument(path.string() +
                            ": was measured where gate and up had input scales of their own, "
                            "which quantize no longer gives them; choose another file");
    if (file.protocol != protocol)
      throw InvalidArgument(path.string() + ": holds another measurement; choose another file");
  }

  std::vector<ProbedLayer> layers;
  for (std::string& name : probed_layers(model.config())) layers.push_back({std::move(name)});
  if (file.layers.size() > layers.size())
    throw FormatError(path.string() + ": has more layers than the model");
  for (std::size_t i = 0; i < file.layers.size(); ++i) {
    if (file.layers[i].name != layers[i].name)
      throw FormatError(path.string() + ": layer \"" + file.layers[i].name +
                        "\" is not where the model has it");
    layers[i].points = points_of(file.layers[i], metric, protocol);
  }
  measure_sensitivities(
      layers, protocol.levels,
      [&](std::size_t i, std::span<const double> levels) {
        if (progress) progress(static_cast<std::int64_t>(i), static_cast<std::int64_t>(layers.size()));
        const auto dense = [&](std::string_view name) {
          return model.dense(name, "higgs::model::measure_model");
        };
        const std::string& name = layers[i].name;
        const SharedMatrix weight = dense(name);
        const std::uint64_t seed = random_bits(protocol.seed, i);
        const std::vector<float> scales =
            error_scales(shared_columns(model.config(), name, Sharing::Alike, dense, executor), name,
                         model.config(), protocol, input_squares);
        LayerProbe layer{name, {}, weight->rows, weight->cols};
        layer.results = probe.measure(layer.name, levels, seed, scales);
        file.layers.push_back(std::move(layer));
        return points_of(file.layers.back(), metric, protocol);
      },
      [&](std::size_t) { write_text(path, write_sensitivities(file, metric)); });
  return file;
}

}  // namespace higgs::model
