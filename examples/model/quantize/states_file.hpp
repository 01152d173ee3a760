// SPDX-License-Identifier: Apache-2.0
// The states between two blocks in a file, so that a killed run goes on from there.
#pragma once

#include "math/matrix.hpp"

#include <higgs/core/matrix_view.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>

namespace higgs::model {

/// What a run that rounds block by block needs to go on after a kill.
struct SavedStates {
  std::int64_t block = 0;   // the block whose inputs the states are
  std::int64_t memory = 0;  // bytes that the run may take for second moments
  Matrix states;            // (tokens, width)
};

/// A file of states. A kill at any moment leaves the states that were saved last.
class StatesFile {
 public:
  /// The file beside the unfinished checkpoint `checkpoint`. `fingerprint`: everything that decides the states but the
  /// memory for second moments, which a run may choose by itself.
  StatesFile(const std::filesystem::path& checkpoint, std::string_view fingerprint);

  const std::filesystem::path& path() const noexcept { return path_; }
  /// Bytes on the disk while states of that size are replaced by others; the file that is there counts as free.
  static std::uint64_t room(const std::filesystem::path& checkpoint, std::int64_t tokens, std::int64_t width);

  /// What was saved last; none if there is no file, or if it is of another fingerprint or damaged. Throws IoError if it
  /// cannot be read.
  std::optional<SavedStates> load() const;
  /// Replaces what is there. Returns when it is on the disk. Throws IoError.
  void save(std::int64_t block, std::int64_t memory, MatrixView<const float> states) const;
  /// Deletes what runs left beside `checkpoint`.
  static void remove(const std::filesystem::path& checkpoint) noexcept;

 private:
  std::filesystem::path path_;
  std::uint64_t fingerprint_;
};

}  // namespace higgs::model
