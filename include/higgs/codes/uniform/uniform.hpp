// SPDX-License-Identifier: Apache-2.0
// Evenly spaced points on a line: any integer kernel can run them.
#pragma once

#include <higgs/core/concepts.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace higgs {
inline namespace v0 {

/// 2^Bits evenly spaced points, 2 to 8 bits, with the step that minimizes the MSE on N(0, 1). Below 8 bits
/// they are the odd integers 2 index - (size - 1), symmetric about 0. Those of 8 bits are index - 128: CH8,
/// the paper's constrained 8-bit grid.
template <int Bits>
class UniformCodebook {
  static_assert(Bits >= 2 && Bits <= 8, "UniformCodebook<Bits>: Bits must lie in [2, 8]");

 public:
  static constexpr int dim = 1;
  static constexpr int size = 1 << Bits;
  using Element = std::int8_t;
  using Index = std::uint8_t;
  using Point = std::array<std::int8_t, 1>;

  HIGGS_HOST_DEVICE constexpr Point decode(Index index) const noexcept {
    return {static_cast<std::int8_t>(Bits == 8 ? index - 128 : 2 * index - (size - 1))};
  }
  constexpr double step() const noexcept {
    constexpr std::array steps{0.49784333815571036,  0.29300972560681127,  0.16760029935484855,
                               0.094069389049071139, 0.052031512228329732, 0.02843383756330501,
                               0.030765578542768769};
    return steps[static_cast<std::size_t>(Bits) - 2];
  }
  constexpr double mse() const noexcept {
    constexpr std::array errors{0.11884605038407725,   0.03743965939152364,   0.011542884431351036,
                                0.0034952113615057496, 0.0010400454087920634, 0.00030433277082387114,
                                8.7706921971900911e-5};
    return errors[static_cast<std::size_t>(Bits) - 2];
  }
  /// "u4", with 8 bits "ch8".
  static std::string name() {
    return Bits == 8 ? "ch8" : std::string("u").append(1, static_cast<char>('0' + Bits));
  }
};

/// CH8.
using UniformCodebook8 = UniformCodebook<8>;
static_assert(Codebook<UniformCodebook8> && Codebook<UniformCodebook<4>>);

}  // namespace v0
}  // namespace higgs
