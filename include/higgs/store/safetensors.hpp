// SPDX-License-Identifier: Apache-2.0
// The safetensors format: https://github.com/huggingface/safetensors (README, section Format).
//
//     | u64 n | n bytes of JSON, padded with spaces         | tensors, without gaps, to the end of the file |
//               {"__metadata__": {"key": "value"},            ^ data_offsets count from here
//                "name": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}}
#pragma once

#include <higgs/store/json.hpp>
#include <higgs/store/mapped_file.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
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

/// The element types of safetensors. Unknown stands for one that came later: it has no size and no name.
enum class DType {
  // clang-format off
  F64, I64, U64, C64, F32, I32, U32, F16, BF16, I16, U16, F8_E4M3, F8_E5M2, F8_E8M0, F8_E4M3FNUZ, F8_E5M2FNUZ,
  I8, U8, BOOL, F6_E2M3, F6_E3M2, F4, Unknown
  // clang-format on
};

namespace detail {
struct DTypeInfo {
  std::string_view name;
  int bits;
};
// clang-format off
inline constexpr std::array<DTypeInfo, 23> dtypes{{
    {"F64", 64}, {"I64", 64}, {"U64", 64}, {"C64", 64}, {"F32", 32}, {"I32", 32}, {"U32", 32}, {"F16", 16},
    {"BF16", 16}, {"I16", 16}, {"U16", 16}, {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I8", 8}, {"U8", 8}, {"BOOL", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4}, {"", 0}}};
// clang-format on
static_assert(dtypes[static_cast<std::size_t>(DType::Unknown)].bits == 0);
}  // namespace detail

/// "BF16": the spelling in files; empty for Unknown.
constexpr std::string_view dtype_name(DType dtype) noexcept {
  return detail::dtypes[static_cast<std::size_t>(dtype)].name;
}
/// Bits of an element, 0 for Unknown.
constexpr int dtype_bits(DType dtype) noexcept {
  return detail::dtypes[static_cast<std::size_t>(dtype)].bits;
}
/// None if there is no dtype of that name.
constexpr std::optional<DType> dtype_named(std::string_view name) noexcept {
  for (std::size_t i = 0; i < static_cast<std::size_t>(DType::Unknown); ++i)
    if (detail::dtypes[i].name == name) return static_cast<DType>(i);
  return std::nullopt;
}

/// What a tensor is called and how its bytes are read: row-major, little-endian.
struct TensorShape {
  std::string name;
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape;

  /// The product of the extents; none if one is negative or the product of those above zero exceeds 2^56.
  std::optional<std::uint64_t> elements() const noexcept;
  /// Bytes of the tensor; none if elements() is none, they fill no whole number of bytes, or the dtype is Unknown.
  std::optional<std::uint64_t> bytes() const noexcept;
};

/// A tensor of an open file. A value: it may outlive the object that it came from.
struct StoredTensor : TensorShape {
  std::span<const std::uint8_t> data;       // in the mapped file
  std::shared_ptr<const MappedFile> owner;  // keeps the mapping alive
  std::string unknown_dtype;                // the spelling in the file, where dtype is Unknown

  /// "BF16": the spelling in the file.
  std::string type_name() const {
    return dtype == DType::Unknown ? unknown_dtype : std::string(dtype_name(dtype));
  }
};

/// One safetensors file, or the shards of a model, mapped. Files are hostile until every size and offset has
/// been checked: the constructor throws FormatError with the file and the tensor, or IoError. A dtype that nobody
/// knows yet is no error: its tensors are listed.
class Safetensors {
 public:
  using Metadata = std::map<std::string, std::string, std::less<>>;
  static constexpr std::uint64_t max_header_bytes = 100'000'000;  // the limit of the reference implementation

  /// Opens a .safetensors file, a .json index of shards, or a folder with model.safetensors[.index.json]. An index
  /// lists every tensor of its shards; a tensor that two shards have must be the same in both.
  explicit Safetensors(const std::filesystem::path& path);
  explicit Safetensors(std::shared_ptr<const MappedFile> file) {
    add_file(std::move(file), nullptr, nullptr);
  }

  /// In the order of the data, shard after shard.
  const std::vector<StoredTensor>& tensors() const noexcept { return tensors_; }
  /// Metadata of all shards.
  const Metadata& metadata() const noexcept { return metadata_; }
  /// Null if there is no tensor of that name.
  const StoredTensor* find(std::string_view name) const noexcept {
    const auto found = index_.find(name);
    return found == index_.end() ? nullptr : &tensors_[found->second];
  }

 private:
  using Names = std::set<std::string, std::less<>>;

  [[noreturn]] static void fail(const std::string& file, const std::string& what) {
    throw FormatError(file + ": " + what);
  }

  // Adds the tensors of a file; of these only `wanted`, unless that is null. The others go to `others`.
  void add_file(std::shared_ptr<const MappedFile> file, const Names* wanted,
                std::vector<StoredTensor>* others);

  // All but the place of its data.
  static StoredTensor parse_tensor(const std::string& name, const Json& value, const std::string& place);
  static bool is_name_part(char c) noexcept {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' || c == '-';
  }

  // A hint where the weights may be instead.
  static std::string other_files(const std::filesystem::path& folder);

  void add_metadata(const Json& value, const std::string& source);

  // {"metadata": {...}, "weight_map": {"tensor": "model-00001-of-00002.safetensors", ...}}
  void add_index(const std::filesystem::path& path);

  std::vector<StoredTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
  Metadata metadata_;
};

/// Writes a safetensors file whose tensors are declared first, then written in any order and in pieces. The
/// file appears at commit(), complete, and the order of calls does not change its bytes.
class SafetensorsWriter {
 public:
  using Metadata = Safetensors::Metadata;

  /// Lays the tensors out by falling element size, then by name, from a multiple of 64 bytes on: each is
  /// aligned to its elements. Throws InvalidArgument for bad names and shapes, IoError for the machine.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorShape> tensors,
                    Metadata metadata = {}, Leftover leftover = Leftover::Discard)
      : SafetensorsWriter(path, lay_out(std::move(tensors)), std::move(metadata), leftover) {}

  static std::uint64_t padded_header(std::uint64_t json_bytes) noexcept {
    return (8 + json_bytes + 63) / 64 * 64;
  }
  /// The size of the file that a writer of these tensors would make, without making it. Throws InvalidArgument as the
  /// constructor does.
  static std::uint64_t file_bytes(std::vector<TensorShape> tensors, const Metadata& metadata = {}) {
    const Layout layout = lay_out(std::move(tensors));
    return padded_header(make_header(layout, metadata).size()) + layout.bounds.back();
  }

  const std::filesystem::path& path() const noexcept { return file_.path(); }
  std::uint64_t file_bytes() const noexcept { return file_.size(); }
  /// Writes bytes of a tensor from byte `offset` on. Threads may write at once; no byte may be written twice.
  void write(std::string_view name, std::uint64_t offset, std::span<const std::uint8_t> bytes);
  /// Takes a tensor as written, where a killed attempt is continued.
  void assume_written(std::string_view name) {
    Slot& slot = slot_of(name);
    slot.written = slot.bytes;
  }
  /// Whether every byte of a tensor has been written.
  bool complete(std::string_view name) {
    const Slot& slot = slot_of(name);
    return slot.written == slot.bytes;
  }
  /// Replaces a declared value by one that is no longer: the header keeps its size.
  void set_metadata(std::string_view key, std::string value);
  /// Leaves a number in the unfinished file, on the disk when the call returns; commit() overwrites it.
  void mark(std::uint64_t number) {
    file_.write(8, {reinterpret_cast<const std::uint8_t*>(&number), 8});
    file_.sync();
  }
  /// The number that mark() left in the partial file of `path`; none if there is no such file.
  static std::optional<std::uint64_t> mark_of(const std::filesystem::path& path);
  /// Returns when all bytes written so far are on the disk.
  void sync() { file_.sync(); }
  /// Writes the header and gives the file its name.
  void commit();

 private:
  struct Slot {
    Slot(std::uint64_t first, std::uint64_t size) : begin(first), bytes(size) {}
    std::uint64_t begin, bytes;
    std::atomic<std::uint64_t> written{0};
  };
  struct Layout {
    std::vector<TensorShape> tensors;   // in the order of the data
    std::vector<std::uint64_t> bounds;  // tensors.size() + 1 offsets
  };

  SafetensorsWriter(const std::filesystem::path& path, Layout layout, Metadata metadata, Leftover leftover);

  static Layout lay_out(std::vector<TensorShape> tensors);

  static std::string make_header(const Layout& layout, const Metadata& metadata);

  Slot& slot_of(std::string_view name);

  Layout layout_;
  Metadata metadata_;
  std::uint64_t header_bytes_;  // with the 8 of the length; data starts there
  FileWriter file_;
  std::map<std::string, Slot, std::less<>> slots_;
};

#if HIGGS_DEFINITIONS

HIGGS_INLINE std::optional<std::uint64_t> TensorShape::elements() const noexcept {
  std::uint64_t elements = 1;
  bool empty = false;
  for (const std::int64_t extent : shape) {
    if (extent < 0 || static_cast<std::uint64_t>(extent) > (1ull << 56) / elements) return std::nullopt;
    empty = empty || extent == 0;
    elements *= static_cast<std::uint64_t>(std::max<std::int64_t>(extent, 1));
  }
  return empty ? 0 : elements;
}

HIGGS_INLINE std::optional<std::uint64_t> TensorShape::bytes() const noexcept {
  const auto bits = static_cast<std::uint64_t>(dtype_bits(dtype));
  const auto count = elements();
  if (!count || bits == 0 || *count * bits % 8 != 0) return std::nullopt;
  return *count * bits / 8;
}

HIGGS_INLINE Safetensors::Safetensors(const std::filesystem::path& path) {
  std::filesystem::path found = path;
  if (detail::is_folder(path)) {
    found = path / "model.safetensors";
    if (!detail::exists(found)) found = path / "model.safetensors.index.json";
    if (!detail::exists(found))
      detail::throw_io(
          path, "holds neither model.safetensors nor model.safetensors.index.json" + other_files(path), 0);
  }
  if (found.extension() == ".json")
    add_index(found);
  else
    add_file(MappedFile::open(found), nullptr, nullptr);
}

HIGGS_INLINE void Safetensors::add_file(std::shared_ptr<const MappedFile> file, const Names* wanted,
                                        std::vector<StoredTensor>* others) {
  const std::string source = file->path().string();
  const std::span<const std::uint8_t> bytes = file->bytes();
  if (bytes.size() >= 4 && std::memcmp(bytes.data(), "GGUF", 4) == 0)
    fail(source, "is a GGUF file, not a safetensors file");
  // The header is a JSON object, and its length no text.
  if (bytes.size() < 9 || bytes[8] != '{' || detail::is_text(bytes.first(8)))
    fail(source, detail::describe_foreign(bytes));
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  if (length > max_header_bytes || length > bytes.size() - 8)
    fail(source, "a header of " + std::to_string(length) + " bytes does not fit into " +
                     std::to_string(bytes.size()) + " bytes: the file is cut short or damaged");
  const auto header_bytes = bytes.subspan(8, length);
  const auto data = bytes.subspan(8 + length);
  const std::string_view text(reinterpret_cast<const char*>(header_bytes.data()), header_bytes.size());
  const Json header = Json::parse(text, source, Json::Duplicates::Refuse);
  if (!header.object()) fail(source, "the header is not a JSON object");

  struct Placed {
    StoredTensor tensor;
    std::uint64_t begin, end;
  };
  std::vector<Placed> placed;
  for (const auto& [name, value] : *header.object()) {
    if (name == "__metadata__") {
      add_metadata(value, source);
      continue;
    }
    const std::string place = source + ": tensor \"" + name + "\"";
    StoredTensor tensor = parse_tensor(name, value, place);
    tensor.owner = file;
    const Json* offsets = value.find("data_offsets");
    if (!offsets || !offsets->array() || offsets->array()->size() != 2)
      fail(place, "data_offsets must be two numbers");
    const auto begin = (*offsets->array())[0].natural(), end = (*offsets->array())[1].natural();
    if (!begin || !end || *begin > *end || *end > data.size())
      fail(place, "data_offsets lie outside the file, which may be cut short: it has " +
                      std::to_string(data.size()) + " bytes of data");
    if (tensor.dtype != DType::Unknown && tensor.bytes() != *end - *begin)
      fail(place, "data_offsets do not match dtype and shape");
    tensor.data = data.subspan(*begin, *end - *begin);
    placed.push_back({std::move(tensor), *begin, *end});
  }
  std::sort(placed.begin(), placed.end(), [](const Placed& a, const Placed& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  std::uint64_t at = 0;
  for (Placed& each : placed) {
    if (each.begin != at)
      fail(source + ": tensor \"" + each.tensor.name + "\"", "overlaps another or leaves a gap");
    at = each.end;
    if (wanted && !wanted->contains(each.tensor.name)) {
      others->push_back(std::move(each.tensor));
      continue;
    }
    index_.emplace(each.tensor.name, tensors_.size());
    tensors_.push_back(std::move(each.tensor));
  }
  if (at != data.size()) fail(source, "the file is longer than its tensors");
}

HIGGS_INLINE StoredTensor Safetensors::parse_tensor(const std::string& name, const Json& value,
                                                    const std::string& place) {
  const Json* dtype = value.find("dtype");
  const Json* shape = value.find("shape");
  if (!dtype || !dtype->string()) fail(place, "has no dtype");
  if (!shape || !shape->array()) fail(place, "has no shape");
  const std::string& spelling = *dtype->string();
  StoredTensor out;
  out.name = name;
  out.dtype = dtype_named(spelling).value_or(DType::Unknown);
  if (out.dtype == DType::Unknown) {
    if (spelling.empty() || spelling.size() > 32 ||
        !std::all_of(spelling.begin(), spelling.end(), is_name_part))
      fail(place, "the dtype is no name");
    out.unknown_dtype = spelling;
  }
  for (const Json& extent : *shape->array()) {
    if (!extent.integer()) fail(place, "a dimension is not an integer below 2^63");
    out.shape.push_back(*extent.integer());
  }
  if (!out.elements()) fail(place, "the shape is negative or too large");
  if (out.dtype != DType::Unknown && !out.bytes()) fail(place, "the shape is no whole number of bytes");
  return out;
}

HIGGS_INLINE std::string Safetensors::other_files(const std::filesystem::path& folder) {
  std::error_code ignored;
  std::string first;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string(), kind = entry.path().extension().string();
    if ((kind == ".safetensors" || kind == ".gguf" || kind == ".bin" || kind == ".pt" || kind == ".pth") &&
        (first.empty() || name < first))
      first = name;
  }
  if (first.empty()) return "";
  if (first.find("-of-") != first.npos) return ", but " + first + ": the index of its shards is missing";
  const bool weights = first.ends_with(".safetensors") || first.ends_with(".gguf");
  return ", but " + first +
         (weights ? ": name that file" : ", a file of PyTorch: save the model as safetensors");
}

HIGGS_INLINE void Safetensors::add_metadata(const Json& value, const std::string& source) {
  if (!value.object()) fail(source, "__metadata__ is not an object");
  for (const auto& [key, text] : *value.object()) {
    if (!text.string()) fail(source, "__metadata__ \"" + key + "\" is not a string");
    metadata_.insert_or_assign(key, *text.string());
  }
}

HIGGS_INLINE void Safetensors::add_index(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  const std::string source = path.string();
  const std::string_view text(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
  if (!text.starts_with("{")) fail(source, detail::describe_foreign(file->bytes()));
  const Json index = Json::parse(text, source, Json::Duplicates::Refuse);
  const Json* map = index.find("weight_map");
  if (!map || !map->object()) fail(source, "is no index of safetensors files: it has no \"weight_map\"");
  std::map<std::string, Names> shards;
  for (const auto& [tensor, shard] : *map->object()) {
    const std::string* name = shard.string();
    // A shard lies beside its index: nothing may lead out of the folder.
    if (!name || name->empty() || *name == "." || *name == ".." ||
        name->find_first_of(std::string_view("/\\:\0", 4)) != name->npos)
      fail(source, "tensor \"" + tensor + "\" must name a file in the same folder");
    shards[*name].insert(tensor);
  }
  std::vector<StoredTensor> others;
  for (const auto& [name, tensors] : shards) {
    const std::filesystem::path shard = path.parent_path() / name;
    if (!detail::exists(shard))
      detail::throw_io(
          shard, "is missing: " + source + " says that it holds tensor \"" + *tensors.begin() + "\"", 0);
    add_file(MappedFile::open(shard), &tensors, &others);
    for (const std::string& tensor : tensors)
      if (!find(tensor)) fail(source, "tensor \"" + tensor + "\" is not in " + name + ", as it says");
  }
  // Other readers take all tensors of the shards: what the index says nothing about might be used there.
  for (const StoredTensor& other : others) {
    const std::string place = other.owner->path().string() + ": tensor \"" + other.name + "\"";
    const StoredTensor* listed = find(other.name);
    if (!listed) fail(place, "is not listed by " + source + ", which may be of another model");
    const bool same = other.type_name() == listed->type_name() && other.shape == listed->shape &&
                      std::ranges::equal(other.data, listed->data);
    if (!same) fail(place, "differs from the one in " + listed->owner->path().string());
  }
}

HIGGS_INLINE void SafetensorsWriter::write(std::string_view name, std::uint64_t offset,
                                           std::span<const std::uint8_t> bytes) {
  Slot& slot = slot_of(name);
  expects(offset <= slot.bytes && bytes.size() <= slot.bytes - offset,
          "higgs::SafetensorsWriter::write: the bytes must lie within the tensor");
  file_.write(header_bytes_ + slot.begin + offset, bytes);
  slot.written += bytes.size();
}

HIGGS_INLINE void SafetensorsWriter::set_metadata(std::string_view key, std::string value) {
  const auto found = metadata_.find(key);
  expects(found != metadata_.end(),
          "higgs::SafetensorsWriter::set_metadata: the key must have been declared");
  found->second = std::move(value);
}

HIGGS_INLINE std::optional<std::uint64_t> SafetensorsWriter::mark_of(const std::filesystem::path& path) {
  std::uint64_t words[2];
  std::ifstream file(FileWriter::partial_path(path), std::ios::binary);
  if (!file.read(reinterpret_cast<char*>(words), sizeof words)) return std::nullopt;
  return words[1];
}

HIGGS_INLINE void SafetensorsWriter::commit() {
  for (const auto& [name, slot] : slots_)
    expects(slot.written == slot.bytes,
            "higgs::SafetensorsWriter::commit: every byte must have been written once");
  std::string header = make_header(layout_, metadata_);
  expects(padded_header(header.size()) <= header_bytes_,
          "higgs::SafetensorsWriter::commit: metadata must not have grown");
  header.resize(header_bytes_ - 8, ' ');
  const std::uint64_t length = header.size();
  file_.write(8, {reinterpret_cast<const std::uint8_t*>(header.data()), header.size()});
  file_.write(0, {reinterpret_cast<const std::uint8_t*>(&length), 8});
  file_.commit();
}

HIGGS_INLINE SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, Layout layout,
                                                  Metadata metadata, Leftover leftover)
    : layout_(std::move(layout)),
      metadata_(std::move(metadata)),
      header_bytes_(padded_header(make_header(layout_, metadata_).size())),
      file_(path, header_bytes_ + layout_.bounds.back(), leftover) {
  expects(header_bytes_ - 8 <= Safetensors::max_header_bytes,
          "higgs::SafetensorsWriter: the header is too large");
  for (std::size_t i = 0; i < layout_.tensors.size(); ++i)
    slots_.try_emplace(layout_.tensors[i].name, layout_.bounds[i], layout_.bounds[i + 1] - layout_.bounds[i]);
}

HIGGS_INLINE SafetensorsWriter::Layout SafetensorsWriter::lay_out(std::vector<TensorShape> tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorShape& a, const TensorShape& b) {
    return dtype_bits(a.dtype) != dtype_bits(b.dtype) ? dtype_bits(a.dtype) > dtype_bits(b.dtype)
                                                      : a.name < b.name;
  });
  std::set<std::string_view> names{"__metadata__"};
  Layout layout{{}, {0}};
  for (const TensorShape& tensor : tensors) {
    expects(names.insert(tensor.name).second,
            "higgs::SafetensorsWriter: names must differ, also from __metadata__");
    const auto bytes = tensor.bytes();
    expects(
        bytes && *bytes <= static_cast<std::uint64_t>(INT64_MAX) / 2 - layout.bounds.back(),
        "higgs::SafetensorsWriter: a dtype is unknown, a shape is negative or no whole number of bytes, or "
        "the file is too large");
    layout.bounds.push_back(layout.bounds.back() + *bytes);
  }
  layout.tensors = std::move(tensors);
  return layout;
}

HIGGS_INLINE std::string SafetensorsWriter::make_header(const Layout& layout, const Metadata& metadata) {
  std::string out = "{";
  const auto separate = [&] { out += out.back() == '{' ? "" : ","; };
  if (!metadata.empty()) {
    out += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      separate();
      out += detail::json_quote(key) + ":" + detail::json_quote(value);
    }
    out += "}";
  }
  for (std::size_t i = 0; i < layout.tensors.size(); ++i) {
    const TensorShape& tensor = layout.tensors[i];
    separate();
    out += detail::json_quote(tensor.name) + ":{\"dtype\":\"" + std::string(dtype_name(tensor.dtype)) +
           "\",\"shape\":[";
    for (const std::int64_t extent : tensor.shape)
      out.append(out.back() == '[' ? "" : ",").append(std::to_string(extent));
    out += "],\"data_offsets\":[" + std::to_string(layout.bounds[i]) + "," +
           std::to_string(layout.bounds[i + 1]) + "]}";
  }
  return out + "}";
}

HIGGS_INLINE SafetensorsWriter::Slot& SafetensorsWriter::slot_of(std::string_view name) {
  const auto found = slots_.find(name);
  expects(found != slots_.end(), "higgs::SafetensorsWriter: a tensor must be declared before it is written");
  return found->second;
}

#endif

}  // namespace v0
}  // namespace higgs
