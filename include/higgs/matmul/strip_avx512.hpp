// SPDX-License-Identifier: Apache-2.0
// Strips with AVX-512 VBMI and VNNI: lookups by byte permutes, dot products of bytes.
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/matmul/activations.hpp>
#include <higgs/matmul/strip.hpp>
#include <higgs/matmul/packed_matrix.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(HIGGS_TARGET_BEGIN)
#  include <immintrin.h>

namespace higgs {
inline namespace v0 {
namespace detail {

HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace avx512 {

/// Kinds as constants.
template <UnitKind Kind>
struct Unit {
  static constexpr int bits = Kind == UnitKind::Six2      ? 6
                              : Kind <= UnitKind::Nibble2 ? 4
                              : Kind == UnitKind::Signed8 ? 16
                                                          : 8;
  static constexpr int dim = Kind == UnitKind::Signed8 ? 8
                             : Kind == UnitKind::Byte4 ? 4
                             : Kind == UnitKind::Nibble2 || Kind == UnitKind::Six2 || Kind == UnitKind::Byte2
                                 ? 2
                                 : 1;
  static constexpr int planes = Kind == UnitKind::Wide1 ? 2 : 1;
  static constexpr int coordinates = dim * planes;
  static constexpr int loads = bits == 6 ? 3 : bits == 16 ? 2 : 1;                   // vectors of half a step
  static constexpr int vectors = bits >= 8 ? 1 : bits == 4 ? 2 : 4;                  // of units in them
  static constexpr int registers = Kind == UnitKind::Byte1 ? 0 : bits >= 8 ? 4 : 1;  // of a table
  static constexpr int quads = vectors * dim;  // of activations in a step
};

template <UnitKind Kind>
struct Tables {
  __m512i table[Unit<Kind>::coordinates][Unit<Kind>::registers == 0 ? 1 : Unit<Kind>::registers];
};
/// Of Signed8, byte permutes give two levels at once, and a permute of 64 values makes one of them a
/// coordinate. Its index is a level, a sign, and the side in bit 5. The sign is in bit 4, 0, 3 or 1 (of
/// coordinates d % 4), so that a unit's signs, brought into place once, serve four coordinates.
template <>
struct Tables<UnitKind::Signed8> {
  __m512i table[4][4], values[4];
};
inline constexpr unsigned sign_bits[4] = {4, 0, 3, 1};

/// The matrix of vgf2p8affineqb that makes bit i of a byte the parity of its bits `sources[i]`.
constexpr long long bit_matrix(std::array<unsigned, 8> sources) noexcept {
  std::uint64_t out = 0;
  for (std::size_t i = 0; i < 8; ++i) out |= std::uint64_t{sources[i]} << 8 * (7 - i);
  return static_cast<long long>(out);
}
/// The index as values[] of UnitTables have it from one whose sign is in another bit.
constexpr long long index_matrix(int d) noexcept {
  std::array<unsigned, 8> sources{};
  for (unsigned i = 0, level = 0; i < 5; ++i) sources[i == sign_bits[d] ? 4 : level++] = 1u << i;
  sources[5] = 1u << 5;
  return bit_matrix(sources);
}

template <UnitKind Kind>
[[gnu::always_inline]] inline Tables<Kind> load_tables(const UnitTables& from) {
  Tables<Kind> out;
  if constexpr (Kind == UnitKind::Signed8) {
    // Levels of coordinates 2 and 3: bits 0, 1, 2, 4 and, once they are shifted right by 3, 0, 2, 3, 4.
    const __m512i scatter = _mm512_set1_epi64(bit_matrix({1, 2, 4, 16, 8, 32, 64, 128}));
    alignas(64) std::uint8_t all[64];
    for (std::uint8_t i = 0; i < 64; ++i) all[i] = i;
    for (int i = 0; i < 4; ++i) {
      const __m512i matrix = _mm512_set1_epi64(index_matrix(i));
      out.values[i] = _mm512_permutexvar_epi8(
          _mm512_gf2p8affine_epi64_epi8(_mm512_load_si512(all), matrix, 0), _mm512_load_si512(from.values));
      for (int r = 0; r < 4; ++r) {
        out.table[i][r] = _mm512_load_si512(from.bytes[i] + 64 * r);
        if (i % 2 != 0) out.table[i][r] = _mm512_gf2p8affine_epi64_epi8(out.table[i][r], scatter, 0);
      }
    }
  } else {
    HIGGS_UNROLL
    for (int c = 0; c < Unit<Kind>::coordinates; ++c) HIGGS_UNROLL
    for (int r = 0; r < Unit<Kind>::registers; ++r)
      out.table[c][r] = _mm512_loadu_si512(from.bytes[c] + 64 * r);
  }
  return out;
}

/// The units of half a step, 4 for each of 16 rows in a vector. Bits above those of a unit are left as they
/// come: permutes ignore bits 6 and 7, and tables of 4 bits are repeated. Of Signed8: patterns, then signs
/// and side as the indices of coordinates 0 to 3 and 4 to 7 have them.
template <UnitKind Kind>
[[gnu::always_inline]] inline void load_units(const std::uint8_t* codes, __m512i* unit) {
  unit[0] = _mm512_loadu_si512(codes);
  if constexpr (Unit<Kind>::bits == 4) unit[1] = _mm512_srli_epi16(unit[0], 4);
  if constexpr (Kind == UnitKind::Signed8) {
    constexpr long long first = bit_matrix({1u << 1, 1u << 3, 0, 1u << 2, 1u << 0, 1u << 7}),
                        second = bit_matrix({1u << 5, 0x7f, 0, 1u << 6, 1u << 4, 1u << 7});
    const __m512i signs = _mm512_loadu_si512(codes + 64);
    unit[1] = _mm512_gf2p8affine_epi64_epi8(signs, _mm512_set1_epi64(first), 0);
    unit[2] = _mm512_gf2p8affine_epi64_epi8(signs, _mm512_set1_epi64(second), 0);
    // Patterns from 128 on have an odd number of signs.
    const __m512i flipped = _mm512_xor_si512(unit[2], _mm512_set1_epi8(2));
    unit[2] = _mm512_mask_mov_epi8(unit[2], _mm512_movepi8_mask(unit[0]), flipped);
  }
  if constexpr (Unit<Kind>::bits == 6) {
    unit[1] = _mm512_loadu_si512(codes + 64);
    unit[2] = _mm512_loadu_si512(codes + 128);
    const __m512i b = _mm512_srli_epi16(unit[1], 4), c = _mm512_srli_epi16(unit[2], 2);
    // Bitwise select, 0xca: where the mask is set the second operand, else the third.
    const __m512i bc = _mm512_ternarylogic_epi32(_mm512_set1_epi8(0x0c), b, c, 0xca);
    unit[3] = _mm512_ternarylogic_epi32(_mm512_set1_epi8(0x03), _mm512_srli_epi16(unit[0], 6), bc, 0xca);
  }
}

/// 64 entries of a table of 256, kept as two of 128. Each lookup replaces the units that are its own and
/// leaves the others: no blend.
[[gnu::always_inline]] inline __m512i look_up(const __m512i (&table)[4], __m512i unit) {
  const __mmask64 high = _mm512_movepi8_mask(unit);
  const __m512i low = _mm512_mask2_permutex2var_epi8(table[0], unit, _knot_mask64(high), table[1]);
  return _mm512_mask2_permutex2var_epi8(table[2], low, high, table[3]);
}

/// One coordinate of vector v of units, 128 added.
template <UnitKind Kind>
[[gnu::always_inline]] inline __m512i decode(const Tables<Kind>& tables, int c, const __m512i* unit, int v) {
  if constexpr (Kind == UnitKind::Signed8) {
    __m512i levels = look_up(tables.table[c / 2], unit[0]);
    if (c % 2 != 0) levels = _mm512_srli_epi16(levels, 3);
    // Bitwise select, 0xca: where the mask is set the second operand, else the third.
    const __m512i level_bits = _mm512_set1_epi8(static_cast<char>(31 & ~(1 << sign_bits[c % 4])));
    const __m512i index = _mm512_ternarylogic_epi32(level_bits, levels, unit[1 + c / 4], 0xca);
    return _mm512_permutexvar_epi8(index, tables.values[c % 4]);
  }
  if constexpr (Kind == UnitKind::Byte1) return unit[v];
  if constexpr (Unit<Kind>::bits < 8) return _mm512_permutexvar_epi8(unit[v], tables.table[c][0]);
  if constexpr (Unit<Kind>::registers == 4 && Kind != UnitKind::Signed8)
    return look_up(tables.table[c], unit[v]);
}

/// The factors of a group's rows.
[[gnu::always_inline]] inline void load_scales(const std::uint8_t* group, __m512* scales) {
  scales[0] = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(group)));
  scales[1] = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(group + 32)));
}

