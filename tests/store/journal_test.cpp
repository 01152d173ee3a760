// SPDX-License-Identifier: Apache-2.0
#include "temporary_folder.hpp"

#include <higgs/store/journal.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

using higgs::Journal;
using Lines = std::vector<std::string>;

TEST_CASE("a journal gives back its lines", "[store][journal]") {
  const TemporaryFolder folder;
  CHECK(Journal(folder / "a").lines().empty());
  {
    Journal journal(folder / "a");
    journal.append("one");
    journal.append("");
    journal.append("two words \xc3\xa9");
    CHECK(journal.lines() == Lines{"one", "", "two words \xc3\xa9"});
    CHECK_THROWS_AS(journal.append("a\nb"), higgs::InvalidArgument);
  }
  {
    Journal journal(folder / "a");
    CHECK(journal.lines() == Lines{"one", "", "two words \xc3\xa9"});
    journal.append("more");
  }
  {
    Journal journal(folder / "a");
    CHECK(journal.lines().size() == 4);
    journal.clear();
    journal.append("new");
  }
  Journal journal(folder / "a");
  CHECK(journal.lines() == Lines{"new"});
  journal.remove();
  CHECK_FALSE(std::filesystem::exists(folder / "a"));
}

TEST_CASE("a torn journal keeps its whole lines and goes on", "[store][journal]") {
  const TemporaryFolder folder;
  {
    Journal journal(folder / "a");
    for (const char* line : {"first", "second", "third"}) journal.append(line);
  }
  const std::string whole = read_file(folder / "a");
  for (std::size_t size = 0; size < whole.size(); ++size) {
    for (const std::string& tail : {std::string(), std::string(20, '\0'), std::string("\n\n")}) {
      write_file(folder / "b", whole.substr(0, size) + tail);
      std::size_t lines = 0;
      for (std::size_t at = 0; (at = whole.find('\n', at)) < size; ++at) ++lines;
      if (tail == "\n\n" && size + 1 <= whole.size() && whole[size] == '\n')
        ++lines;  // that tail completes a line
      Journal(folder / "b").append("last");
      Lines expected = {"first", "second", "third"};
      expected.resize(lines);
      expected.push_back("last");
      REQUIRE(Journal(folder / "b").lines() == expected);
    }
  }
}

TEST_CASE("a changed byte ends what is believed", "[store][journal]") {
  const TemporaryFolder folder;
  {
    Journal journal(folder / "a");
    journal.append("first");
    journal.append("second");
  }
  const std::string whole = read_file(folder / "a");
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string changed = whole;
    changed[i] ^= 1;
    write_file(folder / "b", changed);
    const Lines lines = Journal(folder / "b").lines();
    CHECK(lines == (i < whole.find('\n') + 1 ? Lines{} : Lines{"first"}));
  }
}

#if HIGGS_POSIX_FILES
TEST_CASE("one process at a time holds a journal", "[store][journal]") {
  const TemporaryFolder folder;
  const Journal journal(folder / "a");
  CHECK_THROWS_AS(Journal(folder / "a"), higgs::IoError);
}
#endif
