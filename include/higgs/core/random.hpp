// SPDX-License-Identifier: Apache-2.0
// Counter-based random bits: the same seed and counter give the same bits on every machine, in any order.
#pragma once

#include <higgs/config.hpp>

#include <cmath>
#include <cstdint>
#include <numbers>

namespace higgs {
inline namespace v0 {

namespace detail {
/// SplitMix64's output function (Steele, Lea, Flood, OOPSLA 2014): a bijection that scatters every bit.
HIGGS_HOST_DEVICE constexpr std::uint64_t scatter(std::uint64_t z) noexcept {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
}  // namespace detail

/// 64 random bits for (`seed`, `counter`). The seed is scattered first, so that neighbouring seeds are unrelated.
/// Signs in files depend on it: it never changes.
HIGGS_HOST_DEVICE constexpr std::uint64_t random_bits(std::uint64_t seed, std::uint64_t counter) noexcept {
  constexpr std::uint64_t golden = 0x9e3779b97f4a7c15u;  // 2^64 / golden ratio, odd
  return detail::scatter(detail::scatter(seed + golden) + golden * (counter + 1));
}

/// A number in (0, 1), 52 random bits, never 0 nor 1.
HIGGS_HOST_DEVICE constexpr double random_uniform(std::uint64_t seed, std::uint64_t counter) noexcept {
  return (static_cast<double>(random_bits(seed, counter) >> 12) + 0.5) * 0x1p-52;
}

/// A standard normal number (Box-Muller).
inline double random_normal(std::uint64_t seed, std::uint64_t counter) noexcept {
  const double radius = std::sqrt(-2.0 * std::log(random_uniform(seed, 2 * counter)));
  return radius * std::cos(2.0 * std::numbers::pi * random_uniform(seed, 2 * counter + 1));
}

}  // namespace v0
}  // namespace higgs
