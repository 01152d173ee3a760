// SPDX-License-Identifier: Apache-2.0
#include "quantize/tokens_file.hpp"

#include <higgs/store/mapped_file.hpp>

#include <charconv>
#include <limits>
#include <string>
#include <system_error>

namespace higgs::model {
namespace {

std::filesystem::path tokens_path(const std::filesystem::path& checkpoint) {
  return FileWriter::partial_path(checkpoint) += ".tokens";
}

std::filesystem::path with_folder(std::filesystem::path path) {
  std::filesystem::create_directories(path.parent_path());
  return path;
}

// Adds the numbers of a line, which has a space before each.
void read_line(std::string_view line, std::vector<TokenId>& out) {
  while (line.starts_with(' ')) {
    TokenId token = 0;
    const auto [end, error] = std::from_chars(line.data() + 1, line.data() + line.size(), token);
    if (error != std::errc{}) return;
    out.push_back(token);
    line.remove_prefix(static_cast<std::size_t>(end - line.data()));
  }
}

}  // namespace

TokensFile::TokensFile(const std::filesystem::path& checkpoint, std::string_view fingerprint)
    : journal_(with_folder(tokens_path(checkpoint))) {
  const std::string wanted = std::to_string(hash_text(fingerprint));
  if (journal_.lines().empty() || journal_.lines()[0] != wanted) {
    journal_.clear();
    journal_.append(wanted);
  }
  for (const std::string& line : std::span(journal_.lines()).subspan(1)) read_line(line, tokens_);
}

std::uint64_t TokensFile::room(std::int64_t tokens) noexcept {
  constexpr std::uint64_t digits = std::numeric_limits<TokenId>::digits10 + 1;
  return 4096 + static_cast<std::uint64_t>(tokens) * (digits + 1);  // lines have some bytes of their own
}

void TokensFile::append(std::span<const TokenId> tokens) {
  std::string line;
  for (const TokenId token : tokens) line.append(" ").append(std::to_string(token));
  journal_.append(line);
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
}

void TokensFile::remove(const std::filesystem::path& checkpoint) noexcept {
  std::error_code ignored;
  std::filesystem::remove(tokens_path(checkpoint), ignored);
}

}  // namespace higgs::model
