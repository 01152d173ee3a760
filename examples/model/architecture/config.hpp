// SPDX-License-Identifier: Apache-2.0
// The shape of a decoder model, from the metadata of a GGUF file or from Hugging Face's config.json.
#pragma once

#include "architecture/rope.hpp"

#include <higgs/core/error.hpp>
#include <higgs/store/gguf.hpp>
#include <higgs/store/tensor_source.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace higgs::model {

/// A decoder with RMSNorm, rotary positions, grouped-query attention and SwiGLU: numbers, and what its blocks have of what
/// block_parts() lists.
struct ModelConfig {
  std::string family = "llama";  // Family::name: what config.json is written as
  std::int64_t layers = 0;
  std::int64_t width = 0;      // width of the residual stream, d_model
  std::int64_t ffn_width = 0;  // between gate, up and down
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;  // divides heads
  std::int64_t head_width = 0;
  std::int64_t vocabulary = 0;  // rows of the embedding
  std::int64_t context = 0;     // positions that the model was made for
  double rms_epsilon = 1e-6;
  double rope_theta = 10000;
  double embedding_scale = 1;  // multiplies rows of the embedding
  double attention_scale = 0;  // multiplies q k^T; 0: 1 / sqrt(head_width)
  double residual_scale = 1;   // multiplies what attention and the feed-forward layers add
  double logits_scale = 1;     // divides the logits
  RopeScaling rope_scaling;
  bool tied_embeddings = false;  // the output layer is the embedding
  bool head_norms = false;       // each head of q and k is normalized
  bool qkv_bias = false;         // q, k and v have biases
  bool o_bias = false;           // so has the output of attention
  bool mlp_bias = false;         // gate, up and down have biases
  std::optional<std::int32_t> begin_token;
  std::vector<std::int32_t> end_tokens;  // each ends a text
  std::string quantization;              // "fp8": how config.json says that the weights are stored; or empty

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

}  // namespace higgs::model