[[gnu::always_inline]] inline __m512i broadcast_quad(const std::uint8_t* quad) {
  int value;
  std::memcpy(&value, quad, 4);
  return _mm512_set1_epi32(value);
}

/// total + dot products of each lane's 4 bytes. As assembly: of the intrinsic, g++ 12 keeps every sum twice
/// and spills half of them.
[[gnu::always_inline]] inline __m512i add_dot(__m512i total, __m512i weights, __m512i x) {
  asm("vpdpbusd {%2, %1, %0|%0, %1, %2}" : "+v"(total) : "v"(weights), "v"(x));
  return total;
}

/// part + a run's sums times its step. By value, since g++ keeps arrays whose address is taken in memory; a
/// single plane passes itself twice.
template <int Planes>
[[gnu::always_inline]] inline __m512 add_run(__m512i high, __m512i low, float step, __m512 part) {
  if constexpr (Planes == 2) low = _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), _mm512_set1_ps(step), part);
}

[[gnu::always_inline]] inline void add_part(__m512 part, __m512 scale, float* sums) {
  _mm512_storeu_ps(sums, _mm512_fmadd_ps(part, scale, _mm512_loadu_ps(sums)));
}

/// Few rows of x: codes go from memory to registers to the dot product. sums (Rows, 32) +=.
template <UnitKind Kind, int Rows, int Planes>
inline void stream_strip(const StripProduct& p, const Panel& panel, float* sums) noexcept {
  using U = Unit<Kind>;
  constexpr int columns = Rows * Planes;
  constexpr std::int64_t step_bytes = 128 * U::loads, act_bytes = 4 * columns * U::quads;
  const Tables<Kind> tables = load_tables<Kind>(*p.tables);
  const std::int64_t steps = p.layout->steps_per_group(), chunk_steps = p.steps_per_chunk(),
                     run_steps = p.steps_per_run();
  const std::uint8_t* codes = p.strip;
  const std::uint8_t* quads = panel.quads;
  const float* step = panel.steps;
  const std::int32_t* correction = panel.corrections;
  for (std::int64_t g = 0; g < p.layout->groups; ++g) {
    __m512 scales[2];
    load_scales(codes, scales);
    codes += 2 * strip_rows;
    for (std::int64_t chunk = 0; chunk < steps; chunk += chunk_steps) {
      __m512 part[2][extent<Rows>];
      HIGGS_UNROLL
      for (int i = 0; i < 2 * Rows; ++i) part[i % 2][i / 2] = _mm512_setzero_ps();
      const std::int64_t end = std::min(chunk + chunk_steps, steps);
      for (std::int64_t first = chunk; first < end; first += run_steps, step += Rows, correction += Rows) {
        __m512i total[2][extent<U::planes>][extent<columns>];
        HIGGS_UNROLL
        for (int i = 0; i < U::planes * columns; ++i)
          total[0][i / columns][i % columns] = total[1][i / columns][i % columns] =
              i % Planes == Planes - 1 ? _mm512_set1_epi32(correction[i % columns / Planes])
                                       : _mm512_setzero_si512();
        for (std::int64_t s = std::min(run_steps, end - first); s > 0;
             --s, codes += step_bytes, quads += act_bytes) {
          HIGGS_UNROLL
          for (int i = 0; i < 2 * U::loads; ++i)
            _mm_prefetch(reinterpret_cast<const char*>(codes + 4096 + 64 * i), _MM_HINT_T0);
          __m512i unit[2][4];
          load_units<Kind>(codes, unit[0]);
          load_units<Kind>(codes + step_bytes / 2, unit[1]);
          HIGGS_UNROLL
          for (int v = 0; v < U::vectors; ++v) {
            HIGGS_UNROLL
            for (int d = 0; d < U::dim; ++d) {
              __m512i w[2][U::planes];
              HIGGS_UNROLL
              for (int plane = 0; plane < U::planes; ++plane) {
                w[0][plane] = decode<Kind>(tables, plane + d, unit[0], v);
                w[1][plane] = decode<Kind>(tables, plane + d, unit[1], v);
              }
              HIGGS_UNROLL
              for (int c = 0; c < columns; ++c) {
                const __m512i x = broadcast_quad(quads + 4 * ((v * U::dim + d) * columns + c));
                HIGGS_UNROLL
                for (int plane = 0; plane < U::planes; ++plane) {
                  total[0][plane][c] = add_dot(total[0][plane][c], w[0][plane], x);
                  total[1][plane][c] = add_dot(total[1][plane][c], w[1][plane], x);
                }
              }
            }
          }
        }
        HIGGS_UNROLL
        for (int plane = 0; plane < U::planes; ++plane) HIGGS_UNROLL
        for (int i = 0; i < 2 * Rows; ++i)
          part[i % 2][i / 2] = add_run<Planes>(
              total[i % 2][plane][i / 2 * Planes], total[i % 2][plane][i / 2 * Planes + Planes - 1],
              step[i / 2] * (plane == 0 ? 1.0f : 256.0f), part[i % 2][i / 2]);
      }
      HIGGS_UNROLL
      for (int i = 0; i < 2 * Rows; ++i)
        add_part(part[i % 2][i / 2], scales[i % 2], sums + i / 2 * strip_rows + i % 2 * 16);
    }
  }
}

