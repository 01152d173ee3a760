// SPDX-License-Identifier: Apache-2.0
// A code: how the weights of one group become symbols, and the integers that the symbols stand for.
//
// A group of scaled weights is cut into spans of `dim` weights. Each span becomes one symbol of a fixed number of bits,
// so that a matrix has exact bytes and any group can be decoded alone. Two kinds of codes exist:
// - a Codebook decodes each symbol by itself: a symbol is the index of a point (grids, lattices, E8, uniform, radix);
// - a ChainCode decodes the symbols of a group together: a coordinate may depend on several neighbouring symbols.
//
// A code is one folder in codes/ and one line in codes/registry.hpp; docs/howto-code.md adds one.
#pragma once

#include <higgs/core/concepts.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>

namespace higgs {
inline namespace v0 {

/// A code whose coordinates may depend on several symbols of a group. `decode` takes all symbols of a group,
/// ceil(values.size() / dim), and writes its coordinates. `Encoder(code).encode(scaled, symbols, isa)` chooses the
/// symbols of one group, see encode/encoder.hpp. `step` and `mse` are those of Codebook. A code with a table has `size`,
/// a type `Points` (size arrays of dim coordinates), points(), and a constructor from (Points, step, mse); files then
/// contain its table.
template <class C>
concept ChainCode = requires(const C& code, std::span<const typename C::Symbol> symbols,
                             std::span<typename C::Element> values) {
  requires std::same_as<std::remove_cv_t<decltype(C::dim)>, int>;          // weights of a symbol
  requires std::same_as<std::remove_cv_t<decltype(C::symbol_bits)>, int>;  // 1 to 32
  requires std::unsigned_integral<typename C::Symbol>;
  requires std::signed_integral<typename C::Element>;
  typename C::Encoder;
  { code.decode(symbols, values) } noexcept;
  { code.step() } noexcept -> std::same_as<double>;
  { code.mse() } noexcept -> std::same_as<double>;
  { C::name() } -> std::same_as<std::string>;
};

/// What QuantizedMatrix and everything that reads it take.
template <class C>
concept Code = Codebook<C> || ChainCode<C>;

namespace detail {
template <class C>
struct CodeFacts {
  using Symbol = typename C::Symbol;
  static constexpr int bits = C::symbol_bits;
};
template <Codebook C>
struct CodeFacts<C> {
  using Symbol = typename C::Index;
  static constexpr int bits = std::bit_width(static_cast<std::uint64_t>(C::size) - 1u);
};
}  // namespace detail

/// The unsigned integer that holds one symbol of C.
template <Code C>
using SymbolOf = typename detail::CodeFacts<C>::Symbol;

/// Whole bits of one symbol.
template <Code C>
inline constexpr int code_bits = detail::CodeFacts<C>::bits;

/// The coordinates of one group, from all its symbols: values.size() weights, ceil(values.size() / C::dim) symbols.
template <Code C>
constexpr void decode_group(const C& code, std::span<const SymbolOf<C>> symbols,
                            std::span<typename C::Element> values) noexcept {
  if constexpr (ChainCode<C>) {
    code.decode(symbols, values);
  } else {
    constexpr std::size_t dim = C::dim;
    const std::size_t whole = values.size() / dim;
    auto out = values.begin();
    for (std::size_t s = 0; s < whole; ++s) {
      const typename C::Point point = code.decode(symbols[s]);
      out = std::copy(point.begin(), point.end(), out);
    }
    if (whole * dim < values.size()) {
      const typename C::Point point = code.decode(symbols[whole]);
      std::copy_n(point.begin(), values.size() - whole * dim, out);
    }
  }
}

}  // namespace v0
}  // namespace higgs
