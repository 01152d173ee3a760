// SPDX-License-Identifier: Apache-2.0
#include "checkpoint_example.hpp"
#include "temporary_folder.hpp"

#include <higgs/codes/registry.hpp>
#include <higgs/store/checkpoint.hpp>
#include <higgs/store/safetensors.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <variant>
#include <vector>

using higgs::Checkpoint;
using higgs::CodeLayout;
using higgs::DType;
using higgs::FormatError;
using higgs::SafetensorsWriter;
using Book = higgs::GridCodebook<2, 16>;

namespace {

// A checkpoint of one layer "w", (3, 60) in blocks of 32 and groups of 16, as a plain safetensors file that a
// test may spoil before it is written.
struct Parts {
  SafetensorsWriter::Metadata metadata{{"format", "higgs"}, {"higgs.version", "1"}};
  std::map<std::string, std::string> record{
      {"codebook", "\"2x16\""}, {"rows", "3"},     {"cols", "60"},     {"block", "32"},
      {"group", "16"},          {"seed", "\"7\""}, {"exponent", "-3"}, {"dtype", "\"BF16\""},
      {"t2", "0.25"},           {"step", "0.5"},   {"mse", "0.125"},   {"weight_error", "0.5"}};
  std::map<std::string, std::pair<higgs::TensorShape, std::string>> tensors;

  Parts() {
    const auto matrix = example_matrix<Book>({3, 60, 32, 16}, 7);
    std::string scales, points;
    for (const higgs::Half scale : matrix.scales) scales += raw(scale.bits);
    for (const auto coordinate : higgs::detail::points_of(Book{})) points += raw(coordinate);
    set("w.codes", DType::U8, {3, 16}, std::string(matrix.codes.begin(), matrix.codes.end()));
    set("w.scales", DType::F16, {3, 4}, scales);
    set("w.codebook", DType::I8, {16, 2}, points);
    set("norm", DType::F32, {1}, "abcd");
  }
  void set(const std::string& name, DType dtype, std::vector<std::int64_t> shape, const std::string& bytes) {
    tensors[name] = {{name, dtype, std::move(shape)}, bytes};
  }
  std::string layer() const {
    std::string text = "{";
    for (const auto& [key, value] : record) text += (text == "{" ? "\"" : ",\"") + key + "\":" + value;
    return text + "}";
  }
  void write(const std::filesystem::path& path) const {
    SafetensorsWriter::Metadata all = metadata;
    all.emplace("higgs.layer.w", layer());
    std::vector<higgs::TensorShape> shapes;
    for (const auto& [name, tensor] : tensors) shapes.push_back(tensor.first);
    SafetensorsWriter writer(path, shapes, all);
    for (const auto& [name, tensor] : tensors) writer.write(name, 0, bytes_of(tensor.second));
    writer.commit();
  }
};

// What opening the spoiled checkpoint and loading its layer says; empty if both succeed.
std::string refusal(const std::function<void(Parts&)>& spoil) {
  const TemporaryFolder folder;
  Parts parts;
  spoil(parts);
  parts.write(folder / "a");
  const std::string message = message_of<FormatError>([&] { Checkpoint::open(folder / "a").load("w"); });
  if (!message.empty()) CHECK(message.find((folder / "a").string()) == 0);
  return message;
}
std::string refusal_of(const std::string& key, const std::string& value) {
  return refusal([&](Parts& parts) { parts.record[key] = value; });
}
bool names_layer(const std::string& message) { return message.find("layer \"w\"") != message.npos; }

}  // namespace

TEST_CASE("a layer is read in place", "[store][checkpoint]") {
  const TemporaryFolder folder;
  const Parts parts;
  parts.write(folder / "a");
  higgs::AnyQuantizedMatrix any;
  const std::uint8_t* codes = nullptr;
  {
    const Checkpoint checkpoint = Checkpoint::open(folder / "a");
    REQUIRE(checkpoint.layers().size() == 1);
    const higgs::CheckpointLayer& layer = checkpoint.layers()[0];
    CHECK(layer.name == "w");
    CHECK(layer.codebook == "2x16");
    CHECK(layer.dtype == "BF16");
    CHECK(layer.layout == CodeLayout{3, 60, 32, 16});
    CHECK(checkpoint.find_layer("w") == &layer);
    CHECK(checkpoint.find_layer("v") == nullptr);
    CHECK_THROWS_WITH(checkpoint.load("v"), Catch::Contains("no layer \"v\""));
    REQUIRE(checkpoint.tensors().size() == 1);
    CHECK(checkpoint.tensors()[0].name == "norm");
    any = checkpoint.load("w");
    codes = checkpoint.file().find("w.codes")->data.data();
  }
  const auto& matrix = std::get<higgs::QuantizedMatrix<Book>>(any);  // outlives the checkpoint
  auto expected = example_matrix<Book>({3, 60, 32, 16}, 7, -3, 0.25);
  Book::Points points;
  for (int i = 0; i < Book::size; ++i)
    points[static_cast<std::size_t>(i)] = Book{}.decode(static_cast<Book::Index>(i));
  expected.book = Book(points, 0.5, 0.125);
  CHECK(same(matrix, expected));
  CHECK(matrix.codes.data() == codes);
}

