// SPDX-License-Identifier: Apache-2.0
// Which format a code has on a GPU, and the list of formats that kernels are compiled for.
#pragma once

#include <higgs/codes/e8/e8.hpp>
#include <higgs/codes/e8/fragments.cuh>
#include <higgs/codes/grid/fragments.cuh>
#include <higgs/codes/registry.hpp>
#include <higgs/codes/window/fragments.cuh>
#include <higgs/codes/window/window.hpp>
#include <higgs/core/code.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/pack/fragment_decoder.cuh>
#include <higgs/pack/packed_layout.cuh>

#include <cstdint>
#include <type_traits>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// A list of formats, for calls that name those whose kernels they compile.
template <FragmentDecoder... Formats>
using MatmulFormats = TypeList<Formats...>;

/// All formats of this library. A format for a code of the caller's own is named beside them or instead.
using AnyFormat =
    MatmulFormats<TableFormat<2>, TableFormat<3>, TableFormat<4>, TableFormat<8>, E8Format, WindowFormat<4>,
                  WindowFormat<5>, WindowFormat<6>, WindowFormat<7>, WindowFormat<8>>;

/// Calls use(Format{}) for the format of `layout`; throws InvalidArgument, naming `function`, if the list lacks
/// it.
template <FragmentDecoder... Formats, class Use>
void with_format(const char* function, const PackedLayout& layout, MatmulFormats<Formats...>,
                 const Use& use) {
  const bool known = ((layout.format == Formats::format && (use(Formats{}), true)) || ...);
  expects(known, [&] {
    return higgs::detail::sentence(function, ": no kernel was compiled for the format of w, number ",
                                   static_cast<int>(layout.format), " (see MatmulFormats)");
  });
}

namespace detail {
/// Bits a weight of the TableFormat that holds the symbols of a code as they are; 0 if there is none.
template <class C>
constexpr int table_bits() {
  if constexpr (Codebook<C>) {
    constexpr int each = code_bits<C> / C::dim;
    if constexpr (code_bits<C> % C::dim == 0 && (each == 2 || each == 3 || each == 4 || each == 8))
      if (TableFormat<each>::width % C::dim == 0) return each;
  }
  return 0;
}
}  // namespace detail

/// The format of a code on a GPU. A codebook of 2, 3, 4 or 8 whole bits a weight and at most a byte a symbol has
/// TableFormat. Any other code with int8 coordinates has its coordinates stored in TableFormat<8>, decoded on the
/// host at upload: 8 bits a weight on the device, whatever the code takes in a file.
///
/// Specialize it for a code with a format of its own, with stores_coordinates = false, and give that code a
/// function lookup_table(code) beside it.
template <class C>
struct FormatOf {
  static constexpr bool stores_coordinates = detail::table_bits<C>() == 0;
  static_assert(!stores_coordinates || std::is_same_v<typename C::Element, std::int8_t>,
                "higgs::gpu::FormatOf: the code has neither 2, 3, 4 or 8 whole bits a weight nor int8 "
                "coordinates");
  using type = TableFormat<stores_coordinates ? 8 : detail::table_bits<C>()>;
};
template <>
struct FormatOf<E8Codebook> {
  static constexpr bool stores_coordinates = false;
  using type = E8Format;
};

template <int SymbolBits>
  requires(window_format_bits<SymbolBits> != 0)
struct FormatOf<WindowCode<SymbolBits>> {
  static constexpr bool stores_coordinates = false;
  using type = WindowFormat<window_format_bits<SymbolBits>>;
};

/// The lookup table in global memory for matrices of a code: (table_size of its format). That of stored
/// coordinates reads a byte in two's complement.
template <class C>
std::vector<std::int16_t> device_table(const C& code) {
  if constexpr (!FormatOf<C>::stores_coordinates) {
    return lookup_table(code);
  } else {
    std::vector<std::int16_t> table;
    for (int byte = 0; byte < 256; ++byte) table.push_back(static_cast<std::int8_t>(byte));
    return table;
  }
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
