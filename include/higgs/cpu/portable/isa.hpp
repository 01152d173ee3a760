// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/isa.hpp>

namespace higgs {
inline namespace v0 {
namespace cpu {

/// C++ alone: the reference that every other instruction set equals.
struct Portable {
  static constexpr Isa isa = Isa::Portable;
  /// Whether best_isa() may name the set.
  static constexpr bool by_default = true;
  /// Whether this machine has the set.
  static bool runs() noexcept { return true; }
};

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
