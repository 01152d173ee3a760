// SPDX-License-Identifier: Apache-2.0
// Fixed-width integers, and the 16-bit floats with the roundings that PTX knows. Independent of the library's own
// conversions, so that the two can be compared.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#if defined(__F16C__)
#  include <immintrin.h>
#endif

namespace emulator {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s8 = std::int8_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;
__extension__ using u128 = unsigned __int128;
__extension__ using s128 = __int128;

enum class Rounding : u8 { Nearest, Zero, Down, Up, NearestAway };

inline float half_to_float(u16 h) {
#if defined(__F16C__)
  return _cvtsh_ss(h);
#else
  const u32 sign = (h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 1023u;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
  const float v = exponent != 0 ? std::bit_cast<float>(((exponent + 112) << 23) | (fraction << 13))
                                : static_cast<float>(fraction) * 0x1p-24f;
  return std::bit_cast<float>(std::bit_cast<u32>(v) | sign);
#endif
}

inline float bfloat16_to_float(u16 h) { return std::bit_cast<float>(static_cast<u32>(h) << 16); }

/// Rounds to an IEEE-like format with infinities; returns its bits.
inline u32 round_to(double d, int exponent_bits, int fraction_bits, Rounding r) {
  const u32 sign = std::signbit(d) ? 1u << (exponent_bits + fraction_bits) : 0u;
  const u32 infinity = ((1u << exponent_bits) - 1) << fraction_bits;
  const double a = std::fabs(d);
  if (d != d) return infinity | ((1u << fraction_bits) - 1);
  if (std::isinf(a)) return sign | infinity;
  if (a == 0) return sign;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = std::max(std::ilogb(a), 1 - bias);
  const double scaled = std::ldexp(a, fraction_bits - exponent);
  const double whole = std::floor(scaled), rest = scaled - whole;
  const bool away = (r == Rounding::Down && sign != 0) || (r == Rounding::Up && sign == 0);
  bool up = away && rest > 0;
  if (r == Rounding::Nearest) up = rest > 0.5 || (rest == 0.5 && std::fmod(whole, 2) == 1);
  if (r == Rounding::NearestAway) up = rest >= 0.5;
  const u64 m = static_cast<u64>(whole) + (up ? 1 : 0);  // with the hidden bit for normal numbers
  const bool normal = m >= (u64{1} << fraction_bits);
  const u64 bits = normal ? (static_cast<u64>(exponent + bias - 1) << fraction_bits) + m : m;
  if (bits < infinity) return sign | static_cast<u32>(bits);
  const bool to_nearest = r == Rounding::Nearest || r == Rounding::NearestAway;
  return sign | (to_nearest || away ? infinity : infinity - 1);
}

/// Rounds to float, a rounded result odd, so that a second rounding to 16 bits is exact.
inline float to_float_odd(double d) {
  const float f = static_cast<float>(d);
  if (static_cast<double>(f) == d || d != d || std::isinf(f)) return f;
  u32 bits = std::bit_cast<u32>(f);
  if (std::fabs(static_cast<double>(f)) > std::fabs(d)) --bits;
  return std::bit_cast<float>(bits | 1);
}

inline u16 to_half(double d) {
  if (d != d) return 0x7fff;
#if defined(__F16C__)
  return static_cast<u16>(_cvtss_sh(to_float_odd(d), _MM_FROUND_TO_NEAREST_INT));
#else
  return static_cast<u16>(round_to(d, 5, 10, Rounding::Nearest));
#endif
}

inline u16 to_bfloat16(double d) {
  if (d != d) return 0x7fff;
  const u32 bits = std::bit_cast<u32>(to_float_odd(d));
  return static_cast<u16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace emulator
