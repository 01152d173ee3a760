// SPDX-License-Identifier: Apache-2.0
#include "temporary_folder.hpp"

#include <higgs/store/mapped_file.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#if HIGGS_POSIX_FILES
#  include <sys/resource.h>
#  include <csignal>
#endif

namespace fs = std::filesystem;
using higgs::FileWriter;
using higgs::IoError;
using higgs::Leftover;
using higgs::MappedFile;

TEST_CASE("released bytes stay readable", "[store][mapped_file]") {
  const TemporaryFolder folder;
  const std::string content(100000, 'x');
  write_file(folder / "file", content);
  const higgs::MappedFile file(folder / "file");
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, content.size()}) {
    higgs::release_pages(file.bytes().first(size));
    CHECK(std::string(file.bytes().begin(), file.bytes().end()) == content);
  }
}

TEST_CASE("a mapped file is the file, aligned to 64 bytes", "[store][mapped_file]") {
  const TemporaryFolder folder;
  std::string content;
  for (int i = 0; i < 100000; ++i) content += static_cast<char>(i * 7);
  write_file(folder / "a", content);
  const std::shared_ptr<const MappedFile> file = MappedFile::open(folder / "a");
  CHECK(reinterpret_cast<std::uintptr_t>(file->bytes().data()) % 64 == 0);
  CHECK(std::string(file->bytes().begin(), file->bytes().end()) == content);
  write_file(folder / "empty", "");
  CHECK(MappedFile(folder / "empty").bytes().empty());
}

TEST_CASE("what cannot be mapped is named with the reason", "[store][mapped_file]") {
  const TemporaryFolder folder;
  const std::string missing = message_of<IoError>([&] { MappedFile file(folder / "missing"); });
  CHECK(missing.find((folder / "missing").string()) == 0);
  CHECK_THROWS_AS(MappedFile(folder.path()), IoError);
#if HIGGS_POSIX_FILES
  CHECK(missing.find("No such file") != missing.npos);
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  CHECK_THROWS_WITH(MappedFile(folder / "pipe"), Catch::Contains("not a regular file"));  // and does not wait
#endif
}

TEST_CASE("a written file appears at commit and not before", "[store][mapped_file]") {
  const TemporaryFolder folder;
  write_file(folder / "a", "old");
  {
    FileWriter writer(folder / "a", 6);
    writer.write(3, bytes_of("def"));
    writer.write(0, bytes_of("abc"));
    writer.sync();
    CHECK(read_file(folder / "a") == "old");
    CHECK(fs::exists(folder / "a.partial"));
    writer.commit();
    CHECK(read_file(folder / "a") == "abcdef");
    CHECK_THROWS_AS(writer.commit(), higgs::InvalidArgument);
    CHECK_THROWS_AS(writer.write(0, bytes_of("x")), higgs::InvalidArgument);
  }
  CHECK(read_file(folder / "a") == "abcdef");
  CHECK_FALSE(fs::exists(folder / "a.partial"));
}

TEST_CASE("an abandoned file leaves the old one and nothing else", "[store][mapped_file]") {
  const TemporaryFolder folder;
  write_file(folder / "a", "old");
  {
    FileWriter(folder / "a", 10).write(0, bytes_of("new"));
  }
  CHECK(read_file(folder / "a") == "old");
  CHECK_FALSE(fs::exists(folder / "a.partial"));
  {
    FileWriter(folder / "a", 10, Leftover::Keep).write(0, bytes_of("new"));
  }
  CHECK(read_file(folder / "a") == "old");
  CHECK(read_file(folder / "a.partial").substr(0, 3) == "new");
}

TEST_CASE("a partial file is continued or begun anew as asked", "[store][mapped_file]") {
  const TemporaryFolder folder;
  {
    FileWriter(folder / "a", 4, Leftover::Keep).write(0, bytes_of("ab"));
  }
  CHECK_THROWS_WITH(FileWriter(folder / "a", 5, Leftover::Continue), Catch::Contains("another size"));
  CHECK(fs::file_size(folder / "a.partial") == 4);
  {
    FileWriter writer(folder / "a", 4, Leftover::Continue);
    writer.write(2, bytes_of("cd"));
    writer.commit();
  }
  CHECK(read_file(folder / "a") == "abcd");
  {
    FileWriter(folder / "b", 4, Leftover::Keep).write(0, bytes_of("abcd"));
  }
  FileWriter(folder / "b", 4).commit();
  CHECK(read_file(folder / "b") == std::string(4, '\0'));
}

