// SPDX-License-Identifier: Apache-2.0
// The version, and what every other header takes for granted.
#pragma once

#if defined(_MSVC_LANG) ? _MSVC_LANG < 202002L : __cplusplus < 202002L
#  error higgs needs C++20: pass -std=c++20 to the compiler (to nvcc as well)
#endif

#include <cstddef>
#include <cstdint>

// The one place the version is written; CMake reads it from here.
#define HIGGS_VERSION_MAJOR 0
#define HIGGS_VERSION_MINOR 1
#define HIGGS_VERSION_PATCH 0

// Marks functions that both the host and a kernel may call; empty without nvcc.
#if defined(__CUDACC__)
#  define HIGGS_HOST_DEVICE __host__ __device__
#else
#  define HIGGS_HOST_DEVICE
#endif

// Marks types through which memory of another type with the same bits may be read and written.
#if defined(__GNUC__)
#  define HIGGS_MAY_ALIAS [[gnu::may_alias]]
#else
#  define HIGGS_MAY_ALIAS
#endif

// Before a loop over registers: it must vanish, or the registers become memory.
#if defined(__clang__) || defined(__CUDA_ARCH__)
#  define HIGGS_UNROLL _Pragma("unroll")
#elif defined(__CUDACC__) && defined(__GNUC__)  // nvcc hands g++'s pragma on, but would warn of it
#  define HIGGS_UNROLL                                                                      \
    _Pragma("nv_diagnostic push") _Pragma("nv_diag_suppress 1675") _Pragma("GCC unroll 32") \
        _Pragma("nv_diagnostic pop")
#elif defined(__GNUC__)
#  define HIGGS_UNROLL _Pragma("GCC unroll 32")
#else
#  define HIGGS_UNROLL
#endif

// The library is header-only, unless HIGGS_COMPILED is defined, as the CMake target higgs::compiled does for its users:
// headers then only declare the large functions, and cmake/compiled.cpp, which defines HIGGS_COMPILED_SOURCE, has them.
// A file with a code of its own defines HIGGS_BODIES before it includes higgs, and compiles the functions that it needs.
#if defined(HIGGS_COMPILED) && !defined(HIGGS_BODIES)
#  define HIGGS_INLINE
#else
#  define HIGGS_INLINE inline
#endif
#if defined(HIGGS_COMPILED) && !defined(HIGGS_COMPILED_SOURCE) && !defined(HIGGS_BODIES)
#  define HIGGS_DEFINITIONS 0
#else
#  define HIGGS_DEFINITIONS 1
#endif

namespace higgs {
/// The ABI of this version: objects built with different versions do not mix silently.
inline namespace v0 {
namespace detail {

/// A template argument as the extent of an array. Where an int is one, g++'s -Wsign-conversion warns.
template <std::int64_t Value>
inline constexpr std::size_t extent = static_cast<std::size_t>(Value);

}  // namespace detail
}  // namespace v0
}  // namespace higgs
