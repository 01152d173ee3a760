// SPDX-License-Identifier: Apache-2.0
#include "source/load.hpp"

#include "model/tiny_model.hpp"
#include "quantize/quantize.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

using namespace higgs::model;

namespace {

constexpr const char* families_of_tests[] = {"llama", "qwen2", "qwen3", "granite"};

// A configuration with all the biases that the family can have.
ModelConfig biased_config(const std::string& family) {
  ModelConfig config = tiny_config(family);
  config.qkv_bias = true;
  config.o_bias = family != "qwen2";
  config.mlp_bias = family == "llama" || family == "granite";
  config.tied_embeddings = false;
  return config;
}

// config.json of a folder with one key changed.
void change_config(const std::filesystem::path& folder, const std::string& key, const nlohmann::json& value) {
  nlohmann::json config = nlohmann::json::parse(read_file(folder / "config.json"));
  config[key] = value;
  write_file(folder / "config.json", config.dump());
}

std::string problem_of_folder(const std::filesystem::path& folder) { return ModelSource(folder).problem(); }

}  // namespace

TEST_CASE("every tensor that is missing, of another shape or of another type is named before work begins",
          "[model][load]") {
  for (const std::string family : families_of_tests) {
    const ModelConfig config = biased_config(family);
    const TemporaryFolder folder;
    write_folder(folder.path(), config);
    const GgufBuilder gguf = tiny_gguf(config);
    const std::filesystem::path file = folder / "m.gguf";
    write_file(file, gguf.build());
    CHECK(problem_of_folder(folder.path()).empty());
    CHECK(ModelSource(file).problem().empty());
    const std::vector<TinyTensor> tensors = tiny_tensors(config);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const std::string& name = tensors[i].name;
      INFO(name);
      using Catch::Contains;
      std::vector<TinyTensor> changed = tensors;
      changed.erase(changed.begin() + static_cast<std::ptrdiff_t>(i));
      write_safetensors(folder / "model.safetensors", changed);
      CHECK_THAT(problem_of_folder(folder.path()),
                 Contains(folder.path().string()) && Contains("tensor \"" + name + "\" is missing"));
      CHECK_THROWS_AS(ModelSource(folder.path()).require_config(), higgs::FormatError);

      changed = tensors;
      auto& shape = changed[i].shape;
      if (shape.size() == 2)
        shape = {shape[0] * shape[1]};
      else
        shape = {1, shape[0]};
      write_safetensors(folder / "model.safetensors", changed);
      CHECK_THAT(problem_of_folder(folder.path()),
                 Contains("model.safetensors: tensor \"" + name + "\" is "));

      // The same in GGUF, under GGUF's name; without an embedding or a known number of biases it has no configuration.
      if (name == embedding_name) continue;
      GgufBuilder other = gguf;
      const auto stored = std::find_if(other.tensors.begin(), other.tensors.end(), [&](const auto& each) {
        return hugging_face_name(each.name) == name;
      });
      REQUIRE(stored != other.tensors.end());
      const std::string stored_name = stored->name;
      CHECK(gguf_name(name) == stored_name);
      stored->type = 26;  // I32
      write_file(file, other.build());
      CHECK_THAT(ModelSource(file).problem(),
                 Contains("m.gguf: tensor \"" + stored_name + "\": I32 cannot be read as floats"));
      if (name == output_name) continue;  // the embedding serves in its place
      stored->name = "x";
      write_file(file, other.build());
      CHECK_THAT(ModelSource(file).problem(), Contains("m.gguf: tensor \"" + stored_name + "\" is missing"));
    }
  }
}

TEST_CASE("a quantized model is checked against its configuration too", "[model][load]") {
  const TemporaryFolder folder;
  write_folder(folder / "model", tiny_config("qwen3"));
  quantize_model(ModelSource(folder / "model"), folder / "out", {.codebook = "2x16"});
  const std::filesystem::path out = folder / "out";
  CHECK(problem_of_folder(out).empty());
  CHECK(unused_tensors(ModelSource(out)).empty());
  using Catch::Contains;
  change_config(out, "num_hidden_layers", 3);
  CHECK_THAT(problem_of_folder(out), Contains("\"model.layers.2.input_layernorm.weight\" is missing") &&
                                         Contains("11 of the 36 tensors"));
  change_config(out, "num_hidden_layers", 1);
  CHECK(problem_of_folder(out).empty());
  CHECK(unused_tensors(ModelSource(out)).size() == 11);
  change_config(out, "num_hidden_layers", 2);
  change_config(out, "intermediate_size", 32);
  CHECK_THAT(problem_of_folder(out),
             Contains("\"model.layers.0.mlp.gate_proj.weight\" is 36 x 24") && Contains("asks for 32 x 24"));
}

