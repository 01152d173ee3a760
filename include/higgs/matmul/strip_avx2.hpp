// SPDX-License-Identifier: Apache-2.0
// Strips on processors without AVX-512: lookups by pshufb, of four bytes at once by loads; products of 16-bit
// words or, with AVX-VNNI, of bytes.
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/matmul/activations.hpp>
#include <higgs/matmul/strip.hpp>
#include <higgs/matmul/packed_matrix.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(HIGGS_TARGET_BEGIN)
#  include <immintrin.h>

namespace higgs {
inline namespace v0 {
namespace detail {

HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)
namespace avx2 {

inline __m256i load(const void* p) noexcept { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store(void* p, __m256i x) noexcept { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
[[gnu::always_inline]] inline __m256i broadcast(const void* p) noexcept {
  int value;
  std::memcpy(&value, p, 4);
  return _mm256_set1_epi32(value);
}

/// The tables of every coordinate in slices of 16 entries, each but those at 0 and 128 xor the slice before
/// it: a lookup of n slices xors pshufb(slice i, unit - 16 i), and pshufb gives 0 for what is negative.
struct Slices {
  alignas(32) std::uint8_t bytes[2][16][32];

  explicit Slices(const UnitTables& tables) noexcept {
    if (tables.kind >= UnitKind::Byte4 && tables.kind != UnitKind::Wide1) return;  // they are loaded
    for (int c = 0; c < tables.dim * tables.planes; ++c)
      for (int i = 0; i < 1 << (tables.unit_bits - 4); ++i) {
        const auto* table = reinterpret_cast<const __m128i*>(tables.bytes[c]) + i;
        __m128i slice = _mm_load_si128(table);
        if (i % 8 != 0) slice = _mm_xor_si128(slice, _mm_load_si128(table - 1));
        store(bytes[c][i], _mm256_broadcastsi128_si256(slice));
      }
  }
};

/// Looks four vectors of units up in the tables of `Coordinates`, Count slices each: out[c] ^=. Units are
/// used up. The empty statement keeps every xor beside its lookup: g++ 12 otherwise spills them by the dozen.
template <int Count, int Coordinates>
[[gnu::always_inline]] inline void look_up(const std::uint8_t (*slices)[16][32], int first,
                                           __m256i (&unit)[4],
                                           __m256i (&out)[extent<Coordinates>][4]) noexcept {
  HIGGS_UNROLL
  for (int i = 0; i < Count; ++i) {
    HIGGS_UNROLL
    for (int c = 0; c < Coordinates; ++c) {
      const __m256i slice = load(slices[c][first + i]);
      HIGGS_UNROLL
      for (int r = 0; r < 4; ++r) {
        out[c][r] = _mm256_xor_si256(out[c][r], _mm256_shuffle_epi8(slice, unit[r]));
        asm("" : "+x"(out[c][r]));
      }
    }
    if (i + 1 == Count) continue;
    HIGGS_UNROLL
    for (int r = 0; r < 4; ++r) unit[r] = _mm256_subs_epi8(unit[r], _mm256_set1_epi8(16));
  }
}

/// Coordinates of four vectors of units, of Bits bits.
template <int Bits, int Coordinates>
[[gnu::always_inline]] inline void decode(const std::uint8_t (*slices)[16][32], const __m256i (&units)[4],
                                          __m256i (&out)[extent<Coordinates>][4]) noexcept {
  __m256i unit[4];
  HIGGS_UNROLL
  for (int r = 0; r < 4; ++r) unit[r] = units[r];
  HIGGS_UNROLL
  for (int i = 0; i < 4 * Coordinates; ++i) out[i / 4][i % 4] = _mm256_setzero_si256();
  look_up<Bits == 8 ? 8 : Bits == 6 ? 4 : 1, Coordinates>(slices, 0, unit, out);
  if constexpr (Bits == 8) {
    HIGGS_UNROLL
    for (int r = 0; r < 4; ++r) unit[r] = _mm256_xor_si256(units[r], _mm256_set1_epi8(-128));
    look_up<8, Coordinates>(slices, 8, unit, out);
  }
}

/// The units of a step: out[v][r] holds 4 for each of 8 rows, Bits bits each.
template <int Bits>
[[gnu::always_inline]] inline void load_units(const std::uint8_t* codes, __m256i (*out)[4]) noexcept {
  constexpr std::int64_t half = Bits == 6 ? 192 : 64;
  const __m256i low4 = _mm256_set1_epi8(15), low6 = _mm256_set1_epi8(63);
  HIGGS_UNROLL
  for (int r = 0; r < 4; ++r) {
    const std::uint8_t* lanes = codes + r / 2 * half + r % 2 * 32;
    const __m256i a = load(lanes);
    if constexpr (Bits == 8) out[0][r] = a;
    if constexpr (Bits == 4) {
      out[0][r] = _mm256_and_si256(a, low4);
      out[1][r] = _mm256_and_si256(_mm256_srli_epi16(a, 4), low4);
    }
    if constexpr (Bits == 6) {
      const __m256i b = load(lanes + 64), c = load(lanes + 128);
      out[0][r] = _mm256_and_si256(a, low6);
      out[1][r] = _mm256_and_si256(b, low6);
      out[2][r] = _mm256_and_si256(c, low6);
      out[3][r] =
          _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(a, 6), _mm256_set1_epi8(3)),
                          _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(b, 4), _mm256_set1_epi8(12)),
                                          _mm256_and_si256(_mm256_srli_epi16(c, 2), _mm256_set1_epi8(48))));
    }
  }
}

template <int Bits, int Dim, int Planes>
inline void decode_steps(const Slices& slices, const std::uint8_t* codes, std::int64_t steps,
                         std::uint8_t* out) noexcept {
  constexpr int vectors = Bits == 8 ? 1 : Bits == 4 ? 2 : 4;
  constexpr int together = Dim * Planes == 1 ? 1 : 2;  // coordinates; more do not fit into the registers
  for (; steps > 0; --steps, codes += Bits == 6 ? 384 : 128, out += vectors * Dim * 128) {
    __m256i unit[4][4];
    load_units<Bits>(codes, unit);
    HIGGS_UNROLL
    for (int v = 0; v < vectors; ++v) HIGGS_UNROLL
    for (int c = 0; c < Dim * Planes; c += together) {
      __m256i points[extent<together>][4];
      decode<Bits, together>(slices.bytes + c, unit[v], points);
      HIGGS_UNROLL
      for (int i = 0; i < together; ++i) {
        std::uint8_t* to = out + (Planes == 2 ? (c + i) * chunk_bytes : (v * Dim + c + i) * 128);
        HIGGS_UNROLL
        for (int r = 0; r < 4; ++r) store(to + 32 * r, points[i][r]);
      }
    }
  }
}

/// Four words of a table.
[[gnu::always_inline]] inline __m128i load_words(const std::uint32_t* words,
                                                 const std::uint8_t* units) noexcept {
  std::uint32_t four;
  std::memcpy(&four, units, 4);
  const auto word = [&](int i) { return static_cast<int>(words[four >> 8 * i & 255u]); };
  return _mm_setr_epi32(word(0), word(1), word(2), word(3));
}

/// The words of 4 units of 8 rows, transposed: out[i] holds byte i of them, 4 for each row. Four bytes a load
/// are a third of the time of 16 slices for each.
[[gnu::always_inline]] inline void look_up_words(const std::uint32_t* words, const std::uint8_t* units,
                                                 __m256i (&out)[4]) noexcept {
  const __m256i by_byte =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  __m256i rows[4];  // j and 4 + j
  HIGGS_UNROLL
  for (int j = 0; j < 4; ++j) {
    const __m256i low = _mm256_castsi128_si256(load_words(words, units + 4 * j));
    rows[j] =
        _mm256_shuffle_epi8(_mm256_inserti128_si256(low, load_words(words, units + 16 + 4 * j), 1), by_byte);
  }
  const __m256i a = _mm256_unpacklo_epi32(rows[0], rows[1]), b = _mm256_unpacklo_epi32(rows[2], rows[3]),
                c = _mm256_unpackhi_epi32(rows[0], rows[1]), d = _mm256_unpackhi_epi32(rows[2], rows[3]);
  out[0] = _mm256_unpacklo_epi64(a, b), out[1] = _mm256_unpackhi_epi64(a, b);
  out[2] = _mm256_unpacklo_epi64(c, d), out[3] = _mm256_unpackhi_epi64(c, d);
}

inline void decode_words(const UnitTables& tables, const std::uint8_t* codes, std::int64_t steps,
                         std::uint8_t* out) noexcept {
  for (; steps > 0; --steps, codes += 128, out += 4 * 128)
    for (int r = 0; r < 4; ++r) {
      __m256i quads[4];
      look_up_words(tables.words, codes + r * 32, quads);
      HIGGS_UNROLL
      for (int i = 0; i < 4; ++i) store(out + i * 128 + r * 32, quads[i]);
    }
}

/// decode_chunk() for UnitKind::Signed8.
inline void decode_signed(const UnitTables& tables, const std::uint8_t* codes, std::int64_t steps,
                          std::uint8_t* out) noexcept {
  const __m256i low4 = _mm256_set1_epi8(15), one = _mm256_set1_epi8(1);
  const __m256i middle =
                    _mm256_set1_epi8(static_cast<char>(tables.values[0])),  // level 0 is 0, of either side
      other = _mm256_set1_epi8(static_cast<char>(tables.values[32] - tables.values[0]));
  const __m128i shifted = _mm_load_si128(reinterpret_cast<const __m128i*>(tables.values));
  const __m256i levels = _mm256_broadcastsi128_si256(_mm_sub_epi8(shifted, _mm256_castsi256_si128(middle)));
  const char n = -128;  // parity of 4 bits, in the sign
  const __m256i parities =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, n, n, 0, n, 0, 0, n, n, 0, 0, n, 0, n, n, 0));
  for (; steps > 0; --steps, codes += 256, out += 8 * 128)
    for (int r = 0; r < 4; ++r) {  // rows 8 r ... 8 r + 7
      const std::uint8_t* from = codes + r / 2 * 128 + r % 2 * 32;
      __m256i pairs[4];
      look_up_words(tables.words, from, pairs);
      const __m256i signs = load(from + 64), side = _mm256_cmpgt_epi8(_mm256_setzero_si256(), signs);
      const __m256i center = _mm256_add_epi8(middle, _mm256_and_si256(side, other));
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(signs, 4), _mm256_set1_epi8(7));
      const __m256i last = _mm256_xor_si256(
          load(from), _mm256_xor_si256(_mm256_shuffle_epi8(parities, _mm256_and_si256(signs, low4)),
                                       _mm256_shuffle_epi8(parities, high)));
      HIGGS_UNROLL
      for (int d = 0; d < 8; ++d) {
        const __m256i pair = pairs[d / 2],
                      level = _mm256_and_si256(d % 2 == 0 ? pair : _mm256_srli_epi16(pair, 4), low4);
        const __m256i sign = _mm256_or_si256(d == 7 ? last : _mm256_slli_epi16(signs, 7 - d), one);
        const __m256i magnitude = _mm256_shuffle_epi8(levels, level);
        store(out + d * 128 + r * 32, _mm256_add_epi8(center, _mm256_sign_epi8(magnitude, sign)));
      }
    }
}

