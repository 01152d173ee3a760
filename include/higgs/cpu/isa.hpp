// SPDX-License-Identifier: Apache-2.0
// Names of the instruction sets that the library has kernels for.
#pragma once

#include <higgs/config.hpp>

namespace higgs {
inline namespace v0 {

/// An instruction set. A function that takes one runs the kernels of that set, or of the nearest set below it that the
/// machine has; the results are the same bits. Callers leave it at best_isa(), tests do not.
enum class Isa {
  Portable,     ///< C++ alone
  Avx2,         ///< AVX2, FMA and F16C
  AvxVnni,      ///< Avx2 and AVX-VNNI (Alder Lake, Zen 5 and newer)
  AvxVnniEvex,  ///< Avx2 and AVX-512 VNNI on 256 bits (Cascade Lake)
  Avx512,       ///< AVX-512 F, BW, DQ, VL, VBMI, VNNI and GFNI (Ice Lake, Zen 4 and newer)
  Amx,          ///< Avx512 and the int8 tiles of AMX (Sapphire Rapids); best_isa() names it with HIGGS_AMX only
  Neon,         ///< the part of AArch64 that every processor has
  NeonDot,      ///< Neon and FEAT_DotProd (Armv8.2)
  NeonI8mm,     ///< NeonDot and FEAT_I8MM (Armv8.6)
};

/// The best instruction set of this machine.
inline Isa best_isa() noexcept;

/// `isa` where this machine has it, else the nearest set below it that the machine has.
inline Isa usable_isa(Isa isa) noexcept;

}  // namespace v0
}  // namespace higgs
