// SPDX-License-Identifier: Apache-2.0
// One strip of tiles times some rows of activations: the integer kernels, one set for each kind of machine.
//
// All of them compute, for each row of x and each row n of the strip, over runs and planes in their order:
//     sum = fma(float(S) * step, scale * 256^plane, sum),  S = sum over the run of q * coordinate, exact in 32 bits,
// so their results are equal bit for bit. Codebooks of 16-bit coordinates have two planes, coordinate =
// plane 0 + 256 * plane 1, both int8; all others have one.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/cpu.hpp>
#include <higgs/core/half.hpp>
#include <higgs/matmul/activations.hpp>
#include <higgs/matmul/tiled_matrix.hpp>
#include <higgs/pack/tiles.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(HIGGS_TARGET_BEGIN)
#  include <immintrin.h>
#endif

namespace higgs {
inline namespace v0 {
namespace detail {

/// A strip, and the sums that it adds to.
struct StripProduct {
  const TileLayout* layout;
  const UnitTables* tables;
  const RunShape* runs;
  const std::uint8_t* strip;

  std::int64_t steps_per_run() const noexcept { return runs->run / (layout->units_per_step() * tables->dim); }
};

/// Decoded int16 coordinates of a run of 16 rows.
inline constexpr std::int64_t max_run_words = 512 * 16;

namespace portable {

/// Decodes steps of rows [16 * half, 16 * half + 16) of a plane: out (inputs / 2, 16 rows, 2).
template <int Bits, int Dim>
inline void decode_steps(const std::int16_t* table, const std::uint8_t* lanes, std::int64_t step_bytes,
                         std::int64_t steps, std::int16_t* out) noexcept {
  constexpr int units = Bits == 8 ? 4 : Bits == 4 ? 8 : 16;
  for (; steps > 0; --steps, lanes += step_bytes, out += units * Dim * 16)
    for (int row = 0; row < 16; ++row) {
      const std::uint8_t* lane = lanes + 4 * row;
      std::uint8_t unit[units];
      for (int j = 0; j < 4; ++j) {
        if constexpr (Bits == 8) {
          unit[j] = lane[j];
        } else if constexpr (Bits == 4) {
          unit[j] = lane[j] & 15;
          unit[4 + j] = lane[j] >> 4;
        } else {
          const std::uint8_t a = lane[j], b = lane[64 + j], c = lane[128 + j];
          unit[j] = a & 63;
          unit[4 + j] = b & 63;
          unit[8 + j] = c & 63;
          unit[12 + j] = static_cast<std::uint8_t>(a >> 6 | b >> 6 << 2 | c >> 6 << 4);
        }
      }
      for (int u = 0; u < units; ++u) {
        const std::int16_t* point = table + unit[u] * Dim;
        if constexpr (Dim == 1) {
          out[(u / 2 * 16 + row) * 2 + u % 2] = *point;
        } else {
          for (int d = 0; d < Dim; d += 2)
            std::memcpy(out + ((u * Dim + d) / 2 * 16 + row) * 2, point + d, 4);
        }
      }
    }
}

inline void decode_run(const StripProduct& p, const std::uint8_t* codes, std::int64_t steps, int half,
                       int plane, std::int16_t* out) noexcept {
  const int dim = p.tables->dim;
  const std::int16_t* table = p.tables->words + plane * 256 * dim;
  const std::int64_t step_bytes = p.layout->step_bytes();
  codes += half * (step_bytes / 2);
  switch (p.tables->unit_bits * 8 + dim) {
    case 4 * 8 + 1:
      return decode_steps<4, 1>(table, codes, step_bytes, steps, out);
    case 4 * 8 + 2:
      return decode_steps<4, 2>(table, codes, step_bytes, steps, out);
    case 6 * 8 + 2:
      return decode_steps<6, 2>(table, codes, step_bytes, steps, out);
    case 8 * 8 + 1:
      return decode_steps<8, 1>(table, codes, step_bytes, steps, out);
    case 8 * 8 + 2:
      return decode_steps<8, 2>(table, codes, step_bytes, steps, out);
    default:
      return decode_steps<8, 4>(table, codes, step_bytes, steps, out);
  }
}

/// sums[m][0 ... 15] of a run: pairs (inputs / 2, rows of the panel), words (inputs / 2, 16, 2).
inline void dot_run(const std::uint8_t* pairs, int rows, const std::int16_t* words, std::int64_t inputs,
                    std::int32_t* sums) noexcept {
  for (int m = 0; m < rows; ++m, sums += 16) {
    std::fill(sums, sums + 16, 0);
    for (std::int64_t k = 0; k < inputs / 2; ++k) {
      std::int16_t q[2];
      std::memcpy(q, pairs + (k * rows + m) * 4, 4);
      const std::int16_t* w = words + k * 32;
      for (int row = 0; row < 16; ++row) sums[row] += q[0] * w[2 * row] + q[1] * w[2 * row + 1];
    }
  }
}

}  // namespace portable

#if defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)
namespace avx2 {

inline __m256i load(const void* p) noexcept { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store(void* p, __m256i x) noexcept { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }

/// Byte j of each lane, as a number.
template <int J>
[[gnu::always_inline]] inline __m256i lane_byte(__m256i lanes) noexcept {
  return _mm256_and_si256(_mm256_srli_epi32(lanes, 8 * J), _mm256_set1_epi32(255));
}

/// Signed coordinates, 4 in a lane, become two pairs of words: out (2, 16 rows).
[[gnu::always_inline]] inline void widen(__m256i bytes, std::int16_t* out) noexcept {
  const __m256i first = _mm256_setr_epi8(-1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1, 0, -1,
                                         1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13);
  const __m256i second = _mm256_setr_epi8(-1, 2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1, 2,
                                          -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15);
  store(out, _mm256_srai_epi16(_mm256_shuffle_epi8(bytes, first), 8));
  store(out + 32, _mm256_srai_epi16(_mm256_shuffle_epi8(bytes, second), 8));
}

/// Four units of 8 rows, a byte each: out (2 * Dim, 16 rows, 2).
template <int Dim>
[[gnu::always_inline]] inline void look_up(const std::int16_t* table, __m256i units,
                                           std::int16_t* out) noexcept {
  const auto* pairs = reinterpret_cast<const int*>(table);
  const __m256i unit[4] = {lane_byte<0>(units), lane_byte<1>(units), lane_byte<2>(units),
                           lane_byte<3>(units)};
  if constexpr (Dim == 1) {  // reads two words, of which the first counts
    HIGGS_UNROLL
    for (int j = 0; j < 2; ++j) {
      const __m256i even = _mm256_i32gather_epi32(pairs, unit[2 * j], 2),
                    odd = _mm256_i32gather_epi32(pairs, unit[2 * j + 1], 2);
      store(out + 32 * j, _mm256_blend_epi16(even, _mm256_slli_epi32(odd, 16), 0xaa));
    }
  } else {
    HIGGS_UNROLL
    for (int j = 0; j < 4; ++j) HIGGS_UNROLL
    for (int d = 0; d < Dim / 2; ++d)
      store(out + 32 * (j * (Dim / 2) + d), _mm256_i32gather_epi32(pairs + d, unit[j], 2 * Dim));
  }
}

/// The entries, of 16, that the low 4 bits of each lane name.
[[gnu::always_inline]] inline __m256i look_up_16(const __m256i* table, __m256i lanes) noexcept {
  const __m256i low = _mm256_permutevar8x32_epi32(table[0], lanes),
                high = _mm256_permutevar8x32_epi32(table[1], lanes);
  const __m256 fourth = _mm256_castsi256_ps(_mm256_slli_epi32(lanes, 28));
  return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high), fourth));
}

/// As portable::decode_run.
inline void decode_run(const StripProduct& p, const std::uint8_t* codes, std::int64_t steps, int half,
                       int plane, std::int16_t* out) noexcept {
  const UnitKind kind = p.tables->kind;
  const int dim = p.tables->dim;
  const std::int16_t* table = p.tables->words + plane * 256 * dim;
  const std::int64_t step_bytes = p.layout->step_bytes(), quad_words = 2 * dim * 32;  // of four units
  const __m256i low4 = _mm256_set1_epi8(15), low6 = _mm256_set1_epi8(63);
  const __m256i nibbles = _mm256_xor_si256(  // the 16 points of one dimension
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p.tables->bytes[0]))),
      _mm256_set1_epi8(-128));
  const __m256i points[2] = {load(table), load(table + 16)};  // the first 16 of two dimensions
  codes += half * (step_bytes / 2);
  for (; steps > 0; --steps, codes += step_bytes, out += p.layout->units_per_step() / 4 * quad_words)
    for (int rows = 0; rows < 2; ++rows) {  // eight
      const std::uint8_t* lanes = codes + 32 * rows;
      std::int16_t* to = out + 16 * rows;
      const __m256i a = load(lanes);
      switch (kind) {
        case UnitKind::Byte1:
          widen(_mm256_xor_si256(a, _mm256_set1_epi8(-128)), to);
          break;
        case UnitKind::Byte2:
          look_up<2>(table, a, to);
          break;
        case UnitKind::Byte4:
          look_up<4>(table, a, to);
          break;
        case UnitKind::Wide1:
          look_up<1>(table, a, to);
          break;
        case UnitKind::Nibble1:
          widen(_mm256_shuffle_epi8(nibbles, _mm256_and_si256(a, low4)), to);
          widen(_mm256_shuffle_epi8(nibbles, _mm256_and_si256(_mm256_srli_epi16(a, 4), low4)),
                to + quad_words);
          break;
        case UnitKind::Nibble2:
          HIGGS_UNROLL
          for (int n = 0; n < 8; ++n)  // permutes look at the low 3 bits, the blend at the next one
            store(to + 32 * (n % 2 * 4 + n / 2), look_up_16(points, _mm256_srli_epi32(a, 4 * n)));
          break;
        case UnitKind::Six2: {
          const __m256i b = load(lanes + 64), c = load(lanes + 128);
          const __m256i last = _mm256_or_si256(
              _mm256_and_si256(_mm256_srli_epi16(a, 6), _mm256_set1_epi8(3)),
              _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(b, 4), _mm256_set1_epi8(12)),
                              _mm256_and_si256(_mm256_srli_epi16(c, 2), _mm256_set1_epi8(48))));
          look_up<2>(table, _mm256_and_si256(a, low6), to);
          look_up<2>(table, _mm256_and_si256(b, low6), to + quad_words);
          look_up<2>(table, _mm256_and_si256(c, low6), to + 2 * quad_words);
          look_up<2>(table, last, to + 3 * quad_words);
          break;
        }
      }
    }
}

