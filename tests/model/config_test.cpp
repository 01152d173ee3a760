// SPDX-License-Identifier: Apache-2.0
#include "../../examples/model/config.hpp"

#include "tiny_model.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <string>
#include <vector>

using namespace higgs::model;
using Architecture = ModelConfig::Architecture;

namespace {

void check_equal(const ModelConfig& a, const ModelConfig& b) {
  CHECK(a.architecture == b.architecture);
  CHECK(a.layers == b.layers);
  CHECK(a.width == b.width);
  CHECK(a.ffn_width == b.ffn_width);
  CHECK(a.heads == b.heads);
  CHECK(a.kv_heads == b.kv_heads);
  CHECK(a.head_width == b.head_width);
  CHECK(a.vocabulary == b.vocabulary);
  CHECK(a.context == b.context);
  CHECK(a.rms_epsilon == Approx(b.rms_epsilon));  // GGUF keeps floats
  CHECK(a.rope_theta == b.rope_theta);
  CHECK(a.rope_scaling.kind == b.rope_scaling.kind);
  CHECK(a.rope_scaling.factor == b.rope_scaling.factor);
  CHECK(a.rope_scaling.low_freq_factor == b.rope_scaling.low_freq_factor);
  CHECK(a.rope_scaling.high_freq_factor == b.rope_scaling.high_freq_factor);
  CHECK(a.rope_scaling.original_context == b.rope_scaling.original_context);
  CHECK(a.tied_embeddings == b.tied_embeddings);
  CHECK(a.attention_bias == b.attention_bias);
  CHECK(a.begin_token == b.begin_token);
  CHECK(a.end_tokens == b.end_tokens);
}

// A small config.json, with `more` members that replace its own.
std::string config_json(const std::string& more) {
  return R"({"architectures":["LlamaForCausalLM"],"num_hidden_layers":2,"hidden_size":24,)"
         R"("intermediate_size":36,"num_attention_heads":4,"vocab_size":40)" +
         (more.empty() ? "" : "," + more) + "}";
}
ModelConfig read_json(const std::string& more) { return read_config(config_json(more), "config.json"); }
std::string refusal(const std::string& more) {
  return message_of<higgs::FormatError>([&] { read_json(more); });
}

}  // namespace

TEST_CASE("a configuration reads back as it was written", "[model][config]") {
  for (const Architecture architecture : {Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3}) {
    ModelConfig config = tiny_config(architecture);
    check_equal(read_config(write_config(config), "test"), config);
    config.begin_token = 3;
    config.end_tokens = {39, 5};
    config.rope_scaling = {RopeScaling::Kind::Llama3, 8, 1, 4, 16};
    check_equal(read_config(write_config(config), "test"), config);
    config.rope_scaling = {};
    config.rope_scaling.kind = RopeScaling::Kind::Linear;
    config.rope_scaling.factor = 2.5;
    check_equal(read_config(write_config(config), "test"), config);
  }
}

TEST_CASE("a GGUF file states the same configuration as config.json", "[model][config]") {
  for (const Architecture architecture : {Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3}) {
    ModelConfig config = tiny_config(architecture);
    GgufBuilder gguf = tiny_gguf(config);
    const std::string name = architecture == Architecture::Llama   ? "llama"
                             : architecture == Architecture::Qwen2 ? "qwen2"
                                                                   : "qwen3";
    gguf.add_value(name + ".rope.scaling.type", 8, gguf_text("linear"));
    gguf.add_value(name + ".rope.scaling.factor", 6, raw(4.0f));
    gguf.add_value("tokenizer.ggml.bos_token_id", 4, raw(std::uint32_t{7}));
    config.rope_scaling.kind = RopeScaling::Kind::Linear;
    config.rope_scaling.factor = 4;
    config.begin_token = 7;
    config.end_tokens = {39};
    const TemporaryFolder folder;
    write_file(folder / "model.gguf", gguf.build());
    check_equal(read_config(higgs::GgufFile(folder / "model.gguf"), "test"), config);
  }
}

