// SPDX-License-Identifier: Apache-2.0
#include "architecture/parts.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <charconv>
#include <system_error>

namespace higgs::model {
namespace {

using Config = const ModelConfig&;

// The rows of the table below.
constexpr auto of_width = [](Config c) { return Shape{c.width}; };
constexpr auto of_head = [](Config c) { return c.head_norms ? Shape{c.head_width} : Shape(); };
constexpr auto queries = [](Config c) { return Shape{c.query_width(), c.width}; };
constexpr auto keys = [](Config c) { return Shape{c.kv_width(), c.width}; };
constexpr auto from_heads = [](Config c) { return Shape{c.width, c.query_width()}; };
constexpr auto to_ffn = [](Config c) { return Shape{c.ffn_width, c.width}; };
constexpr auto from_ffn = [](Config c) { return Shape{c.width, c.ffn_width}; };
constexpr auto qkv_bias = [](Config c) { return c.qkv_bias; };
constexpr auto o_bias = [](Config c) { return c.o_bias; };
constexpr auto mlp_bias = [](Config c) { return c.mlp_bias; };

// name, GGUF's name, place, shape, bias, input, whether its columns are like those of other readers of the input, whether
// rotary positions turn it
const Part parts[] = {
    {"input_layernorm", "attn_norm", &Block::attention_norm, of_width},
    {"self_attn.q_norm", "attn_q_norm", &Block::q_norm, of_head},
    {"self_attn.k_norm", "attn_k_norm", &Block::k_norm, of_head},
    {"self_attn.q_proj", "attn_q", &Block::q, queries, qkv_bias, "qkv", false, true},
    {"self_attn.k_proj", "attn_k", &Block::k, keys, qkv_bias, "qkv", false, true},
    {"self_attn.v_proj", "attn_v", &Block::v, keys, qkv_bias, "qkv"},
    {"self_attn.o_proj", "attn_output", &Block::o, from_heads, o_bias, "o"},
    {"post_attention_layernorm", "ffn_norm", &Block::ffn_norm, of_width},
    {"mlp.gate_proj", "ffn_gate", &Block::gate, to_ffn, mlp_bias, "ffn", true},
    {"mlp.up_proj", "ffn_up", &Block::up, to_ffn, mlp_bias, "ffn", true},
    {"mlp.down_proj", "ffn_down", &Block::down, from_ffn, mlp_bias, "down"},
};

// The tensors outside of the blocks: GGUF's names and Hugging Face's.
constexpr std::pair<std::string_view, std::string_view> outer_names[] = {
    {"token_embd.weight", embedding_name},
    {"output_norm.weight", "model.norm.weight"},
    {"output.weight", output_name}};

constexpr std::string_view block_prefix = "model.layers.", gguf_prefix = "blk.";

// Translates "blk.LAYER.PART.KIND", or the like of Hugging Face, whose prefix is `from`; none if no part has that name.
std::string translate(std::string_view name, std::string_view from, std::string_view Part::* old_name,
                      std::string_view to, std::string_view Part::* new_name) {
  if (!name.starts_with(from)) return std::string(name);
  const std::size_t dot = name.find('.', from.size()), kind = name.rfind('.');
  if (dot == name.npos || kind <= dot) return std::string(name);
  for (const Part& part : parts)
    if (name.substr(dot + 1, kind - dot - 1) == part.*old_name)
      return std::string(to)
          .append(name.substr(from.size(), dot + 1 - from.size()))
          .append(part.*new_name)
          .append(name.substr(kind));
  return std::string(name);
}

}  // namespace

std::span<const Part> block_parts() noexcept { return parts; }

const Part& part_at(Linear Block::* place) {
  for (const Part& part : parts)
    if (const auto* linear = std::get_if<Linear Block::*>(&part.place); linear && *linear == place)
      return part;
  throw InvalidArgument("higgs::model::part_at: no part has that place");
}

std::string weight_name(std::int64_t block, const Part& part) {
  return std::string(block_prefix)
      .append(std::to_string(block))
      .append(".")
      .append(part.name)
      .append(".weight");
}

std::string weight_name(std::int64_t block, Linear Block::* place) {
  return weight_name(block, part_at(place));
}

bool is_block_linear(std::string_view name) noexcept {
  constexpr std::string_view suffix = ".weight";
  if (!name.starts_with(block_prefix) || !name.ends_with(suffix)) return false;
  name.remove_suffix(suffix.size());
  return std::any_of(std::begin(parts), std::end(parts),
                     [&](const Part& part) { return part.is_linear() && name.ends_with(part.name); });
}

std::pair<std::int64_t, std::string> split_name(std::string_view name) {
  constexpr std::string_view suffix = ".weight";
  if (!name.starts_with(block_prefix) || !name.ends_with(suffix)) return {-1, std::string(name)};
  const std::string_view rest =
      name.substr(block_prefix.size(), name.size() - block_prefix.size() - suffix.size());
  std::int64_t block = -1;
  const char* last = rest.data() + rest.size();
  const auto [end, error] = std::from_chars(rest.data(), last, block);
  if (error != std::errc{} || end == last || *end != '.') return {-1, std::string(name)};
  return {block, std::string(end + 1, last)};
}

const Part* linear_part(std::string_view weight_name) {
  const auto [block, name] = split_name(weight_name);
  const auto part = std::ranges::find(parts, name, &Part::name);
  return block >= 0 && part != std::end(parts) && part->is_linear() ? part : nullptr;
}

std::string hugging_face_name(std::string_view name) {
  for (const auto& [gguf, other] : outer_names)
    if (name == gguf) return std::string(other);
  return translate(name, gguf_prefix, &Part::gguf, block_prefix, &Part::name);
}

std::string gguf_name(std::string_view name) {
  for (const auto& [gguf, other] : outer_names)
    if (name == other) return std::string(gguf);
  return translate(name, block_prefix, &Part::name, gguf_prefix, &Part::gguf);
}

std::vector<BlockLinear> block_linears(const ModelConfig& config) {
  std::vector<BlockLinear> out;
  for (std::int64_t block = 0; block < config.layers; ++block)
    for (const Part& part : parts)
      if (part.is_linear() && !part.shape(config).empty())
        out.push_back({static_cast<std::size_t>(block), &part, weight_name(block, part)});
  return out;
}

std::vector<BlockLinear> sharing_layers(std::string_view weight_name, Sharing sharing) {
  const auto [block, part_name] = split_name(weight_name);
  const auto is_layer = [&, &name = part_name](const Part& part) {
    return part.is_linear() && part.name == name;
  };
  const Part* const layer = std::find_if(std::begin(parts), std::end(parts), is_layer);
  std::vector<BlockLinear> out;
  if (block < 0 || layer == std::end(parts)) return out;
  for (const Part& part : parts)
    if (part.is_linear() && part.input == layer->input &&
        (&part == layer || sharing == Sharing::Fused || (part.alike && layer->alike)))
      out.push_back({static_cast<std::size_t>(block), &part, model::weight_name(block, part)});
  return out;
}

std::vector<NeededTensor> needed_tensors(const ModelConfig& config) {
  std::vector<NeededTensor> out;
  Weights nowhere;
  visit_model(config, nowhere, [&](std::string name, Shape shape, const auto&) {
    out.push_back({std::move(name), std::move(shape)});
  });
  return out;
}

}  // namespace higgs::model
