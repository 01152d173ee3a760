// SPDX-License-Identifier: Apache-2.0
// higgs-model inspect: what a model is made of, and how it would be or was quantized.
#include "cli/commands.hpp"
#include "quantize/outline.hpp"
#include "quantize/sizes.hpp"
#include "source/source.hpp"
#include "terminal/natural_order.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <exception>
#include <iomanip>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string_view>

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

struct Line {
  std::string name, text;
};

// "NAME  BF16  576 x 1536", padded so that what follows stands in a column.
std::string columns(const std::string& name, const std::string& dtype,
                    const std::vector<std::int64_t>& shape) {
  std::ostringstream out;
  out << std::left << std::setw(48) << name << " " << std::setw(6) << dtype << " " << std::setw(16)
      << shape_text(shape);
  return out.str();
}

// The tensors that are stored as they are, and what quantization would make of them.
void describe_tensors(const ModelSource& source, const Outline& outline, ordered_json& results,
                      std::vector<Line>& lines) {
  std::map<std::string_view, const Outline::Matrix*> chosen;
  for (const Outline::Matrix& matrix : outline.matrices) chosen.emplace(matrix.tensor->name, &matrix);
  results["tensors"] = ordered_json::array();
  for (const ModelTensor& tensor : source.tensors()) {
    ordered_json each{
        {"name", tensor.name}, {"dtype", tensor.stored->dtype}, {"shape", tensor.stored->shape}};
    std::string text = columns(tensor.name, tensor.stored->dtype, tensor.stored->shape);
    if (const auto found = chosen.find(tensor.name); found != chosen.end()) {
      const CodeLayout& layout = found->second->layout;
      each["block"] = layout.block;
      text += " quantize: block " + std::to_string(layout.block);
      if (layout.padded_cols() != layout.cols) text += ", padded to " + std::to_string(layout.padded_cols());
    } else if (!tensor.stored->readable()) {
      text += " cannot be decoded";
    }
    lines.push_back({tensor.name, std::move(text)});
    results["tensors"].push_back(std::move(each));
  }
}

void describe_layers(const Checkpoint& checkpoint, ordered_json& results, std::vector<Line>& lines) {
  results["layers"] = ordered_json::array();
  for (const CheckpointLayer& layer : checkpoint.layers()) {
    const double bits = bits_of(checkpoint, layer);
    results["layers"].push_back({{"name", layer.name},
                                 {"codebook", layer.codebook},
                                 {"rows", layer.layout.rows},
                                 {"cols", layer.layout.cols},
                                 {"block", layer.layout.block},
                                 {"group", layer.layout.group},
                                 {"bits", bits},
                                 {"t2", number_or_null(layer.t2)},
                                 {"weight_error", number_or_null(layer.weight_error)},
                                 {"expected_t2", layer.mse}});
    std::ostringstream text;
    text << columns(layer.name, layer.codebook, {layer.layout.rows, layer.layout.cols}) << " block "
         << layer.layout.block << ", group " << layer.layout.group << ", " << std::setprecision(4) << bits
         << " bits, t2 " << layer.t2 << " (expected " << layer.mse << ")";
    lines.push_back({layer.name, text.str()});
  }
}

void inspect(const InspectOptions& options) {
  const ModelSource source(options.model);
  const Checkpoint* checkpoint = source.checkpoint();
  ordered_json results{{"model", options.model}, {"format", checkpoint ? "higgs" : "plain"}};
  std::ostringstream out;
  if (source.config()) {
    results["config"] = describe(*source.config());
    out << "config:";
    for (const auto& [key, value] : results["config"].items()) out << " " << key << " " << value;
    out << "\n";
  }
  Outline outline;
  std::string refusal;  // why the model cannot be quantized
  try {
    if (!checkpoint) outline = outline_of(source, {.calibrated = true});
  } catch (const std::exception& error) {
    refusal = error.what();
  }
  std::vector<Line> lines;
  describe_tensors(source, outline, results, lines);
  if (checkpoint) describe_layers(*checkpoint, results, lines);
  std::stable_sort(lines.begin(), lines.end(),
                   [](const Line& a, const Line& b) { return natural_less(a.name, b.name); });
  for (const Line& line : lines) out << line.text.substr(0, line.text.find_last_not_of(' ') + 1) << "\n";

  const Sizes sizes = sizes_of(source);
  results["sizes"] = to_json(sizes);
  out << "total: " << sizes.total() << "\n";
  for (const std::string& line : sizes.lines()) out << "  " << line << "\n";
  if (!refusal.empty()) {
    results["cannot_be_quantized"] = refusal;
    if (source.problem().empty()) tell("this model cannot be quantized: " + refusal);
  } else if (!checkpoint) {
    const Sizes after = sizes_of(source, outline);
    results["quantized_sizes"] = to_json(after);
    results["unused"] = outline.unused;
    results["notes"] = outline.notes;
    out << "quantized without options: " << after.total() << "\n";
    for (const std::string& line : after.lines()) out << "  " << line << "\n";
    for (const std::string& note : outline.notes) tell(note);
  }
  if (options.json != "-") std::cout << out.str() << std::flush;
  options.write(results);
  if (source.problem().empty()) return;
  if (source.config()) throw FormatError(source.problem());
  std::cerr << "higgs-model: " << source.problem() << "\n";  // another architecture: the list is all there is
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* command = app.add_subcommand("inspect", "Shows what a model is made of");
  add_model_option(*command, *options, options->model, "GGUF file, safetensors file or folder");
  options->add_to(*command);
  command->callback([options] { inspect(*options); });
}

}  // namespace higgs::model