/// As portable::decode_chunk.
inline const std::uint8_t* decode_chunk(const StripProduct& p, const Slices& slices,
                                        const std::uint8_t* codes, std::int64_t steps,
                                        std::uint8_t* out) noexcept {
  switch (p.tables->kind) {
    case UnitKind::Byte1:
      return codes;
    case UnitKind::Nibble1:
      decode_steps<4, 1, 1>(slices, codes, steps, out);
      break;
    case UnitKind::Nibble2:
      decode_steps<4, 2, 1>(slices, codes, steps, out);
      break;
    case UnitKind::Six2:
      decode_steps<6, 2, 1>(slices, codes, steps, out);
      break;
    case UnitKind::Byte2:
      decode_steps<8, 2, 1>(slices, codes, steps, out);
      break;
    case UnitKind::Byte4:
      decode_words(*p.tables, codes, steps, out);
      break;
    case UnitKind::Wide1:
      decode_steps<8, 1, 2>(slices, codes, steps, out);
      break;
    case UnitKind::Signed8:
      decode_signed(*p.tables, codes, steps, out);
      break;
  }
  return out;
}

/// parts[i] += the sums of a run times its step, then (or) sums[i] += parts[i] times a scale.
[[gnu::always_inline]] inline void add_run(__m256i total, float step, float* part) noexcept {
  _mm256_storeu_ps(part,
                   _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_set1_ps(step), _mm256_loadu_ps(part)));
}
inline void add_parts(const float* parts, int rows, const float* scales, float* sums) noexcept {
  for (int i = 0; i < rows * strip_rows; i += 8)
    _mm256_storeu_ps(sums + i,
                     _mm256_fmadd_ps(_mm256_loadu_ps(parts + i), _mm256_loadu_ps(scales + i % strip_rows),
                                     _mm256_loadu_ps(sums + i)));
}

