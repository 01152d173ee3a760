// SPDX-License-Identifier: Apache-2.0
// A higgs checkpoint: safetensors with three or four tensors for each quantized layer, and a line of metadata that says
// how they were cut. Other tensors keep their names. docs/format.md has the complete format.
//
//     const auto checkpoint = higgs::Checkpoint::open("model.safetensors");
//     const higgs::PackedMatrix w(checkpoint.load("layers.0.q_proj.weight"));
//
//     NAME.codes         U8         (rows, row_bytes)  row-major symbols, little-endian bits, see pack/bits.hpp
//     NAME.scales        F16        (rows, groups)     U8 with "scales":"log8", see core/scale_format.hpp
//     NAME.codebook      I8 or I16  (size, dim)        the points; (0, dim) where the name says all: "e8"
//     NAME.input_scales  F16        (cols)             only with "input_scales":true
//     __metadata__       "format": "higgs", "higgs.version": "1", "higgs.layer.NAME": {"codebook": "2x256", ...}
#pragma once

#include <higgs/codes/registry.hpp>
#include <higgs/core/code.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/scale_format.hpp>
#include <higgs/pack/bits.hpp>
#include <higgs/store/quantized_matrix.hpp>
#include <higgs/store/safetensors.hpp>

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#if HIGGS_DEFINITIONS
#  include <higgs/store/json.hpp>

#  include <charconv>
#  include <cmath>
#  include <functional>
#  include <set>
#endif

