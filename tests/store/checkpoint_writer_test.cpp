// SPDX-License-Identifier: Apache-2.0
#include "checkpoint_example.hpp"
#include "temporary_folder.hpp"

#include <higgs/codes/grid/tables/2x1024.hpp>
#include <higgs/codes/lattice/code.hpp>
#include <higgs/codes/radix/code.hpp>
#include <higgs/codes/registry.hpp>
#include <higgs/store/checkpoint.hpp>
#include <higgs/store/checkpoint_writer.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <type_traits>
#include <variant>
#include <vector>

#if HIGGS_POSIX_FILES
#  include <sys/wait.h>
#  include <unistd.h>
#  include <csignal>
#endif

namespace fs = std::filesystem;
using higgs::Checkpoint;
using higgs::CheckpointContents;
using higgs::CheckpointOptions;
using higgs::CheckpointWriter;
using higgs::CodeLayout;
using higgs::DType;
using higgs::InvalidArgument;
using higgs::IoError;
using Grid = higgs::GridCodebook<2, 256>;

namespace {

constexpr CodeLayout layout{5, 100, 64, 32};

// Four layers and a tensor; layer i has seed i.
CheckpointContents example_contents() {
  CheckpointContents contents;
  contents.set_metadata("model", "test");
  for (std::uint64_t i = 0; i < 4; ++i)
    contents.add_layer<Grid>("layer." + std::to_string(i), layout, i, "BF16");
  contents.add_tensor({"norm", DType::F32, {2}});
  return contents;
}
std::string layer_name(std::uint64_t i) { return "layer." + std::to_string(i); }

// Writes what is not finished; returns how many layers that were.
int fill(CheckpointWriter& writer) {
  int written = 0;
  for (std::uint64_t i = 0; i < 4; ++i) {
    if (writer.finished(layer_name(i))) continue;
    writer.write_layer(layer_name(i), example_matrix<Grid>(layout, i));
    ++written;
  }
  if (!writer.finished("norm")) {
    writer.write_tensor("norm", 0, bytes_of("12345678"));
    writer.finish_tensor("norm");
  }
  return written;
}

void check_example(const fs::path& path) {
  const Checkpoint checkpoint = Checkpoint::open(path);
  REQUIRE(checkpoint.layers().size() == 4);
  for (std::uint64_t i = 0; i < 4; ++i) {
    const auto any = checkpoint.load(layer_name(i));
    CHECK(same(std::get<higgs::QuantizedMatrix<Grid>>(any), example_matrix<Grid>(layout, i)));
  }
  REQUIRE(checkpoint.tensors().size() == 1);
  CHECK(std::string(checkpoint.tensors()[0].data.begin(), checkpoint.tensors()[0].data.end()) == "12345678");
  CHECK(checkpoint.file().metadata().at("model") == "test");
}

// All files below a folder, by relative name.
std::map<std::string, std::string> snapshot(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) files[fs::relative(entry.path(), folder).string()] = read_file(entry.path());
  return files;
}

constexpr std::uint64_t one_layer = 5 * 64 + 5 * 4 * 2 + 512;  // bytes of codes, scales and codebook

}  // namespace

TEST_CASE("contents know the size of their file before it is written", "[store][checkpoint_writer]") {
  const TemporaryFolder folder;
  CheckpointContents contents = example_contents();
  const std::uint64_t expected = contents.file_bytes();
  CheckpointWriter writer(folder / "file", contents);
  fill(writer);
  writer.commit();
  CHECK(fs::file_size(folder / "file") == expected);
}

