// SPDX-License-Identifier: Apache-2.0
#include "weights.hpp"

#include <higgs/core/error.hpp>
#include <higgs/matmul/matmul.hpp>

#include <algorithm>
#include <array>

namespace higgs::model {
namespace {

constexpr std::array<std::string_view, 7> part_names{
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

std::string block_prefix(std::int64_t block) { return "model.layers." + std::to_string(block) + "."; }
std::string part_prefix(std::int64_t block, Part part) {
  return block_prefix(block) + std::string(part_names[static_cast<std::size_t>(part)]);
}

// Reads tensors of the shapes that the configuration asks for.
class Loader {
 public:
  Loader(const ModelSource& source, Executor& executor) : source_(source), executor_(executor) {}

  DenseMatrix matrix(const std::string& name, std::int64_t rows, std::int64_t cols) const {
    const ModelTensor& tensor = find(name);
    if (!tensor.is_matrix() || tensor.rows() != rows || tensor.cols() != cols)
      refuse_shape(tensor, {rows, cols});
    return read(tensor);
  }
  std::vector<float> vector(const std::string& name, std::int64_t size) const {
    const ModelTensor& tensor = find(name);
    if (tensor.stored->shape.size() != 1 || tensor.cols() != size) refuse_shape(tensor, {size});
    return *read(tensor).values;
  }
  enum class Bias { Required, IfThere };
  Linear linear(const std::string& prefix, std::int64_t rows, std::int64_t cols, Bias bias) const {
    Linear out;
    const std::string weight = prefix + ".weight";
    if (const Checkpoint* checkpoint = source_.checkpoint(); checkpoint && checkpoint->find_layer(weight)) {
      out.weight = TiledMatrix(checkpoint->load(weight), executor_);
      if (out.rows() != rows || out.cols() != cols)
        refuse("layer \"" + weight + "\": has not the shape that the configuration asks for");
    } else {
      out.weight = matrix(weight, rows, cols);
    }
    if (bias == Bias::Required || source_.find(prefix + ".bias")) out.bias = vector(prefix + ".bias", rows);
    return out;
  }
  [[noreturn]] void refuse(const std::string& what) const {
    throw FormatError(source_.path().string() + ": " + what);
  }

 private:
  const ModelTensor& find(const std::string& name) const {
    const ModelTensor* found = source_.find(name);
    if (!found) refuse("tensor \"" + name + "\" is missing");
    return *found;
  }
  [[noreturn]] void refuse_shape(const ModelTensor& tensor, const std::vector<std::int64_t>& wanted) const {
    const auto text = [](const std::vector<std::int64_t>& shape) {
      std::string out;
      for (const std::int64_t extent : shape) out += (out.empty() ? "" : " x ") + std::to_string(extent);
      return out;
    };
    refuse("tensor \"" + tensor.name + "\": is " + text(tensor.stored->shape) +
           " where the configuration asks for " + text(wanted));
  }
  DenseMatrix read(const ModelTensor& tensor) const {
    const std::int64_t cols = tensor.cols();
    std::vector<float> values(static_cast<std::size_t>(tensor.rows() * cols));
    parallel_for(executor_, tensor.rows(), 64, [&](std::int64_t begin, std::int64_t end) {
      tensor.read_rows(begin, end - begin,
                       {values.data() + begin * cols, static_cast<std::size_t>((end - begin) * cols)});
    });
    return {tensor.rows(), cols, std::move(values)};
  }

  const ModelSource& source_;
  Executor& executor_;
};

}  // namespace

std::int64_t Linear::rows() const noexcept {
  if (const auto* dense = std::get_if<DenseMatrix>(&weight)) return dense->rows;
  return std::get<TiledMatrix>(weight).rows();
}

std::int64_t Linear::cols() const noexcept {
  if (const auto* dense = std::get_if<DenseMatrix>(&weight)) return dense->cols;
  return std::get<TiledMatrix>(weight).cols();
}

void Linear::apply(MatrixView<const float> x, MatrixView<float> y, Executor& executor) const {
  if (const auto* quantized = std::get_if<TiledMatrix>(&weight)) {
    matmul(x, *quantized, y, bias, executor);
    return;
  }
  matmul(x, std::get<DenseMatrix>(weight).view(), y, executor);
  if (bias.empty()) return;
  for (std::int64_t r = 0; r < y.rows; ++r)
    for (std::int64_t c = 0; c < y.cols; ++c) y(r, c) += bias[static_cast<std::size_t>(c)];
}

std::string weight_name(std::int64_t block, Part part) { return part_prefix(block, part) + ".weight"; }

bool is_block_linear(std::string_view name) noexcept {
  return name.starts_with("model.layers.") &&
         std::any_of(part_names.begin(), part_names.end(), [&](std::string_view part) {
           return name.ends_with(".weight") && name.substr(0, name.size() - 7).ends_with(part);
         });
}

Block load_block(const ModelSource& source, std::int64_t index, Executor& executor) {
  const ModelConfig& config = source.require_config();
  const Loader load(source, executor);
  using Bias = Loader::Bias;
  const Bias attention_bias = config.attention_bias ? Bias::Required : Bias::IfThere;
  const std::string prefix = block_prefix(index);
  const auto linear = [&](Part part, std::int64_t rows, std::int64_t cols, Bias bias) {
    return load.linear(part_prefix(index, part), rows, cols, bias);
  };
  Block block;
  block.attention_norm = load.vector(prefix + "input_layernorm.weight", config.width);
  block.ffn_norm = load.vector(prefix + "post_attention_layernorm.weight", config.width);
  if (config.head_norms()) {
    block.q_norm = load.vector(prefix + "self_attn.q_norm.weight", config.head_width);
    block.k_norm = load.vector(prefix + "self_attn.k_norm.weight", config.head_width);
  }
  block[Part::Q] = linear(Part::Q, config.query_width(), config.width, attention_bias);
  block[Part::K] = linear(Part::K, config.kv_width(), config.width, attention_bias);
  block[Part::V] = linear(Part::V, config.kv_width(), config.width, attention_bias);
  block[Part::O] = linear(Part::O, config.width, config.query_width(), Bias::IfThere);
  block[Part::Gate] = linear(Part::Gate, config.ffn_width, config.width, Bias::IfThere);
  block[Part::Up] = linear(Part::Up, config.ffn_width, config.width, Bias::IfThere);
  block[Part::Down] = linear(Part::Down, config.width, config.ffn_width, Bias::IfThere);
  return block;
}

std::vector<float> load_rope_factors(const ModelSource& source, Executor& executor) {
  if (!source.find("rope_freqs.weight")) return {};
  return Loader(source, executor).vector("rope_freqs.weight", source.require_config().head_width / 2);
}

Weights load_weights(const ModelSource& source, Executor& executor) {
  const ModelConfig& config = source.require_config();
  const Loader load(source, executor);
  Weights out;
  out.embedding = load.matrix("model.embed_tokens.weight", config.vocabulary, config.width);
  for (std::int64_t i = 0; i < config.layers; ++i) out.blocks.push_back(load_block(source, i, executor));
  out.norm = load.vector("model.norm.weight", config.width);
  if (config.tied_embeddings)
    out.output.weight = out.embedding;
  else
    out.output = load.linear("lm_head", config.vocabulary, config.width, Loader::Bias::IfThere);
  out.rope_factors = load_rope_factors(source, executor);
  return out;
}

}  // namespace higgs::model
