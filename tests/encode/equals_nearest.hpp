// SPDX-License-Identifier: Apache-2.0
// What every search has to promise: the codes of nearest(), on each instruction set of this machine.
#pragma once

#include <higgs/codes/grid/grid.hpp>
#include <higgs/core/random.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/encode/nearest.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "cpu/sets.hpp"

template <class Search, higgs::Codebook Book>
void equals_nearest(const Search& search, const Book& book, const std::vector<std::int32_t>& y) {
  constexpr auto dim = static_cast<std::size_t>(Book::dim);
  const std::size_t count = y.size() / dim;
  const std::vector<float> fixed(y.begin(), y.end());
  std::vector<typename Book::Index> expected(count);
  for (std::size_t i = 0; i < count; ++i)
    expected[i] = higgs::nearest(book, std::span<const std::int32_t, dim>(y.data() + i * dim, dim));
  for (const higgs::Isa isa : all_isas()) {
    std::vector<typename Book::Index> codes(count);
    search.encode(fixed, codes, isa);
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < count; ++i) wrong += codes[i] != expected[i];
    INFO(Book::name() << ", instruction set " << static_cast<int>(isa) << ", " << count << " vectors");
    CHECK(wrong == 0);
  }
}

/// Gaussian vectors, the whole range, its corners and rim, the edges of power-of-two cells, and the borders
/// between points.
template <higgs::Codebook Book>
std::vector<std::int32_t> telling_vectors(const Book& book, std::uint64_t seed = 1) {
  constexpr auto dim = static_cast<std::size_t>(Book::dim);
  constexpr std::int32_t one = 1 << higgs::fraction_bits<Book>, limit = higgs::fixed_limit<Book>;
  std::uint64_t counter = 0;
  const auto below = [&](std::uint64_t bound) {
    return static_cast<std::int32_t>(higgs::random_bits(seed, counter++) % bound);
  };
  const auto point = [&](int k) { return book.decode(static_cast<typename Book::Index>(k)); };
  std::vector<std::int32_t> y;
  for (std::size_t i = 0; i < 2000 * dim; ++i)
    y.push_back(static_cast<std::int32_t>(std::lrint(higgs::random_normal(seed, i) / book.step() * one)));
  for (std::size_t i = 0; i < 1000 * dim; ++i) y.push_back(below(2 * limit + 1) - limit);
  for (std::size_t i = 0; i < 200 * dim; ++i) y.push_back((below(3) - 1) * limit + below(3) - 1);
  for (std::size_t i = 0; i < 1000 * dim; ++i)
    y.push_back(i % dim == i / dim % dim ? (below(2) == 0 ? limit : -limit) : below(2 * limit + 1) - limit);
  for (std::size_t i = 0; i < 2000 * dim; ++i) y.push_back((below(513) - 256) * (limit / 256) + below(2) - 1);
  for (std::size_t i = 0; i < 500 * dim; ++i) {  // around the limit of int16
    const int bits = 13 + below(3);
    y.push_back((below(2) == 0 ? 1 : -1) * (1 << bits) + below(5) - 2);
  }
  for (int i = 0; i < 3000; ++i) {
    // Halfway between a point and a near one, moved along the border: there are ties, also at a distance.
    const auto a = point(below(Book::size));
    auto b = point(below(Book::size));
    for (int tries = 0; tries < 20; ++tries) {
      const auto other = point(below(Book::size));
      std::int64_t now = 0, then = 0;
      for (std::size_t d = 0; d < dim; ++d) {
        now += std::int64_t{a[d] - b[d]} * (a[d] - b[d]);
        then += std::int64_t{a[d] - other[d]} * (a[d] - other[d]);
      }
      if (a == b || (then < now && then > 0)) b = other;
    }
    const std::int32_t along = below(65) - 32, off = below(3) - 1;
    for (std::size_t d = 0; d < dim; ++d) {
      std::int32_t v = (a[d] + b[d]) * (one / 2);
      if (dim > 1 && d == 0) v -= along * (a[1] - b[1]);
      if (dim > 1 && d == 1) v += along * (a[0] - b[0]);
      y.push_back(v + (d == dim - 1 ? off : 0));
    }
  }
  for (std::int32_t& each : y) each = std::clamp(each, -limit, limit);
  return y;
}

/// The same for every few vectors, each in company of its like: one that needs the slow path takes no others
/// along.
template <class Search, higgs::Codebook Book>
void equals_nearest_alone(const Search& search, const Book& book, const std::vector<std::int32_t>& y) {
  constexpr auto dim = static_cast<std::size_t>(Book::dim);
  std::array<float, 64 * dim> fixed;
  std::array<typename Book::Index, 64> codes;
  for (std::size_t i = 0; i < y.size() / dim; i += 11) {
    for (std::size_t k = 0; k < fixed.size(); ++k) fixed[k] = static_cast<float>(y[i * dim + k % dim]);
    const auto expected = higgs::nearest(book, std::span<const std::int32_t, dim>(y.data() + i * dim, dim));
    for (const higgs::Isa isa : all_isas()) {
      search.encode(fixed, codes, isa);
      const bool equal = std::all_of(codes.begin(), codes.end(), [&](auto code) { return code == expected; });
      if (equal) continue;
      INFO(Book::name() << ", instruction set " << static_cast<int>(isa) << ", vector " << i);
      REQUIRE(equal);
    }
  }
}

template <class Search, higgs::Codebook Book>
void equals_nearest(const Book& book) {
  equals_nearest(Search(book), book, telling_vectors(book));
}

/// Points all over the int8 square, or in a part of it.
template <int Dim, int Size>
higgs::GridCodebook<Dim, Size> random_book(std::uint64_t seed, int low = -128, int high = 127) {
  using Book = higgs::GridCodebook<Dim, Size>;
  typename Book::Points points{};
  std::uint64_t counter = 0;
  for (auto& point : points)
    for (auto& c : point)
      c = static_cast<typename Book::Element>(
          low +
          static_cast<int>(higgs::random_bits(seed, counter++) % static_cast<std::uint64_t>(high - low + 1)));
  return Book(points, 0.03, 0.0);
}
