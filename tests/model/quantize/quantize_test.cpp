// SPDX-License-Identifier: Apache-2.0
#include "quantize/quantize.hpp"

#include "architecture/parts.hpp"
#include "model/tiny_model.hpp"
#include "network/transformer.hpp"
#include "quantize/sizes.hpp"

#include <higgs/codes/registry.hpp>
#include <higgs/core/error.hpp>
#include <higgs/matmul/decode.hpp>
#include <higgs/store/checkpoint.hpp>
#include <higgs/store/stacked_rows.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <variant>
#include <vector>

using namespace higgs::model;

namespace {

struct Stopped {};

// Quantizes; returns what the user is told.
std::vector<std::string> quantized(const ModelSource& source, const std::filesystem::path& folder,
                                   QuantizeRequest request) {
  std::vector<std::string> notes;
  request.say = [&](const std::string& note) { notes.push_back(note); };
  quantize_model(source, folder, request);
  return notes;
}

std::vector<std::string> layer_names(const std::filesystem::path& folder) {
  std::vector<std::string> out;
  const higgs::Checkpoint checkpoint = higgs::Checkpoint::open(folder);
  for (const higgs::CheckpointLayer& layer : checkpoint.layers()) out.push_back(layer.name);
  return out;
}

higgs::MatrixView<const float> view_of(const TinyTensor& tensor) {
  return {tensor.values.data(), tensor.shape[0], tensor.shape[1]};
}

const TinyTensor& find_tensor(const std::vector<TinyTensor>& tensors, const std::string& name) {
  return *std::ranges::find(tensors, name, &TinyTensor::name);
}

// A model whose keys and values have too few rows for input scales on their own but not beside the queries, as gate and up
// have each beside the other. Columns of the keys differ in size.
ModelConfig sharing_config() {
  ModelConfig config = tiny_config("llama");
  config.heads = 22;
  config.ffn_width = 100;
  return config;
}

std::vector<TinyTensor> sharing_tensors() {
  std::vector<TinyTensor> tensors = tiny_tensors(sharing_config());
  for (TinyTensor& tensor : tensors)
    if (tensor.name.find("k_proj") != tensor.name.npos)
      for (std::size_t i = 0; i < tensor.values.size(); ++i)
        tensor.values[i] *= std::ldexp(1.0f, -static_cast<int>(i % 24 / 6));
  return tensors;
}

}  // namespace

TEST_CASE("a quantized model loads on its own and holds what the quantizer says", "[model][quantize]") {
  for (const std::string family : {"llama", "qwen2", "qwen3", "granite"}) {
    const ModelConfig config = tiny_config(family);
    const TemporaryFolder folder;
    write_folder(folder / "model", config);
    write_file(folder / "model.gguf", tiny_gguf(config).build());
    const QuantizeRequest request{.codebook = "2x64", .embedding = "none", .output = "none"};
    CHECK(quantized(ModelSource(folder / "model"), folder / "a", request).empty());
    CHECK(quantized(ModelSource(folder / "model.gguf"), folder / "b", request).empty());
    std::filesystem::remove_all(folder / "model");
    std::filesystem::remove(folder / "model.gguf");

    const ModelSource a(folder / "a"), b(folder / "b");
    CHECK(a.checkpoint()->layers().size() == 14);
    const auto expected = tiny_tensors(config);
    for (const ModelSource* source : {&a, &b}) {
      CHECK(Tokenizer(source->vocabulary(), "test").encode("A<|end|>") == std::vector<TokenId>{32, 39});
      const Transformer model = Transformer::load(*source);
      const auto statistics_of = [&](const std::string& name) {
        higgs::ColumnStatistics out(find_tensor(expected, name).shape[1]);
        for (const BlockLinear& layer : sharing_layers(name, Sharing::Alike))
          out.add(view_of(find_tensor(expected, layer.name)));
        return out;
      };
      for (const TinyTensor& tensor : expected) {
        if (const ModelTensor* kept = source->find(tensor.name)) {
          std::vector<float> values(tensor.values.size());
          kept->read_rows(0, kept->rows(), values);
          CHECK(values == tensor.values);
          continue;
        }
        const higgs::ColumnStatistics statistics = statistics_of(tensor.name);
        const auto quantized = higgs::quantize(view_of(tensor), "2x64", {.statistics = &statistics});
        std::visit(
            [&](const auto& matrix) {
              const auto stored =
                  std::get<std::decay_t<decltype(matrix)>>(source->checkpoint()->load(tensor.name));
              CHECK(std::equal(stored.codes.begin(), stored.codes.end(), matrix.codes.begin(),
                               matrix.codes.end()));
              CHECK(std::equal(stored.scales.begin(), stored.scales.end(), matrix.scales.begin(),
                               matrix.scales.end()));
              CHECK(stored.exponent == matrix.exponent);
              CHECK(stored.t2 == matrix.t2);
            },
            quantized);
      }
    }
  }
}

