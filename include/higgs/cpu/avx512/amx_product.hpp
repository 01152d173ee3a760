// SPDX-License-Identifier: Apache-2.0
// Products of weight panels with many rows of x by the int8 tiles of AMX (Sapphire Rapids and newer).
//
// A tile of activations (16 rows of x, 16 quads) times a tile of decoded weights (16 quads, 16 rows of the panel) is one
// instruction; ActivationOrder::AmxTiles and decoded chunks are those tiles as they are.
#pragma once

#include <higgs/cpu/avx512/isa.hpp>
#include <higgs/cpu/avx512/lut.hpp>
#include <higgs/cpu/avx512/panel_product.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/panel_product.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {

/// LDTILECFG's operand: eight tiles of 16 rows of 64 bytes.
struct AmxConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(AmxConfig) == 64);

/// The instructions, as assembly: g++ 12's _tile_loadconfig names 8 of the 64 bytes as its input and loses
/// the others.
struct AmxTiles {
  void configure(const AmxConfig& config) const noexcept { asm volatile("ldtilecfg %0" : : "m"(config)); }
  void release() const noexcept { asm volatile("tilerelease"); }
  template <int Tile>
  void zero() const noexcept {
    asm volatile("tilezero {%%tmm%c0|tmm%c0}" : : "i"(Tile));
  }
  template <int Tile>
  void load(const std::uint8_t* from, std::int64_t stride) const noexcept {
    asm volatile("tileloadd {(%0,%1,1), %%tmm%c2|tmm%c2, [%0+%1*1]}"
                 :
                 : "r"(from), "r"(stride), "i"(Tile)
                 : "memory");
  }
  /// Sum += signed bytes of A times unsigned bytes of B.
  template <int Sum, int A, int B>
  void add_dot() const noexcept {
    asm volatile("tdpbsud {%%tmm%c2, %%tmm%c1, %%tmm%c0|tmm%c0, tmm%c1, tmm%c2}"
                 :
                 : "i"(Sum), "i"(A), "i"(B));
  }
  template <int Tile>
  void store(std::int32_t* to, std::int64_t stride) const noexcept {
    asm volatile("tilestored {%%tmm%c2, (%0,%1,1)|[%0+%1*1], tmm%c2}"
                 :
                 : "r"(to), "r"(stride), "i"(Tile)
                 : "memory");
  }
};

HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace amx {

/// As portable::dot_chunk, for a panel in ActivationOrder::Tiles. Tiles 0 to 3 are the sums (plane of x, half of
/// the weight panel), 4 and 5 planes of x, 6 and 7 halves of the weight panel.
template <int Planes, class Tiles>
inline void dot_chunk(Tiles& tiles, const Chunk& chunk, const ActivationPanel& panel, float* sums) noexcept {
  alignas(64) float parts[amx_tile_rows * panel_rows] = {};
  alignas(64) std::int32_t totals[4][amx_tile_rows][16];
  std::int64_t x_group = chunk.first_x_group * panel.rows;
  for (std::int64_t first = 0; first < chunk.quads; first += chunk.x_group_quads, x_group += panel.rows) {
    const std::int64_t end = std::min(first + chunk.x_group_quads, chunk.quads);
    float factor = 1.0f;
    for (int plane = 0; plane < chunk.planes; ++plane, factor *= 256.0f) {
      tiles.template zero<0>();
      tiles.template zero<1>();
      if constexpr (Planes == 2) {
        tiles.template zero<2>();
        tiles.template zero<3>();
      }
      for (std::int64_t quad = first; quad < end; quad += 16) {  // beyond the last quad, x is zero
        const std::uint8_t* x = panel.quads + (chunk.first_quad + quad) / 16 * Planes * amx_tile_rows * 64;
        const std::uint8_t* w = chunk.weights + plane * chunk_bytes + quad * 128;
        tiles.template load<6>(w, 128);
        tiles.template load<7>(w + 64, 128);
        tiles.template load<4>(x, 64);
        tiles.template add_dot<0, 4, 6>();
        tiles.template add_dot<1, 4, 7>();
        if constexpr (Planes == 2) {
          tiles.template load<5>(x + amx_tile_rows * 64, 64);
          tiles.template add_dot<2, 5, 6>();
          tiles.template add_dot<3, 5, 7>();
        }
      }
      tiles.template store<0>(totals[0][0], 64);
      tiles.template store<1>(totals[1][0], 64);
      if constexpr (Planes == 2) {
        tiles.template store<2>(totals[2][0], 64);
        tiles.template store<3>(totals[3][0], 64);
      }
      for (int m = 0; m < panel.rows; ++m)
        for (int half = 0; half < 2; ++half) {
          const __m512i high = _mm512_load_si512(totals[half][m]),
                        low = _mm512_load_si512(totals[half + 2 * Planes - 2][m]);
          float* part = parts + m * panel_rows + half * 16;
          _mm512_store_ps(part,
                          avx512::add_x_group<Planes>(
                              high, _mm512_add_epi32(low, _mm512_set1_epi32(panel.compensation[x_group + m])),
                              panel.scales[x_group + m] * factor, _mm512_load_ps(part)));
        }
    }
  }
  const __m512 scale[2] = {_mm512_load_ps(chunk.scales), _mm512_load_ps(chunk.scales + 16)};
  for (int i = 0; i < 2 * panel.rows; ++i)
    avx512::add_part(_mm512_load_ps(parts + 16 * i), scale[i % 2], sums + 16 * i);
}

template <class Tiles>
inline void multiply(Tiles& tiles, const PanelProduct& p, const ActivationPanel* panels,
                     std::int64_t panel_count, float* sums) noexcept {
  // Tiles are read whole: codes that are bytes are copied, so that no byte beyond the matrix is read.
  const auto decode = [&p](const std::uint8_t* codes, std::int64_t steps, std::int64_t first,
                           std::uint8_t* out) {
    if (p.decode(codes, steps, first, out) == codes)
      std::memcpy(out, codes, static_cast<std::size_t>(steps * p.layout->step_bytes));
    return static_cast<const std::uint8_t*>(out);
  };
  const auto dot = [&](const Chunk& chunk, const ActivationPanel& panel, float* y) {
    if (p.shape->planes == 2)
      dot_chunk<2>(tiles, chunk, panel, y);
    else
      dot_chunk<1>(tiles, chunk, panel, y);
  };
  PanelProduct copied = p;
  copied.decode = decode;
  tiles.configure(AmxConfig{});
  for_each_chunk(copied, panels, panel_count, sums, scales_to_floats<Avx512>, dot);
  tiles.release();
}

}  // namespace amx

inline void panel_product(Amx, const PanelProduct& p, const ActivationPanel* panels, std::int64_t panel_count,
                          float* sums) noexcept {
  AmxTiles tiles;
  amx::multiply(tiles, p, panels, panel_count, sums);
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
