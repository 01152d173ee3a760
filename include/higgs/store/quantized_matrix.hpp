// SPDX-License-Identifier: Apache-2.0
// What a quantized matrix is: codes, scales, and how they were cut.
#pragma once

#include <higgs/codebook/shipped.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/scale_format.hpp>

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <variant>

namespace higgs {
inline namespace v0 {

/// How a matrix is cut along its rows: `cols` inputs, padded with zeros to whole Hadamard blocks, each block in
/// groups of `group` inputs that share one scale. A group starts a new vector, a row starts a new byte.
///
///     row | block                   | block                   |      padded_cols() = blocks * block
///         | group     | group       | group     | group       |      groups() scales
///         | vec | vec | vec | vec   | ...                            codes_per_group(dim) codes each
struct CodeLayout {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t block = 1;     // order of the Hadamard transform
  std::int64_t group = 1;     // divides block
  bool input_scales = false;  // whether each input has a factor of its own (scale/input_scale.hpp)
  ScaleFormat scale_format = ScaleFormat::Fp16;  // of the groups' scales in files

  constexpr std::int64_t padded_cols() const noexcept { return (cols + block - 1) / block * block; }
  constexpr std::int64_t groups() const noexcept { return padded_cols() / group; }
  constexpr std::int64_t codes_per_group(int dim) const noexcept { return (group + dim - 1) / dim; }
  constexpr std::int64_t codes_per_row(int dim) const noexcept { return groups() * codes_per_group(dim); }
  constexpr std::int64_t row_bytes(int dim, int bits) const noexcept {
    return (codes_per_row(dim) * bits + 7) / 8;
  }
  /// Bytes that a file keeps of one group's scale.
  constexpr std::int64_t scale_bytes() const noexcept { return scale_format == ScaleFormat::Fp16 ? 2 : 1; }
  friend constexpr bool operator==(const CodeLayout&, const CodeLayout&) = default;
};

/// A matrix in interchange order, the order of files: row-major codes, little-endian bits, nothing that depends on
/// a machine. In the rotated basis, weight = 2^exponent * scale * coordinate; rotated back, column c is multiplied by
/// input_scales[c], or, the same, the activation by it before it is rotated. A value: copies share the bytes.
template <Codebook Book>
struct QuantizedMatrix {
  using CodebookType = Book;

  CodeLayout layout;
  std::optional<std::uint64_t> seed;  // of the random signs; none: rotated without signs
  int exponent = 0;                   // brings scales of any magnitude into fp16's range
  // Measured ||W' - W||^2 / ||W||^2 with padding and after division by the input scales, NaN if unknown.
  double t2 = std::numeric_limits<double>::quiet_NaN();
  Book book{};
  std::span<const std::uint8_t> codes;  // (rows, row_bytes)
  std::span<const Half> scales;         // (rows, groups)
  std::span<const Half> input_scales;   // (cols), or empty
  std::shared_ptr<const void> owner;    // keeps the spans alive: a buffer or a mapped file

  std::int64_t rows() const noexcept { return layout.rows; }
  std::int64_t cols() const noexcept { return layout.cols; }
  std::int64_t row_bytes() const noexcept { return layout.row_bytes(Book::dim, code_bits<Book>); }
  std::span<const std::uint8_t> row_codes(std::int64_t row) const noexcept {
    return codes.subspan(static_cast<std::size_t>(row * row_bytes()), static_cast<std::size_t>(row_bytes()));
  }
  std::span<const Half> row_scales(std::int64_t row) const noexcept {
    return scales.subspan(static_cast<std::size_t>(row * layout.groups()),
                          static_cast<std::size_t>(layout.groups()));
  }
  /// All bits that a file keeps for codes and scales of both kinds, over rows * cols.
  double bits_per_weight() const noexcept {
    const auto bytes = static_cast<double>(codes.size_bytes() + input_scales.size_bytes()) +
                       static_cast<double>(layout.scale_bytes()) * static_cast<double>(scales.size());
    return bytes * 8.0 / (static_cast<double>(rows()) * static_cast<double>(cols()));
  }
};

namespace detail {
template <class List>
struct AnyOf;
template <class... Books>
struct AnyOf<TypeList<Books...>> {
  using type = std::variant<QuantizedMatrix<Books>...>;
};
}  // namespace detail

/// A matrix whose codebook is known only at run time, one of those that ship.
using AnyQuantizedMatrix = detail::AnyOf<ShippedCodebooks>::type;

}  // namespace v0
}  // namespace higgs
