// SPDX-License-Identifier: Apache-2.0
// Code for instruction sets that the user's compiler flags do not name.
#pragma once

#include <higgs/config.hpp>

#if defined(__aarch64__) && defined(__GNUC__)
#  define HIGGS_NEON
// HIGGS_NEON_DOT and HIGGS_NEON_I8MM precede functions that use FEAT_DotProd and FEAT_I8MM. Call such a function only
// after NeonDot::runs() or NeonI8mm::runs(). The attribute must repeat the features of the file, or intrinsics are not
// inlined. clang before 16 has these features for all files or for none.
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

// Code between HIGGS_TARGET_BEGIN and HIGGS_TARGET_END is compiled for the named features. Call it only after the
// instruction set's runs(). A function outside may call a function inside, but must not inline it.
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
#define HIGGS_AVX512_FEATURES \
  "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni,gfni"
