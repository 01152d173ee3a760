// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/registry.hpp>
#include <higgs/encode/point_search.hpp>

#include <catch2/catch.hpp>

#include <type_traits>

#include "equals_nearest.hpp"

namespace {
template <higgs::Codebook Book>
void check(const Book& book) {
  equals_nearest<higgs::PointSearch<Book>>(book);
}
template <class... Books>
void check_all(higgs::TypeList<Books...>) {
  const auto one = []<class Book>(const Book& book) {
    if constexpr (higgs::Codebook<Book>)  // larger codebooks have a search and a test of their own
      if constexpr (Book::size <= 4096) check(book);
  };
  (one(Books{}), ...);
}
}  // namespace

TEST_CASE("the search equals nearest for every shipped codebook", "[encode][point_search]") {
  check_all(higgs::ShippedCodes{});
}

TEST_CASE("the search equals nearest for tables of any shape", "[encode][point_search]") {
  check(random_book<1, 100>(1));
  check(random_book<1, 300>(2));
  check(random_book<2, 17>(3));
  check(random_book<2, 300>(4));
  check(random_book<3, 64>(5));
  check(random_book<4, 64>(6));
  check(random_book<8, 256>(7));
}
