// SPDX-License-Identifier: Apache-2.0
// Evenly spaced points on a line: any integer kernel can run them.
#pragma once

#include <higgs/core/concepts.hpp>

#include <array>
#include <cstdint>
#include <string>

namespace higgs {
inline namespace v0 {

/// CH8, the paper's constrained 8-bit grid: coordinates -128 ... 127, index = coordinate + 128. The step minimizes the
/// MSE on N(0, 1).
struct UniformCodebook8 {
  static constexpr int dim = 1;
  static constexpr int size = 256;
  using Element = std::int8_t;
  using Index = std::uint8_t;
  using Point = std::array<std::int8_t, 1>;

  HIGGS_HOST_DEVICE constexpr Point decode(Index index) const noexcept {
    return {static_cast<std::int8_t>(index - 128)};
  }
  constexpr double step() const noexcept { return 0.030765578542768769; }
  constexpr double mse() const noexcept { return 8.7706921971900911e-5; }
  static std::string name() { return "ch8"; }
};
static_assert(Codebook<UniformCodebook8>);

}  // namespace v0
}  // namespace higgs