TEST_CASE("every codebook that ships survives writing and reading", "[store][checkpoint_writer]") {
  const TemporaryFolder folder;
  const CodeLayout odd{3, 37, 20, 10};
  CheckpointContents contents;
  const auto names = higgs::shipped_code_names();
  for (const std::string& name : names)
    higgs::with_shipped_code(name, [&]<class Book>(std::type_identity<Book>) {
      contents.add_layer<Book>(name, odd, std::nullopt, "F32");
    });
  CheckpointWriter writer(folder / "a", contents);
  for (const std::string& name : names)
    higgs::with_shipped_code(name, [&]<class Book>(std::type_identity<Book>) {
      const higgs::AnyQuantizedMatrix any =
          example_matrix<Book>(odd, std::nullopt, 7, std::numeric_limits<double>::quiet_NaN());
      writer.write_layer(name, any);
    });
  writer.commit();
  const Checkpoint checkpoint = Checkpoint::open(folder / "a");
  CHECK(checkpoint.layers().size() == names.size());
  CHECK(checkpoint.tensors().empty());
  for (const std::string& name : names)
    higgs::with_shipped_code(name, [&]<class Book>(std::type_identity<Book>) {
      const auto any = checkpoint.load(name);
      REQUIRE(std::holds_alternative<higgs::QuantizedMatrix<Book>>(any));
      CHECK(same(std::get<higgs::QuantizedMatrix<Book>>(any),
                 example_matrix<Book>(odd, std::nullopt, 7, std::numeric_limits<double>::quiet_NaN())));
    });
}

TEST_CASE("a caller's own table travels with the layer", "[store][checkpoint_writer]") {
  const TemporaryFolder folder;
  using Book = higgs::GridCodebook<1, 4>;
  const Book mine({{{-100}, {-20}, {20}, {100}}}, 0.015, 0.12);
  CheckpointContents contents;
  contents.add_layer<Book>("w", layout, 3, "F16", mine);
  CheckpointWriter writer(folder / "a", contents);
  CHECK_THROWS_AS(writer.write_layer("w", example_matrix<Book>(layout, 3)), InvalidArgument);
  writer.write_layer("w", example_matrix<Book>(layout, 3, 0, 0.5, mine));
  writer.commit();
  const auto any = Checkpoint::open(folder / "a").load("w");
  CHECK(same(std::get<higgs::QuantizedMatrix<Book>>(any), example_matrix<Book>(layout, 3, 0, 0.5, mine)));
}

namespace {

// 3 x 100 points of which no table ships, each another one.
higgs::GridCodebook<3, 100> hundred_points() {
  higgs::GridCodebook<3, 100>::Points points;
  for (std::size_t i = 0; i < points.size(); ++i)
    points[i] = {static_cast<std::int8_t>(i), static_cast<std::int8_t>(i * 7 % 100),
                 static_cast<std::int8_t>(-static_cast<int>(i))};
  return {points, 0.0625, 0.25};
}

template <class Book>
void check_round_trip(const Book& book) {
  INFO(Book::name());
  const TemporaryFolder folder;
  const CodeLayout odd{3, 80, 40, 40};
  const auto matrix = example_matrix<Book>(odd, 5, -3, 0.25, book);
  CheckpointContents contents;
  contents.add_layer("w", matrix);
  contents.add_layer("shipped", higgs::AnyQuantizedMatrix(example_matrix<Grid>(odd, 5)), "BF16");
  CheckpointWriter writer(folder / "a", contents);
  writer.write_layer("w", matrix);
  writer.write_layer("shipped", example_matrix<Grid>(odd, 5));
  writer.commit();
  const Checkpoint checkpoint = Checkpoint::open(folder / "a");
  CHECK(checkpoint.tensors().empty());
  CHECK(same(checkpoint.load<Book>("w"), matrix));
  CHECK(checkpoint.find_layer("w")->dtype == "F32");
  CHECK(checkpoint.find_layer("shipped")->dtype == "BF16");
  CHECK(checkpoint.find_layer("w")->shipped == higgs::ShippedCode<Book>);
  if constexpr (!higgs::ShippedCode<Book>) CHECK_THROWS_AS(checkpoint.load("w"), higgs::FormatError);
  CHECK(same(checkpoint.load<Grid>("shipped"), example_matrix<Grid>(odd, 5)));
  CHECK_THROWS_AS((checkpoint.load<higgs::GridCodebook<5, 7>>("w")), InvalidArgument);
}

}  // namespace

