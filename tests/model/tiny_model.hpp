// SPDX-License-Identifier: Apache-2.0
// Models of a few thousand weights, as folders and as GGUF files. The weights are functions of their names,
// so that another program can make the same ones: the golden numbers of the tests come from Hugging Face's
// transformers.
#pragma once

#include "architecture/families.hpp"
#include "architecture/parts.hpp"
#include "network/transformer.hpp"
#include "source/source.hpp"
#include "store/gguf_builder.hpp"
#include "store/temporary_folder.hpp"
#include "tokenizer/tokenizer.hpp"

#include <higgs/core/random.hpp>
#include <higgs/store/journal.hpp>
#include <higgs/store/safetensors.hpp>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

struct TinyTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  std::vector<float> values;

  std::string bytes() const {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
  }
};

/// Normal numbers, seeded by the name: of deviation 1.5 / sqrt(inputs) for a matrix, 1 for the embedding,
/// 0.3 about 1 for a norm, 0.3 about 0 for a bias.
inline TinyTensor tiny_tensor(const std::string& name, std::vector<std::int64_t> shape) {
  TinyTensor out{name, shape, {}};
  const std::int64_t count = shape.size() == 2 ? shape[0] * shape[1] : shape[0];
  const bool matrix = shape.size() == 2, embedding = name.find("embed") != name.npos,
             bias = name.ends_with(".bias");
  const double deviation = !matrix ? 0.3 : embedding ? 1.0 : 1.5 / std::sqrt(static_cast<double>(shape[1]));
  const double mean = matrix || bias ? 0 : 1;
  for (std::int64_t i = 0; i < count; ++i) {
    const double normal = higgs::random_normal(higgs::hash_text(name), static_cast<std::uint64_t>(i));
    out.values.push_back(static_cast<float>(mean + deviation * normal));
  }
  return out;
}

/// 40 tokens, width 24, 2 blocks, 4 heads that share 2 of keys and values.
inline higgs::model::ModelConfig tiny_config(const std::string& family) {
  higgs::model::ModelConfig config;
  config.family = family;
  config.layers = 2;
  config.width = 24;
  config.ffn_width = 36;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_width = family == "qwen3" ? 10 : 6;
  config.vocabulary = 40;
  config.context = 64;
  config.rms_epsilon = 1e-5;
  config.tied_embeddings = family != "qwen3";
  if (family == "granite") {
    config.embedding_scale = 3;
    config.attention_scale = 0.25;
    config.residual_scale = 0.375;
    config.logits_scale = 2;
  }
  config.head_norms = family == "qwen3";
  config.qkv_bias = family == "qwen2";
  return config;
}

inline std::vector<TinyTensor> tiny_tensors(const higgs::model::ModelConfig& config) {
  std::vector<TinyTensor> out;
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape) {
    out.push_back(tiny_tensor(name, std::move(shape)));
  };
  const auto linear = [&](const std::string& name, std::int64_t rows, std::int64_t cols, bool bias) {
    add(name + ".weight", {rows, cols});
    if (bias) add(name + ".bias", {rows});
  };
  add("model.embed_tokens.weight", {config.vocabulary, config.width});
  for (std::int64_t i = 0; i < config.layers; ++i) {
    const std::string block = "model.layers." + std::to_string(i) + ".";
    add(block + "input_layernorm.weight", {config.width});
    add(block + "post_attention_layernorm.weight", {config.width});
    if (config.head_norms) {
      add(block + "self_attn.q_norm.weight", {config.head_width});
      add(block + "self_attn.k_norm.weight", {config.head_width});
    }
    linear(block + "self_attn.q_proj", config.query_width(), config.width, config.qkv_bias);
    linear(block + "self_attn.k_proj", config.kv_width(), config.width, config.qkv_bias);
    linear(block + "self_attn.v_proj", config.kv_width(), config.width, config.qkv_bias);
    linear(block + "self_attn.o_proj", config.width, config.query_width(), config.o_bias);
    linear(block + "mlp.gate_proj", config.ffn_width, config.width, config.mlp_bias);
    linear(block + "mlp.up_proj", config.ffn_width, config.width, config.mlp_bias);
    linear(block + "mlp.down_proj", config.width, config.ffn_width, config.mlp_bias);
  }
  add("model.norm.weight", {config.width});
  if (!config.tied_embeddings) add("lm_head.weight", {config.vocabulary, config.width});
  return out;
}

/// Every token of this vocabulary is a byte, printable ASCII from '!' on; the last one ends a text.
inline higgs::model::Vocabulary tiny_vocabulary(std::int64_t size = 40) {
  higgs::model::Vocabulary out;
  out.pre_tokenizer = higgs::model::PreTokenizer::Smollm;
  for (std::int64_t i = 0; i + 1 < size; ++i)
    out.tokens.push_back(std::string(1, static_cast<char>('!' + i)));
  out.tokens.push_back("<|end|>");
  out.added.push_back({static_cast<higgs::model::TokenId>(size - 1), "<|end|>", true});
  return out;
}

inline void write_safetensors(const std::filesystem::path& path, const std::vector<TinyTensor>& tensors) {
  std::vector<higgs::TensorShape> shapes;
  for (const TinyTensor& tensor : tensors) shapes.push_back({tensor.name, higgs::DType::F32, tensor.shape});
  higgs::SafetensorsWriter writer(path, shapes);
  for (const TinyTensor& tensor : tensors) writer.write(tensor.name, 0, bytes_of(tensor.bytes()));
  writer.commit();
}

