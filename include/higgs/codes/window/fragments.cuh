// SPDX-License-Identifier: Apache-2.0
// Window codes for tensor cores: one lookup of a byte for two weights, two instructions for their signs.
#pragma once

#include <higgs/codes/grid/fragments.cuh>
#include <higgs/codes/window/window.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/pack/fragment_decoder.cuh>
#include <higgs/pack/packed_layout.cuh>

#include <cuda_runtime.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// The format of WindowCode<SymbolBits> for 4 to 8 bits a symbol. Lane 4 g + t holds a run for each of 8 rows g + 8 r
/// (r = 0 ... 7): inputs 16 t ... 16 t + 15 of a warp tile, 8 symbols.
///
/// A window is kept as the number of a line of the lookup table, whose bits are the window's in another order. With
/// B = 8 - SymbolBits bits of symbols before in a window, and `top` for the B upper bits of a symbol:
///
///     bits    8-B ... 7   4 ... 7-B        4-B ... 3         0 ... 3-B
///     line    its top     its other bits   top of the one    its other bits
///                         (upper half)     before            (lower half)
///
/// So the line of a symbol shifted by 4 has the top of two neighbours where the line of the next symbol needs them. A lane
/// keeps these words, the words of a lane one after the other in its loads:
///
///     words 0 ... 7   byte m of word r: the line of odd symbol 2 m + 1 of row r, which has the top of symbol 2 m
///     the others      other bits of even symbols at the places of a line, byte m for symbol 2 m. 8 bits: a word for each
///                     row. 7: words of rows 0 to 5, whose free bits 3 and 7 have row 6 (first three words) and row 7.
///                     6: words of rows 0, 2, 4, 6, in whose free bits are the rows behind, two bits higher. 5: words of
///                     rows 0 and 4, rows 1, 2, 3 behind each one, two and three bits higher. 4: none
///
/// An odd number of bits leaves half a load: the last two words are in the tail, 64 bits a lane.
///
/// Signs: bit 4 s + i of plane h is the sign bit of symbol s in row 4 h + i. A funnel shift with the planes of the lane
/// before gives the sign bits of the symbols before, 32 at a time. Lane t = 0 has its neighbour in the warp tile before,
/// so the tail also has a context for each g, 64 bits: bits 12 ... 31 of both planes of that neighbour (its last 5
/// symbols), and the tops of its last symbols, bits B r ... of a word with row r. They are in bits 0 ... 4 B - 1 of
/// plane 0 (rows 0 to 3) and of plane 1. 4 bits: the first word is that of the tops, whose sign bits the planes lack, and
/// the second has bits 12 ... 27 of both planes.
template <int SymbolBits>
struct WindowFormat {
  static_assert(SymbolBits >= 4 && SymbolBits <= 8, "WindowFormat<SymbolBits>: 4 to 8 bits a symbol");

  using Code = WindowCode<SymbolBits>;  // the code of these bits
  /// Its number in layouts.
  static constexpr auto format =
      static_cast<PackedFormat>(static_cast<int>(PackedFormat::Window4) + SymbolBits - 4);
  static constexpr int loads = SymbolBits / 2;                    // 128-bit loads a lane
  static constexpr int table_size = 256 * 2;                      // (256, 2)
  static constexpr bool has_words_in_tail = SymbolBits % 2 != 0;  // the half of a load
  static constexpr int tail_units =
      has_words_in_tail ? 16 + 4 : 4;        // 16-byte units behind the loads of a warp tile
  using Activations = SixteenInputsPerLane;  // order of x

  /// Facts of a lane.
  struct Lane {
    std::uint32_t table_offset;  // see FragmentDecoder
    std::uint32_t
        line_selector;  // of the prmt that makes the address of a point; its byte of step 0 is byte t
    std::uint32_t sign_selector;  // of the prmt that gathers the signs of steps 0 and 1
    int words;                    // if has_words_in_tail
    int context;  // where the lane reads its tail, from its place in load 0 on, in units of 64 bits
    /// Whether the lane before is in another warp tile.
    __device__ bool is_first() const { return (table_offset & 12u) == 0; }
  };
  /// What a lane reads behind the loads of a warp tile.
  struct Tail {
    uint2 context;  // planes of the lane before
    uint2 words;    // if has_words_in_tail
  };
  /// The lines of even and of odd symbols of each row, and the signs: the low half of signs[h][p] has the bits of a
  /// plane for x, the high half for y, bytes of the symbols of steps 2 p and 2 p + 1.
  struct Ready {
    std::uint32_t even[8];      // by row
    std::uint32_t odd[8];       // by row
    std::uint32_t signs[2][2];  // by plane and pair of steps
  };

