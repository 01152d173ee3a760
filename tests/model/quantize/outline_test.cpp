// SPDX-License-Identifier: Apache-2.0
#include "quantize/outline.hpp"

#include "model/tiny_model.hpp"
#include "quantize/quantize.hpp"
#include "source/model_files.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <regex>
#include <string>
#include <vector>

using namespace higgs::model;

namespace {

// The note that has this word in it; empty if none has.
std::string note_with(const Outline& outline, const std::string& word) {
  for (const std::string& note : outline.notes)
    if (note.find(word) != note.npos) return note;
  return "";
}

TinyTensor zeros(const std::string& name, std::vector<std::int64_t> shape) {
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) count *= extent;
  return {name, std::move(shape), std::vector<float>(static_cast<std::size_t>(count))};
}

}  // namespace

TEST_CASE("the role of a tensor is what the model uses it for", "[model][outline]") {
  for (const std::string family : {"llama", "qwen3"}) {
    const ModelConfig config = tiny_config(family);
    const TemporaryFolder folder;
    write_folder(folder.path(), config);
    const ModelSource source(folder.path());
    std::int64_t counts[4] = {};
    for (const ModelTensor& tensor : source.tensors()) {
      const Role role = role_of(source, tensor);
      ++counts[static_cast<int>(role)];
      CHECK((role == Role::Other) == !tensor.is_matrix());
    }
    CHECK(counts[static_cast<int>(Role::Linear)] == 14);
    CHECK(counts[static_cast<int>(Role::Embedding)] == 1);
    CHECK(counts[static_cast<int>(Role::Output)] == (config.tied_embeddings ? 0 : 1));
  }
}

TEST_CASE("embedding and output layer get 5 bits, a mere embedding 4, and never fewer than linear layers",
          "[model][outline]") {
  for (const std::string family : {"llama", "qwen3"}) {  // tied, and with an output layer of its own
    const TemporaryFolder folder;
    write_folder(folder.path(), tiny_config(family));
    const ModelSource source(folder.path());
    const bool tied = source.require_config().tied_embeddings;
    for (const auto& [name, bits, mse] : higgs::best_codes()) {
      QuantizeRequest request{.codebook = name};
      if (bits == default_bits) request = {};
      for (const Outline::Matrix& matrix : outline_of(source, request).matrices) {
        const double least = matrix.role == Role::Linear               ? 0
                             : matrix.role == Role::Embedding && !tied ? 4
                                                                       : 5;
        CHECK(matrix.codebook == higgs::best_code_of_bits(std::max(bits, least)));
      }
      request.embedding = "ch8";
      request.output = "none";
      for (const Outline::Matrix& matrix : outline_of(source, request).matrices)
        CHECK(matrix.codebook == (matrix.role == Role::Linear ? name : "ch8"));
    }
  }
}

