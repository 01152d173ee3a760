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
  Avx512,       ///< AVX-512 F, BW, DQ, VL, VBMI, VBMI2, VNNI and GFNI (Ice Lake, Zen 4 and newer)
  Amx,       ///< Avx512 and the int8 tiles of AMX (Sapphire Rapids); best_isa() names it with HIGGS_AMX only
  Neon,      ///< the part of AArch64 that every processor has
  NeonDot,   ///< Neon and FEAT_DotProd (Armv8.2)
  NeonI8mm,  ///< NeonDot and FEAT_I8MM (Armv8.6)
};

// The order of the enumerators means nothing: isa_includes() says which set builds on which.
bool operator<(Isa, Isa) = delete;
bool operator>(Isa, Isa) = delete;
bool operator<=(Isa, Isa) = delete;
bool operator>=(Isa, Isa) = delete;

/// The best instruction set of this machine.
inline Isa best_isa() noexcept;

/// `isa` where this machine has it, else the nearest set below it that the machine has.
inline Isa usable_isa(Isa isa) noexcept;

namespace cpu {

/// The order of a panel of activations for one kernel. A quad is four inputs that one lane of a dot product multiplies
/// with the four bytes of a lane of decoded weights (quad_position()). Planes are the high bytes of 16-bit integers, then
/// the low bytes.
enum class ActivationOrder {
  Bytes,  // (quads, rows, planes, 4) int8
  Words,  // (quads, rows, 4) int16; inputs 0, 2, 1, 3 of a quad: those of even bytes, then those of odd bytes
  AmxTiles,  // (quads / 16, planes, 16 rows, 16 quads, 4) int8
};

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
