// SPDX-License-Identifier: Apache-2.0
// One scale per group of inputs: RMS before encoding, least squares after it.
#pragma once

#include <higgs/core/half.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

namespace higgs {
inline namespace v0 {

namespace detail {
/// Sums term(0) ... term(count - 1) in an order that any machine can follow: 16 strided partial sums (term i goes to
/// sum i % 16, ascending), then halves folded together. Terms must be exact products, so that fusing the addition
/// into the multiplication changes nothing.
template <class Term>
double strided_sum(std::size_t count, Term term) noexcept {
  std::array<double, 16> sums{};
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16)
    for (std::size_t lane = 0; lane < 16; ++lane) sums[lane] += term(i + lane);
  for (std::size_t lane = 0; i + lane < count; ++lane) sums[lane] += term(i + lane);
  for (std::size_t half = 8; half > 0; half /= 2)
    for (std::size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  return sums[0];
}
}  // namespace detail

/// Sum of squares, the same bits on every machine.
inline double sum_of_squares(std::span<const float> x) noexcept {
  return detail::strided_sum(x.size(), [&](std::size_t i) { return double{x[i]} * double{x[i]}; });
}

/// What one group became: x is approximated by scale * q, q the integer coordinates of its points.
struct GroupFit {
  Half scale;                // least squares, rounded to fp16
  double squared_error = 0;  // sum of (x - scale * q)^2
};

/// The scale that minimizes sum (x - scale * q)^2 among fp16 values >= 0: the error is quadratic in the scale, so
/// rounding <x, q> / <q, q> to the nearest loses nothing. Never worse than the RMS scale the group was encoded with.
template <std::signed_integral Element>
GroupFit fit_group_scale(std::span<const float> x, std::span<const Element> q, double x_squared) noexcept {
  const double product =
      detail::strided_sum(x.size(), [&](std::size_t i) { return double{x[i]} * static_cast<double>(q[i]); });
  std::int64_t norm = 0;
  for (const Element each : q) norm += std::int64_t{each} * each;
  GroupFit fit;
  constexpr double largest = 65504;  // finite fp16
  if (norm > 0 && product > 0)
    fit.scale = Half(static_cast<float>(std::min(product / static_cast<double>(norm), largest)));
  const double scale = static_cast<double>(static_cast<float>(fit.scale));
  fit.squared_error = std::fma(scale, std::fma(scale, static_cast<double>(norm), -2.0 * product), x_squared);
  if (!(fit.squared_error > 0)) fit.squared_error = 0;  // cancellation
  return fit;
}

}  // namespace v0
}  // namespace higgs
