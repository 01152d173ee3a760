// SPDX-License-Identifier: Apache-2.0
// One strip of tiles times some rows of activations: what every kernel computes, and the portable one.
//
// A group of weights is cut into chunks of 512 inputs, a chunk into runs of activations. For each row of x
// and each row n of the strip, over runs and planes of a chunk in their order, then over chunks:
//     part = fma(float(S), step * 256^plane, part),  S = sum over the run of q * coordinate, exact in 32 bits,
//     sum = fma(part, scale, sum),
// so the results of all kernels are equal bit for bit. Codebooks of 16-bit coordinates have two planes,
// coordinate = plane 0 + 256 * plane 1, both int8; all others have one.
//
// Kernels for many rows of x decode a chunk once, into bytes (quads, 32 rows, 4) with 128 added for each
// plane, and multiply it with all panels while it is in the first cache.
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/convert.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/core/half.hpp>
#include <higgs/matmul/activations.hpp>
#include <higgs/matmul/packed_matrix.hpp>
#include <higgs/pack/packed_layout.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace higgs {
inline namespace v0 {
namespace detail {

/// A strip, and what is needed to read it.
struct StripProduct {
  const PackedLayout* layout;
  const UnitTables* tables;
  const RunShape* runs;
  const std::uint8_t* strip;

  std::int64_t step_inputs() const noexcept { return layout->units_per_step() * tables->dim; }
  std::int64_t steps_per_chunk() const noexcept { return chunk_inputs / step_inputs(); }
  std::int64_t steps_per_run() const noexcept { return runs->run / step_inputs(); }
};

/// Bytes of one plane of a decoded chunk.
inline constexpr std::int64_t chunk_bytes = chunk_inputs * strip_rows;

/// A decoded chunk of a strip.
struct Chunk {
  const std::uint8_t* weights;  // (planes, chunk_bytes), of which `quads` quads count
  int planes;
  std::int64_t quads;
  std::int64_t first_quad, first_run;  // in a panel
  std::int64_t run_quads;              // of a run, at most
  const float* scales;                 // of 32 rows
  const std::uint8_t*
      ahead;  // codes of the next chunk: each quad of a panel should prefetch some bytes of them
  std::int64_t ahead_bytes;
  const Panel* next;  // the panel that is read after this one
};

/// Calls decode(codes, steps, out) for every chunk of a strip, which returns where the decoded bytes are,
/// then dot(chunk, panel, sums of the panel's rows) for each panel.
template <class Decode, class Dot>
void for_each_chunk(const StripProduct& p, const Panel* panels, std::int64_t panel_count, float* sums,
                    Isa isa, const Decode& decode, const Dot& dot) {
  alignas(64) std::uint8_t weights[2 * chunk_bytes];
  alignas(64) float scales[strip_rows];
  const std::int64_t steps = p.layout->steps_per_group(), runs_per_group = p.runs->runs_per_group();
  for (std::int64_t g = 0; g < p.layout->groups; ++g) {
    const std::uint8_t* group = p.strip + g * p.layout->group_bytes();
    to_floats(reinterpret_cast<const Half*>(group), strip_rows, scales, isa);
    const std::uint8_t* codes = group + p.layout->scale_bytes();
    for (std::int64_t first = 0; first < steps; first += p.steps_per_chunk()) {
      const std::int64_t count = std::min(p.steps_per_chunk(), steps - first),
                         inputs = first * p.step_inputs();
      const std::uint8_t* const from = codes + first * p.layout->step_bytes();
      const std::int64_t bytes = count * p.layout->step_bytes(), quads = count * p.step_inputs() / 4;
      Chunk chunk{.weights = decode(from, count, weights),
                  .planes = p.tables->planes,
                  .quads = quads,
                  .first_quad = (g * p.runs->padded_group + inputs) / 4,
                  .first_run = g * runs_per_group + inputs / p.runs->run,
                  .run_quads = p.runs->run / 4,
                  .scales = scales,
                  .ahead = from + bytes,
                  .ahead_bytes = (bytes - 1) / (panel_count * quads) + 1,
                  .next = panels};
      float* y = sums;
      for (std::int64_t i = 0; i < panel_count; ++i) {
        chunk.next = panels + (i + 1 < panel_count ? i + 1 : i);
        dot(chunk, panels[i], y);
        y += panels[i].rows * strip_rows;
        chunk.ahead += quads * chunk.ahead_bytes;
      }
    }
  }
}

/// The eight signs of a unit of UnitKind::Signed8 from its pattern and its signs; the last one has no bit.
constexpr unsigned all_signs(unsigned pattern, unsigned signs) noexcept {
  const unsigned last = static_cast<unsigned>(std::popcount(signs & 127u)) + (pattern >> 7);
  return (signs & 127u) | (last & 1u) << 7;
}

namespace portable {

/// decode_chunk() for UnitKind::Signed8.
inline void decode_signed(const UnitTables& tables, const std::uint8_t* codes, std::int64_t steps,
                          std::uint8_t* out) noexcept {
  for (; steps > 0; --steps, codes += 256, out += 8 * 128)
    for (int i = 0; i < 4 * strip_rows; ++i) {  // unit i % 4 of row i / 4
      const unsigned pattern = codes[i / 64 * 128 + i % 64], side = codes[i / 64 * 128 + 64 + i % 64];
      const unsigned signs = all_signs(pattern, side);
      for (int d = 0; d < 8; ++d)
        out[d * 128 + i] = tables.values[(unsigned{tables.bytes[d / 2][pattern]} >> d % 2 * 4 & 15u) |
                                         (signs >> d & 1u) << 4 | side >> 7 << 5];
    }
}

/// Decodes steps into `out`, unless the codes are bytes already; returns where the bytes are.
inline const std::uint8_t* decode_chunk(const StripProduct& p, const std::uint8_t* codes, std::int64_t steps,
                                        std::uint8_t* out) noexcept {
  const UnitTables& tables = *p.tables;
  if (tables.kind == UnitKind::Byte1) return codes;
  if (tables.kind == UnitKind::Signed8) {
    decode_signed(tables, codes, steps, out);
    return out;
  }
  const int bits = tables.unit_bits, quads = p.layout->units_per_step() / 4;
  const std::int64_t half_bytes = p.layout->step_bytes() / 2;
  std::uint8_t* to = out;
  for (; steps > 0; --steps, codes += 2 * half_bytes, to += quads * tables.dim * 128)
    for (int row = 0; row < strip_rows; ++row) {
      const std::uint8_t* lane = codes + row / 16 * half_bytes + row % 16 * 4;
      for (int quad = 0; quad < quads; ++quad)
        for (int j = 0; j < 4; ++j) {
          unsigned unit = 0;
          if (bits == 8) {
            unit = lane[j];
          } else if (bits == 4) {
            unit = lane[j] >> 4 * quad & 15u;
          } else if (quad < 3) {
            unit = lane[64 * quad + j] & 63u;
          } else {
            unit =
                unsigned{lane[j]} >> 6 | unsigned{lane[64 + j]} >> 6 << 2 | unsigned{lane[128 + j]} >> 6 << 4;
          }
          for (int d = 0; d < tables.dim; ++d)
            for (int plane = 0; plane < tables.planes; ++plane)
              to[plane * chunk_bytes + (quad * tables.dim + d) * 128 + row * 4 + j] =
                  tables.bytes[plane + d][unit];
        }
    }
  return out;
}

/// A chunk times a panel in QuadOrder::Words.
inline void dot_chunk(const Chunk& chunk, const Panel& panel, float* sums) noexcept {
  for (int m = 0; m < panel.rows; ++m, sums += strip_rows) {
    float parts[strip_rows] = {};
    std::int64_t run = chunk.first_run * panel.rows + m;
    for (std::int64_t first = 0; first < chunk.quads; first += chunk.run_quads, run += panel.rows) {
      const std::int64_t end = std::min(first + chunk.run_quads, chunk.quads);
      float step = panel.steps[run];
      for (int plane = 0; plane < chunk.planes; ++plane, step *= 256.0f) {
        std::uint32_t totals[strip_rows];
        std::fill(totals, totals + strip_rows, static_cast<std::uint32_t>(panel.corrections[run]));
        for (std::int64_t quad = first; quad < end; ++quad) {
          std::int16_t q[4];
          std::memcpy(q, panel.quads + ((chunk.first_quad + quad) * panel.rows + m) * 8, 8);
          const std::uint8_t* w = chunk.weights + plane * chunk_bytes + quad * 128;
          for (int n = 0; n < strip_rows; ++n)
            totals[n] += static_cast<std::uint32_t>(q[0] * w[4 * n] + q[1] * w[4 * n + 2] +
                                                    q[2] * w[4 * n + 1] + q[3] * w[4 * n + 3]);
        }
        for (int n = 0; n < strip_rows; ++n)
          parts[n] = std::fma(static_cast<float>(static_cast<std::int32_t>(totals[n])), step, parts[n]);
      }
    }
    for (int n = 0; n < strip_rows; ++n) sums[n] = std::fma(parts[n], chunk.scales[n], sums[n]);
  }
}

inline void strip_product(const StripProduct& p, const Panel* panels, std::int64_t panel_count,
                          float* sums) noexcept {
  const auto decode = [&p](auto... arguments) { return decode_chunk(p, arguments...); };
  for_each_chunk(p, panels, panel_count, sums, Isa::Portable, decode, dot_chunk);
}

}  // namespace portable

}  // namespace detail
}  // namespace v0
}  // namespace higgs
