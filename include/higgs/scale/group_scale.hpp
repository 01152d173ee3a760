// SPDX-License-Identifier: Apache-2.0
// One scale per group of inputs: RMS before encoding, least squares after it.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/scale_format.hpp>
#include <higgs/cpu/isas.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

namespace higgs {
inline namespace v0 {

/// Sum of a[i] * b[i] over spans of one size, floats, int8 or int16: the same bits on every machine.
template <class A, class B>
double exact_dot(std::span<const A> a, std::span<const B> b, Isa isa = best_isa()) noexcept;

/// Sum of squares, the same bits on every machine.
HIGGS_INLINE double sum_of_squares(std::span<const float> x, Isa isa = best_isa()) noexcept;

/// What one group became: x is approximated by scale * q, q the integer coordinates of its points.
struct GroupFit {
  Half scale;                // least squares, rounded to the format
  double squared_error = 0;  // sum of (x - scale * q)^2
};

namespace detail {
/// The fit of a group with these sums: product = <x, q>, norm = <q, q>.
HIGGS_HOST_DEVICE inline GroupFit fit_of_sums(double product, double norm, double x_squared,
                                              ScaleFormat format) noexcept {
  GroupFit fit;
  constexpr double largest = 65504;  // finite fp16
  if (norm > 0 && product > 0) {
    const double best = product / norm;
    fit.scale = format == ScaleFormat::Log8 ? static_cast<Half>(Log8(best))
                                            : Half(static_cast<float>(best < largest ? best : largest));
  }
  const double scale = static_cast<double>(static_cast<float>(fit.scale));
  fit.squared_error = std::fma(scale, std::fma(scale, norm, -2.0 * product), x_squared);
  if (!(fit.squared_error > 0)) fit.squared_error = 0;  // cancellation
  return fit;
}

/// About 2^(step / 16), |step| <= 16, the same bits on every machine: what a search multiplies the RMS by.
inline double scale_ladder(int step) noexcept {
  const auto value = [](int code) {
    return static_cast<double>(
        static_cast<float>(static_cast<Half>(Log8::from_code(static_cast<std::uint8_t>(code)))));
  };
  return value(128 + step) / value(128);
}
}  // namespace detail

/// The scale that minimizes sum (x - scale * q)^2 among the values >= 0 of the format: the error is quadratic in the
/// scale, so rounding <x, q> / <q, q> to the nearest loses nothing. Never worse than the RMS scale the group was encoded
/// with.
template <std::signed_integral Element>
GroupFit fit_group_scale(std::span<const float> x, std::span<const Element> q, double x_squared,
                         ScaleFormat format = ScaleFormat::Fp16) noexcept {
  return detail::fit_of_sums(exact_dot(x, q), exact_dot(q, q), x_squared, format);
}

#if HIGGS_DEFINITIONS

template <class A, class B>
double exact_dot(std::span<const A> a, std::span<const B> b, Isa isa) noexcept {
  return cpu::dispatch(usable_isa(isa),
                       [&](auto set) { return strided_dot(set, a.data(), b.data(), a.size()); });
}

HIGGS_INLINE double sum_of_squares(std::span<const float> x, Isa isa) noexcept {
  return exact_dot(x, x, isa);
}

#endif

}  // namespace v0
}  // namespace higgs
