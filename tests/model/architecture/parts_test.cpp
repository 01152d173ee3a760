// SPDX-License-Identifier: Apache-2.0
#include "architecture/parts.hpp"

#include "model/tiny_model.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

using namespace higgs::model;

TEST_CASE("a model is made of the tensors that are needed", "[model][parts]") {
  for (const std::string family : {"llama", "qwen2", "qwen3", "granite"}) {
    ModelConfig biased = tiny_config(family);
    biased.qkv_bias = biased.o_bias = biased.mlp_bias = true;
    biased.tied_embeddings = false;
    for (const ModelConfig& config : {tiny_config(family), biased}) {
      std::vector<std::pair<std::string, std::vector<std::int64_t>>> expected, found;
      for (const TinyTensor& tensor : tiny_tensors(config)) expected.emplace_back(tensor.name, tensor.shape);
      for (const NeededTensor& tensor : needed_tensors(config)) found.emplace_back(tensor.name, tensor.shape);
      std::sort(expected.begin(), expected.end());
      std::sort(found.begin(), found.end());
      CHECK(found == expected);
    }
  }
}

TEST_CASE("GGUF's names of tensors become Hugging Face's", "[model][parts]") {
  CHECK(hugging_face_name("token_embd.weight") == "model.embed_tokens.weight");
  CHECK(hugging_face_name("output.weight") == "lm_head.weight");
  CHECK(hugging_face_name("output_norm.weight") == "model.norm.weight");
  CHECK(hugging_face_name("blk.12.attn_q.weight") == "model.layers.12.self_attn.q_proj.weight");
  CHECK(hugging_face_name("blk.0.attn_k.bias") == "model.layers.0.self_attn.k_proj.bias");
  CHECK(hugging_face_name("blk.0.attn_q_norm.weight") == "model.layers.0.self_attn.q_norm.weight");
  CHECK(hugging_face_name("blk.0.ffn_norm.weight") == "model.layers.0.post_attention_layernorm.weight");
  for (const char* kept :
       {"", "blk.", "blk.0", "blk.0.", "blk.0.attn_q", "blk.0.other.weight", "rope_freqs.weight"})
    CHECK(hugging_face_name(kept) == kept);
}

TEST_CASE("linear layers of a block are listed once, each with its place and its readers", "[model][parts]") {
  const ModelConfig config = tiny_config("qwen3");
  Weights weights;
  weights.blocks.resize(2);
  const std::vector<BlockLinear> layers = block_linears(config);
  REQUIRE(layers.size() == 14);
  CHECK(&layers[7].in(weights) == &weights.blocks[1].q);
  CHECK(&layers[13].in(weights) == &weights.blocks[1].down);
  CHECK(layers[12].name == "model.layers.1.mlp.up_proj.weight");
  CHECK(weight_name(1, &Block::up) == layers[12].name);
  for (const BlockLinear& each : layers) {
    CHECK(is_block_linear(each.name));
    CHECK(linear_part(each.name) == each.part);
    CHECK(&part_at(std::get<Linear Block::*>(each.part->place)) == each.part);
    CHECK(split_name(each.name) ==
          std::pair(static_cast<std::int64_t>(each.block), std::string(each.part->name)));
  }
  // Numbers in a block of the layers that share input scales with each: q, k, v, o, gate, up, down.
  using Numbers = std::vector<std::vector<std::size_t>>;
  const Numbers alike{{0}, {1}, {2}, {3}, {4, 5}, {4, 5}, {6}};
  const Numbers fused{{0, 1, 2}, {0, 1, 2}, {0, 1, 2}, {3}, {4, 5}, {4, 5}, {6}};
  for (const Sharing sharing : {Sharing::Alike, Sharing::Fused})
    for (std::size_t i = 0; i < 7; ++i) {
      std::vector<std::string> expected, found;
      for (const std::size_t each : (sharing == Sharing::Alike ? alike : fused)[i])
        expected.push_back(layers[7 + each].name);
      for (const BlockLinear& each : sharing_layers(layers[7 + i].name, sharing)) found.push_back(each.name);
      CHECK(found == expected);
    }
  for (const std::string name : {"model.embed_tokens.weight", "model.layers.x.mlp.up_proj.weight",
                                 "model.layers.3", "model.layers.3.weight", "lm_head.weight"}) {
    CHECK(sharing_layers(name, Sharing::Fused).empty());
    CHECK(split_name(name) == std::pair(std::int64_t{-1}, name));
    CHECK(is_block_linear(name) == name.ends_with("up_proj.weight"));
    CHECK(linear_part(name) == nullptr);
  }
  for (const std::string name :
       {"model.layers.3.adapter.mlp.up_proj.weight", "model.layers.3.input_layernorm.weight"})
    CHECK(linear_part(name) == nullptr);
}
