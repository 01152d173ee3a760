// SPDX-License-Identifier: Apache-2.0
// A quantized matrix in packed order, ready for many products: what an engine keeps of a linear layer.
#pragma once

#include <higgs/core/code.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/cpu/convert.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/matmul/packed_format.hpp>
#include <higgs/pack/bits.hpp>
#include <higgs/pack/packed_layout.hpp>
#include <higgs/store/quantized_matrix.hpp>
#include <higgs/store/shard.hpp>

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__linux__)
#  include <sys/mman.h>
#endif

namespace higgs {
inline namespace v0 {

/// What a PackedMatrix keeps of codes with a table of 256 points in the plane: 2x256 and window codes.
enum class PackedForm {
  Codes,        ///< as many bits a weight as in files
  Coordinates,  ///< 8 bits a weight: for few threads faster where no instruction looks up 256 entries
};

/// The faster form on this machine.
inline PackedForm best_packed_form() noexcept {
  const bool fast = cpu::dispatch(best_isa(), []<class Set>(Set) { return Set::has_lookup_256; });
  return fast ? PackedForm::Codes : PackedForm::Coordinates;
}

namespace detail {

struct PackedParts {
  CodeLayout layout;
  std::int64_t first_col = 0;
  std::optional<std::uint64_t> seed;
  int exponent = 0;
  PackedLayout packed;
  const PackedFormat* format = nullptr;
  std::shared_ptr<const void> tables;
  std::shared_ptr<const std::vector<float>> input_scales;
  std::shared_ptr<const std::uint8_t[]> data;
};

/// Repacks `w`; the empty parts of an empty matrix.
template <Code C>
PackedParts pack_matrix(const QuantizedMatrix<C>& w, Executor& executor, PackedForm form);

}  // namespace detail

/// The weights of one linear layer in packed order. A value: copies share the bytes, and the quantized matrix is no
/// longer needed. A default-constructed or moved-from PackedMatrix is empty: 0 x 0.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  PackedMatrix(const PackedMatrix&) = default;
  PackedMatrix& operator=(const PackedMatrix&) = default;
  PackedMatrix(PackedMatrix&& other) noexcept : parts_(std::exchange(other.parts_, {})) {}
  PackedMatrix& operator=(PackedMatrix&& other) noexcept {
    parts_ = std::exchange(other.parts_, {});
    return *this;
  }
  ~PackedMatrix() = default;

  /// Repacks `w`, about as fast as memory copies. Throws InvalidArgument if spans of `w` do not fit its layout.
  template <Code C>
  explicit PackedMatrix(const QuantizedMatrix<C>& w, Executor& executor = default_executor(),
                        PackedForm form = best_packed_form())
      : parts_(detail::pack_matrix(w, executor, form)) {}
  /// The same for a part of `w`: its x has the part's columns, its y the part's rows.
  template <Code C>
  PackedMatrix(const QuantizedMatrix<C>& w, const Shard& part, Executor& executor = default_executor(),
               PackedForm form = best_packed_form())
      : PackedMatrix(ShardedMatrix<C>(w, part).matrix, executor, form) {
    parts_.first_col = part.first_col;
  }
  template <std::same_as<AnyQuantizedMatrix> Any>  // a template, so that only its callers compile every code
  explicit PackedMatrix(const Any& w, Executor& executor = default_executor(),
                        PackedForm form = best_packed_form())
      : PackedMatrix(w.visit([&](const auto& matrix) { return PackedMatrix(matrix, executor, form); })) {}
  template <std::same_as<AnyQuantizedMatrix> Any>
  PackedMatrix(const Any& w, const Shard& part, Executor& executor = default_executor(),
               PackedForm form = best_packed_form())
      : PackedMatrix(
            w.visit([&](const auto& matrix) { return PackedMatrix(matrix, part, executor, form); })) {}

  std::int64_t rows() const noexcept { return parts_.layout.rows; }
  std::int64_t cols() const noexcept { return parts_.layout.cols; }
  const CodeLayout& layout() const noexcept { return parts_.layout; }
  std::optional<std::uint64_t> seed() const noexcept { return parts_.seed; }
  /// The first column's number in the whole matrix; nonzero for shards. Random signs depend on it.
  std::int64_t first_col() const noexcept { return parts_.first_col; }
  int exponent() const noexcept { return parts_.exponent; }
  /// Factors of the activations, (cols) or empty.
  std::span<const float> input_scales() const noexcept {
    return parts_.input_scales ? std::span<const float>(*parts_.input_scales) : std::span<const float>();
  }
  /// Codes and scales in packed order, (packed().bytes()).
  std::span<const std::uint8_t> bytes() const noexcept {
    return {parts_.data.get(), static_cast<std::size_t>(packed().bytes())};
  }
  const PackedLayout& packed() const noexcept { return parts_.packed; }
  /// The format and its tables; undefined for an empty matrix.
  const detail::PackedFormat& format() const noexcept { return *parts_.format; }
  const void* tables() const noexcept { return parts_.tables.get(); }

 private:
  detail::PackedParts parts_;
};

#if HIGGS_DEFINITIONS
namespace detail {

/// Cache-aligned memory; large blocks ask for huge pages, which spare a stream of codes its page walks.
inline std::shared_ptr<std::uint8_t[]> allocate_packed(std::size_t bytes) {
  constexpr std::size_t huge = std::size_t{1} << 21;
  const auto alignment = std::align_val_t{bytes >= huge ? huge : std::size_t{64}};
  std::shared_ptr<std::uint8_t[]> out(static_cast<std::uint8_t*>(::operator new(bytes, alignment)),
                                      [alignment](std::uint8_t* p) { ::operator delete(p, alignment); });
#  if defined(__linux__)
  if (bytes >= huge) ::madvise(out.get(), bytes, MADV_HUGEPAGE);  // a hint: its failure costs speed only
#  endif
  return out;
}

/// The tables of a code in its packed format.
template <class Format, Code C>
typename Format::Tables make_tables(const C& code) {
  if constexpr (std::is_same_v<Format, cpu::CoordinateBytes>) {
    return {};
  } else if constexpr (requires { Format::make_tables(code); }) {
    return Format::make_tables(code);
  } else {
    constexpr int width = Format::dim / C::dim, bits = code_bits<C>;
    return Format::make_tables([&code](int index) {
      std::array<typename C::Element, extent<Format::dim>> out{};
      for (int i = 0; i < width; ++i, index >>= bits) {
        const int symbol = width == 1 ? index : index % (1 << bits);
        const auto point = code.decode(static_cast<SymbolOf<C>>(std::min<std::int64_t>(symbol, C::size - 1)));
        std::copy(point.begin(), point.end(), out.begin() + i * C::dim);
      }
      return out;
    });
  }
}

/// Every coordinate of a matrix with 128 added: (rows, groups * group).
template <Code C>
std::vector<std::uint8_t> unpack_coordinates(const QuantizedMatrix<C>& w, Executor& executor) {
  static_assert(sizeof(typename C::Element) == 1, "coordinates of 16 bits do not fit a byte");
  const auto group = static_cast<std::size_t>(w.layout.group),
             groups = static_cast<std::size_t>(w.layout.groups()),
             each = static_cast<std::size_t>(w.layout.codes_per_group(C::dim));
  std::vector<std::uint8_t> out(static_cast<std::size_t>(w.rows()) * groups * group);
  parallel_for(executor, w.rows(), panel_rows, [&](std::int64_t begin, std::int64_t end) {
    std::vector<SymbolOf<C>> symbols(groups * each);
    std::vector<typename C::Element> values(group);
    for (std::int64_t row = begin; row < end; ++row) {
      unpack_bits(w.row_codes(row), code_bits<C>, 0, std::span<SymbolOf<C>>(symbols));
      std::uint8_t* to = out.data() + static_cast<std::size_t>(row) * groups * group;
      for (std::size_t g = 0; g < groups; ++g) {
        decode_group(w.book, std::span<const SymbolOf<C>>(symbols).subspan(g * each, each),
                     std::span<typename C::Element>(values));
        for (const auto value : values) *to++ = static_cast<std::uint8_t>(value + 128);
      }
    }
  });
  return out;
}

template <class Format, Code C>
void pack_as(PackedParts& parts, const QuantizedMatrix<C>& w, Executor& executor) {
  parts.format = &PanelKernels<Format>::format;
  parts.tables = std::make_shared<const typename Format::Tables>(make_tables<Format>(w.book));
  parts.packed = {.rows = w.rows(),
                  .groups = w.layout.groups(),
                  .group = w.layout.group,
                  .step_bytes = Format::step_bytes,
                  .step_inputs = Format::step_inputs};
  const auto bytes = static_cast<std::size_t>(parts.packed.bytes());
  const std::shared_ptr<std::uint8_t[]> memory = allocate_packed(bytes);
  const auto repack = [&](std::span<const std::uint8_t> codes, std::int64_t symbols, int bits,
                          int per_index) {
    const auto pack_group = [per_index](const CodedGroup& group, std::int64_t steps, std::int64_t step_bytes,
                                        std::uint8_t* lane) {
      Format::pack_group(group, per_index, steps, step_bytes, lane);
    };
    pack_panels(parts.packed, codes, symbols, bits, w.scales, {memory.get(), bytes}, pack_group, executor);
  };
  if constexpr (std::is_same_v<Format, cpu::CoordinateBytes>)
    repack(unpack_coordinates(w, executor), w.layout.group, 8, 1);
  else
    repack(w.codes, w.layout.codes_per_group(C::dim), code_bits<C>, Format::dim / C::dim);
  parts.data = memory;
}

template <Code C>
PackedParts pack_matrix(const QuantizedMatrix<C>& w, Executor& executor, PackedForm form) {
  PackedParts parts;
  if (w.cols() == 0) return parts;
  expect_whole("higgs::PackedMatrix", w);
  parts.layout = w.layout;
  parts.seed = w.seed;
  parts.exponent = w.exponent;
  std::vector<float> input_scales(w.input_scales.size());
  to_floats(w.input_scales.data(), static_cast<std::int64_t>(input_scales.size()), input_scales.data());
  parts.input_scales = std::make_shared<const std::vector<float>>(std::move(input_scales));
  if constexpr (looks_up_256<PackedFormatOf<C>>) {
    if (form == PackedForm::Coordinates) {
      pack_as<cpu::CoordinateBytes>(parts, w, executor);
      return parts;
    }
  }
  pack_as<PackedFormatOf<C>>(parts, w, executor);
  return parts;
}

}  // namespace detail
#endif

}  // namespace v0
}  // namespace higgs
