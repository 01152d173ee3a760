// SPDX-License-Identifier: Apache-2.0
#include "gguf_builder.hpp"
#include "temporary_folder.hpp"

#include <higgs/store/checkpoint.hpp>
#include <higgs/store/tensor_source.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
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
  builder.add_tensor("odd", {64, 3}, 77, "x");
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

TEST_CASE("a tensor of any type is read or refused by name, and its neighbours are read",
          "[store][tensor_source]") {
  const TemporaryFolder folder;
  const auto check = [&](const std::string& type) {
    INFO(type);
    const TensorSource source = TensorSource::open(folder / "a");
    CHECK(rows(source, "before", 0, 1) == std::vector<float>{1, 2});
    CHECK(rows(source, "after", 0, 1) == std::vector<float>{3, 4});
    const higgs::SourceTensor& tensor = source.at("w");
    CHECK(tensor.dtype == type);
    CHECK(tensor.copyable());
    if (tensor.readable()) {
      CHECK_NOTHROW(tensor.require_readable());
      CHECK(rows(source, "w", 0, tensor.rows()).size() ==
            static_cast<std::size_t>(tensor.rows() * tensor.cols()));
      return true;
    }
    const std::string message = message_of<FormatError>([&] { rows(source, "w", 0, 0); });
    CHECK(message == (folder / "a").string() + ": tensor \"w\": " + type + " cannot be read as floats");
    CHECK(message_of<FormatError>([&] { tensor.require_readable(); }) == message);
    return false;
  };
  std::string readable;
  std::vector<std::string> dtypes{"F5", "Q4_K", "Q8_0", "f32",
                                  "unknown"};  // the last ones are none of safetensors
  for (const auto& dtype : higgs::detail::dtypes) dtypes.emplace_back(dtype.name);
  for (const std::string& dtype : dtypes) {
    if (dtype.empty()) continue;
    const auto known = higgs::dtype_named(dtype);
    const std::size_t bytes =
        known ? static_cast<std::size_t>(higgs::dtype_bits(*known)) : 7;  // of 8 elements
    const std::string header =
        R"({"before":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":")" + dtype +
        R"(","shape":[2,4],"data_offsets":[8,)" + std::to_string(8 + bytes) +
        R"(]},"after":{"dtype":"F32","shape":[2],"data_offsets":[)" + std::to_string(8 + bytes) + "," +
        std::to_string(16 + bytes) + "]}}";
    write_file(folder / "a", raw<std::uint64_t>(header.size()) + header + floats(2, 1) +
                                 std::string(bytes, 'w') + floats(2, 3));
    if (check(dtype)) readable += dtype + " ";
  }
  CHECK(readable == "F64 F32 F16 BF16 F8_E4M3 F8_E5M2 ");
  readable.clear();
  for (std::uint32_t type = 0; type <= 60; ++type) {
    const higgs::BlockFormat* format = higgs::detail::gguf_format(type);
    GgufBuilder builder;
    builder.add_tensor("before", {2}, 0, floats(2, 1));
    builder.add_tensor("w", {format ? static_cast<std::uint64_t>(format->block) : 256, 2}, type,
                       std::string(static_cast<std::size_t>(format ? 2 * format->bytes : 33), 'w'));
    builder.add_tensor("after", {2}, 0, floats(2, 3));
    write_file(folder / "a", builder.build());
    const std::string name = higgs::GgufFile(folder / "a").find("w")->type_name();
    if (check(name)) readable += name + " ";
  }
  CHECK(
      readable ==
      "F32 F16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS F64 BF16 TQ1_0 TQ2_0 MXFP4 ");
}

namespace {

// A safetensors file of 8-bit floats and their scales, with the bytes of all.
struct Scaled {
  std::vector<std::int64_t> shape, scale_shape;
  DType dtype = DType::F8_E4M3, scale_dtype = DType::F32;
  std::string name = "x.weight", scale_name = "x.weight_scale_inv";