/// A Hugging Face folder.
inline void write_folder(const std::filesystem::path& folder, const higgs::model::ModelConfig& config,
                         const std::vector<TinyTensor>& tensors) {
  std::filesystem::create_directories(folder);
  write_file(folder / "config.json", higgs::model::write_config(config));
  write_file(folder / "tokenizer.json",
             higgs::model::write_tokenizer_json(tiny_vocabulary(config.vocabulary)));
  write_safetensors(folder / "model.safetensors", tensors);
}
inline void write_folder(const std::filesystem::path& folder, const higgs::model::ModelConfig& config) {
  write_folder(folder, config, tiny_tensors(config));
}

/// The model of that folder.
inline higgs::model::Transformer load_tiny(const higgs::model::ModelConfig& config) {
  const TemporaryFolder folder;
  write_folder(folder.path(), config);
  return higgs::model::Transformer::load(higgs::model::ModelSource(folder.path()));
}

/// The GGUF file of a tiny model, with rows of q and k interleaved as converters write them for Llama.
inline GgufBuilder tiny_gguf(const higgs::model::ModelConfig& config) {
  constexpr std::uint32_t u32 = 4, i32 = 5, f32 = 6, text = 8, array = 9;
  const std::string& name = config.family;
  const bool interleaved = higgs::model::find_family(&higgs::model::Family::gguf, name)->interleaved;
  GgufBuilder out;
  out.add_value("general.architecture", text, gguf_text(name));
  const auto number = [&](const std::string& key, std::int64_t value) {
    out.add_value(name + "." + key, u32, raw(static_cast<std::uint32_t>(value)));
  };
  const auto real = [&](const std::string& key, double value) {
    out.add_value(name + "." + key, f32, raw(static_cast<float>(value)));
  };
  number("block_count", config.layers);
  number("context_length", config.context);
  number("embedding_length", config.width);
  number("feed_forward_length", config.ffn_width);
  number("attention.head_count", config.heads);
  number("attention.head_count_kv", config.kv_heads);
  number("attention.key_length", config.head_width);
  number("attention.value_length", config.head_width);
  real("rope.freq_base", config.rope_theta);
  for (const higgs::model::Number& each :
       higgs::model::find_family(&higgs::model::Family::name, name)->numbers)
    real(std::string(each.gguf), config.*each.place);

  const higgs::model::Vocabulary vocabulary = tiny_vocabulary(config.vocabulary);
  std::string tokens, types;
  for (const std::string& token : vocabulary.tokens) {
    tokens += gguf_text(token);
    types += raw(std::int32_t{token == "<|end|>" ? 3 : 1});
  }
  const auto list = [&](const std::string& key, std::uint32_t type, std::size_t count,
                        const std::string& values) {
    out.add_value(key, array, raw(type) + raw(std::uint64_t{count}) + values);
  };
  out.add_value("tokenizer.ggml.model", text, gguf_text("gpt2"));
  out.add_value("tokenizer.ggml.pre", text, gguf_text("smollm"));
  list("tokenizer.ggml.tokens", text, vocabulary.tokens.size(), tokens);
  list("tokenizer.ggml.token_type", i32, vocabulary.tokens.size(), types);
  list("tokenizer.ggml.merges", text, 0, "");
  out.add_value("tokenizer.ggml.eos_token_id", u32, raw(static_cast<std::uint32_t>(config.vocabulary - 1)));

  std::vector<std::string> names{"token_embd.weight", "output_norm.weight", "output.weight"};
  for (std::int64_t i = 0; i < config.layers; ++i)
    for (const char* part : {"attn_norm", "ffn_norm", "attn_q_norm", "attn_k_norm", "attn_q", "attn_k",
                             "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"})
      for (const char* kind : {".weight", ".bias"})
        names.push_back("blk." + std::to_string(i) + "." + part + kind);
  for (const TinyTensor& tensor : tiny_tensors(config)) {
    std::string stored_name;
    for (const std::string& each : names)
      if (higgs::model::hugging_face_name(each) == tensor.name) stored_name = each;
    TinyTensor stored = tensor;
    if (interleaved && (tensor.name.find(".q_proj.") != tensor.name.npos ||
                        tensor.name.find(".k_proj.") != tensor.name.npos)) {
      // Row s * half + j of a head becomes row 2 j + s.
      const std::int64_t cols = tensor.shape.size() == 2 ? tensor.shape[1] : 1, half = config.head_width / 2;
      for (std::int64_t row = 0; row < tensor.shape[0]; ++row) {
        const std::int64_t head = row / config.head_width, s = row % config.head_width / half, j = row % half;
        const std::int64_t to = head * config.head_width + 2 * j + s;
        for (std::int64_t c = 0; c < cols; ++c)
          stored.values[static_cast<std::size_t>(to * cols + c)] =
              tensor.values[static_cast<std::size_t>(row * cols + c)];
      }
    }
    std::vector<std::uint64_t> extents;
    for (auto extent = tensor.shape.rbegin(); extent != tensor.shape.rend(); ++extent)
      extents.push_back(static_cast<std::uint64_t>(*extent));
    out.add_tensor(stored_name, extents, 0, stored.bytes());
  }
  return out;
}

/// The configuration that a GGUF file states.
inline higgs::model::ModelConfig read_gguf(const std::filesystem::path& path) {
  const higgs::GgufFile file(path);
  return higgs::model::read_config(file, higgs::TensorSource(file), path.string());
}

/// `count` ids that visit the vocabulary of 40 without a simple order.
inline std::vector<higgs::model::TokenId> tiny_text(int count) {
  std::vector<higgs::model::TokenId> out;
  for (std::int64_t i = 0; i < count; ++i)
    out.push_back(static_cast<higgs::model::TokenId>((7 * i * i + 3 * i + 1) % 40));
  return out;
}