TEST_CASE("8-bit scales are read by their metadata, any byte of them", "[store][checkpoint]") {
  const TemporaryFolder folder;
  Parts parts;
  std::string scales;
  for (int i = 0; i < 12; ++i) scales += static_cast<char>(i * 23);
  parts.set("w.scales", DType::U8, {3, 4}, scales);
  parts.record["scales"] = "\"log8\"";
  parts.write(folder / "a");
  const auto any = Checkpoint::open(folder / "a").load("w");
  const auto& matrix = std::get<higgs::QuantizedMatrix<Book>>(any);
  CHECK(matrix.layout.scale_format == higgs::ScaleFormat::Log8);
  REQUIRE(matrix.scales.size() == 12);
  for (std::size_t i = 0; i < 12; ++i)
    CHECK(matrix.scales[i] ==
          static_cast<higgs::Half>(higgs::Log8::from_code(static_cast<std::uint8_t>(i * 23))));
  // The metadata and the tensor must agree.
  CHECK(names_layer(refusal_of("scales", "\"log8\"")));
  CHECK(names_layer(refusal_of("scales", "\"log7\"")));
  CHECK(names_layer(refusal_of("scales", "8")));
  CHECK(names_layer(refusal([&](Parts& spoiled) { spoiled.set("w.scales", DType::U8, {3, 4}, scales); })));
  CHECK(names_layer(refusal([&](Parts& spoiled) {
    spoiled.record["scales"] = "\"log8\"";
    spoiled.set("w.scales", DType::U8, {3, 3}, scales.substr(0, 9));
  })));
}

TEST_CASE("a file whose scales lie at an odd address is read by copy", "[store][checkpoint]") {
  const TemporaryFolder folder;
  const Parts parts;
  parts.write(folder / "a");
  // The same file with one byte more of padding in the header.
  std::string bytes = read_file(folder / "a");
  std::uint64_t length;
  std::memcpy(&length, bytes.data(), 8);
  bytes = raw(length + 1) + bytes.substr(8, length) + " " + bytes.substr(8 + length);
  write_file(folder / "odd", bytes);
  const auto even = Checkpoint::open(folder / "a").load("w");
  const auto odd = Checkpoint::open(folder / "odd").load("w");
  CHECK(same(std::get<higgs::QuantizedMatrix<Book>>(even), std::get<higgs::QuantizedMatrix<Book>>(odd)));
}

TEST_CASE("what is no checkpoint of this version is refused", "[store][checkpoint]") {
  CHECK(refusal([](Parts&) {}).empty());
  CHECK_FALSE(refusal([](Parts& parts) { parts.metadata.erase("format"); }).empty());
  CHECK_FALSE(refusal([](Parts& parts) { parts.metadata["format"] = "pt"; }).empty());
  CHECK_FALSE(refusal([](Parts& parts) { parts.metadata.erase("higgs.version"); }).empty());
  CHECK(refusal([](Parts& parts) { parts.metadata["higgs.version"] = "2"; }).find("version 2") !=
        std::string::npos);
  CHECK_FALSE(refusal([](Parts& parts) { parts.metadata["higgs.version"] = "1 "; }).empty());
}