TEST_CASE("bytes outside the declared size are refused", "[store][mapped_file]") {
  const TemporaryFolder folder;
  FileWriter writer(folder / "a", 4);
  CHECK_THROWS_AS(writer.write(2, bytes_of("abc")), higgs::InvalidArgument);
  CHECK_THROWS_AS(writer.write(5, bytes_of("")), higgs::InvalidArgument);
  CHECK_THROWS_AS(writer.write(UINT64_MAX, bytes_of("ab")), higgs::InvalidArgument);
  CHECK_NOTHROW(writer.write(4, bytes_of("")));
}

TEST_CASE("threads may write disjoint ranges", "[store][mapped_file]") {
  const TemporaryFolder folder;
  FileWriter writer(folder / "a", 4000);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&writer, t] {
      for (std::uint64_t i = 0; i < 1000; ++i)
        writer.write(i * 4 + static_cast<std::uint64_t>(t),
                     bytes_of(std::string(1, static_cast<char>('a' + t))));
    });
  for (std::thread& thread : threads) thread.join();
  writer.commit();
  const std::string content = read_file(folder / "a");
  for (std::size_t i = 0; i < 4000; i += 4) REQUIRE(content.substr(i, 4) == "abcd");
}

TEST_CASE("a folder that is missing or a thing that is no file is refused", "[store][mapped_file]") {
  const TemporaryFolder folder;
  CHECK_THROWS_AS(FileWriter(folder / "none/a", 4), IoError);
  CHECK_THROWS_WITH(FileWriter(folder.path(), 4), Catch::Contains("will not be replaced"));
#if HIGGS_POSIX_FILES
  CHECK_THROWS_WITH(FileWriter("/dev/null", 4), Catch::Contains("will not be replaced"));
  CHECK_FALSE(fs::exists("/dev/null.partial"));
  fs::create_symlink(folder / "elsewhere", folder / "b.partial");
  CHECK_THROWS_AS(FileWriter(folder / "b", 4), IoError);  // never writes through a planted link
  CHECK_FALSE(fs::exists(folder / "elsewhere"));
#endif
}

#if HIGGS_POSIX_FILES
TEST_CASE("one writer at a time", "[store][mapped_file]") {
  const TemporaryFolder folder;
  FileWriter first(folder / "a", 4);
  first.write(0, bytes_of("abcd"));
  CHECK_THROWS_WITH(FileWriter(folder / "a", 4), Catch::Contains("another process"));
  first.commit();
  CHECK(read_file(folder / "a") == "abcd");
}

TEST_CASE("a link keeps pointing at the new file", "[store][mapped_file]") {
  const TemporaryFolder folder;
  fs::create_directory(folder / "far");
  write_file(folder / "far/a", "old");
  fs::create_symlink("far/a", folder / "link");
  FileWriter writer(folder / "link", 3);
  writer.write(0, bytes_of("new"));
  writer.commit();
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(read_file(folder / "far/a") == "new");
}

TEST_CASE("a full disk is told at once, with the path, and costs nothing of the old file",
          "[store][mapped_file]") {
  const TemporaryFolder folder;
  write_file(folder / "a", "old");
  rlimit old{}, small{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &old) == 0);
  small = old;
  small.rlim_cur = 4096;
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  const std::string message = message_of<IoError>([&] { FileWriter(folder / "a", 10000); });
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &old) == 0);
  std::signal(SIGXFSZ, handler);
  CHECK(message.find((folder / "a.partial").string()) == 0);
  CHECK(message.find("File too large") != message.npos);
  CHECK(read_file(folder / "a") == "old");
  CHECK_FALSE(fs::exists(folder / "a.partial"));
}

TEST_CASE("a write that fails later is told with the path", "[store][mapped_file]") {
  const TemporaryFolder folder;
  FileWriter writer(folder / "a", 10000);
  rlimit old{}, small{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &old) == 0);
  small = old;
  small.rlim_cur = 4096;
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  const std::string message =
      message_of<IoError>([&] { writer.write(0, bytes_of(std::string(10000, 'x'))); });
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &old) == 0);
  std::signal(SIGXFSZ, handler);
  CHECK(message.find((folder / "a.partial").string() + ": cannot be written: File too large") == 0);
}
#endif
