// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/lattice/code.hpp>
#include <higgs/codes/lattice/search.hpp>
#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "encode/equals_nearest.hpp"

namespace {

// Gaussian vectors in fixed point, `wider` times as wide as the codebook expects.
template <class Book>
std::vector<float> gaussian_inputs(std::size_t count, double wider, std::uint64_t seed) {
  const double units = wider * (1 << higgs::fraction_bits<Book>) / Book{}.step();
  constexpr double limit = higgs::fixed_limit<Book>;
  std::vector<float> fixed(8 * count);
  for (std::size_t i = 0; i < fixed.size(); ++i)
    fixed[i] =
        static_cast<float>(std::clamp(std::rint(higgs::random_normal(seed, i) * units), -limit, limit));
  return fixed;
}

}  // namespace

TEST_CASE("the lattice search equals nearest at 2 bits, within the code and far outside",
          "[codes][lattice]") {
  using Book = higgs::NestedE8Codebook<2>;
  const Book book;
  std::vector<std::int32_t> y = telling_vectors(book), some;
  for (std::size_t i = 0; i < y.size() / 8; i += 25)  // the definition compares 65,536 points
    for (std::size_t d = 0; d < 8; ++d) some.push_back(std::clamp(y[8 * i + d], -1000, 1000));
  for (const double wider : {1.0, 1.5})
    for (const float each : gaussian_inputs<Book>(150, wider, 3))
      some.push_back(static_cast<std::int32_t>(each));
  // Ties: halfway between points.
  for (std::uint64_t i = 0; i < 60; ++i)
    for (std::uint64_t d = 0; d < 8; ++d)
      some.push_back(static_cast<std::int32_t>(higgs::random_bits(i, d) % 9) * 64 - 256);
  equals_nearest(higgs::LatticeSearch<2>(book), book, some);
}

TEMPLATE_TEST_CASE_SIG("no neighbour in the code is nearer than what the lattice search finds",
                       "[codes][lattice]", ((int Bits), Bits), 3, 4) {
  using Book = higgs::NestedE8Codebook<Bits>;
  const Book book;
  constexpr std::size_t count = 60;
  const std::vector<float> fixed = gaussian_inputs<Book>(count, 1.0, 4);
  std::vector<std::uint32_t> codes(count);
  higgs::LatticeSearch<Bits>(book).encode(fixed, codes);
  for (std::size_t i = 0; i < count; ++i) {
    std::array<std::int32_t, 8> y, at;
    for (std::size_t d = 0; d < 8; ++d) y[d] = static_cast<std::int32_t>(fixed[8 * i + d]);
    const auto point = book.decode(codes[i]);
    std::copy(point.begin(), point.end(), at.begin());
    const std::int64_t best = higgs::nearest_score<Book>(y, point);
    // All sums of up to three random short vectors lead to codewords or out of the code.
    for (std::uint64_t trial = 0; trial < 4000; ++trial) {
      std::array<std::int32_t, 8> other = at;
      const std::uint64_t bits = higgs::random_bits(i, trial);
      for (std::uint64_t step = 0; step <= bits % 3; ++step) {
        const std::uint64_t a = bits >> (8 * step + 2) & 7, b = bits >> (8 * step + 5) & 7;
        const std::uint64_t signs = bits >> (32 + 8 * step) & 255;
        if ((bits >> (30 + step) & 1) != 0 && a != b) {
          other[a] += (signs & 1) != 0 ? Book::unit : -Book::unit;
          other[b] += (signs & 2) != 0 ? Book::unit : -Book::unit;
        } else {
          const bool odd = std::popcount(signs & 127) % 2 != 0;
          for (std::size_t d = 0; d < 8; ++d) {
            const bool minus = d < 7 ? (signs >> d & 1) != 0 : odd;
            other[d] += minus ? -Book::unit / 2 : Book::unit / 2;
          }
        }
      }
      const std::uint32_t index = book.index_of(other);
      const std::int64_t score = higgs::nearest_score<Book>(y, book.decode(index));
      REQUIRE((score < best || (score == best && index >= codes[i])));
    }
  }
}

TEMPLATE_TEST_CASE_SIG("Voronoi codes have the errors they claim", "[codes][lattice]", ((int Bits), Bits), 2,
                       3, 4) {
  using Book = higgs::NestedE8Codebook<Bits>;
  const Book book;
  constexpr std::size_t count = 4000;
  const std::vector<float> fixed = gaussian_inputs<Book>(count, 1.0, 5);
  std::vector<std::uint32_t> codes(count);
  higgs::LatticeSearch<Bits>(book).encode(fixed, codes);
  double error = 0, square = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const auto point = book.decode(codes[i]);
    double one = 0;
    for (std::size_t d = 0; d < 8; ++d)
      one += std::pow(higgs::random_normal(5, 8 * i + d) - book.step() * point[d], 2) / 8;
    error += one / count, square += one * one / count;
  }
  CHECK(std::abs(error - book.mse()) < 5 * std::sqrt((square - error * error) / count));
}