/// Codes of the next chunk, some bytes for each quad, into the second cache: decoded bytes fill the first.
struct Ahead {
  const std::uint8_t* at;
  std::int64_t bytes;
  [[gnu::always_inline]] void prefetch() noexcept {
    _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T1);
    at += bytes;
  }
};

/// A run of quads times words: V vectors of 8 rows of the strip, Rows rows of x. Bytes of weights, unsigned,
/// become words by a mask and a shift.
struct WordDot {
  static constexpr QuadOrder order = QuadOrder::Words;
  template <int Rows, int Planes>
  static constexpr int vectors = Rows == 1 ? 4 : 2;

  template <int V, int Rows, int Planes>
  [[gnu::always_inline]] static inline void run(const std::uint8_t* w, const std::uint8_t* quads,
                                                std::int64_t count, const std::int32_t* corrections,
                                                Ahead ahead,
                                                __m256i (&total)[extent<Rows>][extent<V>]) noexcept {
    const __m256i low = _mm256_set1_epi16(255);
    HIGGS_UNROLL
    for (int i = 0; i < Rows * V; ++i) total[i / V][i % V] = _mm256_set1_epi32(corrections[i / V]);
    for (; count > 0; --count, w += 128, quads += 8 * Rows) {
      ahead.prefetch();
      __m256i even[extent<V>], odd[extent<V>];
      HIGGS_UNROLL
      for (int v = 0; v < V; ++v) {
        const __m256i bytes = load(w + 32 * v);
        even[v] = _mm256_and_si256(bytes, low);
        odd[v] = _mm256_srli_epi16(bytes, 8);
      }
      HIGGS_UNROLL
      for (int m = 0; m < Rows; ++m) {
        const __m256i x0 = broadcast(quads + 8 * m), x1 = broadcast(quads + 8 * m + 4);
        HIGGS_UNROLL
        for (int v = 0; v < V; ++v) {
          total[m][v] = _mm256_add_epi32(total[m][v], _mm256_madd_epi16(even[v], x0));
          total[m][v] = _mm256_add_epi32(total[m][v], _mm256_madd_epi16(odd[v], x1));
        }
      }
    }
  }
};

