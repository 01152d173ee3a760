// SPDX-License-Identifier: Apache-2.0
// The definition of encoding: the exhaustive nearest point, in exact integer arithmetic. Every fast search equals it.
#pragma once

#include <higgs/core/code.hpp>
#include <higgs/core/error.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace higgs {
inline namespace v0 {

/// Binary places that a coordinate keeps on its way to the search, in integer steps of the codebook. Rounding there
/// moves borders by at most 2^-6 of a step (no measurable MSE) and makes every distance an integer: codes are the
/// same bits on every machine, and exact ties go to the lower index. Chosen so that nearest_score() stays below
/// 2^24 for int8 points: float lanes, int lanes and tensor cores all compute it without rounding. A code may choose its
/// own number: Book::fraction_bits.
template <Code Book>
inline constexpr int fraction_bits = [] {
  if constexpr (requires { Book::fraction_bits; })
    return Book::fraction_bits;
  else
    return sizeof(typename Book::Element) > 1 ? 4 : Book::dim <= 2 ? 7 : Book::dim <= 4 ? 6 : 5;
}();

/// The largest magnitude of a fixed-point coordinate: twice the range of the points.
template <Code Book>
inline constexpr std::int32_t fixed_limit =
    (sizeof(typename Book::Element) > 1 ? 1 << 16 : 1 << 8) << fraction_bits<Book>;

/// <y, c> - |c|^2 / 2 in units of 2^-fraction_bits: largest for the nearest point (|y - c|^2 = |y|^2 - 2 score).
template <Codebook Book>
constexpr std::int64_t nearest_score(std::span<const std::int32_t, static_cast<std::size_t>(Book::dim)> y,
                                     const typename Book::Point& point) noexcept {
  std::int64_t product = 0, norm = 0;
  for (std::size_t d = 0; d < point.size(); ++d) {
    const std::int64_t c = point[d];
    product += y[d] * c;
    norm += c * c;
  }
  return product - norm * (std::int64_t{1} << (fraction_bits<Book> - 1));
}

/// The index of the point nearest to `y` (fixed point, |y| <= fixed_limit), the lowest of several equally near.
template <Codebook Book>
constexpr typename Book::Index nearest(
    const Book& book, std::span<const std::int32_t, static_cast<std::size_t>(Book::dim)> y) noexcept {
  std::int64_t best = 0;
  std::int64_t best_score = nearest_score<Book>(y, book.decode(0));
  for (std::int64_t i = 1; i < Book::size; ++i) {
    const std::int64_t score = nearest_score<Book>(y, book.decode(static_cast<typename Book::Index>(i)));
    if (score > best_score) {
      best = i;
      best_score = score;
    }
  }
  return static_cast<typename Book::Index>(best);
}

}  // namespace v0
}  // namespace higgs
