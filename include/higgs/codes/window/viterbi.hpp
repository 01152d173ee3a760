// SPDX-License-Identifier: Apache-2.0
// The symbols of a window code with the least squared error: Viterbi's algorithm over the states of the code.
//
// A state is all that later symbols need of those before: the older bits of the next window, and above them the sign bits
// that the window no longer has. Symbols that differ only in bits which no later window or sign sees are parallel: of
// them the nearest point is taken first, for each of the four signs, and then each state takes the best of the states
// that lead to it.
#pragma once

#include <higgs/codes/window/window.hpp>
#include <higgs/config.hpp>
#include <higgs/core/scratch.hpp>
#include <higgs/cpu/isas.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

namespace higgs {
inline namespace v0 {

/// The definition of encoding one group: the symbols whose coordinates c have the least sum of (y - c)^2. `fixed` has the
/// weights y in fixed point, integers of at most fixed_limit; symbols.size() * 2 of them. Of several best paths to a state
/// the one from the lowest state is taken, then that of the lowest symbol; of several ends the lowest state. `before` is
/// the state behind the symbols that the group has already. The fast search equals it.
template <int SymbolBits>
void search_window_plainly(const WindowCode<SymbolBits>& code, std::span<const float> fixed,
                           std::span<typename WindowCode<SymbolBits>::Symbol> symbols,
                           const typename WindowCode<SymbolBits>::State& before = {});

namespace cpu {

/// The states of WindowCode<K> and what leads to them.
template <int K>
struct WindowTrellis {
  using Code = WindowCode<K>;                     // the code
  static constexpr int older = Code::older_bits;  // bits of a window that belong to symbols before
  /// Sign bits that the older bits of a window contain.
  static constexpr int seen_signs = (older + K - 1) / K;
  /// Sign bits that a state has above its older bits.
  static constexpr int kept_signs = Code::memory - seen_signs;
  static constexpr int states = 1 << (older + kept_signs);  // number of states
  /// The top bits of a symbol that later symbols depend on.
  static constexpr int carried_bits = older == 0 ? 1 : std::min(K, older);
  /// Older bits of a window that its symbol's next one still has.
  static constexpr int rest = older == 0 ? 0 : older - carried_bits;
  /// Older bits that the next window no longer has.
  static constexpr int gone = std::min(K, older);
  /// The bit of the older bits that becomes a kept sign bit; without older bits that of the symbol itself does.
  static constexpr int leaving = older == 0 ? 0 : older - 1 - (seen_signs - 1) * K;
  /// States that lead to one state.
  static constexpr int edges = older == 0 ? 2 : 1 << gone;

  /// The number of a state in arrays: states that differ only in the last symbol's bits are neighbours.
  static constexpr int place(int signs, int bits) noexcept {
    return signs << older | (bits & ((1 << rest) - 1)) << carried_bits | bits >> rest;
  }
  /// The kept sign bits of a state, the newest lowest.
  static constexpr int signs_of(int place) noexcept { return place >> older; }
  /// The older bits of the next window.
  static constexpr int bits_of(int place) noexcept {
    const int bits = older == 0 ? 0 : place & ((1 << older) - 1);
    return bits >> carried_bits | (bits & ((1 << carried_bits) - 1)) << rest;
  }
  /// All sign bits of a state, the newest lowest.
  static constexpr int all_signs(int signs, int bits) noexcept {
    int out = signs << seen_signs;
    for (int d = 0; d < seen_signs; ++d) out |= (bits >> (older - 1 - d * K) & 1) << d;
    return out;
  }
  /// Whether x and y are negated behind a state.
  static constexpr unsigned negated(int signs, int bits) noexcept {
    return Code::negated(static_cast<unsigned>(all_signs(signs, bits)));
  }

  /// A state that leads to others, and where the distances of its choices begin.
  struct Edge {
    std::int32_t state;    // its place
    std::int32_t choices;  // index of the first of its choices among those of all signs
  };
  /// The names of states and the edges to each.
  struct Table {
    alignas(64) std::int32_t names
        [higgs::detail::extent<states>];  // of a state among the edges to a next one, in the order of states
                                          /// To the states `next` << carried_bits and those behind it.
    Edge edges[higgs::detail::extent<(states >> carried_bits)>][higgs::detail::extent<WindowTrellis::edges>];
  };
  /// Makes `table`.
  static constexpr Table make_table() noexcept {
    Table out{};
    constexpr int choices = 1 << (older + carried_bits);
    for (int s = 0; s < states; ++s)
      out.names[s] = signs_of(s) >> (kept_signs - 1) << gone | (bits_of(s) & ((1 << gone) - 1));
    for (int next = 0; next < states; next += 1 << carried_bits) {
      const int signs = signs_of(next), kept = bits_of(next) & ((1 << rest) - 1);
      int e = 0;
      for (int oldest = 0; oldest < 2; ++oldest)
        for (int low = 0; low < 1 << gone; ++low) {
          if (older != 0 && (low >> leaving & 1) != (signs & 1)) continue;
          const int before = oldest << (kept_signs - 1) | signs >> 1, bits = kept << gone | low;
          out.edges[next >> carried_bits][e++] = {
              place(before, bits),
              static_cast<int>(negated(before, bits)) * choices + (bits << carried_bits)};
        }
    }
    return out;
  }
  static constexpr Table table = make_table();  // the table of this trellis

  /// The last step of the best path to `state`.
  struct Step {
    int state;         // the one before
    int choice;        // see WindowPoints
    unsigned negated;  // bits 0 and 1
    unsigned carried;  // the carried bits of the symbol
  };
  /// The step into `state` from the state that `name` names.
  static constexpr Step back(int state, int name) noexcept {
    const int signs = signs_of(state), bits = bits_of(state);
    const int carried = older == 0 ? signs & 1 : bits >> rest;
    const int before = name >> gone << (kept_signs - 1) | signs >> 1;
    const int old = (bits & ((1 << rest) - 1)) << gone | (name & ((1 << gone) - 1));
    return {.state = place(before, old),
            .choice = old << carried_bits | carried,
            .negated = negated(before, old),
            .carried = static_cast<unsigned>(carried)};
  }
  /// All sign bits of a state, the newest lowest, above its older bits: the number that decides among equals.
  static constexpr int number(int place) noexcept {
    return all_signs(signs_of(place), bits_of(place)) << older | bits_of(place);
  }
  /// The end of least cost, of several the one of the lowest number.
  static int best_end(const std::int32_t* cost) noexcept {
    constexpr std::int32_t mask = ~((2 << gone) - 1);
    int best = 0;
    for (int s = 1; s < states; ++s) {
      const std::int32_t a = cost[s] & mask, b = cost[best] & mask;
      if (a < b || (a == b && number(s) < number(best))) best = s;
    }
    return best;
  }
};

/// The points of a table in the order of the search. The distance of point c from y is norm(c) - <y, c>. A *choice* is a
/// set of parallel points: the older bits of a window and the carried bits of its symbol, choice = older << carried_bits |
/// carried.
template <int K>
struct WindowPoints {
  using Trellis = WindowTrellis<K>;                            // its states
  static constexpr int free_bits = K - Trellis::carried_bits;  // bits of a symbol that no later symbol sees
  static constexpr int choices = WindowCode<K>::size >> free_bits;  // sets of parallel points
  static constexpr int row = std::max(choices, 16);                 // points of a row: 16 or more for vectors
  static constexpr std::int32_t unit = 2
                                       << Trellis::gone;  // costs are multiples, the bits below name a state

  static constexpr std::size_t size = WindowCode<K>::size;  // points
  alignas(64) float x[size];                                // point f of choice z at f * choices + z
  alignas(64) float y[size];                                // in the order of x
  alignas(64) float norm[size];                             // in the order of x
  alignas(64) float x_of_choice[size];                      // point f of choice z at z << free_bits | f
  alignas(64) float y_of_choice[size];                      // in the order of x_of_choice
  alignas(64) float norm_of_choice[size];                   // in the order of x_of_choice

  /// `at(window)` gives x, y and norm of a point: integers, distances below 2^21.
  template <class At>
  explicit WindowPoints(const At& at) noexcept {
    for (int z = 0; z < choices; ++z)
      for (int f = 0; f < 1 << free_bits; ++f) {
        const int carried = z & ((1 << Trellis::carried_bits) - 1), older = z >> Trellis::carried_bits;
        const std::array<float, 3> point = at(older | (f | carried << free_bits) << Trellis::older);
        const int i = f * choices + z, j = z << free_bits | f;
        x[i] = x_of_choice[j] = point[0];
        y[i] = y_of_choice[j] = point[1];
        norm[i] = norm_of_choice[j] = point[2];
      }
  }
};

/// The points of a code: distances from weights in fixed point.
template <int K>
WindowPoints<K> window_points(const WindowCode<K>& code) noexcept {
  return WindowPoints<K>([&code](int window) {
    const auto point = code.points()[static_cast<std::size_t>(window)];
    const int x = point[0], y = point[1];
    const int norm = (x * x + y * y) << (WindowCode<K>::fraction_bits - 1);
    return std::array<float, 3>{static_cast<float>(x), static_cast<float>(y), static_cast<float>(norm)};
  });
}

}  // namespace cpu

/// The encoder of WindowCode<SymbolBits>.
template <int SymbolBits>
class WindowEncoder {
 public:
  /// Prepares the points of `code`.
  explicit WindowEncoder(const WindowCode<SymbolBits>& code) : points_(cpu::window_points(code)) {}
  /// With points of another scale, see WindowPoints.
  explicit WindowEncoder(const cpu::WindowPoints<SymbolBits>& points) : points_(points) {}

  /// The symbols of one group, those of search_window_plainly() on every `isa`.
  void encode(std::span<const float> scaled, std::span<typename WindowCode<SymbolBits>::Symbol> symbols,
              Isa isa = best_isa()) const noexcept;
  /// The next symbols of a group whose earlier symbols led to the state `before`: of all continuations the one with the
  /// least squared error, the same on every `isa`.
  void go_on(const typename WindowCode<SymbolBits>::State& before, std::span<const float> scaled,
             std::span<typename WindowCode<SymbolBits>::Symbol> symbols, Isa isa = best_isa()) const noexcept;

 private:
  cpu::WindowPoints<SymbolBits> points_;
};

template <int SymbolBits>
void search_window_plainly(const WindowCode<SymbolBits>& code, std::span<const float> fixed,
                           std::span<typename WindowCode<SymbolBits>::Symbol> symbols,
                           const typename WindowCode<SymbolBits>::State& before) {
  using Code = WindowCode<SymbolBits>;
  constexpr std::int64_t never = std::numeric_limits<std::int64_t>::max() / 2;
  // A state as a number: the older bits of the next window, then the sign bits of the last symbols, the newest lowest.
  constexpr unsigned older = 1u << Code::older_bits, all = older << Code::memory;
  struct Best {
    std::int64_t cost;
    unsigned before, symbol;
  };
  std::vector<std::vector<Best>> steps(symbols.size() + 1, std::vector<Best>(all, Best{never, 0, 0}));
  steps[0][(before.window >> SymbolBits) + before.signs * older].cost = 0;
  for (std::size_t t = 0; t < symbols.size(); ++t)
    for (unsigned state = 0; state < all; ++state) {
      if (steps[t][state].cost == never) continue;
      const unsigned signs = state / older, negated = Code::negated(signs);
      for (unsigned symbol = 0; symbol < 1u << SymbolBits; ++symbol) {
        const unsigned window = Code::next_window(state % older << SymbolBits, symbol);
        const unsigned next =
            (window >> SymbolBits) +
            ((signs << 1 | window >> (Code::window_bits - 1)) & ((1u << Code::memory) - 1u)) * older;
        std::int64_t cost = steps[t][state].cost;
        for (unsigned d = 0; d < 2; ++d) {
          const std::int64_t c = code.points()[window][d], y = static_cast<std::int64_t>(fixed[2 * t + d]);
          cost += (c * c << (Code::fraction_bits - 1)) - ((negated >> d & 1u) != 0 ? -c : c) * y;
        }
        if (cost < steps[t + 1][next].cost) steps[t + 1][next] = {cost, state, symbol};
      }
    }
  const auto& ends = steps.back();
  auto state =
      static_cast<unsigned>(std::min_element(ends.begin(), ends.end(),
                                             [](const Best& a, const Best& b) { return a.cost < b.cost; }) -
                            ends.begin());
  for (std::size_t t = symbols.size(); t-- > 0; state = steps[t + 1][state].before)
    symbols[t] = static_cast<typename Code::Symbol>(steps[t + 1][state].symbol);
}

#if HIGGS_DEFINITIONS

namespace cpu {

namespace viterbi_portable {
using Set = Portable;
inline constexpr int lanes = 4;
#  include <higgs/codes/window/viterbi.inc>
}  // namespace viterbi_portable

using viterbi_portable::search_window;

#  if defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)
namespace viterbi_avx2 {
using Set = Avx2;
inline constexpr int lanes = 8;
#    include <higgs/codes/window/viterbi.inc>
}  // namespace viterbi_avx2

using viterbi_avx2::search_window;
HIGGS_TARGET_END

HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace viterbi_avx512 {
using Set = Avx512;
inline constexpr int lanes = 16;
#    include <higgs/codes/window/viterbi.inc>
}  // namespace viterbi_avx512

using viterbi_avx512::search_window;
HIGGS_TARGET_END
#  endif

}  // namespace cpu

template <int SymbolBits>
void WindowEncoder<SymbolBits>::encode(std::span<const float> scaled,
                                       std::span<typename WindowCode<SymbolBits>::Symbol> symbols,
                                       Isa isa) const noexcept {
  go_on({}, scaled, symbols, isa);
}

template <int SymbolBits>
void WindowEncoder<SymbolBits>::go_on(const typename WindowCode<SymbolBits>::State& before,
                                      std::span<const float> scaled,
                                      std::span<typename WindowCode<SymbolBits>::Symbol> symbols,
                                      Isa isa) const noexcept {
  using Trellis = cpu::WindowTrellis<SymbolBits>;
  const int start = Trellis::place(static_cast<int>(before.signs) >> Trellis::seen_signs,
                                   static_cast<int>(before.window) >> SymbolBits);
  const detail::Scratch from(symbols.size() * Trellis::states);
  cpu::dispatch(usable_isa(isa), [&](auto set) {
    cpu::search_window<SymbolBits>(set, points_, start, scaled.data(), symbols.size(), symbols.data(),
                                   from.data());
  });
}

#endif

}  // namespace v0
}  // namespace higgs
