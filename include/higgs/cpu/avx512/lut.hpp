// SPDX-License-Identifier: Apache-2.0
// Lookups by byte permutes.
#pragma once

#include <higgs/cpu/avx2/lut.hpp>
#include <higgs/cpu/avx512/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/lut.hpp>

#include <cstddef>
#include <cstdint>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace avx512 {

/// How the kernels decode a packed format in registers. A specialization has
///     vectors, quads             vectors of indices in half a step, quads of activations in a step
///     load_tables(Tables)        the tables in registers
///     load_indices(codes, out)   the indices of half a step, 4 for each of 16 rows in a vector
///     decode(tables, c, index, v)  coordinate c of vector v of indices, 128 added; planes follow each other
/// Where coordinates depend on indices before theirs in the group, the specialization has instead of the last two
///     State                           what a vector must know of those before, for 16 rows; zero where a group begins
///     load_state(codes, first)        the state before step `first` of a group; `codes` is half of that step
///     load_indices(codes, v, state)   vector v of indices; makes `state` that of the next vector
///     decode(tables, c, indices)      coordinate c of them, 128 added, one plane
/// A format without a specialization is decoded to memory by its chunk_decoder().
template <class Format>
struct Decoder;

template <class Format>
concept DecodesInRegisters = requires { Decoder<Format>::vectors; };

/// Whether coordinates depend on indices before theirs.
template <class Format>
concept DecodesInSequence = requires { typename Decoder<Format>::State; };

/// 64 entries of a table of 256, kept as two of 128. Each lookup replaces the indices that are its own and
/// leaves the others: no blend.
[[gnu::always_inline]] inline __m512i look_up(const __m512i (&table)[4], __m512i index) {
  const __mmask64 high = _mm512_movepi8_mask(index);
  const __m512i low = _mm512_mask2_permutex2var_epi8(table[0], index, _knot_mask64(high), table[1]);
  return _mm512_mask2_permutex2var_epi8(table[2], low, high, table[3]);
}

template <int Bits, int Dim, int Planes>
struct Decoder<Lut<Bits, Dim, Planes>> {
  static constexpr int vectors = Bits == 8 ? 1 : Bits == 4 ? 2 : 4;
  static constexpr int registers = Bits == 8 ? 4 : 1;  // registers of a table
  static constexpr int quads = vectors * Dim;

  struct Tables {
    __m512i table[extent<Dim * Planes>][extent<registers>];
  };
  [[gnu::always_inline]] static inline Tables load_tables(const LutTables& from) noexcept {
    Tables out;
    HIGGS_UNROLL for (int i = 0; i < Dim * Planes * registers; ++i)
      out.table[i / registers][i % registers] =
          _mm512_loadu_si512(from.bytes[i / registers] + 64 * (i % registers));
    return out;
  }

  /// Bits above those of an index stay: permutes ignore bits 6 and 7, and tables of 4 bits repeat.
  [[gnu::always_inline]] static inline void load_indices(const std::uint8_t* codes, __m512i* index) noexcept {
    index[0] = _mm512_loadu_si512(codes);
    if constexpr (Bits == 4) index[1] = _mm512_srli_epi16(index[0], 4);
    if constexpr (Bits == 6) {
      index[1] = _mm512_loadu_si512(codes + 64);
      index[2] = _mm512_loadu_si512(codes + 128);
      const __m512i b = _mm512_srli_epi16(index[1], 4), c = _mm512_srli_epi16(index[2], 2);
      // Bitwise select, 0xca: where the mask is set the second operand, else the third.
      const __m512i bc = _mm512_ternarylogic_epi32(_mm512_set1_epi8(0x0c), b, c, 0xca);
      index[3] = _mm512_ternarylogic_epi32(_mm512_set1_epi8(0x03), _mm512_srli_epi16(index[0], 6), bc, 0xca);
    }
  }

  [[gnu::always_inline]] static inline __m512i decode(const Tables& tables, int c, const __m512i* index,
                                                      int v) noexcept {
    if constexpr (Bits < 8)
      return _mm512_permutexvar_epi8(index[v], tables.table[c][0]);
    else
      return look_up(tables.table[c], index[v]);
  }
};

template <>
struct Decoder<CoordinateBytes> {
  static constexpr int vectors = 1, quads = 1;
  struct Tables {};
  [[gnu::always_inline]] static inline Tables load_tables(const CoordinateBytes::Tables&) noexcept {
    return {};
  }
  [[gnu::always_inline]] static inline void load_indices(const std::uint8_t* codes, __m512i* index) noexcept {
    index[0] = _mm512_loadu_si512(codes);
  }
  [[gnu::always_inline]] static inline __m512i decode(const Tables&, int, const __m512i* index,
                                                      int v) noexcept {
    return index[v];
  }
};