  /// The line of a window of a code with `symbol_bits` a symbol.
  static constexpr HIGGS_HOST_DEVICE std::uint32_t line_of(std::uint32_t window, int symbol_bits) {
    const auto low = [](std::uint32_t word, int bits) { return word & ((1u << bits) - 1u); };
    if (SymbolBits == 4 && symbol_bits == 2)  // `top` is the symbol and the one two before
      return (window & 0xc3u) | (window & 0x0cu) << 2 | (window & 0x30u) >> 2;
    const int older = 8 - symbol_bits, fewer = SymbolBits - symbol_bits;
    const std::uint32_t others = low(window >> older, symbol_bits - before) << fewer | low(window, fewer);
    return window >> SymbolBits << SymbolBits | others >> half_bits << 4 |
           low(window >> fewer, before) << half_bits | low(others, half_bits);
  }

  static __device__ void repack(const PackedLayout& layout, const std::uint8_t* codes, std::int64_t row,
                                std::int64_t k, int lane, uint4 (&out)[loads], Tail& tail);
  /// Writes the tail of a lane behind load 0 of a warp tile.
  static __device__ void store_tail(uint4* from, int lane, const Tail& tail);
  /// Reads it.
  template <class Load>
  static __device__ Tail load_tail(const uint4* from, const Lane& lane, const Load& load);
  /// See FragmentDecoder.
  template <class T>
  static __device__ void fill_table(const std::int16_t* table) {
    TableFormat<4>::fill_table<T>(table);
  }
  /// See FragmentDecoder.
  static __device__ Lane table_offset(int lane);
  static __device__ Ready prepare(const uint4 (&loads)[loads], const Tail& tail, const Lane& lane);
  /// See FragmentDecoder.
  template <class T, int Row, int Step>
  static __device__ void decode(std::uint32_t (&a)[1][4], const Ready& ready, const Lane& lane);

 private:
  static constexpr int before = Code::older_bits;  // bits of symbols before in a window
  static constexpr int half_bits = SymbolBits - 4;
  static constexpr int word_count = 2 * SymbolBits;
  /// The bits of a line that it shares with its neighbours, in all bytes of a word.
  static constexpr std::uint32_t shared_bits = (0xf0u >> before & 0x0fu) * 0x11111111u;

  static __device__ void read_words(std::uint32_t (&words)[word_count], const uint4 (&loads)[loads],
                                    const Tail& tail);
  static __device__ std::uint32_t other_bits(const std::uint32_t (&words)[word_count], int r);
  static __device__ std::uint32_t sign_plane(const std::uint32_t (&even)[8], const std::uint32_t (&odd)[8],
                                             int h);
  static __device__ std::uint32_t context_plane(const Tail& tail, int h);
};

namespace detail {
/// Whether WindowFormat<FormatBits> keeps a code of SymbolBits: its lines have room for the windows of shorter symbols,
/// and the signs of both depend on the same symbols.
template <int FormatBits, int SymbolBits>
constexpr bool keeps_window() {
  using Own = WindowCode<FormatBits>;
  using Code = WindowCode<SymbolBits>;
  const bool room = SymbolBits >= 8 - FormatBits || (FormatBits == 4 && SymbolBits == 2);
  return FormatBits >= SymbolBits && room && Own::x_taps == Code::x_taps && Own::y_taps == Code::y_taps;
}
}  // namespace detail

/// The bits of the least WindowFormat that keeps WindowCode<SymbolBits>, in whose memory it is then: its own for 4 bits
/// and more, else 5 for 3 bits and 4 for 2 bits unless their signs depend on other symbols. 0 if there is none.
template <int SymbolBits>
inline constexpr int window_format_bits = detail::keeps_window<4, SymbolBits>()   ? 4
                                          : detail::keeps_window<5, SymbolBits>() ? 5
                                          : detail::keeps_window<6, SymbolBits>() ? 6
                                          : detail::keeps_window<7, SymbolBits>() ? 7
                                          : detail::keeps_window<8, SymbolBits>() ? 8
                                                                                  : 0;

