// SPDX-License-Identifier: Apache-2.0
// The list of codes that files name and run-time choices know. One line adds a code.
#pragma once

#include <higgs/codes/e8/code.hpp>
#include <higgs/codes/grid/grid.hpp>
#include <higgs/codes/uniform/uniform.hpp>
#include <higgs/codes/window/code.hpp>
#include <higgs/core/code.hpp>
#include <higgs/core/error.hpp>

#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace higgs {
inline namespace v0 {

/// Every code that ships, cheapest first.
using ShippedCodes =
    TypeList<WindowCode<2>, WindowCode<3>, GridCodebook<1, 4>, GridCodebook<2, 16>, GridCodebook<4, 256>,
             E8Codebook, WindowCode<4>, WindowCode<5>, GridCodebook<1, 8>, GridCodebook<2, 64>, WindowCode<6>,
             WindowCode<7>, GridCodebook<1, 16>, GridCodebook<2, 256>, WindowCode<8>, WindowCode<9>,
             WindowCode<10>, GridCodebook<1, 256>, UniformCodebook8>;

namespace detail {
template <class C, class... Codes>
constexpr bool is_listed(TypeList<Codes...>) noexcept {
  return (std::is_same_v<C, Codes> || ...);
}
template <class Visitor, class... Codes>
bool visit_code_named(std::string_view name, Visitor& visitor, TypeList<Codes...>) {
  return ((Codes::name() == name ? (visitor(std::type_identity<Codes>{}), true) : false) || ...);
}
template <class... Codes>
std::vector<std::string> names_of(TypeList<Codes...>) {
  return {Codes::name()...};
}
}  // namespace detail

/// One of the codes that ship.
template <class C>
concept ShippedCode = detail::is_listed<C>(ShippedCodes{});

/// The names of all shipped codes.
inline std::vector<std::string> shipped_code_names() { return detail::names_of(ShippedCodes{}); }

/// Calls visitor(std::type_identity<C>) for the shipped code of that name. Throws InvalidArgument if none has it.
template <class Visitor>
void with_shipped_code(std::string_view name, Visitor&& visitor) {
  if (detail::visit_code_named(name, visitor, ShippedCodes{})) return;
  std::string known;
  for (const std::string& each : shipped_code_names()) known.append(" ").append(each);
  throw InvalidArgument("higgs: no codebook is named \"" + std::string(name) + "\"; there are:" + known);
}

}  // namespace v0
}  // namespace higgs