template <int Rows>
inline void dot_rows(const std::uint8_t* pairs, const std::int16_t* words, std::int64_t inputs,
                     std::int32_t* sums) noexcept {
  __m256i total[Rows][2];
  HIGGS_UNROLL
  for (int m = 0; m < Rows; ++m) total[m][0] = total[m][1] = _mm256_setzero_si256();
  for (std::int64_t k = 0; k < inputs / 2; ++k, words += 32, pairs += 4 * Rows) {
    const __m256i w0 = load(words), w1 = load(words + 16);
    HIGGS_UNROLL
    for (int m = 0; m < Rows; ++m) {
      int pair;
      std::memcpy(&pair, pairs + 4 * m, 4);
      const __m256i q = _mm256_set1_epi32(pair);
      total[m][0] = _mm256_add_epi32(total[m][0], _mm256_madd_epi16(w0, q));
      total[m][1] = _mm256_add_epi32(total[m][1], _mm256_madd_epi16(w1, q));
    }
  }
  HIGGS_UNROLL
  for (int m = 0; m < Rows; ++m) {
    store(sums + 16 * m, total[m][0]);
    store(sums + 16 * m + 8, total[m][1]);
  }
}

inline void dot_run(const std::uint8_t* pairs, int rows, const std::int16_t* words, std::int64_t inputs,
                    std::int32_t* sums) noexcept {
  switch (rows) {
    case 1:
      return dot_rows<1>(pairs, words, inputs, sums);
    case 2:
      return dot_rows<2>(pairs, words, inputs, sums);
    case 3:
      return dot_rows<3>(pairs, words, inputs, sums);
    default:
      return dot_rows<4>(pairs, words, inputs, sums);
  }
}

}  // namespace avx2
HIGGS_TARGET_END
#endif

