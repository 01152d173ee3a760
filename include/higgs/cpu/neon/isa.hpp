// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/isa.hpp>
#include <higgs/cpu/portable/isa.hpp>
#include <higgs/cpu/targets.hpp>

#if defined(HIGGS_NEON)
#  if defined(__linux__)
#    include <sys/auxv.h>
#  endif

namespace higgs {
inline namespace v0 {
namespace cpu {

/// The part of AArch64 that every processor has.
struct Neon : Portable {
  using Base = Portable;
  static constexpr Isa isa = Isa::Neon;
};

/// Neon with dot products of bytes, FEAT_DotProd.
struct NeonDot : Neon {
  using Base = Neon;
  static constexpr Isa isa = Isa::NeonDot;
  static constexpr ActivationOrder activation_order = ActivationOrder::Bytes;
  static bool runs() noexcept {
#  if defined(__ARM_FEATURE_DOTPROD) || (defined(HIGGS_NEON_DOT) && defined(__APPLE__))
    return true;
#  elif defined(HIGGS_NEON_DOT) && defined(__linux__)
    return (::getauxval(AT_HWCAP) >> 20 & 1u) != 0;  // HWCAP_ASIMDDP
#  else
    return false;
#  endif
  }
};

/// NeonDot with products of 2 x 8 by 8 x 2 matrices of bytes, FEAT_I8MM.
struct NeonI8mm : NeonDot {
  using Base = NeonDot;
  static constexpr Isa isa = Isa::NeonI8mm;
  static constexpr std::int64_t min_rows = 2;
  static bool runs() noexcept {
#  if defined(__ARM_FEATURE_MATMUL_INT8)
    return true;
#  elif defined(HIGGS_NEON_I8MM) && defined(__linux__)
    return (::getauxval(AT_HWCAP2) >> 13 & 1u) != 0;  // HWCAP2_I8MM
#  else
    return false;
#  endif
  }
};

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
