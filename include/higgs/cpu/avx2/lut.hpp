// SPDX-License-Identifier: Apache-2.0
// Lookups by pshufb, and by loads where an index has four coordinates.
#pragma once

#include <higgs/cpu/avx2/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/lut.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
using higgs::detail::extent;
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
/// it: a lookup of n slices xors pshufb(slice i, index - 16 i), and pshufb gives 0 for what is negative.
struct Slices {
  alignas(32) std::uint8_t bytes[2][16][32];

  Slices(const LutTables& tables, int coordinates, int index_bits) noexcept {
    for (int c = 0; c < coordinates; ++c)
      for (int i = 0; i < 1 << (index_bits - 4); ++i) {
        const auto* table = reinterpret_cast<const __m128i*>(tables.bytes[c]) + i;
        __m128i slice = _mm_load_si128(table);
        if (i % 8 != 0) slice = _mm_xor_si128(slice, _mm_load_si128(table - 1));
        store(bytes[c][i], _mm256_broadcastsi128_si256(slice));
      }
  }
};

/// Looks four vectors of indices up in the tables of `Coordinates`, Count slices each: out[c] ^=. Indices are
/// used up. The empty statement keeps every xor beside its lookup: g++ 12 otherwise spills them by the dozen.
template <int Count, int Coordinates>
[[gnu::always_inline]] inline void look_up(const std::uint8_t (*slices)[16][32], int first,
                                           __m256i (&index)[4],
                                           __m256i (&out)[extent<Coordinates>][4]) noexcept {
  HIGGS_UNROLL for (int i = 0; i < Count; ++i) {
    HIGGS_UNROLL for (int c = 0; c < Coordinates; ++c) {
      const __m256i slice = load(slices[c][first + i]);
      HIGGS_UNROLL for (int r = 0; r < 4; ++r) {
        out[c][r] = _mm256_xor_si256(out[c][r], _mm256_shuffle_epi8(slice, index[r]));
        asm("" : "+x"(out[c][r]));
      }
    }
    if (i + 1 == Count) continue;
    HIGGS_UNROLL for (int r = 0; r < 4; ++r)
      index[r] = _mm256_subs_epi8(index[r], _mm256_set1_epi8(16));
  }
}

/// Coordinates of four vectors of indices, of Bits bits.
template <int Bits, int Coordinates>
[[gnu::always_inline]] inline void decode(const std::uint8_t (*slices)[16][32], const __m256i (&indices)[4],
                                          __m256i (&out)[extent<Coordinates>][4]) noexcept {
  __m256i index[4];
  HIGGS_UNROLL for (int r = 0; r < 4; ++r)
    index[r] = indices[r];
  HIGGS_UNROLL for (int i = 0; i < 4 * Coordinates; ++i)
    out[i / 4][i % 4] = _mm256_setzero_si256();
  look_up<Bits == 8 ? 8 : Bits == 6 ? 4 : 1, Coordinates>(slices, 0, index, out);
  if constexpr (Bits == 8) {
    HIGGS_UNROLL for (int r = 0; r < 4; ++r)
      index[r] = _mm256_xor_si256(indices[r], _mm256_set1_epi8(-128));
    look_up<8, Coordinates>(slices, 8, index, out);
  }
}

/// The indices of a step: out[v][r] holds 4 for each of 8 rows, Bits bits each.
template <int Bits>
[[gnu::always_inline]] inline void load_indices(const std::uint8_t* codes, __m256i (*out)[4]) noexcept {
  constexpr std::int64_t half = Bits == 6 ? 192 : 64;
  const __m256i low4 = _mm256_set1_epi8(15), low6 = _mm256_set1_epi8(63);
  HIGGS_UNROLL for (int r = 0; r < 4; ++r) {
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
    __m256i index[4][4];
    load_indices<Bits>(codes, index);
    HIGGS_UNROLL for (int v = 0; v < vectors; ++v) HIGGS_UNROLL
      for (int c = 0; c < Dim * Planes; c += together) {
        __m256i points[extent<together>][4];
        decode<Bits, together>(slices.bytes + c, index[v], points);
        HIGGS_UNROLL for (int i = 0; i < together; ++i) {
          std::uint8_t* to = out + (Planes == 2 ? (c + i) * chunk_bytes : (v * Dim + c + i) * 128);
          HIGGS_UNROLL for (int r = 0; r < 4; ++r)
            store(to + 32 * r, points[i][r]);
        }
      }
  }
}

