// SPDX-License-Identifier: Apache-2.0
// 16-bit floating-point storage on any host, bit-exact with what a GPU computes.
#pragma once

#include <higgs/config.hpp>

#include <bit>
#include <cstdint>

namespace higgs {
inline namespace v0 {

/// IEEE 754 binary16 as storage. Conversion from float rounds to nearest, ties to even;
/// overflow gives infinity, subnormals are kept, NaN stays NaN.
struct HIGGS_MAY_ALIAS Half {
  std::uint16_t bits = 0;

  constexpr Half() = default;
  HIGGS_HOST_DEVICE constexpr explicit Half(float value) noexcept : bits(round(value)) {}
  HIGGS_HOST_DEVICE static constexpr Half from_bits(std::uint16_t bits) noexcept {
    Half h;
    h.bits = bits;
    return h;
  }
  HIGGS_HOST_DEVICE constexpr explicit operator float() const noexcept {
    const std::uint32_t sign = (bits & 0x8000u) << 16;
    const std::uint32_t magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00u)  // infinity and NaN keep their payload
      return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    // Placed 112 binades too low, then scaled up exactly: this also normalizes subnormals.
    const float low = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(low) | sign);
  }
  friend constexpr bool operator==(Half, Half) = default;  // of the bits: NaN equals itself

 private:
  HIGGS_HOST_DEVICE static constexpr std::uint16_t round(float value) noexcept {
    const std::uint32_t raw = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t sign = (raw >> 16) & 0x8000u;
    const std::uint32_t magnitude = raw & 0x7fffffffu;
    std::uint32_t out = 0;
    if (magnitude > 0x7f800000u) {
      out = 0x7e00u | ((magnitude >> 13) & 0x3ffu);  // quiet NaN
    } else if (magnitude >= 0x477ff000u) {
      out = 0x7c00u;  // 65520 and above round to infinity
    } else if (magnitude >= 0x38800000u) {
      // Normal: rebias the exponent (127 - 15), then round away the 13 low bits to even.
      out = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    } else {
      // Subnormal: adding 0.5 places the last kept bit at 2^-24, and the adder rounds to even.
      const float sum = std::bit_cast<float>(magnitude) + 0.5f;
      out = std::bit_cast<std::uint32_t>(sum) - 0x3f000000u;
    }
    return static_cast<std::uint16_t>(sign | out);
  }
};

/// bfloat16 as storage: the upper half of a float. Conversion from float rounds to nearest, ties to even.
struct HIGGS_MAY_ALIAS BFloat16 {
  std::uint16_t bits = 0;

  constexpr BFloat16() = default;
  HIGGS_HOST_DEVICE constexpr explicit BFloat16(float value) noexcept : bits(round(value)) {}
  HIGGS_HOST_DEVICE static constexpr BFloat16 from_bits(std::uint16_t bits) noexcept {
    BFloat16 b;
    b.bits = bits;
    return b;
  }
  HIGGS_HOST_DEVICE constexpr explicit operator float() const noexcept {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
  friend constexpr bool operator==(BFloat16, BFloat16) = default;

 private:
  HIGGS_HOST_DEVICE static constexpr std::uint16_t round(float value) noexcept {
    const std::uint32_t raw = std::bit_cast<std::uint32_t>(value);
    if ((raw & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((raw >> 16) | 0x40u);
    return static_cast<std::uint16_t>((raw + 0x7fffu + ((raw >> 16) & 1u)) >> 16);
  }
};

static_assert(sizeof(Half) == 2 && sizeof(BFloat16) == 2);

}  // namespace v0
}  // namespace higgs
