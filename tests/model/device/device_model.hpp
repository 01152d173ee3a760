// SPDX-License-Identifier: Apache-2.0
// Tiny models for tests of the device: the families, and what differs from them.
#pragma once

#include "model/tiny_model.hpp"

#include <string>
#include <vector>

/// A tiny model of each family that the CPU runs, and of what a family may have besides.
inline std::vector<std::pair<std::string, higgs::model::ModelConfig>> device_models() {
  using higgs::model::RopeScaling;
  std::vector<std::pair<std::string, higgs::model::ModelConfig>> out;
  for (const higgs::model::Family& family : higgs::model::families())
    out.emplace_back(family.name, tiny_config(std::string(family.name)));
  higgs::model::ModelConfig biased = tiny_config("llama");
  biased.qkv_bias = biased.o_bias = biased.mlp_bias = true;
  biased.rope_scaling = {.kind = RopeScaling::Kind::LongRope,
                         .original_context = 16,
                         .short_factor = {1, 1.5, 2},
                         .long_factor = {2, 3, 4},
                         .attention_factor = 1.25};
  out.emplace_back("llama with all biases and LongRoPE", biased);
  return out;
}

/// Tensors of a tiny model whose activations exceed fp16, and not bf16.
inline std::vector<TinyTensor> tensors_beyond_fp16(const higgs::model::ModelConfig& config) {
  using higgs::model::Block;
  std::vector<TinyTensor> tensors = tiny_tensors(config);
  for (TinyTensor& tensor : tensors)
    if (tensor.name == higgs::model::weight_name(0, &Block::up))
      for (float& value : tensor.values) value *= 3e4f;
  return tensors;
}

/// A tiny model in a folder, opened.
class TinySource {
 public:
  explicit TinySource(const higgs::model::ModelConfig& config) : TinySource(config, tiny_tensors(config)) {}
  TinySource(const higgs::model::ModelConfig& config, const std::vector<TinyTensor>& tensors)
      : source_((write_folder(folder_.path(), config, tensors), folder_.path())) {}
  const higgs::model::ModelSource& operator*() const { return source_; }

 private:
  TemporaryFolder folder_;
  higgs::model::ModelSource source_;
};
