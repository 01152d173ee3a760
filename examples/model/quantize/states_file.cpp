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

constexpr std::uint64_t magic = 0x3273657461747368;  // "hstates2"

// The file is this, the layers and the states.
struct Header {
  std::uint64_t magic, fingerprint;
  std::int64_t block, memory, layers, tokens, width;
  std::uint64_t hash;  // hash of all before it and of the layers

  std::uint64_t expected_hash(std::span<const std::uint8_t> layers_bytes) const noexcept {
    const std::uint64_t before = hash_text({reinterpret_cast<const char*>(this), sizeof *this - sizeof hash});
    return hash_text({reinterpret_cast<const char*>(layers_bytes.data()), layers_bytes.size()}, before);
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
                               std::int64_t width, std::int64_t matrices) {
  const std::uint64_t both =
      2 * (sizeof(Header) + static_cast<std::uint64_t>(matrices) * sizeof(RoundedLayer) +
           static_cast<std::uint64_t>(tokens * width) * sizeof(float));
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
  if (header.magic != magic || header.fingerprint != fingerprint_) return {};
  const auto layers = static_cast<std::size_t>(header.layers);
  if (layers > bytes.size() / sizeof(RoundedLayer)) return {};
  const auto of_layers = bytes.first(layers * sizeof(RoundedLayer));
  bytes = bytes.subspan(of_layers.size());
  if (header.hash != header.expected_hash(of_layers)) return {};
  if (bytes.size() != static_cast<std::size_t>(header.tokens * header.width) * sizeof(float)) return {};
  SavedStates out{
      header.block, header.memory, std::vector<RoundedLayer>(layers), {header.tokens, header.width}};
  if (layers > 0) std::memcpy(out.layers.data(), of_layers.data(), of_layers.size());
  std::memcpy(out.states.values.data(), bytes.data(), bytes.size());
  return out;
}

void StatesFile::save(std::int64_t block, std::int64_t memory, std::span<const RoundedLayer> layers,
                      MatrixView<const float> states) const {
  const auto of_layers = bytes_of(layers.data(), layers.size());
  const auto values = bytes_of(states.data, static_cast<std::size_t>(states.size()));
  Header header{magic, fingerprint_, block, memory, std::ssize(layers), states.rows, states.cols, 0};
  header.hash = header.expected_hash(of_layers);
  FileWriter writer(path_, sizeof header + of_layers.size() + values.size());
  writer.write(0, bytes_of(&header, 1));
  writer.write(sizeof header, of_layers);
  writer.write(sizeof header + of_layers.size(), values);
  writer.commit();
}

void StatesFile::remove(const std::filesystem::path& checkpoint) noexcept {
  std::error_code ignored;
  std::filesystem::remove(FileWriter::partial_path(states_path(checkpoint)), ignored);
  std::filesystem::remove(states_path(checkpoint), ignored);
}

}  // namespace higgs::model
