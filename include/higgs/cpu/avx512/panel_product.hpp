// SPDX-License-Identifier: Apache-2.0
// Products of weight panels with AVX-512 VNNI: dot products of bytes.
#pragma once

#include <higgs/cpu/avx2/panel_product.hpp>
#include <higgs/cpu/avx512/convert.hpp>
#include <higgs/cpu/avx512/isa.hpp>
#include <higgs/cpu/avx512/lut.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/panel_product.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace avx512 {

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
[[gnu::always_inline]] inline __m512 add_x_group(__m512i high, __m512i low, float step, __m512 part) {
  if constexpr (Planes == 2) low = _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), _mm512_set1_ps(step), part);
}

[[gnu::always_inline]] inline void add_part(__m512 part, __m512 scale, float* sums) {
  _mm512_storeu_ps(sums, _mm512_fmadd_ps(part, scale, _mm512_loadu_ps(sums)));
}

/// Adds the products of `steps` steps of 16 rows to totals (Columns), where coordinates depend on indices before theirs.
/// Each sum waits for the one before it, so that there are four, whatever Columns is. A step prefetches half of its bytes
/// from `ahead` on.
template <class Format, int Columns, bool LoadsAhead>
[[gnu::always_inline]] inline void add_steps(const typename Decoder<Format>::Tables& tables,
                                             const std::uint8_t* codes, std::int64_t steps,
                                             const std::uint8_t* ahead, const std::uint8_t* quads,
                                             typename Decoder<Format>::State& state,
                                             __m512i (&totals)[extent<Columns>]) noexcept {
  using U = Decoder<Format>;
  constexpr int chains = 4 / Columns;
  __m512i sums[extent<chains>][extent<Columns>];
  HIGGS_UNROLL for (int i = 0; i < chains * Columns; ++i)
    sums[i / Columns][i % Columns] = i < Columns ? totals[i] : _mm512_setzero_si512();
  for_each_vector<Format, LoadsAhead>(
      codes, steps, state, [&](const auto& indices, int v) __attribute__((always_inline)) {
        HIGGS_UNROLL for (int i = v; i < Format::step_bytes / 128; i += U::vectors)
          _mm_prefetch(reinterpret_cast<const char*>(ahead + 64 * i), _MM_HINT_T0);
        HIGGS_UNROLL for (int d = 0; d < Format::dim; ++d, quads += 4 * Columns) {
          const __m512i w = U::decode(tables, d, indices);
          HIGGS_UNROLL for (int c = 0; c < Columns; ++c)
            sums[d % chains][c] = add_dot(sums[d % chains][c], w, broadcast_quad(quads + 4 * c));
        }
        if (v + 1 == U::vectors) ahead += Format::step_bytes / 2;
      });
  HIGGS_UNROLL for (int c = 0; c < Columns; ++c) {
    totals[c] = sums[0][c];
    HIGGS_UNROLL for (int i = 1; i < chains; ++i)
      totals[c] = _mm512_add_epi32(totals[c], sums[i][c]);
  }
}

template <class Format>
struct StatesOf {};
template <DecodesInSequence Format>
struct StatesOf<Format> {
  typename Decoder<Format>::State half[2] = {};
};

