// SPDX-License-Identifier: Apache-2.0
#include "architecture/config.hpp"

#include "json/fields.hpp"
#include "json/parse_json.hpp"

#include <higgs/core/error.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

namespace higgs::model {
namespace {

using nlohmann::json;
using Architecture = ModelConfig::Architecture;
using Kind = RopeScaling::Kind;

// A family of models, and what its config.json may leave out.
struct Known {
  Architecture architecture;
  std::string_view gguf;
  std::string_view hugging_face;
  std::string_view base;  // name of the class that lacks the output layer
  std::string_view model_type;
  std::int64_t context;
  std::int64_t kv_heads;    // 0: as many as heads
  std::int64_t head_width;  // 0: width / heads
};
// Mistral's decoder is Llama's; it is written back as such.
constexpr Known known_architectures[] = {
    {Architecture::Llama, "llama", "LlamaForCausalLM", "LlamaModel", "llama", 2048, 0, 0},
    {Architecture::Qwen2, "qwen2", "Qwen2ForCausalLM", "Qwen2Model", "qwen2", 32768, 32, 0},
    {Architecture::Qwen3, "qwen3", "Qwen3ForCausalLM", "Qwen3Model", "qwen3", 32768, 32, 128},
    {Architecture::Llama, "", "MistralForCausalLM", "MistralModel", "mistral", 131072, 8, 0}};
constexpr std::int64_t mistral_window = 4096, qwen_window = 4096, qwen_full_layers = 28;

// Far beyond any model; products of a few of them do not overflow.
constexpr std::int64_t most_layers = 1 << 14, most_width = 1 << 24, most_heads = 1 << 16,
                       most_context = 1 << 30, most_token = INT32_MAX;

std::string in_quotes(std::string_view text) { return "\"" + std::string(text) + "\""; }

// Finds the family by a property of it.
const Known& known_by(std::string_view Known::* property, std::string_view value, const std::string& key,
                      const std::string& source) {
  std::string list;
  for (const Known& each : known_architectures) {
    if (!value.empty() &&
        (each.*property == value || (property == &Known::hugging_face && each.base == value)))
      return each;
    if (!(each.*property).empty()) list.append(list.empty() ? "" : ", ").append(each.*property);
  }
  throw UnsupportedArchitecture(source + ": " + key + " is " + in_quotes(value) +
                                ", an architecture that is not supported; supported are " + list);
}

// The keys of the counts of heads.
struct HeadKeys {
  std::string heads, kv_heads, width;
};
void check(const ModelConfig& config, const Fields& fields, const HeadKeys& keys) {
  if (config.heads % config.kv_heads != 0)
    fields.fail(keys.heads + ", " + std::to_string(config.heads) + ", must be a multiple of " +
                keys.kv_heads + ", " + std::to_string(config.kv_heads));
  if (config.head_width % 2 != 0)
    fields.fail("the width of a head, " + keys.width + ", is " + std::to_string(config.head_width) +
                ", but must be even");
}

// What YaRN multiplies cosines and sines by: https://arxiv.org/abs/2309.00071, section 3.4.
double yarn_attention(double factor, double scale = 1) {
  return factor <= 1 ? 1 : 0.1 * scale * std::log(factor) + 1;
}

// An object that has members; null and an empty one count as absent.
std::optional<Fields> filled_object(const Fields& file, const std::string& key) {
  const std::optional<Fields> object = file.object(key);
  return object && !file.find(key)->empty() ? object : std::nullopt;
}

// rope_type, or "type" as it was called once.
std::string read_rope_type(const Fields& rope) {
  const std::string old = rope.text("type", "default"), type = rope.text("rope_type", old);
  if (rope.has("type") && type != old)
    rope.fail(rope.name("rope_type") + " is " + in_quotes(type) + ", but " + rope.name("type") + " is " +
              in_quotes(old));
  constexpr std::string_view known[] = {"default", "linear", "dynamic", "llama3", "yarn", "longrope"};
  if (std::find(std::begin(known), std::end(known), type) == std::end(known))
    rope.refuse(rope.has("rope_type") ? "rope_type" : "type",
                "one of \"default\", \"linear\", \"dynamic\", \"llama3\", \"yarn\", \"longrope\"");
  return type;
}

// The members of rope_parameters or rope_scaling.
struct RopeMembers {
  std::string type;
  RopeScaling values;  // attention_factor 0: by the formula
  double mscale = 0, mscale_all_dim = 0;
};

// Every member is read whatever the type: a wrong one is refused even where nothing needs it. Null means "by the
// formula" where transformers says so.
RopeMembers read_members(Fields rope, const ModelConfig& config, std::optional<std::int64_t> outer_context) {
  rope.null_means_absent({"attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow"});
  RopeMembers out{.type = read_rope_type(rope), .values = {}};
  RopeScaling& values = out.values;
  const bool derives_factor = out.type == "yarn" || out.type == "longrope", llama3 = out.type == "llama3";
  const json* factor = rope.find("factor");
  const bool has_factor = factor && !(derives_factor && factor->is_null());
  if (has_factor) values.factor = rope.positive("factor");
  if (!factor && out.type != "default" && out.type != "longrope") rope.refuse("factor", "a number above 0");
  const std::int64_t inner_context =
      rope.count("original_max_position_embeddings", most_context, config.context);
  // Phi-3 keeps it beside the object; transformers prefers that one.
  values.original_context = static_cast<double>(outer_context.value_or(inner_context));
  if (derives_factor && !has_factor)
    values.factor = static_cast<double>(config.context) / values.original_context;
  values.low_freq_factor = rope.positive("low_freq_factor", llama3 ? std::nullopt : std::optional(1.0));
  values.high_freq_factor = rope.positive("high_freq_factor", llama3 ? std::nullopt : std::optional(4.0));
  // A 0 of these asks for the usual value, as null does.
  const auto or_usual = [&](const char* key, double usual) {
    const double value = rope.number(key, usual);
    if (value < 0) rope.refuse(key, "a number above 0");
    return value == 0 ? usual : value;
  };
  values.beta_fast = or_usual("beta_fast", 32);
  values.beta_slow = or_usual("beta_slow", 1);
  out.mscale = or_usual("mscale", 0);
  out.mscale_all_dim = or_usual("mscale_all_dim", 0);
  values.truncate = rope.flag("truncate", true);
  values.short_factor = rope.numbers("short_factor").value_or(std::vector<double>());
  values.long_factor = rope.numbers("long_factor").value_or(std::vector<double>());
  values.attention_factor = rope.has("attention_factor") ? rope.positive("attention_factor") : 0;
  rope.flag("finetuned", false);
  for (const char* read_already : {"rope_theta", "partial_rotary_factor"}) rope.has(read_already);
  rope.refuse_other_keys();
  return out;
}

RopeScaling yarn_of(const RopeMembers& rope) {
  const RopeScaling& values = rope.values;
  double attention = yarn_attention(values.factor);
  if (rope.mscale != 0 && rope.mscale_all_dim != 0)
    attention =
        yarn_attention(values.factor, rope.mscale) / yarn_attention(values.factor, rope.mscale_all_dim);
  return {.kind = Kind::Yarn,
          .factor = values.factor,
          .original_context = values.original_context,
          .beta_fast = values.beta_fast,
          .beta_slow = values.beta_slow,
          .truncate = values.truncate,
          .attention_factor = values.attention_factor != 0 ? values.attention_factor : attention};
}

RopeScaling longrope_of(const RopeScaling& values, std::int64_t head_width, const Fields& rope) {
  const auto pairs = static_cast<std::size_t>(head_width / 2);
  for (const auto& [key, factors] :
       {std::pair("short_factor", &values.short_factor), {"long_factor", &values.long_factor}})
    if (factors->size() != pairs || *std::min_element(factors->begin(), factors->end()) <= 0)
      rope.refuse(key, "an array of " + std::to_string(pairs) + " numbers above 0, half of head_dim");
  // https://arxiv.org/abs/2402.13753: what keeps the entropy of attention.
  double attention = 1;
  if (values.factor > 1)
    attention = std::sqrt(1 + std::log(values.factor) / std::log(values.original_context));
  if (!std::isfinite(attention)) rope.refuse("original_max_position_embeddings", "above 1");
  return {.kind = Kind::LongRope,
          .original_context = values.original_context,
          .short_factor = values.short_factor,
          .long_factor = values.long_factor,
          .attention_factor = values.attention_factor != 0 ? values.attention_factor : attention};
}

RopeScaling read_scaling(const Fields& rope, const ModelConfig& config,
                         std::optional<std::int64_t> outer_context) {
  const RopeMembers members = read_members(rope, config, outer_context);
  const RopeScaling& values = members.values;
  if (members.type == "linear") return {.kind = Kind::Linear, .factor = values.factor};
  if (members.type == "yarn") return yarn_of(members);
  if (members.type == "longrope") return longrope_of(values, config.head_width, rope);
  // Within its original context, max_position_embeddings, "dynamic" changes nothing; longer texts are refused.
  if (members.type != "llama3") return {};
  if (!(values.high_freq_factor > values.low_freq_factor))
    rope.refuse("high_freq_factor", "above low_freq_factor, " + std::to_string(values.low_freq_factor));
  return {Kind::Llama3, values.factor, values.low_freq_factor, values.high_freq_factor,
          values.original_context};
}

// Refuses numbers that are fine alone, but whose angles exceed floats.
void check_rope(const ModelConfig& config, const Fields& fields, const std::string& keys) {
  for (const std::int64_t positions : {std::int64_t{1}, config.context})
    for (const float each : rope_frequencies(config, positions))
      if (!std::isfinite(each) || !std::isfinite(static_cast<float>(config.rope_scaling.attention_factor)))
        fields.fail("one of " + keys + " is so extreme that rotary positions exceed floats");
}

// As transformers 5 resolves it: rope_scaling, unless empty, stands for rope_parameters; what they leave out is
// taken from beside them.
void read_rope(const Fields& file, ModelConfig& out) {
  std::optional<Fields> rope = filled_object(file, "rope_scaling");
  if (!rope) rope = filled_object(file, "rope_parameters");
  out.rope_theta = file.positive("rope_theta", 10000.0);
  std::optional<std::int64_t> original;
  if (file.has("original_max_position_embeddings"))
    original = file.count("original_max_position_embeddings", most_context);
  const auto check_partial = [](const Fields& fields) {
    if (fields.positive("partial_rotary_factor", 1.0) != 1.0)
      fields.refuse("partial_rotary_factor", "1: rotary positions for part of a head are not supported");
  };
  check_partial(file);
  if (rope) {
    out.rope_theta = rope->positive("rope_theta", out.rope_theta);
    check_partial(*rope);
    out.rope_scaling = read_scaling(*rope, out, original);
  }
  check_rope(out, file, "rope_theta, factor, short_factor, long_factor, attention_factor and mscale");
}

// Within its window, sliding attention is full attention: models that have it are bounded by it.
void read_window(const Fields& file, const Known& known, ModelConfig& out) {
  const bool qwen = known.architecture != Architecture::Llama, mistral = known.model_type == "mistral";
  std::optional<std::int64_t> window;
  if (const json* value = file.find("sliding_window"); value && !value->is_null())
    window = file.count("sliding_window", most_context);
  else if (!value && (qwen || mistral))
    window = qwen ? qwen_window : mistral_window;
  const bool used = file.flag("use_sliding_window", !qwen);
  const std::int64_t full = file.integer("max_window_layers", 0, most_layers, qwen_full_layers);
  bool slides = used && window && (!qwen || full < out.layers);
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
    if (qwen && sliding && !(used && window))
      file.fail("layer_types asks for sliding_attention, but use_sliding_window or sliding_window for none");
    if (qwen) slides = sliding;
  }
  if (slides) out.context = std::min(out.context, *window);
}

// Biases are there if the family has them always, or if config.json asks.
void read_biases(const Fields& file, const Known& known, ModelConfig& out) {
  const bool qwen2 = known.architecture == Architecture::Qwen2, plain = known.model_type == "llama";
  out.attention_bias = file.flag("attention_bias", qwen2);
  out.mlp_bias = file.flag("mlp_bias", false);
  const std::string of_all = "for every " + std::string(known.hugging_face);
  if (qwen2 && !out.attention_bias) file.refuse("attention_bias", "true " + of_all);
  if (known.model_type == "mistral" && out.attention_bias) file.refuse("attention_bias", "false " + of_all);
  if (!plain && out.mlp_bias) file.refuse("mlp_bias", "false " + of_all);
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

// How the weights are quantized already, by quantization_config.
std::string read_quantization(const Fields& file) {
  const std::optional<Fields> how = filled_object(file, "quantization_config");
  if (!how) return "";
  if (!how->has("quant_method")) return how->has("load_in_4bit") ? "bitsandbytes" : "unknown";
  const std::string method = how->text("quant_method");
  return method == "compressed-tensors" ? method + " " + how->text("format", "unknown") : method;
}

const Known& read_architecture(const Fields& file) {
  const json* names = file.array("architectures");
  if (!names || names->empty()) {
    if (!file.has("model_type")) file.fail("architectures and model_type are missing");
    return known_by(&Known::model_type, file.text("model_type"), "model_type", file.source());
  }
  if (!names->front().is_string()) file.refuse("architectures", "an array of texts");
  const Known& known =
      known_by(&Known::hugging_face, names->front().get<std::string>(), "architectures", file.source());
  if (const std::string type = file.text("model_type", std::string(known.model_type));
      type != known.model_type)
    file.refuse("model_type",
                in_quotes(known.model_type) + ", as architectures is " + in_quotes(known.hugging_face));
  return known;
}

ModelConfig read(const json& object, const std::string& source) {
  Fields file(object, source);
  // transformers defines what null means for these, and for no other key.
  file.null_means_absent({"architectures", "num_key_value_heads", "head_dim", "rope_scaling",
                          "rope_parameters", "partial_rotary_factor", "layer_types", "bos_token_id",
                          "eos_token_id", "quantization_config"});
  const Known& known = read_architecture(file);
  file.choice("hidden_act", {"silu", "swish"}, "silu");
  file.choice("hidden_activation", {"silu", "swish"}, "silu");

  ModelConfig out;
  out.architecture = known.architecture;
  out.layers = file.count("num_hidden_layers", most_layers);
  out.width = file.count("hidden_size", most_width);
  out.ffn_width = file.count("intermediate_size", most_width);
  out.heads = file.count("num_attention_heads", most_heads);
  out.kv_heads =
      file.count("num_key_value_heads", most_heads, known.kv_heads != 0 ? known.kv_heads : out.heads);
  const std::int64_t usual =
      known.head_width != 0 ? known.head_width : std::max<std::int64_t>(1, out.width / out.heads);
  out.head_width = file.count("head_dim", most_heads, usual);
  check(out, file, {"num_attention_heads", "num_key_value_heads", "head_dim"});
  out.vocabulary = file.count("vocab_size", most_width);
  out.context = file.count("max_position_embeddings", most_context, known.context);
  out.rms_epsilon = file.positive("rms_norm_eps", 1e-6);
  read_rope(file, out);
  read_window(file, known, out);
  read_biases(file, known, out);
  out.tied_embeddings = file.flag("tie_word_embeddings", false);
  if (file.has("bos_token_id"))
    out.begin_token = static_cast<std::int32_t>(file.integer("bos_token_id", 0, most_token));
  add_end_tokens(out, file, "eos_token_id");
  out.quantization = read_quantization(file);
  return out;
}

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

// The divisors of rotary frequencies that a tensor holds.
std::vector<double> read_divisors(const SourceTensor& tensor, const ModelConfig& config) {
  const auto fail = [&](const std::string& what) {
    throw FormatError(tensor.owner->path().string() + ": tensor " + in_quotes(tensor.name) + " " + what);
  };
  if (tensor.shape != std::vector<std::int64_t>{config.head_width / 2} || !tensor.readable())
    fail("must hold " + std::to_string(config.head_width / 2) + " floats, half the width of a head");
  std::vector<float> values(static_cast<std::size_t>(tensor.cols()));
  tensor.read_rows(0, 1, values);
  for (const float each : values)
    if (!(each > 0) || !std::isfinite(each))
      fail("holds " + std::to_string(each) + ", but divisors of frequencies must be above 0");
  return {values.begin(), values.end()};
}

// Divides each frequency by one of `divisors`, on top of the scaling that there is.
void divide(ModelConfig& config, const std::vector<double>& divisors) {
  RopeScaling& scaling = config.rope_scaling;
  if (scaling.kind != Kind::LongRope) {
    ModelConfig plain = config;
    plain.rope_scaling = {};
    const std::vector<float> with = rope_frequencies(config), without = rope_frequencies(plain);
    std::vector<double> factors;
    for (std::size_t i = 0; i < with.size(); ++i)
      factors.push_back(static_cast<double>(without[i]) / static_cast<double>(with[i]));
    scaling = {.kind = Kind::LongRope,
               .original_context = static_cast<double>(config.context),
               .short_factor = factors,
               .long_factor = factors,
               .attention_factor = scaling.attention_factor};
  }
  for (auto* factors : {&scaling.short_factor, &scaling.long_factor})
    for (std::size_t i = 0; i < factors->size(); ++i) (*factors)[i] *= divisors[i];
}

// rope.scaling.type: a factor without one is linear.
std::string read_gguf_rope_type(const Fields& fields, const std::string& key, bool has_factors) {
  if (fields.has(key) && fields.text(key) == "llama3")
    fields.refuse(
        key,
        "\"none\", \"linear\", \"yarn\" or \"longrope\": in GGUF the tensor rope_freqs.weight holds "
        "Llama 3's scaling");
  const std::string type =
      fields.choice(key, {"none", "linear", "yarn", "longrope"}, has_factors ? "longrope" : "linear");
  if (has_factors != (type == "longrope"))
    fields.fail(
        key + " is " + in_quotes(type) +
        ", but the tensors rope_factors_short.weight and rope_factors_long.weight go with \"longrope\"");
  return type;
}

// Rotary positions as llama.cpp reads them.
void read_gguf_rope(const Fields& fields, const std::string& prefix, const TensorSource& tensors,
                    ModelConfig& out) {
  const auto key = [&](const char* rest) { return prefix + ".rope." + rest; };
  out.rope_theta = fields.positive(key("freq_base"), 10000.0);
  const SourceTensor *shorter = tensors.find("rope_factors_short.weight"),
                     *longer = tensors.find("rope_factors_long.weight");
  if (!shorter != !longer)
    fields.fail("of the tensors rope_factors_short.weight and rope_factors_long.weight, one is missing");
  const std::string type = read_gguf_rope_type(fields, key("scaling.type"), shorter != nullptr);
  const double factor = fields.positive(key("scaling.factor"), fields.positive(key("scale_linear"), 1.0));
  const double attention = fields.positive(key("scaling.attn_factor"), 1.0);
  const double original =
      static_cast<double>(fields.count(key("scaling.original_context_length"), most_context, out.context));
  const double beta_fast = fields.positive(key("scaling.yarn_beta_fast"), 32.0),
               beta_slow = fields.positive(key("scaling.yarn_beta_slow"), 1.0),
               log_multiplier = fields.number(key("scaling.yarn_log_multiplier"), 0.0);
  for (const char* one : {"scaling.yarn_ext_factor", "scaling.yarn_attn_factor"})
    if (fields.number(key(one), 1.0) != 1.0) fields.refuse(key(one), "1: other values are not supported");

  RopeScaling& scaling = out.rope_scaling;
  if (type == "yarn") {
    const double over = log_multiplier == 0 ? 1 : yarn_attention(factor, log_multiplier);
    scaling = {.kind = Kind::Yarn,
               .factor = factor,
               .original_context = original,
               .beta_fast = beta_fast,
               .beta_slow = beta_slow,
               .attention_factor = attention * yarn_attention(factor) / over};
  } else if (type == "longrope") {
    scaling = {.kind = Kind::LongRope,
               .original_context = original,
               .short_factor = read_divisors(*shorter, out),
               .long_factor = read_divisors(*longer, out),
               .attention_factor = attention};
    for (auto* factors : {&scaling.short_factor, &scaling.long_factor})
      for (double& each : *factors) each *= factor;
  } else if (type == "linear" && factor != 1) {
    scaling = {.kind = Kind::Linear, .factor = factor};
  }
  if (const SourceTensor* divisors = tensors.find("rope_freqs.weight")) divide_frequencies(out, *divisors);
  if (attention != 1 && (type == "linear" || type == "none")) {
    if (scaling.kind != Kind::LongRope)
      divide(out, std::vector<double>(static_cast<std::size_t>(out.head_width / 2), 1.0));
    scaling.attention_factor = attention;
  }
  check_rope(out, fields,
             key("freq_base") + ", " + key("scaling.factor") + ", " + key("scale_linear") + " and " +
                 key("scaling.attn_factor"));
}

// The biases are there if any layer stores one: then every layer must.
void read_gguf_biases(const Fields& fields, const TensorSource& tensors, ModelConfig& out) {
  const auto any = [&](std::string_view part) {
    return std::any_of(tensors.tensors().begin(), tensors.tensors().end(), [&](const SourceTensor& each) {
      return each.name.starts_with("blk.") && each.name.ends_with(part);
    });
  };
  const bool o = any(".attn_output.bias");
  out.attention_bias = out.architecture == Architecture::Qwen2 || any(".attn_q.bias");
  out.mlp_bias = any(".ffn_gate.bias") || any(".ffn_up.bias") || any(".ffn_down.bias");
  // Biases on q, k and v alone are what makes a Llama a Qwen2.
  if (out.architecture == Architecture::Llama && out.attention_bias && !o && !out.mlp_bias)
    out.architecture = Architecture::Qwen2;
  if (o != out.o_bias() || (out.mlp_bias && out.architecture != Architecture::Llama))
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

ModelConfig read_config(std::string_view text, const std::string& source) {
  return parse_json(text, source, [&](const json& file) { return read(file, source); });
}

void add_end_tokens(ModelConfig& config, std::string_view text, const std::string& source) {
  parse_json(text, source, [&](const json& file) {
    add_end_tokens(config, Fields(file, source).null_means_absent({"eos_token_id"}), "eos_token_id");
  });
}

ModelConfig read_config(const GgufFile& file, const TensorSource& tensors, const std::string& source) {
  const Fields fields(file, source);
  const std::string name = fields.text("general.architecture");
  const Known& known = known_by(&Known::gguf, name, "general.architecture", source);
  const auto key = [&](const char* rest) { return name + "." + rest; };
  if (fields.integer(key("expert_count"), 0, most_width, 0) != 0)
    throw UnsupportedArchitecture(source + ": " + key("expert_count") +
                                  " says that this is a mixture of experts, which is not supported");
  refuse_unknown_rope_keys(file, name, fields);

  ModelConfig out;
  out.architecture = known.architecture;
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
  check(out, fields,
        {key("attention.head_count"), key("attention.head_count_kv"), key("attention.key_length")});
  out.context = fields.count(key("context_length"), most_context, known.context);
  out.rms_epsilon = fields.positive(key("attention.layer_norm_rms_epsilon"), 1e-6);
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
  read_gguf_biases(fields, tensors, out);
  if (fields.has("tokenizer.ggml.bos_token_id"))
    out.begin_token =
        static_cast<std::int32_t>(fields.integer("tokenizer.ggml.bos_token_id", 0, out.vocabulary - 1));
  for (const char* id : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    if (fields.has(id)) fields.integer(id, 0, out.vocabulary - 1);
    add_end_tokens(out, fields, id);
  }
  return out;
}

std::string write_config(const ModelConfig& config) {
  const auto known =
      std::find_if(std::begin(known_architectures), std::end(known_architectures),
                   [&](const Known& each) { return each.architecture == config.architecture; });
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
                  {"mlp_bias", config.mlp_bias},
                  {"bos_token_id", config.begin_token ? json(*config.begin_token) : json()},
                  {"eos_token_id", config.end_tokens}};
  return file.dump(2) + "\n";
}

std::string config_for_checkpoint(std::string_view text, const std::string& source, bool tied_embeddings) {
  parse_json(text, source, [&](const json& file) { Fields(file, source); });
  nlohmann::ordered_json file = nlohmann::ordered_json::parse(text);  // keeps the order of keys
  file.erase("quantization_config");
  file["tie_word_embeddings"] = tied_embeddings;
  return file.dump(2) + "\n";
}

std::vector<float> rope_frequencies(const ModelConfig& config, std::int64_t positions) {
  const RopeScaling& scaling = config.rope_scaling;
  const auto width = static_cast<double>(config.head_width);
  // YaRN: the pair that turns `turns` times in the original context.
  const auto pair_of = [&](double turns) {
    return width * std::log(scaling.original_context / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(config.rope_theta));
  };
  double first = 0, last = 0;
  if (scaling.kind == Kind::Yarn) {
    first = pair_of(scaling.beta_fast);
    last = pair_of(scaling.beta_slow);
    if (scaling.truncate) {
      first = std::floor(first);
      last = std::ceil(last);
    }
    first = std::max(first, 0.0);
    last = std::min(last, width - 1);
    if (first == last) last += 0.001;
  }
  const auto& divisors =
      static_cast<double>(positions) > scaling.original_context ? scaling.long_factor : scaling.short_factor;
  std::vector<float> out;
  for (std::int64_t i = 0; i < config.head_width; i += 2) {
    const std::int64_t pair = i / 2;
    double frequency = std::pow(config.rope_theta, -static_cast<double>(i) / width);
    double kept = 1;  // how much of the frequency is not stretched
    if (scaling.kind == Kind::Linear) kept = 0;
    if (scaling.kind == Kind::Llama3) {
      const double turns = scaling.original_context * frequency / (2 * std::numbers::pi);
      kept = std::clamp(
          (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor), 0.0, 1.0);
    }
    if (scaling.kind == Kind::Yarn)
      kept = 1 - std::clamp((static_cast<double>(pair) - first) / (last - first), 0.0, 1.0);
    frequency = (1 - kept) * frequency / scaling.factor + kept * frequency;
    if (scaling.kind == Kind::LongRope) frequency /= divisors[static_cast<std::size_t>(pair)];
    out.push_back(static_cast<float>(frequency));
  }
  return out;
}

void divide_frequencies(ModelConfig& config, const SourceTensor& divisors) {
  divide(config, read_divisors(divisors, config));
}

}  // namespace higgs::model