/// As portable::decode_chunk.
template <UnitKind Kind>
inline const std::uint8_t* decode_chunk(const StripProduct& p, const std::uint8_t* codes, std::int64_t steps,
                                        std::uint8_t* out) noexcept {
  using U = Unit<Kind>;
  if constexpr (Kind == UnitKind::Byte1) return codes;
  const Tables<Kind> tables = load_tables<Kind>(*p.tables);
  std::uint8_t* to = out;
  for (; steps > 0; --steps, codes += 128 * U::loads, to += 128 * U::quads) {
    HIGGS_UNROLL
    for (int half = 0; half < 2; ++half) {
      __m512i unit[4];
      load_units<Kind>(codes + half * 64 * U::loads, unit);
      HIGGS_UNROLL
      for (int v = 0; v < U::vectors; ++v) HIGGS_UNROLL
      for (int c = 0; c < U::coordinates; ++c)
        _mm512_store_si512(to + (U::planes == 2 ? c * chunk_bytes : (v * U::dim + c) * 128) + half * 64,
                           decode<Kind>(tables, c, unit, v));
    }
  }
  return out;
}

/// As portable::dot_chunk, for a panel of Rows rows in QuadOrder::Bytes. With 6 rows and one plane, 12 sums
/// of integers and 12 of floats stay in registers; a run of two planes is a whole chunk.
template <int Rows, int Planes>
inline void dot_chunk(const Chunk& chunk, const Panel& panel, float* sums) noexcept {
  constexpr int columns = Rows * Planes;
  __m512 part[2][extent<Rows>];
  HIGGS_UNROLL
  for (int m = 0; m < Rows; ++m) part[0][m] = part[1][m] = _mm512_setzero_ps();
  const std::uint8_t* quads = panel.quads + chunk.first_quad * 4 * columns;
  const float* step = panel.steps + chunk.first_run * Rows;
  const std::int32_t* correction = panel.corrections + chunk.first_run * Rows;
  const std::uint8_t* ahead = chunk.ahead;
  const std::ptrdiff_t to_next = chunk.next->quads - panel.quads;
  for (std::int64_t first = 0; first < chunk.quads;
       first += chunk.run_quads, quads += chunk.run_quads * 4 * columns, step += Rows, correction += Rows) {
    const std::int64_t count = std::min(chunk.run_quads, chunk.quads - first);
    float factor = 1.0f;
    for (int plane = 0; plane < chunk.planes; ++plane, factor *= 256.0f) {
      __m512i total[2][extent<columns>];
      HIGGS_UNROLL
      for (int c = 0; c < columns; ++c)
        total[0][c] = total[1][c] =
            c % Planes == Planes - 1 ? _mm512_set1_epi32(correction[c / Planes]) : _mm512_setzero_si512();
      const std::uint8_t* w = chunk.weights + plane * chunk_bytes + first * 128;
      const std::uint8_t* x = quads;
      for (std::int64_t i = count; i > 0; --i, w += 128, x += 4 * columns, ahead += chunk.ahead_bytes) {
        _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(x + to_next), _MM_HINT_T0);
        const __m512i w0 = _mm512_loadu_si512(w), w1 = _mm512_loadu_si512(w + 64);
        HIGGS_UNROLL
        for (int c = 0; c < columns; ++c) {
          const __m512i each = broadcast_quad(x + 4 * c);
          total[0][c] = add_dot(total[0][c], w0, each);
          total[1][c] = add_dot(total[1][c], w1, each);
        }
      }
      HIGGS_UNROLL
      for (int m = 0; m < Rows; ++m) {
        const int high = m * Planes, low = high + Planes - 1;
        part[0][m] = add_run<Planes>(total[0][high], total[0][low], step[m] * factor, part[0][m]);
        part[1][m] = add_run<Planes>(total[1][high], total[1][low], step[m] * factor, part[1][m]);
      }
    }
  }
  const __m512 scale0 = _mm512_load_ps(chunk.scales), scale1 = _mm512_load_ps(chunk.scales + 16);
  HIGGS_UNROLL
  for (int m = 0; m < Rows; ++m) {
    add_part(part[0][m], scale0, sums + m * strip_rows);
    add_part(part[1][m], scale1, sums + m * strip_rows + 16);
  }
}

