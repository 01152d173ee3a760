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
    CHECK_THROWS_WITH(rows(source, "i32", 0, 1), Catch::Contains((folder / "model.").string()));
    CHECK_THROWS_WITH(source.at("absent"), Catch::Contains((folder / "model.").string()));
    CHECK(source.find("absent") == nullptr);
    CHECK_THROWS_WITH(source.at("absent"), Catch::Contains("\"absent\""));
  }
}

TEST_CASE("the parts of a split file are one model", "[store][tensor_source]") {
  const TemporaryFolder folder;
  const auto part = [](int number, int count, const std::string& tensor, int total = 3) {
    GgufBuilder builder;
    builder.add_value("split.no", 2, raw(static_cast<std::uint16_t>(number)));
    builder.add_value("split.count", 2, raw(static_cast<std::uint16_t>(count)));
    builder.add_value("split.tensors.count", 5, raw(static_cast<std::int32_t>(total)));
    builder.add_tensor(tensor, {2, 1}, 0, floats(2, static_cast<float>(number)));
    return builder.build();
  };
  const auto name = [&](int number) {
    return folder / ("m-0000" + std::to_string(number) + "-of-00003.gguf");
  };
  const auto write_parts = [&] {
    for (int i = 0; i < 3; ++i)
      write_file(name(i + 1), part(i, 3, std::string(1, static_cast<char>('a' + i))));
  };
  write_parts();
  for (int i = 1; i <= 3; ++i) {
    const TensorSource source = TensorSource::open(name(i));
    REQUIRE(source.tensors().size() == 3);
    CHECK(rows(source, "a", 0, 1) == std::vector<float>{0, 1});
    CHECK(rows(source, "c", 0, 1) == std::vector<float>{2, 3});
    CHECK(source.at("b").owner->path() == name(2));
  }
  const auto refused = [&](int opened) {
    const std::string message = message_of<FormatError>([&] { TensorSource::open(name(opened)); });
    write_parts();
    return message;
  };
  using Catch::Contains;
  CHECK(refused(1).empty());
  for (int i = 1; i <= 3; ++i) {
    std::filesystem::remove(name(i));
    const int other = i % 3 + 1;
    CHECK_THROWS_WITH(TensorSource::open(name(other)), Contains(name(i).string()) && Contains("is missing"));
    write_parts();
  }
  write_file(name(2), part(1, 3, "a"));
  CHECK_THAT(refused(1),
             Contains(name(2).string()) && Contains("duplicate tensor \"a\"") && Contains(name(1).string()));
  write_file(name(2), part(2, 3, "b"));
  CHECK_THAT(refused(1), Contains(name(2).string()) && Contains("is not part 2 of 3"));
  write_file(name(2), part(1, 2, "b"));
  CHECK_THAT(refused(3), Contains(name(2).string()) && Contains("is not part 2 of 3"));
  write_file(name(3), part(2, 3, "c", 4));
  CHECK_THAT(refused(3), Contains("split.tensors.count is 4, but the parts hold 3"));
  write_file(name(3), part(3, 3, "c"));
  CHECK_THAT(refused(3), Contains("split.no is 3, but split.count is 3"));
  write_file(folder / "renamed.gguf", part(0, 3, "a"));
  CHECK_THROWS_WITH(TensorSource::open(folder / "renamed.gguf"), Contains("-00001-of-00003.gguf"));
  GgufBuilder text;
  text.add_value("split.count", 8, gguf_text("3"));
  write_file(name(1), text.build());
  CHECK_THAT(refused(1), Contains("split.count must be a whole number"));
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