/// Rows of x that share a panel of words.
inline constexpr int word_panel_rows = 4;

/// sums (all rows of the panels, 32) += the strip's products, with 16-bit words.
inline void strip_product_words(const StripProduct& p, const Panel* panels, std::int64_t panel_count,
                                float* sums, Isa isa) noexcept {
  alignas(64) std::int16_t words[max_run_words];
  std::int32_t dots[word_panel_rows * 16];
  const std::int64_t step_inputs = p.layout->units_per_step() * p.tables->dim;
  std::int64_t run = 0;
  for (std::int64_t g = 0; g < p.layout->groups; ++g) {
    const std::uint8_t* group = p.strip + g * p.layout->group_bytes();
    float scales[strip_rows];
    for (int i = 0; i < strip_rows; ++i) {
      Half scale;
      std::memcpy(&scale, group + 2 * i, 2);
      scales[i] = static_cast<float>(scale);
    }
    const std::uint8_t* codes = group + p.layout->scale_bytes();
    for (std::int64_t first = 0; first < p.layout->steps_per_group(); first += p.steps_per_run(), ++run) {
      const std::int64_t steps = std::min(p.steps_per_run(), p.layout->steps_per_group() - first);
      const std::int64_t at = g * p.runs->padded_group + first * step_inputs;
      for (int half = 0; half < 2; ++half) {
        float factor = 1.0f;
        for (int plane = 0; plane < p.tables->planes; ++plane, factor *= 256.0f) {
          const std::uint8_t* from = codes + first * p.layout->step_bytes();
#if defined(HIGGS_TARGET_BEGIN)
          if (isa != Isa::Portable)
            avx2::decode_run(p, from, steps, half, plane, words);
          else
#endif
            portable::decode_run(p, from, steps, half, plane, words);
          float* y = sums + 16 * half;
          for (std::int64_t i = 0; i < panel_count; ++i) {
            const Panel& panel = panels[i];
            const std::uint8_t* pairs = panel.quads + at / 2 * panel.rows * 4;
#if defined(HIGGS_TARGET_BEGIN)
            if (isa != Isa::Portable)
              avx2::dot_run(pairs, panel.rows, words, steps * step_inputs, dots);
            else
#endif
              portable::dot_run(pairs, panel.rows, words, steps * step_inputs, dots);
            for (int m = 0; m < panel.rows; ++m, y += strip_rows) {
              const float step = panel.steps[run * panel.rows + m];
              for (int row = 0; row < 16; ++row)
                y[row] = std::fma(static_cast<float>(dots[m * 16 + row]) * step,
                                  scales[16 * half + row] * factor, y[row]);
            }
          }
        }
      }
    }
  }
  static_cast<void>(isa);
}

