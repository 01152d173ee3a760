// SPDX-License-Identifier: Apache-2.0
// Strips on AArch64: lookups by tbl, products of 16-bit words or, with the extensions for them, of bytes: dot
// products, and for several rows of x those of 2 x 8 by 8 x 2 matrices.
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

#if defined(HIGGS_NEON)
#  include <arm_neon.h>

namespace higgs {
inline namespace v0 {
namespace detail {
namespace neon {

/// A vector of units of Bits bits, looked up in a table of 16, 64 or 256 entries.
template <int Bits>
[[gnu::always_inline]] inline uint8x16_t look_up(uint8x16x4_t table0, uint8x16x4_t table1,
                                                 uint8x16x4_t table2, uint8x16x4_t table3,
                                                 uint8x16_t unit) noexcept {
  if constexpr (Bits == 4) return vqtbl1q_u8(table0.val[0], unit);
  uint8x16_t out = vqtbl4q_u8(table0, unit);
  if constexpr (Bits == 8) {
    // Units of other quarters are 64 or more here, and tbx leaves their results alone.
    const uint8x16_t quarter = vdupq_n_u8(64);
    out = vqtbx4q_u8(out, table1, unit = vsubq_u8(unit, quarter));
    out = vqtbx4q_u8(out, table2, unit = vsubq_u8(unit, quarter));
    out = vqtbx4q_u8(out, table3, vsubq_u8(unit, quarter));
  }
  return out;
}

/// The units of 4 rows in a step, from where their first byte lies: out[v] holds 4 for each row.
template <int Bits>
[[gnu::always_inline]] inline void load_units(const std::uint8_t* lanes, uint8x16_t* out) noexcept {
  const uint8x16_t a = vld1q_u8(lanes);
  if constexpr (Bits == 8) out[0] = a;
  if constexpr (Bits == 4) {
    out[0] = vandq_u8(a, vdupq_n_u8(15));
    out[1] = vshrq_n_u8(a, 4);
  }
  if constexpr (Bits == 6) {
    const uint8x16_t b = vld1q_u8(lanes + 64), c = vld1q_u8(lanes + 128), low6 = vdupq_n_u8(63);
    out[0] = vandq_u8(a, low6);
    out[1] = vandq_u8(b, low6);
    out[2] = vandq_u8(c, low6);
    out[3] = vsliq_n_u8(vsliq_n_u8(vshrq_n_u8(a, 6), vshrq_n_u8(b, 6), 2), vshrq_n_u8(c, 6), 4);
  }
}

/// Decodes one of the `dim` coordinates of every unit, with its table in registers.
template <int Bits>
inline void decode_coordinate(const std::uint8_t* bytes, const std::uint8_t* codes, std::int64_t steps,
                              int dim, std::uint8_t* out) noexcept {
  constexpr int vectors = Bits == 8 ? 1 : Bits == 4 ? 2 : 4;
  constexpr std::int64_t half = Bits == 6 ? 192 : 64;
  // No array: g++ 12 would keep it in memory. Small tables are followed by bytes that are not looked up.
  const uint8x16x4_t table0 = vld1q_u8_x4(bytes), table1 = vld1q_u8_x4(bytes + 64),
                     table2 = vld1q_u8_x4(bytes + 128), table3 = vld1q_u8_x4(bytes + 192);
  for (; steps > 0; --steps, codes += 2 * half, out += vectors * dim * 128)
    for (int r = 0; r < 8; ++r) {
      uint8x16_t unit[extent<vectors>];
      load_units<Bits>(codes + r / 4 * half + r % 4 * 16, unit);
      HIGGS_UNROLL
      for (int v = 0; v < vectors; ++v)
        vst1q_u8(out + v * dim * 128 + r * 16, look_up<Bits>(table0, table1, table2, table3, unit[v]));
    }
}

/// Decodes coordinates 2i and 2i + 1 of UnitKind::Signed8, with the table of their levels in registers.
inline void decode_signed(const UnitTables& tables, int i, const std::uint8_t* codes, std::int64_t steps,
                          std::uint8_t* out) noexcept {
  const std::uint8_t* bytes = tables.bytes[i];
  const uint8x16x4_t table0 = vld1q_u8_x4(bytes), table1 = vld1q_u8_x4(bytes + 64),
                     table2 = vld1q_u8_x4(bytes + 128), table3 = vld1q_u8_x4(bytes + 192),
                     values = vld1q_u8_x4(tables.values);
  const uint8x16_t low4 = vdupq_n_u8(15), bit4 = vdupq_n_u8(16), bit5 = vdupq_n_u8(32);
  const uint8x16_t first = vdupq_n_u8(static_cast<std::uint8_t>(1 << 2 * i)),
                   second = vdupq_n_u8(static_cast<std::uint8_t>(2 << 2 * i));
  for (; steps > 0; --steps, codes += 256, out += 8 * 128)
    for (int r = 0; r < 8; ++r) {
      const std::uint8_t* from = codes + r / 4 * 128 + r % 4 * 16;
      const uint8x16_t pattern = vld1q_u8(from), coded = vld1q_u8(from + 64);
      const uint8x16_t odd = vaddq_u8(vcntq_u8(vandq_u8(coded, vdupq_n_u8(127))), vshrq_n_u8(pattern, 7));
      const uint8x16_t signs = vsliq_n_u8(coded, odd, 7), side = vandq_u8(vshrq_n_u8(coded, 2), bit5);
      const uint8x16_t levels = look_up<8>(table0, table1, table2, table3, pattern);
      const uint8x16_t index0 = vorrq_u8(vandq_u8(levels, low4), vandq_u8(vtstq_u8(signs, first), bit4)),
                       index1 = vorrq_u8(vshrq_n_u8(levels, 4), vandq_u8(vtstq_u8(signs, second), bit4));
      vst1q_u8(out + 2 * i * 128 + r * 16, vqtbl4q_u8(values, vorrq_u8(index0, side)));
      vst1q_u8(out + (2 * i + 1) * 128 + r * 16, vqtbl4q_u8(values, vorrq_u8(index1, side)));
    }
}

/// As portable::decode_chunk. One coordinate at a time: a table of 256 entries fills half of the registers.
inline const std::uint8_t* decode_chunk(const StripProduct& p, const std::uint8_t* codes, std::int64_t steps,
                                        std::uint8_t* out) noexcept {
  const UnitTables& tables = *p.tables;
  if (tables.kind == UnitKind::Byte1) return codes;
  for (int i = 0; i < 4 && tables.kind == UnitKind::Signed8; ++i) decode_signed(tables, i, codes, steps, out);
  if (tables.kind == UnitKind::Signed8) return out;
  const auto decode = tables.unit_bits == 4   ? decode_coordinate<4>
                      : tables.unit_bits == 6 ? decode_coordinate<6>
                                              : decode_coordinate<8>;
  for (int c = 0; c < tables.dim * tables.planes; ++c)  // coordinates, or the planes of the only one
    decode(tables.bytes[c], codes, steps, tables.dim, out + c * (tables.planes == 2 ? chunk_bytes : 128));
  return out;
}

/// parts[i] += the sums of a run times its step, then (or) sums[i] += parts[i] times a scale.
[[gnu::always_inline]] inline void add_run(int32x4_t total, float step, float* part) noexcept {
  vst1q_f32(part, vfmaq_n_f32(vld1q_f32(part), vcvtq_f32_s32(total), step));
}
inline void add_parts(const float* parts, int rows, const float* scales, float* sums) noexcept {
  for (int i = 0; i < rows * strip_rows; i += 4)
    vst1q_f32(sums + i,
              vfmaq_f32(vld1q_f32(sums + i), vld1q_f32(parts + i), vld1q_f32(scales + i % strip_rows)));
}

/// Some quads of a run, for as many rows of x as the kernel has.
struct Run {
  const std::uint8_t* weights;
  const std::uint8_t* quads;
  std::int64_t count;
  const float* steps;
  float factor;  // of the steps: 256^plane
  const std::int32_t* corrections;
};

/// A run times words, for V vectors of 4 rows of the strip.
struct WordDot {
  static constexpr QuadOrder order = QuadOrder::Words;
  template <int Rows, int Planes>
  static constexpr int vectors = Rows <= 2 ? 8 : 4;

  /// total[0 ... 3] of 16 rows += their bytes times a lane of x.
  template <int Lane>
  [[gnu::always_inline]] static inline void add(int32x4_t* total, uint8x16_t bytes, int16x4_t x) noexcept {
    const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes))),
                    high = vreinterpretq_s16_u16(vmovl_high_u8(bytes));
    total[0] = vmlal_lane_s16(total[0], vget_low_s16(low), x, Lane);
    total[1] = vmlal_high_lane_s16(total[1], low, x, Lane);
    total[2] = vmlal_lane_s16(total[2], vget_low_s16(high), x, Lane);
    total[3] = vmlal_high_lane_s16(total[3], high, x, Lane);
  }

  template <int Rows, int Planes>
  static void run(const Run& run, float* parts) noexcept {
    constexpr int V = vectors<Rows, Planes>;
    int32x4_t total[extent<Rows>][extent<V>];
    HIGGS_UNROLL
    for (int i = 0; i < Rows * V; ++i) total[i / V][i % V] = vdupq_n_s32(run.corrections[i / V]);
    const std::uint8_t *w = run.weights, *quads = run.quads;
    for (std::int64_t i = run.count; i > 0; --i, w += 128, quads += 8 * Rows) {
      HIGGS_UNROLL
      for (int v = 0; v < V; v += 4) {
        const uint8x16x4_t bytes = vld4q_u8(w + 16 * v);  // byte j of 16 rows
        HIGGS_UNROLL
        for (int m = 0; m < Rows; ++m) {
          const int16x4_t x = vreinterpret_s16_u8(vld1_u8(quads + 8 * m));
          add<0>(total[m] + v, bytes.val[0], x);
          add<2>(total[m] + v, bytes.val[1], x);
          add<1>(total[m] + v, bytes.val[2], x);
          add<3>(total[m] + v, bytes.val[3], x);
        }
      }
    }
    HIGGS_UNROLL
    for (int i = 0; i < Rows * V; ++i)
      add_run(total[i / V][i % V], run.steps[i / V] * run.factor, parts + i / V * strip_rows + i % V * 4);
  }
};

#  if defined(HIGGS_NEON_DOT)
/// The same with bytes. sdot takes both factors signed, so weights lose the 128 that was added and the
/// corrections are not needed.
struct ByteDot {
  static constexpr QuadOrder order = QuadOrder::Bytes;
  template <int Rows, int Planes>
  static constexpr int vectors = Rows * Planes <= 2   ? 8
                                 : Rows * Planes <= 4 ? 4
                                                      : 2;

