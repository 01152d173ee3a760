// SPDX-License-Identifier: Apache-2.0
#include "config.hpp"

#include "parse_json.hpp"

#include <higgs/core/error.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <variant>

namespace higgs::model {
namespace {

using nlohmann::json;
using Architecture = ModelConfig::Architecture;

struct Known {
  Architecture architecture;
  const char* gguf;
  const char* hugging_face;
  const char* model_type;
};
// Mistral's decoder is Llama's; it is written back as such.
constexpr Known known_architectures[] = {{Architecture::Llama, "llama", "LlamaForCausalLM", "llama"},
                                         {Architecture::Qwen2, "qwen2", "Qwen2ForCausalLM", "qwen2"},
                                         {Architecture::Qwen3, "qwen3", "Qwen3ForCausalLM", "qwen3"},
                                         {Architecture::Llama, "", "MistralForCausalLM", "mistral"}};

// Questions to config.json or GGUF metadata that have a good answer or end with a FormatError.
class Fields {
 public:
  using Find = std::function<std::optional<double>(const std::string& key)>;
  Fields(std::string source, Find find) : source_(std::move(source)), find_(std::move(find)) {}

  [[noreturn]] void refuse(const std::string& what) const { throw FormatError(source_ + ": " + what); }
  std::optional<double> find(const std::string& key) const { return find_(key); }

  std::int64_t count(const std::string& key, std::int64_t most,
                     std::optional<std::int64_t> fallback = {}) const {
    const double value = number(key, fallback ? std::optional(static_cast<double>(*fallback)) : std::nullopt);
    if (!(value >= 1) || value > static_cast<double>(most) || value != std::floor(value))
      refuse(key + " must be an integer in [1, " + std::to_string(most) + "]");
    return static_cast<std::int64_t>(value);
  }
  double positive(const std::string& key, std::optional<double> fallback = {}) const {
    const double value = number(key, fallback);
    if (!(value > 0) || !std::isfinite(value)) refuse(key + " must be a positive number");
    return value;
  }

