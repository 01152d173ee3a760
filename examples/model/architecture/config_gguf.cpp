// SPDX-License-Identifier: Apache-2.0
#include "architecture/config_reading.hpp"
#include "architecture/parts.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <optional>

namespace higgs::model {
namespace {

using nlohmann::json;

// A count that GGUF may give layer by layer.
std::int64_t count_of_layers(const Fields& fields, const std::string& key, std::int64_t most,
                             std::int64_t layers, std::optional<std::int64_t> fallback = {}) {
  const json* values = fields.find(key);
  if (!values || !values->is_array()) return fields.count(key, most, fallback);
  if (values->size() != static_cast<std::size_t>(layers))
    fields.refuse(key, "an array of " + std::to_string(layers) + ", one for each layer");
  for (const json& each : *values) {
    if (each != values->front())
      fields.refuse(key, "the same for every layer: models whose layers differ are not supported");
    if (!each.is_number_integer() || each < 1 || each > most)
      fields.refuse(key, "an array of whole numbers in [1, " + std::to_string(most) + "]");
  }
  return values->front().get<std::int64_t>();
}

// The biases are there if any layer stores one: then every layer must.
void read_gguf_biases(const Fields& fields, const TensorSource& tensors, const Family& family,
                      ModelConfig& out) {
  const auto any = [&](Linear Block::* place) {
    const std::string end = "." + std::string(part_at(place).gguf) + ".bias";
    return std::any_of(tensors.tensors().begin(), tensors.tensors().end(), [&](const SourceTensor& each) {
      return each.name.starts_with("blk.") && each.name.ends_with(end);
    });
  };
  out.qkv_bias = family.attention_bias == Bias::Always || any(&Block::q);
  out.o_bias = any(&Block::o);
  out.mlp_bias = any(&Block::gate) || any(&Block::up) || any(&Block::down);
  // Biases on q, k and v alone are what makes a Llama a Qwen2.
  const bool is_qwen2 = out.family == "llama" && out.qkv_bias && !out.o_bias && !out.mlp_bias;
  const Family& form = is_qwen2 ? *find_family(&Family::name, "qwen2") : family;
  out.family = form.name;
  if (out.o_bias != (out.qkv_bias && form.o_bias) || (out.mlp_bias && form.mlp_bias == Bias::Never))
    fields.fail(
        "the layers have biases in a combination that is not supported: q, k and v, with o, with gate, up "
        "and down");
}

void refuse_unknown_rope_keys(const GgufFile& file, const std::string& prefix, const Fields& fields) {
  constexpr std::string_view known[] = {"dimension_count",
                                        "freq_base",
                                        "scale_linear",
                                        "scaling.type",
                                        "scaling.factor",
                                        "scaling.attn_factor",
                                        "scaling.original_context_length",
                                        "scaling.finetuned",
                                        "scaling.yarn_log_multiplier",
                                        "scaling.yarn_ext_factor",
                                        "scaling.yarn_attn_factor",
                                        "scaling.yarn_beta_fast",
                                        "scaling.yarn_beta_slow"};
  const std::string begin = prefix + ".rope.";
  for (const auto& [key, value] : file.metadata())
    if (key.starts_with(begin) && std::find(std::begin(known), std::end(known),
                                            std::string_view(key).substr(begin.size())) == std::end(known))
      fields.fail(key + " is a key that is not supported");
}

}  // namespace

ModelConfig read_config(const GgufFile& file, const TensorSource& tensors, const std::string& source) {
  const Fields fields(file, source);
  const std::string name = fields.text("general.architecture");
  const Family& family = require_family(&Family::gguf, name, "general.architecture", source);
  const auto key = [&](const char* rest) { return name + "." + rest; };
  if (fields.integer(key("expert_count"), 0, most_width, 0) != 0)
    throw UnsupportedArchitecture(source + ": " + key("expert_count") +
                                  " says that this is a mixture of experts, which is not supported");
  refuse_unknown_rope_keys(file, name, fields);

  ModelConfig out;
  out.family = family.name;
  out.head_norms = family.head_norms;
  out.layers = fields.count(key("block_count"), most_layers);
  out.width = fields.count(key("embedding_length"), most_width);
  out.ffn_width = count_of_layers(fields, key("feed_forward_length"), most_width, out.layers);
  out.heads = count_of_layers(fields, key("attention.head_count"), most_heads, out.layers);
  out.kv_heads = count_of_layers(fields, key("attention.head_count_kv"), most_heads, out.layers, out.heads);
  const std::int64_t usual = std::max<std::int64_t>(1, out.width / out.heads);
  out.head_width = fields.count(key("attention.key_length"), most_heads, usual);
  for (const char* other : {"attention.value_length", "rope.dimension_count"})
    if (fields.count(key(other), most_heads, out.head_width) != out.head_width)
      fields.refuse(key(other), std::to_string(out.head_width) + ", the width of a head (" +
                                    key("attention.key_length") + ")");
  check_heads(out, fields,
              {key("attention.head_count"), key("attention.head_count_kv"), key("attention.key_length")});
  out.context = fields.count(key("context_length"), most_context, family.context);
  for (const Number& number : family.numbers)
    out.*number.place = fields.positive(name + "." + std::string(number.gguf), number.gguf_usual);
  read_gguf_rope(fields, name, tensors, out);
  if (!fields.flag(key("attention.causal"), true))
    fields.refuse(key("attention.causal"), "true: other attention is not supported");
  if (const auto window = fields.integer(key("attention.sliding_window"), 0, most_context, 0); window != 0)
    out.context = std::min(out.context, window);

  const SourceTensor* embedding = tensors.find("token_embd.weight");
  if (!embedding || embedding->shape.size() != 2)
    fields.fail("tensor \"token_embd.weight\" is missing or no matrix");
  out.vocabulary = embedding->shape[0];
  out.tied_embeddings = !tensors.find("output.weight");
  read_gguf_biases(fields, tensors, family, out);
  if (fields.has("tokenizer.ggml.bos_token_id"))
    out.begin_token =
        static_cast<std::int32_t>(fields.integer("tokenizer.ggml.bos_token_id", 0, out.vocabulary - 1));
  for (const char* id : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    if (fields.has(id)) fields.integer(id, 0, out.vocabulary - 1);
    add_end_tokens(out, fields, id);
  }
  return out;
}

}  // namespace higgs::model