#if defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace avx512 {

/// Kinds as constants.
template <UnitKind Kind>
struct Unit {
  static constexpr int bits = Kind == UnitKind::Six2 ? 6 : Kind <= UnitKind::Nibble2 ? 4 : 8;
  static constexpr int dim = Kind == UnitKind::Byte4 ? 4
                             : Kind == UnitKind::Nibble2 || Kind == UnitKind::Six2 || Kind == UnitKind::Byte2
                                 ? 2
                                 : 1;
  static constexpr int planes = Kind == UnitKind::Wide1 ? 2 : 1;
  static constexpr int coordinates = dim * planes;
  static constexpr int loads = bits == 6 ? 3 : 1;                                    // vectors of half a step
  static constexpr int vectors = bits == 8 ? 1 : bits == 4 ? 2 : 4;                  // of units in them
  static constexpr int registers = Kind == UnitKind::Byte1 ? 0 : bits == 8 ? 4 : 1;  // of a table
  static constexpr int quads = vectors * dim;  // of activations in a step
};

template <UnitKind Kind>
struct Tables {
  __m512i table[Unit<Kind>::coordinates][Unit<Kind>::registers == 0 ? 1 : Unit<Kind>::registers];
};

template <UnitKind Kind>
[[gnu::always_inline]] inline Tables<Kind> load_tables(const UnitTables& from) {
  Tables<Kind> out;
  HIGGS_UNROLL
  for (int c = 0; c < Unit<Kind>::coordinates; ++c) HIGGS_UNROLL
  for (int r = 0; r < Unit<Kind>::registers; ++r)
    out.table[c][r] = _mm512_loadu_si512(from.bytes[c] + 64 * r);
  return out;
}