/// The lookup table of a window code: the point of each line. (256, 2)
template <int SymbolBits>
  requires(window_format_bits<SymbolBits> != 0)
std::vector<std::int16_t> lookup_table(const WindowCode<SymbolBits>& code) {
  using Format = WindowFormat<window_format_bits<SymbolBits>>;
  std::vector<std::int16_t> table(256 * 2);
  for (std::uint32_t window = 0; window < 256; ++window)
    for (std::uint32_t d = 0; d < 2; ++d)
      table[Format::line_of(window, SymbolBits) * 2 + d] = code.points()[window][d];
  return table;
}

template <int SymbolBits>
__device__ inline auto WindowFormat<SymbolBits>::table_offset(int lane) -> Lane {
  const int t = lane % 4, words = loads * 64 - 2 * lane;
  return {.table_offset = static_cast<std::uint32_t>(lane) * 4,
          .line_selector = 0x5504u | static_cast<std::uint32_t>(t) << 4,
          .sign_selector = 0x5410u ^ static_cast<std::uint32_t>(t) * 0x1111u,
          .words = words + lane,
          .context = words + (has_words_in_tail ? 32 : 0) + lane / 4};
}

// Repack.

/// Reads the 5 symbols before a lane's run and its 8 symbols, for each row.
template <int SymbolBits>
__device__ inline void WindowFormat<SymbolBits>::repack(const PackedLayout& layout, const std::uint8_t* codes,
                                                        std::int64_t row, std::int64_t k, int lane,
                                                        uint4 (&out)[loads], Tail& tail) {
  std::uint32_t words[word_count] = {}, tops = 0, planes[2] = {};
  const std::int64_t first = k + lane % 4 * 16;
  HIGGS_UNROLL for (int r = 0; r < 8; ++r) {
    std::uint32_t even = 0, odd = 0, window = 0;
    _Pragma("unroll 1") for (int s = -Code::memory; s < 8; ++s) {
      // A group begins with no symbols before it.
      const bool exists = first % layout.padded_group() + 2 * s >= 0;
      const std::uint32_t symbol =
          exists ? symbol_at(layout, codes, row + 8 * r + lane / 4, first + 2 * s) : 0;
      window = (window >> layout.symbol_bits | symbol << (8 - layout.symbol_bits)) & 255u;
      const std::uint32_t line = line_of(window, layout.symbol_bits);
      if (s >= 0)
        (s % 2 == 0 ? even : odd) |= line << s / 2 * 8;
      else
        planes[r / 4] |= window >> 7 << (4 * (8 + s) + r % 4);
      if (s == -1 && before > 0) tops |= line >> SymbolBits << before * r;
    }
    words[r] = odd;
    even &= ~shared_bits;
    if constexpr (SymbolBits == 8) words[8 + r] = even;
    if constexpr (SymbolBits == 7) {
      if (r < 6) words[8 + r] |= even;
      if (r >= 6) HIGGS_UNROLL
        for (int i = 0; i < 3; ++i) words[8 + (r - 6) * 3 + i] |= even << (1 + i) & shared_bits;
    }
    if constexpr (SymbolBits == 6) words[8 + r / 2] |= even << r % 2 * 2;
    if constexpr (SymbolBits == 5) words[8 + r / 4] |= even << r % 4;
  }
  HIGGS_UNROLL for (int i = 0; i < loads; ++i)
    out[i] = uint4{words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]};
  tail = {};
  if constexpr (has_words_in_tail) tail.words = uint2{words[word_count - 2], words[word_count - 1]};
  if constexpr (SymbolBits == 4) {
    tail.context = uint2{tops, (planes[0] >> 12 & 0xffffu) | planes[1] << 4 >> 16 << 16};
  } else {
    constexpr std::uint32_t four_rows = (1u << 4 * before) - 1u;
    tail.context = uint2{planes[0] | (tops & four_rows), planes[1] | tops >> 4 * before};
  }
}

template <int SymbolBits>
__device__ inline void WindowFormat<SymbolBits>::store_tail(uint4* from, int lane, const Tail& tail) {
  const Lane at = table_offset(lane);
  auto* const to = reinterpret_cast<uint2*>(from);
  if (has_words_in_tail) to[at.words] = tail.words;
  if (at.is_first()) to[at.context] = tail.context;
}

