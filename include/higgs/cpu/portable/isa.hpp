// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/isa.hpp>

#include <cstdint>

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

  /// Whether an instruction looks up a table of 256 bytes.
  static constexpr bool has_lookup_256 = false;

  // The product of packed weights, see cpu/portable/panel_product.hpp.
  static constexpr ActivationOrder activation_order = ActivationOrder::Words;
  /// Rows of an activation panel whose integers have so many planes, at most.
  static constexpr int panel_rows(int /*planes*/) noexcept { return 4; }
  /// The product of fewer rows of x goes to the set below.
  static constexpr std::int64_t min_rows = 1;
  /// Inputs of a padded group are a multiple of this.
  static constexpr std::int64_t group_multiple = 1;
};

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