TEST_CASE("without a configuration names decide, and the user is told what was taken", "[model][outline]") {
  const std::vector<std::pair<std::string, Role>> names{
      {"model.embed_tokens.weight", Role::Embedding},
      {"transformer.wte.weight", Role::Embedding},
      {"tok_embeddings.weight", Role::Embedding},
      {"token_embd.weight", Role::Embedding},
      {"lm_head.weight", Role::Output},
      {"output.weight", Role::Output},
      {"embed_out.weight", Role::Output},
      {"model.layers.0.mlp.router.weight", Role::Other},
      {"model.layers.0.mlp.gate.weight", Role::Other},
      {"model.layers.0.block_sparse_moe.gate.weight", Role::Other},
      {"blk.0.ffn_gate_inp.weight", Role::Other},
      {"model.layers.0.mlp.gate_proj.weight", Role::Linear},
      {"model.layers.0.attention.output.dense.weight", Role::Linear},
      {"anything", Role::Linear}};
  std::vector<TinyTensor> tensors{tiny_tensor("model.norm.weight", {9}), zeros("experts", {2, 4, 8}),
                                  zeros("empty", {0, 8})};
  for (const auto& [name, role] : names) tensors.push_back(tiny_tensor(name, {8, 16}));
  const TemporaryFolder folder;
  write_safetensors(folder / "some.safetensors", tensors);
  const ModelSource source(folder / "some.safetensors");
  const Outline outline = outline_of(source, {.codebook = "2x16", .embedding = "ch8", .output = "none"});
  for (const auto& [name, role] : names) {
    INFO(name);
    CHECK(role_of(source, *source.find(name)) == role);
    const auto found =
        std::find_if(outline.matrices.begin(), outline.matrices.end(),
                     [&, &wanted = name](const auto& each) { return each.tensor->name == wanted; });
    REQUIRE((found != outline.matrices.end()) == (role == Role::Linear || role == Role::Embedding));
    if (found != outline.matrices.end()) CHECK(found->codebook == (role == Role::Linear ? "2x16" : "ch8"));
  }
  CHECK(role_of(source, *source.find("experts")) == Role::Other);
  CHECK(outline.matrices.size() == 7);
  CHECK_THAT(note_with(outline, "config.json"), Catch::Contains("7 matrices") &&
                                                    Catch::Contains("4 that look like embeddings") &&
                                                    Catch::Contains("0 like output layers"));
  CHECK_THAT(note_with(outline, "left as they are"),
             Catch::Contains("9 tensors") && Catch::Contains(outline.kept[0].tensor->name));
  quantize_model(source, outline, folder / "out", {.codebook = "2x16", .embedding = "ch8", .output = "none"});
  CHECK(ModelSource(folder / "out").find("experts")->stored->shape == std::vector<std::int64_t>{2, 4, 8});
  CHECK(ModelSource(folder / "out").find("empty")->rows() == 0);
}

TEST_CASE("where all matrices lie in stacks of experts, that is said with the numbers", "[model][outline]") {
  const TemporaryFolder folder;
  write_safetensors(folder / "model.safetensors",
                    {zeros("experts.gate_up_proj", {4, 8, 6}), zeros("mlp.gate.weight", {4, 8})});
  const std::string said =
      message_of<higgs::InvalidArgument>([&] { outline_of(ModelSource(folder / "model.safetensors"), {}); });
  CHECK(said.find("no matrix to quantize; 1 tensor") != said.npos);
  CHECK(said.find("192 of 224 weights") != said.npos);
}

TEST_CASE("a group or block that becomes another one, or pads, is said with the numbers",
          "[model][outline]") {
  const TemporaryFolder folder;
  write_safetensors(folder / "some.safetensors", {tiny_tensor("a", {8, 48}), tiny_tensor("b", {8, 64})});
  const ModelSource source(folder / "some.safetensors");
  const auto outline = [&](std::int64_t block, std::int64_t group) {
    QuantizeRequest request;
    request.options.block = block;
    request.options.group = group;
    return outline_of(source, request);
  };
  CHECK(note_with(outline(0, 1024), "groups of").empty());
  CHECK(note_with(outline(0, 1024), "pad").empty());
  CHECK(note_with(outline(0, 16), "groups of").empty());
  CHECK_THAT(note_with(outline(0, 7), "groups of"),
             Catch::Contains("groups of 7 become groups of 6 in 2 matrices") && Catch::Contains("48"));
  CHECK_THAT(note_with(outline(64, 64), "pad"),
             Catch::Contains("blocks of 64 pad 48 columns to 64 in 1 matrix: 14.3 % more"));
  for (std::int64_t group = 1; group <= 70; ++group) {  // never silent, never for nothing
    bool other = false;
    for (const auto& matrix : outline(0, group).matrices)
      other = other || matrix.layout.group != std::min(group, matrix.layout.block);
    CHECK(other == !note_with(outline(0, group), "groups of").empty());
  }
}

TEST_CASE("shards give every rank whole blocks of every linear layer, or are refused by name",
          "[model][outline]") {
  const ModelConfig config = tiny_config("llama");  // 24 and 36 columns
  const TemporaryFolder folder;
  write_folder(folder.path(), config);
  const ModelSource source(folder.path());
  QuantizeRequest request;
  request.options.shards = 7;
  CHECK_THAT(message_of<higgs::InvalidArgument>([&] { outline_of(source, request); }),
             Catch::Contains("model.layers.0.") && Catch::Contains("7 equal shards"));
  ModelConfig wide = config;
  wide.width = 96;
  wide.ffn_width = 192;
  wide.head_width = 24;
  write_folder(folder.path(), wide);
  for (const std::int64_t shards : {1, 2, 3, 4}) {
    request.options.shards = shards;
    for (const auto& matrix : outline_of(ModelSource(folder.path()), request).matrices)
      CHECK((matrix.role != Role::Linear || matrix.layout.cols / shards % matrix.layout.block == 0));
  }
}

