// SPDX-License-Identifier: Apache-2.0
#include "temporary_folder.hpp"

#include <higgs/store/safetensors.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

namespace fs = std::filesystem;
using higgs::DType;
using higgs::FormatError;
using higgs::InvalidArgument;
using higgs::IoError;
using higgs::Safetensors;
using higgs::SafetensorsWriter;
using higgs::StoredTensor;

namespace {

std::string file_of(const std::string& header, const std::string& data) {
  return raw<std::uint64_t>(header.size()) + header + data;
}
std::string text_of(const StoredTensor& tensor) { return {tensor.data.begin(), tensor.data.end()}; }

// What opening a file of these bytes says; empty if it opens.
std::string refusal(const std::string& bytes) {
  const TemporaryFolder folder;
  write_file(folder / "a.safetensors", bytes);
  const std::string message = message_of<FormatError>([&] { Safetensors file(folder / "a.safetensors"); });
  if (!message.empty()) CHECK(message.find((folder / "a.safetensors").string()) == 0);
  return message;
}
std::string refusal(const std::string& header, const std::string& data) {
  return refusal(file_of(header, data));
}

}  // namespace

TEST_CASE("a file is read as it was laid out", "[store][safetensors]") {
  const TemporaryFolder folder;
  write_file(
      folder / "a.safetensors",
      file_of(
          R"({"__metadata__":{"k":"v"},"y":{"dtype":"F16","shape":[2,1],"data_offsets":[8,12]},)"
          R"("x":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"z":{"dtype":"U8","shape":[3,0],"data_offsets":[12,12]}}  )",
          "01234567abcd"));
  const Safetensors file(folder / "a.safetensors");
  REQUIRE(file.tensors().size() == 3);
  CHECK(file.metadata().at("k") == "v");
  const StoredTensor& x = file.tensors()[0];
  CHECK(x.name == "x");
  CHECK(x.dtype == DType::I64);
  CHECK(x.shape.empty());
  CHECK(text_of(x) == "01234567");
  const StoredTensor& y = *file.find("y");
  CHECK(y.shape == std::vector<std::int64_t>{2, 1});
  CHECK(text_of(y) == "abcd");
  CHECK(file.find("z")->data.empty());
  CHECK(file.find("w") == nullptr);
}