/// Rows of x in a panel.
inline constexpr int panel_rows = 6;

using DotChunk = void (*)(const Chunk&, const Panel&, float*) noexcept;
/// By rows of a panel, less one.
template <int Planes>
inline constexpr std::array<DotChunk, panel_rows> dot_chunks =
    []<int... I>(std::integer_sequence<int, I...>) {
      return std::array<DotChunk, panel_rows>{dot_chunk<I + 1, Planes>...};
    }(std::make_integer_sequence<int, panel_rows>{});

template <UnitKind Kind>
inline void strip_product(const StripProduct& p, const Panel* panels, std::int64_t panel_count,
                          float* sums) noexcept {
  const bool two = p.runs->planes == 2;
  if (panel_count == 1 && panels->rows == 1)
    return two ? stream_strip<Kind, 1, 2>(p, *panels, sums) : stream_strip<Kind, 1, 1>(p, *panels, sums);
  if (panel_count == 1 && panels->rows == 2)
    return two ? stream_strip<Kind, 2, 2>(p, *panels, sums) : stream_strip<Kind, 2, 1>(p, *panels, sums);
  const auto decode = [&p](const std::uint8_t* codes, std::int64_t steps, std::uint8_t* out) {
    return decode_chunk<Kind>(p, codes, steps, out);
  };
  const DotChunk* const dots = two ? dot_chunks<2>.data() : dot_chunks<1>.data();
  const auto dot = [dots](const Chunk& chunk, const Panel& panel, float* y) {
    dots[panel.rows - 1](chunk, panel, y);
  };
  for_each_chunk(p, panels, panel_count, sums, Isa::Avx512, decode, dot);
}

