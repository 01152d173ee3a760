// SPDX-License-Identifier: Apache-2.0
// How a code is kept in packed order, and the kernels that multiply it.
#pragma once

#include <higgs/core/code.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/cpu/portable/activations.hpp>
#include <higgs/cpu/portable/lut.hpp>
#include <higgs/pack/packed_layout.hpp>

#include <cstdint>
#include <type_traits>

namespace higgs {
inline namespace v0 {

namespace detail {

struct PackedFormat;

/// The kernels of one instruction set for one packed format, and the layout of activations that they read.
struct PanelKernel {
  cpu::ActivationOrder order;
  int max_rows[2];              // rows of an activation panel whose integers have one plane, two planes
  std::int64_t group_multiple;  // padded groups are a multiple of it
  void (*quantize_row)(const float* row, const cpu::ActivationShape& shape, Activations kind,
                       cpu::ActivationOrder order, const cpu::ActivationPanel& panel, int at) noexcept;
  void (*product)(const PackedLayout& layout, const void* tables, const cpu::ActivationShape& shape,
                  const std::uint8_t* weights, const cpu::ActivationPanel* panels, std::int64_t panel_count,
                  float* sums) noexcept;

  /// The shape of one row of activations for these kernels.
  inline cpu::ActivationShape shape(const PackedLayout& layout, const PackedFormat& format,
                                    Activations kind) const noexcept;
};

/// What a product needs to know of a packed format at run time.
struct PackedFormat {
  int dim, planes;
  /// The kernels for `rows` rows of x on a machine that has `isa`.
  const PanelKernel& (*kernel)(Isa isa, std::int64_t rows) noexcept;
};

inline cpu::ActivationShape PanelKernel::shape(const PackedLayout& layout, const PackedFormat& format,
                                               Activations kind) const noexcept {
  const std::int64_t inputs = layout.steps_per_group() * layout.step_inputs;
  return {.groups = layout.groups,
          .group = layout.group,
          .padded_group = (inputs + group_multiple - 1) / group_multiple * group_multiple,
          .x_group = cpu::activation_group(kind),
          .dim = format.dim,
          .planes = kind == Activations::Int16 ? 2 : 1};
}

/// Rows of the smallest full activation panel of any kernel.
inline constexpr int min_panel_rows = 3;

/// Two symbols of 2 or 3 bits for one weight make an index.
template <Codebook C>
inline constexpr bool pairs_symbols = C::dim == 1 && code_bits<C> <= 3;

template <Code C>
constexpr auto choose_packed_format() {
  if constexpr (requires { typename C::PackedFormat; }) {
    return std::type_identity<typename C::PackedFormat>{};
  } else if constexpr (ChainCode<C>) {
    return std::type_identity<cpu::CoordinateBytes>{};
  } else {
    constexpr int width = pairs_symbols<C> ? 2 : 1, bits = code_bits<C> * width, dim = C::dim * width;
    constexpr bool wide = sizeof(typename C::Element) > 1;
    static_assert(!wide || (sizeof(typename C::Element) == 2 && dim == 1 && bits <= 8),
                  "PackedMatrix takes coordinates of 16 bits in one dimension only; matmul(x, "
                  "QuantizedMatrix) takes all");
    if constexpr (wide)
      return std::type_identity<cpu::Lut<8, 1, 2>>{};
    else if constexpr (bits <= 4 && dim <= 2)
      return std::type_identity<cpu::Lut<4, dim>>{};
    else if constexpr (bits <= 6 && dim == 2)
      return std::type_identity<cpu::Lut<6, 2>>{};
    else if constexpr (bits <= 8 && dim == 2)
      return std::type_identity<cpu::Lut<8, 2>>{};
    else if constexpr (bits <= 8 && dim == 4)
      return std::type_identity<cpu::Lut<8, 4>>{};
    else
      return std::type_identity<cpu::CoordinateBytes>{};
  }
}

/// Whether decoding takes lookups of 256 points in the plane; PackedForm is for such formats.
template <class Format>
inline constexpr bool looks_up_256 = requires { requires Format::looks_up_256; };

}  // namespace detail

/// The packed format of a code: its own C::PackedFormat, or the lookup table for its bits and dimensions, or
/// CoordinateBytes, 8 bits a weight.
template <Code C>
using PackedFormatOf = typename decltype(detail::choose_packed_format<C>())::type;

#if HIGGS_DEFINITIONS
namespace detail {

/// The kernels of one format for every instruction set.
template <class Format>
struct PanelKernels {
  template <class Set>
  static void quantize(const float* row, const cpu::ActivationShape& shape, Activations kind,
                       cpu::ActivationOrder order, const cpu::ActivationPanel& panel, int at) noexcept {
    quantize_row(Set{}, row, shape, kind, order, panel, at);
  }
  template <class Set>
  static void multiply(const PackedLayout& layout, const void* tables, const cpu::ActivationShape& shape,
                       const std::uint8_t* weights, const cpu::ActivationPanel* panels,
                       std::int64_t panel_count, float* sums) noexcept {
    cpu::multiply_panel(Set{}, Format{}, layout, *static_cast<const typename Format::Tables*>(tables), shape,
                        weights, panels, panel_count, sums);
  }
  template <class Set>
  static constexpr PanelKernel of{.order = Set::activation_order,
                                  .max_rows = {Set::panel_rows(1), Set::panel_rows(2)},
                                  .group_multiple = Set::group_multiple,
                                  .quantize_row = quantize<Set>,
                                  .product = multiply<Set>};

  template <class Set>
  static const PanelKernel& choose(std::int64_t rows) noexcept {
    if constexpr (Set::min_rows > 1)
      if (rows < Set::min_rows) return choose<typename Set::Base>(rows);
    return of<Set>;
  }
  static const PanelKernel& kernel(Isa isa, std::int64_t rows) noexcept {
    return cpu::dispatch(isa, [rows]<class Set>(Set) -> const PanelKernel& { return choose<Set>(rows); });
  }
  static constexpr PackedFormat format{Format::dim, Format::planes, &PanelKernels::kernel};
};

}  // namespace detail
#endif

}  // namespace v0
}  // namespace higgs