TEST_CASE("what can be written can be read, whatever the codebook", "[store][checkpoint_writer]") {
  check_round_trip(hundred_points());
  check_round_trip(higgs::GridCodebook<1, 4>({{{-100}, {-20}, {20}, {100}}}, 0.015, 0.12));
  check_round_trip(higgs::GridCodebook<1, 100>({{{-30000}, {20000}}}, 0.015, 0.12));
  check_round_trip(higgs::GridCodebook<2, 300>({}, 0.5, 0.1));
  check_round_trip(higgs::GridCodebook<2, 1024>());
  check_round_trip(higgs::E8Codebook());
  check_round_trip(higgs::NestedE8Codebook<2>());
  check_round_trip(higgs::NestedE8Codebook<4>());
  check_round_trip(higgs::UniformCodebook<2>());
  check_round_trip(higgs::UniformCodebook<7>());
  check_round_trip(higgs::UniformCodebook8());
  check_round_trip(higgs::RadixCodebook<higgs::GridCodebook<2, 84>, 5>());
  check_round_trip(higgs::RadixCodebook<higgs::GridCodebook<3, 100>, 4>(hundred_points()));
}

TEST_CASE("a code that stands for no point is refused with its row", "[store][checkpoint_writer]") {
  const TemporaryFolder folder;
  using Book = higgs::GridCodebook<3, 100>;
  auto matrix = example_matrix<Book>({3, 80, 40, 40}, 5, -3, 0.25, hundred_points());
  CheckpointContents contents;
  contents.add_layer("w", matrix);
  std::vector<std::uint8_t> codes(matrix.codes.begin(), matrix.codes.end());
  codes[static_cast<std::size_t>(matrix.row_bytes())] |= 0x7f;  // code 0 of row 1: 7 bits
  matrix.codes = codes;
  CheckpointWriter writer(folder / "a", contents);
  writer.write_layer("w", matrix);
  writer.commit();
  CHECK_THROWS_WITH(Checkpoint::open(folder / "a").load<Book>("w"),
                    Catch::Contains("layer \"w\": row 1 has the code 127, but 3x100 has 100 points"));
}

TEST_CASE("a writer's messages name the layer, and what is not finished", "[store][checkpoint_writer]") {
  using Catch::Contains;
  const TemporaryFolder folder;
  CheckpointWriter writer(folder / "a", example_contents());
  const auto matrix = example_matrix<Grid>(layout, 0);
  CHECK_THROWS_WITH(writer.commit(), Contains("5 of 5") && Contains("\"layer.0\""));
  CHECK_THROWS_WITH(writer.write_layer("nobody", matrix), Contains("\"nobody\""));
  CHECK_THROWS_WITH(writer.write_layer("norm", matrix), Contains("\"norm\" was declared as a tensor"));
  CHECK_THROWS_WITH(writer.finish_tensor("layer.0"), Contains("\"layer.0\""));
  CHECK_THROWS_WITH(
      writer.write_rows("layer.0", 3, matrix.codes, matrix.scales),
      Contains("\"layer.0\"") && Contains("320 bytes") && Contains("row 3") && Contains("5 of 64"));
  CHECK_THROWS_WITH(writer.finish_layer("layer.0", 500, 0), Contains("\"layer.0\"") && Contains("500"));
  CHECK_THROWS_WITH(writer.finish_layer("layer.0", 0, -1), Contains("\"layer.0\"") && Contains("-1"));
  CHECK_THROWS_WITH(writer.finish_layer("layer.0", 0, 0, -1), Contains("\"layer.0\"") && Contains("-1"));
  CHECK_THROWS_WITH(writer.finish_layer("layer.0", 0, 0), Contains("\"layer.0.codes\""));
  CHECK_THROWS_WITH(writer.write_layer("layer.0", example_matrix<Grid>(layout, 9)), Contains("another seed"));
  CHECK_THROWS_WITH(writer.write_layer("layer.0", example_matrix<higgs::GridCodebook<2, 16>>(layout, 0)),
                    Contains("another codebook"));
  CHECK_THROWS_WITH(writer.write_layer("layer.0", example_matrix<Grid>({5, 100, 64, 64}, 0)),
                    Contains("another layout"));
  fill(writer);
  CHECK_THROWS_WITH(writer.write_layer("layer.0", matrix), Contains("\"layer.0\" is finished"));
  CheckpointContents twice;
  twice.add_layer("w", matrix);
  twice.add_layer("w", matrix);
  CHECK_THROWS_WITH(CheckpointWriter(folder / "b", twice), Contains("\"w\" was declared twice"));
  CHECK_THROWS_WITH(twice.add_layer<Grid>("v", {5, 100, 64, 48}, 1, "F32"),
                    Contains("\"v\" has block 64 and group 48"));
  CHECK_THROWS_WITH(twice.set_metadata("higgs.x", ""), Contains("\"higgs.x\""));
}

