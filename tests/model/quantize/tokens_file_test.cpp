// SPDX-License-Identifier: Apache-2.0
#include "quantize/tokens_file.hpp"

#include "store/temporary_folder.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <cstddef>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

using namespace higgs::model;

namespace {

using Tokens = std::vector<TokenId>;

}  // namespace

TEST_CASE("tokens come back as they were appended", "[model][tokens_file]") {
  const TemporaryFolder folder;
  const auto checkpoint = folder / "new" / "model.safetensors";
  const Tokens pieces[] = {{5, 0, 123456}, {}, {std::numeric_limits<TokenId>::max()}, {7, 7}};
  Tokens all;
  for (const Tokens& piece : pieces) {
    TokensFile file(checkpoint, "this run");
    CHECK(file.tokens() == all);
    file.append(piece);
    all.insert(all.end(), piece.begin(), piece.end());
    CHECK(file.tokens() == all);
    CHECK_THROWS_AS(TokensFile(checkpoint, "this run"), higgs::IoError);  // one at a time
  }
  CHECK(TokensFile(checkpoint, "this run").tokens() == all);
  CHECK(TokensFile(checkpoint, "another run").tokens().empty());
  CHECK(TokensFile(checkpoint, "this run").tokens().empty());  // the other run's now
  TokensFile::remove(checkpoint);
  CHECK(std::filesystem::is_empty(checkpoint.parent_path()));
  CHECK_NOTHROW(TokensFile::remove(checkpoint));
}

TEST_CASE("a kill while tokens are written leaves those before", "[model][tokens_file]") {
  const TemporaryFolder folder;
  const auto checkpoint = folder / "model.safetensors";
  std::filesystem::path path;
  std::size_t first = 0;
  {
    TokensFile file(checkpoint, "run");
    path = file.path();
    file.append(Tokens{1, 2, 3});
    first = read_file(path).size();
    file.append(Tokens{40, 50});
  }
  const std::string whole = read_file(path);
  CHECK(whole.size() <= TokensFile::room(5));
  for (std::size_t size = 0; size <= whole.size(); ++size) {
    write_file(path, whole.substr(0, size));
    const Tokens found = TokensFile(checkpoint, "run").tokens();
    if (size == whole.size())
      CHECK(found == Tokens{1, 2, 3, 40, 50});
    else
      CHECK(found == (size < first ? Tokens{} : Tokens{1, 2, 3}));
  }
}

TEST_CASE("the room for tokens is enough for the longest", "[model][tokens_file]") {
  const TemporaryFolder folder;
  TokensFile file(folder / "model.safetensors", "run");
  file.append(Tokens(3000, std::numeric_limits<TokenId>::max()));
  CHECK(std::filesystem::file_size(file.path()) <= TokensFile::room(3000));
}