  static std::int64_t size(const std::vector<std::int64_t>& extents) {
    return higgs::matrix_rows(extents) * higgs::matrix_cols(extents);
  }
  static std::string codes(std::int64_t count) {
    std::string out;
    for (std::int64_t i = 0; i < count; ++i) out += static_cast<char>((i * i + 3 * i) % 120);
    return out;
  }
  // Every scale differs from its neighbours.
  static float scale(std::int64_t i) { return std::ldexp(1.0f, static_cast<int>(i % 23) - 11); }
  std::string scale_bytes() const {
    std::string out;
    for (std::int64_t i = 0; i < size(scale_shape); ++i) {
      if (scale_dtype == DType::F32) out += raw(scale(i));
      if (scale_dtype == DType::F64) out += raw(static_cast<double>(scale(i)));
      if (scale_dtype == DType::F16) out += raw(higgs::Half(scale(i)).bits);
      if (scale_dtype == DType::BF16) out += raw(higgs::BFloat16(scale(i)).bits);
      if (higgs::dtype_bits(scale_dtype) == 8) out += static_cast<char>(i % 23 - 11 + 127);
    }
    return out;
  }
  void write(const std::filesystem::path& path) const {
    higgs::SafetensorsWriter writer(path, {{name, dtype, shape}, {scale_name, scale_dtype, scale_shape}});
    writer.write(name, 0, bytes_of(codes(size(shape))));
    writer.write(scale_name, 0, bytes_of(scale_bytes()));
    writer.commit();
  }
  // The weight times the scale of the block that it lies in.
  std::vector<float> expected(std::int64_t block_rows, std::int64_t block_cols) const {
    const std::string bytes = codes(size(shape));
    std::vector<float> out(bytes.size());
    higgs::block_format_named(higgs::dtype_name(dtype))
        ->decode(reinterpret_cast<const std::uint8_t*>(bytes.data()), size(shape), out.data());
    const std::int64_t rows = shape[shape.size() - 2], cols = shape.back();
    const std::int64_t down = (rows + block_rows - 1) / block_rows,
                       across = (cols + block_cols - 1) / block_cols;
    for (std::int64_t i = 0; i < size(shape); ++i) {
      const std::int64_t matrix = i / (rows * cols), row = i / cols % rows, col = i % cols;
      out[static_cast<std::size_t>(i)] *=
          scale((matrix * down + row / block_rows) * across + col / block_cols);
    }
    return out;
  }
};

}  // namespace