  template <int Rows, int Planes>
  HIGGS_NEON_DOT static void run(const Run& run, float* parts) noexcept {
    constexpr int V = vectors<Rows, Planes>;
    int32x4_t total[extent<Rows>][extent<V>];  // of the low plane, or the only one
    int32x4_t high[extent<(Planes == 2 ? Rows : 1)>][extent<V>];
    HIGGS_UNROLL
    for (int i = 0; i < Rows * V; ++i) {
      total[i / V][i % V] = vdupq_n_s32(0);
      if constexpr (Planes == 2) high[i / V][i % V] = vdupq_n_s32(0);
    }
    const std::uint8_t *w = run.weights, *quads = run.quads;
    for (std::int64_t i = run.count; i > 0; --i, w += 128, quads += 4 * Planes * Rows) {
      int8x16_t bytes[extent<V>];
      HIGGS_UNROLL
      for (int v = 0; v < V; ++v)
        bytes[v] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(w + 16 * v), vdupq_n_u8(128)));
      HIGGS_UNROLL
      for (int m = 0; m < Rows; ++m) {
        if constexpr (Planes == 2) {
          const int8x8_t x = vreinterpret_s8_u8(vld1_u8(quads + 8 * m));
          HIGGS_UNROLL
          for (int v = 0; v < V; ++v) {
            high[m][v] = vdotq_lane_s32(high[m][v], bytes[v], x, 0);
            total[m][v] = vdotq_lane_s32(total[m][v], bytes[v], x, 1);
          }
        } else {
          std::uint32_t quad;
          std::memcpy(&quad, quads + 4 * m, 4);
          const int8x8_t x = vcreate_s8(quad);
          HIGGS_UNROLL
          for (int v = 0; v < V; ++v) total[m][v] = vdotq_lane_s32(total[m][v], bytes[v], x, 0);
        }
      }
    }
    HIGGS_UNROLL
    for (int i = 0; i < Rows * V; ++i) {
      int32x4_t sum = total[i / V][i % V];
      if constexpr (Planes == 2) sum = vaddq_s32(sum, vshlq_n_s32(high[i / V][i % V], 8));
      add_run(sum, run.steps[i / V] * run.factor, parts + i / V * strip_rows + i % V * 4);
    }
  }
};
#  endif

