// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/registry.hpp>
#include <higgs/core/random.hpp>
#include <higgs/encode/nearest.hpp>

#include <catch2/catch.hpp>

#include <array>
#include <cstdint>
#include <span>

namespace {
using Book = higgs::GridCodebook<2, 16>;
using Fixed = std::array<std::int32_t, 2>;
std::int64_t squared_distance(const Fixed& y, Book::Point c) {
  std::int64_t sum = 0;
  for (std::size_t d = 0; d < 2; ++d) {
    const std::int64_t diff = y[d] - (std::int64_t{c[d]} << higgs::fraction_bits<Book>);
    sum += diff * diff;
  }
  return sum;
}
}  // namespace

TEST_CASE("no point is nearer than the nearest, and none of a lower index is as near", "[encode][nearest]") {
  const Book book;
  for (std::uint64_t i = 0; i < 20000; ++i) {
    Fixed y{};
    for (std::size_t d = 0; d < 2; ++d)
      y[d] = static_cast<std::int32_t>(higgs::random_bits(d, i) % (2 * higgs::fixed_limit<Book> + 1)) -
             higgs::fixed_limit<Book>;
    const int found = higgs::nearest(book, std::span<const std::int32_t, 2>(y));
    const std::int64_t distance = squared_distance(y, book.decode(static_cast<Book::Index>(found)));
    for (int k = 0; k < Book::size; ++k) {
      const std::int64_t other = squared_distance(y, book.decode(static_cast<Book::Index>(k)));
      REQUIRE((k < found ? other > distance : other >= distance));
    }
  }
}

TEST_CASE("every point is nearest to itself", "[encode][nearest]") {
  const Book book;
  for (int k = 0; k < Book::size; ++k) {
    const Book::Point c = book.decode(static_cast<Book::Index>(k));
    const Fixed y{c[0] * (1 << higgs::fraction_bits<Book>), c[1] * (1 << higgs::fraction_bits<Book>)};
    CHECK(int{higgs::nearest(book, std::span<const std::int32_t, 2>(y))} == k);
  }
}

TEST_CASE("exact ties go to the lower index", "[encode][nearest]") {
  // Two points, mirrored: everything on the axis between them is a tie.
  const higgs::GridCodebook<2, 2> book({{{{-10, 0}}, {{10, 0}}}}, 0.1, 0.0);
  for (const int y1 : {-500, 0, 7}) {
    const Fixed y{0, y1};
    CHECK(int{higgs::nearest(book, std::span<const std::int32_t, 2>(y))} == 0);
    const Fixed right{1, y1};
    CHECK(int{higgs::nearest(book, std::span<const std::int32_t, 2>(right))} == 1);
  }
}

namespace {
template <class... Books>
bool scores_fit(higgs::TypeList<Books...>) {
  // The largest score any input can reach stays below 2^24, so float lanes are exact; int16 points use borders.
  return ((sizeof(typename Books::Element) > 1 ||
           std::int64_t{Books::dim} * (std::int64_t{higgs::fixed_limit<Books>} * 127 +
                                       127 * 127 * (1 << higgs::fraction_bits<Books>) / 2) <=
               1 << 24) &&
          ...);
}
}  // namespace

TEST_CASE("scores of int8 codebooks are exact in float", "[encode][nearest]") {
  CHECK(scores_fit(higgs::ShippedCodes{}));
  CHECK(scores_fit(higgs::TypeList<higgs::GridCodebook<2, 16>>{}));
}