TEST_CASE("input scales travel with the layer, whole and finite", "[store][checkpoint_writer]") {
  const TemporaryFolder folder;
  const CodeLayout scaled{5, 100, 64, 32, true};
  CheckpointContents contents;
  contents.add_layer<Grid>("w", scaled, 3, "F16");
  contents.add_layer<Grid>("plain", layout, 3, "F16");
  CheckpointWriter writer(folder / "a", contents);
  const auto matrix = example_matrix<Grid>(scaled, 3);
  writer.write_rows("w", 0, matrix.codes, matrix.scales);
  CHECK_THROWS_AS(writer.finish_layer("w", 0, 0.5), InvalidArgument);
  CHECK_THROWS_AS(writer.write_input_scales("w", matrix.input_scales.first(99)), InvalidArgument);
  CHECK_THROWS_AS(writer.write_input_scales("plain", matrix.input_scales), InvalidArgument);
  std::vector<higgs::Half> infinite(matrix.input_scales.begin(), matrix.input_scales.end());
  infinite[50] = higgs::Half::from_bits(0x7c00);
  CHECK_THROWS_AS(writer.write_input_scales("w", infinite), InvalidArgument);
  writer.write_input_scales("w", matrix.input_scales);
  writer.finish_layer("w", matrix.exponent, matrix.t2, matrix.weight_error);
  writer.write_layer("plain", example_matrix<Grid>(layout, 3));
  writer.commit();
  const auto any = Checkpoint::open(folder / "a").load("w");
  CHECK(same(std::get<higgs::QuantizedMatrix<Grid>>(any), matrix));
}

TEST_CASE("8-bit scales take 8 bits in the file, and come back as the fp16 numbers they stand for",
          "[store][checkpoint_writer]") {
  const TemporaryFolder folder;
  CodeLayout brief = layout;
  brief.scale_format = higgs::ScaleFormat::Log8;
  auto matrix = example_matrix<Grid>(brief, 7);
  std::vector<higgs::Half> scales;
  for (std::size_t i = 0; i < matrix.scales.size(); ++i)
    scales.push_back(static_cast<higgs::Half>(higgs::Log8::from_code(static_cast<std::uint8_t>(37 * i))));
  CheckpointContents contents;
  contents.add_layer<Grid>("w", brief, 7, "F32");
  CheckpointWriter writer(folder / "a", contents);
  // Other fp16 numbers would not survive.
  CHECK_THROWS_AS(writer.write_rows("w", 0, matrix.codes, matrix.scales), InvalidArgument);
  matrix.scales = scales;
  writer.write_layer("w", matrix);
  writer.commit();
  const Checkpoint checkpoint = Checkpoint::open(folder / "a");
  CHECK(checkpoint.file().find("w.scales")->data.size() == scales.size());
  CHECK(same(std::get<higgs::QuantizedMatrix<Grid>>(checkpoint.load("w")), matrix));
}

