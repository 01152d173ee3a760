// SPDX-License-Identifier: Apache-2.0
// The states between two blocks in a file, so that a killed run goes on from there.
#pragma once

#include "math/matrix.hpp"

#include <higgs/core/matrix_view.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace higgs::model {

/// What rounding a matrix left.
struct RoundedLayer {
  double loss = 0;                   // see RoundedMatrix
  double expected_nearest_loss = 0;  // see RoundedMatrix
  double damping = 0;                // see Feedback
  std::int64_t nearest_rows = 0;     // see RoundedMatrix
  std::int64_t silent = 0;           // 1 if all inputs are zero, so that the matrix is rounded to the nearest

  friend bool operator==(const RoundedLayer&, const RoundedLayer&) = default;
};

/// What a run that rounds block by block needs to go on after a kill.
struct SavedStates {
  std::int64_t block = 0;            // the block whose inputs the states are
  std::int64_t memory = 0;           // bytes that the run may take for second moments
  std::vector<RoundedLayer> layers;  // matrices of the blocks before it, in the order of rounding
  Matrix states;                     // (tokens, width)
};

/// A file of states. A kill at any moment leaves the states that were saved last.
class StatesFile {
 public:
  /// The file beside the unfinished checkpoint `checkpoint`. `fingerprint`: everything that decides the states but the
  /// memory for second moments, which a run may choose by itself.
  StatesFile(const std::filesystem::path& checkpoint, std::string_view fingerprint);

  const std::filesystem::path& path() const noexcept { return path_; }
  /// Bytes on the disk while states of that size, with so many matrices, are replaced by others; the file that is there
  /// counts as free.
  static std::uint64_t room(const std::filesystem::path& checkpoint, std::int64_t tokens, std::int64_t width,
                            std::int64_t matrices);

  /// What was saved last; none if there is no file, or if it is of another fingerprint or damaged. Throws IoError if it
  /// cannot be read.
  std::optional<SavedStates> load() const;
  /// Replaces what is there. Returns when it is on the disk. Throws IoError.
  void save(std::int64_t block, std::int64_t memory, std::span<const RoundedLayer> layers,
            MatrixView<const float> states) const;
  /// Deletes what runs left beside `checkpoint`.
  static void remove(const std::filesystem::path& checkpoint) noexcept;

 private:
  std::filesystem::path path_;
  std::uint64_t fingerprint_;
};

}  // namespace higgs::model