/// Decodes chunks as chunk_decoder() says.
template <class Format>
inline const std::uint8_t* decode_chunk(const typename Format::Tables& from, const std::uint8_t* codes,
                                        std::int64_t steps, std::uint8_t* out) noexcept {
  using U = Decoder<Format>;
  const auto tables = U::load_tables(from);
  std::uint8_t* to = out;
  for (; steps > 0; --steps, codes += Format::step_bytes, to += 128 * U::quads) {
    HIGGS_UNROLL for (int half = 0; half < 2; ++half) {
      __m512i index[4];
      U::load_indices(codes + half * (Format::step_bytes / 2), index);
      HIGGS_UNROLL for (int v = 0; v < U::vectors; ++v) HIGGS_UNROLL
        for (int c = 0; c < Format::dim * Format::planes; ++c)
          _mm512_store_si512(
              to + (Format::planes == 2 ? c * chunk_bytes : (v * Format::dim + c) * 128) + half * 64,
              U::decode(tables, c, index, v));
    }
  }
  return out;
}

/// Calls visit(indices, v) for vectors v of `steps` steps of 16 rows, where coordinates depend on indices before theirs.
/// Indices take a while: with LoadsAhead those of the next vector are loaded before this one is visited, which one more
/// load pays for. `state` is that before the first step and becomes that after the last one.
template <DecodesInSequence Format, bool LoadsAhead, class Visit>
[[gnu::always_inline]] inline void for_each_vector(const std::uint8_t* codes, std::int64_t steps,
                                                   typename Decoder<Format>::State& state,
                                                   const Visit& visit) noexcept {
  using U = Decoder<Format>;
  if constexpr (!LoadsAhead) {
    for (; steps > 0; --steps, codes += Format::step_bytes) HIGGS_UNROLL
      for (int v = 0; v < U::vectors; ++v) visit(U::load_indices(codes, v, state), v);
    return;
  }
  auto indices = U::load_indices(codes, 0, state);
  auto reached = state;
  for (; steps > 0; --steps) {
    const std::uint8_t* next_step = codes + (steps > 1 ? Format::step_bytes : 0);  // no step after the last
    HIGGS_UNROLL for (int v = 0; v < U::vectors; ++v) {
      reached = state;
      const bool ends = v + 1 == U::vectors;
      const auto next = U::load_indices(ends ? next_step : codes, ends ? 0 : v + 1, state);
      visit(indices, v);
      indices = next;
    }
    codes = next_step;
  }
  state = reached;
}

/// The same where coordinates depend on indices before theirs: half of the rows, then the others.
template <DecodesInSequence Format>
inline const std::uint8_t* decode_chunk(const typename Format::Tables& from, const std::uint8_t* codes,
                                        std::int64_t steps, std::int64_t first, std::uint8_t* out) noexcept {
  using U = Decoder<Format>;
  const auto tables = U::load_tables(from);
  for (int half = 0; half < 2; ++half) {
    const std::uint8_t* lanes = codes + half * (Format::step_bytes / 2);
    std::uint8_t* to = out + half * 64;
    auto state = U::load_state(lanes, first);
    for_each_vector<Format, true>(lanes, steps, state,
                                  [&](const auto& indices, int) __attribute__((always_inline)) {
                                    HIGGS_UNROLL for (int c = 0; c < Format::dim; ++c)
                                      _mm512_store_si512(to + c * 128, U::decode(tables, c, indices));
                                    to += Format::dim * 128;
                                  });
  }
  return out;
}

/// A chunk_decoder() that decodes in registers.
template <class Format>
struct ChunkDecoder {
  const typename Format::Tables& tables;
  const std::uint8_t* operator()(const std::uint8_t* codes, std::int64_t steps, std::int64_t first,
                                 std::uint8_t* out) const noexcept {
    if constexpr (DecodesInSequence<Format>)
      return decode_chunk<Format>(tables, codes, steps, first, out);
    else
      return decode_chunk<Format>(tables, codes, steps, out);
  }
};

}  // namespace avx512

template <int Bits, int Dim, int Planes>
auto chunk_decoder(Avx512, Lut<Bits, Dim, Planes>, const LutTables& tables) noexcept {
  return avx512::ChunkDecoder<Lut<Bits, Dim, Planes>>{tables};
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
