// SPDX-License-Identifier: Apache-2.0
// Weights of a model, whichever format they come in.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/store/block_format.hpp>
#include <higgs/store/gguf.hpp>
#include <higgs/store/mapped_file.hpp>
#include <higgs/store/safetensors.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {

/// A tensor of a file, seen as a matrix (rows, cols): a vector is one row, stacked matrices are one tall one.
struct SourceTensor {
  std::string name;
  std::vector<std::int64_t> shape;          // slowest extent first
  std::string dtype;                        // "BF16", "Q4_K", ...: the spelling of its format
  const BlockFormat* format = nullptr;      // null if the weights cannot be read as floats
  std::span<const std::uint8_t> data;       // as in the file, to be copied untouched
  std::shared_ptr<const MappedFile> owner;  // the file, keeps `data` alive

  std::int64_t rows() const noexcept { return matrix_rows(shape); }
  std::int64_t cols() const noexcept { return matrix_cols(shape); }
  bool readable() const noexcept { return format && format->decode; }

  /// Writes rows [first_row, first_row + count) to `out`, count * cols() floats. F32, F16 and BF16 are exact.
  /// Throws FormatError, with file and tensor, if the weights are of a type that has no decoder. Takes no memory
  /// of its own.
  void read_rows(std::int64_t first_row, std::int64_t count, std::span<float> out) const {
    if (!readable())
      throw FormatError((owner ? owner->path().string() + ": " : "") + "tensor \"" + name + "\": " + dtype +
                        " cannot be read as floats");
    expects(first_row >= 0 && count >= 0 && first_row <= rows() && count <= rows() - first_row,
            "higgs::SourceTensor::read_rows: the rows must lie within the tensor");
    expects(out.size() == static_cast<std::size_t>(count * cols()),
            "higgs::SourceTensor::read_rows: out must hold count * cols() floats");
    if (out.empty()) return;
    const auto offset = static_cast<std::size_t>(first_row * format->row_bytes(cols()));
    format->decode(data.data() + offset, count * (cols() / format->block), out.data());
  }
};

/// The tensors of a safetensors file, of a sharded model, of a GGUF file, or of all parts of a split one.
class TensorSource {
 public:
  /// Opens a file, an index, or a folder (see Safetensors); GGUF is known by its first bytes, and a part of a
  /// split model stands for all (see GgufFile::open_parts). Throws FormatError or IoError.
  static TensorSource open(const std::filesystem::path& path) {
    if (detail::is_folder(path) || path.extension() == ".json") return TensorSource(Safetensors(path));
    auto file = MappedFile::open(path);
    if (GgufFile::has_magic(file->bytes())) return TensorSource(GgufFile::open_parts(std::move(file)));
    return TensorSource(Safetensors(std::move(file)));
  }

  explicit TensorSource(const Safetensors& file) {
    for (const StoredTensor& each : file.tensors()) {
      const std::string_view dtype = dtype_name(each.dtype);
      add({each.name, each.shape, std::string(dtype), block_format_named(dtype), each.data, each.owner});
    }
  }
  explicit TensorSource(const GgufFile& file) : TensorSource(std::span(&file, 1)) {}
  /// The parts of one model. Throws FormatError if two of them have a tensor of the same name.
  explicit TensorSource(std::span<const GgufFile> parts) {
    for (const GgufFile& part : parts)
      for (const GgufTensor& each : part.tensors())
        add({each.name, each.shape, each.type_name(), each.format, each.data, each.owner});
  }

  /// In the order of the file.
  const std::vector<SourceTensor>& tensors() const noexcept { return tensors_; }
  /// Null if there is no tensor of that name.
  const SourceTensor* find(std::string_view name) const noexcept {
    const auto found = index_.find(name);
    return found == index_.end() ? nullptr : &tensors_[found->second];
  }
  /// Throws FormatError, which names the tensor and a file, if there is none of that name.
  const SourceTensor& at(std::string_view name) const {
    if (const SourceTensor* found = find(name)) return *found;
    const std::string file = tensors_.empty() ? "" : tensors_.front().owner->path().string() + ": ";
    throw FormatError(file + "there is no tensor \"" + std::string(name) + "\"");
  }
  /// See SourceTensor::read_rows.
  void read_rows(std::string_view name, std::int64_t first_row, std::int64_t count,
                 std::span<float> out) const {
    at(name).read_rows(first_row, count, out);
  }

 private:
  void add(SourceTensor tensor) {
    const auto [found, is_new] = index_.emplace(tensor.name, tensors_.size());
    if (!is_new)
      throw FormatError(tensor.owner->path().string() + ": duplicate tensor \"" + tensor.name + "\", which " +
                        tensors_[found->second].owner->path().string() + " has as well");
    tensors_.push_back(std::move(tensor));
  }

  std::vector<SourceTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
};

}  // namespace v0
}  // namespace higgs