#  if defined(HIGGS_NEON_I8MM)
/// The same with bytes: two quads, two rows of the strip, two columns (planes or rows of x) an instruction.
struct MatrixDot {
  static constexpr QuadOrder order = QuadOrder::Bytes;
  template <int Rows, int Planes>
  static constexpr int pairs = (Rows * Planes + 1) / 2;  // of columns
  template <int Rows, int Planes>
  static constexpr int vectors = pairs<Rows, Planes> == 1   ? 8
                                 : pairs<Rows, Planes> == 2 ? 4
                                                            : 2;

  /// A pair of columns of two quads. Of an odd last column, its partner is whatever lies behind it.
  [[gnu::always_inline]] static inline int8x16_t load_pair(const std::uint8_t* first,
                                                           const std::uint8_t* second) noexcept {
    const uint32x2_t a = vreinterpret_u32_u8(vld1_u8(first)), b = vreinterpret_u32_u8(vld1_u8(second));
    return vreinterpretq_s8_u32(vcombine_u32(vzip1_u32(a, b), vzip2_u32(a, b)));
  }

  template <int Rows, int Planes>
  HIGGS_NEON_I8MM static void run(const Run& run, float* parts) noexcept {
    constexpr int V = vectors<Rows, Planes>, P = pairs<Rows, Planes>;
    constexpr std::int64_t quad_bytes = 4 * Rows * Planes;
    int32x4_t total[extent<P>][extent<2 * V>];  // of rows n and n + 1: (row, column)
    HIGGS_UNROLL
    for (int i = 0; i < P * 2 * V; ++i) total[i / (2 * V)][i % (2 * V)] = vdupq_n_s32(0);
    const std::uint8_t *w = run.weights, *quads = run.quads;
    for (std::int64_t i = run.count; i > 0; i -= 2, w += 256, quads += 2 * quad_bytes) {
      // A last quad without partner meets itself with weights of zero.
      const bool two = i > 1;
      uint8x16_t rows[extent<2 * V>];
      HIGGS_UNROLL
      for (int v = 0; v < V; ++v) {
        const uint32x4_t a = vreinterpretq_u32_u8(vld1q_u8(w + 16 * v)),
                         b = two ? vreinterpretq_u32_u8(vld1q_u8(w + 128 + 16 * v)) : vdupq_n_u32(0);
        rows[2 * v] = vreinterpretq_u8_u32(vzip1q_u32(a, b));
        rows[2 * v + 1] = vreinterpretq_u8_u32(vzip2q_u32(a, b));
      }
      HIGGS_UNROLL
      for (int p = 0; p < P; ++p) {
        const int8x16_t x = load_pair(quads + 8 * p, quads + 8 * p + (two ? quad_bytes : 0));
        HIGGS_UNROLL
        for (int j = 0; j < 2 * V; ++j) total[p][j] = vusmmlaq_s32(total[p][j], rows[j], x);
      }
    }
    HIGGS_UNROLL
    for (int i = 0; i < Rows * V; ++i) {
      const int m = i / V, v = i % V, p = m * Planes / 2;
      const int32x4_t a = total[p][2 * v], b = total[p][2 * v + 1];
      const int32x4_t first = vuzp1q_s32(a, b), second = vuzp2q_s32(a, b);
      int32x4_t sum = Planes == 2 ? vaddq_s32(vshlq_n_s32(first, 8), second) : m % 2 == 0 ? first : second;
      sum = vaddq_s32(sum, vdupq_n_s32(run.corrections[m]));
      add_run(sum, run.steps[m] * run.factor, parts + m * strip_rows + v * 4);
    }
  }
};
#  endif

