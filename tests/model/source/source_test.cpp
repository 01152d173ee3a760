// SPDX-License-Identifier: Apache-2.0
#include "source/source.hpp"

#include "model/tiny_model.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>

#include <catch2/catch.hpp>

#include <string>
#include <vector>

using namespace higgs::model;

TEST_CASE("tensors read alike from a folder, its file, and a GGUF file", "[model][source]") {
  ModelConfig config = tiny_config("llama");
  config.qkv_bias = config.o_bias = true;
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

TEST_CASE("a link to nothing is an error, not an absent file", "[model][source]") {
  for (const std::string name : {"config.json", "generation_config.json", "tokenizer.json"}) {
    const TemporaryFolder folder;
    write_folder(folder.path(), tiny_config("llama"));
    std::filesystem::remove(folder / name);
    std::filesystem::create_symlink(folder / "pruned", folder / name);
    CHECK_THAT(message_of<higgs::IoError>([&] { ModelSource(folder.path()).vocabulary(); }),
               Catch::Contains((folder / name).string()));
  }
}

TEST_CASE("a Llama whose q is not made of whole heads is refused", "[model][source]") {
  GgufBuilder gguf = tiny_gguf(tiny_config("llama"));
  for (auto& tensor : gguf.tensors)
    if (tensor.name == "blk.1.attn_q.weight") tensor.extents = {32, 18};
  for (auto& tensor : gguf.tensors)
    if (tensor.name == "blk.1.attn_k.weight") tensor.extents = {24, 11};
  const TemporaryFolder folder;
  write_file(folder / "model.gguf", gguf.build());
  CHECK_THAT(ModelSource(folder / "model.gguf").problem(),
             Catch::Contains("model.gguf: tensor \"blk.1.attn_q.weight\" is 18 x 32") &&
                 Catch::Contains("24 x 24") && Catch::Contains("2 of the"));
}

TEST_CASE("embeddings are tied as the file has them", "[model][source]") {
  ModelConfig config = tiny_config("llama");
  const auto open = [&](bool tied, const std::vector<std::string>& names, bool differ) {
    config.tied_embeddings = false;
    std::vector<TinyTensor> tensors = tiny_tensors(config);
    const TinyTensor embedding = tensors.front();
    std::erase_if(tensors, [](const TinyTensor& each) {
      return each.name == "model.embed_tokens.weight" || each.name == "lm_head.weight";
    });
    for (const std::string& name : names) {
      tensors.push_back(embedding);
      tensors.back().name = name;
    }
    if (differ) tensors.back().values[5] += 1;
    config.tied_embeddings = tied;
    const TemporaryFolder folder;
    write_folder(folder.path(), config, tensors);
    return ModelSource(folder.path());
  };
  const std::string embedding = "model.embed_tokens.weight", output = "lm_head.weight";
  for (const bool tied : {false, true}) {
    CHECK(open(tied, {embedding, output}, false).config()->tied_embeddings == tied);
    CHECK_FALSE(open(tied, {embedding, output}, true).config()->tied_embeddings);
  }
  CHECK(open(true, {embedding}, false).problem().empty());
  CHECK_THAT(open(false, {embedding}, false).problem(), Catch::Contains("\"lm_head.weight\" is missing"));
  CHECK_THAT(open(false, {output}, false).problem(), Catch::Contains("embed_tokens.weight\" is missing"));
  CHECK_THAT(open(true, {}, false).problem(), Catch::Contains("embed_tokens.weight\" is missing"));
  // The output layer alone stands for both.
  const ModelSource alone = open(true, {output}, false);
  CHECK(alone.problem().empty());
  CHECK(alone.config()->tied_embeddings);
  CHECK(alone.find(output) == nullptr);
  REQUIRE(alone.find(embedding));
  CHECK(alone.find(embedding)->stored->name == output);
  // Equal in another type is equal.
  config.tied_embeddings = true;
  const TemporaryFolder folder;
  std::vector<TinyTensor> tensors = tiny_tensors(config);
  for (float& each : tensors.front().values) each = static_cast<float>(static_cast<higgs::Half>(each));
  write_folder(folder.path(), config, tensors);
  std::string halves;
  for (const float each : tensors.front().values) halves += raw(static_cast<higgs::Half>(each).bits);
  higgs::SafetensorsWriter writer(folder / "b.safetensors", {{output, higgs::DType::F16, {40, 24}}});
  writer.write(output, 0, bytes_of(halves));
  writer.commit();
  std::string map;
  for (const TinyTensor& each : tensors) map += "\"" + each.name + R"(":"model.safetensors",)";
  std::filesystem::rename(folder / "model.safetensors", folder / "a.safetensors");
  while (map.find("model.safetensors") != map.npos) map.replace(map.find("model.safetensors"), 5, "a");
  write_file(folder / "model.safetensors.index.json",
             R"({"weight_map":{)" + map + R"("lm_head.weight":"b.safetensors"}})");
  CHECK(ModelSource(folder.path()).config()->tied_embeddings);
  // Equal bytes are equal under equal scales alone.
  tensors.erase(tensors.begin());  // the embedding, which moves to the other shard
  write_safetensors(folder / "a.safetensors", tensors);
  map.replace(map.find(":\"a.") + 2, 1, "b");  // of the embedding
  write_file(folder / "model.safetensors.index.json",
             R"({"weight_map":{)" + map +
                 R"("lm_head.weight":"b.safetensors","lm_head.weight_scale":"b.safetensors",)" +
                 R"("model.embed_tokens.weight_scale":"b.safetensors"}})");
  for (const float scale : {1.0f, 2.0f}) {
    higgs::SafetensorsWriter scaled(folder / "b.safetensors",
                                    {{output, higgs::DType::F8_E4M3, {40, 24}},
                                     {output + "_scale", higgs::DType::F32, {1}},
                                     {embedding, higgs::DType::F8_E4M3, {40, 24}},
                                     {embedding + "_scale", higgs::DType::F32, {1}}});
    for (const std::string& name : {output, embedding})
      scaled.write(name, 0, bytes_of(std::string(40 * 24, '0')));
    scaled.write(output + "_scale", 0, bytes_of(raw(scale)));
    scaled.write(embedding + "_scale", 0, bytes_of(raw(1.0f)));
    scaled.commit();
    CHECK(ModelSource(folder.path()).config()->tied_embeddings == (scale == 1));
  }
}

