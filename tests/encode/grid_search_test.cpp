// SPDX-License-Identifier: Apache-2.0
#include <higgs/codebook/shipped.hpp>
#include <higgs/core/random.hpp>
#include <higgs/encode/grid_search.hpp>
#include <higgs/encode/nearest.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace {

template <higgs::Codebook Book>
void equals_nearest(const Book& book, const std::vector<std::int32_t>& y) {
  constexpr auto dim = static_cast<std::size_t>(Book::dim);
  const higgs::GridSearch<Book> search(book);
  const std::vector<float> fixed(y.begin(), y.end());
  std::vector<typename Book::Index> codes(y.size() / dim);
  search.encode(fixed, codes);
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const std::span<const std::int32_t, dim> vector(y.data() + i * dim, dim);
    wrong += codes[i] != higgs::nearest(book, vector);
  }
  INFO(Book::name());
  CHECK(wrong == 0);
}

// Gaussian inputs, inputs from the whole range, and midpoints between points with their neighbours, where ties live.
template <higgs::Codebook Book>
void equals_nearest_everywhere(const Book& book) {
  constexpr auto dim = static_cast<std::size_t>(Book::dim);
  constexpr std::int32_t one = 1 << higgs::fraction_bits<Book>, limit = higgs::fixed_limit<Book>;
  std::vector<std::int32_t> y;
  for (std::uint64_t i = 0; i < 6000 * dim; ++i)
    y.push_back(static_cast<std::int32_t>(std::lrint(higgs::random_normal(1, i) / book.step() * one)));
  for (std::uint64_t i = 0; i < 2000 * dim; ++i)
    y.push_back(static_cast<std::int32_t>(higgs::random_bits(2, i) % (2 * static_cast<std::uint64_t>(limit) + 1)) - limit);
  for (std::uint64_t i = 0; i < 4000; ++i) {
    const auto pick = [&](std::uint64_t seed) {
      return book.decode(static_cast<typename Book::Index>(higgs::random_bits(seed, i) % Book::size));
    };
    const auto a = pick(3), b = pick(4);
    for (std::size_t d = 0; d < dim; ++d)
      y.push_back((a[d] + b[d]) * one / 2 + static_cast<std::int32_t>(higgs::random_bits(5 + d, i) % 3) - 1);
  }
  for (std::int32_t& each : y) each = std::clamp(each, -limit, limit);
  equals_nearest(book, y);
}

template <class... Books>
void for_all(higgs::TypeList<Books...>) {
  (equals_nearest_everywhere(Books{}), ...);
}

}  // namespace

TEST_CASE("the search equals nearest for every shipped codebook", "[encode][grid_search]") {
  for_all(higgs::ShippedCodebooks{});
}

TEST_CASE("on a line the search equals nearest for every fixed-point input", "[encode][grid_search]") {
  using Book = higgs::GridCodebook<1, 16>;
  std::vector<std::int32_t> y;
  for (std::int32_t v = -higgs::fixed_limit<Book>; v <= higgs::fixed_limit<Book>; ++v) y.push_back(v);
  equals_nearest(Book{}, y);
  equals_nearest(higgs::UniformCodebook8{}, y);
}

TEST_CASE("tables in any order and with equal points keep the lowest index", "[encode][grid_search]") {
  using Line = higgs::GridCodebook<1, 8>;
  Line::Points line{{{{5}}, {{-3}}, {{5}}, {{100}}, {{-3}}, {{-127}}, {{6}}, {{0}}}};
  equals_nearest_everywhere(Line(line, 0.05, 0));
  using Plane = higgs::GridCodebook<2, 16>;
  Plane::Points plane{};
  for (std::size_t i = 0; i < plane.size(); ++i)
    plane[i] = {static_cast<std::int8_t>(i / 2 % 3 * 40), static_cast<std::int8_t>(-20 * static_cast<int>(i % 4))};
  equals_nearest_everywhere(Plane(plane, 0.02, 0));
}
