// SPDX-License-Identifier: Apache-2.0
// Weights of a model, whichever format they come in.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/store/block_format.hpp>
#include <higgs/store/gguf.hpp>
#include <higgs/store/mapped_file.hpp>
#include <higgs/store/safetensors.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {

/// Scales that a matrix of 8-bit floats comes with, one for each block of weights: weight = scale * stored value.
struct BlockScales {
  const BlockFormat* format = nullptr;
  std::span<const std::uint8_t> data;       // (matrices, rows, cols)
  std::shared_ptr<const MappedFile> owner;  // keeps `data` alive
  std::int64_t rows = 1, cols = 1;
  std::int64_t matrix_rows = 1;  // rows of one matrix of weights: a stack of matrices has scales for each
  std::int64_t block_rows = 1, block_cols = 1;

  /// Multiplies one row of weights by its scales.
  void apply(std::int64_t row, std::span<float> weights) const noexcept;
};

namespace detail {
// The length b of blocks that cut `extent` into `count`: ceil(extent / b) == count. Where the last block is shorter,
// several would do: `usual` if it is one of them, else it must be the one power of two. None if that leaves a doubt,
// or nothing.
HIGGS_INLINE std::optional<std::int64_t> block_length(std::int64_t extent, std::int64_t count,
                                                      std::int64_t usual = 128) noexcept;

// How scales of that shape lie over weights of that shape; none if they do not. Scales are (), (1), one for each of the
// first extent, or one for each block: as many extents as the weights, of which all but the last two agree.
HIGGS_INLINE std::optional<BlockScales> lay_scales(const std::vector<std::int64_t>& weights,
                                                   const std::vector<std::int64_t>& scales);

HIGGS_INLINE std::string shape_text(const std::vector<std::int64_t>& shape);
}  // namespace detail

/// A tensor of a file, seen as a matrix (rows, cols): a vector is one row, stacked matrices are one tall one.
struct SourceTensor {
  std::string name;
  std::vector<std::int64_t> shape;          // slowest extent first
  std::string dtype;                        // "BF16", "Q4_K", ...: the spelling of its format
  const BlockFormat* format = nullptr;      // null if the weights cannot be read as floats
  std::span<const std::uint8_t> data;       // as in the file
  std::shared_ptr<const MappedFile> owner;  // the file, keeps `data` alive
  std::optional<BlockScales> scales;        // from another tensor of the file, which is not listed
  std::string obstacle;  // why the weights cannot be read, where `dtype` alone does not say it

  std::int64_t rows() const noexcept { return matrix_rows(shape); }
  std::int64_t cols() const noexcept { return matrix_cols(shape); }
  bool readable() const noexcept { return format && format->decode; }
  /// Whether `data` alone is the tensor, so that its bytes may be copied; else it must be read.
  bool copyable() const noexcept { return !scales; }
  /// Throws FormatError, with file, tensor and type, unless the tensor is readable().
  void require_readable() const;

  /// Writes rows [first_row, first_row + count) to `out`, count * cols() floats. Scales are applied. F32, F16
  /// and BF16 are exact. Throws FormatError as require_readable() does. Takes no memory of its own.
  void read_rows(std::int64_t first_row, std::int64_t count, std::span<float> out) const;
};

/// The tensors of a safetensors file, of a sharded model, of a GGUF file, or of all parts of a split one.
class TensorSource {
 public:
  /// Opens a file, an index, or a folder (see Safetensors); GGUF is known by its first bytes, and a part of a
  /// split model stands for all (see GgufFile::open_parts). Throws FormatError or IoError.
  static TensorSource open(const std::filesystem::path& path);

  /// Matrices of 8-bit floats get their scales: those of X.weight are X.weight_scale_inv, X.weight_scale or X.scale,
  /// which are not listed then. Throws FormatError, which names both, if their shapes do not fit each other.
  explicit TensorSource(const Safetensors& file);
  explicit TensorSource(const GgufFile& file) : TensorSource(std::span(&file, 1)) {}
  /// The parts of one model. Throws FormatError if two of them have a tensor of the same name.
  explicit TensorSource(std::span<const GgufFile> parts);

  /// In the order of the file.
  const std::vector<SourceTensor>& tensors() const noexcept { return tensors_; }
  /// Null if there is no tensor of that name.
  const SourceTensor* find(std::string_view name) const noexcept {
    const auto found = index_.find(name);
    return found == index_.end() ? nullptr : &tensors_[found->second];
  }
  /// Throws FormatError, which names the tensor and a file, if there is none of that name.
  const SourceTensor& at(std::string_view name) const;
  /// See SourceTensor::read_rows.
  void read_rows(std::string_view name, std::int64_t first_row, std::int64_t count,
                 std::span<float> out) const {
    at(name).read_rows(first_row, count, out);
  }

 private:
  using Names = std::map<std::string_view, const StoredTensor*>;

  // Whether a tensor beside X.weight, called X.`rest`, says how to read it. Scales of activations do not.
  static bool is_scale(std::string_view rest) noexcept;