TEST_CASE("tensors that the model has no use for are kept and told", "[model][outline]") {
  const ModelConfig config = tiny_config("llama");
  std::vector<TinyTensor> tensors = tiny_tensors(config);
  tensors.push_back(tiny_tensor("model.layers.0.self_attn.q_proj.lora_A.weight", {2, 24}));
  tensors.push_back(tiny_tensor("model.layers.1.self_attn.q_norm.weight", {6}));
  const TemporaryFolder folder;
  write_folder(folder / "model", config, tensors);
  const Outline outline = outline_of(ModelSource(folder / "model"), {});
  REQUIRE(outline.unused.size() == 2);
  CHECK_THAT(note_with(outline, "no use"),
             Catch::Contains("2 tensors") && Catch::Contains(outline.unused.front()));
  quantize_model(ModelSource(folder / "model"), folder / "out", {});
  CHECK(ModelSource(folder / "out").find("model.layers.0.self_attn.q_proj.lora_A.weight") != nullptr);

  TinyTensor head = tiny_tensor("model.embed_tokens.weight", {config.vocabulary, config.width});
  head.name = "lm_head.weight";  // what a tied model repeats is not written twice
  tensors.push_back(head);
  write_folder(folder / "model", config, tensors);
  CHECK_THAT(note_with(outline_of(ModelSource(folder / "model"), {}), "left out"),
             Catch::Contains("lm_head.weight"));
  quantize_model(ModelSource(folder / "model"), folder / "out", {});
  CHECK(ModelSource(folder / "out").find("lm_head.weight") == nullptr);
  CHECK(ModelSource(folder / "out").config()->tied_embeddings);
}

TEST_CASE("weights that were rounded before are pointed out by their type", "[model][outline]") {
  const ModelConfig config = tiny_config("qwen2");
  const TemporaryFolder folder;
  GgufBuilder gguf = tiny_gguf(config);
  write_file(folder / "plain.gguf", gguf.build());
  CHECK(note_with(outline_of(ModelSource(folder / "plain.gguf"), {}), "already").empty());
  const std::pair<std::uint32_t, std::size_t> types[] = {{2, 18}, {3, 20}, {8, 34}};  // bytes of 32 weights
  const char* names[] = {"Q4_0", "Q4_1", "Q8_0"};
  for (int i = 0; i < 3; ++i) {
    ModelConfig wide = config;
    wide.width = 32;
    wide.ffn_width = 32;
    wide.head_width = 8;
    const GgufBuilder dense = tiny_gguf(wide);
    GgufBuilder coarse;
    coarse.values = dense.values;
    for (const GgufBuilder::Tensor& tensor : dense.tensors) {
      const bool matrix = tensor.extents.size() == 2;  // of 32 columns
      const std::size_t bytes = matrix ? static_cast<std::size_t>(tensor.extents[1]) * types[i].second
                                       : 4 * static_cast<std::size_t>(tensor.extents[0]);
      coarse.add_tensor(tensor.name, tensor.extents, matrix ? types[i].first : 0, std::string(bytes, '\0'));
    }
    write_file(folder / "coarse.gguf", coarse.build());
    CHECK_THAT(note_with(outline_of(ModelSource(folder / "coarse.gguf"), {}), "already"),
               Catch::Contains(names[i]));
  }
}