template <int SymbolBits>
template <class Load>
__device__ inline auto WindowFormat<SymbolBits>::load_tail(const uint4* from, const Lane& lane,
                                                           const Load& load) -> Tail {
  const auto* const at = reinterpret_cast<const uint2*>(from);
  Tail tail{};
  tail.context = load(at + lane.context);
  if constexpr (has_words_in_tail) tail.words = load(at + lane.words);
  return tail;
}

// Prepare.

template <int SymbolBits>
__device__ inline void WindowFormat<SymbolBits>::read_words(std::uint32_t (&words)[word_count],
                                                            const uint4 (&loads)[WindowFormat::loads],
                                                            const Tail& tail) {
  HIGGS_UNROLL for (int i = 0; i < 4 * WindowFormat::loads; ++i)
    words[i] = detail::word_of(loads[i / 4], i % 4);
  if constexpr (has_words_in_tail) words[word_count - 2] = tail.words.x, words[word_count - 1] = tail.words.y;
}

/// The bits of row r's even symbols that no neighbour has, at their places; others may be anything.
template <int SymbolBits>
__device__ inline std::uint32_t WindowFormat<SymbolBits>::other_bits(const std::uint32_t (&words)[word_count],
                                                                     int r) {
  const std::uint32_t* others = words + 8;
  if constexpr (SymbolBits == 5) return others[r / 4] >> r % 4;
  if constexpr (SymbolBits == 6) return others[r / 2] >> r % 2 * 2;
  if constexpr (SymbolBits == 7) {
    if (r < 6) return others[r];
    const std::uint32_t* free = others + (r - 6) * 3;
    return select_bits<0x44444444u>(free[0] >> 1, select_bits<0x22222222u>(free[1] >> 2, free[2] >> 3));
  }
  return 0;
}

/// Plane h: bit 4 s + i is the sign bit of symbol s in row 4 h + i. Bit 7 of a line is its sign bit and, but for 8 bits a
/// symbol, bit 3 that of the symbol before.
template <int SymbolBits>
__device__ inline std::uint32_t WindowFormat<SymbolBits>::sign_plane(const std::uint32_t (&even)[8],
                                                                     const std::uint32_t (&odd)[8], int h) {
  const std::uint32_t* o = odd + 4 * h;
  if constexpr (before > 0) {
    std::uint32_t plane = select_bits<0x88888888u>(o[3], o[2] >> 1);
    plane = select_bits<0xccccccccu>(plane, o[1] >> 2);
    return select_bits<0xeeeeeeeeu>(plane, o[0] >> 3);
  } else {
    const std::uint32_t* e = even + 4 * h;
    std::uint32_t plane = select_bits<0x80808080u>(o[3], o[2] >> 1);
    plane = select_bits<0xc0c0c0c0u>(plane, o[1] >> 2);
    plane = select_bits<0xe0e0e0e0u>(plane, o[0] >> 3);
    plane = select_bits<0xf0f0f0f0u>(plane, e[3] >> 4);
    plane = select_bits<0xf8f8f8f8u>(plane, e[2] >> 5);
    plane = select_bits<0xfcfcfcfcu>(plane, e[1] >> 6);
    return select_bits<0xfefefefeu>(plane, e[0] >> 7);
  }
}

/// Bits 12 ... 31 of plane h of the run before the warp tile; the others may be anything.
template <int SymbolBits>
__device__ inline std::uint32_t WindowFormat<SymbolBits>::context_plane(const Tail& tail, int h) {
  if constexpr (SymbolBits != 4) return h == 0 ? tail.context.x : tail.context.y;
  // The product moves the sign bits 4 i + 3 of four tops to bits 28 + i, and nothing else there.
  const std::uint32_t signs = tail.context.x & (h == 0 ? 0x8888u : 0x88880000u);
  const std::uint32_t last = signs * (h == 0 ? 0x02490000u : 0x00000249u);
  return select_bits<0xf0000000u>(last, h == 0 ? tail.context.y << 12 : tail.context.y >> 4);
}