TEST_CASE("the bytes do not depend on the order, the pieces or the threads", "[store][checkpoint_writer]") {
  const TemporaryFolder folder;
  CheckpointWriter whole(folder / "whole", example_contents());
  fill(whole);
  whole.commit();
  CheckpointWriter pieces(folder / "pieces", example_contents(), {0, "resumable"});
  std::vector<std::thread> threads;
  for (std::uint64_t i = 0; i < 4; ++i)
    threads.emplace_back([&pieces, i] {
      const auto matrix = example_matrix<Grid>(layout, i);
      for (const std::int64_t row : {4, 2, 0, 1, 3})
        pieces.write_rows(layer_name(i), row, matrix.row_codes(row), matrix.row_scales(row));
      pieces.finish_layer(layer_name(i), matrix.exponent, matrix.t2, matrix.weight_error);
    });
  pieces.write_tensor("norm", 4, bytes_of("5678"));
  pieces.write_tensor("norm", 0, bytes_of("1234"));
  pieces.finish_tensor("norm");
  for (std::thread& thread : threads) thread.join();
  pieces.commit();
  CHECK(snapshot(folder.path()).size() == 2);
  CHECK(read_file(folder / "whole") == read_file(folder / "pieces"));
  check_example(folder / "whole");
}

TEST_CASE("the bytes of a checkpoint never change", "[store][checkpoint_writer]") {
  const TemporaryFolder folder;
  using Book = higgs::GridCodebook<1, 4>;
  const Book book({{{-90}, {-27}, {27}, {90}}}, 0.0625, 0.125);
  CheckpointContents contents;
  contents.add_layer<Book>("w", {2, 8, 8, 4}, 18446744073709551615u, "BF16", book);
  contents.add_tensor({"norm", DType::F32, {1}});
  CheckpointWriter writer(folder / "a", contents);
  const std::vector<std::uint8_t> codes{0x1b, 0xe4, 0x00, 0xff};
  const std::vector<higgs::Half> scales{higgs::Half(1.0f), higgs::Half(0.5f), higgs::Half(-2.0f),
                                        higgs::Half(0.0f)};
  writer.write_rows("w", 0, codes, scales);
  writer.finish_layer("w", -7, 0.015625);
  writer.write_tensor("norm", 0, bytes_of("abcd"));
  writer.finish_tensor("norm");
  writer.commit();
  std::string header =
      R"({"__metadata__":{"format":"higgs","higgs.layer.w":"{\"codebook\":\"1x4\",\"rows\":2,\"cols\":8,\"block\":8,)"
      R"(\"group\":4,\"seed\":\"18446744073709551615\",\"exponent\":-7,\"dtype\":\"BF16\",\"t2\":0.015625,\"step\":0.0625,)"
      R"(\"mse\":0.125}","higgs.version":"1"},"norm":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
      R"("w.scales":{"dtype":"F16","shape":[2,2],"data_offsets":[4,12]},)"
      R"("w.codebook":{"dtype":"I8","shape":[4,1],"data_offsets":[12,16]},)"
      R"("w.codes":{"dtype":"U8","shape":[2,2],"data_offsets":[16,20]}})";
  header.resize(568, ' ');
  const std::string data("abcd\x00\x3c\x00\x38\x00\xc0\x00\x00\xa6\xe5\x1b\x5a\x1b\xe4\x00\xff", 20);
  CHECK(read_file(folder / "a") == raw<std::uint64_t>(header.size()) + header + data);
}