TEST_CASE("one shard of several is no model", "[model][load]") {
  const TemporaryFolder folder;
  const ModelConfig config = tiny_config("llama");
  write_folder(folder.path(), config);
  std::filesystem::remove(folder / "model.safetensors");
  std::vector<TinyTensor> first = tiny_tensors(config), second(first.begin() + 9, first.end());
  first.resize(9);
  write_safetensors(folder / "model-00001-of-00002.safetensors", first);
  write_safetensors(folder / "model-00002-of-00002.safetensors", second);
  nlohmann::json map;
  for (const TinyTensor& each : first) map[each.name] = "model-00001-of-00002.safetensors";
  for (const TinyTensor& each : second) map[each.name] = "model-00002-of-00002.safetensors";
  const auto write_index = [&] {
    write_file(folder / "model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
  };
  write_index();
  CHECK(problem_of_folder(folder.path()).empty());
  CHECK_THAT(
      ModelSource(folder / "model-00001-of-00002.safetensors").problem(),
      Catch::Contains("model-00001-of-00002.safetensors: tensor \"" + second.front().name + "\" is missing"));
  // An index that is stale either way.
  map.erase(second.front().name);
  write_index();
  CHECK_THAT(message_of<higgs::FormatError>([&] { ModelSource(folder.path()); }),
             Catch::Contains("tensor \"" + second.front().name + "\": is not listed by"));
  map[second.front().name] = "model-00001-of-00002.safetensors";
  write_index();
  CHECK_THAT(message_of<higgs::FormatError>([&] { ModelSource(folder.path()); }),
             Catch::Contains(second.front().name) && Catch::Contains("model-00001-of-00002.safetensors"));
}

TEST_CASE("tensors that nothing asks for are listed, and they alone", "[model][load]") {
  for (const std::string family : families_of_tests) {
    const ModelConfig config = tiny_config(family);
    const TemporaryFolder folder;
    std::vector<TinyTensor> tensors = tiny_tensors(config);
    write_folder(folder.path(), config, tensors);
    CHECK(unused_tensors(ModelSource(folder.path())).empty());
    std::vector<std::string> extra{"model.layers.0.self_attn.q_proj.lora_A.default.weight",
                                   "model.layers.0.self_attn.q_proj.weight_scale",
                                   "model.layers.0.mlp.up_proj.bias",
                                   "model.layers.2.mlp.up_proj.weight",
                                   "model.layers.1.mlp.experts.gate_up_proj",
                                   "lm_head.bias",
                                   "rope_freqs.weight"};
    if (!config.head_norms) extra.push_back("model.layers.1.self_attn.q_norm.weight");
    if (!config.qkv_bias) extra.push_back("model.layers.1.self_attn.k_proj.bias");
    for (const std::string& name : extra)
      tensors.push_back(tiny_tensor(
          name, name.ends_with("weight") ? std::vector<std::int64_t>{3, 4} : std::vector<std::int64_t>{3}));
    tensors.back().shape = {1, 3, static_cast<std::int64_t>(tensors.back().values.size()) / 3};
    write_folder(folder.path(), config, tensors);
    const ModelSource source(folder.path());
    CHECK(source.problem().empty());
    std::vector<std::string> found = unused_tensors(source);
    std::sort(found.begin(), found.end());
    std::sort(extra.begin(), extra.end());
    CHECK(found == extra);
  }
}

TEST_CASE("no weight that is NaN or infinite is loaded, wherever it is", "[model][load]") {
  const ModelConfig config = biased_config("qwen3");
  const std::vector<TinyTensor> tensors = tiny_tensors(config);
  const TemporaryFolder folder;
  const float wrong[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                         -std::numeric_limits<float>::infinity()};
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    std::vector<TinyTensor> changed = tensors;
    const std::size_t at = (i * 37 + 5) % changed[i].values.size();
    changed[i].values[at] = wrong[i % 3];
    write_folder(folder.path(), config, changed);
    const auto cols = static_cast<std::size_t>(changed[i].shape.back());
    const std::string place = "model.safetensors: tensor \"" + tensors[i].name + "\" holds ",
                      row = "in row " + std::to_string(at / cols) + ", column " + std::to_string(at % cols);
    const ModelSource source(folder.path());
    const bool vector = tensors[i].shape.size() == 1;
    CHECK(source.problem().empty() == !vector);  // vectors are few: they are read at once
    CHECK_THAT(message_of<higgs::FormatError>([&] { load_weights(source); }),
               Catch::Contains(place) && Catch::Contains(row));
  }
}
