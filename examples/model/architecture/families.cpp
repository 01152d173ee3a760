// SPDX-License-Identifier: Apache-2.0
#include "architecture/families.hpp"

#include "architecture/config.hpp"

namespace higgs::model {
namespace {

// GGUF files must hold it, as for llama.cpp.
constexpr Number rms_epsilon{
    "rms_norm_eps", "attention.layer_norm_rms_epsilon", &ModelConfig::rms_epsilon, 1e-6, {}};
constexpr Number usual_numbers[] = {rms_epsilon};
// GGUF files of Granite must hold the multipliers: llama.cpp's defaults are others than transformers'.
constexpr Number granite_numbers[] = {
    rms_epsilon,
    {"embedding_multiplier", "embedding_scale", &ModelConfig::embedding_scale, 1, {}},
    {"attention_multiplier", "attention.scale", &ModelConfig::attention_scale, 1, {}},
    {"residual_multiplier", "residual_scale", &ModelConfig::residual_scale, 1, {}},
    {"logits_scaling", "logit_scale", &ModelConfig::logits_scale, 1, {}}};

constexpr Family known[] = {
    {.name = "llama",
     .hugging_face = "LlamaForCausalLM",
     .base = "LlamaModel",
     .gguf = "llama",
     .numbers = usual_numbers,
     .context = 2048,
     .attention_bias = Bias::AsConfigured,
     .o_bias = true,
     .mlp_bias = Bias::AsConfigured,
     .interleaved = true},
    {.name = "qwen2",
     .hugging_face = "Qwen2ForCausalLM",
     .base = "Qwen2Model",
     .gguf = "qwen2",
     .numbers = usual_numbers,
     .context = 32768,
     .kv_heads = 32,
     .window = 4096,
     .optional_window = true,
     .attention_bias = Bias::Always},
    {.name = "qwen3",
     .hugging_face = "Qwen3ForCausalLM",
     .base = "Qwen3Model",
     .gguf = "qwen3",
     .numbers = usual_numbers,
     .context = 32768,
     .kv_heads = 32,
     .head_width = 128,
     .window = 4096,
     .optional_window = true,
     .head_norms = true,
     .attention_bias = Bias::AsConfigured,
     .o_bias = true},
    // Llama with multipliers.
    {.name = "granite",
     .hugging_face = "GraniteForCausalLM",
     .base = "GraniteModel",
     .gguf = "granite",
     .numbers = granite_numbers,
     .context = 2048,
     .attention_bias = Bias::AsConfigured,
     .o_bias = true,
     .mlp_bias = Bias::AsConfigured,
     .interleaved = true},
    // Its decoder is Llama's, within its window.
    {.name = "mistral",
     .hugging_face = "MistralForCausalLM",
     .base = "MistralModel",
     .written_as = "llama",
     .numbers = usual_numbers,
     .context = 131072,
     .kv_heads = 8,
     .window = 4096},
};

}  // namespace

std::span<const Family> families() noexcept { return known; }

const Family* find_family(std::string_view Family::* property, std::string_view value) noexcept {
  for (const Family& each : known)
    if (!value.empty() && each.*property == value) return &each;
  return nullptr;
}

}  // namespace higgs::model
