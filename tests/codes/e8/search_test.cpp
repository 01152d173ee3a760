// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/e8/e8.hpp>
#include <higgs/codes/e8/search.hpp>
#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

#include "encode/equals_nearest.hpp"

TEST_CASE("the search of the E8 code equals nearest, ties included", "[codes][e8]") {
  const higgs::E8Codebook book;
  const higgs::E8Search search(book);
  std::vector<std::int32_t> y = telling_vectors(book), some;
  for (std::size_t i = 0; i < y.size() / 8; i += 7)  // the definition compares 65,536 points
    some.insert(some.end(), y.begin() + static_cast<std::ptrdiff_t>(8 * i),
                y.begin() + static_cast<std::ptrdiff_t>(8 * i + 8));
  // Ties of signs: coordinates on the shift, and equal losses.
  constexpr std::int32_t shift = higgs::detail::e8_shift << higgs::fraction_bits<higgs::E8Codebook>;
  for (std::uint64_t i = 0; i < 200; ++i)
    for (std::uint64_t d = 0; d < 8; ++d) {
      const std::uint64_t bits = higgs::random_bits(5, 8 * i + d);
      const std::int32_t away = static_cast<std::int32_t>(bits % 3) * (i % 2 == 0 ? 500 : 40);
      some.push_back(((bits >> 8 & 1) != 0 ? shift : -shift) + ((bits >> 9 & 1) != 0 ? away : -away));
    }
  some.insert(some.end(), 8, 0);
  equals_nearest(search, book, some);
}

TEST_CASE("the E8 code has the error it claims, below that of E8P", "[codes][e8]") {
  const higgs::E8Codebook book;
  const double units = (1 << higgs::fraction_bits<higgs::E8Codebook>) / book.step();
  constexpr std::size_t count = 40000;
  std::vector<float> x(8 * count), fixed(8 * count);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>(higgs::random_normal(3, i));
    fixed[i] = static_cast<float>(std::rint(x[i] * units));
  }
  std::vector<std::uint16_t> codes(count);
  higgs::E8Search(book).encode(fixed, codes);
  double error = 0, square = 0, norm = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const auto point = book.decode(codes[i]);
    double one = 0, radius = 0;
    for (std::size_t d = 0; d < 8; ++d) {
      one += std::pow(x[8 * i + d] - book.step() * point[d], 2) / 8;
      radius += std::pow(x[8 * i + d], 2) / 8;
    }
    error += one / count, square += one * one / count, norm += radius / count;
  }
  const double standard_error = std::sqrt((square - error * error) / count);
  CHECK(std::abs(error - book.mse()) < 5 * standard_error);
  CHECK(book.mse() < 0.0912);
}