TEST_CASE("shards together are the checkpoint", "[store][checkpoint_writer]") {
  const TemporaryFolder folder;
  for (const std::uint64_t most :
       {std::uint64_t{1}, one_layer, 2 * one_layer, 3 * one_layer, 100 * one_layer}) {
    const fs::path out = folder / std::to_string(most);
    CheckpointWriter writer(out, example_contents(), {most, ""});
    CHECK(fs::is_directory(out));
    fill(writer);
    CHECK_THROWS_AS(Checkpoint::open(out), IoError);
    writer.commit();
    check_example(out);
  }
  CHECK(snapshot(folder / "1").size() == 6);
  CHECK(snapshot(folder / std::to_string(2 * one_layer)).size() == 4);
  CHECK(snapshot(folder / std::to_string(2 * one_layer)).contains("model-00003-of-00003.safetensors"));
  CHECK(snapshot(folder / std::to_string(100 * one_layer)).contains("model.safetensors"));
  CHECK(snapshot(folder / std::to_string(100 * one_layer)).size() == 1);
  for (const auto& [name, bytes] : snapshot(folder / std::to_string(one_layer)))
    CHECK(bytes.size() < one_layer + 1500);
}

TEST_CASE("shards of another checkpoint are never replaced", "[store][checkpoint_writer]") {
  for (const std::string name :
       {"model.safetensors", "model.safetensors.index.json", "model-00002-of-00005.safetensors"}) {
    const TemporaryFolder folder;
    write_file(folder / name, "precious");
    CHECK_THROWS_WITH(CheckpointWriter(folder.path(), example_contents(), {1, "f"}),
                      Catch::Contains("is there already"));
    CHECK(snapshot(folder.path()) == std::map<std::string, std::string>{{name, "precious"}});
  }
}

TEST_CASE("an attempt that fails leaves nothing, or what the next one needs", "[store][checkpoint_writer]") {
  const TemporaryFolder folder;
  write_file(folder / "a", "old");
  {
    CheckpointWriter(folder / "a", example_contents())
        .write_layer("layer.0", example_matrix<Grid>(layout, 0));
  }
  CHECK(snapshot(folder.path()) == std::map<std::string, std::string>{{"a", "old"}});
  {
    CheckpointWriter(folder / "a", example_contents(), {0, "f"})
        .write_layer("layer.0", example_matrix<Grid>(layout, 0));
  }
  CHECK(read_file(folder / "a") == "old");
  CHECK(fs::exists(folder / "a.partial"));
  CHECK(fs::exists(folder / "a.partial.journal"));
}

TEST_CASE("a continued attempt skips what is finished and ends in the same bytes",
          "[store][checkpoint_writer]") {
  for (const std::uint64_t most : {std::uint64_t{0}, one_layer}) {
    const TemporaryFolder folder;
    {
      CheckpointWriter writer(folder / "straight", example_contents(), {most, ""});
      fill(writer);
      writer.commit();
    }
    const CheckpointOptions options{most, "source and options"};
    {
      CheckpointWriter writer(folder / "out", example_contents(), options);
      writer.write_layer("layer.2", example_matrix<Grid>(layout, 2));
      const auto half = example_matrix<Grid>(layout, 1);
      writer.write_rows("layer.1", 0, half.row_codes(0), half.row_scales(0));
    }
    {
      CheckpointWriter writer(folder / "out", example_contents(), options);
      CHECK(writer.finished("layer.2"));
      CHECK_FALSE(writer.finished("layer.1"));
      CHECK_FALSE(writer.finished("norm"));
      CHECK_THROWS_AS(writer.write_layer("layer.2", example_matrix<Grid>(layout, 2)), InvalidArgument);
      writer.write_tensor("norm", 0, bytes_of("12345678"));
      writer.finish_tensor("norm");
    }
    CheckpointWriter writer(folder / "out", example_contents(), options);
    CHECK(fill(writer) == 3);
    writer.commit();
    if (most == 0)
      CHECK(read_file(folder / "out") == read_file(folder / "straight"));
    else
      CHECK(snapshot(folder / "out") == snapshot(folder / "straight"));
    check_example(folder / "out");
    CHECK_FALSE(fs::exists(folder / "out.partial.journal"));
  }
}

