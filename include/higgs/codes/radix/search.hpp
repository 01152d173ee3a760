// SPDX-License-Identifier: Apache-2.0
// Nearest points of codes that are numbers: each digit by itself.
#pragma once

#include <higgs/codes/radix/radix.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/encode/nearest.hpp>
#include <higgs/encode/point_search.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace higgs {
inline namespace v0 {

/// nearest() for RadixCodebook by the search for its digits: distances add up, and the lowest digits
/// make the lowest number.
template <class Book>
class RadixSearch {
  using Digit = typename Book::Digit;

 public:
  explicit RadixSearch(const Book& book) : search_(book.digit()) {}

  /// codes[i] = nearest(book, fixed[i * dim ... (i + 1) * dim)). `fixed` holds integers, |fixed| <=
  /// fixed_limit.
  void encode(std::span<const float> fixed, std::span<std::uint32_t> codes,
              Isa isa = best_isa()) const noexcept {
    constexpr std::size_t batch = 64, count = Book::digits, dim = Book::dim;
    // A single digit keeps more binary places.
    constexpr auto finer = static_cast<float>(1 << (fraction_bits<Digit> - fraction_bits<Book>));
    std::array<float, batch * dim> inputs;
    std::array<typename Digit::Index, batch * count> digits;
    for (std::size_t i = 0; i < codes.size(); i += batch) {
      const std::size_t vectors = std::min(batch, codes.size() - i);
      for (std::size_t k = 0; k < vectors * dim; ++k) inputs[k] = fixed[i * dim + k] * finer;
      search_.encode(std::span<const float>(inputs).first(vectors * dim),
                     std::span(digits).first(vectors * count), isa);
      for (std::size_t v = 0; v < vectors; ++v) {
        std::uint32_t code = 0;
        for (std::size_t k = 0; k < count; ++k)
          code = code * static_cast<std::uint32_t>(Digit::size) + digits[v * count + k];
        codes[i + v] = code;
      }
    }
  }

 private:
  PointSearch<Digit> search_;
};

}  // namespace v0
}  // namespace higgs