TEST_CASE("a record that is missing something or out of range is refused", "[store][checkpoint]") {
  for (const std::string key :
       {"codebook", "rows", "cols", "block", "group", "seed", "exponent", "dtype", "step", "mse"}) {
    INFO(key);
    CHECK(names_layer(refusal([&](Parts& parts) { parts.record.erase(key); })));
    CHECK(names_layer(refusal_of(key, "[]")));
    CHECK(names_layer(refusal_of(key, "true")));
  }
  for (const std::string key : {"t2", "weight_error"}) {
    CHECK(refusal([&](Parts& parts) { parts.record.erase(key); }).empty());
    CHECK(refusal_of(key, "null").empty());
    CHECK(names_layer(refusal_of(key, "-1")));
    CHECK(names_layer(refusal_of(key, "\"1\"")));
  }
  CHECK(refusal_of("a key of a later writer", "[1]").empty());
  for (const std::string bad :
       {"0", "-32", "16.0", "\"32\"", "18446744073709551615", "9223372036854775807"}) {
    CHECK(names_layer(refusal_of("block", bad)));
    CHECK(names_layer(refusal_of("group", bad)));
    CHECK(names_layer(refusal_of("cols", bad)));
  }
  CHECK(names_layer(refusal_of("group", "12")));
  CHECK(names_layer(refusal_of("group", "64")));
  CHECK(names_layer(refusal_of("rows", "-1")));
  CHECK(names_layer(refusal_of("rows", "9223372036854775807")));
  CHECK(refusal_of("codebook", "\"3x77\"").find("unknown codebook \"3x77\"") != std::string::npos);
  for (const std::string bad : {"128", "-201", "1.5", "99999999999"})
    CHECK(names_layer(refusal_of("exponent", bad)));
  CHECK(refusal_of("exponent", "127").empty());
  CHECK(refusal_of("exponent", "-200").empty());
  CHECK(refusal_of("seed", "null").empty());
  CHECK(refusal_of("seed", "\"18446744073709551615\"").empty());
  for (const std::string bad :
       {"7", "\"\"", "\"-1\"", "\"+1\"", "\" 1\"", "\"1 \"", "\"0x1\"", "\"18446744073709551616\""})
    CHECK(names_layer(refusal_of("seed", bad)));
  for (const std::string bad : {"-1", "\"1\"", "null", "1e999"}) CHECK(names_layer(refusal_of("step", bad)));
  CHECK(names_layer(refusal([](Parts& parts) { parts.metadata["higgs.layer.w"] = "{"; })));
  CHECK(names_layer(refusal([](Parts& parts) { parts.metadata["higgs.layer.w"] = "[]"; })));
  CHECK(names_layer(refusal([](Parts& parts) {
    parts.metadata["higgs.layer.w"] = "{\"rows\":3," + parts.layer().substr(1);  // twice
  })));
}

TEST_CASE("a layout that its tensors do not have is refused", "[store][checkpoint]") {
  using Pair = std::pair<std::string, std::string>;
  for (const auto& [key, value] :
       {Pair{"rows", "4"}, Pair{"cols", "30"}, Pair{"cols", "65"}, Pair{"block", "48"}, Pair{"group", "8"},
        Pair{"codebook", "\"2x64\""}, Pair{"codebook", "\"1x4\""}}) {
    INFO(key << " " << value);
    CHECK(names_layer(refusal_of(key, value)));
  }
  CHECK(names_layer(refusal_of("rows", "281474976710656")));
  CHECK(names_layer(refusal_of("block", "281474976710656")));
  for (const std::string name : {"w.codes", "w.scales", "w.codebook"}) {
    CHECK(refusal([&](Parts& parts) { parts.tensors.erase(name); }).find("\"" + name + "\" is missing") !=
          std::string::npos);
    CHECK(names_layer(refusal([&](Parts& parts) {
      auto& [shape, bytes] = parts.tensors[name];  // the same number of elements, of another type
      bytes.resize(bytes.size() / static_cast<std::size_t>(higgs::dtype_bits(shape.dtype) / 8));
      shape.dtype = DType::BOOL;
    })));
    CHECK(names_layer(refusal([&](Parts& parts) { parts.tensors[name].first.shape.push_back(1); })));
  }
}

TEST_CASE("scales that are not finite are refused when the layer is loaded", "[store][checkpoint]") {
  for (const int value : {0x7c00, 0xfc00, 0x7e00, 0xffff, 0x7c01}) {
    const auto bits = static_cast<std::uint16_t>(value);
    const auto spoil = [&](Parts& parts) { parts.tensors["w.scales"].second.replace(10, 2, raw(bits)); };
    CHECK(refusal(spoil).find("layer \"w\": a scale is infinite or NaN") != std::string::npos);
  }
  CHECK(refusal([](Parts& parts) {
          parts.tensors["w.scales"].second.replace(10, 2, raw<std::uint16_t>(0xfbff));
        }).empty());
}

