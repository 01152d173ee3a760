// SPDX-License-Identifier: Apache-2.0
// The GGUF format, versions 2 and 3 (https://github.com/ggml-org/ggml, docs/gguf.md), for reading.
//
//     | "GGUF" | u32 version | u64 tensors | u64 values | values: key, type, value
//     | tensors: name, extents, type, offset | padding to general.alignment
//     | data: offsets count from here, each padded likewise |
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/store/block_format.hpp>
#include <higgs/store/mapped_file.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace higgs {
inline namespace v0 {

class GgufArray;
/// A metadata value; every integer type widens to 64 bits and f32 to double. Texts are views into the file.
using GgufValue = std::variant<bool, std::uint64_t, std::int64_t, double, std::string_view, GgufArray>;

/// A metadata array, read in place: one element at a time.
class GgufArray {
 public:
  GgufArray(std::uint32_t type, std::span<const std::uint8_t> elements, std::vector<std::uint64_t> starts,
            std::vector<GgufArray> nested, std::uint64_t size) noexcept
      : type_(type),
        elements_(elements),
        starts_(std::move(starts)),
        nested_(std::move(nested)),
        size_(size) {}
  std::uint64_t size() const noexcept { return size_; }
  /// Throws InvalidArgument unless index < size().
  GgufValue operator[](std::uint64_t index) const;

 private:
  std::uint32_t type_;
  std::span<const std::uint8_t> elements_;
  std::vector<std::uint64_t> starts_;  // first byte of each text
  std::vector<GgufArray> nested_;
  std::uint64_t size_;
};

namespace detail {

// The names of tensor types by number. Those that block_format.hpp has not are gone from ggml, or (Q8_1) never stored
// and of disputed size.
// clang-format off
inline constexpr std::array<std::string_view, 42> gguf_types{
    "F32", "F16", "Q4_0", "Q4_1", "Q4_2", "Q4_3", "Q5_0", "Q5_1", "Q8_0", "Q8_1",
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S",
    "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M",
    "BF16", "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "TQ1_0", "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4",
    "NVFP4", "Q1_0"};
// clang-format on

inline const BlockFormat* gguf_format(std::uint32_t id) noexcept {
  return id < gguf_types.size() ? block_format_named(gguf_types[id]) : nullptr;
}

template <class T>
T gguf_load(const std::uint8_t* at) noexcept {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// Metadata types by number: u8 i8 u16 i16 u32 i32 f32 bool text array u64 i64 f64.
inline constexpr std::array<std::uint8_t, 13> gguf_value_bytes{1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
inline constexpr std::uint32_t gguf_text = 8, gguf_array = 9;

// A value of fixed size.
HIGGS_INLINE GgufValue gguf_scalar(std::uint32_t type, const std::uint8_t* at);

}  // namespace detail

/// A tensor of an open GGUF file. A value: it may outlive the object that it came from.
struct GgufTensor {
  std::string name;
  std::vector<std::int64_t> shape;      // slowest extent first: (rows, cols) of a matrix
  std::uint32_t type = 0;               // the number in the file
  const BlockFormat* format = nullptr;  // null if the size of the type is unknown
  std::span<const std::uint8_t> data;   // in the mapped file; up to the next tensor if the size is unknown
  std::shared_ptr<const MappedFile> owner;

  /// "Q4_K", or "type 99" if unknown.
  std::string type_name() const {
    return type < detail::gguf_types.size() ? std::string(detail::gguf_types[type])
                                            : "type " + std::to_string(type);
  }
};

/// A mapped GGUF file. Files are hostile until every count and offset has been checked: the constructor
/// throws FormatError with the file and what is wrong at which byte or tensor, or IoError.
class GgufFile {
 public:
  using Metadata = std::map<std::string, GgufValue, std::less<>>;

  explicit GgufFile(const std::filesystem::path& path) : GgufFile(MappedFile::open(path)) {}
  explicit GgufFile(std::shared_ptr<const MappedFile> file) : file_(std::move(file)) { read(); }

  static bool has_magic(std::span<const std::uint8_t> bytes) noexcept {
    return bytes.size() >= 4 && std::memcmp(bytes.data(), "GGUF", 4) == 0;
  }

  /// The file at `path` and, if that is a part of a split model (metadata split.count), all parts in their
  /// order: they lie in one folder and are called NAME-00001-of-00002.gguf. Throws FormatError or IoError,
  /// which names the part that is missing or does not belong.
  static std::vector<GgufFile> open_parts(const std::filesystem::path& path) {
    return open_parts(MappedFile::open(path));
  }
  static std::vector<GgufFile> open_parts(std::shared_ptr<const MappedFile> file);

  const std::filesystem::path& path() const noexcept { return file_->path(); }
  std::uint32_t version() const noexcept { return version_; }
  /// In the order of the file.
  const std::vector<GgufTensor>& tensors() const noexcept { return tensors_; }
  const GgufTensor* find(std::string_view name) const noexcept {
    const auto found = index_.find(name);
    return found == index_.end() ? nullptr : &tensors_[found->second];
  }
  /// Views into the file, valid while this object (or any tensor's owner) lives.
  const Metadata& metadata() const noexcept { return metadata_; }
  /// Null if there is no value of that key.
  const GgufValue* value(std::string_view key) const noexcept {
    const auto found = metadata_.find(key);
    return found == metadata_.end() ? nullptr : &found->second;
  }

 private:
  // No model comes near these; they bound the memory that a hostile file can ask for.
  static constexpr std::uint64_t max_entries = 1u << 20;
  static constexpr std::uint64_t max_elements = 1ull << 59;
  static constexpr int max_depth = 4;

  [[noreturn]] void fail(const std::string& what) const {
    throw FormatError(file_->path().string() + ": " + what);
  }
  [[noreturn]] void fail_here(const std::string& what) const {
    fail(what + " at byte " + std::to_string(at_));
  }

  // A whole number of the metadata, `otherwise` if there is none of that key.
  std::uint64_t natural(std::string_view key, std::uint64_t otherwise) const;
  // How the name of part `number` of `count` ends: "-00001-of-00002.gguf" for number 0.
  static std::string part_ending(std::uint64_t number, std::uint64_t count);

  std::span<const std::uint8_t> rest() const noexcept { return file_->bytes().subspan(at_); }
  std::span<const std::uint8_t> take(std::uint64_t count);
  template <class T>
  T number() {
    return detail::gguf_load<T>(take(sizeof(T)).data());
  }
  std::string_view text() {
    const auto bytes = take(number<std::uint64_t>());
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  // A count of things that take at least `bytes` each; the file cannot hold more than its size allows.
  std::uint64_t count_of(std::uint64_t bytes);

  GgufValue read_value(std::uint32_t type, int depth);

  GgufArray read_array(int depth);

  void read();

  // Reads one entry of the list of tensors; returns the offset of its data.
  std::uint64_t read_tensor();

  // Gives every tensor its bytes of `data`; no two may share any.
  void place(const std::vector<std::uint64_t>& offsets, std::span<const std::uint8_t> data,
             std::uint64_t alignment);
  [[noreturn]] void fail_outside(const GgufTensor& tensor, std::uint64_t end, std::size_t size) const {
    fail("tensor \"" + tensor.name + "\": lies outside the file, which may be cut short: it needs " +
         std::to_string(end) + " bytes of data, and there are " + std::to_string(size));
  }

  std::shared_ptr<const MappedFile> file_;
  std::size_t at_ = 0;
  std::uint64_t arrays_ = 0;
  std::uint32_t version_ = 0;
  Metadata metadata_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
};

#if HIGGS_DEFINITIONS

namespace detail {

HIGGS_INLINE GgufValue gguf_scalar(std::uint32_t type, const std::uint8_t* at) {
  switch (type) {
    case 0:
      return std::uint64_t{*at};
    case 1:
      return std::int64_t{static_cast<std::int8_t>(*at)};
    case 2:
      return std::uint64_t{gguf_load<std::uint16_t>(at)};
    case 3:
      return std::int64_t{gguf_load<std::int16_t>(at)};
    case 4:
      return std::uint64_t{gguf_load<std::uint32_t>(at)};
    case 5:
      return std::int64_t{gguf_load<std::int32_t>(at)};
    case 6:
      return static_cast<double>(gguf_load<float>(at));
    case 7:
      return *at != 0;
    case 10:
      return gguf_load<std::uint64_t>(at);
    case 11:
      return gguf_load<std::int64_t>(at);
    default:
      return gguf_load<double>(at);
  }
}

}  // namespace detail

HIGGS_INLINE GgufValue GgufArray::operator[](std::uint64_t index) const {
  expects(index < size_, "higgs::GgufArray: index must be below size()");
  const std::size_t i = index;
  if (type_ == detail::gguf_array) return nested_[i];
  if (type_ != detail::gguf_text)
    return detail::gguf_scalar(type_, &elements_[i * detail::gguf_value_bytes[type_]]);
  const std::uint8_t* text = &elements_[static_cast<std::size_t>(starts_[i])];
  return std::string_view(reinterpret_cast<const char*>(text + 8), detail::gguf_load<std::uint64_t>(text));
}

HIGGS_INLINE std::uint64_t GgufFile::natural(std::string_view key, std::uint64_t otherwise) const {
  const GgufValue* found = value(key);
  if (!found) return otherwise;
  if (const auto* number = std::get_if<std::uint64_t>(found)) return *number;
  const auto* number = std::get_if<std::int64_t>(found);
  if (!number || *number < 0) fail(std::string(key) + " must be a whole number, not negative");
  return static_cast<std::uint64_t>(*number);
}

HIGGS_INLINE std::string GgufFile::part_ending(std::uint64_t number, std::uint64_t count) {
  char text[64];
  std::snprintf(text, sizeof text, "-%05llu-of-%05llu.gguf", static_cast<unsigned long long>(number) + 1,
                static_cast<unsigned long long>(count));
  return text;
}

HIGGS_INLINE std::span<const std::uint8_t> GgufFile::take(std::uint64_t count) {
  if (count > rest().size()) fail_here("the file ends early: " + std::to_string(count) + " bytes expected");
  const auto bytes = rest().first(count);
  at_ += bytes.size();
  return bytes;
}

HIGGS_INLINE std::uint64_t GgufFile::count_of(std::uint64_t bytes) {
  const auto count = number<std::uint64_t>();
  if (count > rest().size() / bytes)
    fail_here("the file is too short for a count of " + std::to_string(count));
  return count;
}

HIGGS_INLINE GgufValue GgufFile::read_value(std::uint32_t type, int depth) {
  if (type >= detail::gguf_value_bytes.size()) fail_here("unknown metadata type " + std::to_string(type));
  if (type == detail::gguf_text) return text();
  if (type == detail::gguf_array) return read_array(depth + 1);
  return detail::gguf_scalar(type, take(detail::gguf_value_bytes[type]).data());
}

HIGGS_INLINE GgufArray GgufFile::read_array(int depth) {
  if (depth > max_depth) fail_here("arrays nest too deeply");
  if (++arrays_ > max_entries) fail_here("too many arrays");
  const auto type = number<std::uint32_t>();
  if (type >= detail::gguf_value_bytes.size()) fail_here("unknown metadata type " + std::to_string(type));
  const std::uint64_t bytes = detail::gguf_value_bytes[type];
  const std::uint64_t size = count_of(bytes != 0 ? bytes : type == detail::gguf_text ? 8 : 12);
  if (bytes != 0) return {type, take(bytes * size), {}, {}, size};
  std::vector<std::uint64_t> starts;
  std::vector<GgufArray> nested;
  const std::size_t begin = at_;
  for (std::uint64_t i = 0; i < size; ++i) {
    if (type == detail::gguf_array) {
      nested.push_back(read_array(depth + 1));
    } else {
      starts.push_back(at_ - begin);
      text();
    }
  }
  return {type, file_->bytes().subspan(begin, at_ - begin), std::move(starts), std::move(nested), size};
}

HIGGS_INLINE void GgufFile::read() {
  if (!has_magic(file_->bytes())) {
    const auto bytes = file_->bytes();
    const bool safetensors = bytes.size() > 8 && bytes[8] == '{' && !detail::is_text(bytes.first(8));
    fail(safetensors ? "is a safetensors file, not a GGUF file" : detail::describe_foreign(bytes));
  }
  at_ = 4;
  version_ = number<std::uint32_t>();
  if (version_ == 0x02000000 || version_ == 0x03000000) fail("big-endian GGUF files are not supported");
  if (version_ != 2 && version_ != 3) fail("GGUF version " + std::to_string(version_) + " is not supported");
  const std::uint64_t tensors = count_of(24);
  const std::uint64_t values = count_of(13);
  if (tensors > max_entries || values > max_entries) fail_here("too many tensors or metadata values");
  for (std::uint64_t i = 0; i < values; ++i) {
    const std::string key(text());
    const auto type = number<std::uint32_t>();
    if (!metadata_.try_emplace(key, read_value(type, 0)).second)
      fail_here("duplicate metadata key \"" + key + "\"");
  }
  std::uint64_t alignment = 32;
  if (const GgufValue* wanted = value("general.alignment")) {
    const auto* number = std::get_if<std::uint64_t>(wanted);
    if (!number || *number > (1u << 30) || !std::has_single_bit(*number))
      fail("general.alignment must be a power of two");
    alignment = *number;
  }
  std::vector<std::uint64_t> offsets;
  for (std::uint64_t i = 0; i < tensors; ++i) offsets.push_back(read_tensor());
  const std::uint64_t size = file_->bytes().size();
  const std::uint64_t data = std::min((at_ + alignment - 1) / alignment * alignment, size);
  place(offsets, file_->bytes().subspan(static_cast<std::size_t>(data)), alignment);
}

HIGGS_INLINE std::uint64_t GgufFile::read_tensor() {
  GgufTensor tensor;
  tensor.name = std::string(text());
  tensor.owner = file_;
  const auto extents = number<std::uint32_t>();
  if (extents > 4) fail_here("tensor \"" + tensor.name + "\": more than four extents");
  std::uint64_t elements = 1;  // an extent of zero does not excuse the others
  for (std::uint32_t i = 0; i < extents; ++i) {
    const auto extent = number<std::uint64_t>();
    if (extent > max_elements || (extent != 0 && elements > max_elements / extent))
      fail_here("tensor \"" + tensor.name + "\": the extents are too large");
    elements *= std::max<std::uint64_t>(extent, 1);
    tensor.shape.insert(tensor.shape.begin(), static_cast<std::int64_t>(extent));
  }
  tensor.type = number<std::uint32_t>();
  tensor.format = detail::gguf_format(tensor.type);
  if (tensor.format && matrix_cols(tensor.shape) % tensor.format->block != 0)
    fail_here("tensor \"" + tensor.name + "\": rows must be whole blocks of " + tensor.type_name());
  if (!index_.try_emplace(tensor.name, tensors_.size()).second)
    fail_here("duplicate tensor \"" + tensor.name + "\"");
  tensors_.push_back(std::move(tensor));
  return number<std::uint64_t>();
}

HIGGS_INLINE void GgufFile::place(const std::vector<std::uint64_t>& offsets,
                                  std::span<const std::uint8_t> data, std::uint64_t alignment) {
  constexpr std::uint64_t up_to_the_next = UINT64_MAX;
  std::vector<std::size_t> order(offsets.size());
  std::vector<std::uint64_t> bytes(offsets.size());  // below 8 * max_elements: they cannot overflow
  for (std::size_t i = 0; i < order.size(); ++i) {
    const GgufTensor& tensor = tensors_[i];
    const std::int64_t rows = matrix_rows(tensor.shape), cols = matrix_cols(tensor.shape);
    if (tensor.format)
      bytes[i] = static_cast<std::uint64_t>(rows * tensor.format->row_bytes(cols));
    else if (rows * cols != 0)
      bytes[i] = up_to_the_next;
    if (offsets[i] % alignment != 0) fail("tensor \"" + tensor.name + "\": the offset is not aligned");
    if (offsets[i] > data.size()) fail_outside(tensor, offsets[i], data.size());
    order[i] = i;
  }
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return offsets[a] != offsets[b] ? offsets[a] < offsets[b] : bytes[a] < bytes[b];
  });
  for (std::size_t place = 0; place < order.size(); ++place) {
    const std::size_t i = order[place];
    const std::uint64_t next = place + 1 < order.size() ? offsets[order[place + 1]] : data.size();
    if (bytes[i] == up_to_the_next) bytes[i] = std::max<std::uint64_t>(next - offsets[i], 1);
    if (bytes[i] > data.size() - offsets[i]) fail_outside(tensors_[i], offsets[i] + bytes[i], data.size());
    if (place + 1 < order.size() && offsets[i] + bytes[i] > next)
      fail("tensor \"" + tensors_[order[place + 1]].name + "\": overlaps \"" + tensors_[i].name + "\"");
    tensors_[i].data = data.subspan(offsets[i], bytes[i]);
  }
}

HIGGS_INLINE std::vector<GgufFile> GgufFile::open_parts(std::shared_ptr<const MappedFile> file) {
  GgufFile given(std::move(file));
  std::vector<GgufFile> parts;
  const std::uint64_t count = given.natural("split.count", 1), number = given.natural("split.no", 0);
  if (count <= 1) {
    parts.push_back(std::move(given));
    return parts;
  }
  if (number >= count)
    given.fail("split.no is " + std::to_string(number) + ", but split.count is " + std::to_string(count));
  const std::string name = given.path().filename().string(), ending = part_ending(number, count);
  if (!name.ends_with(ending))
    given.fail("is a part of a split model, so its name must end in \"" + ending +
               "\" for the other parts to be found");
  const std::string stem = name.substr(0, name.size() - ending.size());
  std::size_t tensors = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::filesystem::path path = given.path().parent_path() / (stem + part_ending(i, count));
    if (i != number && !detail::exists(path))
      detail::throw_io(path, "is missing, a part of the model that " + name + " belongs to", 0);
    parts.push_back(i == number ? given : GgufFile(path));
    if (parts.back().natural("split.count", 1) != count || parts.back().natural("split.no", 0) != i)
      parts.back().fail("is not part " + std::to_string(i + 1) + " of " + std::to_string(count) +
                        ", as its name says: split.no and split.count differ");
    tensors += parts.back().tensors().size();
  }
  if (const std::uint64_t wanted = given.natural("split.tensors.count", tensors); wanted != tensors)
    given.fail("split.tensors.count is " + std::to_string(wanted) + ", but the parts hold " +
               std::to_string(tensors) + " tensors");
  return parts;
}

#endif

}  // namespace v0
}  // namespace higgs
