// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/isa.hpp>
#include <higgs/cpu/portable/isa.hpp>
#include <higgs/cpu/targets.hpp>

#if defined(HIGGS_TARGET_BEGIN)
#  include <cpuid.h>

namespace higgs {
inline namespace v0 {
namespace cpu {

/// AVX2, FMA and F16C.
struct Avx2 : Portable {
  using Base = Portable;
  static constexpr Isa isa = Isa::Avx2;
  static bool runs() noexcept {
    __builtin_cpu_init();
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &a, &b, &c, &d) != 0 &&
           (c >> 29 & 1u) != 0;  // F16C, which not every compiler's __builtin_cpu_supports knows
  }
};

/// Avx2 with vpdpbusd in VEX encoding.
struct AvxVnni : Avx2 {
  using Base = Avx2;
  static constexpr Isa isa = Isa::AvxVnni;
  static constexpr ActivationOrder activation_order = ActivationOrder::Bytes;
  static constexpr int panel_rows(int planes) noexcept { return planes == 2 ? 3 : 6; }
  static bool runs() noexcept {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return Avx2::runs() && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1u) != 0;
  }
};

/// Avx2 with vpdpbusd in EVEX encoding.
struct AvxVnniEvex : Avx2 {
  using Base = Avx2;
  static constexpr Isa isa = Isa::AvxVnniEvex;
  static constexpr ActivationOrder activation_order = ActivationOrder::Bytes;
  static constexpr int panel_rows(int planes) noexcept { return planes == 2 ? 3 : 6; }
  static bool runs() noexcept {
    return Avx2::runs() && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
  }
};

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
