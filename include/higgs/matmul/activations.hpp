// SPDX-License-Identifier: Apache-2.0
// Rows of x as integers, for int8 products of your own; cpu/portable/activations.hpp defines the rounding.
#pragma once

#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/scratch.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/rotate/random_hadamard.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace higgs {
inline namespace v0 {

/// Rotates a row of x as rotate_row() does and rounds it to 8 bits: out[k] * scales[k / 64] is input k. A scale is a
/// 127th of the largest magnitude of its 64 inputs, and NaN where an input is not finite. `factors` are input scales,
/// (x.size()) or empty. Throws InvalidArgument as rotate_row() does, and unless out.size() is a multiple of 4 and
/// scales holds one for each 64 values of out.
template <Scalar X>
void rotate_to_int8(std::span<const X> x, std::span<const float> factors, std::span<std::int8_t> out,
                    std::span<float> scales, std::int64_t block, std::optional<std::uint64_t> seed,
                    std::int64_t first_column = 0, Isa isa = best_isa()) {
  const auto size = static_cast<std::int64_t>(out.size());
  const cpu::ActivationShape shape{.groups = 1,
                                   .group = size,
                                   .padded_group = size,
                                   .x_group = cpu::activation_group(Activations::Int8),
                                   .dim = 1,
                                   .planes = 1};
  expects(size % 4 == 0 && std::ssize(scales) == shape.x_groups(), [&] {
    return detail::sentence("higgs::rotate_to_int8: out holds ", size, " values and scales ", scales.size(),
                            ", but out must hold a multiple of 4, and scales one for each 64 of them");
  });
  const detail::Scratch scratch(out.size() * sizeof(float) + scales.size() * sizeof(std::int32_t));
  const std::span<float> row(reinterpret_cast<float*>(scratch.data()), out.size());
  rotate_row(x, factors, row, block, seed, first_column, isa);
  cpu::ActivationPanel panel(shape, cpu::ActivationOrder::Bytes, 1,
                             reinterpret_cast<std::uint8_t*>(out.data()));
  panel.scales = scales.data();
  panel.compensation = reinterpret_cast<std::int32_t*>(row.data() + row.size());
  cpu::dispatch(usable_isa(isa), [&](auto set) {
    quantize_row(set, row.data(), shape, Activations::Int8, cpu::ActivationOrder::Bytes, panel, 0);
  });
}

}  // namespace v0
}  // namespace higgs