/// The instruction of AVX-VNNI, and that of AVX-512 VNNI which does the same: processors that have one may
/// lack the other.
struct VexDot {
  [[gnu::always_inline]] static inline __m256i add(__m256i total, __m256i weights, __m256i x) noexcept {
    asm("%{vex%} vpdpbusd {%2, %1, %0|%0, %1, %2}" : "+x"(total) : "x"(weights), "x"(x));
    return total;
  }
};
struct EvexDot {
  [[gnu::always_inline]] static inline __m256i add(__m256i total, __m256i weights, __m256i x) noexcept {
    asm("vpdpbusd {%2, %1, %0|%0, %1, %2}" : "+x"(total) : "x"(weights), "x"(x));
    return total;
  }
};

/// The same with bytes.
template <class Instruction>
struct ByteDot {
  static constexpr QuadOrder order = QuadOrder::Bytes;
  template <int Rows, int Planes>
  static constexpr int vectors = Rows * Planes <= 2 ? 4 : 2;

  template <int V, int Rows, int Planes>
  [[gnu::always_inline]] static inline void run(const std::uint8_t* w, const std::uint8_t* quads,
                                                std::int64_t count, const std::int32_t* corrections,
                                                Ahead ahead,
                                                __m256i (&total)[extent<Rows>][extent<V>]) noexcept {
    __m256i high[extent<(Planes == 2 ? Rows : 1)>][extent<V>];  // total: the low plane, or the only one
    HIGGS_UNROLL
    for (int i = 0; i < Rows * V; ++i) {
      total[i / V][i % V] = _mm256_set1_epi32(corrections[i / V]);
      if constexpr (Planes == 2) high[i / V][i % V] = _mm256_setzero_si256();
    }
    for (; count > 0; --count, w += 128, quads += 4 * Planes * Rows) {
      ahead.prefetch();
      __m256i bytes[extent<V>];
      HIGGS_UNROLL
      for (int v = 0; v < V; ++v) bytes[v] = load(w + 32 * v);
      HIGGS_UNROLL
      for (int m = 0; m < Rows; ++m) {
        if constexpr (Planes == 2) {
          const __m256i x = broadcast(quads + 8 * m);
          HIGGS_UNROLL
          for (int v = 0; v < V; ++v) high[m][v] = Instruction::add(high[m][v], bytes[v], x);
        }
        const __m256i x = broadcast(quads + 4 * (Planes * m + Planes - 1));
        HIGGS_UNROLL
        for (int v = 0; v < V; ++v) total[m][v] = Instruction::add(total[m][v], bytes[v], x);
      }
    }
    if constexpr (Planes == 2) {
      HIGGS_UNROLL
      for (int i = 0; i < Rows * V; ++i)
        total[i / V][i % V] = _mm256_add_epi32(total[i / V][i % V], _mm256_slli_epi32(high[i / V][i % V], 8));
    }
  }
};

