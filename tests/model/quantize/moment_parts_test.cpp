// SPDX-License-Identifier: Apache-2.0
#include "quantize/moment_parts.hpp"

#include "model/tiny_model.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <string>

using namespace higgs::model;

namespace {

// Inputs of 24, 132 and 100 columns, in blocks of 12, 12 and 20 or the like.
ModelConfig wide_config() {
  ModelConfig config = tiny_config("llama");
  config.heads = 22;
  config.ffn_width = 100;
  return config;
}

}  // namespace

TEST_CASE("second moments are whole where they fit, and else whole blocks that fit",
          "[model][moment_parts]") {
  const TemporaryFolder folder;
  write_folder(folder / "model", wide_config());
  const ModelSource source(folder / "model");
  QuantizeRequest request;
  request.options.block = 12;
  const Outline outline = outline_of(source, request);
  // Two inputs of width 24, one of 132 and one of 100, and the factor of the widest.
  const std::int64_t whole = 4 * (2 * 24 * 24 + 132 * 132 + 100 * 100 + 132 * 132);
  const MomentParts all = divide_moments(outline, whole, false);
  CHECK(all.bytes == whole);
  CHECK(all.notes.empty());
  for (const auto& [input, part] : all.parts) CHECK(part == 0);
  CHECK(all.parts.size() == 4);

  std::int64_t refused = 0, divided = 0;
  for (std::int64_t memory = whole - 1; memory > 0; memory -= 1000) {
    INFO(memory);
    try {
      const MomentParts parts = divide_moments(outline, memory, false);
      CHECK(parts.bytes <= memory);
      CHECK_FALSE(parts.notes.empty());
      for (const auto& [input, part] : parts.parts) CHECK((part % 12 == 0 && part < 132));
      CHECK(parts.text() != all.text());
      ++divided;
    } catch (const higgs::InvalidArgument& error) {
      CHECK_THAT(error.what(), Catch::Contains("--round-memory"));
      ++refused;
    }
  }
  CHECK(divided > 50);
  CHECK(refused > 5);
}

TEST_CASE("the note on divided second moments counts matrices and names the first", "[model][moment_parts]") {
  const TemporaryFolder folder;
  write_folder(folder / "model", wide_config());
  const ModelSource source(folder / "model");
  QuantizeRequest request;
  request.options.block = 12;
  const MomentParts parts = divide_moments(outline_of(source, request), 150'000, false);
  REQUIRE(parts.notes.size() == 1);
  CHECK_THAT(parts.notes[0],
             Catch::Contains("2 matrices") && Catch::Contains("model.layers.0.self_attn.o_proj"));
}

TEST_CASE(
    "second moments of outputs are counted, one of them at a time, and divided where they are the largest",
    "[model][moment_parts]") {
  const TemporaryFolder folder;
  ModelConfig config = wide_config();
  config.ffn_width = 200;  // 132 queries, 24 outputs of keys, values, o and down, 200 of gate and up
  write_folder(folder / "model", config);
  const ModelSource source(folder / "model");
  QuantizeRequest request;
  request.options.block = 12;
  const Outline outline = outline_of(source, request);
  const MomentParts without = divide_moments(outline, 1 << 30, false),
                    all = divide_moments(outline, 1 << 30, true);
  CHECK(without.outputs.empty());
  CHECK(all.bytes == without.bytes + 2 * 4 * 200 * 200);
  CHECK(all.outputs.size() == 7);
  for (const auto& [name, part] : all.outputs) CHECK(part == 0);
  CHECK(all.text() != without.text());
  const MomentParts divided = divide_moments(outline, all.bytes - 250'000, true);
  CHECK(divided.bytes < all.bytes);
  CHECK(divided.outputs.at("mlp.gate_proj") == 128);
  REQUIRE(divided.notes.size() == 2);
  CHECK_THAT(divided.notes[1], Catch::Contains("second moments of outputs") &&
                                   Catch::Contains("model.layers.0.mlp.gate_proj") &&
                                   Catch::Contains("128 of 200 a part"));
}

TEST_CASE("matrices of no block have no second moment", "[model][moment_parts]") {
  const TemporaryFolder folder;
  write_safetensors(folder / "some.safetensors", {tiny_tensor("first", {3, 40})});
  const ModelSource source(folder / "some.safetensors");
  CHECK(divide_moments(outline_of(source, {}), 1, true).parts.empty());
  CHECK(default_moment_memory() > 0);
}
