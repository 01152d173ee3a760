// SPDX-License-Identifier: Apache-2.0
#include "architecture/config_reading.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

namespace higgs::model {
namespace {

using nlohmann::json;
using Kind = RopeScaling::Kind;

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

}  // namespace

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

}  // namespace higgs::model
