// SPDX-License-Identifier: Apache-2.0
#include "architecture/config_reading.hpp"
#include "json/parse_json.hpp"

#include <higgs/core/error.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <optional>

namespace higgs::model {
namespace {

using nlohmann::json;
using Kind = RopeScaling::Kind;

constexpr std::int64_t full_layers = 28;  // max_window_layers where config.json leaves it out

// Within its window, sliding attention is full attention: models that have it are bounded by it.
void read_window(const Fields& file, const Family& family, ModelConfig& out) {
  const bool optional = family.optional_window;
  std::optional<std::int64_t> window;
  if (const json* value = file.find("sliding_window"); value && !value->is_null())
    window = file.count("sliding_window", most_context);
  else if (!value && family.window != 0)
    window = family.window;
  const bool used = file.flag("use_sliding_window", !optional);
  const std::int64_t full = file.integer("max_window_layers", 0, most_layers, full_layers);
  bool slides = used && window && (!optional || full < out.layers);
  if (const json* types = file.array("layer_types")) {
    if (types->size() != static_cast<std::size_t>(out.layers))
      file.refuse("layer_types",
                  "an array of " + std::to_string(out.layers) + ", which is num_hidden_layers");
    bool sliding = false;
    for (const json& type : *types) {
      if (type != "full_attention" && type != "sliding_attention")
        file.refuse("layer_types", "an array of \"full_attention\" and \"sliding_attention\"");
      sliding |= type == "sliding_attention";
    }
    if (optional && sliding && !(used && window))
      file.fail("layer_types asks for sliding_attention, but use_sliding_window or sliding_window for none");
    if (optional) slides = sliding;
  }
  if (slides) out.context = std::min(out.context, *window);
}

// Whether layers have biases: as `key` says, which may not contradict the family.
bool read_bias(const Fields& file, const Family& family, Bias bias, const char* key) {
  const bool out = file.flag(key, bias == Bias::Always);
  if (bias != Bias::AsConfigured && out != (bias == Bias::Always))
    file.refuse(key, (out ? "false for every " : "true for every ") + std::string(family.hugging_face));
  return out;
}

// How the weights are quantized already, by quantization_config.
std::string read_quantization(const Fields& file) {
  const std::optional<Fields> how = filled_object(file, "quantization_config");
  if (!how) return "";
  if (!how->has("quant_method")) return how->has("load_in_4bit") ? "bitsandbytes" : "unknown";
  const std::string method = how->text("quant_method");
  return method == "compressed-tensors" ? method + " " + how->text("format", "unknown") : method;
}

const Family& read_family(const Fields& file) {
  const json* names = file.array("architectures");
  if (!names || names->empty()) {
    if (!file.has("model_type")) file.fail("architectures and model_type are missing");
    return require_family(&Family::name, file.text("model_type"), "model_type", file.source());
  }
  if (!names->front().is_string()) file.refuse("architectures", "an array of texts");
  const auto name = names->front().get<std::string>();
  const Family* base = find_family(&Family::base, name);
  const Family& family =
      base ? *base : require_family(&Family::hugging_face, name, "architectures", file.source());
  if (const std::string type = file.text("model_type", std::string(family.name)); type != family.name)
    file.refuse("model_type",
                in_quotes(family.name) + ", as architectures is " + in_quotes(family.hugging_face));
  return family;
}

ModelConfig read(const json& object, const std::string& source) {
  Fields file(object, source);
  // transformers defines what null means for these, and for no other key.
  file.null_means_absent({"architectures", "num_key_value_heads", "head_dim", "rope_scaling",
                          "rope_parameters", "partial_rotary_factor", "layer_types", "bos_token_id",
                          "eos_token_id", "quantization_config"});
  const Family& family = read_family(file);
  file.choice("hidden_act", {"silu", "swish"}, "silu");
  file.choice("hidden_activation", {"silu", "swish"}, "silu");

  ModelConfig out;
  out.family = family.written_as.empty() ? family.name : family.written_as;
  out.head_norms = family.head_norms;
  out.layers = file.count("num_hidden_layers", most_layers);
  out.width = file.count("hidden_size", most_width);
  out.ffn_width = file.count("intermediate_size", most_width);
  out.heads = file.count("num_attention_heads", most_heads);
  out.kv_heads =
      file.count("num_key_value_heads", most_heads, family.kv_heads != 0 ? family.kv_heads : out.heads);
  const std::int64_t usual =
      family.head_width != 0 ? family.head_width : std::max<std::int64_t>(1, out.width / out.heads);
  out.head_width = file.count("head_dim", most_heads, usual);
  check_heads(out, file, {"num_attention_heads", "num_key_value_heads", "head_dim"});
  out.vocabulary = file.count("vocab_size", most_width);
  out.context = file.count("max_position_embeddings", most_context, family.context);
  for (const Number& number : family.numbers)
    out.*number.place = file.positive(std::string(number.key), number.usual);
  read_rope(file, out);
  read_window(file, family, out);
  out.qkv_bias = read_bias(file, family, family.attention_bias, "attention_bias");
  out.o_bias = out.qkv_bias && family.o_bias;
  out.mlp_bias = read_bias(file, family, family.mlp_bias, "mlp_bias");
  out.tied_embeddings = file.flag("tie_word_embeddings", false);
  if (file.has("bos_token_id"))
    out.begin_token = static_cast<std::int32_t>(file.integer("bos_token_id", 0, most_token));
  add_end_tokens(out, file, "eos_token_id");
  out.quantization = read_quantization(file);
  return out;
}

}  // namespace

const Family& require_family(std::string_view Family::* property, std::string_view value,
                             const std::string& key, const std::string& source) {
  if (const Family* family = find_family(property, value)) return *family;
  std::string list;
  for (const Family& each : families())
    if (!(each.*property).empty()) list.append(list.empty() ? "" : ", ").append(each.*property);
  throw UnsupportedArchitecture(source + ": " + key + " is " + in_quotes(value) +
                                ", an architecture that is not supported; supported are " + list);
}

std::optional<Fields> filled_object(const Fields& file, const std::string& key) {
  const std::optional<Fields> object = file.object(key);
  return object && !file.find(key)->empty() ? object : std::nullopt;
}

void check_heads(const ModelConfig& config, const Fields& fields, const HeadKeys& keys) {
  if (config.heads % config.kv_heads != 0)
    fields.fail(keys.heads + ", " + std::to_string(config.heads) + ", must be a multiple of " +
                keys.kv_heads + ", " + std::to_string(config.kv_heads));
  if (config.head_width % 2 != 0)
    fields.fail("the width of a head, " + keys.width + ", is " + std::to_string(config.head_width) +
                ", but must be even");
}

void add_end_tokens(ModelConfig& config, const Fields& file, const std::string& key) {
  const json* ids = file.find(key);
  if (!ids) return;
  for (const json& id : ids->is_array() ? *ids : json::array({*ids})) {
    const bool valid = id.is_number_integer() && id >= 0 && id <= most_token;
    if (!valid) file.refuse(key, "a token, or an array of tokens");
    if (std::find(config.end_tokens.begin(), config.end_tokens.end(), id) == config.end_tokens.end())
      config.end_tokens.push_back(id.get<std::int32_t>());
  }
}

std::vector<std::int64_t> read_scale_block(std::string_view text, const std::string& source) {
  return parse_json(text, source, [&](const json& object) {
    std::vector<std::int64_t> out;
    const Fields file(object, source);
    std::optional<Fields> how = filled_object(file, "quantization_config");
    if (!how) return out;
    how->null_means_absent({"weight_block_size"});  // a scale for the whole matrix
    const json* block = how->array("weight_block_size");
    for (std::size_t i = 0; block && i < block->size(); ++i) {
      const json& extent = (*block)[i];
      if (extent.is_number_integer() && extent >= 1 && extent <= most_width)
        out.push_back(extent.get<std::int64_t>());
    }
    if (block && (out.size() != 2 || block->size() != 2))
      how->refuse("weight_block_size",
                  "an array of two whole numbers in [1, " + std::to_string(most_width) + "]");
    return out;
  });
}

ModelConfig read_config(std::string_view text, const std::string& source) {
  return parse_json(text, source, [&](const json& file) { return read(file, source); });
}

void add_end_tokens(ModelConfig& config, std::string_view text, const std::string& source) {
  parse_json(text, source, [&](const json& file) {
    add_end_tokens(config, Fields(file, source).null_means_absent({"eos_token_id"}), "eos_token_id");
  });
}

std::string write_config(const ModelConfig& config) {
  const Family& family = require_family(&Family::name, config.family, "family", "ModelConfig");
  const RopeScaling& rope = config.rope_scaling;
  json scaling;
  if (rope.kind == Kind::Linear) scaling = {{"rope_type", "linear"}, {"factor", rope.factor}};
  if (rope.kind == Kind::Llama3)
    scaling = {{"rope_type", "llama3"},
               {"factor", rope.factor},
               {"low_freq_factor", rope.low_freq_factor},
               {"high_freq_factor", rope.high_freq_factor}};
  if (rope.kind == Kind::Yarn)
    scaling = {{"rope_type", "yarn"},         {"factor", rope.factor},
               {"beta_fast", rope.beta_fast}, {"beta_slow", rope.beta_slow},
               {"truncate", rope.truncate},   {"attention_factor", rope.attention_factor}};
  if (rope.kind == Kind::LongRope)
    scaling = {{"rope_type", "longrope"},
               {"short_factor", rope.short_factor},
               {"long_factor", rope.long_factor},
               {"attention_factor", rope.attention_factor}};
  if (rope.kind != Kind::None && rope.kind != Kind::Linear)
    scaling["original_max_position_embeddings"] = static_cast<std::int64_t>(rope.original_context);
  json file{{"architectures", json::array({family.hugging_face})},
            {"model_type", family.name},
            {"hidden_act", "silu"},
            {"num_hidden_layers", config.layers},
            {"hidden_size", config.width},
            {"intermediate_size", config.ffn_width},
            {"num_attention_heads", config.heads},
            {"num_key_value_heads", config.kv_heads},
            {"head_dim", config.head_width},
            {"vocab_size", config.vocabulary},
            {"max_position_embeddings", config.context},
            {"rope_theta", config.rope_theta},
            {"rope_scaling", scaling},
            {"tie_word_embeddings", config.tied_embeddings},
            {"attention_bias", config.qkv_bias},
            {"mlp_bias", config.mlp_bias},
            {"bos_token_id", config.begin_token ? json(*config.begin_token) : json()},
            {"eos_token_id", config.end_tokens}};
  for (const Number& number : family.numbers) file[std::string(number.key)] = config.*number.place;
  return file.dump(2) + "\n";
}

std::string config_for_checkpoint(std::string_view text, const std::string& source, bool tied_embeddings) {
  parse_json(text, source, [&](const json& file) { Fields(file, source); });
  nlohmann::ordered_json file = nlohmann::ordered_json::parse(text);  // keeps the order of keys
  file.erase("quantization_config");
  file["tie_word_embeddings"] = tied_embeddings;
  return file.dump(2) + "\n";
}

}  // namespace higgs::model