TEST_CASE("8-bit floats are multiplied by the scales that lie beside them", "[store][tensor_source]") {
  struct Layout {
    std::vector<std::int64_t> shape, scale_shape;
    std::int64_t block_rows, block_cols;
  };
  const Layout layouts[] = {
      {{5, 7}, {}, 5, 7},  // one scale
      {{5, 7}, {1}, 5, 7},
      {{5, 7}, {1, 1}, 5, 7},
      {{5, 7}, {5}, 1, 7},  // one a row
      {{5, 7}, {5, 1}, 1, 7},
      {{5, 7}, {1, 7}, 5, 1},  // one a column
      {{5, 7}, {5, 7}, 1, 1},
      {{256, 384}, {2, 3}, 128, 128},  // blocks, whole and cut
      {{130, 257}, {2, 3}, 128, 128},
      {{129, 100}, {2, 1}, 128, 100},
      {{200, 300}, {2, 3}, 128, 128},
      {{64, 96}, {2, 3}, 32, 32},
      {{70, 256}, {2, 4}, 64, 64},
      {{3, 256}, {3, 8}, 1, 32},  // groups of a row
      {{6, 30}, {3, 3}, 2, 10},
      {{2, 130, 140}, {2, 2, 2}, 128, 128},  // stacks
      {{3, 4, 5}, {3, 1, 1}, 4, 5},
      {{3, 4, 5}, {3}, 4, 5},
      {{3, 4, 5}, {3, 4, 1}, 1, 5},
      {{3, 4, 5}, {3, 1, 5}, 4, 1},
  };
  const TemporaryFolder folder;
  for (const Layout& layout : layouts)
    for (const DType scale_dtype : {DType::F32, DType::F64, DType::F16, DType::BF16, DType::F8_E8M0}) {
      INFO(higgs::detail::shape_text(layout.shape) << " " << higgs::detail::shape_text(layout.scale_shape));
      Scaled file{layout.shape, layout.scale_shape};
      file.scale_dtype = scale_dtype;
      file.write(folder / "a");
      const TensorSource source = TensorSource::open(folder / "a");
      REQUIRE(source.tensors().size() == 1);  // the scales are a part of their tensor
      CHECK(source.find(file.scale_name) == nullptr);
      CHECK(source.at(file.name).readable());
      CHECK_FALSE(source.at(file.name).copyable());
      const std::int64_t all = source.at(file.name).rows(), cols = source.at(file.name).cols();
      const std::vector<float> expected = file.expected(layout.block_rows, layout.block_cols);
      CHECK(rows(source, file.name, 0, all) == expected);
      const std::int64_t middle = all / 3, count = (all - middle) / 2;  // and a piece of it
      CHECK(rows(source, file.name, middle, count) ==
            std::vector<float>(expected.begin() + middle * cols, expected.begin() + (middle + count) * cols));
    }
  const auto named = [&](const std::string& name, const std::string& scale_name) {
    Scaled file{{4, 6}, {4, 1}};
    file.dtype = DType::F8_E5M2;
    file.name = name;
    file.scale_name = scale_name;
    file.write(folder / "a");
    const TensorSource source = TensorSource::open(folder / "a");
    CHECK(rows(source, name, 0, 4) == file.expected(1, 6));
    CHECK(source.tensors().size() == 1);
  };
  named("a.b.weight", "a.b.weight_scale_inv");
  named("a.b.weight", "a.b.weight_scale");
  named("a.b.weight", "a.b.scale");
  named("experts.up_proj", "experts.up_proj_scale_inv");
  named("experts.up_proj", "experts.up_proj_scale");
}

TEST_CASE("scales may lie in another shard than their matrix", "[store][tensor_source]") {
  const TemporaryFolder folder;
  const Scaled file{{130, 140}, {2, 2}};
  higgs::SafetensorsWriter first(folder / "1", {{file.name, file.dtype, file.shape}});
  first.write(file.name, 0, bytes_of(Scaled::codes(130 * 140)));
  first.commit();
  higgs::SafetensorsWriter second(folder / "2", {{file.scale_name, file.scale_dtype, file.scale_shape}});
  second.write(file.scale_name, 0, bytes_of(file.scale_bytes()));
  second.commit();
  write_file(folder / "i.json",
             R"({"weight_map":{")" + file.name + R"(":"1",")" + file.scale_name + R"(":"2"}})");
  const higgs::SourceTensor tensor =
      TensorSource::open(folder / "i.json").at(file.name);  // outlives the source
  std::vector<float> out(130 * 140);
  tensor.read_rows(0, 130, out);
  CHECK(out == file.expected(128, 128));
}

TEST_CASE("8-bit floats without scales are plain numbers, and NaN stays NaN", "[store][tensor_source]") {
  const TemporaryFolder folder;
  higgs::SafetensorsWriter writer(folder / "a", {{"x.weight", DType::F8_E4M3, {1, 4}},
                                                 {"x.input_scale", DType::F32, {}},
                                                 {"y.weight_scale", DType::F32, {1}},
                                                 {"y.weight", DType::F8_E5M2, {2, 1}},
                                                 {"z.weight", DType::F32, {1}},
                                                 {"z.weight_scale", DType::F32, {1}}});
  writer.write("x.weight", 0, bytes_of("\x38\xb8\x7f\xff"));
  writer.write("y.weight", 0, bytes_of("\x7e\x7c"));
  for (const char* name : {"x.input_scale", "y.weight_scale", "z.weight", "z.weight_scale"})
    writer.write(name, 0, bytes_of(raw(3.0f)));
  writer.commit();
  const TensorSource source = TensorSource::open(folder / "a");
  CHECK(source.tensors().size() == 5);  // all but y.weight_scale
  CHECK(source.at("x.weight").copyable());
  const std::vector<float> x = rows(source, "x.weight", 0, 1), y = rows(source, "y.weight", 0, 2);
  CHECK((x[0] == 1 && x[1] == -1 && std::isnan(x[2]) && std::isnan(x[3])));
  CHECK((std::isnan(y[0]) && std::isinf(y[1])));
  CHECK(rows(source, "z.weight", 0, 1) == std::vector<float>{3});  // its type needs no scales
}