TEST_CASE("names without the part \"model.\" are those of a decoder", "[model][source]") {
  for (const bool tied : {false, true}) {
    ModelConfig config = tiny_config("qwen3");
    config.tied_embeddings = tied;
    std::vector<TinyTensor> tensors = tiny_tensors(config);
    for (TinyTensor& each : tensors)
      if (each.name.starts_with("model.")) each.name = each.name.substr(6);
    const TemporaryFolder folder;
    write_folder(folder.path(), config, tensors);
    const ModelSource source(folder.path());
    CHECK(source.problem().empty());
    REQUIRE(source.find("model.layers.1.mlp.up_proj.weight"));
    tensors.erase(tensors.begin() + 3);
    write_folder(folder.path(), config, tensors);
    CHECK_THAT(ModelSource(folder.path()).problem(), Catch::Contains("is missing"));
  }
}

TEST_CASE("the parts of a GGUF model are one model, whichever is opened", "[model][source]") {
  ModelConfig config = tiny_config("llama");
  config.tied_embeddings = false;
  const GgufBuilder whole = tiny_gguf(config);
  const TemporaryFolder folder;
  const auto part_path = [&](int i) {
    return folder / ("m-0000" + std::to_string(i + 1) + "-of-00003.gguf");
  };
  for (int i = 0; i < 3; ++i) {  // the output layer comes last
    GgufBuilder part = i == 0 ? whole : GgufBuilder();
    part.tensors.clear();
    part.data.clear();
    for (std::size_t t = 0; t < whole.tensors.size(); ++t) {
      if (t * 3 / whole.tensors.size() != static_cast<std::size_t>(i)) continue;
      const auto& tensor = whole.tensors[t];
      const std::size_t end = t + 1 < whole.tensors.size() ? whole.tensors[t + 1].offset : whole.data.size();
      part.add_tensor(tensor.name, tensor.extents, 0, whole.data.substr(tensor.offset, end - tensor.offset));
    }
    part.add_value("split.no", 2, raw(static_cast<std::uint16_t>(i)));
    part.add_value("split.count", 2, raw(std::uint16_t{3}));
    part.add_value("split.tensors.count", 5, raw(static_cast<std::int32_t>(whole.tensors.size())));
    write_file(part_path(i), part.build());
  }
  for (int i = 0; i < 3; ++i) {
    const ModelSource source(part_path(i));
    CHECK(source.problem().empty());
    REQUIRE(source.config());
    CHECK_FALSE(source.config()->tied_embeddings);
    CHECK(source.tensors().size() == tiny_tensors(config).size());
    CHECK(Tokenizer(source.vocabulary(), "test").encode("A") == std::vector<TokenId>{32});
  }
  std::filesystem::remove(part_path(2));
  CHECK_THAT(message_of<higgs::IoError>([&] { ModelSource(part_path(0)); }),
             Catch::Contains("m-00003-of-00003.gguf") && Catch::Contains("missing"));
}

