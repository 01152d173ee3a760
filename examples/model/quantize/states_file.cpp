// SPDX-License-Identifier: Apache-2.0
#include "quantize/states_file.hpp"

#include <higgs/core/error.hpp>
#include <higgs/store/journal.hpp>
#include <higgs/store/mapped_file.hpp>

#include <algorithm>
#include <cstring>
#include <span>
#include <system_error>

namespace higgs::model {
namespace {

constexpr std::uint64_t magic = 0x3173657461747368;  // "hstates1"

// The file is this and the states.
struct Header {
  std::uint64_t magic, fingerprint;
  std::int64_t block, memory, tokens, width;
  std::uint64_t hash;  // hash of all before it

  std::uint64_t expected_hash() const noexcept {
    return hash_text({reinterpret_cast<const char*>(this), sizeof *this - sizeof hash});
  }
};

std::filesystem::path states_path(const std::filesystem::path& checkpoint) {
  return FileWriter::partial_path(checkpoint) += ".states";
}

template <class T>
std::span<const std::uint8_t> bytes_of(const T* data, std::size_t count) noexcept {
  return {reinterpret_cast<const std::uint8_t*>(data), count * sizeof(T)};
}

}  // namespace

StatesFile::StatesFile(const std::filesystem::path& checkpoint, std::string_view fingerprint)
    : path_(states_path(checkpoint)), fingerprint_(hash_text(fingerprint)) {}

std::uint64_t StatesFile::room(const std::filesystem::path& checkpoint, std::int64_t tokens,
                               std::int64_t width) {
  const std::uint64_t both =
      2 * (sizeof(Header) + static_cast<std::uint64_t>(tokens * width) * sizeof(float));
  std::uint64_t there = 0;
  for (const auto& path : {states_path(checkpoint), FileWriter::partial_path(states_path(checkpoint))}) {
    std::error_code error;
    const std::uintmax_t size = std::filesystem::file_size(path, error);
    if (!error) there += size;
  }
  return both - std::min(both, there);
}

std::optional<SavedStates> StatesFile::load() const {
  std::error_code error;
  if (!std::filesystem::exists(path_, error)) return {};
  const MappedFile file(path_);
  std::span<const std::uint8_t> bytes = file.bytes();
  Header header{};
  if (bytes.size() < sizeof header) return {};
  std::memcpy(&header, bytes.data(), sizeof header);
  bytes = bytes.subspan(sizeof header);
  if (header.magic != magic || header.fingerprint != fingerprint_ || header.hash != header.expected_hash())
    return {};
  if (bytes.size() != static_cast<std::size_t>(header.tokens * header.width) * sizeof(float)) return {};
  SavedStates out{header.block, header.memory, {header.tokens, header.width}};
  std::memcpy(out.states.values.data(), bytes.data(), bytes.size());
  return out;
}

void StatesFile::save(std::int64_t block, std::int64_t memory, MatrixView<const float> states) const {
  Header header{magic, fingerprint_, block, memory, states.rows, states.cols, 0};
  header.hash = header.expected_hash();
  const auto values = bytes_of(states.data, static_cast<std::size_t>(states.size()));
  FileWriter writer(path_, sizeof header + values.size());
  writer.write(0, bytes_of(&header, 1));
  writer.write(sizeof header, values);
  writer.commit();
}

void StatesFile::remove(const std::filesystem::path& checkpoint) noexcept {
  std::error_code ignored;
  std::filesystem::remove(FileWriter::partial_path(states_path(checkpoint)), ignored);
  std::filesystem::remove(states_path(checkpoint), ignored);
}

}  // namespace higgs::model
