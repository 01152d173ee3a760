// SPDX-License-Identifier: Apache-2.0
// Window codes: two weights a symbol, from a table of 256 points that is read through a window on the bits of the group.
#pragma once

#include <higgs/codes/window/points.hpp>
#include <higgs/config.hpp>
#include <higgs/core/code.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>

namespace higgs {
inline namespace v0 {

template <int SymbolBits>
class WindowEncoder;
namespace cpu {
template <int SymbolBits>
struct WindowFormat;
}
namespace detail {
/// A packed format exists for windows of one byte; other codes keep their coordinates as bytes in memory.
template <int SymbolBits>
struct WindowPacking {};
template <int SymbolBits>
  requires(SymbolBits <= 8)
struct WindowPacking<SymbolBits> {
  using PackedFormat = cpu::WindowFormat<SymbolBits>;  // codes/window/packed.hpp
};
}  // namespace detail

/// A trellis code (bitshift trellis, QTIP section 3.1; trellis coded quantization, Marcellin and Fischer 1990). The symbols
/// of a group, of `SymbolBits` bits each, follow each other in one stream of bits, least significant bit first:
///
///     stream | symbol 0 | symbol 1 | ... | symbol t |          zeros before symbol 0
///                             |  window of symbol t |          the last 8 bits up to its end, the newest on top
///
/// A window has 8 bits, or those of its symbol if they are more. The window is the index of a point (x, y). The point's signs come from symbols before: each symbol has a sign bit, the
/// top bit of its window. x is negated if the sign bits of an odd number of the symbols t - d differ from 0, where d are
/// the set bits of `x_taps` (bit d - 1 for d); y likewise with `y_taps`. A group begins with no symbols before it, so that
/// every group decodes alone. So each symbol chooses among 4 * size points with SymbolBits bits; its window and the five
/// symbols before tell the point.
///
/// Made without arguments it has the table that ships for N(0, 1); a file or a caller may bring another one.
template <int SymbolBits>
class WindowCode : public detail::WindowPacking<SymbolBits> {
  static_assert(SymbolBits >= 2 && SymbolBits <= 10, "WindowCode<SymbolBits>: 2 to 10 bits for two weights");

 public:
  static constexpr int dim = 2;                                        ///< weights a symbol
  static constexpr int symbol_bits = SymbolBits;                       ///< bits a symbol
  static constexpr int window_bits = SymbolBits > 8 ? SymbolBits : 8;  ///< bits of an index
  static constexpr int size = 1 << window_bits;                        ///< points of the table
  /// Bits of the window that belong to symbols before.
  static constexpr int older_bits = window_bits - SymbolBits;
  /// Symbols before that a sign may depend on.
  static constexpr int memory = 5;
  static constexpr unsigned x_taps = detail::WindowTable<SymbolBits>::x_taps;  ///< symbols that negate x
  static constexpr unsigned y_taps = detail::WindowTable<SymbolBits>::y_taps;  ///< symbols that negate y
  static_assert(x_taps < 1u << memory && y_taps < 1u << memory);

  using Symbol = std::conditional_t<(SymbolBits > 8), std::uint16_t, std::uint8_t>;
  using Element = std::int8_t;                                      ///< a coordinate
  using Point = std::array<Element, 2>;                             ///< x and y
  using Points = std::array<Point, std::size_t{1} << window_bits>;  ///< the table, by window
  using Encoder = WindowEncoder<SymbolBits>;                        // codes/window/viterbi.hpp

  /// Encoding rounds weights to 1/16 of an integer step: distances along a group then fit 32 bits.
  static constexpr int fraction_bits = 4;

  /// The table that ships.
  constexpr WindowCode() noexcept
      : WindowCode(detail::WindowTable<SymbolBits>::points, detail::WindowTable<SymbolBits>::step,
                   detail::WindowTable<SymbolBits>::mse) {}
  /// A table of the caller's own, its step and its error on N(0, 1).
  constexpr WindowCode(const Points& points, double step, double mse) noexcept : step_(step), mse_(mse) {
    if (std::is_constant_evaluated())
      points_ = points;
    else
      std::memcpy(&points_, &points, sizeof(points));
  }

  /// What decoding the symbols of a group remembers between two of them.
  struct State {
    unsigned window = 0;  ///< the window of the last symbol
    unsigned signs = 0;   ///< sign bits of the last `memory` symbols, the newest lowest
  };
  /// The window behind `symbol`, from the window before it.
  static constexpr unsigned next_window(unsigned window, unsigned symbol) noexcept {
    return (window >> SymbolBits | symbol << older_bits) & (size - 1u);
  }
  /// Whether x and y are negated, in bits 0 and 1. `signs`: the sign bit of symbol t - d is bit d - 1.
  static constexpr unsigned negated(unsigned signs) noexcept {
    return (static_cast<unsigned>(std::popcount(signs & x_taps)) & 1u) |
           (static_cast<unsigned>(std::popcount(signs & y_taps)) & 1u) << 1;
  }

  /// The coordinates of one group, from all its symbols.
  constexpr void decode(std::span<const Symbol> symbols, std::span<Element> values) const noexcept {
    State state;
    decode(state, symbols, values);
  }
  /// The coordinates of the next symbols of a group: `state` is that behind the symbols before, then that behind these.
  constexpr void decode(State& state, std::span<const Symbol> symbols,
                        std::span<Element> values) const noexcept {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (i % 2 == 0) state.window = next_window(state.window, symbols[i / 2]);
      const int coordinate = points_[state.window][i % 2];
      values[i] = static_cast<Element>((negated(state.signs) >> i % 2 & 1u) != 0 ? -coordinate : coordinate);
      if (i % 2 == 1)
        state.signs = (state.signs << 1 | state.window >> (window_bits - 1)) & ((1u << memory) - 1u);
    }
  }
  constexpr double step() const noexcept { return step_; }
  constexpr double mse() const noexcept { return mse_; }
  constexpr const Points& points() const noexcept { return points_; }
  /// "w2.5": a window code of 2.5 bits a weight.
  static std::string name() {
    return "w" + std::to_string(SymbolBits / 2) + (SymbolBits % 2 != 0 ? ".5" : "");
  }

 private:
  Points points_;
  double step_;
  double mse_;
};

}  // namespace v0
}  // namespace higgs
