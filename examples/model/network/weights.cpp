// SPDX-License-Identifier: Apache-2.0
#include "network/weights.hpp"

#include "network/math.hpp"

#include <higgs/core/error.hpp>
#include <higgs/matmul/decode.hpp>
#include <higgs/matmul/matmul.hpp>

#include <algorithm>
#include <array>
#include <set>

namespace higgs::model {
namespace {

constexpr std::array<std::string_view, 7> part_names{
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

using Shape = std::vector<std::int64_t>;

std::string block_prefix(std::int64_t block) { return "model.layers." + std::to_string(block) + "."; }
std::string part_prefix(std::int64_t block, Part part) {
  return block_prefix(block) + std::string(part_names[static_cast<std::size_t>(part)]);
}

// The one description of what a decoder is made of: visit(name, shape, place) is called for each tensor, in the order
// of the data. `place` is where it belongs: a vector of floats, a Linear's weight or an Embedding's.
template <class Visit>
void visit_block(const ModelConfig& config, std::int64_t index, Block& block, Visit&& visit) {
  const std::int64_t width = config.width, q = config.query_width(), kv = config.kv_width(),
                     ffn = config.ffn_width;
  const std::string prefix = block_prefix(index);
  const auto linear = [&](Part part, std::int64_t rows, std::int64_t cols, bool bias) {
    visit(weight_name(index, part), Shape{rows, cols}, block[part].weight);
    if (bias) visit(part_prefix(index, part) + ".bias", Shape{rows}, block[part].bias);
  };
  visit(prefix + "input_layernorm.weight", Shape{width}, block.attention_norm);
  if (config.head_norms()) {
    visit(prefix + "self_attn.q_norm.weight", Shape{config.head_width}, block.q_norm);
    visit(prefix + "self_attn.k_norm.weight", Shape{config.head_width}, block.k_norm);
  }
  linear(Part::Q, q, width, config.attention_bias);
  linear(Part::K, kv, width, config.attention_bias);
  linear(Part::V, kv, width, config.attention_bias);
  linear(Part::O, width, q, config.o_bias());
  visit(prefix + "post_attention_layernorm.weight", Shape{width}, block.ffn_norm);
  linear(Part::Gate, ffn, width, config.mlp_bias);
  linear(Part::Up, ffn, width, config.mlp_bias);
  linear(Part::Down, width, ffn, config.mlp_bias);
}
template <class Visit>
void visit_norm(const ModelConfig& config, std::vector<float>& norm, Visit&& visit) {
  visit("model.norm.weight", Shape{config.width}, norm);
}
template <class Visit>
void visit_model(const ModelConfig& config, Weights& weights, Visit&& visit) {
  visit(std::string(embedding_name), Shape{config.vocabulary, config.width}, weights.embedding.weight);
  weights.blocks.resize(static_cast<std::size_t>(config.layers));
  for (std::int64_t i = 0; i < config.layers; ++i)
    visit_block(config, i, weights.blocks[static_cast<std::size_t>(i)], visit);
  visit_norm(config, weights.norm, visit);
  if (!config.tied_embeddings)
    visit(std::string(output_name), Shape{config.vocabulary, config.width}, weights.output.weight);
}

std::string shape_text(const Shape& shape) {
  std::string out;
  for (const std::int64_t extent : shape) out += (out.empty() ? "" : " x ") + std::to_string(extent);
  return out.empty() ? "a scalar" : out;
}

const CheckpointLayer* layer_of(const ModelSource& source, std::string_view name) {
  return source.checkpoint() ? source.checkpoint()->find_layer(name) : nullptr;
}

// What is wrong with one tensor; empty if nothing is.
std::string problem_with(const ModelSource& source, const NeededTensor& needed) {
  const auto say = [&](const std::filesystem::path& file, const std::string& what) {
    return file.string() + ": tensor \"" + source.stored_name(needed.name) + "\" " + what;
  };
  const auto wrong_shape = [&](const Shape& shape) {
    return "is " + shape_text(shape) + " where the configuration asks for " + shape_text(needed.shape);
  };
  if (const CheckpointLayer* layer = layer_of(source, needed.name)) {
    const Shape shape{layer->layout.rows, layer->layout.cols};
    if (shape != needed.shape) return say(source.path(), wrong_shape(shape));
    return layer->shipped
               ? ""
               : say(source.path(), "has the codebook \"" + layer->codebook + "\", which is unknown");
  }
  const ModelTensor* tensor = source.find(needed.name);
  if (!tensor) return say(source.path(), "is missing");
  const std::filesystem::path& file = tensor->stored->owner->path();
  if (tensor->stored->shape != needed.shape) return say(file, wrong_shape(tensor->stored->shape));
  try {
    tensor->stored->require_readable();
    if (needed.shape.size() == 2) return "";
    std::vector<float> values(static_cast<std::size_t>(tensor->cols()));
    read_finite_rows(*tensor, 0, 1, values);
  } catch (const FormatError& error) {
    return error.what();
  }
  return "";
}

// Reads the tensors that visit_block() and its like describe.
class Loader {
 public:
  Loader(const ModelSource& source, Executor& executor) : source_(source), executor_(executor) {}

  void operator()(const std::string& name, const Shape&, std::vector<float>& place) const {
    place = *read(name).values;
  }
  void operator()(const std::string& name, const Shape&,
                  std::variant<DenseMatrix, PackedMatrix>& place) const {
    if (layer_of(source_, name))
      place = PackedMatrix(source_.checkpoint()->load(name), executor_);
    else
      place = read(name);
  }
  void operator()(const std::string& name, const Shape&,
                  std::variant<DenseMatrix, AnyQuantizedMatrix>& place) const {
    if (layer_of(source_, name))
      place = source_.checkpoint()->load(name);
    else
      place = read(name);
  }

 private:
  DenseMatrix read(const std::string& name) const {
    const ModelTensor& tensor = *source_.find(name);  // is there, or the source would have a problem
    const std::int64_t cols = tensor.cols();
    std::vector<float> values(static_cast<std::size_t>(tensor.rows() * cols));
    parallel_for(executor_, tensor.rows(), 64, [&](std::int64_t begin, std::int64_t end) {
      read_finite_rows(tensor, begin, end - begin,
                       {values.data() + begin * cols, static_cast<std::size_t>((end - begin) * cols)});
    });
    return {tensor.rows(), cols, std::move(values)};
  }

  const ModelSource& source_;
  Executor& executor_;
};

// The output layer of a model whose embedding is that too.
std::variant<DenseMatrix, PackedMatrix> output_of(const Embedding& embedding, Executor& executor) {
  if (const auto* dense = std::get_if<DenseMatrix>(&embedding.weight)) return *dense;
  return PackedMatrix(std::get<AnyQuantizedMatrix>(embedding.weight), executor);
}

}  // namespace

std::int64_t Linear::rows() const noexcept {
  if (const auto* dense = std::get_if<DenseMatrix>(&weight)) return dense->rows;
  return std::get<PackedMatrix>(weight).rows();
}

std::int64_t Linear::cols() const noexcept {
  if (const auto* dense = std::get_if<DenseMatrix>(&weight)) return dense->cols;
  return std::get<PackedMatrix>(weight).cols();
}

void Linear::apply(MatrixView<const float> x, MatrixView<float> y, Executor& executor) const {
  if (const auto* quantized = std::get_if<PackedMatrix>(&weight)) {
    matmul(x, *quantized, y, bias, executor);
    return;
  }
  matmul(x, std::get<DenseMatrix>(weight).view(), y, executor);
  if (bias.empty()) return;
  for (std::int64_t r = 0; r < y.rows; ++r)
    for (std::int64_t c = 0; c < y.cols; ++c) y(r, c) += bias[static_cast<std::size_t>(c)];
}

std::int64_t Embedding::rows() const noexcept {
  if (const auto* dense = std::get_if<DenseMatrix>(&weight)) return dense->rows;
  return std::get<AnyQuantizedMatrix>(weight).rows();
}

std::int64_t Embedding::cols() const noexcept {
  if (const auto* dense = std::get_if<DenseMatrix>(&weight)) return dense->cols;
  return std::get<AnyQuantizedMatrix>(weight).cols();
}

void Embedding::read_row(std::int64_t row, float* out) const {
  if (const auto* dense = std::get_if<DenseMatrix>(&weight)) {
    std::copy_n(dense->view().row(row), dense->cols, out);
    return;
  }
  std::visit(
      [&](auto one) {  // becomes the matrix of that row alone
        one.codes = one.row_codes(row);
        one.scales = one.row_scales(row);
        one.layout.rows = 1;
        SerialExecutor here;
        dequantize(one, {out, 1, one.cols()}, here);
      },
      std::get<AnyQuantizedMatrix>(weight));
}

std::string weight_name(std::int64_t block, Part part) { return part_prefix(block, part) + ".weight"; }

bool is_block_linear(std::string_view name) noexcept {
  return name.starts_with("model.layers.") &&
         std::any_of(part_names.begin(), part_names.end(), [&](std::string_view part) {
           return name.ends_with(".weight") && name.substr(0, name.size() - 7).ends_with(part);
         });
}

std::vector<NeededTensor> needed_tensors(const ModelConfig& config) {
  std::vector<NeededTensor> out;
  Weights nowhere;
  visit_model(config, nowhere, [&](std::string name, Shape shape, const auto&) {
    out.push_back({std::move(name), std::move(shape)});
  });
  return out;
}

std::string problem_of(const ModelSource& source, const ModelConfig& config) {
  const std::vector<NeededTensor> all = needed_tensors(config);
  std::string first;
  std::size_t count = 0;
  for (const NeededTensor& needed : all) {
    const std::string problem = problem_with(source, needed);
    if (problem.empty()) continue;
    if (first.empty()) first = problem;
    ++count;
  }
  if (count <= 1) return first;
  return first + "; in all, " + std::to_string(count) + " of the " + std::to_string(all.size()) +
         " tensors of the model are missing or wrong";
}

std::vector<std::string> unused_tensors(const ModelSource& source) {
  if (!source.config()) return {};
  std::set<std::string, std::less<>> used;
  for (NeededTensor& needed : needed_tensors(*source.config())) used.insert(std::move(needed.name));
  if (source.config()->tied_embeddings) used.insert(std::string(output_name));  // equals the embedding
  std::vector<std::string> out;
  for (const ModelTensor& tensor : source.tensors()) {
    const bool repeats_config = tensor.name.ends_with(".rotary_emb.inv_freq");  // in Llama 2 and older
    if (!used.contains(tensor.name) && !repeats_config) out.push_back(tensor.stored->name);
  }
  if (source.checkpoint())
    for (const CheckpointLayer& layer : source.checkpoint()->layers())
      if (!used.contains(layer.name)) out.push_back(layer.name);
  return out;
}

void read_finite_rows(const ModelTensor& tensor, std::int64_t first, std::int64_t count,
                      std::span<float> out) {
  tensor.read_rows(first, count, out);
  const std::int64_t at = find_not_finite(out.data(), std::ssize(out));
  if (at < 0) return;
  const SourceTensor& stored = *tensor.stored;
  const std::int64_t cols = tensor.cols();
  throw FormatError(stored.owner->path().string() + ": tensor \"" + stored.name + "\" holds " +
                    std::to_string(out[static_cast<std::size_t>(at)]) + " in row " +
                    std::to_string(first + at / cols) + ", column " + std::to_string(at % cols));
}

Block load_block(const ModelSource& source, std::int64_t index, Executor& executor) {
  Block block;
  visit_block(source.require_config(), index, block, Loader(source, executor));
  return block;
}

std::vector<float> load_norm(const ModelSource& source, Executor& executor) {
  std::vector<float> norm;
  visit_norm(source.require_config(), norm, Loader(source, executor));
  return norm;
}

Weights load_weights(const ModelSource& source, Executor& executor) {
  const ModelConfig& config = source.require_config();
  Weights out;
  visit_model(config, out, Loader(source, executor));
  if (config.tied_embeddings) out.output.weight = output_of(out.embedding, executor);
  return out;
}

}  // namespace higgs::model