namespace detail {

/// What lane t - 1 has, for t = lane % 4; for t = 0 `first`.
__device__ inline std::uint32_t from_lane_before(std::uint32_t value, std::uint32_t first, bool is_first) {
  const std::uint32_t neighbour = __shfl_up_sync(0xffffffffu, value, 1, 4);
  return is_first ? first : neighbour;
}

/// For each bit of a plane whether an odd number of the sign bits is set that `Taps` names, d symbols before for bit
/// d - 1.
template <unsigned Taps>
__device__ inline std::uint32_t odd_taps(std::uint32_t plane, std::uint32_t neighbour) {
  if constexpr (Taps == 0) {
    return 0;
  } else {
    constexpr unsigned others = Taps & (Taps - 1), third = others & (others - 1);
    constexpr unsigned first_shift = 4 * (std::countr_zero(Taps) + 1);
    constexpr unsigned other_shift = 4 * (std::countr_zero(others) + 1);
    const std::uint32_t first = __funnelshift_l(neighbour, plane, first_shift);
    if constexpr (others == 0) return first;
    const std::uint32_t other = __funnelshift_l(neighbour, plane, other_shift);
    if constexpr (third == 0)
      return first ^ other;
    else
      return flip_twice(first, other, odd_taps<third>(plane, neighbour));
  }
}

}  // namespace detail

template <int SymbolBits>
__device__ inline auto WindowFormat<SymbolBits>::prepare(const uint4 (&loads)[WindowFormat::loads],
                                                         const Tail& tail, const Lane& lane) -> Ready {
  std::uint32_t words[word_count];
  read_words(words, loads, tail);
  Ready out;
  HIGGS_UNROLL for (int r = 0; r < 8; ++r) {
    out.odd[r] = words[r];
    if constexpr (before == 0) out.even[r] = words[8 + r];
  }
  std::uint32_t neighbours[2];
  HIGGS_UNROLL for (int h = 0; h < 2; ++h) {
    const std::uint32_t plane = sign_plane(out.even, out.odd, h);
    neighbours[h] = detail::from_lane_before(plane, context_plane(tail, h), lane.is_first());
    const std::uint32_t x = detail::odd_taps<Code::x_taps>(plane, neighbours[h]),
                        y = detail::odd_taps<Code::y_taps>(plane, neighbours[h]);
    out.signs[h][0] = __byte_perm(x, y, lane.sign_selector);
    out.signs[h][1] = __byte_perm(x, y, lane.sign_selector ^ 0x2222u);
  }
  if constexpr (before > 0) {
    // The tops of the last symbols of the lane before: their sign bits alone are in its planes.
    std::uint32_t tops = 0;
    if constexpr (before > 1) {
      tops = out.odd[7] >> SymbolBits >> 24;
      HIGGS_UNROLL for (int r = 6; r >= 0; --r)
        tops = __funnelshift_l(out.odd[r], tops, before);
      std::uint32_t context = tail.context.x;
      if constexpr (before < 4)
        context = select_bits<(1u << 4 * before) - 1u>(context, tail.context.y << 4 * before);
      tops = detail::from_lane_before(tops, context, lane.is_first());
    }
    HIGGS_UNROLL for (int r = 0; r < 8; ++r) {
      const std::uint32_t top =
          before == 1 ? neighbours[r / 4] << (3 - r % 4) : tops << (32 - before * (r + 1));
      const std::uint32_t shared = __funnelshift_l(top, out.odd[r], 4);
      out.even[r] = before == 4 ? shared : select_bits<shared_bits>(shared, other_bits(words, r));
    }
  }
  return out;
}

// Decode.

template <int SymbolBits>
template <class T, int Row, int Step>
__device__ inline void WindowFormat<SymbolBits>::decode(std::uint32_t (&a)[1][4], const Ready& ready,
                                                        const Lane& lane) {
  const std::uint32_t selector = lane.line_selector ^ static_cast<std::uint32_t>(Step << 4);
  HIGGS_UNROLL for (int i = 0; i < 4; ++i) {
    const int r = 2 * Row + i % 2, shift = 15 - (Step % 2 * 8 + i / 2 * 4 + r % 4);
    const std::uint32_t word = i < 2 ? ready.even[r] : ready.odd[r];
    const std::uint32_t point =
        load_shared_32<LookupTable::begin>(__byte_perm(word, lane.table_offset, selector));
    a[0][i] = flip_bits<0x80008000u>(point, ready.signs[r / 4][Step / 2] << shift);
  }
}

static_assert(FragmentDecoder<WindowFormat<4>> && FragmentDecoder<WindowFormat<5>> &&
              FragmentDecoder<WindowFormat<6>> && FragmentDecoder<WindowFormat<7>> &&
              FragmentDecoder<WindowFormat<8>>);

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
