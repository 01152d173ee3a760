// SPDX-License-Identifier: Apache-2.0
// The tokens that a model writes for its own calibration, in a file, so that a killed run need not write them again.
#pragma once

#include "tokenizer/tokenizer.hpp"

#include <higgs/store/journal.hpp>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

namespace higgs::model {

/// A file of tokens beside an unfinished checkpoint. A kill at any moment leaves those of all calls of append() that returned.
class TokensFile {
 public:
  /// Opens the file beside `checkpoint`, and makes its folder if need be. `fingerprint`: everything that decides the tokens.
  /// What the file holds of another fingerprint is dropped. Throws IoError, also if another process writes the file.
  TokensFile(const std::filesystem::path& checkpoint, std::string_view fingerprint);

  const std::filesystem::path& path() const noexcept { return journal_.path(); }
  /// Bytes that `tokens` tokens take at most.
  static std::uint64_t room(std::int64_t tokens) noexcept;

  /// All tokens in the file, in their order.
  const std::vector<TokenId>& tokens() const noexcept { return tokens_; }
  /// Adds tokens behind them. Returns when they are on the disk. Throws IoError.
  void append(std::span<const TokenId> tokens);
  /// Deletes what runs left beside `checkpoint`.
  static void remove(const std::filesystem::path& checkpoint) noexcept;

 private:
  Journal journal_;  // the hash of the fingerprint, then a line for each append()
  std::vector<TokenId> tokens_;
};

}  // namespace higgs::model