TEST_CASE("input scales are read where the record has them, and refused where they do not fit",
          "[store][checkpoint]") {
  const auto with = [](Parts& parts) {
    std::string bytes;
    for (int c = 0; c < 60; ++c) bytes += raw(higgs::Half(0.5f + static_cast<float>(c)).bits);
    parts.record["input_scales"] = "true";
    parts.set("w.input_scales", DType::F16, {60}, bytes);
  };
  CHECK(refusal(with).empty());
  const TemporaryFolder folder;
  Parts parts;
  with(parts);
  parts.write(folder / "a");
  const auto any = Checkpoint::open(folder / "a").load("w");
  auto expected = example_matrix<Book>({3, 60, 32, 16, true}, 7, -3, 0.25);
  expected.book = std::get<higgs::QuantizedMatrix<Book>>(any).book;
  CHECK(same(std::get<higgs::QuantizedMatrix<Book>>(any), expected));

  const auto spoiled = [&](const std::function<void(Parts&)>& spoil) {
    return refusal([&](Parts& all) {
      with(all);
      spoil(all);
    });
  };
  CHECK(names_layer(spoiled([](Parts& all) { all.tensors.erase("w.input_scales"); })));
  CHECK(names_layer(spoiled([](Parts& all) { all.tensors["w.input_scales"].first.shape = {30, 2}; })));
  CHECK(names_layer(spoiled([](Parts& all) { all.tensors["w.input_scales"].first.dtype = DType::BF16; })));
  CHECK(names_layer(spoiled([](Parts& all) { all.record["input_scales"] = "1"; })));
  const auto infinite = [](Parts& all) {
    all.tensors["w.input_scales"].second.replace(4, 2, raw<std::uint16_t>(0x7c00));
  };
  CHECK(spoiled(infinite).find("an input scale is infinite or NaN") != std::string::npos);
  // Without the word in the record it is a tensor like any other.
  CHECK(spoiled([](Parts& all) { all.record["input_scales"] = "false"; }).empty());
}

TEST_CASE("points that kernels cannot hold are refused", "[store][checkpoint]") {
  CHECK(names_layer(
      refusal([](Parts& parts) { parts.tensors["w.codebook"].second[5] = static_cast<char>(-128); })));
  CHECK(
      refusal([](Parts& parts) { parts.tensors["w.codebook"].second[5] = static_cast<char>(-127); }).empty());
}

TEST_CASE("a file without its errors reads as not knowing them", "[store][checkpoint]") {
  const TemporaryFolder folder;
  Parts parts;
  parts.record.erase("t2");
  parts.record["weight_error"] = "null";
  parts.write(folder / "a");
  const Checkpoint checkpoint = Checkpoint::open(folder / "a");
  CHECK(std::isnan(checkpoint.layers()[0].t2));
  CHECK(std::isnan(checkpoint.layers()[0].weight_error));
  CHECK(std::isnan(checkpoint.load("w").t2()));
  CHECK(std::isnan(checkpoint.load("w").weight_error()));
}

TEST_CASE("a layer of an unknown codebook hinders no other, and says what it is when it is loaded",
          "[store][checkpoint]") {
  const TemporaryFolder folder;
  Parts parts;
  std::string unknown = parts.layer();
  unknown.replace(unknown.find("2x16"), 4, "q9z");
  parts.metadata["higgs.layer.v"] = unknown;
  for (const char* part : {".codes", ".scales", ".codebook"}) {
    parts.tensors[std::string("v") + part] = parts.tensors[std::string("w") + part];
    parts.tensors[std::string("v") + part].first.name = std::string("v") + part;
  }
  parts.write(folder / "a");
  const Checkpoint checkpoint = Checkpoint::open(folder / "a");
  REQUIRE(checkpoint.layers().size() == 2);
  CHECK_FALSE(checkpoint.layers()[0].shipped);
  CHECK(checkpoint.layers()[0].codebook == "q9z");
  CHECK(checkpoint.layers()[1].shipped);
  CHECK(checkpoint.load("w").rows() == 3);
  REQUIRE(checkpoint.tensors().size() == 1);  // its parts are no tensors of their own
  CHECK_THROWS_WITH(checkpoint.load("v"), Catch::Contains("layer \"v\": unknown codebook \"q9z\"") &&
                                              Catch::Contains("load<Code>") &&
                                              Catch::Contains((folder / "a").string()));
  CHECK_THROWS_AS(checkpoint.load("v"), FormatError);
  CHECK_THROWS_WITH(checkpoint.load<Book>("v"), Catch::Contains("\"v\"") && Catch::Contains("q9z, not 2x16"));
  CHECK_THROWS_AS(checkpoint.load<Book>("v"), higgs::InvalidArgument);
  CHECK(checkpoint.load<Book>("w").rows() == 3);
}
