// SPDX-License-Identifier: Apache-2.0
#include "architecture/config.hpp"

#include "model/tiny_model.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <nlohmann/json.hpp>

#include <cmath>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <utility>
#include <vector>

using namespace higgs::model;

namespace {

void check_equal(const ModelConfig& a, const ModelConfig& b) {
  CHECK(a.family == b.family);
  CHECK(a.layers == b.layers);
  CHECK(a.width == b.width);
  CHECK(a.ffn_width == b.ffn_width);
  CHECK(a.heads == b.heads);
  CHECK(a.kv_heads == b.kv_heads);
  CHECK(a.head_width == b.head_width);
  CHECK(a.vocabulary == b.vocabulary);
  CHECK(a.context == b.context);
  for (const Number& each : find_family(&Family::name, b.family)->numbers)
    CHECK(a.*each.place == Approx(b.*each.place));  // GGUF keeps floats
  CHECK(a.rope_theta == b.rope_theta);
  CHECK(a.rope_scaling == b.rope_scaling);
  CHECK(a.tied_embeddings == b.tied_embeddings);
  CHECK(a.head_norms == b.head_norms);
  CHECK(a.qkv_bias == b.qkv_bias);
  CHECK(a.o_bias == b.o_bias);
  CHECK(a.mlp_bias == b.mlp_bias);
  CHECK(a.quantization == b.quantization);
  CHECK(a.begin_token == b.begin_token);
  CHECK(a.end_tokens == b.end_tokens);
}

// A small config.json, with `more` members that replace its own.
std::string config_json(const std::string& more) {
  auto object =
      nlohmann::json::parse(R"({"architectures":["LlamaForCausalLM"],"num_hidden_layers":2,"hidden_size":24,)"
                            R"("intermediate_size":36,"num_attention_heads":4,"vocab_size":40})");
  object.update(nlohmann::json::parse("{" + more + "}"));
  return object.dump();
}
ModelConfig read_json(const std::string& more) { return read_config(config_json(more), "config.json"); }
// A Llama with heads of 16, a context of 64 and the rope_scaling given.
ModelConfig read_rope(const std::string& scaling, const std::string& more = "") {
  return read_json(R"("hidden_size":64,"head_dim":16,"max_position_embeddings":64,"rope_scaling":)" +
                   scaling + more);
}
std::string refusal(const std::string& more) {
  return message_of<higgs::FormatError>([&] { read_json(more); });
}

}  // namespace

TEST_CASE("a configuration reads back as it was written", "[model][config]") {
  for (const std::string family : {"llama", "qwen2", "qwen3", "granite"}) {
    ModelConfig config = tiny_config(family);
    check_equal(read_config(write_config(config), "test"), config);
    config.begin_token = 3;
    config.end_tokens = {39, 5};
    config.rope_scaling = {RopeScaling::Kind::Llama3, 8, 1, 4, 16};
    check_equal(read_config(write_config(config), "test"), config);
    config.rope_scaling = {.kind = RopeScaling::Kind::Linear, .factor = 2.5};
    check_equal(read_config(write_config(config), "test"), config);
    config.rope_scaling = {.kind = RopeScaling::Kind::Yarn,
                           .factor = 3,
                           .original_context = 16,
                           .beta_fast = 20,
                           .beta_slow = 2,
                           .truncate = false,
                           .attention_factor = 1.25};
    check_equal(read_config(write_config(config), "test"), config);
    config.rope_scaling = {
        .kind = RopeScaling::Kind::LongRope, .original_context = 16, .attention_factor = 1.5};
    for (std::int64_t i = 0; i < config.head_width / 2; ++i) {
      config.rope_scaling.short_factor.push_back(1 + 0.1 * static_cast<double>(i));
      config.rope_scaling.long_factor.push_back(2 + 0.3 * static_cast<double>(i));
    }
    check_equal(read_config(write_config(config), "test"), config);
    config.mlp_bias = family == "llama" || family == "granite";
    check_equal(read_config(write_config(config), "test"), config);
  }
}

TEST_CASE("a GGUF file states the same configuration as config.json", "[model][config]") {
  for (const std::string family : {"llama", "qwen2", "qwen3", "granite"}) {
    ModelConfig config = tiny_config(family);
    GgufBuilder gguf = tiny_gguf(config);
    gguf.add_value(family + ".rope.scaling.type", 8, gguf_text("linear"));
    gguf.add_value(family + ".rope.scaling.factor", 6, raw(4.0f));
    gguf.add_value("tokenizer.ggml.bos_token_id", 4, raw(std::uint32_t{7}));
    config.rope_scaling.kind = RopeScaling::Kind::Linear;
    config.rope_scaling.factor = 4;
    config.begin_token = 7;
    config.end_tokens = {39};
    const TemporaryFolder folder;
    write_file(folder / "model.gguf", gguf.build());
    check_equal(read_gguf(folder / "model.gguf"), config);
  }
}

