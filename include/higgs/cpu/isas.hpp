// SPDX-License-Identifier: Apache-2.0
// The list of instruction sets, and the choice among their kernels.
//
// An instruction set is a struct that derives from the set below it: Avx512 : Avx2 : Portable. A kernel is a function
// whose first parameter is such a struct, in namespace higgs::cpu. Overload resolution takes the kernel of the set, or
// of the nearest set below that has one. docs/howto-isa.md adds a set.
#pragma once

#include <higgs/core/concepts.hpp>
#include <higgs/cpu/avx2/isa.hpp>
#include <higgs/cpu/avx512/isa.hpp>
#include <higgs/cpu/isa.hpp>
#include <higgs/cpu/neon/isa.hpp>
#include <higgs/cpu/portable/isa.hpp>
#include <higgs/cpu/targets.hpp>

#if HIGGS_DEFINITIONS
#  include <higgs/cpu/avx2/kernels.hpp>
#  include <higgs/cpu/avx512/kernels.hpp>
#  include <higgs/cpu/neon/kernels.hpp>
#  include <higgs/cpu/portable/kernels.hpp>
#endif

namespace higgs {
inline namespace v0 {
namespace cpu {

/// Every instruction set of this architecture, best first.
#if defined(HIGGS_TARGET_BEGIN)
using Isas = TypeList<Amx, Avx512, AvxVnni, AvxVnniEvex, Avx2, Portable>;
#elif defined(HIGGS_NEON)
using Isas = TypeList<NeonI8mm, NeonDot, Neon, Portable>;
#else
using Isas = TypeList<Portable>;
#endif

namespace detail {

template <class Function, class First, class... Rest>
decltype(auto) dispatch(Isa isa, Function&& function, TypeList<First, Rest...>) {
  if constexpr (sizeof...(Rest) == 0) {
    return function(First{});
  } else {
    if (isa == First::isa) return function(First{});
    return dispatch(isa, function, TypeList<Rest...>{});
  }
}

template <class Set>
Isa usable() noexcept {
  static const bool runs = Set::runs();  // CPUID takes microseconds in a virtual machine
  if (runs) return Set::isa;
  if constexpr (requires { typename Set::Base; }) return usable<typename Set::Base>();
  return Isa::Portable;
}

template <class... Sets>
Isa best(TypeList<Sets...>) noexcept {
  Isa best = Isa::Portable;
  static_cast<void>(((Sets::by_default && Sets::runs() && (best = Sets::isa, true)) || ...));
  return best;
}

template <class Set>
bool includes(Isa isa) noexcept {
  if (Set::isa == isa) return true;
  if constexpr (requires { typename Set::Base; }) return includes<typename Set::Base>(isa);
  return false;
}

}  // namespace detail

/// function(Set{}) for the instruction set `isa`, which the machine must have; for one of another architecture,
/// function(Portable{}).
template <class Function>
decltype(auto) dispatch(Isa isa, Function&& function) {
  return detail::dispatch(isa, function, Isas{});
}

}  // namespace cpu

inline Isa best_isa() noexcept {
  static const Isa best = cpu::detail::best(cpu::Isas{});
  return best;
}

/// Whether `isa` is `part` or builds on it.
inline bool isa_includes(Isa isa, Isa part) noexcept {
  return cpu::dispatch(isa, [part]<class Set>(Set) { return cpu::detail::includes<Set>(part); });
}

inline Isa usable_isa(Isa isa) noexcept {
  if (isa == best_isa()) return isa;
  return cpu::dispatch(isa, []<class Set>(Set) { return cpu::detail::usable<Set>(); });
}

}  // namespace v0
}  // namespace higgs
