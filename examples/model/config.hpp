// SPDX-License-Identifier: Apache-2.0
// The shape of a decoder model, from the metadata of a GGUF file or from Hugging Face's config.json.
#pragma once

#include <higgs/store/gguf.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace higgs::model {

/// How the angles of the rotary embedding are stretched beyond the context of pre-training.
struct RopeScaling {
  enum class Kind { None, Linear, Llama3 };
  Kind kind = Kind::None;
  double factor = 1;
  // Llama 3: wavelengths above original_context / low_freq_factor are stretched, those below
  // original_context / high_freq_factor are not, those between in part.
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  double original_context = 8192;
};

/// A decoder with RMSNorm, rotary positions, grouped-query attention and SwiGLU. Llama is the plain form,
/// Qwen2 has biases on q, k and v, Qwen3 normalizes the heads of q and k.
struct ModelConfig {
  enum class Architecture { Llama, Qwen2, Qwen3 };
  Architecture architecture = Architecture::Llama;
  std::int64_t layers = 0;
  std::int64_t width = 0;      // of the residual stream, d_model
  std::int64_t ffn_width = 0;  // between gate, up and down
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;  // divides heads
  std::int64_t head_width = 0;
  std::int64_t vocabulary = 0;  // rows of the embedding
  std::int64_t context = 0;     // positions that the model was made for
  double rms_epsilon = 1e-6;
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  bool tied_embeddings = false;  // the output layer is the embedding
  bool attention_bias = false;   // q, k and v have biases
  std::optional<std::int32_t> begin_token;
  std::vector<std::int32_t> end_tokens;  // each ends a text

  bool head_norms() const noexcept { return architecture == Architecture::Qwen3; }
  std::int64_t query_width() const noexcept { return heads * head_width; }
  std::int64_t kv_width() const noexcept { return kv_heads * head_width; }
};

/// Reads config.json. Throws FormatError, which names `source` and what is missing, wrong or not supported.
ModelConfig read_config(std::string_view text, const std::string& source);
/// Reads the metadata of a GGUF file; throws like the above.
ModelConfig read_config(const GgufFile& file, const std::string& source);
/// Adds the end tokens that generation_config.json names.
void add_end_tokens(ModelConfig& config, std::string_view text, const std::string& source);
/// config.json of the model, as read_config() reads it.
std::string write_config(const ModelConfig& config);

/// Angle per position of each pair of a head: head_width / 2 of them, rounded to float as in training.
std::vector<float> rope_frequencies(const ModelConfig& config);

}  // namespace higgs::model