TEST_CASE("a model of another architecture can be listed, but not run", "[model][source]") {
  const TemporaryFolder folder;
  const ModelConfig config = tiny_config("llama");
  write_folder(folder.path(), config);
  std::string text = read_file(folder / "config.json");
  text.replace(text.find("LlamaForCausalLM"), 16, "MixtralForCausal");
  write_file(folder / "config.json", text);
  GgufBuilder gguf = tiny_gguf(config);
  gguf.values[0] = gguf_text("general.architecture") + raw(std::uint32_t{8}) + gguf_text("gemma2");
  write_file(folder / "m.gguf", gguf.build());
  for (const auto& path : {folder.path(), folder / "m.gguf"}) {
    const ModelSource source(path);
    CHECK_FALSE(source.config().has_value());
    CHECK(source.tensors().size() == tiny_tensors(config).size());
    CHECK_THAT(source.problem(), Catch::Contains("not supported") && Catch::Contains("supported are"));
    CHECK(message_of<higgs::FormatError>([&] { source.require_config(); }) == source.problem());
  }
}

TEST_CASE("weights that are quantized in another way are told by the way", "[model][source]") {
  const TemporaryFolder folder;
  const ModelConfig config = tiny_config("llama");
  write_folder(folder.path(), config);
  const std::string text = read_file(folder / "config.json");
  const auto problem = [&](const std::string& how) {
    std::string changed = text;
    changed.insert(changed.find('{') + 1, "\"quantization_config\":" + how + ",");
    write_file(folder / "config.json", changed);
    return ModelSource(folder.path()).problem();
  };
  for (const char* readable : {"null", "{}", R"({"quant_method":"fp8","weight_block_size":[128,128]})",
                               R"({"quant_method":"compressed-tensors","format":"float-quantized"})"})
    CHECK(problem(readable).empty());
  for (const char* method : {"gptq", "awq", "bitsandbytes", "hqq", "aqlm", "mxfp4"})
    CHECK_THAT(
        problem(R"({"quant_method":")" + std::string(method) + "\"}"),
        Catch::Contains("config.json") && Catch::Contains(method) && Catch::Contains("original model"));
  CHECK_THAT(problem(R"({"quant_method":"compressed-tensors","format":"pack-quantized"})"),
             Catch::Contains("pack-quantized"));
  CHECK_THAT(problem(R"({"load_in_4bit":true})"), Catch::Contains("bitsandbytes"));
}