TEST_CASE("a killed quantization goes on and ends with the same bytes", "[model][quantize]") {
  const TemporaryFolder folder;
  write_folder(folder / "model", tiny_config("llama"));
  const ModelSource source(folder / "model");
  quantize_model(source, folder / "whole", {.embedding = "none"});
  for (const int stop : {1, 6, 14}) {
    const auto out = folder / ("out" + std::to_string(stop));
    int pieces = 0;
    QuantizeRequest request{.embedding = "none"};
    request.progress = [&](std::int64_t, std::int64_t, const std::string&) {
      if (++pieces == stop) throw Stopped();
    };
    CHECK_THROWS_AS(quantize_model(source, out, request), Stopped);
    CHECK_FALSE(std::filesystem::exists(out / "model.safetensors"));
    std::int64_t first = -1, last = 0, all = 0;
    request.progress = [&](std::int64_t done, std::int64_t total, const std::string&) {
      if (first < 0) first = done;
      last = done;
      all = total;
    };
    const std::vector<std::string> notes = quantized(source, out, request);
    if (stop == 1)
      CHECK(notes.empty());
    else
      CHECK(notes ==
            std::vector<std::string>{"goes on: " + std::to_string(stop - 1) +
                                     (stop == 2 ? " of 14 matrices is done" : " of 14 matrices are done")});
    CHECK(last == all);
    CHECK(read_file(out / "model.safetensors") == read_file(folder / "whole" / "model.safetensors"));
    CHECK(std::distance(std::filesystem::directory_iterator(out), {}) == 3);  // nothing is left over
  }
}

TEST_CASE("matrices that are skipped stay exact", "[model][quantize]") {
  const TemporaryFolder folder;
  const ModelConfig config = tiny_config("qwen2");
  write_folder(folder / "model", config);
  QuantizeRequest request;
  request.skip = std::regex("layers\\.0\\.|o_proj|embed");
  quantize_model(ModelSource(folder / "model"), folder / "out", request);
  CHECK(layer_names(folder / "out") ==
        std::vector<std::string>{
            "model.layers.1.mlp.down_proj.weight", "model.layers.1.mlp.gate_proj.weight",
            "model.layers.1.mlp.up_proj.weight", "model.layers.1.self_attn.k_proj.weight",
            "model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.v_proj.weight"});
  CHECK_NOTHROW(Transformer::load(ModelSource(folder / "out")));
  request.skip = std::regex("layers|embed");
  CHECK_THROWS_AS(quantize_model(ModelSource(folder / "model"), folder / "other", request),
                  higgs::InvalidArgument);
}

