// SPDX-License-Identifier: Apache-2.0
// WindowCode in packed order, and its decoders for CPUs.
//
// A block is 16 symbols of each row in four columns of four: byte j of a lane is of column j, the symbols 4j ... 4j + 3.
// Their 4 K bits follow each other as in the stream, 8 in each vector. Columns of odd K end in half a byte; a step then
// has two blocks, and its last vector the halves of both:
//
//     K even    1 block     vector w       bits 8w ... 8w + 7 of each column
//     K odd     2 blocks    vector w       the same of block 0, w < h = (K - 1) / 2
//                           vector h + w   of block 1
//                           vector K - 1   the last 4 bits of each column of block 0 | of block 1 << 4
//
// So the window of symbol 4j + s is in the same byte for all j, at the same bits. The window before symbol 4j is the last
// one of the column before, a byte below it in the lane.
#pragma once

#include <higgs/codes/window/window.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/cpu/portable/lut.hpp>
#include <higgs/pack/packed_layout.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if HIGGS_DEFINITIONS
#  include <higgs/cpu/intrinsics.hpp>
#endif

namespace higgs {
inline namespace v0 {
namespace cpu {

/// Coordinates of every window, 128 added; words[window] = x | y << 8.
struct WindowTables : LutTables {};

/// The packed format of WindowCode<SymbolBits>, see cpu/portable/lut.hpp. The order of weights is that of a format of 8
/// dimensions: 4 symbols are one index.
template <int SymbolBits>
struct WindowFormat {
  static_assert(SymbolBits >= 2 && SymbolBits <= 8, "WindowFormat<SymbolBits>: 2 to 8 bits a symbol");

  static constexpr int dim = 8;                              // weights of a column
  static constexpr int planes = 1;                           // bytes of a coordinate
  static constexpr int blocks = 1 + SymbolBits % 2;          // blocks of a step
  static constexpr int vectors = SymbolBits * blocks / 2;    // of half a step
  static constexpr std::int64_t step_bytes = 128 * vectors;  // bytes of a step
  static constexpr std::int64_t step_inputs = 32 * blocks;   // weights of a row in a step
  static constexpr bool looks_up_256 = true;                 // see PackedForm
  using Tables = WindowTables;                               // tables of the decoders

  /// The offset of the vector that holds byte w of the columns of a block.
  static constexpr std::int64_t vector_of(int block, int w) noexcept {
    constexpr int whole = SymbolBits / 2;
    return 64 * (w < whole ? whole * block + w : SymbolBits - 1);
  }

  /// The tables of a code.
  static Tables make_tables(const WindowCode<SymbolBits>& code) {
    Tables out{Lut<8, 2>::make_tables(
        [&code](int index) { return code.points()[static_cast<std::size_t>(index)]; })};
    for (std::size_t index = 0; index < 256; ++index)
      out.words[index] = std::uint32_t{out.bytes[0][index]} | std::uint32_t{out.bytes[1][index]} << 8;
    return out;
  }

  /// See cpu/portable/lut.hpp.
  static void pack_group(const CodedGroup& group, int /*per_index*/, std::int64_t steps, std::int64_t bytes,
                         std::uint8_t* lane) {
    constexpr int column_bits = 4 * SymbolBits;
    constexpr std::uint64_t mask = (std::uint64_t{1} << column_bits) - 1u;
    const std::int64_t end = (group.first + group.count) * SymbolBits;
    const auto row_bytes = static_cast<std::int64_t>(group.row.size());
    std::int64_t bit = group.first * SymbolBits;
    const auto next_column = [&] {
      const std::int64_t byte = bit / 8;
      std::uint64_t column = 0;
      if (byte + 8 <= row_bytes)
        std::memcpy(&column, group.row.data() + byte, 8);
      else if (byte < row_bytes)
        std::memcpy(&column, group.row.data() + byte, static_cast<std::size_t>(row_bytes - byte));
      column = column >> bit % 8 & mask;
      if (end - bit < column_bits) column &= (std::uint64_t{1} << std::max<std::int64_t>(end - bit, 0)) - 1u;
      bit += column_bits;
      return static_cast<std::uint32_t>(column);
    };
    for (std::int64_t s = 0; s < steps; ++s, lane += bytes) {
      std::uint32_t nibbles = 0;
      for (int block = 0; block < blocks; ++block) {
        std::uint32_t columns[4];
        for (std::uint32_t& column : columns) column = next_column();
        transpose(columns);
        for (int w = 0; w < SymbolBits / 2; ++w) std::memcpy(lane + vector_of(block, w), columns + w, 4);
        if constexpr (SymbolBits % 2 != 0) nibbles |= columns[SymbolBits / 2] << 4 * block;
      }
      if constexpr (SymbolBits % 2 != 0) std::memcpy(lane + vector_of(0, SymbolBits / 2), &nibbles, 4);
    }
  }

  /// The bits of column j of a block in one row's lane.
  static std::uint32_t column_of_lane(const std::uint8_t* lane, int block, int j) noexcept {
    std::uint32_t out = 0;
    for (int w = 0; w < SymbolBits / 2; ++w) out |= std::uint32_t{lane[vector_of(block, w) + j]} << 8 * w;
    if constexpr (SymbolBits % 2 != 0)
      out |= (lane[vector_of(block, SymbolBits / 2) + j] >> 4 * block & 15u) << 4 * (SymbolBits - 1);
    return out;
  }

 private:
  /// Word w gets byte w of all four words.
  static constexpr void transpose(std::uint32_t (&words)[4]) noexcept {
    constexpr std::uint32_t even = 0x00ff00ffu;
    std::uint32_t pairs[4];  // bytes 0 and 2 of words 0 and 1, bytes 1 and 3; the same of words 2 and 3
    for (int i = 0; i < 4; i += 2) {
      pairs[i] = (words[i] & even) | (words[i + 1] & even) << 8;
      pairs[i + 1] = (words[i] >> 8 & even) | (words[i + 1] & ~even);
    }
    for (int i = 0; i < 2; ++i) {
      words[i] = (pairs[i] & 0xffffu) | pairs[i + 2] << 16;
      words[i + 2] = pairs[i] >> 16 | (pairs[i + 2] & 0xffff0000u);
    }
  }
};

/// Follows WindowCode::decode symbol by symbol.
template <int SymbolBits>
auto chunk_decoder(Portable, WindowFormat<SymbolBits>, const WindowTables& tables) noexcept {
  return [&tables](const std::uint8_t* codes, std::int64_t steps, std::int64_t first,
                   std::uint8_t* out) -> const std::uint8_t* {
    using Format = WindowFormat<SymbolBits>;
    using Code = WindowCode<SymbolBits>;
    for (int row = 0; row < panel_rows; ++row) {
      const std::uint8_t* lane = codes + row / 16 * (Format::step_bytes / 2) + row % 16 * 4;
      unsigned window = 0, signs = 0;
      const auto advance = [&](std::uint32_t column, int s) {
        signs = signs << 1 | window >> 7;
        window = Code::next_window(window, column >> SymbolBits * s & ((1u << SymbolBits) - 1u));
      };
      if (first > 0)  // the 8 symbols before tell the window and the signs
        for (int i = 8; i < 16; ++i)
          advance(Format::column_of_lane(lane - Format::step_bytes, Format::blocks - 1, i / 4), i % 4);
      std::uint8_t* to = out + row * 4;
      for (std::int64_t block = 0; block < steps * Format::blocks; ++block, to += 8 * 128) {
        const int half = static_cast<int>(block % Format::blocks);
        for (int i = 0; i < 16; ++i) {
          advance(Format::column_of_lane(lane + block / Format::blocks * Format::step_bytes, half, i / 4),
                  i % 4);
          const unsigned negated = Code::negated(signs);
          for (unsigned c = 0; c < 2; ++c) {
            const unsigned value = tables.bytes[c][window];
            to[(i % 4 * 2 + static_cast<int>(c)) * 128 + i / 4] =
                static_cast<std::uint8_t>((negated >> c & 1u) != 0 ? 256u - value : value);
          }
        }
      }
    }
    return out;
  };
}

#if !HIGGS_DEFINITIONS
#elif defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)
namespace avx2::windows {

using Bytes = __m256i;

template <int N>
[[gnu::always_inline]] inline Bytes shift_in(Bytes now, Bytes before) noexcept {
  return _mm256_or_si256(_mm256_slli_epi32(now, N), _mm256_srli_epi32(before, 32 - N));
}
template <int R>
[[gnu::always_inline]] inline Bytes funnel(Bytes older, Bytes newer) noexcept {
  const __m256i low = _mm256_set1_epi8(static_cast<char>(255 >> R));
  return _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(older, R), low),
                         _mm256_andnot_si256(low, _mm256_slli_epi16(newer, 8 - R)));
}
[[gnu::always_inline]] inline Bytes upper_nibbles(Bytes x) noexcept { return _mm256_srli_epi16(x, 4); }

#  include <higgs/codes/window/window_block.inc>

/// `value` with 128 added, negated where the top bit of `sign` is set.
[[gnu::always_inline]] inline __m256i negate(__m256i value, __m256i sign) noexcept {
  const __m256i negative = _mm256_cmpgt_epi8(_mm256_setzero_si256(), sign);
  return _mm256_sub_epi8(_mm256_xor_si256(value, negative), negative);
}

template <int SymbolBits>
struct Decoder {
  const WindowTables& tables;
  const std::uint8_t* operator()(const std::uint8_t* codes, std::int64_t steps, std::int64_t first,
                                 std::uint8_t* out) const noexcept {
    using Format = WindowFormat<SymbolBits>;
    using Code = WindowCode<SymbolBits>;
    for (int r = 0; r < 4; ++r) {  // rows 8 r ... 8 r + 7
      const std::uint8_t* lane = codes + r / 2 * (Format::step_bytes / 2) + r % 2 * 32;
      std::uint8_t* to = out + r * 32;
      Bytes last[4];
      load_last<SymbolBits>(lane, first, last);
      for (std::int64_t s = 0; s < steps; ++s, lane += Format::step_bytes) HIGGS_UNROLL
        for (int b = 0; b < Format::blocks; ++b, to += 8 * 128) {
          const WindowBlock block = load_block<SymbolBits>(lane, b, last);
          alignas(32) std::uint8_t indices[4][32];
          HIGGS_UNROLL for (int i = 0; i < 4; ++i)
            store(indices[i], block.window[i]);
          HIGGS_UNROLL for (int i = 0; i < 4; ++i) {
            __m256i points[4];
            look_up_words(tables.words, indices[i], points);
            store(to + 2 * i * 128, negate(points[0], block.signs(Code::x_taps, i)));
            store(to + (2 * i + 1) * 128, negate(points[1], block.signs(Code::y_taps, i)));
          }
        }
    }
    return out;
  }
};

}  // namespace avx2::windows

template <int SymbolBits>
auto chunk_decoder(Avx2, WindowFormat<SymbolBits>, const WindowTables& tables) noexcept {
  return avx2::windows::Decoder<SymbolBits>{tables};
}
HIGGS_TARGET_END

HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace avx512 {
namespace windows {

using Bytes = __m512i;

[[gnu::always_inline]] inline Bytes load(const std::uint8_t* p) noexcept { return _mm512_loadu_si512(p); }
template <int N>
[[gnu::always_inline]] inline Bytes shift_in(Bytes now, Bytes before) noexcept {
  return _mm512_shldi_epi32(now, before, N);
}
/// Both parts as they are, then bytes rotated by an affine instruction.
template <int R>
[[gnu::always_inline]] inline Bytes funnel(Bytes older, Bytes newer) noexcept {
  constexpr std::uint64_t rotation = [] {
    std::uint64_t out = 0;  // byte 7 - i: the source of bit i
    for (int i = 0; i < 8; ++i) out |= std::uint64_t{1} << (i + R) % 8 << 8 * (7 - i);
    return out;
  }();
  // Bitwise select, 0xca: where the mask is set the second operand, else the third.
  const Bytes joined = _mm512_ternarylogic_epi32(_mm512_set1_epi8((1 << R) - 1), newer, older, 0xca);
  return _mm512_gf2p8affine_epi64_epi8(joined, _mm512_set1_epi64(static_cast<long long>(rotation)), 0);
}
[[gnu::always_inline]] inline Bytes upper_nibbles(Bytes x) noexcept { return _mm512_srli_epi16(x, 4); }

#  include <higgs/codes/window/window_block.inc>

}  // namespace windows

template <int SymbolBits>
struct Decoder<WindowFormat<SymbolBits> > {
  using Format = WindowFormat<SymbolBits>;
  using Code = WindowCode<SymbolBits>;
  static constexpr int vectors = Format::blocks, quads = 8 * Format::blocks;
  using Tables = typename Decoder<Lut<8, 2> >::Tables;
  using Indices = windows::WindowBlock;
  struct State {
    __m512i last[4];
  };

  [[gnu::always_inline]] static inline Tables load_tables(const WindowTables& from) noexcept {
    return Decoder<Lut<8, 2> >::load_tables(from);
  }
  [[gnu::always_inline]] static inline State load_state(const std::uint8_t* codes,
                                                        std::int64_t first) noexcept {
    State out;
    windows::load_last<SymbolBits>(codes, first, out.last);
    return out;
  }
  [[gnu::always_inline]] static inline Indices load_indices(const std::uint8_t* codes, int v,
                                                            State& state) noexcept {
    return windows::load_block<SymbolBits>(codes, v, state.last);
  }
  [[gnu::always_inline]] static inline __m512i decode(const Tables& tables, int c,
                                                      const Indices& block) noexcept {
    const __m512i value = look_up(tables.table[c % 2], block.window[c / 2]);
    const __m512i signs = block.signs(c % 2 == 0 ? Code::x_taps : Code::y_taps, c / 2);
    return _mm512_mask_sub_epi8(value, _mm512_movepi8_mask(signs), _mm512_setzero_si512(), value);
  }
};

}  // namespace avx512

template <int SymbolBits>
auto chunk_decoder(Avx512, WindowFormat<SymbolBits>, const WindowTables& tables) noexcept {
  return avx512::ChunkDecoder<WindowFormat<SymbolBits> >{tables};
}
HIGGS_TARGET_END

#elif defined(HIGGS_NEON)
namespace neon::windows {

using Bytes = uint8x16_t;

[[gnu::always_inline]] inline Bytes load(const std::uint8_t* p) noexcept { return vld1q_u8(p); }
template <int N>
[[gnu::always_inline]] inline Bytes shift_in(Bytes now, Bytes before) noexcept {
  return vreinterpretq_u8_u32(
      vsliq_n_u32(vshrq_n_u32(vreinterpretq_u32_u8(before), 32 - N), vreinterpretq_u32_u8(now), N));
}
template <int R>
[[gnu::always_inline]] inline Bytes funnel(Bytes older, Bytes newer) noexcept {
  return vsliq_n_u8(vshrq_n_u8(older, R), newer, 8 - R);
}
[[gnu::always_inline]] inline Bytes upper_nibbles(Bytes x) noexcept { return vshrq_n_u8(x, 4); }

#  include <higgs/codes/window/window_block.inc>

/// Decodes one coordinate of every symbol, with its table in registers.
template <int SymbolBits, unsigned Taps>
inline void decode_coordinate(const std::uint8_t* bytes, const std::uint8_t* codes, std::int64_t steps,
                              std::int64_t first, std::uint8_t* out) noexcept {
  using Format = WindowFormat<SymbolBits>;
  const uint8x16x4_t table0 = vld1q_u8_x4(bytes), table1 = vld1q_u8_x4(bytes + 64),
                     table2 = vld1q_u8_x4(bytes + 128), table3 = vld1q_u8_x4(bytes + 192);
  const auto decode = [&](Bytes window, Bytes signs) __attribute__((always_inline)) {
    const uint8x16_t value = look_up<8>(table0, table1, table2, table3, window);
    const uint8x16_t negative = vreinterpretq_u8_s8(vshrq_n_s8(vreinterpretq_s8_u8(signs), 7));
    return vsubq_u8(veorq_u8(value, negative), negative);
  };
  for (int r = 0; r < 8; ++r) {  // rows 4 r ... 4 r + 3
    const std::uint8_t* lane = codes + r / 4 * (Format::step_bytes / 2) + r % 4 * 16;
    std::uint8_t* to = out + r * 16;
    Bytes last[4];
    load_last<SymbolBits>(lane, first, last);
    for (std::int64_t s = 0; s < steps; ++s, lane += Format::step_bytes) HIGGS_UNROLL
      for (int b = 0; b < Format::blocks; ++b, to += 8 * 128) {
        const WindowBlock block = load_block<SymbolBits>(lane, b, last);
        HIGGS_UNROLL for (int i = 0; i < 4; ++i)
          vst1q_u8(to + 2 * i * 128, decode(block.window[i], block.signs(Taps, i)));
      }
  }
}

template <int SymbolBits>
struct Decoder {
  const WindowTables& tables;
  const std::uint8_t* operator()(const std::uint8_t* codes, std::int64_t steps, std::int64_t first,
                                 std::uint8_t* out) const noexcept {
    using Code = WindowCode<SymbolBits>;
    decode_coordinate<SymbolBits, Code::x_taps>(tables.bytes[0], codes, steps, first, out);
    decode_coordinate<SymbolBits, Code::y_taps>(tables.bytes[1], codes, steps, first, out + 128);
    return out;
  }
};

}  // namespace neon::windows

template <int SymbolBits>
auto chunk_decoder(Neon, WindowFormat<SymbolBits>, const WindowTables& tables) noexcept {
  return neon::windows::Decoder<SymbolBits>{tables};
}
#endif

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
