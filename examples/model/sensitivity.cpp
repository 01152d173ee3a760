// SPDX-License-Identifier: Apache-2.0
#include "sensitivity.hpp"

#include "parse_json.hpp"
#include "source.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/random.hpp>
#include <higgs/quantizer.hpp>

#include <nlohmann/json.hpp>

#include <cmath>
#include <utility>

namespace higgs::model {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view format_name = "higgs sensitivities 1";
// Where a quantizer has input scales, its error spreads over columns as their norms do.
constexpr std::string_view noise_even = "Gaussian, even", noise_by_column = "Gaussian, by column";
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
    ordered_json one{{"name", layer.name}, {"alpha", fit.alpha}};
    if (std::isfinite(fit.low)) one["interval"] = {fit.low, fit.high};
    one["r2"] = fit.r_squared;
    one["residual"] = fit.residual;
    one["probes"] = std::move(probes);
    layers.push_back(std::move(one));
  }
  const ordered_json out{{"format", format_name},
                         {"metric", name_of(metric)},
                         {"protocol",
                          {{"model", how.model},
                           {"text", how.text},
                           {"fingerprint", std::to_string(how.fingerprint)},
                           {"tokens", how.tokens},
                           {"window", how.window},
                           {"seed", std::to_string(how.seed)},
                           {"method", how.levels.empty() ? "gradients" : "noise in one layer at a time"},
                           {"noise", how.input_scales ? noise_by_column : noise_even},
                           {"levels", how.levels},
                           {"nll", how.cross_entropy}}},
                         {"layers", std::move(layers)}};
  return out.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

SensitivityFile read_sensitivities(std::string_view text, const std::string& source) {
  return parse_json(text, source, [&](const nlohmann::json& json) {
    if (json.at("format") != format_name)
      throw FormatError(source + ": is no file of sensitivities of version 1");
    const nlohmann::json& how = json.at("protocol");
    const auto number = [&](const nlohmann::json& digits) {
      return parse_decimal(digits.get<std::string>(), source);
    };
    const auto finite = [&](const nlohmann::json& value) {
      const double real = value.get<double>();
      if (!std::isfinite(real)) throw FormatError(source + ": holds a number that is not finite");
      return real;
    };
    SensitivityFile out;
    out.protocol = {how.at("model"),
                    how.at("text"),
                    number(how.at("fingerprint")),
                    how.at("tokens"),
                    how.at("window"),
                    how.at("noise") == noise_by_column,
                    number(how.at("seed")),
                    {},
                    finite(how.at("nll"))};
    for (const nlohmann::json& level : how.at("levels")) out.protocol.levels.push_back(finite(level));
    for (const nlohmann::json& each : json.at("layers")) {
      LayerProbe layer{each.at("name"), {}};
      double most = 0;
      for (const nlohmann::json& probe : each.at("probes")) {
        layer.results.push_back({finite(probe.at("t2")), finite(probe.at("kl")), finite(probe.at("nll"))});
        const double t2 = layer.results.back().t2;
        if (t2 < 0) throw FormatError(source + ": a t2 is negative");
        most = std::max(most, t2);
      }
      if (!(most > 0)) throw FormatError(source + ": layer \"" + layer.name + "\" was not measured");
      out.layers.push_back(std::move(layer));
    }
    return out;
  });
}

SensitivityFile measure_model(const Transformer& model, std::vector<TokenId> tokens, ProbeProtocol protocol,
                              Metric metric, const std::filesystem::path& path,
                              const std::function<void(std::int64_t, std::int64_t)>& progress,
                              Executor& executor) {
  NoiseProbe probe(model, std::move(tokens), protocol.window, executor);
  protocol.fingerprint = fingerprint_of(probe.tokens());
  protocol.tokens = static_cast<std::int64_t>(probe.tokens().size());
  protocol.cross_entropy = probe.cross_entropy();
  SensitivityFile file{protocol, {}};
  if (std::filesystem::exists(path)) {
    file = read_sensitivities(read_text(path), path.string());
    file.protocol.cross_entropy = protocol.cross_entropy;  // its last bits may differ on another machine
    if (file.protocol != protocol)
      throw InvalidArgument(path.string() + ": holds another measurement; choose another file");
  }

  std::vector<ProbedLayer> layers;
  for (std::size_t block = 0; block < model.weights.blocks.size(); ++block)
    for (const Part part : all_parts) layers.push_back({weight_name(static_cast<std::int64_t>(block), part)});
  if (file.layers.size() > layers.size())
    throw FormatError(path.string() + ": has more layers than the model");
  for (std::size_t i = 0; i < file.layers.size(); ++i) {
    if (file.layers[i].name != layers[i].name)
      throw FormatError(path.string() + ": layer \"" + file.layers[i].name +
                        "\" is not where the model has it");
    layers[i].points = points_of(file.layers[i], metric, protocol);
  }
  const std::size_t parts = std::size(all_parts);
  measure_sensitivities(
      layers, protocol.levels,
      [&](std::size_t i, std::span<const double> levels) {
        if (progress) progress(static_cast<std::int64_t>(i), static_cast<std::int64_t>(layers.size()));
        const Linear& linear = model.weights.blocks[i / parts][all_parts[i % parts]];
        const bool by_column = protocol.input_scales && linear.rows() >= min_rows_for_input_scales;
        file.layers.push_back(
            {layers[i].name, probe.measure(i / parts, all_parts[i % parts], levels,
                                           by_column ? NoiseShape::ByColumn : NoiseShape::Even,
                                           random_bits(protocol.seed, i))});
        return points_of(file.layers.back(), metric, protocol);
      },
      [&](std::size_t) { write_text(path, write_sensitivities(file, metric)); });
  return file;
}

}  // namespace higgs::model
