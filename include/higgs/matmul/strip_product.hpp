// SPDX-License-Identifier: Apache-2.0
// One strip of tiles times some rows of activations, by the kernel for the machine at hand.
#pragma once

#include <higgs/cpu/isas.hpp>
#include <higgs/matmul/activations.hpp>
#include <higgs/matmul/strip.hpp>
#include <higgs/matmul/strip_amx.hpp>
#include <higgs/matmul/strip_avx2.hpp>
#include <higgs/matmul/strip_avx512.hpp>
#include <higgs/matmul/strip_neon.hpp>

#include <algorithm>
#include <cstdint>

namespace higgs {
inline namespace v0 {
namespace detail {

/// The kernels; all give the same bits.
enum class StripKernel {
  Portable,
  Neon,
  Avx2,
  AvxVnni,  // AVX2 and AVX-VNNI
  AvxVnniEvex,  // the same program with the instruction of AVX-512 VNNI, for tests on machines that have only that
  Avx512,
  Amx,       // AVX-512 and AMX, for many rows of x
  NeonDot,   // NEON and its dot products of bytes
  NeonI8mm,  // NEON and its matrix products of bytes, for several rows of x
};

/// Rows of x from which on tiles are used: half of a tile.
inline constexpr std::int64_t min_amx_rows = 8;

inline StripKernel strip_kernel(Isa isa, std::int64_t rows) noexcept {
#if defined(HIGGS_TARGET_BEGIN)
  if (isa_includes(isa, Isa::Avx512)) {
    // By request: its tests pass on tiles in software, and no machine with AMX has run it yet.
#  if defined(HIGGS_AMX)
    static const bool amx = cpu::Amx::runs();
    if (amx && rows >= min_amx_rows) return StripKernel::Amx;
#  endif
    return StripKernel::Avx512;
  }
  static const bool avx_vnni = cpu::AvxVnni::runs();
  if (isa_includes(isa, Isa::Avx2)) return avx_vnni ? StripKernel::AvxVnni : StripKernel::Avx2;
#endif
#if defined(HIGGS_NEON)
  static const bool neon_dot = cpu::NeonDot::runs(), neon_i8mm = cpu::NeonI8mm::runs();
  if (isa_includes(isa, Isa::Neon) && neon_i8mm && rows > 1) return StripKernel::NeonI8mm;
  if (isa_includes(isa, Isa::Neon)) return neon_dot ? StripKernel::NeonDot : StripKernel::Neon;
#endif
  static_cast<void>(isa);
  static_cast<void>(rows);
  return StripKernel::Portable;
}

/// How panels are laid out for a kernel, and how many rows share one.
constexpr QuadOrder quad_order(StripKernel kernel) noexcept {
  if (kernel == StripKernel::Amx) return QuadOrder::Tiles;
  return kernel <= StripKernel::Avx2 ? QuadOrder::Words : QuadOrder::Bytes;
}
inline constexpr int min_panel_rows = 3;
constexpr int panel_rows(StripKernel kernel, int planes) noexcept {
  if (kernel == StripKernel::Amx) return tile_panel_rows;
  if (kernel <= StripKernel::Avx2 || kernel >= StripKernel::NeonDot) return 4;
  return kernel < StripKernel::Avx512 && planes == 2 ? min_panel_rows : 6;
}

/// Inputs of a group as a kernel's panels hold them: whole steps, of tiles whole tiles.
inline std::int64_t padded_group(StripKernel kernel, const PackedLayout& layout,
                                 const UnitTables& tables) noexcept {
  const std::int64_t inputs = layout.steps_per_group() * layout.units_per_step() * tables.dim;
  return kernel == StripKernel::Amx ? (inputs + 63) / 64 * 64 : inputs;
}

/// sums (all rows of the panels, 32) += activations times the strip's weights, without 2^exponent.
inline void strip_product(const StripProduct& p, const Panel* panels, std::int64_t panel_count, float* sums,
                          StripKernel kernel) noexcept {
  switch (kernel) {
#if defined(HIGGS_TARGET_BEGIN)
    case StripKernel::Amx: {
      AmxTiles tiles;
      return amx::strip_product(tiles, p, panels, panel_count, sums);
    }
    case StripKernel::Avx512:
      return avx512::strip_product(p, panels, panel_count, sums);
    case StripKernel::AvxVnni:
      return avx2::strip_product<avx2::ByteDot<avx2::VexDot>>(p, panels, panel_count, sums);
    case StripKernel::AvxVnniEvex:
      return avx2::strip_product<avx2::ByteDot<avx2::EvexDot>>(p, panels, panel_count, sums);
    case StripKernel::Avx2:
      return avx2::strip_product<avx2::WordDot>(p, panels, panel_count, sums);
#elif defined(HIGGS_NEON)
#  if defined(HIGGS_NEON_DOT)
    case StripKernel::NeonDot:
      return neon::strip_product<neon::ByteDot>(p, panels, panel_count, sums);
#  endif
#  if defined(HIGGS_NEON_I8MM)
    case StripKernel::NeonI8mm:
      return neon::strip_product<neon::MatrixDot>(p, panels, panel_count, sums);
#  endif
    case StripKernel::Neon:
      return neon::strip_product<neon::WordDot>(p, panels, panel_count, sums);
#endif
    default:
      return portable::strip_product(p, panels, panel_count, sums);
  }
}

}  // namespace detail
}  // namespace v0
}  // namespace higgs
