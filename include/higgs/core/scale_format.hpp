// SPDX-License-Identifier: Apache-2.0
// The formats of a group's scale in a file. In memory a scale is a Half.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/half.hpp>

#include <cstdint>

namespace higgs {
inline namespace v0 {

/// How a scale is stored: as fp16, or in 8 bits on a logarithmic ladder.
enum class ScaleFormat : std::uint8_t { Fp16, Log8 };

/// A scale in 8 bits: 0, or 2^((code - 15) / 16) rounded to fp16: 2^(-7/8) ... 2^15, neighbours 4.4 % apart.
/// Each code is one fp16 number, so that products read the same scales from either format.
struct Log8 {
  std::uint8_t code = 0;

  constexpr Log8() = default;
  /// The nearest scale, and the smaller of two at the same distance. Negative values and NaN give 0, large ones 2^15.
  HIGGS_HOST_DEVICE constexpr explicit Log8(double scale) noexcept {
    int low = 0, high = 255;  // value(low) <= scale, and so for value(high + 1)
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (value(middle) <= scale)
        low = middle;
      else
        high = middle - 1;
    }
    if (low < 255 && value(low + 1) - scale < scale - value(low)) ++low;
    code = static_cast<std::uint8_t>(low);
  }
  HIGGS_HOST_DEVICE static constexpr Log8 from_code(std::uint8_t code) noexcept {
    Log8 scale;
    scale.code = code;
    return scale;
  }
  HIGGS_HOST_DEVICE constexpr explicit operator Half() const noexcept {
    if (code == 0) return Half{};
    const unsigned ladder = code + 1u, k = ladder & 15u;  // 16 steps to an octave
    // The fraction of 2^(k / 16) in 10 bits, by a cubic: kernels would keep a table in local memory.
    const unsigned fraction = (k * (11410u + k * (230u + 5u * k)) + 128u) >> 8;
    return Half::from_bits(static_cast<std::uint16_t>(((ladder >> 4) + 14u) << 10 | fraction));
  }
  friend constexpr bool operator==(Log8, Log8) = default;

 private:
  HIGGS_HOST_DEVICE static constexpr double value(int code) noexcept {
    return static_cast<double>(
        static_cast<float>(static_cast<Half>(from_code(static_cast<std::uint8_t>(code)))));
  }
};
static_assert(sizeof(Log8) == 1);

}  // namespace v0
}  // namespace higgs
