// SPDX-License-Identifier: Apache-2.0
// Random signs of columns: negation, and negation together with conversion and input scales.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/random.hpp>
#include <higgs/cpu/portable/isa.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace higgs {
inline namespace v0 {

/// The signs of 64 columns: bit i is set if column `first_column` + i is negated.
HIGGS_HOST_DEVICE constexpr std::uint64_t sign_bits(std::uint64_t seed, std::int64_t first_column) noexcept {
  const auto column = static_cast<std::uint64_t>(first_column);
  const std::uint64_t low = random_bits(seed, column / 64) >> column % 64;
  return column % 64 == 0 ? low : low | random_bits(seed, column / 64 + 1) << (64 - column % 64);
}

namespace cpu {

/// x[i] negated where column first_column + i is, for `count` floats.
[[gnu::noinline]] inline void flip_signs(Portable, float* x, std::size_t count, std::uint64_t seed,
                                         std::int64_t first_column) noexcept {
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < count; ++i, bits >>= 1) {
    if (i % 64 == 0) bits = sign_bits(seed, first_column + static_cast<std::int64_t>(i));
    const auto flip = static_cast<std::uint32_t>(bits << 63 >> 32);
    x[i] = std::bit_cast<float>(std::bit_cast<std::uint32_t>(x[i]) ^ flip);
  }
}

/// out[i] = x[i] * scales[i], negated where column first_column + i is, for `count` numbers. Without `scales` (null) there
/// are no factors, without a seed no signs. A signalling NaN may come out quiet.
template <class T>
[[gnu::noinline]] void load_signed(Portable set, const T* x, const float* scales, std::size_t count,
                                   std::optional<std::uint64_t> seed, std::int64_t first_column,
                                   float* out) noexcept {
  for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<float>(x[i]);
  for (std::size_t i = 0; i < count && scales != nullptr; ++i) out[i] *= scales[i];
  if (seed) flip_signs(set, out, count, *seed, first_column);
}

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