TEST_CASE("8-bit floats whose scales are missing are refused, not read as plain numbers", "[model][source]") {
  const TemporaryFolder folder;
  const ModelConfig config = tiny_config("llama");
  const std::vector<TinyTensor> tensors = tiny_tensors(config);
  write_folder(folder.path(), config, tensors);
  const auto is_coarse = [](const TinyTensor& tensor) { return tensor.name.ends_with("_proj.weight"); };
  // Writes linear layers as 8-bit floats, with one scale for each row, but for the layer `bare`.
  const auto write = [&](const std::string& bare) {
    std::vector<higgs::TensorShape> shapes;
    for (const TinyTensor& tensor : tensors) {
      shapes.push_back(
          {tensor.name, is_coarse(tensor) ? higgs::DType::F8_E4M3 : higgs::DType::F32, tensor.shape});
      if (is_coarse(tensor) && tensor.name != bare && bare != "all")
        shapes.push_back({tensor.name + "_scale", higgs::DType::F32, {tensor.shape[0], 1}});
    }
    higgs::SafetensorsWriter writer(folder / "model.safetensors", shapes);
    for (const higgs::TensorShape& shape : shapes) {
      const std::string one = raw(1.0f);
      std::string bytes(static_cast<std::size_t>(*shape.bytes()), '8');
      for (std::size_t i = 0; shape.dtype == higgs::DType::F32 && i < bytes.size(); ++i)
        bytes[i] = one[i % 4];
      writer.write(shape.name, 0, bytes_of(bytes));
    }
    writer.commit();
    return ModelSource(folder.path()).problem();
  };
  CHECK(write("").empty());
  for (const TinyTensor& tensor : tensors)
    if (is_coarse(tensor))
      CHECK_THAT(write(tensor.name), Catch::Contains("model.safetensors: tensor \"" + tensor.name + "\"") &&
                                         Catch::Contains("its scales are missing"));
  CHECK(write("all").empty());  // plain numbers, as nothing speaks of scales
  std::string text = read_file(folder / "config.json");
  text.insert(text.find('{') + 1, R"("quantization_config":{"quant_method":"fp8"},)");
  write_file(folder / "config.json", text);
  CHECK(write("").empty());
  CHECK_THAT(write("all"), Catch::Contains("its scales are missing") && Catch::Contains("fp8"));
}

TEST_CASE("scales of 8-bit floats lie in the blocks that config.json names, or the model is refused",
          "[model][source]") {
  const TemporaryFolder folder;
  ModelConfig config = tiny_config("llama");
  config.layers = 1;
  const std::vector<TinyTensor> tensors = tiny_tensors(config);
  write_folder(folder.path(), config, tensors);
  const std::string text = read_file(folder / "config.json");
  const std::string name = "model.layers.0.mlp.up_proj.weight";  // 36 x 24
  std::vector<higgs::TensorShape> shapes;
  for (const TinyTensor& tensor : tensors)
    shapes.push_back(
        {tensor.name, tensor.name == name ? higgs::DType::F8_E4M3 : higgs::DType::F32, tensor.shape});
  const auto problem = [&](std::vector<std::int64_t> scales, const std::string& block) {
    std::vector<higgs::TensorShape> all = shapes;
    all.push_back({name + "_scale_inv", higgs::DType::F32, std::move(scales)});
    higgs::SafetensorsWriter writer(folder / "model.safetensors", all);
    for (const higgs::TensorShape& shape : all)  // zeros: a norm of them is sound
      writer.write(shape.name, 0, bytes_of(std::string(static_cast<std::size_t>(*shape.bytes()), '\0')));
    writer.commit();
    std::string changed = text;
    changed.insert(changed.find('{') + 1,
                   R"("quantization_config":{"quant_method":"fp8","weight_block_size":)" + block + "},");
    write_file(folder / "config.json", changed);
    return ModelSource(folder.path()).problem();
  };
  CHECK(problem({1, 1}, "[128,128]").empty());
  CHECK(problem({5, 3}, "[8,8]").empty());
  CHECK(problem({36, 1}, "[1,24]").empty());
  CHECK(problem({36, 1}, "null").empty());
  using Scales = std::vector<std::int64_t>;
  for (const auto& [scales, block] : {std::pair<Scales, std::string>({5, 3}, "[128,128]"),
                                      {{1, 1}, "[16,16]"},
                                      {{}, "[16,16]"},
                                      {{36, 1}, "[2,24]"},
                                      {{5, 3}, "[8,9]"},  // as many blocks, of another length
                                      {{5, 3}, "[8,24]"}})
    CHECK_THAT(problem(scales, block), Catch::Contains("model.safetensors: tensor \"" + name + "\" has") &&
                                           Catch::Contains("weight_block_size"));
  for (const std::string wrong : {"128", "[]", "[128]", "[128,0]", "[128,\"128\"]", "[128,128,128]", "{}"})
    CHECK_THAT(message_of<higgs::FormatError>([&] { problem({1, 1}, wrong); }),
               Catch::Contains("config.json: quantization_config.weight_block_size is "));
}
