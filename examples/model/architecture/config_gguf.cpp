// SPDX-License-Identifier: Apache-2.0
#include "architecture/config_reading.hpp"
#include "architecture/parts.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

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

// The keys of attention and of rotary positions that are read, or that change nothing here.
constexpr std::string_view known_keys[] = {"attention.head_count",
                                           "attention.head_count_kv",
                                           "attention.key_length",
                                           "attention.value_length",
                                           "attention.layer_norm_rms_epsilon",
                                           "attention.layer_norm_epsilon",
                                           "attention.causal",
                                           "attention.sliding_window",
                                           "rope.dimension_count",
                                           "rope.freq_base",
                                           "rope.scale_linear",
                                           "rope.scaling.type",
                                           "rope.scaling.factor",
                                           "rope.scaling.attn_factor",
                                           "rope.scaling.original_context_length",
                                           "rope.scaling.finetuned",
                                           "rope.scaling.yarn_log_multiplier",
                                           "rope.scaling.yarn_ext_factor",
                                           "rope.scaling.yarn_attn_factor",
                                           "rope.scaling.yarn_beta_fast",
                                           "rope.scaling.yarn_beta_slow"};

// Refuses what other architectures have and this family has not: keys that ask for another computation.
void refuse_other_keys(const GgufFile& file, const std::string& name, const Family& family,
                       const Fields& fields) {
  const auto is_number = [&](std::string_view key) {
    return std::ranges::any_of(family.numbers, [&](const Number& number) { return number.gguf == key; });
  };
  for (const auto& [key, value] : file.metadata()) {
    if (!key.starts_with(name + ".")) continue;
    const std::string_view rest = std::string_view(key).substr(name.size() + 1);
    const bool checked = rest.starts_with("attention.") || rest.starts_with("rope.");
    if (checked && std::ranges::find(known_keys, rest) == std::end(known_keys) && !is_number(rest))
      fields.fail(key + " is a key that is not supported");
  }
  constexpr std::pair<std::string_view, double> neutral[] = {{"embedding_scale", 1},
                                                             {"residual_scale", 1},
                                                             {"logit_scale", 1},
                                                             {"attn_logit_softcapping", 0},
                                                             {"final_logit_softcapping", 0}};
  for (const auto& [rest, usual] : neutral) {
    const std::string key = name + "." + std::string(rest);
    if (!is_number(rest) && fields.number(key, usual) != usual)
      fields.refuse(key, std::string(usual == 0 ? "0" : "1") + ": the architecture " + in_quotes(name) +
                             " has no such number");
  }
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
  refuse_other_keys(file, name, family, fields);

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
  if (fields.count(key("vocab_size"), most_width, out.vocabulary) != out.vocabulary)
    fields.refuse(key("vocab_size"), std::to_string(out.vocabulary) + ", the rows of token_embd.weight");
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