namespace higgs {
inline namespace v0 {

/// The metadata of one quantized layer.
struct CheckpointLayer {
  std::string name;      // name of the original tensor
  std::string codebook;  // "2x256"
  CodeLayout layout;
  std::optional<std::uint64_t> seed;  // seed of the random signs; none: rotated without signs
  std::string dtype;                  // dtype of the original weights, "BF16"
  int exponent = 0;                   // weight = 2^exponent * scale * coordinate
  // As in QuantizedMatrix, NaN if unknown.
  double t2 = std::numeric_limits<double>::quiet_NaN();
  double weight_error = std::numeric_limits<double>::quiet_NaN();
  double step = 0;  // step and mse of the code, see Codebook
  double mse = 0;
  /// Whether the code is one of shipped_code_names(). If not, only Checkpoint::load<C>(name) reads the layer.
  bool shipped = true;
};

/// A checkpoint open for reading. Files are hostile until checked: open() and load() throw FormatError that names the
/// file and the layer, or IoError. A layer with an unknown code hinders no other layer.
class Checkpoint {
 public:
  /// Opens a file, a .json index of shards, or a folder with model.safetensors[.index.json]. Cheap: reads headers.
  static Checkpoint open(const std::filesystem::path& path);

  /// Whether the file claims to be a higgs checkpoint.
  static bool recognizes(const Safetensors& file);

  /// `source` names the file in messages.
  Checkpoint(Safetensors file, std::string source);

  /// Sorted by name.
  const std::vector<CheckpointLayer>& layers() const noexcept { return layers_; }
  /// Null if no layer has that name.
  const CheckpointLayer* find_layer(std::string_view name) const noexcept;
  /// The tensors that belong to no layer.
  const std::vector<StoredTensor>& tensors() const noexcept { return tensors_; }
  /// Everything, as safetensors.
  const Safetensors& file() const noexcept { return file_; }

  /// The layer of that name, in the mapped file: only the table of points is copied. Reads and checks the scales.
  /// Throws FormatError for a code that does not ship.
  template <std::same_as<AnyQuantizedMatrix> Any = AnyQuantizedMatrix>
  Any load(std::string_view name) const {
    return load_any<Any>(name);  // nvcc 13 takes no default of a template parameter outside the class
  }

  /// The same for a code whose type the program has: a table of points comes from the file. Symbols that stand for no
  /// point are refused. Throws InvalidArgument if the layer has a code of another name.
  template <Code C>
  QuantizedMatrix<C> load(std::string_view name) const;

 private:
  template <class Any>
  Any load_any(std::string_view name) const;
  [[noreturn]] void fail(std::string_view layer, const std::string& what) const {
    throw FormatError(source_ + ": layer \"" + std::string(layer) + "\": " + what);
  }
  const CheckpointLayer& layer_named(std::string_view name) const;
  // Returns the names of the layer's tensors.
  std::vector<std::string> add_layer(std::string name, std::string_view text);
  template <Code C>
  void check_tensors(const CheckpointLayer& layer) const;
  // Refuses symbols from C::size on, which stand for no point.
  template <Code C>
  void check_codes(const CheckpointLayer& layer, const QuantizedMatrix<C>& w) const;
  template <Code C>
  QuantizedMatrix<C> load_as(const CheckpointLayer& layer) const;
  template <Code C>
  C load_code(const CheckpointLayer& layer) const;
  // In the mapped file, or copied if another program wrote them to an odd address; `owner` keeps both alive.
  std::span<const Half> load_scales(const CheckpointLayer& layer, const std::string& part,
                                    std::shared_ptr<const void>& owner) const;
  // The fp16 numbers that 8-bit scales stand for; `owner` keeps them alive too.
  std::span<const Half> expand_scales(const CheckpointLayer& layer, std::shared_ptr<const void>& owner) const;
  // Makes `owner` keep these scales alive beside the memory that it kept before.
  static std::span<const Half> keep(std::vector<Half> scales, std::shared_ptr<const void>& owner);

  Safetensors file_;
  std::string source_;
  std::vector<CheckpointLayer> layers_;
  std::vector<StoredTensor> tensors_;
};

// Implementation.

namespace detail {

inline constexpr int checkpoint_version = 1;
inline constexpr std::int64_t max_extent = std::int64_t{1} << 48;  // keeps the sizes of a row far below 2^63
inline constexpr std::string_view layer_key = "higgs.layer.";
// Covers every float: the scales of weights of 2^-149 sit near 2^-163, those of 2^127 below 2^127.
inline constexpr int min_exponent = -200, max_exponent = 127;

/// One line of JSON.
HIGGS_INLINE std::string to_json(const CheckpointLayer& layer);
/// Throws FormatError; `place` names the file and the layer.
HIGGS_INLINE CheckpointLayer parse_layer(std::string name, std::string_view text, const std::string& place);

/// The code whose points a file repeats: the digits of a RadixCodebook, else the code itself.
template <Code C>
constexpr const auto& stored_code(const C& code) noexcept {
  if constexpr (requires { typename C::Digit; })
    return code.digit();
  else
    return code;
}
template <Code C>
using StoredCode = std::remove_cvref_t<decltype(stored_code(std::declval<const C&>()))>;

/// How many points a file repeats: those of a code with a table (C::Points), and of any codebook of up to 256 points. The
/// name says all of any other code.
template <Code C>
constexpr std::int64_t count_stored_points() noexcept {
  if constexpr (requires { typename C::Points; })
    return C::size;
  else if constexpr (Codebook<C>)
    return C::size <= 256 ? C::size : 0;
  else
    return 0;
}
template <Code C>
inline constexpr std::int64_t stored_points = count_stored_points<C>();

template <Code C>
std::vector<typename C::Element> points_of(const C& code) {
  std::vector<typename C::Element> out;
  using Stored = StoredCode<C>;
  if constexpr (ChainCode<Stored> && stored_points<Stored> > 0) {
    for (const auto& point : stored_code(code).points()) out.insert(out.end(), point.begin(), point.end());
  } else if constexpr (stored_points<Stored> > 0) {
    for (std::int64_t i = 0; i < stored_points<Stored>; ++i)
      for (const auto coordinate : stored_code(code).decode(static_cast<SymbolOf<Stored>>(i)))
        out.push_back(coordinate);
  }
  return out;
}

// The tensors of a layer: codes, scales, codebook, and input scales if there are any.
template <Code C>
std::vector<TensorShape> shapes_of(const std::string& name, const CodeLayout& layout) {
  const DType element = sizeof(typename C::Element) == 1 ? DType::I8 : DType::I16;
  std::vector<TensorShape> out{
      {name + ".codes", DType::U8, {layout.rows, layout.row_bytes(C::dim, code_bits<C>)}},
      {name + ".scales",
       layout.scale_format == ScaleFormat::Log8 ? DType::U8 : DType::F16,
       {layout.rows, layout.groups()}},
      {name + ".codebook", element, {stored_points<StoredCode<C>>, StoredCode<C>::dim}}};
  if (layout.input_scales) out.push_back({name + ".input_scales", DType::F16, {layout.cols}});
  return out;
}

inline bool all_finite(std::span<const Half> scales) noexcept {
  return std::all_of(scales.begin(), scales.end(),
                     [](Half scale) { return (scale.bits & 0x7c00) != 0x7c00; });
}

template <class T>
std::span<const std::uint8_t> bytes_of(std::span<const T> values) noexcept {
  return {reinterpret_cast<const std::uint8_t*>(values.data()), values.size_bytes()};
}

}  // namespace detail

template <Code C>
QuantizedMatrix<C> Checkpoint::load(std::string_view name) const {
  const CheckpointLayer& layer = layer_named(name);
  expects(layer.codebook == C::name(), [&] {
    return "higgs::Checkpoint::load: layer \"" + layer.name + "\" of " + source_ + " has the codebook " +
           layer.codebook + ", not " + C::name();
  });
  if (!layer.shipped) check_tensors<C>(layer);
  return load_as<C>(layer);
}

template <Code C>
void Checkpoint::check_tensors(const CheckpointLayer& layer) const {
  for (const TensorShape& shape : detail::shapes_of<C>(layer.name, layer.layout)) {
    const StoredTensor* tensor = file_.find(shape.name);
    if (!tensor) fail(layer.name, "tensor \"" + shape.name + "\" is missing");
    if (tensor->dtype != shape.dtype || tensor->shape != shape.shape)
      fail(layer.name, "tensor \"" + shape.name + "\" has not the dtype and shape that the layout asks for");
  }
}

template <Code C>
void Checkpoint::check_codes(const CheckpointLayer& layer, const QuantizedMatrix<C>& w) const {
  std::vector<SymbolOf<C>> row(static_cast<std::size_t>(w.layout.codes_per_row(C::dim)));
  for (std::int64_t r = 0; r < w.rows(); ++r) {
    unpack_bits(w.row_codes(r), code_bits<C>, 0, std::span<SymbolOf<C>>(row));
    const auto most = row.empty() ? row.end() : std::max_element(row.begin(), row.end());
    if (most != row.end() && *most >= C::size)
      fail(layer.name, detail::sentence("row ", r, " has the code ", *most, ", but ", C::name(), " has ",
                                        C::size, " points"));
  }
}

template <Code C>
QuantizedMatrix<C> Checkpoint::load_as(const CheckpointLayer& layer) const {
  const StoredTensor& codes = *file_.find(layer.name + ".codes");
  QuantizedMatrix<C> out(load_code<C>(layer));
  out.layout = layer.layout;
  out.seed = layer.seed;
  out.exponent = layer.exponent;
  out.t2 = layer.t2;
  out.weight_error = layer.weight_error;
  out.codes = codes.data;
  out.owner = codes.owner;
  out.scales = layer.layout.scale_format == ScaleFormat::Log8 ? expand_scales(layer, out.owner)
                                                              : load_scales(layer, "scales", out.owner);
  if (layer.layout.input_scales) out.input_scales = load_scales(layer, "input_scales", out.owner);
  if constexpr (Codebook<C>)
    if constexpr (C::size != std::int64_t{1} << code_bits<C>) check_codes(layer, out);
  return out;
}

template <Code C>
C Checkpoint::load_code(const CheckpointLayer& layer) const {
  if constexpr (requires { typename C::Digit; }) {
    return C(load_code<typename C::Digit>(layer));
  } else {
    std::vector<typename C::Element> points(static_cast<std::size_t>(detail::stored_points<C>) * C::dim);
    const StoredTensor& table = *file_.find(layer.name + ".codebook");
    if (!points.empty()) std::memcpy(points.data(), table.data.data(), table.data.size());
    if constexpr (requires { typename C::Points; }) {
      // Kernels hold points that have a negative.
      constexpr auto lowest = std::numeric_limits<typename C::Element>::min();
      if (std::count(points.begin(), points.end(), lowest) != 0)
        fail(layer.name, detail::sentence("a point has a coordinate of ", lowest));
      typename C::Points shaped;
      for (std::size_t i = 0; i < shaped.size(); ++i)
        std::copy_n(points.begin() + static_cast<std::ptrdiff_t>(i * C::dim), C::dim, shaped[i].begin());
      return C(shaped, layer.step, layer.mse);
    } else {
      if (points != detail::points_of(C{})) fail(layer.name, "the points are not those of " + C::name());
      return C{};
    }
  }
}

template <class Any>
Any Checkpoint::load_any(std::string_view name) const {
  const CheckpointLayer& layer = layer_named(name);
  Any out;
  const auto read = [&]<class C>(std::type_identity<C>) { out = load_as<C>(layer); };
  if (!detail::visit_code_named(layer.codebook, read, ShippedCodes{}))
    fail(name, "unknown codebook \"" + layer.codebook +
                   "\": it does not ship; load<Code>(name) reads the layer where the program has that type");
  return out;
}

#if HIGGS_DEFINITIONS

namespace detail {

HIGGS_INLINE std::string to_json(const CheckpointLayer& layer) {
  const auto number = [](std::int64_t value) { return std::to_string(value); };
  return "{\"codebook\":" + json_quote(layer.codebook) + ",\"rows\":" + number(layer.layout.rows) +
         ",\"cols\":" + number(layer.layout.cols) + ",\"block\":" + number(layer.layout.block) +
         ",\"group\":" + number(layer.layout.group) +
         (layer.layout.input_scales ? ",\"input_scales\":true" : "") +
         (layer.layout.scale_format == ScaleFormat::Log8 ? ",\"scales\":\"log8\"" : "") +
         ",\"seed\":" + (layer.seed ? json_quote(std::to_string(*layer.seed)) : "null") +
         ",\"exponent\":" + number(layer.exponent) + ",\"dtype\":" + json_quote(layer.dtype) +
         ",\"t2\":" + json_number(layer.t2) +
         (std::isnan(layer.weight_error) ? "" : ",\"weight_error\":" + json_number(layer.weight_error)) +
         ",\"step\":" + json_number(layer.step) + ",\"mse\":" + json_number(layer.mse) + "}";
}

HIGGS_INLINE CheckpointLayer parse_layer(std::string name, std::string_view text, const std::string& place) {
  const auto check = [&](bool ok, const char* what) {
    if (!ok) throw FormatError(place + ": " + what);
  };
  const Json json = Json::parse(text, place, Json::Duplicates::Refuse);
  const auto integer = [&](const char* key, std::int64_t least, std::int64_t most) {
    const Json* value = json.find(key);
    const auto number = value ? value->integer() : std::nullopt;
    if (!number || *number < least || *number > most)
      throw FormatError(place + ": \"" + key + "\" must be an integer in [" + std::to_string(least) + ", " +
                        std::to_string(most) + "]");
    return *number;
  };
  const auto string = [&](const char* key) {
    const Json* value = json.find(key);
    if (!value || !value->string()) throw FormatError(place + ": \"" + key + "\" must be a text");
    return *value->string();
  };
  const auto real = [&](const char* key) {
    const Json* value = json.find(key);
    const auto number = value ? value->number() : std::nullopt;
    if (!number || !(*number >= 0))
      throw FormatError(place + ": \"" + key + "\" must be a number, not negative");
    return *number;
  };
  CheckpointLayer layer;
  layer.name = std::move(name);
  layer.codebook = string("codebook");
  layer.layout = {integer("rows", 0, max_extent), integer("cols", 1, max_extent),
                  integer("block", 1, max_extent), integer("group", 1, max_extent)};
  check(layer.layout.block % layer.layout.group == 0, "\"group\" must divide \"block\"");
  if (const Json* value = json.find("scales")) {
    check(value->string() && *value->string() == "log8", "\"scales\" must be \"log8\" or not there");
    layer.layout.scale_format = ScaleFormat::Log8;
  }
  if (const Json* value = json.find("input_scales")) {
    check(value->boolean(), "\"input_scales\" must be true or false");
    layer.layout.input_scales = *value->boolean();
  }
  const Json* seed = json.find("seed");
  check(seed && (seed->is_null() || seed->string()), "\"seed\" must be a text or null");
  if (const std::string* digits = seed->string()) {
    const char* end = digits->data() + digits->size();
    const auto [last, error] = std::from_chars(digits->data(), end, layer.seed.emplace());
    check(error == std::errc{} && last == end, "\"seed\" must be a decimal number below 2^64");
  }
  layer.exponent = static_cast<int>(integer("exponent", min_exponent, max_exponent));
  layer.dtype = string("dtype");
  const auto known = [&](const char* key) {
    const Json* value = json.find(key);
    return value && !value->is_null() ? real(key) : std::numeric_limits<double>::quiet_NaN();
  };
  layer.t2 = known("t2");
  layer.weight_error = known("weight_error");
  layer.step = real("step");
  layer.mse = real("mse");
  return layer;
}

}  // namespace detail

HIGGS_INLINE Checkpoint Checkpoint::open(const std::filesystem::path& path) {
  return Checkpoint(Safetensors(path), path.string());
}

HIGGS_INLINE bool Checkpoint::recognizes(const Safetensors& file) {
  const auto format = file.metadata().find("format");
  return format != file.metadata().end() && format->second == "higgs";
}

HIGGS_INLINE Checkpoint::Checkpoint(Safetensors file, std::string source)
    : file_(std::move(file)), source_(std::move(source)) {
  if (!recognizes(file_)) throw FormatError(source_ + ": not a higgs checkpoint");
  const auto version = file_.metadata().find("higgs.version");
  if (version == file_.metadata().end() || version->second != std::to_string(detail::checkpoint_version))
    throw FormatError(source_ + ": version " + (version == file_.metadata().end() ? "?" : version->second) +
                      " of the format, but this library reads version 1");
  std::set<std::string, std::less<>> parts;
  for (const auto& [key, text] : file_.metadata())
    if (key.starts_with(detail::layer_key))
      for (std::string& part : add_layer(key.substr(detail::layer_key.size()), text))
        parts.insert(std::move(part));
  for (const StoredTensor& tensor : file_.tensors())
    if (!parts.contains(tensor.name)) tensors_.push_back(tensor);
}

HIGGS_INLINE const CheckpointLayer* Checkpoint::find_layer(std::string_view name) const noexcept {
  const auto found =
      std::lower_bound(layers_.begin(), layers_.end(), name,
                       [](const CheckpointLayer& layer, std::string_view n) { return layer.name < n; });
  return found != layers_.end() && found->name == name ? &*found : nullptr;
}

HIGGS_INLINE const CheckpointLayer& Checkpoint::layer_named(std::string_view name) const {
  const CheckpointLayer* layer = find_layer(name);
  if (!layer) throw FormatError(source_ + ": there is no layer \"" + std::string(name) + "\"");
  return *layer;
}

HIGGS_INLINE std::vector<std::string> Checkpoint::add_layer(std::string name, std::string_view text) {
  CheckpointLayer layer = detail::parse_layer(name, text, source_ + ": layer \"" + name + "\"");
  const auto check = [&]<class C>(std::type_identity<C>) { check_tensors<C>(layer); };
  layer.shipped = detail::visit_code_named(layer.codebook, check, ShippedCodes{});
  std::vector<std::string> parts{name + ".codes", name + ".scales", name + ".codebook"};
  if (layer.layout.input_scales) parts.push_back(name + ".input_scales");
  layers_.push_back(std::move(layer));
  return parts;
}

HIGGS_INLINE std::span<const Half> Checkpoint::load_scales(const CheckpointLayer& layer,
                                                           const std::string& part,
                                                           std::shared_ptr<const void>& owner) const {
  const StoredTensor& tensor = *file_.find(layer.name + "." + part);
  std::span<const Half> scales(reinterpret_cast<const Half*>(tensor.data.data()),
                               tensor.data.size() / sizeof(Half));
  const bool in_place = reinterpret_cast<std::uintptr_t>(scales.data()) % alignof(Half) == 0;
  if (!in_place || tensor.owner != owner) {
    std::vector<Half> copy(scales.size());
    if (!copy.empty()) std::memcpy(copy.data(), tensor.data.data(), tensor.data.size());
    scales = keep(std::move(copy), owner);
  }
  if (!detail::all_finite(scales))
    fail(layer.name, (part == "scales" ? "a scale" : "an input scale") + std::string(" is infinite or NaN"));
  return scales;
}

HIGGS_INLINE std::span<const Half> Checkpoint::expand_scales(const CheckpointLayer& layer,
                                                             std::shared_ptr<const void>& owner) const {
  std::vector<Half> scales;
  for (const std::uint8_t code : file_.find(layer.name + ".scales")->data)
    scales.push_back(static_cast<Half>(Log8::from_code(code)));
  return keep(std::move(scales), owner);
}

HIGGS_INLINE std::span<const Half> Checkpoint::keep(std::vector<Half> scales,
                                                    std::shared_ptr<const void>& owner) {
  struct Both {
    std::shared_ptr<const void> rest;
    std::vector<Half> scales;
  };
  auto both = std::make_shared<const Both>(Both{owner, std::move(scales)});
  owner = both;
  return both->scales;
}

#endif

}  // namespace v0
}  // namespace higgs