/// As portable::dot_chunk, for panels in Dot's order.
template <class Dot, int Rows, int Planes>
inline void dot_rows(const Chunk& chunk, const Panel& panel, float* sums) noexcept {
  constexpr int vectors = Dot::template vectors<Rows, Planes>;
  constexpr std::int64_t quad_bytes = Rows * (Dot::order == QuadOrder::Words ? 8 : 4 * Planes);
  alignas(32) float parts[extent<Rows * strip_rows>] = {};
  std::int64_t run = chunk.first_run * Rows;
  for (std::int64_t first = 0; first < chunk.quads; first += chunk.run_quads, run += Rows) {
    const std::int64_t count = std::min(chunk.run_quads, chunk.quads - first);
    float factor = 1.0f;
    for (int plane = 0; plane < chunk.planes; ++plane, factor *= 256.0f) {
      for (int row = 0; row < strip_rows; row += 8 * vectors) {
        __m256i total[extent<Rows>][extent<vectors>];
        // Once; not of bytes that are multiplied where they lie, which hardware foresees.
        const bool wanted = row == 0 && plane == 0 && chunk.ahead_bytes < 128;
        const Ahead ahead{chunk.ahead + first * chunk.ahead_bytes, wanted ? chunk.ahead_bytes : 0};
        Dot::template run<vectors, Rows, Planes>(chunk.weights + plane * chunk_bytes + first * 128 + 4 * row,
                                                 panel.quads + (chunk.first_quad + first) * quad_bytes, count,
                                                 panel.corrections + run, ahead, total);
        HIGGS_UNROLL
        for (int i = 0; i < Rows * vectors; ++i)
          add_run(total[i / vectors][i % vectors], panel.steps[run + i / vectors] * factor,
                  parts + i / vectors * strip_rows + row + i % vectors * 8);
      }
    }
  }
  add_parts(parts, Rows, chunk.scales, sums);
}

/// Rows of x in a panel.
constexpr int panel_rows(QuadOrder order, int planes) noexcept {
  return order == QuadOrder::Words ? 4 : planes == 2 ? 3 : 6;
}

template <class Dot, int Planes>
inline void dot_chunk(const Chunk& chunk, const Panel& panel, float* sums) noexcept {
  switch (panel.rows) {
    case 1:
      return dot_rows<Dot, 1, Planes>(chunk, panel, sums);
    case 2:
      return dot_rows<Dot, 2, Planes>(chunk, panel, sums);
    case 3:
      return dot_rows<Dot, 3, Planes>(chunk, panel, sums);
    default:
      break;
  }
  if constexpr (panel_rows(Dot::order, Planes) > 3) {
    if (panel.rows == 4) return dot_rows<Dot, 4, Planes>(chunk, panel, sums);
  }
  if constexpr (panel_rows(Dot::order, Planes) > 4) {
    if (panel.rows == 5) return dot_rows<Dot, 5, Planes>(chunk, panel, sums);
    if (panel.rows == 6) return dot_rows<Dot, 6, Planes>(chunk, panel, sums);
  }
}

template <class Dot>
inline void strip_product(const StripProduct& p, const Panel* panels, std::int64_t panel_count,
                          float* sums) noexcept {
  const Slices slices(*p.tables);
  const auto decode = [&](const std::uint8_t* codes, std::int64_t steps, std::uint8_t* out) {
    return decode_chunk(p, slices, codes, steps, out);
  };
  const bool two = Dot::order == QuadOrder::Bytes && p.runs->planes == 2;
  for_each_chunk(p, panels, panel_count, sums, Isa::Avx2, decode,
                 two ? dot_chunk<Dot, 2> : dot_chunk<Dot, 1>);
}

}  // namespace avx2
HIGGS_TARGET_END

}  // namespace detail
}  // namespace v0
}  // namespace higgs
#endif
