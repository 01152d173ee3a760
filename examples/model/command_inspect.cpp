// SPDX-License-Identifier: Apache-2.0
// higgs-model inspect: what a model is made of, and how it would be or was quantized.
#include "commands.hpp"
#include "quantize.hpp"
#include "source.hpp"
#include "weights.hpp"

#include <higgs/core/error.hpp>
#include <higgs/matmul/decode.hpp>
#include <higgs/rotate/hadamard.hpp>

#include <iomanip>
#include <iostream>
#include <memory>
#include <ostream>
#include <sstream>

namespace higgs::model {
namespace {

using nlohmann::ordered_json;

struct InspectOptions : CommonOptions {
  std::string model;
};

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string out;
  for (const std::int64_t extent : shape) out += (out.empty() ? "" : " x ") + std::to_string(extent);
  return out.empty() ? "scalar" : out;
}

ordered_json describe(const ModelConfig& config) {
  return {{"layers", config.layers},         {"width", config.width},
          {"ffn_width", config.ffn_width},   {"heads", config.heads},
          {"kv_heads", config.kv_heads},     {"head_width", config.head_width},
          {"vocabulary", config.vocabulary}, {"context", config.context},
          {"rope_theta", config.rope_theta}, {"tied_embeddings", config.tied_embeddings}};
}

void inspect(const InspectOptions& options) {
  const ModelSource source(options.model);
  std::ostream& out = options.text();
  ordered_json results{{"model", options.model}, {"format", source.checkpoint() ? "higgs" : "plain"}};
  if (source.config()) {
    results["config"] = describe(*source.config());
    out << "config:";
    for (const auto& [key, value] : results["config"].items()) out << " " << key << " " << value;
    out << "\n";
  }

  std::vector<std::string> chosen;
  if (!source.checkpoint())
    for (const ModelTensor* tensor : quantizable(source)) chosen.push_back(tensor->name);
  std::int64_t weights = 0, quantized = 0;
  results["tensors"] = ordered_json::array();
  for (const ModelTensor& tensor : source.tensors()) {
    ordered_json each{
        {"name", tensor.name}, {"dtype", tensor.stored->dtype}, {"shape", tensor.stored->shape}};
    const std::int64_t count = tensor.rows() * tensor.cols();
    weights += count;
    out << std::left << std::setw(48) << tensor.name << " " << std::setw(6) << tensor.stored->dtype << " "
        << std::setw(16) << shape_text(tensor.stored->shape);
    if (std::find(chosen.begin(), chosen.end(), tensor.name) != chosen.end()) {
      const std::int64_t block = choose_block(tensor.cols());
      each["block"] = block;
      quantized += count;
      out << " quantize: block " << block;
      if (tensor.cols() % block != 0) out << ", padded to " << (tensor.cols() + block - 1) / block * block;
    }
    out << "\n";
    results["tensors"].push_back(std::move(each));
  }
  if (const Checkpoint* checkpoint = source.checkpoint()) {
    results["layers"] = ordered_json::array();
    for (const CheckpointLayer& layer : checkpoint->layers()) {
      const std::int64_t count = layer.layout.rows * layer.layout.cols;
      weights += count;
      quantized += count;
      const double bits = std::visit([](const auto& matrix) { return matrix.bits_per_weight(); },
                                     checkpoint->load(layer.name));
      results["layers"].push_back({{"name", layer.name},
                                   {"codebook", layer.codebook},
                                   {"rows", layer.layout.rows},
                                   {"cols", layer.layout.cols},
                                   {"block", layer.layout.block},
                                   {"group", layer.layout.group},
                                   {"bits", bits},
                                   {"t2", layer.t2},
                                   {"expected_t2", layer.mse}});
      out << std::left << std::setw(48) << layer.name << " " << std::setw(6) << layer.codebook << " "
          << std::setw(16) << shape_text({layer.layout.rows, layer.layout.cols}) << " block "
          << layer.layout.block << ", group " << layer.layout.group << ", " << std::setprecision(4) << bits
          << " bits, t2 " << layer.t2 << " (expected " << layer.mse << ")\n";
    }
  }
  results["weights"] = weights;
  results[source.checkpoint() ? "quantized_weights" : "quantizable_weights"] = quantized;
  out << with_unit(static_cast<double>(weights), "weights") << ", of which "
      << with_unit(static_cast<double>(quantized), source.checkpoint() ? "are quantized" : "can be quantized")
      << "\n";
  options.write(results);
  if (source.problem().empty()) return;
  if (source.config()) throw FormatError(source.problem());
  std::cerr << "higgs-model: " << source.problem() << "\n";  // another architecture: the list is all there is
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* command = app.add_subcommand("inspect", "Shows what a model is made of");
  command->add_option("model", options->model, "GGUF file, safetensors file or folder")
      ->required()
      ->type_name("MODEL");
  options->add_to(*command);
  command->callback([options] { inspect(*options); });
}

}  // namespace higgs::model
