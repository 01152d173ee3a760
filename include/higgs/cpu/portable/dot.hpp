// SPDX-License-Identifier: Apache-2.0
// Dot products whose bits are the same on every machine.
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/portable/isa.hpp>

#include <array>
#include <cstddef>

namespace higgs {
inline namespace v0 {
namespace cpu {

/// Sums a[i] * b[i] for `count` terms, each of a and b floats, int8 or int16, in an order that any machine can follow: 16
/// strided partial sums (term i is added to sum i % 16, ascending), then halves folded together. `sums` are what the
/// partial sums begin with. Products of two floats, or of a float and an int16, are exact in double, so that fusing the
/// addition into the multiplication changes nothing.
template <class A, class B>
double strided_dot(Portable, const A* a, const B* b, std::size_t count,
                   std::array<double, 16> sums = {}) noexcept {
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16) HIGGS_UNROLL
    for (std::size_t lane = 0; lane < 16; ++lane)
      sums[lane] += static_cast<double>(a[i + lane]) * static_cast<double>(b[i + lane]);
  for (std::size_t lane = 0; i + lane < count; ++lane)
    sums[lane] += static_cast<double>(a[i + lane]) * static_cast<double>(b[i + lane]);
  for (std::size_t half = 8; half > 0; half /= 2)
    for (std::size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  return sums[0];
}

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
