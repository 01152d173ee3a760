// SPDX-License-Identifier: Apache-2.0
// The closed list of codebooks that files may name and kernels are made for.
#pragma once

#include <higgs/codes/e8/e8.hpp>
#include <higgs/codes/grid/grid.hpp>
#include <higgs/codes/uniform/uniform.hpp>
#include <higgs/core/error.hpp>

#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace higgs {
inline namespace v0 {

/// Every codebook that ships, cheapest first.
using ShippedCodebooks = TypeList<GridCodebook<1, 4>, GridCodebook<2, 16>, GridCodebook<4, 256>, E8Codebook,
                                  GridCodebook<1, 8>, GridCodebook<2, 64>, GridCodebook<1, 16>,
                                  GridCodebook<2, 256>, GridCodebook<1, 256>, UniformCodebook8>;

namespace detail {
template <class Book, class... Books>
constexpr bool is_listed(TypeList<Books...>) noexcept {
  return (std::is_same_v<Book, Books> || ...);
}
template <class Visitor, class... Books>
bool visit_codebook_named(std::string_view name, Visitor& visitor, TypeList<Books...>) {
  return ((Books::name() == name ? (visitor(std::type_identity<Books>{}), true) : false) || ...);
}
template <class... Books>
std::vector<std::string> names_of(TypeList<Books...>) {
  return {Books::name()...};
}
}  // namespace detail

/// One of the codebooks that ship.
template <class Book>
concept ShippedCodebook = detail::is_listed<Book>(ShippedCodebooks{});

/// The names of all shipped codebooks.
inline std::vector<std::string> shipped_codebook_names() { return detail::names_of(ShippedCodebooks{}); }

/// Calls visitor(std::type_identity<Book>) for the shipped codebook of that name; throws InvalidArgument if none has it.
template <class Visitor>
void with_shipped_codebook(std::string_view name, Visitor&& visitor) {
  if (detail::visit_codebook_named(name, visitor, ShippedCodebooks{})) return;
  std::string known;
  for (const std::string& each : shipped_codebook_names()) known.append(" ").append(each);
  throw InvalidArgument("higgs: no codebook is named \"" + std::string(name) + "\"; there are:" + known);
}

}  // namespace v0
}  // namespace higgs