TEST_CASE("a tensor outlives its file object", "[store][safetensors]") {
  const TemporaryFolder folder;
  write_file(folder / "a", file_of(R"({"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", "abcd"));
  const StoredTensor tensor = Safetensors(folder / "a").tensors().at(0);
  CHECK(text_of(tensor) == "abcd");
}

TEST_CASE("every dtype has the size that its name says", "[store][safetensors]") {
  for (int i = 0; i < static_cast<int>(DType::Unknown); ++i) {
    const auto dtype = static_cast<DType>(i);
    const std::string name(higgs::dtype_name(dtype));
    CHECK(higgs::dtype_named(name) == dtype);
    const std::size_t digit = name.find_first_of("0123456789");
    const int bits = digit == name.npos ? 8 : std::stoi(name.substr(digit));
    CHECK(higgs::dtype_bits(dtype) == bits);
    // 24 elements fill whole bytes whatever their size; one element less or more may not.
    const auto with = [&](int count, int bytes) {
      const std::string size = std::to_string(bytes);
      return refusal(R"({"a":{"dtype":")" + name + R"(","shape":[)" + std::to_string(count) +
                         R"(],"data_offsets":[0,)" + size + "]}}",
                     std::string(static_cast<std::size_t>(bytes), 'x'));
    };
    CHECK(with(24, 3 * bits).empty());
    CHECK(with(24, 3 * bits - 1).find("do not match") != std::string::npos);
    CHECK(with(23, (23 * bits + 7) / 8).empty() == (bits % 8 == 0));
  }
  CHECK_FALSE(higgs::dtype_named("F7"));
  CHECK_FALSE(higgs::dtype_named(""));
}

TEST_CASE("a header that does not fit is refused before it is read", "[store][safetensors]") {
  CHECK(refusal("") != "");
  CHECK(refusal("1234567") != "");
  CHECK(refusal(raw<std::uint64_t>(0)) != "");
  CHECK(refusal(raw<std::uint64_t>(3) + "{}").find("does not fit") != std::string::npos);
  CHECK(refusal(raw<std::uint64_t>(UINT64_MAX) + "{}").find("does not fit") != std::string::npos);
  CHECK(refusal(raw<std::uint64_t>(UINT64_MAX - 7) + "{}").find("does not fit") != std::string::npos);
  CHECK(refusal("{}", "") == "");
  CHECK(refusal("[]", "") != "");
  CHECK(refusal("{", "") != "");
}

TEST_CASE("a header above the limit is refused", "[store][safetensors][.long]") {
  std::string header = "{" + std::string(Safetensors::max_header_bytes - 1, ' ') + "}";
  CHECK(refusal(header, "").find("does not fit") != std::string::npos);
  header.erase(1, 1);
  CHECK(refusal(header, "") == "");
}

TEST_CASE("offsets that overlap, leave a gap or leave the file are refused", "[store][safetensors]") {
  const auto two = [](const std::string& a, const std::string& b, const std::string& data) {
    return refusal(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + a +
                       R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + b + "}}",
                   data);
  };
  CHECK(two("[0,4]", "[4,8]", "abcdefgh") == "");
  CHECK(two("[4,8]", "[0,4]", "abcdefgh") == "");
  CHECK(two("[0,4]", "[3,7]", "abcdefg").find("tensor \"b\"") != std::string::npos);
  CHECK(two("[0,4]", "[0,4]", "abcd").find("overlaps") != std::string::npos);
  CHECK(two("[0,4]", "[5,9]", "abcdefghi").find("gap") != std::string::npos);
  CHECK(two("[1,5]", "[5,9]", "abcdefghi").find("gap") != std::string::npos);
  CHECK(two("[0,4]", "[4,8]", "abcdefghi").find("longer") != std::string::npos);
  CHECK(two("[0,4]", "[4,8]", "abcdefg").find("outside") != std::string::npos);
  CHECK(two("[0,4]", "[8,4]", "abcdefgh").find("outside") != std::string::npos);
  CHECK(two("[0,4]", "[18446744073709551612,18446744073709551615]", "abcd").find("outside") !=
        std::string::npos);
  CHECK(two("[0,4]", "[4,7]", "abcdefg").find("do not match") != std::string::npos);
  for (const std::string bad : {"[0]", "[]", "[0,4,4]", "[-4,0]", "[0.0,4.0]", "{}", "null", "[\"0\",\"4\"]"})
    CHECK(two("[0,4]", bad, "abcdefgh").find("tensor \"b\"") != std::string::npos);
}

TEST_CASE("shapes that are wrong or overflow are refused", "[store][safetensors]") {
  const auto shape = [](const std::string& text, const std::string& dtype = "F32") {
    return refusal(R"({"a":{"dtype":")" + dtype + R"(","shape":)" + text + R"(,"data_offsets":[0,0]}})", "");
  };
  CHECK(shape("[0]") == "");
  CHECK(shape("[0,3]") == "");
  for (const std::string bad :
       {"[-1]", "[1]", "[]", "[1.0]", "[\"1\"]", "1", "null", "[null]", "[9223372036854775808]",
        "[9223372036854775807,9223372036854775807]", "[4294967296,4294967296]", "[4294967296,4294967296,0]",
        "[0,4294967296,4294967296]", "[4611686018427387904]"})
    CHECK(shape(bad).find("tensor \"a\"") != std::string::npos);
  for (const std::string bad : {"", "a b", "\\u001b[2J", "F\xc3\xa4", "F23456789012345678901234567890123"})
    CHECK(shape("[0]", bad).find("tensor \"a\": the dtype is no name") != std::string::npos);
  for (const std::string bad : {"[-1]", "[9223372036854775808]", "[4294967296,4294967296]", "[1.0]"})
    CHECK(shape(bad, "F7").find("tensor \"a\"") != std::string::npos);
  CHECK(refusal(R"({"a":{"shape":[0],"data_offsets":[0,0]}})", "") != "");
  CHECK(refusal(R"({"a":{"dtype":7,"shape":[0],"data_offsets":[0,0]}})", "") != "");
  CHECK(refusal(R"({"a":{"dtype":"U8","data_offsets":[0,0]}})", "") != "");
  CHECK(refusal(R"({"a":{"dtype":"U8","shape":[0]}})", "") != "");
  CHECK(refusal(R"({"a":3})", "") != "");
}

TEST_CASE("a dtype that nobody knows yet blocks its tensor alone", "[store][safetensors]") {
  const TemporaryFolder folder;
  const auto header = [](const std::string& offsets) {
    return R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
           R"("new":{"dtype":"F3_E1M1","shape":[5,7],"data_offsets":)" +
           offsets + R"(},"z":{"dtype":"U8","shape":[2],"data_offsets":[9,11]}})";
  };
  write_file(folder / "a", file_of(header("[4,9]"), "abcdNEWEWyz"));
  const Safetensors file(folder / "a");
  REQUIRE(file.tensors().size() == 3);
  CHECK(file.find("new")->dtype == DType::Unknown);
  CHECK(file.find("new")->type_name() == "F3_E1M1");
  CHECK(file.find("a")->type_name() == "F32");
  CHECK(text_of(*file.find("new")) == "NEWEW");
  CHECK(text_of(*file.find("z")) == "yz");
  for (const std::string bad : {"[3,9]", "[5,9]", "[4,8]", "[4,10]", "[4,12]", "[9,4]"})
    CHECK(refusal(header(bad), "abcdNEWEWyz") != "");
}

TEST_CASE("duplicate names and odd metadata are refused", "[store][safetensors]") {
  const std::string a = R"("a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  CHECK(refusal("{" + a + "," + a + "}", "").find("duplicate key \"a\"") != std::string::npos);
  CHECK(refusal(R"({"__metadata__":{"a":1}})", "") != "");
  CHECK(refusal(R"({"__metadata__":[]})", "") != "");
  CHECK(refusal(R"({"__metadata__":{"a":"1","a":"2"}})", "") != "");
}

TEST_CASE("shards are one model", "[store][safetensors]") {
  const TemporaryFolder folder;
  const auto one = [](const std::string& name, const std::string& data) {
    return file_of(R"({"__metadata__":{"in )" + name + R"(":""},")" + name +
                       R"(":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
                   data);
  };
  write_file(folder / "1.safetensors", one("a", "abcd"));
  write_file(folder / "2.safetensors", one("b", "efgh"));
  const std::string index = "model.safetensors.index.json";
  write_file(folder / index, R"({"metadata":{},"weight_map":{"b":"2.safetensors","a":"1.safetensors"}})");
  for (const fs::path& path : {folder.path(), folder / index}) {
    const Safetensors model(path);
    REQUIRE(model.tensors().size() == 2);
    CHECK(text_of(*model.find("a")) == "abcd");
    CHECK(text_of(*model.find("b")) == "efgh");
    CHECK(model.metadata().size() == 2);
  }
  write_file(folder / index, R"({"weight_map":{"b":"2.safetensors"}})");
  CHECK(Safetensors(folder.path()).find("a") == nullptr);
  write_file(folder / index, R"({"weight_map":{"b":"1.safetensors"}})");
  CHECK_THROWS_WITH(Safetensors(folder.path()), Catch::Contains("tensor \"b\" is not in 1.safetensors"));
  write_file(folder / index, R"({"weight_map":{"b":"3.safetensors"}})");
  CHECK_THROWS_AS(Safetensors(folder.path()), IoError);
  CHECK_THROWS_WITH(Safetensors(folder.path()),
                    Catch::Contains((folder / "3.safetensors").string() + ": is missing") &&
                        Catch::Contains((folder / index).string()));
  for (const std::string bad : {"", "[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{"a":1}})",
                                R"({"weight_map":{"a":"1.safetensors","a":"2.safetensors"}})"}) {
    write_file(folder / index, bad);
    CHECK_THROWS_AS(Safetensors(folder.path()), FormatError);
  }
  write_file(folder / "model.safetensors", one("c", "ijkl"));
  CHECK(text_of(*Safetensors(folder.path()).find("c")) == "ijkl");
  const TemporaryFolder other;
  CHECK_THROWS_WITH(Safetensors(other.path()), Catch::EndsWith("index.json"));
  write_file(other / "config.json", "{}");
  const auto hint = [&](const std::string& name) {
    write_file(other / name, "");
    const std::string message = message_of<IoError>([&] { Safetensors model(other.path()); });
    fs::remove(other / name);
    return message.substr(message.find("index.json") + 10);
  };
  CHECK(hint("pytorch_model.bin") ==
        ", but pytorch_model.bin, a file of PyTorch: save the model as safetensors");
  CHECK(hint("m.gguf") == ", but m.gguf: name that file");
  CHECK(hint("model-00001-of-00002.safetensors") ==
        ", but model-00001-of-00002.safetensors: the index of its shards is missing");
}

TEST_CASE("an index lists every tensor of its shards, or is refused", "[store][safetensors]") {
  const TemporaryFolder folder;
  const std::string b = R"("b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  write_file(folder / "1",
             file_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]},)" + b + "}", "efghabcd"));
  const auto read = [&](const std::string& map, const std::string& second_header, const std::string& data) {
    write_file(folder / "2", file_of(second_header, data));
    write_file(folder / "i.json", R"({"weight_map":{)" + map + "}}");
    return message_of<FormatError>([&] { Safetensors model(folder / "i.json"); });
  };
  const std::string both = R"("a":"1","b":"2")";
  // b is in both shards: the same in both, or refused.
  CHECK(read(both, "{" + b + "}", "efgh").empty());
  CHECK(text_of(*Safetensors(folder / "i.json").find("b")) == "efgh");
  const std::string other_dtype = R"({"b":{"dtype":"I8","shape":[4],"data_offsets":[0,4]}})",
                    other_shape = R"({"b":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]}})";
  for (const auto& [header, data] : {std::pair<std::string, std::string>("{" + b + "}", "efgH"),
                                     {other_dtype, "efgh"},
                                     {other_shape, "efgh"}})
    CHECK(read(both, header, data) ==
          (folder / "1").string() + ": tensor \"b\": differs from the one in " + (folder / "2").string());
  // Listed nowhere.
  CHECK(read(R"("b":"1")", "{}", "") == (folder / "1").string() + ": tensor \"a\": is not listed by " +
                                            (folder / "i.json").string() + ", which may be of another model");
}