/// Four words of a table.
[[gnu::always_inline]] inline __m128i load_words(const std::uint32_t* words,
                                                 const std::uint8_t* indices) noexcept {
  std::uint32_t four;
  std::memcpy(&four, indices, 4);
  const auto word = [&](int i) { return static_cast<int>(words[four >> 8 * i & 255u]); };
  return _mm_setr_epi32(word(0), word(1), word(2), word(3));
}

/// The words of 4 indices of 8 rows, transposed: out[i] holds byte i of them, 4 for each row. Four bytes a load
/// are a third of the time of 16 slices for each.
[[gnu::always_inline]] inline void look_up_words(const std::uint32_t* words, const std::uint8_t* indices,
                                                 __m256i (&out)[4]) noexcept {
  const __m256i by_byte =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  __m256i rows[4];  // j and 4 + j
  HIGGS_UNROLL for (int j = 0; j < 4; ++j) {
    const __m256i low = _mm256_castsi128_si256(load_words(words, indices + 4 * j));
    rows[j] = _mm256_shuffle_epi8(_mm256_inserti128_si256(low, load_words(words, indices + 16 + 4 * j), 1),
                                  by_byte);
  }
  const __m256i a = _mm256_unpacklo_epi32(rows[0], rows[1]), b = _mm256_unpacklo_epi32(rows[2], rows[3]),
                c = _mm256_unpackhi_epi32(rows[0], rows[1]), d = _mm256_unpackhi_epi32(rows[2], rows[3]);
  out[0] = _mm256_unpacklo_epi64(a, b), out[1] = _mm256_unpackhi_epi64(a, b);
  out[2] = _mm256_unpacklo_epi64(c, d), out[3] = _mm256_unpackhi_epi64(c, d);
}

inline void decode_words(const LutTables& tables, const std::uint8_t* codes, std::int64_t steps,
                         std::uint8_t* out) noexcept {
  for (; steps > 0; --steps, codes += 128, out += 4 * 128)
    for (int r = 0; r < 4; ++r) {
      __m256i quads[4];
      look_up_words(tables.words, codes + r * 32, quads);
      HIGGS_UNROLL for (int i = 0; i < 4; ++i)
        store(out + i * 128 + r * 32, quads[i]);
    }
}

/// Decodes the chunks of a panel, with tables prepared once.
template <int Bits, int Dim, int Planes>
struct LutDecoder {
  Slices slices;
  explicit LutDecoder(const LutTables& tables) noexcept : slices(tables, Dim * Planes, Bits) {}
  const std::uint8_t* operator()(const std::uint8_t* codes, std::int64_t steps, std::int64_t /*first*/,
                                 std::uint8_t* out) const noexcept {
    decode_steps<Bits, Dim, Planes>(slices, codes, steps, out);
    return out;
  }
};
template <>
struct LutDecoder<8, 4, 1> {
  const LutTables& tables;
  explicit LutDecoder(const LutTables& from) noexcept : tables(from) {}
  const std::uint8_t* operator()(const std::uint8_t* codes, std::int64_t steps, std::int64_t /*first*/,
                                 std::uint8_t* out) const noexcept {
    decode_words(tables, codes, steps, out);
    return out;
  }
};

}  // namespace avx2

template <int Bits, int Dim, int Planes>
auto chunk_decoder(Avx2, Lut<Bits, Dim, Planes>, const LutTables& tables) noexcept {
  return avx2::LutDecoder<Bits, Dim, Planes>(tables);
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