TEST_CASE("another fingerprint, other contents or a foreign partial file begin anew",
          "[store][checkpoint_writer]") {
  const auto finished_after = [](const CheckpointContents& contents, const std::string& fingerprint,
                                 bool foreign) {
    const TemporaryFolder folder;
    {
      CheckpointWriter writer(folder / "a", example_contents(), {0, "f"});
      writer.write_layer("layer.0", example_matrix<Grid>(layout, 0));
    }
    if (foreign) write_file(folder / "a.partial", std::string(fs::file_size(folder / "a.partial"), 'x'));
    const CheckpointWriter writer(folder / "a", contents, {0, fingerprint});
    return writer.finished("layer.0");
  };
  CHECK(finished_after(example_contents(), "f", false));
  CHECK_FALSE(finished_after(example_contents(), "g", false));
  CHECK_FALSE(finished_after(example_contents(), "", false));
  CHECK_FALSE(finished_after(example_contents(), "f", true));
  CheckpointContents more = example_contents();
  more.add_tensor({"more", DType::U8, {1}});
  CHECK_FALSE(finished_after(more, "f", false));
  CheckpointContents other = example_contents();
  other.set_metadata("model", "tset");
  CHECK_FALSE(finished_after(other, "f", false));
}

TEST_CASE("an attempt without a fingerprint makes an older journal void", "[store][checkpoint_writer]") {
  const TemporaryFolder folder;
  {
    CheckpointWriter writer(folder / "a", example_contents(), {0, "f"});
    writer.write_layer("layer.0", example_matrix<Grid>(layout, 0));
  }
  {
    CheckpointWriter writer(folder / "a", example_contents());
  }
  CHECK(snapshot(folder.path()).empty());
  CHECK_FALSE(CheckpointWriter(folder / "a", example_contents(), {0, "f"}).finished("layer.0"));
}

TEST_CASE("a writer refuses what would be a wrong checkpoint", "[store][checkpoint_writer]") {
  const TemporaryFolder folder;
  CheckpointContents contents;
  CHECK_THROWS_AS(contents.add_layer<Grid>("w", (CodeLayout{1, 0, 8, 8}), 1, "F32"), InvalidArgument);
  CHECK_THROWS_AS(contents.add_layer<Grid>("w", (CodeLayout{-1, 8, 8, 8}), 1, "F32"), InvalidArgument);
  CHECK_THROWS_AS(contents.add_layer<Grid>("w", (CodeLayout{1, 8, 8, 3}), 1, "F32"), InvalidArgument);
  CHECK_THROWS_AS(contents.add_layer<Grid>("w", (CodeLayout{1, 8, 0, 1}), 1, "F32"), InvalidArgument);
  CHECK_THROWS_AS(contents.set_metadata("format", "pt"), InvalidArgument);
  CHECK_THROWS_AS(contents.set_metadata("higgs.version", "9"), InvalidArgument);
  CheckpointContents twice = example_contents();
  twice.add_tensor({"layer.0", DType::U8, {1}});
  CHECK_THROWS_AS(CheckpointWriter(folder / "a", twice), InvalidArgument);
  CheckpointContents clash = example_contents();
  clash.add_tensor({"layer.0.codes", DType::U8, {1}});
  CHECK_THROWS_AS(CheckpointWriter(folder / "a", clash), InvalidArgument);

  CheckpointWriter writer(folder / "a", example_contents());
  const auto matrix = example_matrix<Grid>(layout, 0);
  CHECK_THROWS_AS(writer.finished("absent"), InvalidArgument);
  CHECK_THROWS_AS(writer.write_rows("norm", 0, matrix.codes, matrix.scales), InvalidArgument);
  CHECK_THROWS_AS(writer.write_rows("layer.0", 1, matrix.codes, matrix.scales), InvalidArgument);
  CHECK_THROWS_AS(writer.write_rows("layer.0", -1, matrix.codes, matrix.scales), InvalidArgument);
  CHECK_THROWS_AS(writer.write_rows("layer.0", 0, matrix.codes, matrix.row_scales(0)), InvalidArgument);
  CHECK_THROWS_AS(writer.write_rows("layer.0", 0, matrix.row_codes(0), matrix.row_scales(0).first(3)),
                  InvalidArgument);
  const std::vector<higgs::Half> infinite(4, higgs::Half::from_bits(0x7c00));
  CHECK_THROWS_AS(writer.write_rows("layer.0", 0, matrix.row_codes(0), infinite), InvalidArgument);
  CHECK_THROWS_AS(writer.finish_layer("layer.0", 0, 0.5), InvalidArgument);  // no row is written
  CHECK_THROWS_AS(writer.finish_tensor("layer.0"), InvalidArgument);
  CHECK_THROWS_AS(writer.finish_layer("norm", 0, 0.5), InvalidArgument);
  writer.write_rows("layer.0", 0, matrix.codes, matrix.scales);
  CHECK_THROWS_AS(writer.finish_layer("layer.0", 128, 0.5), InvalidArgument);
  CHECK_THROWS_AS(writer.finish_layer("layer.0", 0, -0.5), InvalidArgument);
  CHECK_THROWS_AS(writer.finish_layer("layer.0", 0, std::numeric_limits<double>::infinity()),
                  InvalidArgument);
  writer.finish_layer("layer.0", 0, 0.5);
  CHECK_THROWS_AS(writer.finish_layer("layer.0", 0, 0.5), InvalidArgument);
  CHECK_THROWS_AS(writer.commit(), InvalidArgument);
  CHECK_THROWS_AS(writer.write_layer("layer.1", example_matrix<Grid>(layout, 2)),
                  InvalidArgument);  // another seed
  CHECK_THROWS_AS(writer.write_layer("layer.1", example_matrix<higgs::GridCodebook<2, 64>>(layout, 1)),
                  InvalidArgument);
  CHECK_THROWS_AS(writer.write_layer("layer.1", example_matrix<Grid>({5, 100, 64, 64}, 1)), InvalidArgument);
}