/// The units of half a step, 4 for each of 16 rows in a vector. Bits above those of a unit are left as they come:
/// permutes ignore bits 6 and 7, and tables of 4 bits are repeated.
template <UnitKind Kind>
[[gnu::always_inline]] inline void load_units(const std::uint8_t* codes, __m512i* unit) {
  unit[0] = _mm512_loadu_si512(codes);
  if constexpr (Unit<Kind>::bits == 4) unit[1] = _mm512_srli_epi16(unit[0], 4);
  if constexpr (Unit<Kind>::bits == 6) {
    unit[1] = _mm512_loadu_si512(codes + 64);
    unit[2] = _mm512_loadu_si512(codes + 128);
    const __m512i b = _mm512_srli_epi16(unit[1], 4), c = _mm512_srli_epi16(unit[2], 2);
    // Bitwise select, 0xca: where the mask is set the second operand, else the third.
    const __m512i bc = _mm512_ternarylogic_epi32(_mm512_set1_epi8(0x0c), b, c, 0xca);
    unit[3] = _mm512_ternarylogic_epi32(_mm512_set1_epi8(0x03), _mm512_srli_epi16(unit[0], 6), bc, 0xca);
  }
}

/// One coordinate of 64 units, 128 added.
template <UnitKind Kind>
[[gnu::always_inline]] inline __m512i decode(const Tables<Kind>& tables, int c, __m512i unit) {
  if constexpr (Kind == UnitKind::Byte1) return unit;
  if constexpr (Unit<Kind>::bits < 8) return _mm512_permutexvar_epi8(unit, tables.table[c][0]);
  // Two tables of 128 entries. Each lookup replaces the units that are its own and leaves the others: no blend.
  if constexpr (Unit<Kind>::bits == 8 && Kind != UnitKind::Byte1) {
    const __mmask64 high = _mm512_movepi8_mask(unit);
    const __m512i low =
        _mm512_mask2_permutex2var_epi8(tables.table[c][0], unit, _knot_mask64(high), tables.table[c][1]);
    return _mm512_mask2_permutex2var_epi8(tables.table[c][2], low, high, tables.table[c][3]);
  }
}

/// The factors of a group's rows.
[[gnu::always_inline]] inline void load_scales(const std::uint8_t* group, __m512* scales) {
  scales[0] = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(group)));
  scales[1] = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(group + 32)));
}

/// The sum over a run from the accumulators of its planes; by value, since g++ keeps arrays whose address is taken in
/// memory. One plane passes itself twice.
template <int Planes>
[[gnu::always_inline]] inline __m512i join_planes(__m512i high, __m512i low) {
  if constexpr (Planes == 1) return high;
  return _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
}

