// SPDX-License-Identifier: Apache-2.0
// Weight panels of random codes that tests of the kernels share.
#pragma once

#include <higgs/codes/registry.hpp>
#include <higgs/core/random.hpp>
#include <higgs/matmul/packed_matrix.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "cpu/sets.hpp"

/// One weight panel of random codes: two groups of `indices` packed indices of each row, scales random bits as well.
template <class Code>
struct RandomPanel {
  using Format = higgs::PackedFormatOf<Code>;

  RandomPanel(const Code& code, std::int64_t indices)
      : tables(higgs::detail::make_tables<Format>(code)),
        layout{.rows = 32,
               .groups = 2,
               .group = indices * Format::dim,
               .step_bytes = Format::step_bytes,
               .step_inputs = Format::step_inputs},
        bytes(static_cast<std::size_t>(layout.panel_bytes())) {
    for (std::size_t i = 0; i < bytes.size(); ++i)
      bytes[i] = static_cast<std::uint8_t>(higgs::random_bits(1, i));
  }
  /// Scales of -20, -19, ...: random bits may be NaN.
  void make_scales_finite() {
    for (int i = 0; i < 2 * 32; ++i) {
      const higgs::Half scale(static_cast<float>(i - 20));
      std::memcpy(bytes.data() + i / 32 * layout.group_bytes() + i % 32 * 2, &scale, 2);
    }
  }
  const std::uint8_t* codes() const { return bytes.data() + layout.scale_bytes(); }

  /// The first group, decoded by the instruction set into planes of zeros.
  template <class Set>
  std::vector<std::uint8_t> decoded(Set set) const {
    alignas(64) std::uint8_t out[2 * higgs::cpu::chunk_bytes] = {};
    const auto decode = chunk_decoder(set, Format{}, tables);
    const std::uint8_t* from = decode(codes(), layout.steps_per_group(), 0, out);
    if (from == codes()) std::copy_n(from, layout.steps_per_group() * layout.step_bytes, out);
    return {out, out + sizeof out};
  }

  typename Format::Tables tables;
  higgs::PackedLayout layout;
  std::vector<std::uint8_t> bytes;
};

/// Calls visit(panel, code) for a panel of every shipped code.
template <class Visit>
void for_each_panel(std::int64_t indices, const Visit& visit) {
  [&]<class... Codes>(higgs::TypeList<Codes...>) {
    (visit(RandomPanel<Codes>(Codes{}, indices), Codes{}), ...);
  }(higgs::ShippedCodes{});
}

/// The product of a panel with `rows` rows of random activations in activation panels of `most` rows:
/// multiply(shape, panels, panel_count, sums).
template <class Code, class Multiply>
std::vector<float> panel_sums(const RandomPanel<Code>& panel, higgs::cpu::ActivationOrder order,
                              std::int64_t group_multiple, higgs::Activations kind, int rows, int most,
                              const Multiply& multiply) {
  using Format = higgs::PackedFormatOf<Code>;
  const std::int64_t held = panel.layout.steps_per_group() * Format::step_inputs;
  const higgs::cpu::ActivationShape shape{
      .groups = 2,
      .group = panel.layout.group,
      .padded_group = (held + group_multiple - 1) / group_multiple * group_multiple,
      .x_group = higgs::cpu::activation_group(kind),
      .dim = Format::dim,
      .planes = kind == higgs::Activations::Int16 ? 2 : 1};
  const int count = (rows + most - 1) / most;
  const std::size_t bytes = higgs::cpu::ActivationPanel::bytes(shape, order, most);
  std::vector<std::uint8_t> memory(static_cast<std::size_t>(count) * bytes);
  std::vector<higgs::cpu::ActivationPanel> panels;
  for (int i = 0; i < count; ++i)
    panels.emplace_back(shape, order, std::min(most, rows - i * most),
                        memory.data() + static_cast<std::size_t>(i) * bytes);
  std::vector<float> x(static_cast<std::size_t>(2 * shape.group));
  for (int m = 0; m < rows; ++m) {
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = static_cast<float>(higgs::random_normal(static_cast<std::uint64_t>(m), i));
    quantize_row(higgs::cpu::Portable{}, x.data(), shape, kind, order,
                 panels[static_cast<std::size_t>(m / most)], m % most);
  }
  std::vector<float> sums(static_cast<std::size_t>(rows * 32), 0.25f);
  multiply(shape, panels.data(), count, sums.data());
  return sums;
}
