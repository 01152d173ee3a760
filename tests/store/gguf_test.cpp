// SPDX-License-Identifier: Apache-2.0
#include "gguf_builder.hpp"
#include "temporary_folder.hpp"

#include <higgs/store/gguf.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <variant>
#include <vector>

using higgs::BlockFormat;
using higgs::FormatError;
using higgs::GgufArray;
using higgs::GgufFile;
using higgs::GgufTensor;
using higgs::GgufValue;

namespace {

constexpr std::uint32_t f32 = 0, q4_0 = 2, q4_k = 12;

template <class T>
T get(const GgufFile& file, const std::string& key) {
  const GgufValue* value = file.value(key);
  REQUIRE(value);
  REQUIRE(std::holds_alternative<T>(*value));
  return std::get<T>(*value);
}

// What opening a file of these bytes says; empty if it opens.
std::string refusal(const std::string& bytes) {
  const TemporaryFolder folder;
  write_file(folder / "a.gguf", bytes);
  const std::string message = message_of<FormatError>([&] { GgufFile file(folder / "a.gguf"); });
  if (!message.empty()) CHECK(message.find((folder / "a.gguf").string()) == 0);
  return message;
}
std::string refusal(const GgufBuilder& builder) { return refusal(builder.build()); }

bool contains(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

GgufBuilder two_tensors() {
  GgufBuilder builder;
  builder.add_tensor("a", {4, 2}, f32, std::string(32, 'a'));
  builder.add_tensor("b", {32}, q4_0, std::string(18, 'b'));
  return builder;
}

}  // namespace

TEST_CASE("metadata of every type is read", "[store][gguf]") {
  for (const std::uint32_t version : {2u, 3u}) {
    GgufBuilder builder;
    builder.version = version;
    builder.add_value("u8", 0, raw<std::uint8_t>(200));
    builder.add_value("i8", 1, raw<std::int8_t>(-5));
    builder.add_value("u16", 2, raw<std::uint16_t>(60000));
    builder.add_value("i16", 3, raw<std::int16_t>(-30000));
    builder.add_value("u32", 4, raw<std::uint32_t>(4000000000u));
    builder.add_value("i32", 5, raw<std::int32_t>(-2000000000));
    builder.add_value("f32", 6, raw(0.1f));
    builder.add_value("true", 7, raw<std::uint8_t>(1));
    builder.add_value("false", 7, raw<std::uint8_t>(0));
    builder.add_value("text", 8, gguf_text("h\xc3\xa4llo"));
    builder.add_value("u64", 10, raw(std::numeric_limits<std::uint64_t>::max()));
    builder.add_value("i64", 11, raw(std::numeric_limits<std::int64_t>::min()));
    builder.add_value("f64", 12, raw(0.1));
    builder.add_value(
        "texts", 9,
        raw<std::uint32_t>(8) + raw<std::uint64_t>(3) + gguf_text("x") + gguf_text("") + gguf_text("yz"));
    builder.add_value(
        "i16s", 9,
        raw<std::uint32_t>(3) + raw<std::uint64_t>(2) + raw<std::int16_t>(-1) + raw<std::int16_t>(7));
    builder.add_value("none", 9, raw<std::uint32_t>(8) + raw<std::uint64_t>(0));
    const std::string pair =
        raw<std::uint32_t>(4) + raw<std::uint64_t>(2) + raw<std::uint32_t>(1) + raw<std::uint32_t>(2);
    const std::string one = raw<std::uint32_t>(8) + raw<std::uint64_t>(1) + gguf_text("deep");
    builder.add_value("nested", 9, raw<std::uint32_t>(9) + raw<std::uint64_t>(2) + pair + one);
    const TemporaryFolder folder;
    write_file(folder / "a", builder.build());
    const GgufFile file(folder / "a");
    CHECK(file.version() == version);
    CHECK(file.metadata().size() == 17);
    CHECK(get<std::uint64_t>(file, "u8") == 200);
    CHECK(get<std::int64_t>(file, "i8") == -5);
    CHECK(get<std::uint64_t>(file, "u16") == 60000);
    CHECK(get<std::int64_t>(file, "i16") == -30000);
    CHECK(get<std::uint64_t>(file, "u32") == 4000000000u);
    CHECK(get<std::int64_t>(file, "i32") == -2000000000);
    CHECK(get<double>(file, "f32") == static_cast<double>(0.1f));
    CHECK(get<bool>(file, "true"));
    CHECK_FALSE(get<bool>(file, "false"));
    CHECK(get<std::string_view>(file, "text") == "h\xc3\xa4llo");
    CHECK(get<std::uint64_t>(file, "u64") == std::numeric_limits<std::uint64_t>::max());
    CHECK(get<std::int64_t>(file, "i64") == std::numeric_limits<std::int64_t>::min());
    CHECK(get<double>(file, "f64") == 0.1);
    const GgufArray texts = get<GgufArray>(file, "texts");
    REQUIRE(texts.size() == 3);
    CHECK(std::get<std::string_view>(texts[0]) == "x");
    CHECK(std::get<std::string_view>(texts[1]).empty());
    CHECK(std::get<std::string_view>(texts[2]) == "yz");
    CHECK_THROWS_AS(texts[3], higgs::InvalidArgument);
    const GgufArray numbers = get<GgufArray>(file, "i16s");
    CHECK(std::get<std::int64_t>(numbers[0]) == -1);
    CHECK(std::get<std::int64_t>(numbers[1]) == 7);
    CHECK(get<GgufArray>(file, "none").size() == 0);
    const GgufArray nested = get<GgufArray>(file, "nested");
    CHECK(std::get<std::uint64_t>(std::get<GgufArray>(nested[0])[1]) == 2);
    CHECK(std::get<std::string_view>(std::get<GgufArray>(nested[1])[0]) == "deep");
    CHECK(file.value("absent") == nullptr);
  }
}

TEST_CASE("tensors are listed with their rows first, and outlive the file object", "[store][gguf]") {
  const TemporaryFolder folder;
  GgufBuilder builder = two_tensors();
  builder.alignment = 64;
  builder.add_value("general.alignment", 4, raw<std::uint32_t>(64));
  builder.data.clear();
  builder.tensors.clear();
  builder.add_tensor("a", {4, 2}, f32, "0123456789abcdef0123456789ABCDEF");
  builder.add_tensor("mystery", {100, 3}, 99, std::string(70, 'm'));
  builder.add_tensor("b", {64, 3, 2}, q4_0, std::string(216, 'b'));
  builder.add_tensor("scalar", {}, f32, "wxyz");
  write_file(folder / "a", builder.build());
  const std::vector<GgufTensor> tensors = GgufFile(folder / "a").tensors();
  REQUIRE(tensors.size() == 4);
  CHECK(tensors[0].name == "a");
  CHECK(tensors[0].type_name() == "F32");
  CHECK(tensors[0].shape == std::vector<std::int64_t>{2, 4});
  CHECK(std::string(tensors[0].data.begin(), tensors[0].data.end()) == "0123456789abcdef0123456789ABCDEF");
  CHECK(tensors[1].type_name() == "type 99");
  CHECK(tensors[1].format == nullptr);
  CHECK(std::string(tensors[1].data.begin(), tensors[1].data.end()) ==
        std::string(70, 'm') + std::string(58, '\0'));  // up to the next tensor
  CHECK(tensors[2].shape == std::vector<std::int64_t>{2, 3, 64});
  CHECK(tensors[2].data.size() == 216);
  CHECK(tensors[3].shape.empty());
  CHECK(tensors[3].data.size() == 4);
}

TEST_CASE("every number of a type has its name, its size, and no power over other tensors", "[store][gguf]") {
  // ggml.h, enum ggml_type, with weights and bytes of a block as gguf-py 0.19.0 has them; 0 for what is gone or never stored.
  struct Type {
    std::string name;
    int block, bytes;
  };
  const std::vector<Type> types{
      {"F32", 1, 4},        {"F16", 1, 2},        {"Q4_0", 32, 18},     {"Q4_1", 32, 20},
      {"Q4_2", 0, 0},       {"Q4_3", 0, 0},       {"Q5_0", 32, 22},     {"Q5_1", 32, 24},
      {"Q8_0", 32, 34},     {"Q8_1", 0, 0},       {"Q2_K", 256, 84},    {"Q3_K", 256, 110},
      {"Q4_K", 256, 144},   {"Q5_K", 256, 176},   {"Q6_K", 256, 210},   {"Q8_K", 256, 292},
      {"IQ2_XXS", 256, 66}, {"IQ2_XS", 256, 74},  {"IQ3_XXS", 256, 98}, {"IQ1_S", 256, 50},
      {"IQ4_NL", 32, 18},   {"IQ3_S", 256, 110},  {"IQ2_S", 256, 82},   {"IQ4_XS", 256, 136},
      {"I8", 1, 1},         {"I16", 1, 2},        {"I32", 1, 4},        {"I64", 1, 8},
      {"F64", 1, 8},        {"IQ1_M", 256, 56},   {"BF16", 1, 2},       {"Q4_0_4_4", 0, 0},
      {"Q4_0_4_8", 0, 0},   {"Q4_0_8_8", 0, 0},   {"TQ1_0", 256, 54},   {"TQ2_0", 256, 66},
      {"IQ4_NL_4_4", 0, 0}, {"IQ4_NL_4_8", 0, 0}, {"IQ4_NL_8_8", 0, 0}, {"MXFP4", 32, 17},
      {"NVFP4", 64, 36},    {"Q1_0", 128, 18}};
  for (std::uint32_t type = 0; type <= 60; ++type) {
    INFO(type);
    const BlockFormat* format = higgs::detail::gguf_format(type);
    const Type expected = type < types.size() ? types[type] : Type{"type " + std::to_string(type), 0, 0};
    CHECK((format ? format->block : 0) == expected.block);
    CHECK((format ? format->bytes : 0) == expected.bytes);
    const std::size_t row = format ? static_cast<std::size_t>(format->bytes) : 40;
    GgufBuilder builder;
    builder.add_tensor("before", {2}, f32, "abcdefgh");
    builder.add_tensor("w", {format ? static_cast<std::uint64_t>(format->block) : 256, 3}, type,
                       std::string(3 * row, 'w'));
    builder.add_tensor("after", {2}, f32, "ijklmnop");
    const TemporaryFolder folder;
    write_file(folder / "a", builder.build());
    const GgufFile file(folder / "a");
    const GgufTensor& tensor = *file.find("w");
    CHECK(tensor.type_name() == expected.name);
    CHECK(tensor.data.size() == (format ? 3 * row : (3 * row + 31) / 32 * 32));
    CHECK(std::string(file.find("after")->data.begin(), file.find("after")->data.end()) == "ijklmnop");
    CHECK((!format || format->name == expected.name));
    builder.tensors.pop_back();
    builder.data.resize(builder.tensors[1].offset + 3 * row - 1);
    CHECK(refusal(builder).empty() == !format);
  }
  CHECK(higgs::detail::gguf_format(UINT32_MAX) == nullptr);
}

TEST_CASE("a tensor of unknown size ends where the next begins and owns its bytes alone", "[store][gguf]") {
  const auto with = [](std::uint64_t known, std::uint64_t unknown, std::vector<std::uint64_t> extents = {8}) {
    GgufBuilder builder;
    builder.add_tensor("known", {8}, f32, "");
    builder.add_tensor("unknown", std::move(extents), 99, "");
    builder.tensors[0].offset = known;
    builder.tensors[1].offset = unknown;
    builder.data = std::string(96, 'x');
    return refusal(builder);
  };
  CHECK(with(0, 32).empty());
  CHECK(with(64, 0).empty());
  CHECK(contains(with(32, 32), "overlaps"));
  CHECK(contains(with(0, 96), "tensor \"unknown\": lies outside"));
  CHECK(contains(with(0, 128), "tensor \"unknown\": lies outside"));
  CHECK(with(0, 0, {0}).empty());
  CHECK(with(0, 96, {0}).empty());
}

TEST_CASE("a file cut anywhere is refused", "[store][gguf]") {
  GgufBuilder builder = two_tensors();
  builder.add_value("k", 9, raw<std::uint32_t>(8) + raw<std::uint64_t>(2) + gguf_text("x") + gguf_text("y"));
  const std::string whole = builder.build();
  CHECK(refusal(whole).empty());
  for (std::size_t size = 0; size < whole.size(); ++size) {
    INFO(size);
    CHECK_FALSE(refusal(whole.substr(0, size)).empty());
  }
}

TEST_CASE("other magics and versions are refused", "[store][gguf]") {
  GgufBuilder builder = two_tensors();
  builder.magic = "GGML";
  CHECK(contains(refusal(builder), "is not a safetensors or GGUF file (it begins with \"GGML\")"));
  builder = two_tensors();
  for (const std::uint32_t version : {0u, 1u, 4u, UINT32_MAX}) {
    builder.version = version;
    CHECK(contains(refusal(builder), "not supported"));
  }
  builder.version = 0x03000000;
  CHECK(contains(refusal(builder), "big-endian"));
}

TEST_CASE("counts and lengths that the file cannot hold are refused", "[store][gguf]") {
  for (const std::uint64_t extra :
       {std::uint64_t{1}, std::uint64_t{1} << 20, std::uint64_t{1} << 40, UINT64_MAX - 5}) {
    GgufBuilder builder = two_tensors();
    builder.extra_tensors = extra;
    CHECK_FALSE(refusal(builder).empty());
    builder = two_tensors();
    builder.extra_values = extra;
    CHECK_FALSE(refusal(builder).empty());
  }
  for (const std::uint64_t length : {std::uint64_t{1} << 32, std::uint64_t{1} << 61, UINT64_MAX}) {
    GgufBuilder builder;
    builder.add_value("text", 8, raw(length) + "x");
    CHECK(contains(refusal(builder), "ends early"));
    for (std::uint32_t type = 0; type < 13; ++type) {
      builder.values.clear();
      builder.add_value("array", 9, raw(type) + raw(length));
      CHECK(contains(refusal(builder), "too short for a count"));
    }
    builder.values = {raw(length)};
    CHECK_FALSE(refusal(builder).empty());
  }
}

TEST_CASE("unknown metadata types, deep arrays and duplicate keys are refused", "[store][gguf]") {
  GgufBuilder builder;
  builder.add_value("k", 13, "");
  CHECK(contains(refusal(builder), "unknown metadata type 13"));
  builder.values.clear();
  builder.add_value("k", 9, raw<std::uint32_t>(13) + raw<std::uint64_t>(0));
  CHECK(contains(refusal(builder), "unknown metadata type 13"));
  builder.values.clear();
  std::string deep;
  for (int i = 0; i < 100; ++i) deep += raw<std::uint32_t>(9) + raw<std::uint64_t>(1);
  builder.add_value("k", 9, deep + raw<std::uint32_t>(0) + raw<std::uint64_t>(0));
  CHECK(contains(refusal(builder), "too deeply"));
  builder.values.clear();
  builder.add_value("k", 0, "1");
  builder.add_value("k", 0, "2");
  CHECK(contains(refusal(builder), "duplicate metadata key \"k\""));
}

TEST_CASE("an alignment that is no power of two is refused", "[store][gguf]") {
  for (const std::uint32_t alignment : {0u, 3u, 48u, 0x80000000u, UINT32_MAX}) {
    GgufBuilder builder;
    builder.add_value("general.alignment", 4, raw(alignment));
    CHECK(contains(refusal(builder), "power of two"));
  }
  GgufBuilder builder;
  builder.add_value("general.alignment", 5, raw<std::int32_t>(32));
  CHECK(contains(refusal(builder), "power of two"));
}

TEST_CASE("tensors that overlap or leave the file are refused by name", "[store][gguf]") {
  const auto with = [](std::uint64_t offset_a, std::uint64_t offset_b) {
    GgufBuilder builder = two_tensors();
    builder.tensors[0].offset = offset_a;
    builder.tensors[1].offset = offset_b;
    builder.data = std::string(96, 'x');
    return refusal(builder);
  };
  CHECK(with(0, 32).empty());
  CHECK(with(32, 0).empty());
  CHECK(with(0, 64).empty());
  CHECK(contains(with(0, 0), "overlaps"));
  CHECK(contains(with(64, 64), "overlaps"));
  CHECK(contains(with(0, 33), "tensor \"b\": the offset is not aligned"));
  CHECK(contains(with(96, 0), "tensor \"a\": lies outside"));
  CHECK(contains(with(128, 0), "tensor \"a\": lies outside"));
  CHECK(contains(with(UINT64_MAX - 31, 0), "tensor \"a\": lies outside"));
  GgufBuilder builder = two_tensors();
  builder.tensors[1].name = "a";
  CHECK(contains(refusal(builder), "duplicate tensor \"a\""));
}

TEST_CASE("extents that overflow or cut blocks are refused by name", "[store][gguf]") {
  const auto with = [](std::vector<std::uint64_t> extents, std::uint32_t type) {
    GgufBuilder builder;
    builder.add_tensor("a", std::move(extents), type, std::string(64, 'x'));
    return refusal(builder);
  };
  CHECK(with({4, 4}, f32).empty());
  CHECK(with({0}, f32).empty());
  CHECK(with({}, f32).empty());
  CHECK(contains(with({1, 1, 1, 1, 1}, f32), "tensor \"a\": more than four"));
  CHECK(contains(with({std::uint64_t{1} << 31, std::uint64_t{1} << 31}, f32), "tensor \"a\": the extents"));
  CHECK(contains(with({UINT64_MAX}, f32), "tensor \"a\": the extents"));
  CHECK(
      contains(with({0, std::uint64_t{1} << 40, std::uint64_t{1} << 40}, f32), "tensor \"a\": the extents"));
  CHECK(contains(with({std::uint64_t{1} << 59, 1}, 28), "tensor \"a\": lies outside"));
  CHECK(contains(with({17}, f32), "tensor \"a\": lies outside"));
  CHECK(contains(with({33}, q4_0), "tensor \"a\": rows must be whole blocks"));
  CHECK(contains(with({16, 2}, q4_0), "tensor \"a\": rows must be whole blocks"));
  CHECK(contains(with({}, q4_k), "tensor \"a\": rows must be whole blocks"));
}
