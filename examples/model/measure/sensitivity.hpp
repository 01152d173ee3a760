// SPDX-License-Identifier: Apache-2.0
// The sensitivities of a model's layers as a JSON file, with the protocol of their measurement inside.
#pragma once

#include "json/fields.hpp"
#include "measure/calibrate.hpp"
#include "measure/probe.hpp"
#include "source/source.hpp"

#include <higgs/allocate/sensitivity.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace higgs::model {

/// How sensitivities were measured.
struct ProbeProtocol {
  std::string model{};            // file name of the model
  std::string text{};             // file name of the text, or "random tokens"
  std::uint64_t fingerprint = 0;  // hash of the tokens
  std::int64_t tokens = 0;        // in whole windows
  std::int64_t window = 0;
  bool input_scales = true;   // noise spreads as the error of a quantizer with input scales,
  bool calibrated = false;    // whose inputs were measured
  bool shared_scales = true;  // whether gate and up had scales of both together; not in files of old versions
  std::uint64_t seed = 0;     // seed of the noise
  std::vector<double> levels{};  // t^2 of the noise; none: from gradients
  double cross_entropy = 0;      // cross entropy of the model on the text, in nats a token
  std::uint64_t weights = 0;     // weights_fingerprint() of the model; 0: unknown
  std::string device = "cpu";    // what ran the model: "cpu" or "cuda",
  std::string dtype = "float";   // and its type of activations: "float", "fp16" or "bf16"

  bool random() const { return text == "random tokens"; }
  friend bool operator==(const ProbeProtocol&, const ProbeProtocol&) = default;
};

/// A layer and what noise in it did.
struct LayerProbe {
  std::string name;  // name of the weight
  std::vector<ProbeResult> results;
  std::int64_t rows = 0, cols = 0;  // shape of the weight; 0: unknown
};

struct SensitivityFile {
  ProbeProtocol protocol;
  std::vector<LayerProbe> layers;
  std::string path{};  // where it was read from
};

/// What a layer's sensitivity is counted in: KL, cross entropy (the logarithm of the perplexity), perplexity.
enum class Metric { Kl, CrossEntropy, Perplexity };
/// "kl", "nll" or "ppl"; throws InvalidArgument for other names.
Metric metric_named(std::string_view name);
std::string_view name_of(Metric metric) noexcept;

/// The change of the metric, from that of KL and cross entropy.
double change_of(Metric metric, double kl, double cross_entropy, double reference_cross_entropy);

/// The fit of one layer.
Sensitivity fit_layer(const LayerProbe& layer, Metric metric, const ProbeProtocol& protocol);

/// A hash of the first row of each linear layer, to tell models of one shape apart. Throws FormatError for weights that
/// cannot be read.
std::uint64_t weights_fingerprint(const ModelSource& source);
/// A hash of tokens, to tell texts apart.
std::uint64_t fingerprint_of(std::span<const TokenId> tokens) noexcept;

/// For each layer its probes, and alpha with its interval, R^2 and residual as fitted to `metric`.
std::string write_sensitivities(const SensitivityFile& file, Metric metric);
/// Throws FormatError, which names `source`, for anything else than such a file.
SensitivityFile read_sensitivities(std::string_view text, const std::string& source);

/// "shape": [rows, cols] of a layer in such files and in plans; none if it is absent.
std::optional<std::pair<std::int64_t, std::int64_t>> read_shape(const Fields& fields);

/// What sensitivities are measured of, in their order: the linear layers of the blocks, the embedding, and the output
/// layer where it is a matrix of its own.
std::vector<std::string> probed_layers(const ModelConfig& config);

/// How the error of a quantizer spreads over the columns of layer `name`: even once they are divided by these input scales
/// (cols). Empty: even as they are. `columns` are the layer's shared_columns() under Sharing::Alike. `input_squares`
/// are asked where the protocol is calibrated; throws InvalidArgument if they lack the layer.
std::vector<float> error_scales(const ColumnStatistics& columns, const std::string& name,
                                const ModelConfig& config, const ProbeProtocol& protocol,
                                const InputSquares& input_squares);

/// Measures probed_layers() one after the other, and writes the file after each of them; goes on with what is in it.
/// Throws InvalidArgument if that was measured in another way; it names both devices if they differ. `progress` is called with layers done and to do.
SensitivityFile measure_model(Network& model, std::vector<TokenId> tokens, ProbeProtocol protocol,
                              Metric metric, const std::filesystem::path& path,
                              const std::function<void(std::int64_t done, std::int64_t total)>& progress,
                              Executor& executor = default_executor(),
                              const InputSquares& input_squares = {});
/// The same for a model on the CPU.
SensitivityFile measure_model(const Transformer& model, std::vector<TokenId> tokens, ProbeProtocol protocol,
                              Metric metric, const std::filesystem::path& path,
                              const std::function<void(std::int64_t done, std::int64_t total)>& progress,
                              Executor& executor = default_executor(),
                              const InputSquares& input_squares = {});

}  // namespace higgs::model
