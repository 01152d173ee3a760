// SPDX-License-Identifier: Apache-2.0
// Which instructions this machine has: one build picks its path at run time.
#pragma once

#include <higgs/config.hpp>

#if defined(__x86_64__) && defined(__GNUC__)
#  include <cpuid.h>
#  if defined(__linux__)
#    include <sys/syscall.h>
#    include <unistd.h>
#  endif
#elif defined(__aarch64__) && defined(__GNUC__)
#  define HIGGS_NEON
#  if defined(__linux__)
#    include <sys/auxv.h>
#  endif
// Before functions with dot products of bytes and with products of 2 x 8 by 8 x 2 bytes, which may be called after
// has_neon_dot() and has_neon_i8mm(). They must have all that the rest of the file is compiled for, or intrinsics are
// not inlined. clang before 16 has them for all files or none.
#  if defined(__ARM_FEATURE_MATMUL_INT8)
#    define HIGGS_NEON_I8MM
#  elif defined(__clang__) && __clang_major__ < 16
#  elif defined(__ARM_FEATURE_FP16_SCALAR_ARITHMETIC) || defined(__ARM_FEATURE_SVE) || \
      defined(__ARM_FEATURE_DOTPROD)
#    define HIGGS_NEON_I8MM __attribute__((target("+i8mm")))
#  elif defined(__ARM_FEATURE_CRYPTO)
#    define HIGGS_NEON_I8MM __attribute__((target("arch=armv8.2-a+i8mm+crypto")))
#  else
#    define HIGGS_NEON_I8MM __attribute__((target("arch=armv8.2-a+i8mm")))
#  endif
#  if defined(__ARM_FEATURE_DOTPROD)
#    define HIGGS_NEON_DOT
#  elif defined(__clang__) && __clang_major__ < 16
#  elif defined(__ARM_FEATURE_FP16_SCALAR_ARITHMETIC) || defined(__ARM_FEATURE_SVE)
#    define HIGGS_NEON_DOT __attribute__((target("+dotprod")))
#  elif defined(__ARM_FEATURE_CRYPTO)
#    define HIGGS_NEON_DOT __attribute__((target("arch=armv8.2-a+dotprod+crypto")))
#  else
#    define HIGGS_NEON_DOT __attribute__((target("arch=armv8.2-a+dotprod")))
#  endif
#endif

namespace higgs {
inline namespace v0 {

/// Instruction sets that a fast path exists for, each including those before it on its architecture.
/// `Avx512` means F, BW, DQ, VL, VBMI, VNNI and GFNI (Ice Lake, Zen 4 and newer); `Neon` is what every AArch64 has.
enum class Isa { Portable, Avx2, Avx512, Neon };

namespace detail {
inline Isa detect_isa() noexcept {
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni") &&
      __builtin_cpu_supports("gfni"))
    return Isa::Avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::Avx2;
#elif defined(HIGGS_NEON)
  return Isa::Neon;
#endif
  return Isa::Portable;
}

/// The dot products of bytes that came to processors without AVX-512 (Alder Lake, Zen 5 and newer).
inline bool has_avx_vnni() noexcept {
#if defined(__x86_64__) && defined(__GNUC__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  return detect_isa() != Isa::Portable && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1u) != 0;
#else
  return false;
#endif
}

/// The dot products of bytes that came with Armv8.2: FEAT_DotProd.
inline bool has_neon_dot() noexcept {
#if defined(__ARM_FEATURE_DOTPROD) || (defined(HIGGS_NEON_DOT) && defined(__APPLE__))
  return true;
#elif defined(HIGGS_NEON_DOT) && defined(__linux__)
  return (::getauxval(AT_HWCAP) >> 20 & 1u) != 0;  // HWCAP_ASIMDDP
#else
  return false;
#endif
}

/// Products of small matrices of bytes, Armv8.6 and some before it: FEAT_I8MM.
inline bool has_neon_i8mm() noexcept {
#if defined(__ARM_FEATURE_MATMUL_INT8)
  return true;
#elif defined(HIGGS_NEON_I8MM) && defined(__linux__)
  return (::getauxval(AT_HWCAP2) >> 13 & 1u) != 0;  // HWCAP2_I8MM
#else
  return false;
#endif
}

/// Tiles of AMX with int8, which Linux lets a process use when asked; asks it.
inline bool request_amx_int8() noexcept {
#if defined(__x86_64__) && defined(__GNUC__) && defined(__linux__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d >> 24 & 3u) != 3) return false;
  constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return ::syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}
}  // namespace detail

/// The best instruction set of this machine that the library has a path for.
inline Isa best_isa() noexcept {
  static const Isa isa = detail::detect_isa();
  return isa;
}

}  // namespace v0
}  // namespace higgs

// Code between these two is compiled for the named features, whatever flags the user compiles with; it may
// only be called after best_isa() said so. Functions inside must not be called from inline functions outside.
#if defined(__x86_64__) && defined(__clang__)
#  define HIGGS_PRAGMA(text) _Pragma(#text)
#  define HIGGS_TARGET_BEGIN(features) \
    HIGGS_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#  define HIGGS_TARGET_END _Pragma("clang attribute pop")
#elif defined(__x86_64__) && defined(__GNUC__)
#  define HIGGS_PRAGMA(text) _Pragma(#text)
// g++ 12 calls its own intrinsics' undefined registers uninitialized (GCC bug 105593).
#  define HIGGS_TARGET_BEGIN(features)                                                            \
    _Pragma("GCC push_options") HIGGS_PRAGMA(GCC target(features)) _Pragma("GCC diagnostic push") \
        _Pragma("GCC diagnostic ignored \"-Wuninitialized\"")                                     \
            _Pragma("GCC diagnostic ignored \"-Wmaybe-uninitialized\"")
#  define HIGGS_TARGET_END _Pragma("GCC diagnostic pop") _Pragma("GCC pop_options")
#endif
#define HIGGS_AVX2_FEATURES "avx2,fma,f16c"
#define HIGGS_AVX512_FEATURES "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,gfni"