TEST_CASE("what config.json leaves out has Hugging Face's defaults", "[model][config]") {
  const ModelConfig config = read_json("");
  CHECK(config.kv_heads == 4);
  CHECK(config.head_width == 6);
  CHECK(config.rope_theta == 10000);
  CHECK(config.rms_epsilon == 1e-6);
  CHECK_FALSE(config.tied_embeddings);
  CHECK_FALSE(config.attention_bias);
  CHECK_FALSE(config.begin_token.has_value());
  CHECK(config.end_tokens.empty());
  CHECK(read_json(R"("head_dim":null,"rope_scaling":null,"eos_token_id":null)").head_width == 6);
}

TEST_CASE("both spellings of the rotary embedding are read", "[model][config]") {
  const ModelConfig old_form =
      read_json(R"("rope_theta":500000.0,"rope_scaling":{"rope_type":"llama3","factor":8.0,)"
                R"("low_freq_factor":1.0,"high_freq_factor":4.0,)"
                R"("original_max_position_embeddings":8192})");
  const ModelConfig new_form =
      read_json(R"("rope_parameters":{"rope_theta":500000.0,"rope_type":"llama3","factor":8.0,)"
                R"("low_freq_factor":1.0,"high_freq_factor":4.0,)"
                R"("original_max_position_embeddings":8192})");
  check_equal(new_form, old_form);
  CHECK(old_form.rope_scaling.kind == RopeScaling::Kind::Llama3);
  CHECK(read_json(R"("rope_scaling":{"type":"linear","factor":2.0})").rope_scaling.kind ==
        RopeScaling::Kind::Linear);
  CHECK(read_json(R"("rope_scaling":{"rope_type":"default"})").rope_scaling.kind == RopeScaling::Kind::None);
}

TEST_CASE("a sliding window bounds the context, where it is used", "[model][config]") {
  CHECK(read_json(R"("max_position_embeddings":9000)").context == 9000);
  const std::string window = R"("max_position_embeddings":9000,"sliding_window":4096)";
  CHECK(read_config(config_json(window + R"(,"architectures":["MistralForCausalLM"])"), "test").context ==
        4096);
  CHECK(read_config(config_json(window + R"(,"architectures":["Qwen2ForCausalLM"])"), "test").context ==
        9000);
  CHECK(
      read_config(config_json(window + R"(,"architectures":["Qwen2ForCausalLM"],"use_sliding_window":true)"),
                  "test")
          .context == 4096);
}

TEST_CASE("end tokens are gathered from both files, each once", "[model][config]") {
  ModelConfig config = read_json(R"("eos_token_id":[5,6])");
  add_end_tokens(config, R"({"eos_token_id":[6,7]})", "generation_config.json");
  CHECK(config.end_tokens == std::vector<std::int32_t>{5, 6, 7});
  add_end_tokens(config, R"({"eos_token_id":8})", "generation_config.json");
  add_end_tokens(config, "{}", "generation_config.json");
  CHECK(config.end_tokens.back() == 8);
  CHECK_THROWS_AS(add_end_tokens(config, "{", "generation_config.json"), higgs::FormatError);
}

TEST_CASE("a configuration that is wrong or not supported is refused by name", "[model][config]") {
  using Catch::Contains;
  CHECK_THAT(refusal(R"("architectures":["GPT2LMHeadModel"])"),
             Contains("config.json") && Contains("GPT2LMHeadModel"));
  CHECK_THAT(refusal(R"("architectures":[])"), Contains("architecture"));
  CHECK_THAT(refusal(R"("architectures":[5])"), Contains("config.json"));
  CHECK_THAT(refusal(R"("hidden_act":"gelu")"), Contains("hidden_act"));
  CHECK_THAT(refusal(R"("num_hidden_layers":0)"), Contains("num_hidden_layers"));
  CHECK_THAT(refusal(R"("num_hidden_layers":-1)"), Contains("num_hidden_layers"));
  CHECK_THAT(refusal(R"("num_hidden_layers":1.5)"), Contains("num_hidden_layers"));
  CHECK_THAT(refusal(R"("num_hidden_layers":1e300)"), Contains("num_hidden_layers"));
  CHECK_THAT(refusal(R"("num_hidden_layers":"2")"), Contains("num_hidden_layers"));
  CHECK_THAT(refusal(R"("hidden_size":99999999999)"), Contains("hidden_size"));
  CHECK_THAT(refusal(R"("num_key_value_heads":3)"), Contains("multiple"));
  CHECK_THAT(refusal(R"("head_dim":7)"), Contains("even"));
  CHECK_THAT(refusal(R"("rms_norm_eps":0)"), Contains("rms_norm_eps"));
  CHECK_THAT(refusal(R"("rope_theta":-5)"), Contains("rope_theta"));
  CHECK_THAT(refusal(R"("partial_rotary_factor":0.5)"), Contains("partial_rotary_factor"));
  CHECK_THAT(refusal(R"("rope_scaling":{"rope_type":"yarn","factor":4.0})"),
             Contains("\"yarn\"") && Contains("linear and llama3"));
  CHECK_THAT(refusal(R"("rope_scaling":{"rope_type":"linear"})"), Contains("factor"));
  CHECK_THAT(refusal(R"("rope_scaling":{"rope_type":"llama3","factor":8})"), Contains("low_freq_factor"));
  for (const char* text : {"", "{", "[]", "null", "\"x\"", "\xff"})
    CHECK_THAT(message_of<higgs::FormatError>([&] { read_config(text, "config.json"); }),
               Contains("config.json"));
}

