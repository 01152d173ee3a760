// SPDX-License-Identifier: Apache-2.0
// Fast nearest points: equals nearest() for every input.
#pragma once

#include <higgs/core/concepts.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/encode/cell_search.hpp>
#include <higgs/codes/e8/search.hpp>
#include <higgs/encode/exhaustive_search.hpp>
#include <higgs/codes/lattice/search.hpp>
#include <higgs/encode/line_search.hpp>
#include <higgs/encode/nearest.hpp>
#include <higgs/encode/plane_search.hpp>
#include <higgs/codes/radix/search.hpp>

#include <span>

namespace higgs {
inline namespace v0 {

namespace detail {
template <Codebook Book>
struct SearchOf {
  using type = ExhaustiveSearch<Book>;
};
template <Codebook Book>
  requires(Book::dim == 1)
struct SearchOf<Book> {
  using type = LineSearch<Book>;
};
// Up to 16 points fit registers: comparing all of them is as fast as looking for a few.
template <Codebook Book>
  requires(Book::dim == 2 && Book::size > 16 && Book::size <= 256 && sizeof(typename Book::Element) == 1)
struct SearchOf<Book> {
  using type = PlaneSearch<Book>;
};
// Beyond four dimensions a cell lists so many points that comparing all of them, many vectors at a time, is faster.
template <Codebook Book>
  requires(Book::dim >= 2 && Book::dim <= 4 && Book::size > 256 && Book::size <= 65536 &&
           sizeof(typename Book::Element) == 1)
struct SearchOf<Book> {
  using type = CellSearch<Book>;
};
template <>
struct SearchOf<E8Codebook> {
  using type = E8Search;
};
template <int Bits>
struct SearchOf<NestedE8Codebook<Bits>> {
  using type = LatticeSearch<Bits>;
};
template <Codebook Book, int Count>
struct SearchOf<RadixCodebook<Book, Count>> {
  using type = RadixSearch<RadixCodebook<Book, Count>, typename SearchOf<Book>::type>;
};
}  // namespace detail

/// A search over the points of one codebook, prepared once: the fastest that there is for its shape.
template <Codebook Book>
class Encoder {
 public:
  explicit Encoder(const Book& book) : search_(book) {}

  /// codes[i] = nearest(book, fixed[i * dim ... (i + 1) * dim)). `fixed` holds integers, |fixed| <=
  /// fixed_limit. The codes are the same for every `isa`.
  void encode(std::span<const float> fixed, std::span<typename Book::Index> codes,
              Isa isa = best_isa()) const noexcept {
    search_.encode(fixed, codes, isa);
  }

 private:
  typename detail::SearchOf<Book>::type search_;
};

}  // namespace v0
}  // namespace higgs