TEST_CASE("a quantized embedding and output layer run as their dequantized weights do", "[model][quantize]") {
  for (const std::string family : {"llama", "qwen3"}) {  // tied, untied
    const ModelConfig config = tiny_config(family);
    const TemporaryFolder folder;
    write_folder(folder / "model", config);
    const ModelSource source(folder / "model");
    for (const std::string& codebook : higgs::shipped_code_names())
      for (const bool calibrated : {false, true}) {
        INFO(codebook << " tied " << config.tied_embeddings << " calibrated " << calibrated);
        QuantizeRequest request{.embedding = codebook, .output = codebook, .calibrated = calibrated};
        request.options.group = 8;
        request.skip = std::regex("layers");
        if (calibrated) request.input_squares = measure_inputs(source, tiny_text(24), 12);
        quantize_model(source, folder / "out", request);

        const ModelSource out(folder / "out");
        REQUIRE(layer_names(folder / "out") ==
                (config.tied_embeddings
                     ? std::vector<std::string>{"model.embed_tokens.weight"}
                     : std::vector<std::string>{"lm_head.weight", "model.embed_tokens.weight"}));
        const auto dense = [&](const char* name) {
          Matrix values(config.vocabulary, config.width);
          higgs::dequantize(out.checkpoint()->load(name), values.view());
          return share(std::move(values));
        };
        Transformer expected = Transformer::load(source);
        expected.weights.embedding.weight = dense("model.embed_tokens.weight");
        expected.weights.output.weight =
            dense(config.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight");
        const Transformer model = Transformer::load(out);
        CHECK(std::holds_alternative<higgs::PackedMatrix>(model.weights.output.weight));
        const std::vector<TokenId> text = tiny_text(12);
        std::vector<float> states[2], logits[2];
        for (const int i : {0, 1}) {
          const Transformer& each = i == 0 ? expected : model;
          states[i].resize(static_cast<std::size_t>(12 * config.width));
          each.embed(text, {states[i].data(), 12, config.width});
          logits[i].resize(static_cast<std::size_t>(12 * config.vocabulary));
          KvCache cache(config, 12);
          std::vector<float> hidden(states[i].size());
          each.forward(text, cache, {hidden.data(), 12, config.width});
          each.logits({hidden.data(), 12, config.width}, {logits[i].data(), 12, config.vocabulary});
        }
        CHECK(states[0] == states[1]);  // a lookup decodes to the same bits
        double error = 0, norm = 0;
        for (std::size_t i = 0; i < logits[0].size(); ++i) {
          error += std::pow(static_cast<double>(logits[0][i]) - static_cast<double>(logits[1][i]), 2);
          norm += std::pow(static_cast<double>(logits[0][i]), 2);
        }
        CHECK(std::sqrt(error / norm) < 2e-3);  // products round activations to 16 bits
      }
  }
}

TEST_CASE("the sizes that an outline tells are those of the files", "[model][quantize]") {
  for (const std::string family : {"llama", "qwen2", "qwen3", "granite", "sharing"})
    for (const bool gguf : {false, true}) {
      const ModelConfig config = family == "sharing" ? sharing_config() : tiny_config(family);
      const TemporaryFolder folder;
      const auto model = folder / (gguf ? "model.gguf" : "model");
      if (gguf)
        write_file(model, tiny_gguf(config).build());
      else
        write_folder(model, config);
      const ModelSource source(model);
      for (const char* codebook : {"2x256", "e8", "1x256", "ch8"})
        for (const char* embedding : {"none", "1x256", "2x64"})
          for (const int option : {0, 1, 2, 3, 4}) {
            if ((family == "sharing") != (option == 4)) continue;
            INFO(codebook << " " << embedding << " option " << option << " gguf " << gguf);
            QuantizeRequest request{.codebook = codebook, .embedding = embedding, .output = embedding};
            if (option == 1) request.options.group = 8;
            if (option == 2) request.options.scale_format = higgs::ScaleFormat::Log8;
            if (option == 3) request.skip = std::regex("mlp");
            if (option == 4) request.sharing = Sharing::Fused;
            const Outline outline = outline_of(source, request);
            const Sizes before = sizes_of(source), after = sizes_of(source, outline);
            CHECK(before.file_bytes ==
                  std::filesystem::file_size(gguf ? model : model / "model.safetensors"));
            CHECK(before.weights() == after.weights());
            quantize_model(source, folder / "out", request);
            CHECK(outline.file_bytes == std::filesystem::file_size(folder / "out" / "model.safetensors"));
            const Sizes found = sizes_of(ModelSource(folder / "out"));
            CHECK(found.file_bytes == after.file_bytes);
            CHECK(found.lines() == after.lines());
            CHECK(found.total() == after.total());
            CHECK(to_json(found) == to_json(after));
          }
    }
}

TEST_CASE("every matrix of a lone file is quantized", "[model][quantize]") {
  const TemporaryFolder folder;
  write_safetensors(folder / "some.safetensors", {tiny_tensor("first", {3, 40}),
                                                  tiny_tensor("second", {5, 7}), tiny_tensor("vector", {9})});
  quantize_model(ModelSource(folder / "some.safetensors"), folder / "out", {.codebook = "1x16"});
  CHECK(layer_names(folder / "out") == std::vector<std::string>{"first", "second"});
  CHECK(ModelSource(folder / "out").find("vector") != nullptr);
}

TEST_CASE("a matrix with enough rows gets the input scales that the library gives it", "[model][quantize]") {
  const TemporaryFolder folder;
  const TinyTensor tensor = tiny_tensor("w", {130, 40});
  write_safetensors(folder / "some.safetensors", {tensor});
  quantize_model(ModelSource(folder / "some.safetensors"), folder / "out", {.codebook = "2x256"});
  const auto any = ModelSource(folder / "out").checkpoint()->load("w");
  const auto& stored = std::get<higgs::QuantizedMatrix<higgs::GridCodebook<2, 256>>>(any);
  const auto expected =
      higgs::Quantizer<2, 256>{}.quantize(higgs::MatrixView<const float>(tensor.values.data(), 130, 40));
  REQUIRE(stored.input_scales.size() == 40);
  CHECK(std::ranges::equal(stored.input_scales, expected.input_scales));
  CHECK(std::ranges::equal(stored.codes, expected.codes));
  QuantizeRequest request;
  request.options.input_scales = false;
  quantize_model(ModelSource(folder / "some.safetensors"), folder / "plain", request);
  CHECK_FALSE(ModelSource(folder / "plain").checkpoint()->layers()[0].layout.input_scales);
}

TEST_CASE("layers that are alike or fused share the input scales of their stacked rows",
          "[model][quantize]") {
  const TemporaryFolder folder;
  const std::vector<TinyTensor> tensors = sharing_tensors();
  write_folder(folder / "model", sharing_config(), tensors);
  const ModelSource source(folder / "model");
  QuantizeRequest request{.codebook = "2x64", .embedding = "none", .calibrated = true};
  request.codebooks.emplace("model.layers.1.self_attn.v_proj.weight", "w2");
  request.input_squares = measure_inputs(source, tiny_text(24), 12);
  for (const Sharing sharing : {Sharing::Alike, Sharing::Fused}) {
    request.sharing = sharing;
    quantize_model(source, folder / "out", request);
    const ModelSource out(folder / "out");
    for (const BlockLinear& layer : block_linears(sharing_config())) {
      INFO(layer.name << (sharing == Sharing::Fused ? " fused" : ""));
      const higgs::AnyQuantizedMatrix stored = out.checkpoint()->load(layer.name);
      std::vector<float> stack;
      for (const BlockLinear& each : sharing_layers(layer.name, sharing)) {
        const std::vector<float>& rows = find_tensor(tensors, each.name).values;
        stack.insert(stack.end(), rows.begin(), rows.end());
        CHECK(rotates_alike(stored, out.checkpoint()->load(each.name)));
      }
      const auto rows = static_cast<std::int64_t>(stack.size()) / stored.cols();
      const auto whole =
          higgs::quantize(higgs::MatrixView<const float>(stack.data(), rows, stored.cols()),
                          stored.codebook(), {.input_squares = request.input_squares.at(layer.name)});
      CHECK(rotates_alike(stored, whole));
      const auto has_scales = [](const auto& matrix) { return !matrix.input_scales.empty(); };
      CHECK(stored.visit(has_scales) == (rows >= higgs::min_rows_for_input_scales));
      const auto exponent_of = [](const auto& matrix) { return matrix.exponent; };
      CHECK(stored.visit(exponent_of) == whole.visit(exponent_of));
    }
    const auto value = out.checkpoint()->load("model.layers.0.self_attn.v_proj.weight");
    CHECK(rotates_alike(value, out.checkpoint()->load("model.layers.0.self_attn.q_proj.weight")) ==
          (sharing == Sharing::Fused));
  }
}

TEST_CASE(
    "shared input scales do not depend on the order of the file, threads, or where a killed run stopped",
    "[model][quantize]") {
  const TemporaryFolder folder;
  std::vector<TinyTensor> tensors = sharing_tensors();
  write_folder(folder / "model", sharing_config(), tensors);
  std::ranges::reverse(tensors);
  write_folder(folder / "other", sharing_config(), tensors);
  const ModelSource source(folder / "model");
  QuantizeRequest request{.embedding = "none", .sharing = Sharing::Fused};
  quantize_model(source, folder / "whole", request);
  higgs::SerialExecutor serial;
  quantize_model(ModelSource(folder / "other"), folder / "turned", request, serial);
  const ModelSource whole(folder / "whole"), turned(folder / "turned");
  for (const BlockLinear& layer : block_linears(sharing_config()))
    whole.checkpoint()->load(layer.name).visit([&](const auto& a) {
      INFO(layer.name);
      const auto any = turned.checkpoint()->load(layer.name);
      const auto& b = std::get<std::decay_t<decltype(a)>>(any);
      CHECK(std::ranges::equal(a.codes, b.codes));
      CHECK(std::ranges::equal(a.scales, b.scales));
      CHECK(std::ranges::equal(a.input_scales, b.input_scales));
      CHECK(a.exponent == b.exponent);
    });
  for (int stop = 1; stop <= 14; ++stop) {
    const auto out = folder / ("out" + std::to_string(stop));
    int pieces = 0;
    request.progress = [&](std::int64_t, std::int64_t, const std::string&) {
      if (++pieces == stop) throw Stopped();
    };
    CHECK_THROWS_AS(quantize_model(source, out, request), Stopped);
    request.progress = {};
    quantize_model(source, out, request);
    CHECK(read_file(out / "model.safetensors") == read_file(folder / "whole" / "model.safetensors"));
  }
}

TEST_CASE("a run does not go on with layers that shared with others", "[model][quantize]") {
  const TemporaryFolder folder;
  std::vector<TinyTensor> tensors = sharing_tensors();
  for (TinyTensor& tensor : tensors)  // exponents differ, too
    if (tensor.name.find("k_proj") != tensor.name.npos)
      for (float& value : tensor.values) value = std::ldexp(value, -6);
  write_folder(folder / "model", sharing_config(), tensors);
  const ModelSource source(folder / "model");
  for (const bool input_scales : {true, false}) {
    INFO(input_scales);
    QuantizeRequest request{.embedding = "none"};
    request.options.input_scales = input_scales;
    int pieces = 0;
    request.progress = [&](std::int64_t, std::int64_t, const std::string&) {
      if (++pieces == 8) throw Stopped();  // in block 1: keys of block 0 are done
    };
    const auto out = folder / (input_scales ? "scaled" : "plain");
    CHECK_THROWS_AS(quantize_model(source, out, request), Stopped);
    request.progress = {};
    request.sharing = Sharing::Fused;
    quantize_model(source, out, request);
    quantize_model(source, folder / "whole", request);
    const bool equal =
        read_file(out / "model.safetensors") == read_file(folder / "whole" / "model.safetensors");
    CHECK(equal);
  }
}

TEST_CASE("matrices that stay as they are take no part in the input scales of others", "[model][quantize]") {
  const TemporaryFolder folder;
  std::vector<TinyTensor> tensors = sharing_tensors();
  write_folder(folder / "model", sharing_config(), tensors);
  QuantizeRequest request{.embedding = "none"};
  request.skip = std::regex("up_proj");
  quantize_model(ModelSource(folder / "model"), folder / "out", request);
  const std::string gate = "model.layers.0.mlp.gate_proj.weight";
  const auto alone = higgs::quantize(view_of(find_tensor(tensors, gate)), request.codebook);
  CHECK(rotates_alike(ModelSource(folder / "out").checkpoint()->load(gate), alone));
}

TEST_CASE("tensors of few bits that are kept become F16, or F32 where they do not fit", "[model][quantize]") {
  const TemporaryFolder folder;
  GgufBuilder gguf = tiny_gguf(tiny_config("qwen2"));
  std::string codes;
  for (int i = 0; i < 32; ++i) codes += static_cast<char>(4 * i - 64);
  gguf.add_tensor("small", {32}, 8, raw(higgs::Half(0.125f).bits) + codes);  // 8: Q8_0
  gguf.add_tensor("large", {32}, 8, raw(higgs::Half(60000.0f).bits) + codes);
  write_file(folder / "model.gguf", gguf.build());
  quantize_model(ModelSource(folder / "model.gguf"), folder / "out", {});
  const ModelSource out(folder / "out");
  const ModelTensor *small = out.find("small"), *large = out.find("large");
  REQUIRE((small && large));
  CHECK(small->stored->dtype == "F16");
  CHECK(large->stored->dtype == "F32");
  std::vector<float> values(32);
  small->read_rows(0, 1, values);
  CHECK(values[3] == 0.125f * (4 * 3 - 64));
  large->read_rows(0, 1, values);
  CHECK(values[31] == static_cast<float>(higgs::Half(60000.0f)) * 60);
}

TEST_CASE("8-bit floats that are kept stay as they are, or become F16 with their scales",
          "[model][quantize]") {
  const TemporaryFolder folder;
  higgs::SafetensorsWriter writer(folder / "a.safetensors", {{"plain", higgs::DType::F8_E4M3, {3}},
                                                             {"scaled.weight", higgs::DType::F8_E4M3, {3}},
                                                             {"scaled.weight_scale", higgs::DType::F32, {1}},
                                                             {"w", higgs::DType::F32, {2, 4}}});
  writer.write("plain", 0, bytes_of("\x38\xb8\x30"));  // 1, -1, 0.5
  writer.write("scaled.weight", 0, bytes_of("\x38\xb8\x30"));
  writer.write("scaled.weight_scale", 0, bytes_of(raw(0.75f)));
  writer.write("w", 0, bytes_of(tiny_tensor("w", {2, 4}).bytes()));
  writer.commit();
  quantize_model(ModelSource(folder / "a.safetensors"), folder / "out", {});
  const ModelSource out(folder / "out");
  const auto check = [&](const std::string& name, const std::string& dtype,
                         const std::vector<float>& expected) {
    const ModelTensor* kept = out.find(name);
    REQUIRE(kept);
    CHECK(kept->stored->dtype == dtype);
    std::vector<float> values(3);
    kept->read_rows(0, 1, values);
    CHECK(values == expected);
  };
  check("plain", "F8_E4M3", {1, -1, 0.5f});
  check("scaled.weight", "F16", {0.75f, -0.75f, 0.375f});
  CHECK(out.find("scaled.weight_scale") == nullptr);
}

TEST_CASE("weights that are no numbers are named by tensor, row and column", "[model][quantize]") {
  const std::string part =
      GENERATE("mlp.down_proj", "mlp.up_proj");  // alone, second of two that share input scales
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    const ModelConfig config = tiny_config("llama");
    std::vector<TinyTensor> tensors = tiny_tensors(config);
    const std::string name = "model.layers.1." + part + ".weight";
    for (TinyTensor& tensor : tensors)
      if (tensor.name == name) tensor.values[static_cast<std::size_t>(13 * tensor.shape[1] + 23)] = bad;
    const TemporaryFolder folder;
    write_folder(folder / "model", config, tensors);
    const std::string message = message_of<higgs::FormatError>(
        [&] { quantize_model(ModelSource(folder / "model"), folder / "out", {}); });
    CHECK_THAT(message, Catch::Contains(name) && Catch::Contains("row 13,") && Catch::Contains("column 23"));
    CHECK_FALSE(std::filesystem::exists(folder / "out" / "model.safetensors"));
  }
}

