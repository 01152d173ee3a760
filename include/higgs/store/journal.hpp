// SPDX-License-Identifier: Apache-2.0
// A record of finished work that survives a kill or a power cut at any moment.
#pragma once

#include <higgs/store/mapped_file.hpp>

#include <charconv>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {

/// FNV-1a of 64 bits; `state` chains several texts.
constexpr std::uint64_t hash_text(std::string_view text, std::uint64_t state = 0xcbf29ce484222325u) noexcept {
  for (const char c : text) state = (state ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return state;
}

/// A file of lines, each on the disk when append() returns. What a kill left of the last line is not read:
/// a line is its text's hash in 16 hexadecimal digits, a space, the text. One process at a time may hold it.
class Journal {
 public:
  /// Opens the journal, or makes an empty one. Throws IoError.
  explicit Journal(const std::filesystem::path& path);

  const std::filesystem::path& path() const noexcept { return file_.path(); }
  /// The lines that were whole when the journal was opened, and those appended since.
  const std::vector<std::string>& lines() const noexcept { return lines_; }

  /// Forgets all lines.
  void clear();
  /// Returns when the line is on the disk. `text` holds no line break.
  void append(const std::string& text);
  /// Deletes the file.
  void remove() noexcept {
    std::error_code ignored;
    std::filesystem::remove(file_.path(), ignored);
  }

 private:
  static std::string prefix(std::string_view text);

  detail::OutputFile file_;
  std::vector<std::string> lines_;
  std::uint64_t size_ = 0;  // bytes of whole lines
};

#if HIGGS_DEFINITIONS

HIGGS_INLINE Journal::Journal(const std::filesystem::path& path) : file_(path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(in), {});
  for (std::size_t end; (end = text.find('\n', size_)) != text.npos; size_ = end + 1) {
    const std::string_view line = std::string_view(text).substr(size_, end - size_);
    if (line.size() < 17 || line.substr(0, 17) != prefix(line.substr(17))) break;
    lines_.emplace_back(line.substr(17));
  }
}

HIGGS_INLINE void Journal::clear() {
  file_.resize(0);
  file_.sync();
  lines_.clear();
  size_ = 0;
}

HIGGS_INLINE void Journal::append(const std::string& text) {
  expects(text.find('\n') == text.npos, "higgs::Journal::append: text must be one line");
  const std::string line = prefix(text) + text + "\n";
  file_.resize(size_);  // drops a torn line
  file_.write(size_, {reinterpret_cast<const std::uint8_t*>(line.data()), line.size()});
  file_.sync();
  size_ += line.size();
  lines_.push_back(text);
}

HIGGS_INLINE std::string Journal::prefix(std::string_view text) {
  char digits[16];
  const auto [end, error] = std::to_chars(digits, digits + 16, hash_text(text), 16);
  const std::string_view hex(digits, static_cast<std::size_t>(end - digits));
  return std::string(16 - hex.size(), '0') + std::string(hex) + " ";
}

#endif

}  // namespace v0
}  // namespace higgs
