// SPDX-License-Identifier: Apache-2.0
// The fastest search for the nearest point of a codebook.
#pragma once

#include <higgs/core/concepts.hpp>
#include <higgs/encode/cell_search.hpp>
#include <higgs/encode/exhaustive_search.hpp>
#include <higgs/encode/line_search.hpp>
#include <higgs/encode/plane_search.hpp>

namespace higgs {
inline namespace v0 {
namespace detail {

template <Codebook Book>
auto point_search() {
  constexpr bool bytes = sizeof(typename Book::Element) == 1;
  if constexpr (requires { typename Book::Search; }) {
    return std::type_identity<typename Book::Search>{};
  } else if constexpr (Book::dim == 1) {
    return std::type_identity<LineSearch<Book>>{};
  } else if constexpr (Book::dim == 2 && Book::size > 16 && Book::size <= 256 && bytes) {
    // Up to 16 points fit registers: comparing all of them is as fast as looking for a few.
    return std::type_identity<PlaneSearch<Book>>{};
  } else if constexpr (Book::dim <= 4 && Book::size > 256 && Book::size <= 65536 && bytes) {
    // Beyond four dimensions a cell lists so many points that comparing all of them, many vectors at a time, is faster.
    return std::type_identity<CellSearch<Book>>{};
  } else {
    return std::type_identity<ExhaustiveSearch<Book>>{};
  }
}

}  // namespace detail

/// The fastest search for a codebook's shape, or the codebook's own: Book::Search.
template <Codebook Book>
using PointSearch = typename decltype(detail::point_search<Book>())::type;

}  // namespace v0
}  // namespace higgs