  // Gives a tensor of 8-bit floats its scales and returns them; null if it has none. It becomes unreadable if it has
  // some that are not understood: without them its weights would be wrong.
  static const StoredTensor* attach_scales(SourceTensor& tensor, const Names& names);

  void add(SourceTensor tensor);

  std::vector<SourceTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
};

#if HIGGS_DEFINITIONS

HIGGS_INLINE void BlockScales::apply(std::int64_t row, std::span<float> weights) const noexcept {
  const std::int64_t line = row / matrix_rows * rows + row % matrix_rows / block_rows;
  const auto width = static_cast<std::size_t>(block_cols);
  const std::uint8_t* at = data.data() + line * format->row_bytes(cols);
  for (std::size_t begin = 0; begin < weights.size(); begin += width, at += format->bytes) {
    float scale = 0;
    format->decode(at, 1, &scale);
    for (float& weight : weights.subspan(begin, std::min(width, weights.size() - begin))) weight *= scale;
  }
}

namespace detail {

HIGGS_INLINE std::optional<std::int64_t> block_length(std::int64_t extent, std::int64_t count,
                                                      std::int64_t usual) noexcept {
  if (count == 1) return std::max<std::int64_t>(extent, 1);
  if (count < 1 || count > extent) return std::nullopt;
  const auto fits = [&](std::int64_t length) { return (extent - 1) / length + 1 == count; };
  if (fits(usual)) return usual;
  std::int64_t length = 1;
  while (length < extent && !fits(length)) length *= 2;
  const bool power = fits(length), exact = extent % count == 0;
  if (power && exact && length != extent / count) return std::nullopt;
  return power ? std::optional(length) : exact ? std::optional(extent / count) : std::nullopt;
}

HIGGS_INLINE std::optional<BlockScales> lay_scales(const std::vector<std::int64_t>& weights,
                                                   const std::vector<std::int64_t>& scales) {
  BlockScales out;
  out.matrix_rows = std::max<std::int64_t>(1, matrix_rows(weights));
  out.block_rows = out.matrix_rows;
  out.block_cols = std::max<std::int64_t>(1, matrix_cols(weights));
  if (scales.empty() || (scales.size() == 1 && scales[0] == 1)) return out;
  const std::size_t rank = weights.size();
  if (scales.size() == 1 && rank >= 2 && scales[0] == weights[0]) {
    out.rows = scales[0];
    out.block_rows = std::max<std::int64_t>(1, out.matrix_rows / std::max<std::int64_t>(1, scales[0]));
    return out;
  }
  if (rank < 2 || scales.size() != rank || !std::equal(weights.begin(), weights.end() - 2, scales.begin()))
    return std::nullopt;
  auto block_rows = block_length(weights[rank - 2], scales[rank - 2]);
  auto block_cols = block_length(weights[rank - 1], scales[rank - 1]);
  // Most blocks are square: where one side leaves a doubt, the other may settle it.
  if (!block_rows && block_cols) block_rows = block_length(weights[rank - 2], scales[rank - 2], *block_cols);
  if (!block_cols && block_rows) block_cols = block_length(weights[rank - 1], scales[rank - 1], *block_rows);
  if (!block_rows || !block_cols) return std::nullopt;
  out.rows = scales[rank - 2];
  out.cols = scales[rank - 1];
  out.matrix_rows = std::max<std::int64_t>(1, weights[rank - 2]);
  out.block_rows = *block_rows;
  out.block_cols = *block_cols;
  return out;
}

HIGGS_INLINE std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string out = "(";
  for (std::size_t i = 0; i < shape.size(); ++i)
    out.append(i == 0 ? "" : ", ").append(std::to_string(shape[i]));
  return out + ")";
}

}  // namespace detail

HIGGS_INLINE void SourceTensor::require_readable() const {
  if (readable()) return;
  throw FormatError((owner ? owner->path().string() + ": " : "") + "tensor \"" + name + "\": " + dtype +
                    " cannot be read as floats" + (obstacle.empty() ? "" : ": " + obstacle));
}

HIGGS_INLINE void SourceTensor::read_rows(std::int64_t first_row, std::int64_t count,
                                          std::span<float> out) const {
  require_readable();
  expects(first_row >= 0 && count >= 0 && first_row <= rows() && count <= rows() - first_row,
          "higgs::SourceTensor::read_rows: the rows must lie within the tensor");
  expects(out.size() == static_cast<std::size_t>(count * cols()),
          "higgs::SourceTensor::read_rows: out must hold count * cols() floats");
  if (out.empty()) return;
  const auto offset = static_cast<std::size_t>(first_row * format->row_bytes(cols()));
  format->decode(data.data() + offset, count * (cols() / format->block), out.data());
  const auto width = static_cast<std::size_t>(cols());
  for (std::size_t row = 0; scales && row < static_cast<std::size_t>(count); ++row)
    scales->apply(first_row + static_cast<std::int64_t>(row), out.subspan(row * width, width));
}

