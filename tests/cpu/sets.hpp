// SPDX-License-Identifier: Apache-2.0
// The instruction sets of this machine, for tests.
#pragma once

#include <higgs/cpu/isas.hpp>

#include <vector>

/// Calls visit(set) for every instruction set that this machine has.
template <class Visit>
void for_each_set(const Visit& visit) {
  [&]<class... Sets>(higgs::TypeList<Sets...>) {
    ((Sets::runs() ? visit(Sets{}) : void()), ...);
  }(higgs::cpu::Isas{});
}

/// Their names, Portable first.
inline std::vector<higgs::Isa> all_isas() {
  std::vector<higgs::Isa> isas;
  for_each_set([&]<class Set>(Set) { isas.insert(isas.begin(), Set::isa); });
  return isas;
}
