// SPDX-License-Identifier: Apache-2.0
// Many 16-bit floats as floats.
#pragma once

#include <higgs/core/concepts.hpp>
#include <higgs/cpu/isas.hpp>

#include <algorithm>
#include <cstdint>

namespace higgs {
inline namespace v0 {

/// out[i] = x[i], exactly, for `count` numbers. A signalling NaN may come out quiet.
template <Scalar T>
void to_floats(const T* x, std::int64_t count, float* out, Isa isa = best_isa()) noexcept {
  if constexpr (sizeof(T) == sizeof(float))
    std::copy_n(x, count, out);
  else
    cpu::dispatch(isa, [&](auto set) { to_floats(set, x, count, out); });
}

}  // namespace v0
}  // namespace higgs
