// SPDX-License-Identifier: Apache-2.0
#include "../../examples/model/source.hpp"

#include "tiny_model.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <string>
#include <vector>

using namespace higgs::model;
using Architecture = ModelConfig::Architecture;

TEST_CASE("GGUF's names of tensors become Hugging Face's", "[model][source]") {
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

TEST_CASE("tensors read alike from a folder, its file, and a GGUF file", "[model][source]") {
  ModelConfig config = tiny_config(Architecture::Llama);
  config.attention_bias = true;
  const TemporaryFolder folder;
  write_folder(folder / "model", config);
  write_file(folder / "model.gguf", tiny_gguf(config).build());
  const ModelSource sources[] = {ModelSource(folder / "model"),
                                 ModelSource(folder / "model" / "model.safetensors"),
                                 ModelSource(folder / "model.gguf")};
  for (const ModelSource& source : sources) {
    REQUIRE(source.config().has_value());
    CHECK(source.tensors().size() == tiny_tensors(config).size());
    CHECK(source.find("nothing") == nullptr);
    for (const TinyTensor& expected : tiny_tensors(config)) {
      const ModelTensor* tensor = source.find(expected.name);
      REQUIRE(tensor);
      std::vector<float> values(expected.values.size()), by_rows;
      tensor->read_rows(0, tensor->rows(), values);
      CHECK(values == expected.values);
      for (std::int64_t row = 0; row < tensor->rows(); ++row) {
        std::vector<float> one(static_cast<std::size_t>(tensor->cols()));
        tensor->read_rows(row, 1, one);
        by_rows.insert(by_rows.end(), one.begin(), one.end());
      }
      CHECK(by_rows == expected.values);
    }
    const Tokenizer tokenizer(source.vocabulary(), "test");
    CHECK(tokenizer.encode("A<|end|>!") == std::vector<TokenId>{32, 39, 0});
  }
}

TEST_CASE("a lone safetensors file has neither configuration nor tokenizer", "[model][source]") {
  const TemporaryFolder folder;
  write_safetensors(folder / "some.safetensors", {tiny_tensor("a", {3, 4}), tiny_tensor("b", {5})});
  const ModelSource source(folder / "some.safetensors");
  CHECK_FALSE(source.config().has_value());
  CHECK(source.tensors().size() == 2);
  CHECK(source.find("a")->is_matrix());
  CHECK_FALSE(source.find("b")->is_matrix());
  CHECK_THROWS_AS(source.require_config(), higgs::FormatError);
  CHECK_THROWS_AS(source.vocabulary(), higgs::FormatError);
}

TEST_CASE("what cannot be opened is named", "[model][source]") {
  const TemporaryFolder folder;
  CHECK_THAT(message_of<higgs::IoError>([&] { ModelSource(folder / "nothing"); }),
             Catch::Contains("nothing"));
  CHECK_THAT(message_of<higgs::IoError>([&] { ModelSource(folder.path()); }),
             Catch::Contains("model.safetensors"));
  write_file(folder / "text", "some text that is no model");
  CHECK_THAT(message_of<higgs::FormatError>([&] { ModelSource(folder / "text"); }), Catch::Contains("text"));
}

TEST_CASE("a GGUF vocabulary that is damaged or of another kind is refused", "[model][source]") {
  using Catch::Contains;
  constexpr std::uint32_t text = 8, array = 9, u32 = 4;
  const ModelConfig config = tiny_config(Architecture::Llama);
  const auto key_at = [](const GgufBuilder& gguf, const std::string& key) {
    std::size_t at = 0;
    while (gguf.values.at(at).find(key) == std::string::npos) ++at;
    return at;
  };
  const auto refusal = [&](const std::string& key, std::uint32_t type, const std::string& value) {
    GgufBuilder gguf = tiny_gguf(config);
    gguf.values[key_at(gguf, key)] = gguf_text(key) + raw(type) + value;
    const TemporaryFolder folder;
    write_file(folder / "model.gguf", gguf.build());
    const ModelSource source(folder / "model.gguf");
    return message_of<higgs::FormatError>([&] { source.vocabulary(); });
  };
  const auto texts = [](std::uint64_t count, const std::string& values) {
    return raw(std::uint32_t{8}) + raw(count) + values;
  };
  CHECK(refusal("tokenizer.ggml.pre", text, gguf_text("smollm")).empty());
  CHECK_THAT(refusal("tokenizer.ggml.pre", text, gguf_text("tekken")),
             Contains("model.gguf") && Contains("tekken"));
  CHECK_THAT(refusal("tokenizer.ggml.model", text, gguf_text("llama")), Contains("\"llama\""));
  CHECK_THAT(refusal("tokenizer.ggml.tokens", u32, raw(std::uint32_t{5})), Contains("tokenizer.ggml.tokens"));
  CHECK_THAT(refusal("tokenizer.ggml.tokens", array, texts(1, gguf_text("a"))), Contains("length"));
  CHECK_THAT(
      refusal("tokenizer.ggml.tokens", array, raw(u32) + raw(std::uint64_t{40}) + std::string(160, 'x')),
      Contains("texts"));
  CHECK_THAT(refusal("tokenizer.ggml.merges", array, texts(1, gguf_text("ab"))), Contains("no pair"));
}

TEST_CASE("a Llama whose q is not made of whole heads is refused", "[model][source]") {
  GgufBuilder gguf = tiny_gguf(tiny_config(Architecture::Llama));
  for (auto& tensor : gguf.tensors)
    if (tensor.name == "blk.1.attn_q.weight") tensor.extents = {32, 18};
  for (auto& tensor : gguf.tensors)
    if (tensor.name == "blk.1.attn_k.weight") tensor.extents = {24, 11};
  const TemporaryFolder folder;
  write_file(folder / "model.gguf", gguf.build());
  CHECK_THAT(message_of<higgs::FormatError>([&] { ModelSource(folder / "model.gguf"); }),
             Catch::Contains("blk.1.attn_k.weight") && Catch::Contains("heads"));
}