/// Few rows of x: codes go from memory to registers to the dot product. sums (Rows, 32) +=.
template <class Format, int Rows, int Planes>
inline void stream_panel(const PanelProduct& p, const ActivationPanel& panel, float* sums) noexcept {
  using U = Decoder<Format>;
  constexpr int columns = Rows * Planes;
  constexpr std::int64_t step_bytes = Format::step_bytes, act_bytes = 4 * columns * U::quads;
  const auto tables = U::load_tables(*static_cast<const typename Format::Tables*>(p.tables));
  const std::int64_t steps = p.layout->steps_per_group(), chunk_steps = chunk_inputs / Format::step_inputs,
                     x_group_steps = p.shape->x_group / Format::step_inputs;
  const std::uint8_t* codes = p.weights;
  const std::uint8_t* quads = panel.quads;
  const float* scale = panel.scales;
  const std::int32_t* compensation = panel.compensation;
  for (std::int64_t g = 0; g < p.layout->groups; ++g) {
    __m512 scales[2];
    load_scales(codes, scales);
    codes += 2 * panel_rows;
    StatesOf<Format> states;  // of both halves of the rows
    for (std::int64_t chunk = 0; chunk < steps; chunk += chunk_steps) {
      __m512 part[2][extent<Rows>];
      HIGGS_UNROLL for (int i = 0; i < 2 * Rows; ++i)
        part[i % 2][i / 2] = _mm512_setzero_ps();
      const std::int64_t end = std::min(chunk + chunk_steps, steps);
      for (std::int64_t first = chunk; first < end;
           first += x_group_steps, scale += Rows, compensation += Rows) {
        __m512i total[2][extent<Format::planes>][extent<columns>];
        HIGGS_UNROLL for (int i = 0; i < Format::planes * columns; ++i)
          total[0][i / columns][i % columns] = total[1][i / columns][i % columns] =
              i % Planes == Planes - 1 ? _mm512_set1_epi32(compensation[i % columns / Planes])
                                       : _mm512_setzero_si512();
        const std::int64_t count = std::min(x_group_steps, end - first);
        if constexpr (DecodesInSequence<Format>) {
          static_assert(Format::planes == 1);
          // An activation group of Int8 has two vectors: one more load costs more than it saves.
          constexpr bool loads_ahead = Planes == 2 || U::vectors > 1;
          const std::int64_t bytes = count * step_bytes;
          const std::uint8_t* ahead = codes + std::max<std::int64_t>(bytes, 8192);
          HIGGS_UNROLL for (int half = 0; half < 2; ++half)
            add_steps<Format, columns, loads_ahead>(tables, codes + half * (step_bytes / 2), count,
                                                    ahead + half * (bytes / 2), quads, states.half[half],
                                                    total[half][0]);
          codes += count * step_bytes;
          quads += count * act_bytes;
        } else {
          for (std::int64_t s = count; s > 0; --s, codes += step_bytes, quads += act_bytes) {
            HIGGS_UNROLL for (int i = 0; i < Format::step_bytes / 64; ++i)
              _mm_prefetch(reinterpret_cast<const char*>(codes + 4096 + 64 * i), _MM_HINT_T0);
            __m512i index[2][4];
            U::load_indices(codes, index[0]);
            U::load_indices(codes + step_bytes / 2, index[1]);
            HIGGS_UNROLL for (int v = 0; v < U::vectors; ++v) {
              HIGGS_UNROLL for (int d = 0; d < Format::dim; ++d) {
                __m512i w[2][Format::planes];
                HIGGS_UNROLL for (int plane = 0; plane < Format::planes; ++plane) {
                  w[0][plane] = U::decode(tables, plane + d, index[0], v);
                  w[1][plane] = U::decode(tables, plane + d, index[1], v);
                }
                HIGGS_UNROLL for (int c = 0; c < columns; ++c) {
                  const __m512i x = broadcast_quad(quads + 4 * ((v * Format::dim + d) * columns + c));
                  HIGGS_UNROLL for (int plane = 0; plane < Format::planes; ++plane) {
                    total[0][plane][c] = add_dot(total[0][plane][c], w[0][plane], x);
                    total[1][plane][c] = add_dot(total[1][plane][c], w[1][plane], x);
                  }
                }
              }
            }
          }
        }
        HIGGS_UNROLL for (int plane = 0; plane < Format::planes; ++plane) HIGGS_UNROLL
          for (int i = 0; i < 2 * Rows; ++i)
            part[i % 2][i / 2] = add_x_group<Planes>(
                total[i % 2][plane][i / 2 * Planes], total[i % 2][plane][i / 2 * Planes + Planes - 1],
                scale[i / 2] * (plane == 0 ? 1.0f : 256.0f), part[i % 2][i / 2]);
      }
      HIGGS_UNROLL for (int i = 0; i < 2 * Rows; ++i)
        add_part(part[i % 2][i / 2], scales[i % 2], sums + i / 2 * panel_rows + i % 2 * 16);
    }
  }
}

