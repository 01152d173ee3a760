// SPDX-License-Identifier: Apache-2.0
// Products of weight panels on AArch64: products of 16-bit words or, with the extensions for them, of bytes: dot
// products, and for several rows of x products of 2 x 8 by 8 x 2 matrices.
#pragma once

#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/neon/isa.hpp>
#include <higgs/cpu/neon/lut.hpp>
#include <higgs/cpu/portable/panel_product.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(HIGGS_NEON)

namespace higgs {
inline namespace v0 {
namespace cpu {
namespace neon {

/// parts[i] += the sums of a run times its step, then (or) sums[i] += parts[i] times a scale.
[[gnu::always_inline]] inline void add_x_group(int32x4_t total, float step, float* part) noexcept {
  vst1q_f32(part, vfmaq_n_f32(vld1q_f32(part), vcvtq_f32_s32(total), step));
}
inline void add_parts(const float* parts, int rows, const float* scales, float* sums) noexcept {
  for (int i = 0; i < rows * panel_rows; i += 4)
    vst1q_f32(sums + i,
              vfmaq_f32(vld1q_f32(sums + i), vld1q_f32(parts + i), vld1q_f32(scales + i % panel_rows)));
}

/// Some quads of an activation group, for as many rows of x as the kernel has.
struct QuadRange {
  const std::uint8_t* weights;
  const std::uint8_t* quads;
  std::int64_t count;
  const float* scales;
  float factor;  // factor of the scales: 256^plane
  const std::int32_t* compensation;
};

/// A run times words, for V vectors of 4 rows of the weight panel.
struct WordDot {
  using Set = Neon;
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
  static void run(const QuadRange& range, float* parts) noexcept {
    constexpr int V = vectors<Rows, Planes>;
    int32x4_t total[extent<Rows>][extent<V>];
    HIGGS_UNROLL for (int i = 0; i < Rows * V; ++i)
      total[i / V][i % V] = vdupq_n_s32(range.compensation[i / V]);
    const std::uint8_t *w = range.weights, *quads = range.quads;
    for (std::int64_t i = range.count; i > 0; --i, w += 128, quads += 8 * Rows) {
      HIGGS_UNROLL for (int v = 0; v < V; v += 4) {
        const uint8x16x4_t bytes = vld4q_u8(w + 16 * v);  // byte j of 16 rows
        HIGGS_UNROLL for (int m = 0; m < Rows; ++m) {
          const int16x4_t x = vreinterpret_s16_u8(vld1_u8(quads + 8 * m));
          add<0>(total[m] + v, bytes.val[0], x);
          add<2>(total[m] + v, bytes.val[1], x);
          add<1>(total[m] + v, bytes.val[2], x);
          add<3>(total[m] + v, bytes.val[3], x);
        }
      }
    }
    HIGGS_UNROLL for (int i = 0; i < Rows * V; ++i)
      add_x_group(total[i / V][i % V], range.scales[i / V] * range.factor,
                  parts + i / V * panel_rows + i % V * 4);
  }
};

#  if defined(HIGGS_NEON_DOT)
/// The same with bytes. sdot takes both factors signed, so the kernel subtracts the 128 of the weights and needs no
/// compensation.
struct ByteDot {
  using Set = NeonDot;
  template <int Rows, int Planes>
  static constexpr int vectors = Rows * Planes <= 2   ? 8
                                 : Rows * Planes <= 4 ? 4
                                                      : 2;

  template <int Rows, int Planes>
  HIGGS_NEON_DOT static void run(const QuadRange& range, float* parts) noexcept {
    constexpr int V = vectors<Rows, Planes>;
    int32x4_t total[extent<Rows>][extent<V>];  // sums of the low plane, or of the only one
    int32x4_t high[extent<(Planes == 2 ? Rows : 1)>][extent<V>];
    HIGGS_UNROLL for (int i = 0; i < Rows * V; ++i) {
      total[i / V][i % V] = vdupq_n_s32(0);
      if constexpr (Planes == 2) high[i / V][i % V] = vdupq_n_s32(0);
    }
    const std::uint8_t *w = range.weights, *quads = range.quads;
    for (std::int64_t i = range.count; i > 0; --i, w += 128, quads += 4 * Planes * Rows) {
      int8x16_t bytes[extent<V>];
      HIGGS_UNROLL for (int v = 0; v < V; ++v)
        bytes[v] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(w + 16 * v), vdupq_n_u8(128)));
      HIGGS_UNROLL for (int m = 0; m < Rows; ++m) {
        if constexpr (Planes == 2) {
          const int8x8_t x = vreinterpret_s8_u8(vld1_u8(quads + 8 * m));
          HIGGS_UNROLL for (int v = 0; v < V; ++v) {
            high[m][v] = vdotq_lane_s32(high[m][v], bytes[v], x, 0);
            total[m][v] = vdotq_lane_s32(total[m][v], bytes[v], x, 1);
          }
        } else {
          std::uint32_t quad;
          std::memcpy(&quad, quads + 4 * m, 4);
          const int8x8_t x = vcreate_s8(quad);
          HIGGS_UNROLL for (int v = 0; v < V; ++v)
            total[m][v] = vdotq_lane_s32(total[m][v], bytes[v], x, 0);
        }
      }
    }
    HIGGS_UNROLL for (int i = 0; i < Rows * V; ++i) {
      int32x4_t sum = total[i / V][i % V];
      if constexpr (Planes == 2) sum = vaddq_s32(sum, vshlq_n_s32(high[i / V][i % V], 8));
      add_x_group(sum, range.scales[i / V] * range.factor, parts + i / V * panel_rows + i % V * 4);
    }
  }
};
#  endif

#  if defined(HIGGS_NEON_I8MM)
/// The same with bytes: two quads, two rows of the weight panel, two columns (planes or rows of x) an instruction.
struct MatrixDot {
  using Set = NeonI8mm;
  template <int Rows, int Planes>
  static constexpr int pairs = (Rows * Planes + 1) / 2;  // pairs of columns
  template <int Rows, int Planes>
  static constexpr int vectors = pairs<Rows, Planes> == 1   ? 8
                                 : pairs<Rows, Planes> == 2 ? 4
                                                            : 2;

  /// A pair of columns of two quads. The partner of an odd last column is unused.
  [[gnu::always_inline]] static inline int8x16_t load_pair(const std::uint8_t* first,
                                                           const std::uint8_t* second) noexcept {
    const uint32x2_t a = vreinterpret_u32_u8(vld1_u8(first)), b = vreinterpret_u32_u8(vld1_u8(second));
    return vreinterpretq_s8_u32(vcombine_u32(vzip1_u32(a, b), vzip2_u32(a, b)));
  }

  template <int Rows, int Planes>
  HIGGS_NEON_I8MM static void run(const QuadRange& range, float* parts) noexcept {
    constexpr int V = vectors<Rows, Planes>, P = pairs<Rows, Planes>;
    constexpr std::int64_t quad_bytes = 4 * Rows * Planes;
    int32x4_t total[extent<P>][extent<2 * V>];  // sums of rows n and n + 1: (row, column)
    HIGGS_UNROLL for (int i = 0; i < P * 2 * V; ++i)
      total[i / (2 * V)][i % (2 * V)] = vdupq_n_s32(0);
    const std::uint8_t *w = range.weights, *quads = range.quads;
    for (std::int64_t i = range.count; i > 0; i -= 2, w += 256, quads += 2 * quad_bytes) {
      // A last quad without partner meets itself with weights of zero.
      const bool two = i > 1;
      uint8x16_t rows[extent<2 * V>];
      HIGGS_UNROLL for (int v = 0; v < V; ++v) {
        const uint32x4_t a = vreinterpretq_u32_u8(vld1q_u8(w + 16 * v)),
                         b = two ? vreinterpretq_u32_u8(vld1q_u8(w + 128 + 16 * v)) : vdupq_n_u32(0);
        rows[2 * v] = vreinterpretq_u8_u32(vzip1q_u32(a, b));
        rows[2 * v + 1] = vreinterpretq_u8_u32(vzip2q_u32(a, b));
      }
      HIGGS_UNROLL for (int p = 0; p < P; ++p) {
        const int8x16_t x = load_pair(quads + 8 * p, quads + 8 * p + (two ? quad_bytes : 0));
        HIGGS_UNROLL for (int j = 0; j < 2 * V; ++j)
          total[p][j] = vusmmlaq_s32(total[p][j], rows[j], x);
      }
    }
    HIGGS_UNROLL for (int i = 0; i < Rows * V; ++i) {
      const int m = i / V, v = i % V, p = m * Planes / 2;
      const int32x4_t a = total[p][2 * v], b = total[p][2 * v + 1];
      const int32x4_t first = vuzp1q_s32(a, b), second = vuzp2q_s32(a, b);
      int32x4_t sum = Planes == 2 ? vaddq_s32(vshlq_n_s32(first, 8), second) : m % 2 == 0 ? first : second;
      sum = vaddq_s32(sum, vdupq_n_s32(range.compensation[m]));
      add_x_group(sum, range.scales[m] * range.factor, parts + m * panel_rows + v * 4);
    }
  }
};
#  endif

/// As portable::dot_chunk, for panels in Dot's order.
template <class Dot, int Rows, int Planes>
inline void dot_rows(const Chunk& chunk, const ActivationPanel& panel, float* sums) noexcept {
  constexpr std::int64_t quad_bytes =
      Rows * (Dot::Set::activation_order == ActivationOrder::Words ? 8 : 4 * Planes);
  constexpr int rows = 4 * Dot::template vectors<Rows, Planes>;  // rows of the weight panel at a time
  alignas(16) float parts[extent<Rows * panel_rows>] = {};
  std::int64_t at = chunk.first_x_group * Rows;
  for (std::int64_t first = 0; first < chunk.quads; first += chunk.x_group_quads, at += Rows) {
    QuadRange range{.weights = chunk.weights + first * 128,
                    .quads = panel.quads + (chunk.first_quad + first) * quad_bytes,
                    .count = std::min(chunk.x_group_quads, chunk.quads - first),
                    .scales = panel.scales + at,
                    .factor = 1.0f,
                    .compensation = panel.compensation + at};
    for (int plane = 0; plane < chunk.planes;
         ++plane, range.factor *= 256.0f, range.weights += chunk_bytes - 128)
      for (int row = 0; row < panel_rows; row += rows, range.weights += 4 * rows)
        Dot::template run<Rows, Planes>(range, parts + row);
  }
  add_parts(parts, Rows, chunk.scales, sums);
}

template <class Dot, int Planes>
inline void dot_chunk(const Chunk& chunk, const ActivationPanel& panel, float* sums) noexcept {
  switch (panel.rows) {
    case 1:
      return dot_rows<Dot, 1, Planes>(chunk, panel, sums);
    case 2:
      return dot_rows<Dot, 2, Planes>(chunk, panel, sums);
    case 3:
      return dot_rows<Dot, 3, Planes>(chunk, panel, sums);
    default:
      return dot_rows<Dot, Dot::Set::panel_rows(Planes), Planes>(chunk, panel, sums);
  }
}

template <class Dot>
inline void multiply(const PanelProduct& p, const ActivationPanel* panels, std::int64_t panel_count,
                     float* sums) noexcept {
  const bool two = Dot::Set::activation_order == ActivationOrder::Bytes && p.shape->planes == 2;
  const auto dot = two ? dot_chunk<Dot, 2> : dot_chunk<Dot, 1>;
  for_each_chunk(p, panels, panel_count, sums, scales_to_floats<Neon>, dot);
}

}  // namespace neon

inline void panel_product(Neon, const PanelProduct& p, const ActivationPanel* panels,
                          std::int64_t panel_count, float* sums) noexcept {
  neon::multiply<neon::WordDot>(p, panels, panel_count, sums);
}
#  if defined(HIGGS_NEON_DOT)
inline void panel_product(NeonDot, const PanelProduct& p, const ActivationPanel* panels,
                          std::int64_t panel_count, float* sums) noexcept {
  neon::multiply<neon::ByteDot>(p, panels, panel_count, sums);
}
#  endif
#  if defined(HIGGS_NEON_I8MM)
inline void panel_product(NeonI8mm, const PanelProduct& p, const ActivationPanel* panels,
                          std::int64_t panel_count, float* sums) noexcept {
  neon::multiply<neon::MatrixDot>(p, panels, panel_count, sums);
}
#  endif

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
