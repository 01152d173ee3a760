// SPDX-License-Identifier: Apache-2.0
// Many 16-bit floats as floats.
#pragma once

#include <higgs/core/half.hpp>
#include <higgs/cpu/isas.hpp>

#include <algorithm>
#include <cstdint>

namespace higgs {
inline namespace v0 {

/// out[i] = x[i], exactly, for `count` numbers. A signalling NaN may come out quiet.
inline void to_floats(const float* x, std::int64_t count, float* out, Isa = best_isa()) noexcept {
  std::copy_n(x, count, out);
}
/// The same for fp16.
HIGGS_INLINE void to_floats(const Half* x, std::int64_t count, float* out, Isa isa = best_isa()) noexcept;
/// The same for bfloat16.
HIGGS_INLINE void to_floats(const BFloat16* x, std::int64_t count, float* out, Isa isa = best_isa()) noexcept;

#if HIGGS_DEFINITIONS

HIGGS_INLINE void to_floats(const Half* x, std::int64_t count, float* out, Isa isa) noexcept {
  cpu::dispatch(isa, [&](auto set) { to_floats(set, x, count, out); });
}
HIGGS_INLINE void to_floats(const BFloat16* x, std::int64_t count, float* out, Isa isa) noexcept {
  cpu::dispatch(isa, [&](auto set) { to_floats(set, x, count, out); });
}

#endif

}  // namespace v0
}  // namespace higgs