 private:
  double number(const std::string& key, std::optional<double> fallback) const {
    const std::optional<double> value = find_(key);
    if (!value && !fallback) refuse(key + " is missing or no number");
    return value ? *value : *fallback;
  }
  std::string source_;
  Find find_;
};

// The members of `object`, which must outlive what is returned.
Fields fields_of(const json& object, const std::string& source) {
  return {source, [&object](const std::string& key) -> std::optional<double> {
            const auto found = object.find(key);
            if (found == object.end() || !found->is_number()) return std::nullopt;
            return found->get<double>();
          }};
}

Fields fields_of(const GgufFile& file, const std::string& source) {
  return {source, [&file](const std::string& key) -> std::optional<double> {
            const GgufValue* value = file.value(key);
            if (!value) return std::nullopt;
            if (const auto* n = std::get_if<std::uint64_t>(value)) return static_cast<double>(*n);
            if (const auto* n = std::get_if<std::int64_t>(value)) return static_cast<double>(*n);
            if (const auto* n = std::get_if<double>(value)) return *n;
            return std::nullopt;
          }};
}

std::string text_of(const GgufFile& file, const std::string& key) {
  const GgufValue* value = file.value(key);
  const auto* found = value ? std::get_if<std::string_view>(value) : nullptr;
  return found ? std::string(*found) : std::string();
}

// Far beyond any model; products of a few of them do not overflow.
constexpr std::int64_t most_layers = 1 << 14, most_width = 1 << 24, most_heads = 1 << 16,
                       most_context = 1 << 30;

void check(const ModelConfig& config, const Fields& fields) {
  if (config.heads % config.kv_heads != 0)
    fields.refuse("the number of heads must be a multiple of that of kv heads");
  if (config.head_width % 2 != 0) fields.refuse("the width of a head must be even");
}

RopeScaling read_scaling(const json& object, const std::string& source) {
  const Fields fields = fields_of(object, source);
  const std::string type =
      object.contains("rope_type") ? object.value("rope_type", "") : object.value("type", "default");
  RopeScaling out;
  if (type == "default") return out;
  if (type != "linear" && type != "llama3")
    fields.refuse("rope scaling \"" + type + "\" is not supported: only default, linear and llama3 are");
  out.factor = fields.positive("factor");
  out.kind = RopeScaling::Kind::Linear;
  if (type == "linear") return out;
  out.kind = RopeScaling::Kind::Llama3;
  out.low_freq_factor = fields.positive("low_freq_factor");
  out.high_freq_factor = fields.positive("high_freq_factor");
  out.original_context = fields.positive("original_max_position_embeddings");
  if (!(out.high_freq_factor > out.low_freq_factor))
    fields.refuse("high_freq_factor must exceed low_freq_factor");
  return out;
}

void add_end_tokens(ModelConfig& config, const json& ids) {
  for (const json& id : ids.is_array() ? ids : json::array({ids}))
    if (id.is_number_integer() &&
        std::find(config.end_tokens.begin(), config.end_tokens.end(), id) == config.end_tokens.end())
      config.end_tokens.push_back(id.get<std::int32_t>());
}

ModelConfig read(const json& file, const std::string& source) {
  if (!file.is_object()) throw FormatError(source + ": is no JSON object");
  const Fields fields = fields_of(file, source);
  const json names = file.value("architectures", json::array());
  const std::string name = names.is_array() && !names.empty() ? names[0].get<std::string>() : "";
  const auto known = std::find_if(std::begin(known_architectures), std::end(known_architectures),
                                  [&](const Known& each) { return name == each.hugging_face; });
  if (known == std::end(known_architectures)) fields.refuse("architecture \"" + name + "\" is not supported");
  if (file.value("hidden_act", "silu") != "silu") fields.refuse("hidden_act: only silu is supported");

  ModelConfig out;
  out.architecture = known->architecture;
  out.layers = fields.count("num_hidden_layers", most_layers);
  out.width = fields.count("hidden_size", most_width);
  out.ffn_width = fields.count("intermediate_size", most_width);
  out.heads = fields.count("num_attention_heads", most_heads);
  out.kv_heads = fields.count("num_key_value_heads", most_heads, out.heads);
  const std::int64_t usual =
      out.architecture == Architecture::Qwen3 ? 128 : std::max<std::int64_t>(1, out.width / out.heads);
  out.head_width = fields.count("head_dim", most_heads, usual);
  out.vocabulary = fields.count("vocab_size", most_width);
  out.context = fields.count("max_position_embeddings", most_context, 2048);
  // Within its window, sliding attention is full attention.
  const bool slides = file.contains("sliding_window") && file["sliding_window"].is_number();
  if (slides && file.value("use_sliding_window", out.architecture == Architecture::Llama))
    out.context = std::min(out.context, fields.count("sliding_window", most_context));
  out.rms_epsilon = fields.positive("rms_norm_eps", 1e-6);

  // Newer files gather all about rotary positions in one object.
  const json rope = file.value("rope_parameters", json());
  const json& scaling = rope.is_object() ? rope : file.value("rope_scaling", json());
  const Fields rope_fields = fields_of(rope.is_object() ? rope : file, source);
  out.rope_theta = rope_fields.positive("rope_theta", 10000.0);
  if (scaling.is_object()) out.rope_scaling = read_scaling(scaling, source);
  if (rope_fields.positive("partial_rotary_factor", 1.0) != 1.0)
    fields.refuse("partial_rotary_factor is not supported");

  out.tied_embeddings = file.value("tie_word_embeddings", false);
  out.attention_bias = out.architecture == Architecture::Qwen2 || file.value("attention_bias", false);
  if (file.contains("bos_token_id") && file["bos_token_id"].is_number_integer())
    out.begin_token = file["bos_token_id"].get<std::int32_t>();
  if (file.contains("eos_token_id")) add_end_tokens(out, file["eos_token_id"]);
  check(out, fields);
  return out;
}

}  // namespace

ModelConfig read_config(std::string_view text, const std::string& source) {
  return parse_json(text, source, [&](const json& file) { return read(file, source); });
}

void add_end_tokens(ModelConfig& config, std::string_view text, const std::string& source) {
  parse_json(text, source, [&](const json& file) {
    if (file.contains("eos_token_id")) add_end_tokens(config, file["eos_token_id"]);
  });
}

ModelConfig read_config(const GgufFile& file, const std::string& source) {
  const Fields fields = fields_of(file, source);
  const std::string name = text_of(file, "general.architecture");
  const auto known = std::find_if(std::begin(known_architectures), std::end(known_architectures),
                                  [&](const Known& each) { return name != "" && name == each.gguf; });
  if (known == std::end(known_architectures)) fields.refuse("architecture \"" + name + "\" is not supported");
  const auto key = [&](const char* rest) { return name + "." + rest; };
  if (fields.find(key("expert_count")).value_or(0) != 0)
    fields.refuse("mixtures of experts are not supported");

  ModelConfig out;
  out.architecture = known->architecture;
  out.layers = fields.count(key("block_count"), most_layers);
  out.width = fields.count(key("embedding_length"), most_width);
  out.ffn_width = fields.count(key("feed_forward_length"), most_width);
  out.heads = fields.count(key("attention.head_count"), most_heads);
  out.kv_heads = fields.count(key("attention.head_count_kv"), most_heads, out.heads);
  const std::int64_t usual = std::max<std::int64_t>(1, out.width / out.heads);
  out.head_width = fields.count(key("attention.key_length"), most_heads, usual);
  if (fields.count(key("attention.value_length"), most_heads, out.head_width) != out.head_width ||
      fields.count(key("rope.dimension_count"), most_heads, out.head_width) != out.head_width)
    fields.refuse("heads of q, k, v and rope that differ in width are not supported");
  out.context = fields.count(key("context_length"), most_context, 2048);
  out.rms_epsilon = fields.positive(key("attention.layer_norm_rms_epsilon"), 1e-6);
  out.rope_theta = fields.positive(key("rope.freq_base"), 10000.0);
  // Llama 3's scaling comes as the tensor rope_freqs.weight instead.
  const std::string scaling = text_of(file, key("rope.scaling.type"));
  if (scaling == "linear") {
    out.rope_scaling.kind = RopeScaling::Kind::Linear;
    out.rope_scaling.factor = fields.positive(key("rope.scaling.factor"));
  } else if (scaling != "" && scaling != "none") {
    fields.refuse("rope scaling \"" + scaling + "\" is not supported: only linear and llama3 are");
  }
  const GgufTensor* embedding = file.find("token_embd.weight");
  if (!embedding || embedding->shape.size() != 2)
    fields.refuse("tensor \"token_embd.weight\" is missing or no matrix");
  out.vocabulary = embedding->shape[0];
  out.tied_embeddings = !file.find("output.weight");
  out.attention_bias = file.find("blk.0.attn_q.bias") != nullptr;
  const auto token = [&](const char* id) -> std::optional<std::int32_t> {
    const std::optional<double> value = fields.find(id);
    if (!value || !(*value >= 0) || *value >= static_cast<double>(out.vocabulary)) return std::nullopt;
    return static_cast<std::int32_t>(*value);
  };
  out.begin_token = token("tokenizer.ggml.bos_token_id");
  for (const char* id : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"})
    if (const auto end = token(id)) add_end_tokens(out, json(*end));
  check(out, fields);
  return out;
}

std::string write_config(const ModelConfig& config) {
  const auto known =
      std::find_if(std::begin(known_architectures), std::end(known_architectures),
                   [&](const Known& each) { return each.architecture == config.architecture; });
  json scaling;
  if (config.rope_scaling.kind == RopeScaling::Kind::Linear)
    scaling = {{"rope_type", "linear"}, {"factor", config.rope_scaling.factor}};
  if (config.rope_scaling.kind == RopeScaling::Kind::Llama3)
    scaling = {{"rope_type", "llama3"},
               {"factor", config.rope_scaling.factor},
               {"low_freq_factor", config.rope_scaling.low_freq_factor},
               {"high_freq_factor", config.rope_scaling.high_freq_factor},
               {"original_max_position_embeddings", config.rope_scaling.original_context}};
  const json file{{"architectures", json::array({known->hugging_face})},
                  {"model_type", known->model_type},
                  {"hidden_act", "silu"},
                  {"num_hidden_layers", config.layers},
                  {"hidden_size", config.width},
                  {"intermediate_size", config.ffn_width},
                  {"num_attention_heads", config.heads},
                  {"num_key_value_heads", config.kv_heads},
                  {"head_dim", config.head_width},
                  {"vocab_size", config.vocabulary},
                  {"max_position_embeddings", config.context},
                  {"rms_norm_eps", config.rms_epsilon},
                  {"rope_theta", config.rope_theta},
                  {"rope_scaling", scaling},
                  {"tie_word_embeddings", config.tied_embeddings},
                  {"attention_bias", config.attention_bias},
                  {"bos_token_id", config.begin_token ? json(*config.begin_token) : json()},
                  {"eos_token_id", config.end_tokens}};
  return file.dump(2) + "\n";
}

std::vector<float> rope_frequencies(const ModelConfig& config) {
  std::vector<float> out;
  const RopeScaling& scaling = config.rope_scaling;
  for (std::int64_t i = 0; i < config.head_width; i += 2) {
    const auto exponent = static_cast<double>(i) / static_cast<double>(config.head_width);
    double frequency = std::pow(config.rope_theta, -exponent);
    if (scaling.kind == RopeScaling::Kind::Linear) frequency /= scaling.factor;
    if (scaling.kind == RopeScaling::Kind::Llama3) {
      const double turns = scaling.original_context * frequency / (2 * std::numbers::pi);
      const double kept = std::clamp(
          (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor), 0.0, 1.0);
      frequency = (1 - kept) * frequency / scaling.factor + kept * frequency;
    }
    out.push_back(static_cast<float>(frequency));
  }
  return out;
}

}  // namespace higgs::model