TEST_CASE("scales that fit no blocks are refused with both names and shapes", "[store][tensor_source]") {
  const TemporaryFolder folder;
  const auto refused = [&](std::vector<std::int64_t> shape, std::vector<std::int64_t> scale_shape) {
    const Scaled file{std::move(shape), std::move(scale_shape)};
    INFO(higgs::detail::shape_text(file.shape) << " " << higgs::detail::shape_text(file.scale_shape));
    file.write(folder / "a");
    const std::string message = message_of<FormatError>([&] { TensorSource::open(folder / "a"); });
    CHECK(message == (folder / "a").string() + ": tensor \"x.weight\" is " +
                         higgs::detail::shape_text(file.shape) +
                         ", but its scales \"x.weight_scale_inv\" are " +
                         higgs::detail::shape_text(file.scale_shape) + ", which fit no blocks of it");
  };
  refused({5, 7}, {7});
  refused({5, 7}, {2});
  refused({5, 7}, {0});
  refused({5, 7}, {1, 1, 1});
  refused({5, 7}, {6, 1});
  refused({5, 7}, {7, 5});
  refused({256, 384}, {3, 2});
  refused({256, 384}, {2, 3, 1});
  refused({100, 100}, {2, 1});  // 50 or 64?
  refused({10, 100}, {4, 1});   // neither 2.5 nor a power of two
  refused({2, 256, 256}, {2, 2});
  refused({2, 256, 256}, {4, 2, 2});
  refused({2, 256, 256}, {3});
  refused({7}, {7});
}

TEST_CASE("scales that are not understood make their matrix unreadable, not wrong",
          "[store][tensor_source]") {
  const TemporaryFolder folder;
  const auto unreadable = [&](const std::string& name, DType dtype, const std::string& also = "") {
    std::vector<higgs::TensorShape> shapes{{"x.weight", DType::F8_E4M3, {1, 1}}, {name, dtype, {1, 1}}};
    if (!also.empty()) shapes.push_back({also, DType::F32, {1, 1}});
    higgs::SafetensorsWriter writer(folder / "a", shapes);
    for (const higgs::TensorShape& shape : shapes)
      writer.write(shape.name, 0, bytes_of(std::string(static_cast<std::size_t>(*shape.bytes()), 'x')));
    writer.commit();
    const TensorSource source = TensorSource::open(folder / "a");
    CHECK(source.tensors().size() == shapes.size());  // what was not understood is listed
    CHECK_FALSE(source.at("x.weight").readable());
    CHECK(source.at("x.weight").copyable());
    const std::string message = message_of<FormatError>([&] { rows(source, "x.weight", 0, 1); });
    CHECK_THAT(message,
               Catch::Contains((folder / "a").string() + ": tensor \"x.weight\": F8_E4M3 cannot be read") &&
                   Catch::Contains("scale"));
    return message;
  };
  CHECK_THAT(unreadable("x.weight_scale", DType::U8),
             Catch::EndsWith("its scales \"x.weight_scale\" are of type U8"));
  CHECK_THAT(unreadable("x.weight_scale_inv", DType::F8_E4M3), Catch::EndsWith("are of type F8_E4M3"));
  for (const std::string name : {"x.weight_scale_2", "x.scale_weight", "x.weights_scaling_factor",
                                 "x.weight_quantizer._amax", "x.weight_zero_point"})
    CHECK_THAT(unreadable(name, DType::F32), Catch::Contains("\"" + name + "\""));
  CHECK_THAT(unreadable("x.weight_scale", DType::F32, "x.weight_scale_inv"),
             Catch::Contains("\"x.weight_scale_inv\" stand beside \"x.weight_scale\""));
}