/// As portable::dot_chunk, for a panel of Rows rows in ActivationOrder::Bytes. With 6 rows and one plane, 12 sums
/// of integers and 12 of floats stay in registers; an activation group of two planes is a whole chunk.
template <int Rows, int Planes>
inline void dot_chunk(const Chunk& chunk, const ActivationPanel& panel, float* sums) noexcept {
  constexpr int columns = Rows * Planes;
  __m512 part[2][extent<Rows>];
  HIGGS_UNROLL for (int m = 0; m < Rows; ++m)
    part[0][m] = part[1][m] = _mm512_setzero_ps();
  const std::uint8_t* quads = panel.quads + chunk.first_quad * 4 * columns;
  const float* scale = panel.scales + chunk.first_x_group * Rows;
  const std::int32_t* compensation = panel.compensation + chunk.first_x_group * Rows;
  const std::uint8_t* ahead = chunk.ahead;
  const std::ptrdiff_t to_next = chunk.next->quads - panel.quads;
  for (std::int64_t first = 0; first < chunk.quads; first += chunk.x_group_quads,
                    quads += chunk.x_group_quads * 4 * columns, scale += Rows, compensation += Rows) {
    const std::int64_t count = std::min(chunk.x_group_quads, chunk.quads - first);
    float factor = 1.0f;
    for (int plane = 0; plane < chunk.planes; ++plane, factor *= 256.0f) {
      __m512i total[2][extent<columns>];
      HIGGS_UNROLL for (int c = 0; c < columns; ++c)
        total[0][c] = total[1][c] =
            c % Planes == Planes - 1 ? _mm512_set1_epi32(compensation[c / Planes]) : _mm512_setzero_si512();
      const std::uint8_t* w = chunk.weights + plane * chunk_bytes + first * 128;
      const std::uint8_t* x = quads;
      for (std::int64_t i = count; i > 0; --i, w += 128, x += 4 * columns, ahead += chunk.ahead_bytes) {
        _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(x + to_next), _MM_HINT_T0);
        const __m512i w0 = _mm512_loadu_si512(w), w1 = _mm512_loadu_si512(w + 64);
        HIGGS_UNROLL for (int c = 0; c < columns; ++c) {
          const __m512i each = broadcast_quad(x + 4 * c);
          total[0][c] = add_dot(total[0][c], w0, each);
          total[1][c] = add_dot(total[1][c], w1, each);
        }
      }
      HIGGS_UNROLL for (int m = 0; m < Rows; ++m) {
        const int high = m * Planes, low = high + Planes - 1;
        part[0][m] = add_x_group<Planes>(total[0][high], total[0][low], scale[m] * factor, part[0][m]);
        part[1][m] = add_x_group<Planes>(total[1][high], total[1][low], scale[m] * factor, part[1][m]);
      }
    }
  }
  const __m512 scale0 = _mm512_load_ps(chunk.scales), scale1 = _mm512_load_ps(chunk.scales + 16);
  HIGGS_UNROLL for (int m = 0; m < Rows; ++m) {
    add_part(part[0][m], scale0, sums + m * panel_rows);
    add_part(part[1][m], scale1, sums + m * panel_rows + 16);
  }
}

inline constexpr int max_rows = Avx512::panel_rows(1);  // rows of an activation panel, at most

using DotRows = void (*)(const Chunk&, const ActivationPanel&, float*) noexcept;
/// By rows of a panel, less one.
template <int Planes>
inline constexpr std::array<DotRows, extent<max_rows>> dot_chunks =
    []<int... I>(std::integer_sequence<int, I...>) {
      return std::array<DotRows, extent<max_rows>>{dot_chunk<I + 1, Planes>...};
    }(std::make_integer_sequence<int, max_rows>{});

template <class Format>
inline constexpr StreamPanel streams[2][2] = {{stream_panel<Format, 1, 1>, stream_panel<Format, 1, 2>},
                                              {stream_panel<Format, 2, 1>, stream_panel<Format, 2, 2>}};

}  // namespace avx512

template <avx512::DecodesInRegisters Format>
constexpr const StreamPanel (*stream_panels(Avx512, Format) noexcept)[2] {
  return avx512::streams<Format>;
}

inline void panel_product(Avx512, const PanelProduct& p, const ActivationPanel* panels,
                          std::int64_t panel_count, float* sums) noexcept {
  if (p.stream != nullptr && panel_count == 1 && panels->rows <= 2)
    return p.stream[panels->rows - 1][p.shape->planes - 1](p, *panels, sums);
  const avx512::DotRows* const dots =
      p.shape->planes == 2 ? avx512::dot_chunks<2>.data() : avx512::dot_chunks<1>.data();
  const auto dot = [dots](const Chunk& chunk, const ActivationPanel& panel, float* y) {
    dots[panel.rows - 1](chunk, panel, y);
  };
  for_each_chunk(p, panels, panel_count, sums, scales_to_floats<Avx512>, dot);
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
