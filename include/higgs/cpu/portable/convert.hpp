// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/core/half.hpp>
#include <higgs/cpu/portable/isa.hpp>

#include <cstdint>

namespace higgs {
inline namespace v0 {
namespace cpu {

/// out[i] = x[i] for `count` 16-bit floats. A signalling NaN may come out quiet.
template <class T>
void to_floats(Portable, const T* x, std::int64_t count, float* out) noexcept {
  for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(x[i]);
}

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
