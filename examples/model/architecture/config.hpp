// SPDX-License-Identifier: Apache-2.0
// The shape of a decoder model, from the metadata of a GGUF file or from Hugging Face's config.json.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/store/gguf.hpp>
#include <higgs/store/tensor_source.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace higgs::model {

/// How the angles of the rotary embedding are stretched beyond the context of pre-training.
struct RopeScaling {
  enum class Kind { None, Linear, Llama3, Yarn, LongRope };
  Kind kind = Kind::None;
  double factor = 1;  // Linear, Llama3, Yarn: the frequencies that are stretched are divided by it
  // Llama 3: wavelengths above original_context / low_freq_factor are stretched, those below
  // original_context / high_freq_factor are not, those between in part.
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  double original_context = 8192;  // Llama3, Yarn, LongRope: positions of pre-training
  // Yarn: frequencies that turn less than beta_slow times in the original context are stretched, those that turn
  // more than beta_fast times are not. `truncate` rounds the border to whole pairs.
  double beta_fast = 32;
  double beta_slow = 1;
  bool truncate = true;
  // LongRope: divisors of the frequencies, (head_width / 2): for texts within the original context, and beyond.
  std::vector<double> short_factor{}, long_factor{};
  double attention_factor = 1;  // Yarn, LongRope: cosines and sines are multiplied by it

  bool operator==(const RopeScaling&) const = default;
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
  bool attention_bias = false;   // q, k and v have biases; so has o, except in Qwen2
  bool mlp_bias = false;         // gate, up and down have biases
  std::optional<std::int32_t> begin_token;
  std::vector<std::int32_t> end_tokens;  // each ends a text
  std::string quantization;              // "fp8": how config.json says that the weights are stored; or empty

  bool head_norms() const noexcept { return architecture == Architecture::Qwen3; }
  bool o_bias() const noexcept { return attention_bias && architecture != Architecture::Qwen2; }
  std::int64_t query_width() const noexcept { return heads * head_width; }
  std::int64_t kv_width() const noexcept { return kv_heads * head_width; }
};

/// The configuration is sound, but of an architecture that cannot be run here.
class UnsupportedArchitecture : public FormatError {
 public:
  using FormatError::FormatError;
};

/// Reads config.json as transformers 5 does. Throws FormatError, which names `source`, the key and what it holds,
/// for a key that is missing, wrong or asks for something that is not supported; UnsupportedArchitecture lists the
/// architectures that are.
ModelConfig read_config(std::string_view text, const std::string& source);
/// Reads the metadata of a GGUF file as llama.cpp does; `tensors` are those of all parts of the model. Throws like
/// the above.
ModelConfig read_config(const GgufFile& file, const TensorSource& tensors, const std::string& source);
/// Adds the end tokens that generation_config.json names.
void add_end_tokens(ModelConfig& config, std::string_view text, const std::string& source);
/// config.json of the model, as read_config() reads it.
std::string write_config(const ModelConfig& config);
/// config.json for a higgs checkpoint of the model that it came with: without quantization_config, and with the
/// truth about tied embeddings; everything else as it is.
std::string config_for_checkpoint(std::string_view text, const std::string& source, bool tied_embeddings);

/// Angle per position of each pair of a head, in texts of up to `positions` tokens: head_width / 2 of them, rounded
/// to float as in training.
std::vector<float> rope_frequencies(const ModelConfig& config, std::int64_t positions = 1);
/// Divides the frequencies by what a tensor (head_width / 2) holds, on top of the scaling that there is. Throws
/// FormatError, which names the tensor, for another shape and for numbers that are not above 0.
void divide_frequencies(ModelConfig& config, const SourceTensor& divisors);

}  // namespace higgs::model
