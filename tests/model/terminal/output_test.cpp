// SPDX-License-Identifier: Apache-2.0
#include "terminal/output.hpp"

#include "store/temporary_folder.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>

using Catch::Contains;
using higgs::model::keep_input;
using higgs::model::Output;
using higgs::model::require_space;

namespace {

std::size_t files_in(const TemporaryFolder& folder) {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& each : std::filesystem::directory_iterator(folder.path())) ++count;
  return count;
}

}  // namespace

TEST_CASE("an output keeps the file of its name until it is complete", "[model][output]") {
  const TemporaryFolder folder;
  const auto path = folder / "result";
  write_file(path, "before");
  {
    Output output(path);
    CHECK(output);
    CHECK(read_file(path) == "before");
  }
  CHECK(read_file(path) == "before");
  CHECK(files_in(folder) == 1);
  for (const std::string& content : {std::string("after"), std::string(), std::string(3000000, 'x')}) {
    Output output(path);
    output.commit(content);
    CHECK(read_file(path) == content);
    CHECK(files_in(folder) == 1);
  }
}

TEST_CASE("an output that is not asked for writes nothing", "[model][output]") {
  Output none, unnamed{std::filesystem::path()};
  CHECK_FALSE(none);
  CHECK_FALSE(unnamed);
  CHECK_NOTHROW(none.commit("text"));
}

TEST_CASE("an output that cannot be written is refused when it is opened", "[model][output]") {
  const TemporaryFolder folder;
  write_file(folder / "file", "");
  for (const auto& path : {folder / "missing" / "result", folder.path(), folder / "file" / "result"})
    CHECK_THAT(message_of<higgs::IoError>([&] { Output output(path); }), Contains(path.string()));
  CHECK(files_in(folder) == 1);
}

TEST_CASE("two outputs cannot share a file, however it is spelled", "[model][output]") {
  const TemporaryFolder folder;
  const auto path = folder / "result", same = folder / "." / "result";
  Output first(path);
  CHECK_THAT(message_of<higgs::InvalidArgument>([&] { Output second(same); }), Contains("two results"));
  Output moved = std::move(first);
  CHECK_THROWS_AS(Output(path), higgs::InvalidArgument);
  moved.commit("text");
  CHECK_NOTHROW(Output(path));
  CHECK(read_file(path) == "text");
}

TEST_CASE("a file that the command reads is never replaced, however it is spelled", "[model][output]") {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "sub");
  write_file(folder / "text", "before");
  std::filesystem::create_symlink("text", folder / "link");
  keep_input(folder / "link");
  for (const auto& path : {folder / "text", folder / "link", folder / "sub" / ".." / "text"})
    CHECK_THAT(message_of<higgs::InvalidArgument>([&] { Output output(path); }),
               Contains(path.string()) && Contains("is read by this command"));
  CHECK(read_file(folder / "text") == "before");
  CHECK_NOTHROW(Output(folder / "sub" / "text").commit("another"));
}

TEST_CASE("a link stays a link to the new content", "[model][output]") {
  const TemporaryFolder folder;
  write_file(folder / "target", "before");
  std::filesystem::create_symlink("target", folder / "link");
  Output(folder / "link").commit("after");
  CHECK(std::filesystem::is_symlink(folder / "link"));
  CHECK(read_file(folder / "target") == "after");
}

TEST_CASE("a device is written in place", "[model][output]") {
  if (!std::filesystem::exists("/dev/null")) return;
  CHECK_NOTHROW(Output("/dev/null").commit("text"));
  CHECK(std::filesystem::is_character_file("/dev/null"));
  if (!std::filesystem::exists("/dev/full")) return;
  CHECK_THAT(message_of<higgs::IoError>([] { Output("/dev/full").commit("text"); }), Contains("/dev/full"));
}

TEST_CASE("more bytes than the disk has are refused with both numbers", "[model][output]") {
  const TemporaryFolder folder;
  CHECK_NOTHROW(require_space(folder / "not" / "there", 1));
  CHECK_NOTHROW(require_space("relative", 1));
  CHECK_THAT(
      message_of<higgs::IoError>([&] { require_space(folder / "not" / "there", std::uint64_t{1} << 62); }),
      Contains((folder / "not" / "there").string()) && Contains("4.61e+09 GB are needed") &&
          Contains("free"));
}