TEST_CASE("an index cannot lead out of its folder", "[store][safetensors]") {
  const TemporaryFolder folder;
  fs::create_directory(folder / "in");
  write_file(folder / "out.safetensors",
             file_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", "abcd"));
  for (const std::string name : {"../out.safetensors", "..", ".", "", "/etc/passwd", "..\\\\out.safetensors",
                                 "C:out.safetensors", "x/../../out.safetensors", "./x", "a\\u0000b"}) {
    write_file(folder / "in/model.safetensors.index.json", R"({"weight_map":{"a":")" + name + "\"}}");
    CHECK_THROWS_WITH(Safetensors(folder / "in"), Catch::Contains("same folder"));
  }
}

TEST_CASE("what is written in any order and in pieces is read back", "[store][safetensors]") {
  const TemporaryFolder folder;
  const std::vector<higgs::TensorShape> shapes{{"b", DType::U8, {3}},
                                               {"a", DType::F16, {2, 2}},
                                               {"c", DType::F64, {1}},
                                               {"d", DType::U8, {0, 7}},
                                               {"\"\xc3\xa9", DType::F16, {1}}};
  const auto write = [&](const std::string& name, bool backwards) {
    SafetensorsWriter writer(folder / name, shapes, {{"k", "v"}, {"long", std::string(100, 'x')}});
    std::vector<std::thread> threads;
    const auto write_bytes = [&](const std::string& tensor, const std::string& bytes) {
      threads.emplace_back([=, &writer] {
        for (std::size_t i = 0; i < bytes.size(); ++i) {
          const std::size_t at = backwards ? bytes.size() - 1 - i : i;
          writer.write(tensor, at, bytes_of(bytes).subspan(at, 1));
        }
      });
    };
    write_bytes("a", "abcdefgh");
    write_bytes("b", "ijk");
    write_bytes("c", "lmnopqrs");
    write_bytes("\"\xc3\xa9", "tu");
    for (std::thread& thread : threads) thread.join();
    writer.set_metadata("long", "short");
    CHECK(writer.complete("b"));
    CHECK_FALSE(fs::exists(folder / name));
    writer.commit();
    CHECK(fs::file_size(folder / name) == writer.file_bytes());
  };
  write("1", false);
  write("2", true);
  CHECK(read_file(folder / "1") == read_file(folder / "2"));
  const Safetensors file(folder / "1");
  REQUIRE(file.tensors().size() == 5);
  CHECK(text_of(*file.find("a")) == "abcdefgh");
  CHECK(text_of(*file.find("b")) == "ijk");
  CHECK(text_of(*file.find("c")) == "lmnopqrs");
  CHECK(text_of(*file.find("\"\xc3\xa9")) == "tu");
  CHECK(file.find("d")->shape == std::vector<std::int64_t>{0, 7});
  CHECK(file.metadata().at("long") == "short");
  // Mapped from the start of a page: 64 bytes for the first, and every tensor on a multiple of its element.
  CHECK(reinterpret_cast<std::uintptr_t>(file.tensors()[0].data.data()) % 64 == 0);
  for (const StoredTensor& tensor : file.tensors())
    CHECK(reinterpret_cast<std::uintptr_t>(tensor.data.data()) %
              static_cast<std::uintptr_t>(higgs::dtype_bits(tensor.dtype) / 8) ==
          0);
}

