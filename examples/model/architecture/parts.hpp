// SPDX-License-Identifier: Apache-2.0
// The parts of a decoder: one table of the norms and linear layers of a block. Loading, checks, lists, quantization,
// measurements, the ties of plans and the names in files follow from it.
#pragma once

#include "architecture/config.hpp"
#include "architecture/weights.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace higgs::model {

/// (rows, cols) of a matrix, (size) of a vector.
using Shape = std::vector<std::int64_t>;

/// A norm or a linear layer that a decoder block may have.
struct Part {
  std::string_view name;  // "self_attn.q_proj": Hugging Face's name within the block
  std::string_view gguf;  // "attn_q": GGUF's
  std::variant<std::vector<float> Block::*, Linear Block::*> place;
  /// The shape in a model; empty where its blocks lack the part.
  Shape (*shape)(const ModelConfig& config);
  /// Whether a linear layer of a model has a bias (rows).
  bool (*has_bias)(const ModelConfig& config) = nullptr;
  /// The input of a linear layer. Layers of a block with the same input read one matrix: they are measured together, and
  /// kernels may fuse them, for which a plan ties their formats and quantization their input scales.
  std::string_view input{};
  /// Whether its columns are like those of the other layers of this kind that read the same: sharing input scales with
  /// them costs next to nothing, so that they always do.
  bool alike = false;
  bool rotary = false;  // its rows are heads that rotary positions turn

  bool is_linear() const noexcept { return std::holds_alternative<Linear Block::*>(place); }
  /// The layer in a block; only of a linear part.
  Linear& in(Block& block) const { return block.*std::get<Linear Block::*>(place); }
  const Linear& in(const Block& block) const { return block.*std::get<Linear Block::*>(place); }
};

/// Every part that a block of some family has, in the order of the data.
std::span<const Part> block_parts() noexcept;
/// The part at that place of a block.
const Part& part_at(Linear Block::* place);

/// The matrices outside of the blocks.
inline constexpr std::string_view embedding_name = "model.embed_tokens.weight",
                                  output_name = "lm_head.weight";
/// "model.layers.3.mlp.up_proj.weight".
std::string weight_name(std::int64_t block, const Part& part);
std::string weight_name(std::int64_t block, Linear Block::* place);
/// Whether a tensor of that name is one of the linear layers that quantization is for: neither an embedding,
/// a norm, nor the output layer.
bool is_block_linear(std::string_view name) noexcept;
/// The part whose weight has that name: "mlp.up_proj" for "model.layers.3.mlp.up_proj.weight". Null for any other name; names
/// of leftovers such as "model.layers.3.adapter.mlp.up_proj.weight" are others, though is_block_linear() accepts them.
const Part* linear_part(std::string_view weight_name);
/// "model.layers.3.mlp.up_proj.weight" is block 3 and "mlp.up_proj"; block -1 and the name itself for another form.
std::pair<std::int64_t, std::string> split_name(std::string_view name);

/// Hugging Face's name of a GGUF tensor: "blk.0.attn_q.weight" is "model.layers.0.self_attn.q_proj.weight".
/// Names that have no counterpart are kept.
std::string hugging_face_name(std::string_view gguf_name);
/// The name that hugging_face_name() turns into `name`, or `name`.
std::string gguf_name(std::string_view name);

/// A linear layer of one block of a model.
struct BlockLinear {
  std::size_t block;
  const Part* part;
  std::string name;  // name of its weight

  Linear& in(Weights& weights) const { return part->in(weights.blocks[block]); }
  const Linear& in(const Weights& weights) const { return part->in(weights.blocks[block]); }
};
/// The linear layers of all blocks of a model, in the order of the data.
std::vector<BlockLinear> block_linears(const ModelConfig& config);

/// Which linear layers share input scales: those that read the same and are alike, or, for kernels that fuse them, all
/// that read the same.
enum class Sharing { Alike, Fused };
/// The linear layers of its block that share input scales with that of a weight, itself among them, in the order of the
/// data; none for another name. A model lacks those whose shape is empty.
std::vector<BlockLinear> sharing_layers(std::string_view weight_name, Sharing sharing);

/// A tensor that a model of some configuration is made of.
struct NeededTensor {
  std::string name;
  Shape shape;
};
/// All tensors that the forward pass asks for, in the order of the data. Loading asks for these and for no other.
std::vector<NeededTensor> needed_tensors(const ModelConfig& config);

/// Calls visit(name, shape, place) for each tensor of block `index`, in the order of the data. `place` is the member of
/// `block` that holds it: a vector of floats, or the weight of a Linear.
template <class Visit>
void visit_block(const ModelConfig& config, std::int64_t index, Block& block, Visit&& visit) {
  for (const Part& part : block_parts()) {
    const Shape shape = part.shape(config);
    if (shape.empty()) continue;
    const std::string weight = weight_name(index, part);
    if (!part.is_linear()) {
      visit(weight, shape, block.*std::get<std::vector<float> Block::*>(part.place));
      continue;
    }
    visit(weight, shape, part.in(block).weight);
    if (!part.has_bias(config)) continue;
    const std::string bias = weight.substr(0, weight.size() - std::string_view("weight").size()) + "bias";
    visit(bias, Shape{shape[0]}, part.in(block).bias);
  }
}
/// The same for the norm after the last block,
template <class Visit>
void visit_norm(const ModelConfig& config, std::vector<float>& norm, Visit&& visit) {
  visit(std::string("model.norm.weight"), Shape{config.width}, norm);
}
/// and for the whole model, whose blocks are made. A tied output layer is no tensor of its own.
template <class Visit>
void visit_model(const ModelConfig& config, Weights& weights, Visit&& visit) {
  const Shape outer{config.vocabulary, config.width};
  visit(std::string(embedding_name), outer, weights.embedding.weight);
  weights.blocks.resize(static_cast<std::size_t>(config.layers));
  for (std::int64_t i = 0; i < config.layers; ++i)
    visit_block(config, i, weights.blocks[static_cast<std::size_t>(i)], visit);
  visit_norm(config, weights.norm, visit);
  if (!config.tied_embeddings) visit(std::string(output_name), outer, weights.output.weight);
}

}  // namespace higgs::model
