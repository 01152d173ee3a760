// SPDX-License-Identifier: Apache-2.0
// Rates between those of whole bits: several codes share a word as the digits of a number.
#pragma once

#include <higgs/core/concepts.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace higgs {
inline namespace v0 {

template <class Book>
class RadixSearch;

/// `Count` points of `Book` as one point of so many times its dimensions, in a code of 32 bits: digit i of
/// the code in base Book::size is the code of point i, the last one first. Five codes of 84 points in the
/// plane make 3.2 bits a weight. Codes that no number of digits reaches decode too (their first digit is
/// taken modulo the base), but are never used.
template <Codebook Book, int Count>
class RadixCodebook {
  static constexpr std::int64_t power(int exponent) noexcept {
    std::int64_t result = 1;
    for (int i = 0; i < exponent; ++i) result *= Book::size;
    return result;
  }
  static_assert(Count >= 2 && Count <= 32 && Book::size <= 65536,
                "RadixCodebook<Book, Count>: Count must lie in [2, 32]");
  static_assert(power(Count / 2) * power(Count - Count / 2) <= std::int64_t{1} << 32 &&
                    power(Count / 2) < 1 << 17,
                "RadixCodebook<Book, Count>: so many codes do not fit 32 bits");

 public:
  static constexpr int dim = Book::dim * Count;
  static constexpr std::int64_t size = std::int64_t{1} << 32;
  static constexpr int digits = Count;
  using Digit = Book;
  using Search = RadixSearch<RadixCodebook>;  // codes/radix/search.hpp
  using Element = typename Book::Element;
  using Index = std::uint32_t;
  using Point = std::array<Element, static_cast<std::size_t>(dim)>;

  /// Digits of the table that ships. Not defaulted: a compiler may ask for that table before this is called.
  constexpr RadixCodebook() noexcept : book_() {}
  constexpr explicit RadixCodebook(const Book& book) noexcept : book_(book) {}

  HIGGS_HOST_DEVICE constexpr Point decode(Index index) const noexcept {
    Point point{};
    for (std::size_t i = Count; i-- > 0; index /= static_cast<Index>(Book::size)) {
      const auto digit =
          book_.decode(static_cast<typename Book::Index>(index % static_cast<Index>(Book::size)));
      for (std::size_t d = 0; d < digit.size(); ++d) point[i * digit.size() + d] = digit[d];
    }
    return point;
  }
  constexpr const Book& digit() const noexcept { return book_; }
  constexpr double step() const noexcept { return book_.step(); }
  constexpr double mse() const noexcept { return book_.mse(); }
  /// "2x84r5".
  static std::string name() { return Book::name() + "r" + std::to_string(Count); }

 private:
  Book book_;
};

}  // namespace v0
}  // namespace higgs
