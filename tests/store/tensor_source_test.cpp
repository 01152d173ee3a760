// SPDX-License-Identifier: Apache-2.0
#include "gguf_builder.hpp"
#include "temporary_folder.hpp"

#include <higgs/store/tensor_source.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

using higgs::DType;
using higgs::FormatError;
using higgs::InvalidArgument;
using higgs::TensorSource;

namespace {

std::string floats(int count, float first) {
  std::string out;
  for (int i = 0; i < count; ++i) out += raw(first + static_cast<float>(i));
  return out;
}
std::string halves(int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += raw(higgs::Half(static_cast<float>(i) / 4).bits);
  return out;
}
std::vector<float> rows(const TensorSource& source, const std::string& name, std::int64_t first,
                        std::int64_t count) {
  std::vector<float> out(static_cast<std::size_t>(count * source.at(name).cols()));
  source.read_rows(name, first, count, out);
  return out;
}

void write_safetensors(const std::filesystem::path& path) {
  higgs::SafetensorsWriter writer(path, {{"f32", DType::F32, {3, 2}},
                                         {"f16", DType::F16, {2, 2, 2}},
                                         {"norm", DType::BF16, {2}},
                                         {"i32", DType::I32, {1}}});
  writer.write("f32", 0, bytes_of(floats(6, 1)));
  writer.write("f16", 0, bytes_of(halves(8)));
  writer.write("norm", 0, bytes_of(raw(higgs::BFloat16(1.5f)) + raw(higgs::BFloat16(-2.0f))));
  writer.write("i32", 0, bytes_of("abcd"));
  writer.commit();
}

}  // namespace

TEST_CASE("rows of either format come as floats", "[store][tensor_source]") {
  const TemporaryFolder folder;
  write_safetensors(folder / "model.safetensors");
  GgufBuilder builder;
  builder.add_tensor("f32", {2, 3}, 0, floats(6, 1));
  builder.add_tensor("f16", {2, 2, 2}, 1, halves(8));
  builder.add_tensor("norm", {2}, 30, raw(higgs::BFloat16(1.5f)) + raw(higgs::BFloat16(-2.0f)));
  builder.add_tensor("i32", {1}, 26, "abcd");
  write_file(folder / "model.gguf", builder.build());
  for (const std::filesystem::path& path :
       {folder.path(), folder / "model.safetensors", folder / "model.gguf"}) {
    const TensorSource source = TensorSource::open(path);
    CHECK(source.tensors().size() == 4);
    CHECK(source.at("f32").dtype == "F32");
    CHECK(rows(source, "f32", 0, 3) == std::vector<float>{1, 2, 3, 4, 5, 6});
    CHECK(rows(source, "f32", 1, 1) == std::vector<float>{3, 4});
    CHECK(rows(source, "f32", 3, 0).empty());
    CHECK(source.at("f16").rows() == 4);
    CHECK(rows(source, "f16", 2, 2) == std::vector<float>{1, 1.25f, 1.5f, 1.75f});
    CHECK(source.at("norm").rows() == 1);
    CHECK(rows(source, "norm", 0, 1) == std::vector<float>{1.5f, -2.0f});
    CHECK_FALSE(source.at("i32").readable());
    CHECK(std::string(source.at("i32").data.begin(), source.at("i32").data.end()) == "abcd");
    CHECK_THROWS_WITH(rows(source, "i32", 0, 1), Catch::Contains("\"i32\": I32 cannot be read"));
    CHECK(source.find("absent") == nullptr);
    CHECK_THROWS_WITH(source.at("absent"), Catch::Contains("\"absent\""));
  }
}

TEST_CASE("rows of blocks begin at the right block", "[store][tensor_source]") {
  const TemporaryFolder folder;
  std::string blocks;  // (3, 64) of Q8_0: weight = index / 2
  for (int block = 0; block < 6; ++block) {
    blocks += raw(higgs::Half(0.5f).bits);
    for (int i = 0; i < 32; ++i) blocks += raw(static_cast<std::int8_t>(block * 20 + i - 60));
  }
  GgufBuilder builder;
  builder.add_tensor("w", {64, 3}, 8, blocks);
  builder.add_tensor("odd", {64, 3}, 77, "");
  write_file(folder / "a", builder.build());
  const TensorSource source = TensorSource::open(folder / "a");
  const std::vector<float> middle = rows(source, "w", 1, 2);
  for (int i = 0; i < 128; ++i)
    CHECK(middle[static_cast<std::size_t>(i)] == 0.5f * static_cast<float>((2 + i / 32) * 20 + i % 32 - 60));
  CHECK_THROWS_WITH(rows(source, "odd", 0, 1), Catch::Contains("\"odd\": type 77 cannot be read"));
}

TEST_CASE("rows outside the tensor are refused", "[store][tensor_source]") {
  const TemporaryFolder folder;
  write_safetensors(folder / "a");
  const TensorSource source = TensorSource::open(folder / "a");
  std::vector<float> out(4);
  CHECK_THROWS_AS(source.read_rows("f32", -1, 2, out), InvalidArgument);
  CHECK_THROWS_AS(source.read_rows("f32", 2, 2, out), InvalidArgument);
  CHECK_THROWS_AS(source.read_rows("f32", 4, 0, {}), InvalidArgument);
  CHECK_THROWS_AS(source.read_rows("f32", 0, INT64_MAX, out), InvalidArgument);
  CHECK_THROWS_AS(source.read_rows("f32", 0, 1, out), InvalidArgument);
  CHECK_NOTHROW(source.read_rows("f32", 1, 2, out));
}

TEST_CASE("what is no model is refused", "[store][tensor_source]") {
  const TemporaryFolder folder;
  CHECK_THROWS_AS(TensorSource::open(folder / "absent"), higgs::IoError);
  CHECK_THROWS_AS(TensorSource::open(folder.path()), higgs::IoError);
  write_file(folder / "text", "this is not a model");
  CHECK_THROWS_AS(TensorSource::open(folder / "text"), FormatError);
  write_file(folder / "empty", "");
  CHECK_THROWS_AS(TensorSource::open(folder / "empty"), FormatError);
}
