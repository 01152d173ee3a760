// SPDX-License-Identifier: Apache-2.0
// The families of models that can run: how their files name them, and how their decoders differ from Llama's.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace higgs::model {

struct ModelConfig;

/// A number above 0 of a model's configuration, and how files write it.
struct Number {
  using Place = double ModelConfig::*;

  std::string_view key;   // in config.json
  std::string_view gguf;  // in GGUF metadata, after the name of the architecture and a dot
  Place place;
  std::optional<double> usual, gguf_usual;  // where the key is missing; none: it must be there
};

/// Whether the layers of a family have biases: as config.json says, or the same for every model.
enum class Bias { Never, AsConfigured, Always };

/// A family of decoders, one row of the table in families.cpp. A family whose parts (parts.cpp) and arithmetic
/// (transformer.cpp) exist takes a row and no code.
struct Family {
  std::string_view name;          // model_type in config.json
  std::string_view hugging_face;  // the class in "architectures"
  std::string_view base;          // the class without the output layer
  std::string_view gguf{};        // general.architecture; empty: GGUF files name another family
  std::string_view written_as{};  // the family of the config.json that is written; empty: this one

  std::span<const Number> numbers;  // further numbers of its files

  // What config.json may leave out.
  std::int64_t context;          // positions
  std::int64_t kv_heads = 0;     // 0: as many as heads
  std::int64_t head_width = 0;   // 0: width / heads
  std::int64_t window = 0;       // tokens that sliding attention sees; 0: all
  bool optional_window = false;  // the window counts only where use_sliding_window or layer_types ask for it

  // The form of its blocks.
  bool head_norms = false;            // each head of q and k is normalized
  Bias attention_bias = Bias::Never;  // biases of q, k and v
  bool o_bias = false;                // where q, k and v have biases, o has one
  Bias mlp_bias = Bias::Never;        // biases of gate, up and down
  bool interleaved = false;           // GGUF interleaves the two halves of each head of q and k
};

/// All families, in the order that messages list them.
std::span<const Family> families() noexcept;
/// The family whose `property` is `value`; null if there is none, or if `value` is empty.
const Family* find_family(std::string_view Family::* property, std::string_view value) noexcept;

}  // namespace higgs::model