#if HIGGS_POSIX_FILES
TEST_CASE("a kill at any moment costs at most the unfinished layers", "[store][checkpoint_writer]") {
  const TemporaryFolder folder;
  for (const std::uint64_t most : {std::uint64_t{0}, one_layer}) {
    const std::string kind = std::to_string(most);
    {
      CheckpointWriter writer(folder / ("straight" + kind), example_contents(), {most, ""});
      fill(writer);
      writer.commit();
    }
    const fs::path straight = folder / ("straight" + kind);
    int killed = 0;
    for (int attempt = 0; attempt < 40; ++attempt) {
      const fs::path home = folder / ("try" + kind + "." + std::to_string(attempt));
      fs::create_directory(home);
      const fs::path out = home / "out";
      for (int kills = 0; kills < 3; ++kills) {
        const pid_t child = ::fork();
        REQUIRE(child >= 0);
        if (child == 0) {
          try {
            CheckpointWriter writer(out, example_contents(), {most, "f"});
            fill(writer);
            writer.commit();
          } catch (...) {
            ::_exit(1);
          }
          ::_exit(0);
        }
        ::usleep(static_cast<useconds_t>(attempt * 150));
        ::kill(child, SIGKILL);
        int status = 0;
        REQUIRE(::waitpid(child, &status, 0) == child);
        killed += WIFSIGNALED(status);
        // Whatever has the final name is whole.
        if (most == 0 && fs::exists(out)) REQUIRE(read_file(out) == read_file(straight));
        if (most != 0 && fs::exists(out / "model.safetensors.index.json")) {
          for (const auto& [name, bytes] : snapshot(straight)) REQUIRE(read_file(out / name) == bytes);
        }
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0) break;
      }
      if (most != 0 && fs::exists(out / "model.safetensors.index.json") &&
          !fs::exists(out / "model.safetensors.index.json.partial.journal"))
        continue;  // done: a second attempt would be refused
      CheckpointWriter writer(out, example_contents(), {most, "f"});
      fill(writer);
      writer.commit();
      if (most == 0)
        REQUIRE(read_file(out) == read_file(straight));
      else
        REQUIRE(snapshot(out) == snapshot(straight));
    }
    CHECK(killed > 0);
  }
}
#endif
