// SPDX-License-Identifier: Apache-2.0
// Products of weight panels on processors without AVX-512: products of 16-bit words or, with AVX-VNNI, of bytes.
#pragma once

#include <higgs/cpu/avx2/convert.hpp>
#include <higgs/cpu/avx2/isa.hpp>
#include <higgs/cpu/avx2/lut.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/panel_product.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)
namespace avx2 {

/// parts[i] += the sums of a run times its step, then (or) sums[i] += parts[i] times a scale.
[[gnu::always_inline]] inline void add_x_group(__m256i total, float step, float* part) noexcept {
  _mm256_storeu_ps(part,
                   _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_set1_ps(step), _mm256_loadu_ps(part)));
}
inline void add_parts(const float* parts, int rows, const float* scales, float* sums) noexcept {
  for (int i = 0; i < rows * panel_rows; i += 8)
    _mm256_storeu_ps(sums + i,
                     _mm256_fmadd_ps(_mm256_loadu_ps(parts + i), _mm256_loadu_ps(scales + i % panel_rows),
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

/// A run of quads times words: V vectors of 8 rows of the weight panel, Rows rows of x. Bytes of weights, unsigned,
/// become words by a mask and a shift.
struct WordDot {
  using Set = Avx2;
  template <int Rows, int Planes>
  static constexpr int vectors = Rows == 1 ? 4 : 2;

  template <int V, int Rows, int Planes>
  [[gnu::always_inline]] static inline void run(const std::uint8_t* w, const std::uint8_t* quads,
                                                std::int64_t count, const std::int32_t* compensation,
                                                Ahead ahead,
                                                __m256i (&total)[extent<Rows>][extent<V>]) noexcept {
    const __m256i low = _mm256_set1_epi16(255);
    HIGGS_UNROLL for (int i = 0; i < Rows * V; ++i)
      total[i / V][i % V] = _mm256_set1_epi32(compensation[i / V]);
    for (; count > 0; --count, w += 128, quads += 8 * Rows) {
      ahead.prefetch();
      __m256i even[extent<V>], odd[extent<V>];
      HIGGS_UNROLL for (int v = 0; v < V; ++v) {
        const __m256i bytes = load(w + 32 * v);
        even[v] = _mm256_and_si256(bytes, low);
        odd[v] = _mm256_srli_epi16(bytes, 8);
      }
      HIGGS_UNROLL for (int m = 0; m < Rows; ++m) {
        const __m256i x0 = broadcast(quads + 8 * m), x1 = broadcast(quads + 8 * m + 4);
        HIGGS_UNROLL for (int v = 0; v < V; ++v) {
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
  using Set = AvxVnni;
  [[gnu::always_inline]] static inline __m256i add(__m256i total, __m256i weights, __m256i x) noexcept {
    asm("%{vex%} vpdpbusd {%2, %1, %0|%0, %1, %2}" : "+x"(total) : "x"(weights), "x"(x));
    return total;
  }
};
struct EvexDot {
  using Set = AvxVnniEvex;
  [[gnu::always_inline]] static inline __m256i add(__m256i total, __m256i weights, __m256i x) noexcept {
    asm("vpdpbusd {%2, %1, %0|%0, %1, %2}" : "+x"(total) : "x"(weights), "x"(x));
    return total;
  }
};

/// The same with bytes.
template <class Instruction>
struct ByteDot {
  using Set = typename Instruction::Set;
  template <int Rows, int Planes>
  static constexpr int vectors = Rows * Planes <= 2 ? 4 : 2;

  template <int V, int Rows, int Planes>
  [[gnu::always_inline]] static inline void run(const std::uint8_t* w, const std::uint8_t* quads,
                                                std::int64_t count, const std::int32_t* compensation,
                                                Ahead ahead,
                                                __m256i (&total)[extent<Rows>][extent<V>]) noexcept {
    __m256i high[extent<(Planes == 2 ? Rows : 1)>][extent<V>];  // total: the low plane, or the only one
    HIGGS_UNROLL for (int i = 0; i < Rows * V; ++i) {
      total[i / V][i % V] = _mm256_set1_epi32(compensation[i / V]);
      if constexpr (Planes == 2) high[i / V][i % V] = _mm256_setzero_si256();
    }
    for (; count > 0; --count, w += 128, quads += 4 * Planes * Rows) {
      ahead.prefetch();
      __m256i bytes[extent<V>];
      HIGGS_UNROLL for (int v = 0; v < V; ++v)
        bytes[v] = load(w + 32 * v);
      HIGGS_UNROLL for (int m = 0; m < Rows; ++m) {
        if constexpr (Planes == 2) {
          const __m256i x = broadcast(quads + 8 * m);
          HIGGS_UNROLL for (int v = 0; v < V; ++v)
            high[m][v] = Instruction::add(high[m][v], bytes[v], x);
        }
        const __m256i x = broadcast(quads + 4 * (Planes * m + Planes - 1));
        HIGGS_UNROLL for (int v = 0; v < V; ++v)
          total[m][v] = Instruction::add(total[m][v], bytes[v], x);
      }
    }
    if constexpr (Planes == 2) {
      HIGGS_UNROLL for (int i = 0; i < Rows * V; ++i)
        total[i / V][i % V] = _mm256_add_epi32(total[i / V][i % V], _mm256_slli_epi32(high[i / V][i % V], 8));
    }
  }
};

/// As portable::dot_chunk, for panels in Dot's order.
template <class Dot, int Rows, int Planes>
inline void dot_rows(const Chunk& chunk, const ActivationPanel& panel, float* sums) noexcept {
  constexpr int vectors = Dot::template vectors<Rows, Planes>;
  constexpr std::int64_t quad_bytes =
      Rows * (Dot::Set::activation_order == ActivationOrder::Words ? 8 : 4 * Planes);
  alignas(32) float parts[extent<Rows * panel_rows>] = {};
  std::int64_t x_group = chunk.first_x_group * Rows;
  for (std::int64_t first = 0; first < chunk.quads; first += chunk.x_group_quads, x_group += Rows) {
    const std::int64_t count = std::min(chunk.x_group_quads, chunk.quads - first);
    float factor = 1.0f;
    for (int plane = 0; plane < chunk.planes; ++plane, factor *= 256.0f) {
      for (int row = 0; row < panel_rows; row += 8 * vectors) {
        __m256i total[extent<Rows>][extent<vectors>];
        // Once; not of bytes that are multiplied where they lie, which hardware foresees.
        const bool wanted = row == 0 && plane == 0 && chunk.ahead_bytes < 128;
        const Ahead ahead{chunk.ahead + first * chunk.ahead_bytes, wanted ? chunk.ahead_bytes : 0};
        Dot::template run<vectors, Rows, Planes>(chunk.weights + plane * chunk_bytes + first * 128 + 4 * row,
                                                 panel.quads + (chunk.first_quad + first) * quad_bytes, count,
                                                 panel.compensation + x_group, ahead, total);
        HIGGS_UNROLL for (int i = 0; i < Rows * vectors; ++i)
          add_x_group(total[i / vectors][i % vectors], panel.scales[x_group + i / vectors] * factor,
                      parts + i / vectors * panel_rows + row + i % vectors * 8);
      }
    }
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
      break;
  }
  if constexpr (Dot::Set::panel_rows(Planes) > 3) {
    if (panel.rows == 4) return dot_rows<Dot, 4, Planes>(chunk, panel, sums);
  }
  if constexpr (Dot::Set::panel_rows(Planes) > 4) {
    if (panel.rows == 5) return dot_rows<Dot, 5, Planes>(chunk, panel, sums);
    if (panel.rows == 6) return dot_rows<Dot, 6, Planes>(chunk, panel, sums);
  }
}

template <class Dot>
inline void multiply(const PanelProduct& p, const ActivationPanel* panels, std::int64_t panel_count,
                     float* sums) noexcept {
  const bool two = Dot::Set::activation_order == ActivationOrder::Bytes && p.shape->planes == 2;
  const auto dot = two ? dot_chunk<Dot, 2> : dot_chunk<Dot, 1>;
  for_each_chunk(p, panels, panel_count, sums, scales_to_floats<Avx2>, dot);
}

}  // namespace avx2

inline void panel_product(Avx2, const PanelProduct& p, const ActivationPanel* panels,
                          std::int64_t panel_count, float* sums) noexcept {
  avx2::multiply<avx2::WordDot>(p, panels, panel_count, sums);
}
inline void panel_product(AvxVnni, const PanelProduct& p, const ActivationPanel* panels,
                          std::int64_t panel_count, float* sums) noexcept {
  avx2::multiply<avx2::ByteDot<avx2::VexDot>>(p, panels, panel_count, sums);
}
inline void panel_product(AvxVnniEvex, const PanelProduct& p, const ActivationPanel* panels,
                          std::int64_t panel_count, float* sums) noexcept {
  avx2::multiply<avx2::ByteDot<avx2::EvexDot>>(p, panels, panel_count, sums);
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
