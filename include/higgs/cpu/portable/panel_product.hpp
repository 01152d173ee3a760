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
// A kernel is panel_product(set, product, panels, panel_count, sums): sums (all rows of the panels, 32) += activations
// times the weights of the panel, without 2^exponent. It knows no packed format, only the format's decoder. For few rows
// of x a set may have kernels that decode in registers, which are made for each format: stream_panels(set, format).
#pragma once

#include <higgs/core/function_ref.hpp>
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

/// Decodes steps of a weight panel: (codes, steps, first, out), see chunk_decoder().
using DecodeChunk = higgs::detail::FunctionRef<const std::uint8_t*(const std::uint8_t*, std::int64_t,
                                                                   std::int64_t, std::uint8_t*)>;

struct PanelProduct;
/// A product with one activation panel that decodes in registers.
using StreamPanel = void (*)(const PanelProduct& product, const ActivationPanel& panel, float* sums) noexcept;

/// The kernels of a set that decode in registers, [rows - 1][planes - 1] for 1 and 2 rows of x; null if there are none.
template <class Format>
constexpr const StreamPanel (*stream_panels(Portable, Format) noexcept)[2] {
  return nullptr;
}

/// A weight panel and how to read it.
struct PanelProduct {
  const PackedLayout* layout;
  const ActivationShape* shape;
  const std::uint8_t* weights;  // (panel_bytes)
  int planes;                   // bytes of a coordinate
  const void* tables;           // Format::Tables
  DecodeChunk decode;
  const StreamPanel (*stream)[2] = nullptr;

  std::int64_t steps_per_chunk() const noexcept { return chunk_inputs / layout->step_inputs; }
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

/// Multiplies a decoded chunk with an activation panel: (chunk, panel, sums of the panel's rows).
using DotChunk = higgs::detail::FunctionRef<void(const Chunk&, const ActivationPanel&, float*)>;

/// Decodes every chunk of a weight panel, then calls dot() for each activation panel.
inline void for_each_chunk(const PanelProduct& p, const ActivationPanel* panels, std::int64_t panel_count,
                           float* sums, void (*scales_to_floats)(const Half*, std::int64_t, float*) noexcept,
                           DotChunk dot) noexcept {
  alignas(64) std::uint8_t weights[2 * chunk_bytes];
  alignas(64) float scales[panel_rows];
  const std::int64_t step_bytes = p.layout->step_bytes, step_inputs = p.layout->step_inputs,
                     chunk_steps = p.steps_per_chunk();
  const std::int64_t steps = p.layout->steps_per_group(), x_groups = p.shape->x_groups_per_group();
  for (std::int64_t g = 0; g < p.layout->groups; ++g) {
    const std::uint8_t* group = p.weights + g * p.layout->group_bytes();
    scales_to_floats(reinterpret_cast<const Half*>(group), panel_rows, scales);
    const std::uint8_t* codes = group + p.layout->scale_bytes();
    for (std::int64_t first = 0; first < steps; first += chunk_steps) {
      const std::int64_t count = std::min(chunk_steps, steps - first), inputs = first * step_inputs;
      const std::uint8_t* const from = codes + first * step_bytes;
      const std::int64_t bytes = count * step_bytes, quads = count * step_inputs / 4;
      Chunk chunk{.weights = p.decode(from, count, first, weights),
                  .planes = p.planes,
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

/// to_floats() of a set for the scales of a weight panel.
template <class Set>
void scales_to_floats(const Half* scales, std::int64_t count, float* out) noexcept {
  to_floats(Set{}, scales, count, out);
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

inline void panel_product(Portable, const PanelProduct& p, const ActivationPanel* panels,
                          std::int64_t panel_count, float* sums) noexcept {
  const auto dot = &portable::dot_chunk;
  for_each_chunk(p, panels, panel_count, sums, scales_to_floats<Portable>, dot);
}

/// The product of a weight panel in packed format `format` by the kernels of `set`.
template <class Set, class Format>
void multiply_panel(Set set, Format format, const PackedLayout& layout, const typename Format::Tables& tables,
                    const ActivationShape& shape, const std::uint8_t* weights, const ActivationPanel* panels,
                    std::int64_t panel_count, float* sums) noexcept {
  const auto decoder = chunk_decoder(set, format, tables);
  panel_product(
      set,
      PanelProduct{&layout, &shape, weights, Format::planes, &tables, decoder, stream_panels(set, format)},
      panels, panel_count, sums);
}

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
