// SPDX-License-Identifier: Apache-2.0
// The order of codes in memory that CPU kernels read: made once at load, never stored in files.
//
// Rows come in weight panels of 32. A panel is one contiguous stream, group after group along K, so that a product reads
// memory in one direction:
//
//     panel | group 0                                  | group 1 ...
//           | 32 fp16 scales | step 0 | step 1 | ...   |
//     step  | vectors of rows 0-15 | vectors of rows 16-31 |        a vector: 16 lanes of 4 bytes, one lane a row
//
// The packed format says which weights a step holds and how its lanes hold them: cpu/portable/lut.hpp has the formats of
// tables, a code may bring a format of its own. Missing rows and the end of a group's last step are code 0 with scale 0
// or activation 0.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/half.hpp>
#include <higgs/pack/bits.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace higgs {
inline namespace v0 {

/// Rows of a weight panel.
inline constexpr std::int64_t panel_rows = 32;

/// Sizes of one matrix in packed order.
struct PackedLayout {
  std::int64_t rows = 0;
  std::int64_t groups = 0;       // along a row
  std::int64_t group = 0;        // weights of a group
  std::int64_t step_bytes = 0;   // bytes of a step, a multiple of 128
  std::int64_t step_inputs = 1;  // weights of one row in a step

  constexpr std::int64_t steps_per_group() const noexcept { return (group + step_inputs - 1) / step_inputs; }
  constexpr std::int64_t scale_bytes() const noexcept { return 2 * panel_rows; }
  constexpr std::int64_t group_bytes() const noexcept {
    return scale_bytes() + steps_per_group() * step_bytes;
  }
  constexpr std::int64_t panels() const noexcept { return (rows + panel_rows - 1) / panel_rows; }
  constexpr std::int64_t panel_bytes() const noexcept { return groups * group_bytes(); }
  constexpr std::int64_t bytes() const noexcept { return panels() * panel_bytes(); }
  friend constexpr bool operator==(const PackedLayout&, const PackedLayout&) = default;
};

/// The symbols of one group of one row in canonical layout.
struct CodedGroup {
  std::span<const std::uint8_t> row;  // all symbols of the row
  std::int64_t first = 0;             // the group's first symbol
  std::int64_t count = 0;             // symbols of the group
  int symbol_bits = 8;
};

/// Repacks a matrix from canonical layout: `codes` (rows, row_bytes) of symbols of `symbol_bits` bits, `symbols` for
/// each group, and `scales` (rows, groups), into `out` (layout.bytes()). `pack_group(group, steps, step_bytes, lane)`
/// writes the lanes of one row: `lane` points at its bytes in the first vector of the first step. Throws
/// InvalidArgument if sizes do not fit.
template <class PackGroup>
void pack_panels(const PackedLayout& layout, std::span<const std::uint8_t> codes, std::int64_t symbols,
                 int symbol_bits, std::span<const Half> scales, std::span<std::uint8_t> out,
                 const PackGroup& pack_group, Executor& executor = default_executor());

namespace detail {

/// The bytes of weight panel `panel`, into `out` (panel_bytes).
template <class PackGroup>
void pack_panel(const PackedLayout& layout, std::int64_t panel, std::span<const std::uint8_t> codes,
                std::int64_t symbols, int symbol_bits, std::span<const Half> scales, std::uint8_t* out,
                const PackGroup& pack_group) {
  const std::int64_t first = panel * panel_rows, count = std::min(panel_rows, layout.rows - first);
  const auto row_bytes =
      static_cast<std::int64_t>(packed_bytes(static_cast<std::size_t>(layout.groups * symbols), symbol_bits));
  if (count < panel_rows) std::memset(out, 0, static_cast<std::size_t>(layout.panel_bytes()));
  for (std::int64_t g = 0; g < layout.groups; ++g) {
    std::uint8_t* group = out + g * layout.group_bytes();
    for (std::int64_t row = 0; row < count; ++row) {
      const Half scale = scales[static_cast<std::size_t>((first + row) * layout.groups + g)];
      std::memcpy(group + 2 * row, &scale, 2);
      const CodedGroup coded{.row = codes.subspan(static_cast<std::size_t>((first + row) * row_bytes),
                                                  static_cast<std::size_t>(row_bytes)),
                             .first = g * symbols,
                             .count = symbols,
                             .symbol_bits = symbol_bits};
#if defined(__GNUC__)
      // The next row's bytes: too few for the hardware to prefetch.
      const std::int64_t begin = g * symbols * symbol_bits / 8, end = begin + symbols * symbol_bits / 8;
      for (std::int64_t i = begin; row + 1 < count && i < end; i += 64)
        __builtin_prefetch(coded.row.data() + row_bytes + i);
#endif
      pack_group(coded, layout.steps_per_group(), layout.step_bytes,
                 group + layout.scale_bytes() + row / 16 * (layout.step_bytes / 2) + row % 16 * 4);
    }
  }
}

}  // namespace detail

template <class PackGroup>
void pack_panels(const PackedLayout& layout, std::span<const std::uint8_t> codes, std::int64_t symbols,
                 int symbol_bits, std::span<const Half> scales, std::span<std::uint8_t> out,
                 const PackGroup& pack_group, Executor& executor) {
  const auto size = [](std::int64_t n) { return static_cast<std::size_t>(n); };
  expects(layout.rows >= 0 && layout.groups >= 0 && layout.group > 0 && layout.step_bytes > 0 &&
              layout.step_bytes % 128 == 0 && layout.step_inputs > 0 && symbols > 0 && symbol_bits >= 1 &&
              symbol_bits <= 32,
          "higgs::pack_panels: the layout is impossible");
  expects(codes.size() == size(layout.rows) * packed_bytes(size(layout.groups * symbols), symbol_bits) &&
              scales.size() == size(layout.rows * layout.groups) && out.size() == size(layout.bytes()),
          "higgs::pack_panels: codes, scales or out has the wrong size");
  parallel_for(executor, layout.panels(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t panel = begin; panel < end; ++panel)
      detail::pack_panel(layout, panel, codes, symbols, symbol_bits, scales,
                         out.data() + panel * layout.panel_bytes(), pack_group);
  });
}

}  // namespace v0
}  // namespace higgs