/// Calls visit with the kind as a constant.
template <class Visit>
inline auto with_kind(UnitKind kind, const Visit& visit) noexcept {
  switch (kind) {
    case UnitKind::Nibble1:
      return visit(std::integral_constant<UnitKind, UnitKind::Nibble1>{});
    case UnitKind::Nibble2:
      return visit(std::integral_constant<UnitKind, UnitKind::Nibble2>{});
    case UnitKind::Six2:
      return visit(std::integral_constant<UnitKind, UnitKind::Six2>{});
    case UnitKind::Byte2:
      return visit(std::integral_constant<UnitKind, UnitKind::Byte2>{});
    case UnitKind::Byte4:
      return visit(std::integral_constant<UnitKind, UnitKind::Byte4>{});
    case UnitKind::Wide1:
      return visit(std::integral_constant<UnitKind, UnitKind::Wide1>{});
    case UnitKind::Signed8:
      return visit(std::integral_constant<UnitKind, UnitKind::Signed8>{});
    default:
      return visit(std::integral_constant<UnitKind, UnitKind::Byte1>{});
  }
}

inline const std::uint8_t* decode_chunk(const StripProduct& p, const std::uint8_t* codes, std::int64_t steps,
                                        std::uint8_t* out) noexcept {
  return with_kind(p.tables->kind, [&](auto kind) { return decode_chunk<kind.value>(p, codes, steps, out); });
}

inline void strip_product(const StripProduct& p, const Panel* panels, std::int64_t panel_count,
                          float* sums) noexcept {
  with_kind(p.tables->kind, [&](auto kind) { strip_product<kind.value>(p, panels, panel_count, sums); });
}

}  // namespace avx512
HIGGS_TARGET_END

}  // namespace detail
}  // namespace v0
}  // namespace higgs
#endif