TEST_CASE("GGUF metadata that is wrong or not supported is refused by name", "[model][config]") {
  using Catch::Contains;
  const auto refusal_of = [](const auto& change) {
    GgufBuilder gguf = tiny_gguf(tiny_config(Architecture::Llama));
    change(gguf);
    const TemporaryFolder folder;
    write_file(folder / "model.gguf", gguf.build());
    return message_of<higgs::FormatError>(
        [&] { read_config(higgs::GgufFile(folder / "model.gguf"), "model.gguf"); });
  };
  CHECK(refusal_of([](GgufBuilder&) {}).empty());
  CHECK_THAT(refusal_of([](GgufBuilder& g) { g.values.erase(g.values.begin()); }), Contains("architecture"));
  CHECK_THAT(refusal_of([](GgufBuilder& g) { g.values.erase(g.values.begin() + 1); }),
             Contains("llama.block_count"));
  CHECK_THAT(refusal_of([](GgufBuilder& g) { g.tensors[0].name = "other"; }), Contains("token_embd.weight"));
  CHECK_THAT(refusal_of([](GgufBuilder& g) { g.add_value("llama.expert_count", 4, raw(std::uint32_t{8})); }),
             Contains("experts"));
  CHECK_THAT(
      refusal_of([](GgufBuilder& g) { g.add_value("llama.rope.dimension_count", 4, raw(std::uint32_t{4})); }),
      Contains("width"));
  CHECK_THAT(refusal_of([](GgufBuilder& g) { g.add_value("llama.rope.scaling.type", 8, gguf_text("yarn")); }),
             Contains("yarn"));
}

TEST_CASE("scaling stretches the slow rotations and leaves the fast ones", "[model][config]") {
  ModelConfig config = tiny_config(Architecture::Llama);
  config.head_width = 128;
  config.rope_theta = 500000;
  const std::vector<float> plain = rope_frequencies(config);
  REQUIRE(plain.size() == 64);
  CHECK(plain[0] == 1.0f);
  CHECK(static_cast<double>(plain[32]) == Approx(std::pow(500000.0, -0.5)));

  config.rope_scaling = {RopeScaling::Kind::Llama3, 8, 1, 4, 8192};
  const std::vector<float> scaled = rope_frequencies(config);
  for (std::size_t i = 0; i < 64; ++i) {
    const double wavelength = 2 * 3.14159265358979 / static_cast<double>(plain[i]);
    const double ratio = static_cast<double>(plain[i]) / static_cast<double>(scaled[i]);
    if (wavelength < 8192.0 / 4)
      CHECK(ratio == Approx(1));
    else if (wavelength > 8192)
      CHECK(ratio == Approx(8));
    else
      CHECK((ratio > 1 && ratio < 8));
    if (i > 0) CHECK(scaled[i] < scaled[i - 1]);
  }
  config.rope_scaling.kind = RopeScaling::Kind::Linear;
  for (std::size_t i = 0; i < 64; ++i)
    CHECK(static_cast<double>(plain[i] / rope_frequencies(config)[i]) == Approx(8));
}
