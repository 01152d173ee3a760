// SPDX-License-Identifier: Apache-2.0
#include "architecture/config_reading.hpp"

#include <string>
#include <vector>

namespace higgs::model {
namespace {

using Kind = RopeScaling::Kind;

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

}  // namespace

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
      divide_frequencies(out, std::vector<double>(static_cast<std::size_t>(out.head_width / 2), 1.0));
    scaling.attention_factor = attention;
  }
  check_rope(out, fields,
             key("freq_base") + ", " + key("scaling.factor") + ", " + key("scale_linear") + " and " +
                 key("scaling.attn_factor"));
}

}  // namespace higgs::model