TEST_CASE("what is no model is refused with a sentence that says what it is", "[store][tensor_source]") {
  const TemporaryFolder folder;
  CHECK_THROWS_AS(TensorSource::open(folder / "absent"), higgs::IoError);
  CHECK_THROWS_AS(TensorSource::open(folder.path()), higgs::IoError);
  const std::string pointer =
      "version https://git-lfs.github.com/spec/v1\noid sha256:" + std::string(64, 'a') + "\nsize 123456\n";
  const std::string neither = "is not a safetensors or GGUF file (it begins with ";
  const std::pair<std::string, std::string> files[] = {
      {"", "is empty"},
      {pointer, "is a Git LFS pointer, not the file itself: run git lfs pull"},
      {"this is not a model", neither + "\"this is not a model\")"},
      {"function{}", neither + "\"function{}\")"},
      {"hi", neither + "\"hi\")"},
      {"{\"a\":\n  [{}, 17]}", neither + "\"{\"a\":\")"},
      {"<!DOCTYPE html>\n<html>",
       neither + "\"<!DOCTYPE html>\", as web pages do: was the download refused?)"},
      {std::string("PK\3\4\0\0\0\0\0\0", 10) + std::string(100, 'z'), "the files of PyTorch do"},
      {std::string("\x80\2\x8a\nl\xfc\x9c\x46", 8) + std::string(100, 'z'), "as pickled files of Python do"},
      {std::string("\x1f\x8b\x08\0\0\0\0\0\0", 9), neither + "the bytes 1f 8b 08 00 00 00 00 00, as files"},
      {std::string(200, '\0'), neither + "the bytes 00 00 00 00 00 00 00 00)"},
      {std::string("\0\1\2", 3), neither + "the bytes 00 01 02)"}};
  for (const auto& [bytes, sentence] : files) {
    INFO(sentence);
    const auto check = [&](const std::filesystem::path& file, auto&& open) {
      CHECK_THAT(message_of<FormatError>(open),
                 Catch::StartsWith(file.string() + ": " + (sentence[0] == 'i' ? sentence : "")) &&
                     Catch::Contains(sentence));
    };
    const auto file = folder / "a", model = folder / "m/model.safetensors", index = folder / "i.json";
    std::filesystem::create_directories(folder / "m");
    write_file(file, bytes);
    write_file(model, bytes);
    write_file(index, R"({"weight_map":{"w":"a"}})");
    check(file, [&] { TensorSource::open(file); });
    check(file, [&] { higgs::GgufFile gguf(file); });
    check(file, [&] { higgs::Safetensors safetensors(file); });
    check(file, [&] { higgs::Checkpoint::open(file); });
    check(file, [&] { TensorSource::open(index); });
    check(model, [&] { TensorSource::open(folder / "m"); });
    check(model, [&] { higgs::Checkpoint::open(folder / "m"); });
    if (bytes.starts_with("{")) continue;
    write_file(index, bytes);
    check(index, [&] { TensorSource::open(index); });
  }
  write_file(folder / "config.json", R"({"model_type":"llama"})");
  CHECK_THROWS_WITH(TensorSource::open(folder / "config.json"),
                    Catch::Contains("is no index of safetensors files"));
  write_file(folder / "g", GgufBuilder().build());
  CHECK_THROWS_WITH(higgs::Checkpoint::open(folder / "g"),
                    Catch::Contains("is a GGUF file, not a safetensors file"));
  write_safetensors(folder / "s");
  CHECK_THROWS_WITH(higgs::GgufFile(folder / "s"), Catch::Contains("is a safetensors file, not a GGUF file"));
}