/// Adds a run to the sums of one row of x.
[[gnu::always_inline]] inline void add_run(__m512i sum, float step, std::int32_t correction, __m512 scale,
                                           float* y) {
  sum = _mm512_sub_epi32(sum, _mm512_set1_epi32(correction));
  const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(step));
  _mm512_storeu_ps(y, _mm512_fmadd_ps(scaled, scale, _mm512_loadu_ps(y)));
}

[[gnu::always_inline]] inline __m512i broadcast_quad(const std::uint8_t* quad) {
  int value;
  std::memcpy(&value, quad, 4);
  return _mm512_set1_epi32(value);
}

/// total + dot products of each lane's 4 bytes. The empty statement ties the result to the register of the sum:
/// g++ 12 otherwise keeps every sum twice and spills half of them.
[[gnu::always_inline]] inline __m512i add_dot(__m512i total, __m512i weights, __m512i x) {
  total = _mm512_dpbusd_epi32(total, weights, x);
  asm("" : "+v"(total));
  return total;
}

/// Few rows of x: codes go from memory to registers to the dot product. sums (Rows, 32) +=.
template <UnitKind Kind, int Rows, int Planes>
inline void stream_strip(const StripProduct& p, const Panel& panel, float* sums) noexcept {
  using U = Unit<Kind>;
  constexpr int columns = Rows * Planes;
  constexpr std::int64_t step_bytes = 128 * U::loads, act_bytes = 4 * columns * U::quads;
  const Tables<Kind> tables = load_tables<Kind>(*p.tables);
  const std::int64_t steps = p.layout->steps_per_group(), run_steps = p.steps_per_run();
  const std::uint8_t* codes = p.strip;
  const std::uint8_t* quads = panel.quads;
  const float* step = panel.steps;
  const std::int32_t* correction = panel.corrections;
  for (std::int64_t g = 0; g < p.layout->groups; ++g) {
    __m512 scales[2];
    load_scales(codes, scales);
    codes += 2 * strip_rows;
    for (std::int64_t first = 0; first < steps; first += run_steps) {
      __m512i total[2][U::planes][columns];
      HIGGS_UNROLL
      for (int i = 0; i < U::planes * columns; ++i)
        total[0][i / columns][i % columns] = total[1][i / columns][i % columns] = _mm512_setzero_si512();
      for (std::int64_t s = std::min(run_steps, steps - first); s > 0;
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
              w[0][plane] = decode<Kind>(tables, plane + d, unit[0][v]);
              w[1][plane] = decode<Kind>(tables, plane + d, unit[1][v]);
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
      for (int plane = 0; plane < U::planes; ++plane) {
        const __m512 factor = _mm512_set1_ps(plane == 0 ? 1.0f : 256.0f);
        HIGGS_UNROLL
        for (int i = 0; i < 2 * Rows; ++i)
          add_run(join_planes<Planes>(total[i % 2][plane][i / 2 * Planes],
                                      total[i % 2][plane][i / 2 * Planes + Planes - 1]),
                  step[i / 2], correction[i / 2], _mm512_mul_ps(scales[i % 2], factor),
                  sums + i / 2 * strip_rows + i % 2 * 16);
      }
      step += Rows;
      correction += Rows;
    }
  }
}

/// Decodes steps into a plane of coordinates for each: out[plane] (quads, 32 rows, 4), 128 added.
template <UnitKind Kind>
inline void decode_run(const StripProduct& p, const std::uint8_t* codes, std::int64_t steps,
                       std::uint8_t* out, std::int64_t plane_bytes) noexcept {
  using U = Unit<Kind>;
  const Tables<Kind> tables = load_tables<Kind>(*p.tables);
  for (; steps > 0; --steps, codes += 128 * U::loads, out += 128 * U::quads) {
    HIGGS_UNROLL
    for (int half = 0; half < 2; ++half) {
      __m512i unit[4];
      load_units<Kind>(codes + half * 64 * U::loads, unit);
      HIGGS_UNROLL
      for (int v = 0; v < U::vectors; ++v) HIGGS_UNROLL
      for (int c = 0; c < U::coordinates; ++c)
        _mm512_store_si512(out + (U::planes == 2 ? c * plane_bytes : (v * U::dim + c) * 128) + half * 64,
                           decode<Kind>(tables, c, unit[v]));
    }
  }
}

/// A decoded run times a panel: columns = rows * planes of it. sums (rows, 32) +=.
template <int Columns, int Planes>
inline void dot_run(const std::uint8_t* weights, const std::uint8_t* quads, std::int64_t count,
                    const float* step, const std::int32_t* correction, const __m512* scales,
                    float* sums) noexcept {
  __m512i total[2][Columns];
  HIGGS_UNROLL
  for (int c = 0; c < Columns; ++c) total[0][c] = total[1][c] = _mm512_setzero_si512();
  for (; count > 0; --count, weights += 128, quads += 4 * Columns) {
    const __m512i w0 = _mm512_load_si512(weights), w1 = _mm512_load_si512(weights + 64);
    HIGGS_UNROLL
    for (int c = 0; c < Columns; ++c) {
      const __m512i x = broadcast_quad(quads + 4 * c);
      total[0][c] = add_dot(total[0][c], w0, x);
      total[1][c] = add_dot(total[1][c], w1, x);
    }
  }
  HIGGS_UNROLL
  for (int c = 0; c < Columns; c += Planes) {
    const int row = c / Planes;
    const int last = c + Planes - 1;
    add_run(join_planes<Planes>(total[0][c], total[0][last]), step[row], correction[row], scales[0],
            sums + row * strip_rows);
    add_run(join_planes<Planes>(total[1][c], total[1][last]), step[row], correction[row], scales[1],
            sums + row * strip_rows + 16);
  }
}

using DotRun = void (*)(const std::uint8_t*, const std::uint8_t*, std::int64_t, const float*,
                        const std::int32_t*, const __m512*, float*) noexcept;
/// By rows of a panel.
template <int Planes>
inline constexpr DotRun dot_runs[13] = {};
template <>
inline constexpr DotRun dot_runs<2>[13] = {nullptr,       dot_run<2, 2>,  dot_run<4, 2>, dot_run<6, 2>,
                                           dot_run<8, 2>, dot_run<10, 2>, dot_run<12, 2>};
template <>
inline constexpr DotRun dot_runs<1>[13] = {
    nullptr,       dot_run<1, 1>, dot_run<2, 1>, dot_run<3, 1>,  dot_run<4, 1>,  dot_run<5, 1>, dot_run<6, 1>,
    dot_run<7, 1>, dot_run<8, 1>, dot_run<9, 1>, dot_run<10, 1>, dot_run<11, 1>, dot_run<12, 1>};

/// Many rows of x: a run of the strip is decoded into the first cache once, then multiplied with all panels.
template <UnitKind Kind>
inline void decoded_strip(const StripProduct& p, const Panel* panels, std::int64_t panel_count,
                          float* sums) noexcept {
  using U = Unit<Kind>;
  constexpr std::int64_t plane_bytes = 512 * strip_rows;
  alignas(64) std::uint8_t weights[U::planes * plane_bytes];
  const int planes = p.runs->planes;
  const std::int64_t steps = p.layout->steps_per_group(), run_steps = p.steps_per_run();
  std::int64_t run = 0, first_quad = 0;
  const std::uint8_t* codes = p.strip;
  for (std::int64_t g = 0; g < p.layout->groups; ++g) {
    __m512 scales[2][2];
    load_scales(codes, scales[0]);
    scales[1][0] = _mm512_mul_ps(scales[0][0], _mm512_set1_ps(256.0f));
    scales[1][1] = _mm512_mul_ps(scales[0][1], _mm512_set1_ps(256.0f));
    codes += 2 * strip_rows;
    for (std::int64_t first = 0; first < steps; first += run_steps, ++run) {
      const std::int64_t count = std::min(run_steps, steps - first), quads = count * U::quads;
      decode_run<Kind>(p, codes, count, weights, plane_bytes);
      float* y = sums;
      for (std::int64_t i = 0; i < panel_count; ++i) {
        const Panel& panel = panels[i];
        const DotRun dot = planes == 2 ? dot_runs<2>[panel.rows] : dot_runs<1>[panel.rows];
        for (int plane = 0; plane < U::planes; ++plane)
          dot(weights + plane * plane_bytes, panel.quads + first_quad * 4 * panel.rows * planes, quads,
              panel.steps + run * panel.rows, panel.corrections + run * panel.rows, scales[plane], y);
        y += panel.rows * strip_rows;
      }
      first_quad += quads;
      codes += count * 128 * U::loads;
    }
  }
}

/// Rows of x up to which codes are decoded in registers.
inline constexpr int max_stream_rows = 4;

template <UnitKind Kind>
inline void strip_product(const StripProduct& p, const Panel* panels, std::int64_t panel_count,
                          float* sums) noexcept {
  if (panel_count > 1) return decoded_strip<Kind>(p, panels, panel_count, sums);
  if (p.runs->planes == 2) switch (panels->rows) {
      case 1:
        return stream_strip<Kind, 1, 2>(p, *panels, sums);
      case 2:
        return stream_strip<Kind, 2, 2>(p, *panels, sums);
      default:
        return decoded_strip<Kind>(p, panels, 1, sums);
    }
  switch (panels->rows) {
    case 1:
      return stream_strip<Kind, 1, 1>(p, *panels, sums);
    case 2:
      return stream_strip<Kind, 2, 1>(p, *panels, sums);
    default:
      return decoded_strip<Kind>(p, panels, 1, sums);
  }
}

inline void strip_product(const StripProduct& p, const Panel* panels, std::int64_t panel_count,
                          float* sums) noexcept {
  switch (p.tables->kind) {
    case UnitKind::Nibble1:
      return strip_product<UnitKind::Nibble1>(p, panels, panel_count, sums);
    case UnitKind::Nibble2:
      return strip_product<UnitKind::Nibble2>(p, panels, panel_count, sums);
    case UnitKind::Six2:
      return strip_product<UnitKind::Six2>(p, panels, panel_count, sums);
    case UnitKind::Byte1:
      return strip_product<UnitKind::Byte1>(p, panels, panel_count, sums);
    case UnitKind::Byte2:
      return strip_product<UnitKind::Byte2>(p, panels, panel_count, sums);
    case UnitKind::Byte4:
      return strip_product<UnitKind::Byte4>(p, panels, panel_count, sums);
    case UnitKind::Wide1:
      return strip_product<UnitKind::Wide1>(p, panels, panel_count, sums);
  }
}

}  // namespace avx512
HIGGS_TARGET_END
#endif

/// How panels are laid out for an instruction set, and how many rows share one.
inline QuadOrder quad_order(Isa isa) noexcept {
  return isa == Isa::Avx512 ? QuadOrder::Bytes : QuadOrder::Words;
}
inline int panel_rows(Isa isa, Activations kind) noexcept {
  return isa != Isa::Avx512 ? word_panel_rows : kind == Activations::Int16 ? 6 : 12;
}

/// sums (all rows of the panels, 32) += activations times the strip's weights, without 2^exponent.
inline void strip_product(const StripProduct& p, const Panel* panels, std::int64_t panel_count, float* sums,
                          Isa isa) noexcept {
#if defined(HIGGS_TARGET_BEGIN)
  if (isa == Isa::Avx512) return avx512::strip_product(p, panels, panel_count, sums);
#endif
  strip_product_words(p, panels, panel_count, sums, isa);
}

}  // namespace detail
}  // namespace v0
}  // namespace higgs
