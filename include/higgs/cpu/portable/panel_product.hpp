// SPDX-License-Identifier: Apache-2.0
// One weight panel times some rows of activations: the definition that every kernel follows, and the portable kernel.
//
// A group of weights is cut into chunks of 512 inputs, a chunk into activation groups. For each row of x and each row n
// of the panel, over activation groups and byte planes of a chunk in their order, then over chunks:
//     part = fma(float(S), x_scale * 256^plane, part),  S = sum over the group of q * coordinate, exact in 32 bits,
//     sum = fma(part, weight_scale, sum),
// so the results of all kernels are equal bit for bit. Codes with 16-bit coordinates have two planes,
// coordinate = plane 0 + 256 * plane 1, both int8; all others have one plane.
//
// Kernels for many rows of x decode a chunk once, into bytes (quads, 32 rows, 4) with 128 added for each plane, and
// multiply it with all panels while it is in the first cache.
//
// A kernel is panel_product(set, format, product, panels, panel_count, sums): sums (all rows of the panels, 32) +=
// activations times the weights of the panel, without 2^exponent.
#pragma once

#include <higgs/core/half.hpp>
#include <higgs/cpu/portable/activations.hpp>
#include <higgs/cpu/portable/convert.hpp>
#include <higgs/cpu/portable/isa.hpp>
#include <higgs/cpu/portable/lut.hpp>
#include <higgs/pack/packed_layout.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace higgs {
inline namespace v0 {
namespace cpu {

/// A weight panel and its sizes.
template <class Format>
struct PanelProduct {
  const PackedLayout* layout;
  const typename Format::Tables* tables;
  const ActivationShape* shape;
  const std::uint8_t* panel;  // (panel_bytes)

  static constexpr std::int64_t steps_per_chunk = chunk_inputs / Format::step_inputs;
  std::int64_t steps_per_x_group() const noexcept { return shape->x_group / Format::step_inputs; }
};

/// A decoded chunk of a weight panel.
struct Chunk {
  const std::uint8_t* weights;  // (planes, chunk_bytes); `quads` quads are decoded
  int planes;
  std::int64_t quads;
  std::int64_t first_quad, first_x_group;  // in an activation panel
  std::int64_t x_group_quads;              // quads of an activation group, at most
  const float* scales;                     // (32): weight scales
  const std::uint8_t* ahead;               // codes of the next chunk, for prefetching
  std::int64_t ahead_bytes;                // bytes of codes to prefetch for each quad of a panel
  const ActivationPanel* next;             // the panel that is read after this one
};

/// Calls decode(codes, steps, first, out) for every chunk of a weight panel, then dot(chunk, panel, sums of the panel's
/// rows) for each activation panel.
template <class Set, class Format, class Decode, class Dot>
void for_each_chunk(Set set, const PanelProduct<Format>& p, const ActivationPanel* panels,
                    std::int64_t panel_count, float* sums, const Decode& decode, const Dot& dot) {
  alignas(64) std::uint8_t weights[Format::planes * chunk_bytes];
  alignas(64) float scales[panel_rows];
  constexpr std::int64_t chunk_steps = PanelProduct<Format>::steps_per_chunk, step_bytes = Format::step_bytes;
  const std::int64_t steps = p.layout->steps_per_group(), x_groups = p.shape->x_groups_per_group();
  for (std::int64_t g = 0; g < p.layout->groups; ++g) {
    const std::uint8_t* group = p.panel + g * p.layout->group_bytes();
    to_floats(set, reinterpret_cast<const Half*>(group), panel_rows, scales);
    const std::uint8_t* codes = group + p.layout->scale_bytes();
    for (std::int64_t first = 0; first < steps; first += chunk_steps) {
      const std::int64_t count = std::min(chunk_steps, steps - first), inputs = first * Format::step_inputs;
      const std::uint8_t* const from = codes + first * step_bytes;
      const std::int64_t bytes = count * step_bytes, quads = count * Format::step_inputs / 4;
      Chunk chunk{.weights = decode(from, count, first, weights),
                  .planes = Format::planes,
                  .quads = quads,
                  .first_quad = (g * p.shape->padded_group + inputs) / 4,
                  .first_x_group = g * x_groups + inputs / p.shape->x_group,
                  .x_group_quads = p.shape->x_group / 4,
                  .scales = scales,
                  .ahead = from + bytes,
                  .ahead_bytes = (bytes - 1) / (panel_count * quads) + 1,
                  .next = panels};
      float* y = sums;
      for (std::int64_t i = 0; i < panel_count; ++i) {
        chunk.next = panels + (i + 1 < panel_count ? i + 1 : i);
        dot(chunk, panels[i], y);
        y += panels[i].rows * panel_rows;
        chunk.ahead += quads * chunk.ahead_bytes;
      }
    }
  }
}

namespace portable {

/// A chunk times a panel in ActivationOrder::Words.
inline void dot_chunk(const Chunk& chunk, const ActivationPanel& panel, float* sums) noexcept {
  for (int m = 0; m < panel.rows; ++m, sums += panel_rows) {
    float parts[panel_rows] = {};
    std::int64_t x_group = chunk.first_x_group * panel.rows + m;
    for (std::int64_t first = 0; first < chunk.quads; first += chunk.x_group_quads, x_group += panel.rows) {
      const std::int64_t end = std::min(first + chunk.x_group_quads, chunk.quads);
      float scale = panel.scales[x_group];
      for (int plane = 0; plane < chunk.planes; ++plane, scale *= 256.0f) {
        std::uint32_t totals[panel_rows];
        std::fill(totals, totals + panel_rows, static_cast<std::uint32_t>(panel.compensation[x_group]));
        for (std::int64_t quad = first; quad < end; ++quad) {
          std::int16_t q[4];
          std::memcpy(q, panel.quads + ((chunk.first_quad + quad) * panel.rows + m) * 8, 8);
          const std::uint8_t* w = chunk.weights + plane * chunk_bytes + quad * 128;
          for (int n = 0; n < panel_rows; ++n)
            totals[n] += static_cast<std::uint32_t>(q[0] * w[4 * n] + q[1] * w[4 * n + 2] +
                                                    q[2] * w[4 * n + 1] + q[3] * w[4 * n + 3]);
        }
        for (int n = 0; n < panel_rows; ++n)
          parts[n] = std::fma(static_cast<float>(static_cast<std::int32_t>(totals[n])), scale, parts[n]);
      }
    }
    for (int n = 0; n < panel_rows; ++n) sums[n] = std::fma(parts[n], chunk.scales[n], sums[n]);
  }
}

}  // namespace portable

template <class Format>
void panel_product(Portable set, Format format, const PanelProduct<Format>& p, const ActivationPanel* panels,
                   std::int64_t panel_count, float* sums) noexcept {
  const auto decode = chunk_decoder(set, format, *p.tables);
  for_each_chunk(set, p, panels, panel_count, sums, decode, portable::dot_chunk);
}

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