TEST_CASE("the bytes of a written file never change", "[store][safetensors]") {
  const TemporaryFolder folder;
  SafetensorsWriter writer(folder / "a", {{"y", DType::U8, {2}}, {"x", DType::F32, {1, 1}}}, {{"k", "v"}});
  writer.write("x", 0, bytes_of("abcd"));
  writer.write("y", 0, bytes_of("ef"));
  writer.commit();
  std::string header = R"({"__metadata__":{"k":"v"},"x":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},)"
                       R"("y":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}})";
  header.resize(184, ' ');
  CHECK(read_file(folder / "a") == file_of(header, "abcdef"));
}

TEST_CASE("a writer refuses what would be a wrong file", "[store][safetensors]") {
  const TemporaryFolder folder;
  const auto make = [&](std::vector<higgs::TensorShape> shapes, Safetensors::Metadata metadata = {}) {
    SafetensorsWriter writer(folder / "a", std::move(shapes), std::move(metadata));
  };
  CHECK_THROWS_AS(make({{"a", DType::U8, {1}}, {"a", DType::U8, {1}}}), InvalidArgument);
  CHECK_THROWS_AS(make({{"__metadata__", DType::U8, {1}}}), InvalidArgument);
  CHECK_THROWS_AS(make({{"a", DType::U8, {-1}}}), InvalidArgument);
  CHECK_THROWS_AS(make({{"a", DType::F64, {INT64_MAX}}}), InvalidArgument);
  CHECK_THROWS_AS(make({{"a", DType::Unknown, {1}}}), InvalidArgument);
  CHECK_THROWS_AS(make({{"a", DType::F4, {3}}}), InvalidArgument);
  CHECK_THROWS_AS(make({{"a", DType::U8, {1LL << 61}}, {"b", DType::U8, {1LL << 62}}}), InvalidArgument);
  CHECK_THROWS_AS(make({{"\xff", DType::U8, {1}}}), InvalidArgument);
  CHECK_THROWS_AS(make({}, {{"k", "\xff"}}), InvalidArgument);
  SafetensorsWriter writer(folder / "a", {{"a", DType::U8, {2}}}, {{"k", "v"}});
  CHECK_THROWS_AS(writer.write("b", 0, bytes_of("x")), InvalidArgument);
  CHECK_THROWS_AS(writer.write("a", 1, bytes_of("xy")), InvalidArgument);
  CHECK_THROWS_AS(writer.write("a", 3, bytes_of("")), InvalidArgument);
  CHECK_THROWS_AS(writer.set_metadata("l", ""), InvalidArgument);
  writer.write("a", 0, bytes_of("x"));
  CHECK_THROWS_AS(writer.commit(), InvalidArgument);  // a byte is missing
  writer.write("a", 1, bytes_of("y"));
  writer.set_metadata("k", std::string(100, 'x'));
  CHECK_THROWS_AS(writer.commit(), InvalidArgument);
  writer.set_metadata("k", "w");
  writer.commit();
  CHECK(text_of(*Safetensors(folder / "a").find("a")) == "xy");
  CHECK_FALSE(fs::exists(folder / "a.partial"));
}
