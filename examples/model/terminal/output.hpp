// SPDX-License-Identifier: Apache-2.0
// Files that a command writes when its work is done: known to be writable before the work begins.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>

namespace higgs::model {

/// A result that is written as a whole or not at all. It is opened before the work whose result it holds, so that a
/// name that cannot be written costs no work; a file of that name stays as it is until commit(), and for good if that
/// never comes.
class Output {
 public:
  /// Nothing is asked for: commit() does nothing.
  Output();
  /// Opens `path`, "-" being the standard output; nothing is asked for if it is empty. Devices and pipes are written in
  /// place. Throws IoError, which names the file, if it cannot be written; InvalidArgument if another Output writes it, or
  /// if it is among keep_input().
  explicit Output(const std::filesystem::path& path);
  Output(Output&&) noexcept;
  Output& operator=(Output&&) noexcept;
  ~Output();

  /// Whether anything is asked for.
  explicit operator bool() const noexcept { return target_ != nullptr; }
  /// Writes all of the result; may be called once. Throws IoError.
  void commit(std::string_view content);

 private:
  struct Target;
  std::unique_ptr<Target> target_;
};

/// Says that the command reads `file`: from then on no Output may replace it, however its path is spelled.
void keep_input(const std::filesystem::path& file);

/// The nearest folder above `path`, or at it, that exists.
std::filesystem::path nearest_folder(const std::filesystem::path& path);
/// Bytes to spare on the disk that `path` lies on; none where the system does not tell. The path need not exist.
std::optional<std::uint64_t> free_space(const std::filesystem::path& path);
/// Throws IoError, which names `path` and both numbers, if the disk that it lies on has less than `bytes` to spare. The
/// path itself need not exist. Says nothing where the system does not tell.
void require_space(const std::filesystem::path& path, std::uint64_t bytes);

}  // namespace higgs::model