TEST_CASE("a model is neither quantized twice nor over itself", "[model][quantize]") {
  const TemporaryFolder folder;
  write_folder(folder / "model", tiny_config("llama"));
  const std::string before = read_file(folder / "model" / "model.safetensors");
  CHECK_THROWS_AS(quantize_model(ModelSource(folder / "model"), folder / "model", {}),
                  higgs::InvalidArgument);
  CHECK_THROWS_AS(quantize_model(ModelSource(folder / "model" / "model.safetensors"), folder / "model", {}),
                  higgs::InvalidArgument);
  CHECK(read_file(folder / "model" / "model.safetensors") == before);
  QuantizeRequest request;
  request.options.block = 7;  // no order of a Hadamard transform
  CHECK_THROWS_AS(quantize_model(ModelSource(folder / "model"), folder / "bad", request),
                  higgs::InvalidArgument);
  CHECK_FALSE(std::filesystem::exists(folder / "bad"));
  quantize_model(ModelSource(folder / "model"), folder / "out", {});
  CHECK_THROWS_AS(quantize_model(ModelSource(folder / "out"), folder / "again", {}), higgs::InvalidArgument);
}

TEST_CASE("a tokenizer that is not supported is left out with a word", "[model][quantize]") {
  GgufBuilder gguf = tiny_gguf(tiny_config("llama"));
  for (std::string& value : gguf.values)
    if (value.find("tokenizer.ggml.pre") != value.npos)
      value = gguf_text("tokenizer.ggml.pre") + raw(std::uint32_t{8}) + gguf_text("tekken");
  const TemporaryFolder folder;
  write_file(folder / "model.gguf", gguf.build());
  const auto notes = quantized(ModelSource(folder / "model.gguf"), folder / "out", {});
  REQUIRE(notes.size() == 1);
  CHECK_THAT(notes[0], Catch::Contains("tekken"));
  CHECK_NOTHROW(Transformer::load(ModelSource(folder / "out")));
}