TEST_CASE("what config.json leaves out has Hugging Face's defaults", "[model][config]") {
  const ModelConfig config = read_json("");
  CHECK(config.kv_heads == 4);
  CHECK(config.head_width == 6);
  CHECK(config.rope_theta == 10000);
  CHECK(config.rms_epsilon == 1e-6);
  CHECK_FALSE(config.tied_embeddings);
  CHECK_FALSE(config.qkv_bias);
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
  CHECK(
      read_config(config_json(window + R"(,"num_key_value_heads":2,"architectures":["MistralForCausalLM"])"),
                  "test")
          .context == 4096);
  CHECK(read_config(config_json(window + R"(,"num_key_value_heads":2,"architectures":["Qwen2ForCausalLM"])"),
                    "test")
            .context == 9000);
  CHECK(read_config(config_json(window + R"(,"num_key_value_heads":2,"architectures":["Qwen2ForCausalLM"],)"
                                         R"("use_sliding_window":true,"max_window_layers":1)"),
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
  CHECK_THAT(refusal(R"("rope_scaling":{"rope_type":"su","factor":4.0})"),
             Contains("rope_scaling.rope_type") && Contains("\"su\"") && Contains("\"yarn\""));
  CHECK_THAT(refusal(R"("rope_scaling":{"rope_type":"linear"})"), Contains("factor"));
  CHECK_THAT(refusal(R"("rope_scaling":{"rope_type":"llama3","factor":8})"), Contains("low_freq_factor"));
  for (const char* text : {"", "{", "[]", "null", "\"x\"", "\xff"})
    CHECK_THAT(message_of<higgs::FormatError>([&] { read_config(text, "config.json"); }),
               Contains("config.json"));
}

TEST_CASE("GGUF metadata that is wrong or not supported is refused by name", "[model][config]") {
  using Catch::Contains;
  const auto refusal_of = [](const auto& change) {
    GgufBuilder gguf = tiny_gguf(tiny_config("llama"));
    change(gguf);
    const TemporaryFolder folder;
    write_file(folder / "model.gguf", gguf.build());
    return message_of<higgs::FormatError>([&] { read_gguf(folder / "model.gguf"); });
  };
  CHECK(refusal_of([](GgufBuilder&) {}).empty());
  CHECK_THAT(refusal_of([](GgufBuilder& g) { g.values.erase(g.values.begin()); }), Contains("architecture"));
  CHECK_THAT(refusal_of([](GgufBuilder& g) { g.values.erase(g.values.begin() + 1); }),
             Contains("llama.block_count"));
  CHECK_THAT(refusal_of([](GgufBuilder& g) {
               std::erase_if(g.values, [](const std::string& value) {
                 return value.starts_with(gguf_text("llama.attention.layer_norm_rms_epsilon"));
               });
             }),
             Contains("llama.attention.layer_norm_rms_epsilon is missing"));
  CHECK_THAT(refusal_of([](GgufBuilder& g) { g.tensors[0].name = "other"; }), Contains("token_embd.weight"));
  CHECK_THAT(refusal_of([](GgufBuilder& g) { g.add_value("llama.expert_count", 4, raw(std::uint32_t{8})); }),
             Contains("experts"));
  CHECK_THAT(
      refusal_of([](GgufBuilder& g) { g.add_value("llama.rope.dimension_count", 4, raw(std::uint32_t{4})); }),
      Contains("width"));
  CHECK_THAT(refusal_of([](GgufBuilder& g) { g.add_value("llama.rope.scaling.type", 8, gguf_text("su")); }),
             Contains("llama.rope.scaling.type") && Contains("\"su\"") && Contains("\"yarn\""));
}

TEST_CASE("a key of GGUF metadata that asks for another computation is refused by name", "[model][config]") {
  const TemporaryFolder folder;
  for (const std::string family : {"llama", "qwen2", "qwen3", "granite"}) {
    const auto refusal_of = [&](const std::string& key, std::uint32_t type, const std::string& value) {
      GgufBuilder gguf = tiny_gguf(tiny_config(family));
      gguf.add_value(family + "." + key, type, value);
      write_file(folder / "model.gguf", gguf.build());
      return message_of<higgs::FormatError>([&] { read_gguf(folder / "model.gguf"); });
    };
    const auto names_key = [&](const std::string& key) {
      return Catch::Contains("model.gguf: " + family + "." + key);
    };
    for (const std::string key :
         {"attention.clamp_kqv", "attention.max_alibi_bias", "attention.temperature_scale",
          "attention.sliding_window_pattern", "attention.nobody_knows", "rope.dimension_sections"})
      CHECK_THAT(refusal_of(key, 6, raw(1.0f)), names_key(key));
    for (const std::string key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
      CHECK_THAT(refusal_of(key, 6, raw(30.0f)), names_key(key));
      CHECK(refusal_of(key, 6, raw(0.0f)).empty());
    }
    CHECK_THAT(refusal_of("vocab_size", 4, raw(std::uint32_t{41})), names_key("vocab_size"));
    CHECK(refusal_of("vocab_size", 4, raw(std::uint32_t{40})).empty());
    CHECK(refusal_of("attention.layer_norm_epsilon", 6, raw(1e-5f)).empty());
    if (family == "granite") continue;  // has the multipliers
    for (const std::string key : {"embedding_scale", "residual_scale", "logit_scale"}) {
      CHECK_THAT(refusal_of(key, 6, raw(3.0f)), names_key(key));
      CHECK(refusal_of(key, 6, raw(1.0f)).empty());
    }
    CHECK_THAT(refusal_of("attention.scale", 6, raw(0.5f)), names_key("attention.scale"));
  }
}

TEST_CASE("scaling stretches the slow rotations and leaves the fast ones", "[model][config]") {
  ModelConfig config = tiny_config("llama");
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

TEST_CASE("YaRN and LongRoPE are those of transformers", "[model][config]") {
  struct Golden {
    std::string name, scaling, more;
    std::int64_t positions;
    double attention;
    std::vector<double> frequencies;
  };
  const std::string yarn = R"("rope_type":"yarn","factor":4.0,"original_max_position_embeddings":)";
  const std::string factors = R"({"rope_type":"longrope","short_factor":[1,1.1,1.2,1.3,1.4,1.5,1.6,1.7],)"
                              R"("long_factor":[1,2,3,4,5,6,7,8.5])";
  const std::vector<double> plain_yarn{1,      0.079056941,    0.025,   0.00790569466,
                                       0.0025, 0.000790569466, 0.00025, 7.90569466e-05};
  const std::vector<double> shorter{1,
                                    0.287479758,
                                    0.0833333358,
                                    0.0243252143,
                                    0.00714285718,
                                    0.00210818532,
                                    0.000624999986,
                                    0.000186016332};
  // By transformers 5.24: ROPE_INIT_FUNCTIONS of LlamaConfig.
  const Golden all[] = {
      {"yarn", "{" + yarn + "16}", "", 64, 1.138629436111989, plain_yarn},
      {"yarn, long context",
       "{" + yarn + "32768}",
       R"(,"rope_theta":1e6,"max_position_embeddings":131072)",
       64,
       1.138629436111989,
       {1, 0.177827939, 0.0316227786, 0.00421755994, 0.0005, 4.44569851e-05, 7.90569356e-06, 1.40585337e-06}},
      {"yarn, fractions",
       "{" + yarn + R"(16,"truncate":false,"beta_fast":2.5,"beta_slow":0.5})",
       "",
       64,
       1.138629436111989,
       {1, 0.149284959, 0.025, 0.00790569466, 0.0025, 0.000790569466, 0.00025, 7.90569466e-05}},
      {"yarn, mscale",
       "{" + yarn + R"(512,"mscale":0.707,"mscale_all_dim":1.3})",
       R"(,"max_position_embeddings":2048)",
       64,
       0.9303457183160174,
       {1, 0.25693506, 0.0625, 0.0138349654, 0.0025, 0.000790569466, 0.00025, 7.90569466e-05}},
      {"yarn, attention", "{" + yarn + R"(16,"attention_factor":1.5})", "", 64, 1.5, plain_yarn},
      {"yarn, derived factor",
       R"({"type":"yarn","factor":null,"original_max_position_embeddings":16,"finetuned":true})", "", 64,
       1.138629436111989, plain_yarn},
      {"longrope, short", factors + R"(,"original_max_position_embeddings":16})", "", 16, 1.224744871391589,
       shorter},
      {"longrope, long",
       factors + R"(,"original_max_position_embeddings":16})",
       "",
       17,
       1.224744871391589,
       {1, 0.158113882, 0.0333333351, 0.00790569466, 0.002, 0.00052704633, 0.000142857141, 3.72032664e-05}},
      {"longrope, factor", factors + R"(,"factor":8.0,"original_max_position_embeddings":16})", "", 16,
       1.3228756555322954, shorter},
      {"longrope, outer", factors + "}", R"(,"original_max_position_embeddings":32)", 32, 1.0954451150103321,
       shorter}};
  for (const Golden& golden : all) {
    INFO(golden.name);
    const ModelConfig config = read_rope(golden.scaling, golden.more);
    CHECK(config.rope_scaling.attention_factor == Approx(golden.attention).epsilon(1e-12));
    const std::vector<float> found = rope_frequencies(config, golden.positions);
    REQUIRE(found.size() == golden.frequencies.size());
    for (std::size_t i = 0; i < found.size(); ++i)
      CHECK(static_cast<double>(found[i]) == Approx(golden.frequencies[i]).epsilon(1e-6));
  }
}

TEST_CASE("rotary positions are resolved as transformers resolves them", "[model][config]") {
  const auto theta = [](const std::string& more) { return read_json(more).rope_theta; };
  CHECK(theta(R"("rope_theta":1e6)") == 1e6);
  CHECK(theta(R"("rope_theta":1e6,"rope_parameters":{})") == 1e6);
  CHECK(theta(R"("rope_theta":1e6,"rope_parameters":null)") == 1e6);
  CHECK(theta(R"("rope_theta":1e6,"rope_parameters":{"rope_type":"default"})") == 1e6);
  CHECK(theta(R"("rope_theta":1e6,"rope_parameters":{"rope_type":"default","rope_theta":5e5})") == 5e5);
  CHECK(theta(R"("rope_theta":1e6,"rope_scaling":{"type":"linear","factor":2})") == 1e6);
  CHECK(theta(R"("rope_theta":1e6,"rope_scaling":{"type":"linear","factor":2,"rope_theta":5e5})") == 5e5);
  CHECK(theta(R"("rope_parameters":{"rope_type":"default"})") == 10000);

  const ModelConfig both =
      read_json(R"("rope_theta":1e6,"rope_scaling":{"type":"linear","factor":2},)"
                R"("rope_parameters":{"rope_type":"linear","factor":4,"rope_theta":5e5})");
  CHECK(both.rope_theta == 1e6);
  CHECK(both.rope_scaling == RopeScaling{.kind = RopeScaling::Kind::Linear, .factor = 2});
  CHECK(read_json(R"("rope_scaling":{},"rope_parameters":{"rope_type":"linear","factor":4})")
            .rope_scaling.factor == 4);
  const std::string llama3 =
      R"("max_position_embeddings":4096,"rope_scaling":{"rope_type":"llama3","factor":8,)"
      R"("low_freq_factor":1,"high_freq_factor":4)";
  CHECK(read_json(llama3 + "}").rope_scaling.original_context == 4096);
  CHECK(read_json(llama3 + R"(,"original_max_position_embeddings":512})").rope_scaling.original_context ==
        512);
  CHECK(
      read_json(llama3 + R"(,"original_max_position_embeddings":512},"original_max_position_embeddings":256)")
          .rope_scaling.original_context == 256);
  using Catch::Contains;
  CHECK_THAT(refusal(R"("rope_scaling":{"rope_type":"linear","type":"yarn","factor":2})"),
             Contains("rope_scaling.rope_type") && Contains("rope_scaling.type"));
  CHECK_THAT(refusal(R"("rope_scaling":{"rope_type":"linear","factor":2,"mrope_section":[1,2,3]})"),
             Contains("rope_scaling.mrope_section"));
  CHECK_THAT(refusal(R"("rope_parameters":{"full_attention":{"rope_theta":1e6}})"),
             Contains("rope_parameters.full_attention"));
}

TEST_CASE("dynamic scaling is none within the context, and bounds the context", "[model][config]") {
  const ModelConfig config = read_rope(R"({"rope_type":"dynamic","factor":4.0})");
  CHECK(config.rope_scaling == RopeScaling{});
  CHECK(config.context == 64);
}

namespace {

// What a key may hold by mistake, as JSON.
const std::vector<std::string> wrong_values{R"("")",
                                            R"("x")",
                                            R"("7")",
                                            R"("true")",
                                            "null",
                                            "true",
                                            "false",
                                            "0",
                                            "7",
                                            "-1",
                                            "-0.5",
                                            "1.5",
                                            "1e300",
                                            "-1e300",
                                            "1e-300",
                                            "[]",
                                            "[7]",
                                            "[null]",
                                            R"(["x"])",
                                            "[1.5,-1]",
                                            "{}",
                                            R"({"a":1})",
                                            "9223372036854775808",
                                            "18446744073709551615",
                                            "-9223372036854775808",
                                            "4294967296"};

// All that read_config() finds, as a text.
std::string everything(const ModelConfig& config) { return write_config(config) + config.quantization; }

// Checks that `change(value)` is refused by name, or changes what is read from what `erased` is.
void check_obeyed_or_refused(const std::string& key, const std::string& value, const std::string& held,
                             const std::function<ModelConfig()>& changed, const std::string& base,
                             const std::string& without) {
  if (value == held) return;
  INFO(key << " = " << value << " in place of " << held);
  std::string found;
  const std::string message = message_of<higgs::FormatError>([&] { found = everything(changed()); });
  if (!message.empty()) {
    CHECK_THAT(message, Catch::Contains("config.json") && Catch::Contains(key));
    return;
  }
  // These mean by definition what the lack of the key means.
  static const std::set<std::string> by_formula{"mscale", "mscale_all_dim", "beta_fast", "beta_slow"};
  const bool absent = value == "null" || value == "{}" || (key == "architectures" && value == "[]") ||
                      (by_formula.contains(key) && value == "0");
  if (absent && key != "factor")  // null: max_position_embeddings / original_max_position_embeddings
    CHECK(found == without);
  else
    CHECK(found != base);
}

}  // namespace

TEST_CASE("a key of config.json is obeyed or refused by name, whatever it holds", "[model][config]") {
  using nlohmann::json;
  const json common = json::parse(
      R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","num_hidden_layers":2,"hidden_size":64,)"
      R"("intermediate_size":36,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":8,"vocab_size":40,)"
      R"("max_position_embeddings":64,"rms_norm_eps":1e-5,"rope_theta":5e4,"hidden_act":"silu",)"
      R"("hidden_activation":"silu","tie_word_embeddings":true,"attention_bias":true,"mlp_bias":true,)"
      R"("partial_rotary_factor":1.0,"bos_token_id":3,"eos_token_id":[4,5],)"
      R"("quantization_config":{"quant_method":"fp8"}})");
  const auto with = [&](const char* more) {
    json out = common;
    out.update(json::parse(more));
    return out;
  };
  const std::vector<json> bases{
      with(R"({"rope_scaling":{"rope_type":"linear","factor":2.0}})"),
      with(R"({"rope_parameters":{"type":"yarn","factor":3.0,"original_max_position_embeddings":16,)"
           R"("beta_fast":20,"beta_slow":2,"truncate":false,"mscale":0.7,"mscale_all_dim":1.3}})"),
      with(R"({"original_max_position_embeddings":16,"rope_scaling":{"rope_type":"yarn","factor":3.0,)"
           R"("attention_factor":1.5,"partial_rotary_factor":1}})"),
      with(R"({"rope_scaling":{"rope_type":"llama3","factor":3.0,"low_freq_factor":2,"high_freq_factor":3,)"
           R"("original_max_position_embeddings":16}})"),
      with(R"({"rope_scaling":{"rope_type":"longrope","factor":3.0,"short_factor":[1,2,3,4],)"
           R"("long_factor":[2,3,4,5],"original_max_position_embeddings":16}})"),
      with(R"({"architectures":["Qwen3ForCausalLM"],"model_type":"qwen3","mlp_bias":false,)"
           R"("use_sliding_window":true,"sliding_window":32,"max_window_layers":1})"),
      with(
          R"({"architectures":["Qwen2ForCausalLM"],"model_type":"qwen2","mlp_bias":false,)"
          R"("use_sliding_window":true,"sliding_window":32,"layer_types":["full_attention","sliding_attention"]})"),
      with(R"({"quantization_config":{"quant_method":"compressed-tensors","format":"float-quantized"}})")};
  for (const json& base : bases) {
    const auto read = [](const json& file) { return read_config(file.dump(), "config.json"); };
    const std::string plain = everything(read(base));
    const auto check_members = [&](const json::json_pointer& at) {
      for (const auto& [key, held] : base.at(at).items()) {
        json without = base;
        without.at(at).erase(key);
        std::string erased;
        message_of<higgs::FormatError>([&] { erased = everything(read(without)); });
        for (const std::string& value : wrong_values) {
          if (key == "max_window_layers" && value == "0")
            continue;  // a layer more slides: no less bounds the rest
          if (key == "use_sliding_window" && value == held.dump()) continue;
          json file = base;
          file.at(at)[key] = json::parse(value);
          check_obeyed_or_refused(key, value, held.dump(), [&] { return read(file); }, plain, erased);
        }
      }
    };
    check_members(json::json_pointer(""));
    for (const auto& [key, held] : base.items())
      if (held.is_object()) check_members(json::json_pointer("/" + key));
  }
}

TEST_CASE("whole numbers may be written as floats", "[model][config]") {
  CHECK(read_json(R"("hidden_size":24.0,"vocab_size":4e1,"max_position_embeddings":64.0)").width == 24);
}

namespace {

// A value of GGUF metadata: its type and its bytes.
struct GgufEntry {
  std::uint32_t type;
  std::string bytes;
  bool operator==(const GgufEntry&) const = default;
};

constexpr std::uint32_t u32 = 4, i32 = 5, f32 = 6, boolean = 7, text = 8, array = 9, u64 = 10, f64 = 12;

template <class T>
GgufEntry gguf_array_of(std::uint32_t type, std::initializer_list<T> values) {
  std::string bytes = raw(type) + raw(std::uint64_t{values.size()});
  for (const T& value : values) bytes += raw(value);
  return {array, bytes};
}

// What a key of GGUF metadata may hold by mistake.
std::vector<GgufEntry> wrong_entries() {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinite = std::numeric_limits<float>::infinity();
  return {{u32, raw(std::uint32_t{0})},
          {u32, raw(std::uint32_t{7})},
          {u32, raw(std::uint32_t{4294967295u})},
          {u64, raw(std::uint64_t{UINT64_MAX})},
          {i32, raw(std::int32_t{-1})},
          {i32, raw(std::int32_t{7})},
          {f32, raw(1.5f)},
          {f32, raw(-0.5f)},
          {f32, raw(nan)},
          {f32, raw(infinite)},
          {f64, raw(1e300)},
          {boolean, raw(std::uint8_t{0})},
          {boolean, raw(std::uint8_t{1})},
          {text, gguf_text("")},
          {text, gguf_text("x")},
          {text, gguf_text("7")},
          gguf_array_of<std::uint32_t>(u32, {}),
          gguf_array_of<std::uint32_t>(u32, {7}),
          gguf_array_of<std::uint32_t>(u32, {7, 7}),
          gguf_array_of<std::uint32_t>(u32, {4, 2}),
          gguf_array_of<std::uint32_t>(u32, {0, 0}),
          gguf_array_of<std::int32_t>(i32, {-1, -1}),
          gguf_array_of<float>(f32, {1.5f, 1.5f}),
          {array, raw(text) + raw(std::uint64_t{2}) + gguf_text("7") + gguf_text("7")}};
}

void set_value(GgufBuilder& gguf, const std::string& key, const GgufEntry& entry) {
  std::erase_if(gguf.values, [&](const std::string& value) { return value.starts_with(gguf_text(key)); });
  gguf.add_value(key, entry.type, entry.bytes);
}

}  // namespace

TEST_CASE("a key of GGUF metadata is obeyed or refused by name, whatever it holds", "[model][config]") {
  using Entries = std::vector<std::pair<std::string, GgufEntry>>;
  const auto count = [](std::uint32_t value) { return GgufEntry{u32, raw(value)}; };
  const auto real = [](float value) { return GgufEntry{f32, raw(value)}; };
  const auto named = [](const char* value) { return GgufEntry{text, gguf_text(value)}; };
  const Entries common{{"general.architecture", named("llama")},
                       {"llama.block_count", count(2)},
                       {"llama.context_length", count(64)},
                       {"llama.embedding_length", count(24)},
                       {"llama.feed_forward_length", count(36)},
                       {"llama.attention.head_count", count(4)},
                       {"llama.attention.head_count_kv", count(2)},
                       {"llama.attention.key_length", count(6)},
                       {"llama.attention.value_length", count(6)},
                       {"llama.rope.dimension_count", count(6)},
                       {"llama.attention.layer_norm_rms_epsilon", real(1e-5f)},
                       {"llama.rope.freq_base", real(5e4f)},
                       {"llama.expert_count", count(0)},
                       {"llama.attention.causal", {boolean, raw(std::uint8_t{1})}},
                       {"tokenizer.ggml.bos_token_id", count(3)},
                       {"tokenizer.ggml.eos_token_id", count(39)},
                       {"tokenizer.ggml.eot_token_id", count(5)}};
  const std::string rope = "llama.rope.";
  const std::vector<Entries> bases{
      {{rope + "scaling.type", named("linear")}, {rope + "scaling.factor", real(2)}},
      {{rope + "scaling.factor", real(2)}, {rope + "scaling.attn_factor", real(1.25f)}},
      {{rope + "scale_linear", real(3)}, {"llama.attention.sliding_window", count(32)}},
      {{rope + "scaling.type", named("yarn")},
       {rope + "scaling.factor", real(4)},
       {rope + "scaling.attn_factor", real(1.25f)},
       {rope + "scaling.original_context_length", count(16)},
       {rope + "scaling.yarn_log_multiplier", real(0.5f)},
       {rope + "scaling.yarn_beta_fast", real(20)},
       {rope + "scaling.yarn_beta_slow", real(2)},
       {rope + "scaling.yarn_ext_factor", real(1)},
       {rope + "scaling.yarn_attn_factor", real(1)}},
      {{rope + "scaling.type", named("longrope")},
       {rope + "scaling.attn_factor", real(1.25f)},
       {rope + "scaling.original_context_length", count(16)}}};
  const TemporaryFolder folder;
  for (const Entries& more : bases) {
    GgufBuilder base = tiny_gguf(tiny_config("llama"));
    Entries all = common;
    all.insert(all.end(), more.begin(), more.end());
    for (const auto& [key, entry] : all) set_value(base, key, entry);
    if (more.front().second == named("longrope"))
      for (const char* name : {"rope_factors_short.weight", "rope_factors_long.weight"})
        base.add_tensor(name, {3}, 0, raw(1.5f) + raw(2.0f) + raw(3.0f));
    const auto read = [&](const GgufBuilder& gguf) {
      write_file(folder / "model.gguf", gguf.build());
      return everything(read_gguf(folder / "model.gguf"));
    };
    const std::string plain = read(base);
    for (const auto& [key, held] : all) {
      std::size_t which = 0;
      for (const GgufEntry& entry : wrong_entries()) {
        INFO(key << ", wrong entry " << which++);
        if (entry == held) continue;
        GgufBuilder gguf = base;
        set_value(gguf, key, entry);
        std::string found;
        const std::string message = message_of<higgs::FormatError>([&] { found = read(gguf); });
        if (message.empty())
          CHECK(found != plain);
        else
          CHECK_THAT(message, Catch::Contains("model.gguf") && Catch::Contains(key));
      }
    }
  }
}

TEST_CASE("rotary positions of a GGUF file are those of llama.cpp", "[model][config]") {
  const TemporaryFolder folder;
  const auto read = [&](const std::function<void(GgufBuilder&)>& change) {
    GgufBuilder gguf = tiny_gguf(tiny_config("llama"));
    change(gguf);
    write_file(folder / "model.gguf", gguf.build());
    return read_gguf(folder / "model.gguf");
  };
  const auto refusal_of = [&](const std::function<void(GgufBuilder&)>& change) {
    return message_of<higgs::FormatError>([&] { read(change); });
  };
  const auto real = [](GgufBuilder& g, const std::string& key, float value) {
    g.add_value("llama.rope." + key, f32, raw(value));
  };
  const auto type = [](GgufBuilder& g, const std::string& value) {
    g.add_value("llama.rope.scaling.type", text, gguf_text(value));
  };
  const RopeScaling linear{.kind = RopeScaling::Kind::Linear, .factor = 4};
  const auto scaling = [&](const std::function<void(GgufBuilder&)>& change) {
    return read(change).rope_scaling;
  };
  CHECK(scaling([&](GgufBuilder& g) { real(g, "scale_linear", 4); }) == linear);
  CHECK(scaling([&](GgufBuilder& g) { real(g, "scaling.factor", 4); }) == linear);
  CHECK(scaling([&](GgufBuilder& g) {
          real(g, "scaling.factor", 4);
          real(g, "scale_linear", 8);  // the newer key counts
        }) == linear);
  CHECK(scaling([&](GgufBuilder& g) {
          type(g, "none");
          real(g, "scaling.factor", 4);
        }) == RopeScaling{});
  CHECK(scaling([&](GgufBuilder& g) { real(g, "scale_linear", 1); }) == RopeScaling{});
  const RopeScaling yarn = scaling([&](GgufBuilder& g) {
    type(g, "yarn");
    real(g, "scaling.factor", 4);
    real(g, "scaling.attn_factor", 2);
  });
  CHECK(yarn.kind == RopeScaling::Kind::Yarn);
  CHECK(yarn.original_context == 64);
  CHECK(yarn.attention_factor == Approx(2 * (1 + 0.1 * std::log(4.0))));

  // Divisors and a scaling multiply.
  const auto divisors = [](GgufBuilder& g, const std::string& name) {
    g.add_tensor(name, {3}, 0, raw(1.0f) + raw(2.0f) + raw(4.0f));
  };
  const std::vector<float> plain = rope_frequencies(tiny_config("llama"));
  const ModelConfig both = read([&](GgufBuilder& g) {
    real(g, "scale_linear", 4);
    divisors(g, "rope_freqs.weight");
  });
  for (std::size_t i = 0; i < 3; ++i)
    CHECK(static_cast<double>(plain[i] / rope_frequencies(both)[i]) == Approx(4 << i).epsilon(1e-6));
  const ModelConfig longrope = read([&](GgufBuilder& g) {
    type(g, "longrope");
    divisors(g, "rope_factors_long.weight");
    g.add_tensor("rope_factors_short.weight", {3}, 0, raw(1.0f) + raw(1.0f) + raw(1.5f));
    g.add_value("llama.rope.scaling.original_context_length", u32, raw(std::uint32_t{16}));
    real(g, "scaling.attn_factor", 1.25f);
  });
  CHECK(longrope.rope_scaling.attention_factor == 1.25);
  CHECK(static_cast<double>(plain[2] / rope_frequencies(longrope, 16)[2]) == Approx(1.5).epsilon(1e-6));
  CHECK(static_cast<double>(plain[2] / rope_frequencies(longrope, 17)[2]) == Approx(4).epsilon(1e-6));

  using Catch::Contains;
  CHECK_THAT(refusal_of([&](GgufBuilder& g) { type(g, "longrope"); }), Contains("rope_factors_short.weight"));
  CHECK_THAT(refusal_of([&](GgufBuilder& g) { divisors(g, "rope_factors_long.weight"); }),
             Contains("rope_factors_short.weight"));
  CHECK_THAT(refusal_of([&](GgufBuilder& g) { type(g, "llama3"); }),
             Contains("llama.rope.scaling.type") && Contains("rope_freqs.weight") && !Contains("only"));
  CHECK_THAT(refusal_of([&](GgufBuilder& g) { real(g, "freq_base_swa", 1e4f); }),
             Contains("llama.rope.freq_base_swa"));
  CHECK_THAT(refusal_of([](GgufBuilder& g) {
               g.add_tensor("rope_freqs.weight", {3}, 0, raw(1.0f) + raw(0.0f) + raw(4.0f));
             }),
             Contains("model.gguf: tensor \"rope_freqs.weight\""));
  CHECK_THAT(
      refusal_of([](GgufBuilder& g) { g.add_tensor("rope_freqs.weight", {2}, 0, raw(1.0f) + raw(2.0f)); }),
      Contains("rope_freqs.weight") && Contains("3 floats"));
}

TEST_CASE("counts that a GGUF file gives for each layer are read if they are the same", "[model][config]") {
  const TemporaryFolder folder;
  const auto read = [&](const std::string& key, std::initializer_list<std::uint32_t> values) {
    GgufBuilder gguf = tiny_gguf(tiny_config("llama"));
    set_value(gguf, key, gguf_array_of<std::uint32_t>(u32, values));
    write_file(folder / "model.gguf", gguf.build());
    return read_gguf(folder / "model.gguf");
  };
  CHECK(read("llama.attention.head_count_kv", {1, 1}).kv_heads == 1);
  CHECK(read("llama.attention.head_count", {8, 8}).heads == 8);
  CHECK(read("llama.feed_forward_length", {40, 40}).ffn_width == 40);
  for (const char* key :
       {"llama.attention.head_count_kv", "llama.attention.head_count", "llama.feed_forward_length"})
    for (const auto& values : {std::initializer_list<std::uint32_t>{2, 4}, {2}, {2, 2, 2}, {0, 0}, {}})
      CHECK_THAT(message_of<higgs::FormatError>([&] { read(key, values); }), Catch::Contains(key));
}

TEST_CASE("a GGUF Llama with biases on q, k and v alone is a Qwen2", "[model][config]") {
  const TemporaryFolder folder;
  ModelConfig config = tiny_config("llama");
  config.qkv_bias = config.o_bias = true;
  GgufBuilder gguf = tiny_gguf(config);
  write_file(folder / "all.gguf", gguf.build());
  check_equal(read_gguf(folder / "all.gguf"), [&] {
    config.end_tokens = {39};
    return config;
  }());
  for (auto& tensor : gguf.tensors)
    if (tensor.name.ends_with("attn_output.bias")) tensor.name += ".other";
  write_file(folder / "some.gguf", gguf.build());
  const ModelConfig some = read_gguf(folder / "some.gguf");
  CHECK(some.family == "qwen2");
  CHECK_FALSE(some.o_bias);
  for (auto& tensor : gguf.tensors)
    if (tensor.name == "blk.0.ffn_norm.weight") tensor.name = "blk.0.ffn_up.bias";
  write_file(folder / "odd.gguf", gguf.build());
  CHECK_THAT(message_of<higgs::FormatError>([&] { read_gguf(folder / "odd.gguf"); }),
             Catch::Contains("biases"));
}

TEST_CASE("an architecture that is not supported is told from a configuration that is wrong",
          "[model][config]") {
  const auto message = [](const std::string& more) {
    return message_of<UnsupportedArchitecture>([&] { read_json(more); });
  };
  for (const char* other :
       {R"("architectures":["MixtralForCausalLM"])", R"("architectures":null,"model_type":"phi3")"})
    CHECK_THAT(message(other), Catch::Contains("config.json") && Catch::Contains("supported are") &&
                                   Catch::Contains("qwen3", Catch::CaseSensitive::No));
  try {
    read_json(R"("num_hidden_layers":null)");
  } catch (const UnsupportedArchitecture&) {
    FAIL("a wrong key is no other architecture");
  } catch (const higgs::FormatError&) {
  }
  CHECK(read_json(R"("architectures":null,"model_type":"qwen2","num_key_value_heads":2)").family == "qwen2");
  CHECK(read_json(R"("architectures":["Qwen3Model"],"num_key_value_heads":2)").family == "qwen3");
  CHECK_THAT(refusal(R"("model_type":"qwen3")"), Catch::Contains("model_type") && Catch::Contains("llama"));
}

TEST_CASE("config.json of a checkpoint keeps all but what is no longer true", "[model][config]") {
  const std::string original = R"({"zeta": [1, 2.5], "quantization_config": {"quant_method": "fp8"},)"
                               R"( "tie_word_embeddings": true, "alpha": {"b": 1e-05, "a": null}})";
  const std::string kept = R"({"zeta":[1,2.5],"tie_word_embeddings":false,"alpha":{"b":1e-05,"a":null}})";
  CHECK(nlohmann::ordered_json::parse(config_for_checkpoint(original, "config.json", false)).dump() == kept);
  CHECK_THAT(message_of<higgs::FormatError>([] { config_for_checkpoint("[]", "config.json", false); }),
             Catch::Contains("config.json"));
}
