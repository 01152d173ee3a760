// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/avx2/isa.hpp>
#include <higgs/cpu/isa.hpp>
#include <higgs/cpu/targets.hpp>

#if defined(HIGGS_TARGET_BEGIN)
#  include <cpuid.h>
#  if defined(__linux__)
#    include <sys/syscall.h>
#    include <unistd.h>
#  endif

namespace higgs {
inline namespace v0 {
namespace cpu {

/// AVX-512 F, BW, DQ, VL, VBMI, VBMI2, VNNI and GFNI.
struct Avx512 : Avx2 {
  using Base = Avx2;
  static constexpr Isa isa = Isa::Avx512;
  static constexpr bool has_lookup_256 = true;
  static constexpr ActivationOrder activation_order = ActivationOrder::Bytes;
  static constexpr int panel_rows(int /*planes*/) noexcept { return 6; }
  static bool runs() noexcept {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("gfni") && Avx2::runs();
  }
};

/// Avx512 with the int8 tiles of AMX. Tests run it on tiles in software; no machine with AMX has run it yet, so
/// best_isa() names it only where HIGGS_AMX is defined.
struct Amx : Avx512 {
  using Base = Avx512;
  static constexpr Isa isa = Isa::Amx;
  static constexpr ActivationOrder activation_order = ActivationOrder::AmxTiles;
  static constexpr int panel_rows(int /*planes*/) noexcept { return 16; }
  static constexpr std::int64_t min_rows = 8, group_multiple = 64;
#  if !defined(HIGGS_AMX)
  static constexpr bool by_default = false;
#  endif
  /// Asks Linux for the permission to use tiles.
  static bool runs() noexcept {
#  if defined(__linux__)
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!Avx512::runs() || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d >> 24 & 3u) != 3) return false;
    constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return ::syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#  else
    return false;
#  endif
  }
};

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