HIGGS_INLINE TensorSource TensorSource::open(const std::filesystem::path& path) {
  if (detail::is_folder(path) || path.extension() == ".json") return TensorSource(Safetensors(path));
  auto file = MappedFile::open(path);
  if (GgufFile::has_magic(file->bytes())) return TensorSource(GgufFile::open_parts(std::move(file)));
  return TensorSource(Safetensors(std::move(file)));
}

HIGGS_INLINE TensorSource::TensorSource(const Safetensors& file) {
  Names names;
  for (const StoredTensor& each : file.tensors()) names.emplace(each.name, &each);
  std::vector<SourceTensor> tensors;
  std::set<std::string_view> attached;
  for (const StoredTensor& each : file.tensors()) {
    const bool known = each.dtype != DType::Unknown;  // an unknown one may be called as a format of GGUF is
    tensors.push_back({each.name,
                       each.shape,
                       each.type_name(),
                       known ? block_format_named(dtype_name(each.dtype)) : nullptr,
                       each.data,
                       each.owner,
                       {},
                       {}});
    if (each.dtype == DType::F8_E4M3 || each.dtype == DType::F8_E5M2)
      if (const StoredTensor* scales = attach_scales(tensors.back(), names)) attached.insert(scales->name);
  }
  for (SourceTensor& each : tensors)
    if (!attached.contains(each.name)) add(std::move(each));
}

HIGGS_INLINE TensorSource::TensorSource(std::span<const GgufFile> parts) {
  for (const GgufFile& part : parts)
    for (const GgufTensor& each : part.tensors())
      add({each.name, each.shape, each.type_name(), each.format, each.data, each.owner, {}, {}});
}

HIGGS_INLINE const SourceTensor& TensorSource::at(std::string_view name) const {
  if (const SourceTensor* found = find(name)) return *found;
  const std::string file = tensors_.empty() ? "" : tensors_.front().owner->path().string() + ": ";
  throw FormatError(file + "there is no tensor \"" + std::string(name) + "\"");
}

HIGGS_INLINE bool TensorSource::is_scale(std::string_view rest) noexcept {
  const auto has = [&](std::string_view word) { return rest.find(word) != rest.npos; };
  return (has("scal") || has("amax") || has("zero_point")) && !has("input") && !has("output") &&
         !has("act_") && !has("activation") && rest != "q_scale" && rest != "k_scale" && rest != "v_scale";
}

HIGGS_INLINE const StoredTensor* TensorSource::attach_scales(SourceTensor& tensor, const Names& names) {
  constexpr std::string_view ending = "weight";
  std::string prefix = tensor.name + "_";  // names of tensors that belong to this one begin so
  if (tensor.name.ends_with(".weight")) prefix = tensor.name.substr(0, tensor.name.size() - ending.size());
  const auto refuse = [&](const StoredTensor& other, const std::string& what) {
    tensor.format = nullptr;
    tensor.obstacle = "its scales \"" + other.name + "\" " + what;
    return nullptr;
  };
  const StoredTensor* scales = nullptr;
  for (auto each = names.lower_bound(prefix); each != names.end() && each->first.starts_with(prefix);
       ++each) {
    if (each->first == tensor.name || !is_scale(each->first.substr(prefix.size()))) continue;
    const bool known = each->first == tensor.name + "_scale_inv" || each->first == tensor.name + "_scale" ||
                       each->first == prefix + "scale";
    if (!known) return refuse(*each->second, "are of a kind that is not known");
    if (scales) return refuse(*each->second, "stand beside \"" + scales->name + "\"");
    scales = each->second;
  }
  if (!scales) return nullptr;
  const BlockFormat* format = scales->dtype == DType::F8_E8M0 ? &detail::f8_e8m0_format
                                                              : block_format_named(dtype_name(scales->dtype));
  if (!format || !format->decode || scales->dtype == DType::F8_E4M3 || scales->dtype == DType::F8_E5M2)
    return refuse(*scales, "are of type " + scales->type_name());
  tensor.scales = detail::lay_scales(tensor.shape, scales->shape);
  if (!tensor.scales)
    throw FormatError(tensor.owner->path().string() + ": tensor \"" + tensor.name + "\" is " +
                      detail::shape_text(tensor.shape) + ", but its scales \"" + scales->name + "\" are " +
                      detail::shape_text(scales->shape) + ", which fit no blocks of it");
  tensor.scales->format = format;
  tensor.scales->data = scales->data;
  tensor.scales->owner = scales->owner;
  return scales;
}

HIGGS_INLINE void TensorSource::add(SourceTensor tensor) {
  const auto [found, is_new] = index_.emplace(tensor.name, tensors_.size());
  if (!is_new)
    throw FormatError(tensor.owner->path().string() + ": duplicate tensor \"" + tensor.name + "\", which " +
                      tensors_[found->second].owner->path().string() + " has as well");
  tensors_.push_back(std::move(tensor));
}

#endif

}  // namespace v0
}  // namespace higgs
