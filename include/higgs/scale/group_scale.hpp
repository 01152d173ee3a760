// SPDX-License-Identifier: Apache-2.0
// One scale per group of inputs: RMS before encoding, least squares after it.
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/scale_format.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

#if defined(HIGGS_TARGET_BEGIN)
#  include <immintrin.h>
#endif

namespace higgs {
inline namespace v0 {

namespace detail {

/// Sums a[i] * b[i] in an order that any machine can follow: 16 strided partial sums (term i goes to sum i % 16,
/// ascending), then halves folded together. Products of two floats, or of a float and an int16, are exact in double,
/// so that fusing the addition into the multiplication changes nothing.
template <class A, class B>
double strided_dot(const A* a, const B* b, std::size_t count, std::array<double, 16> sums = {}) noexcept {
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16) HIGGS_UNROLL
  for (std::size_t lane = 0; lane < 16; ++lane)
    sums[lane] += static_cast<double>(a[i + lane]) * static_cast<double>(b[i + lane]);
  for (std::size_t lane = 0; i + lane < count; ++lane)
    sums[lane] += static_cast<double>(a[i + lane]) * static_cast<double>(b[i + lane]);
  for (std::size_t half = 8; half > 0; half /= 2)
    for (std::size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  return sums[0];
}

#if defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace avx512 {
inline void load_doubles(const float* p, __m512d* out) noexcept {
  out[0] = _mm512_cvtps_pd(_mm256_loadu_ps(p));
  out[1] = _mm512_cvtps_pd(_mm256_loadu_ps(p + 8));
}
inline void load_doubles(const std::int16_t* p, __m512d* out) noexcept {
  const auto* from = reinterpret_cast<const __m128i*>(p);
  out[0] = _mm512_cvtepi32_pd(_mm256_cvtepi16_epi32(_mm_loadu_si128(from)));
  out[1] = _mm512_cvtepi32_pd(_mm256_cvtepi16_epi32(_mm_loadu_si128(from + 1)));
}
inline void load_doubles(const std::int8_t* p, __m512d* out) noexcept {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  out[0] = _mm512_cvtepi32_pd(_mm256_cvtepi8_epi32(bytes));
  out[1] = _mm512_cvtepi32_pd(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes)));
}

/// The partial sums of whole runs of 16 terms.
template <class A, class B>
inline void strided_sums(const A* a, const B* b, std::size_t count, double* sums) noexcept {
  __m512d total[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
  for (std::size_t i = 0; i < count; i += 16) {
    __m512d x[2], y[2];
    load_doubles(a + i, x);
    load_doubles(b + i, y);
    HIGGS_UNROLL
    for (int half = 0; half < 2; ++half) total[half] = _mm512_fmadd_pd(x[half], y[half], total[half]);
  }
  _mm512_storeu_pd(sums, total[0]);
  _mm512_storeu_pd(sums + 8, total[1]);
}
}  // namespace avx512
HIGGS_TARGET_END
#endif

}  // namespace detail

/// Sum of a[i] * b[i] over spans of one size, floats, int8 or int16: the same bits on every machine.
template <class A, class B>
double exact_dot(std::span<const A> a, std::span<const B> b, Isa isa = best_isa()) noexcept {
  std::array<double, 16> sums{};
  std::size_t done = 0;
#if defined(HIGGS_TARGET_BEGIN)
  if (isa_includes(isa, Isa::Avx512)) {
    done = a.size() / 16 * 16;
    detail::avx512::strided_sums(a.data(), b.data(), done, sums.data());
  }
#endif
  static_cast<void>(isa);
  return detail::strided_dot(a.data() + done, b.data() + done, a.size() - done, sums);
}

/// Sum of squares, the same bits on every machine.
inline double sum_of_squares(std::span<const float> x, Isa isa = best_isa()) noexcept {
  return exact_dot(x, x, isa);
}

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

}  // namespace v0
}  // namespace higgs
