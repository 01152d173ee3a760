// SPDX-License-Identifier: Apache-2.0
// Operations on a row of floats that quantization takes.
#pragma once

#include <higgs/cpu/portable/isa.hpp>

#include <algorithm>
#include <cstddef>
#include <type_traits>

namespace higgs {
inline namespace v0 {
namespace cpu {

/// out[i] = x[i] * factor, clamped to +-limit, rounded to an integer, ties to even.
inline void round_clamped(Portable, const float* x, std::size_t count, float factor, float limit,
                          float* out) noexcept {
  constexpr float magic = 0x1.8p23f;  // adding and subtracting it rounds
  for (std::size_t i = 0; i < count; ++i) out[i] = (std::clamp(x[i] * factor, -limit, limit) + magic) - magic;
}

/// out[i] = x[i] - scale * q[i], rounded once. `scale` is an fp16 number: the products are exact, of 11 and 8 bits, or
/// in double.
template <class Element>
void subtract_scaled(Portable, const float* x, const Element* q, std::size_t count, float scale,
                     float* out) noexcept {
  using Exact = std::conditional_t<sizeof(Element) == 1, float, double>;
  for (std::size_t i = 0; i < count; ++i)
    out[i] =
        static_cast<float>(static_cast<Exact>(x[i]) - static_cast<Exact>(scale) * static_cast<Exact>(q[i]));
}

/// x[i] *= factors[i].
inline void multiply_by(Portable, float* x, const float* factors, std::size_t count) noexcept {
  for (std::size_t i = 0; i < count; ++i) x[i] *= factors[i];
}

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