/// As portable::dot_chunk, for panels in Dot's order.
template <class Dot, int Rows, int Planes>
inline void dot_rows(const Chunk& chunk, const Panel& panel, float* sums) noexcept {
  constexpr std::int64_t quad_bytes = Rows * (Dot::order == QuadOrder::Words ? 8 : 4 * Planes);
  constexpr int rows = 4 * Dot::template vectors<Rows, Planes>;  // of the strip, at a time
  alignas(16) float parts[extent<Rows * strip_rows>] = {};
  std::int64_t at = chunk.first_run * Rows;
  for (std::int64_t first = 0; first < chunk.quads; first += chunk.run_quads, at += Rows) {
    Run run{.weights = chunk.weights + first * 128,
            .quads = panel.quads + (chunk.first_quad + first) * quad_bytes,
            .count = std::min(chunk.run_quads, chunk.quads - first),
            .steps = panel.steps + at,
            .factor = 1.0f,
            .corrections = panel.corrections + at};
    for (int plane = 0; plane < chunk.planes; ++plane, run.factor *= 256.0f, run.weights += chunk_bytes - 128)
      for (int row = 0; row < strip_rows; row += rows, run.weights += 4 * rows)
        Dot::template run<Rows, Planes>(run, parts + row);
  }
  add_parts(parts, Rows, chunk.scales, sums);
}

/// Rows of x in a panel.
inline constexpr int panel_rows = 4;

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
      return dot_rows<Dot, panel_rows, Planes>(chunk, panel, sums);
  }
}

template <class Dot>
inline void strip_product(const StripProduct& p, const Panel* panels, std::int64_t panel_count,
                          float* sums) noexcept {
  const auto decode = [&p](auto... arguments) { return decode_chunk(p, arguments...); };
  const bool two = Dot::order == QuadOrder::Bytes && p.runs->planes == 2;
  for_each_chunk(p, panels, panel_count, sums, Isa::Neon, decode,
                 two ? dot_chunk<Dot, 2> : dot_chunk<Dot, 1>);
}

}  // namespace neon
}  // namespace detail
}  // namespace v0
}  // namespace higgs
#endif