TEST_CASE("what a plan, a tied model or a folder does not allow is refused before any work",
          "[model][outline]") {
  const TemporaryFolder folder;
  write_folder(folder / "model", tiny_config("llama"));
  const ModelSource source(folder / "model");
  CHECK_THROWS_AS(outline_of(source, {.codebook = "3x7"}), higgs::InvalidArgument);
  CHECK_THROWS_AS(outline_of(source, {.embedding = "3x7"}), higgs::InvalidArgument);
  CHECK_THROWS_AS(outline_of(source, {.codebooks = {{"model.norm.weight", "2x16"}}}), higgs::InvalidArgument);
  CHECK_THROWS_AS(check_folder(source, folder / "model", 1), higgs::InvalidArgument);
  CHECK_THROWS_AS(check_folder(source, folder / "model" / "config.json", 1), higgs::IoError);
  CHECK_THROWS_AS(check_folder(source, folder / "out", std::uint64_t{1} << 60), higgs::IoError);
  CHECK_NOTHROW(check_folder(source, folder / "a" / "b" / "c", 1));
  CHECK_FALSE(std::filesystem::exists(folder / "a"));
  CHECK_NOTHROW(check_room("out", 1000, 1000));
  CHECK_THAT(message_of<higgs::IoError>([] { check_room("out", 84100000, 1500); }),
             Catch::Contains("out") && Catch::Contains("84.1 MB") && Catch::Contains("1.50 kB"));
}

TEST_CASE("a folder is written to only where nothing of another model is lost or read beside",
          "[model][outline]") {
  namespace fs = std::filesystem;
  const TemporaryFolder folder;
  const auto out = folder / "out";
  write_folder(folder / "model", tiny_config("llama"));
  write_folder(folder / "original", tiny_config("llama"));
  const ModelSource source(folder / "model");
  const auto refused = [&](const fs::path& where) {
    return message_of<higgs::InvalidArgument>([&] { check_folder(source, where, 1); });
  };
  CHECK_THAT(refused(folder / "original"),
             Catch::Contains("model.safetensors: is of a model that higgs did not"));

  // Weights elsewhere that a link leads to.
  fs::create_directory(folder / "links");
  for (const auto& entry : fs::directory_iterator(folder / "original"))
    fs::create_symlink(entry.path(), folder / "links" / entry.path().filename());
  CHECK_THROWS_AS(check_folder(ModelSource(folder / "links"), folder / "original", 1),
                  higgs::InvalidArgument);

  const Outline outline = outline_of(source, {});
  quantize_model(source, outline, out, {});
  write_file(out / "notes.txt", "mine");
  CHECK_NOTHROW(check_folder(source, out, 1));
  for (const char* name : {"model.safetensors.index.json", "model-00001-of-00002.safetensors"}) {
    write_file(out / name, "{}");
    CHECK_THAT(refused(out), Catch::Contains((out / name).string()));
    fs::remove(out / name);
  }
  for (const char* name : companion_names()) {
    if (fs::exists(folder / "model" / name)) continue;
    write_file(out / name, "{}");
    CHECK_THAT(refused(out), Catch::Contains((out / name).string()) && Catch::Contains("another model"));
    fs::remove(out / name);
  }
  CHECK_NOTHROW(check_folder(source, out, 1));
}

TEST_CASE("a weight that is no number is found in every tensor and named", "[model][outline]") {
  const ModelConfig config = tiny_config("qwen2");
  const std::vector<TinyTensor> good = tiny_tensors(config);
  const TemporaryFolder folder;
  write_folder(folder / "model", config, good);
  CHECK_NOTHROW(check_weights(ModelSource(folder / "model")));
  for (std::size_t i = 0; i < good.size(); ++i)
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      std::vector<TinyTensor> tensors = good;
      TinyTensor& tensor = tensors[i];
      const bool matrix = tensor.shape.size() == 2;
      const std::int64_t cols = matrix ? tensor.shape[1] : tensor.shape[0],
                         row = matrix ? tensor.shape[0] - 1 : 0;
      tensor.values[static_cast<std::size_t>(row * cols + 3)] = bad;
      tensor.values.back() = bad;  // the first one is named
      write_folder(folder / "model", config, tensors);
      INFO(tensor.name);
      CHECK_THAT(message_of<higgs::FormatError>([&] { check_weights(ModelSource(folder / "model")); }),
                 Catch::Contains((folder / "model").string()) && Catch::Contains("\"" + tensor.name + "\"") &&
                     Catch::Contains("column 3") &&
                     Catch::Contains(matrix ? "row " + std::to_string(row) + "," : ""));
    }
}
