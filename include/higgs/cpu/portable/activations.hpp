// SPDX-License-Identifier: Apache-2.0
// Rows of x as the integer kernels read them: rotated, rounded to 16 or 8 bits, in the order of packed weights.
//
// A weight group is cut into activation groups; the last one of a group may be shorter. For the rotated inputs r of an
// activation group:
//     peak = max |r|,  scale = peak / limit,  q = round to nearest even (r * (limit / peak)),
// limit = 32639 or 127. A group with NaN or infinity has scale NaN; a group below 2^-100 counts as zero. matmul()
// scales rows of huge numbers down before this step. An activation group has at most 512 inputs, so a dot product of q
// and int8 coordinates fits in 32 bits: 128 * 32639 * 512 < 2^31.
#pragma once

#include <higgs/cpu/isa.hpp>
#include <higgs/cpu/portable/isa.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

namespace higgs {
inline namespace v0 {

/// How finely activations are rounded. A product's relative RMS error is about 3e-5 for Int16 and 5e-3 for Int8; the
/// weights are exact.
enum class Activations {
  Int16,  ///< a scale for at most 512 inputs; costs nothing where memory is the limit
  Int8,   ///< a scale for at most 64 inputs; up to twice as fast where arithmetic is the limit
};

namespace cpu {

/// Inputs of a chunk: their products are added before a weight scale multiplies the sum.
inline constexpr std::int64_t chunk_inputs = 512;

/// Inputs of an activation group, at most.
constexpr std::int64_t activation_group(Activations kind) noexcept {
  return kind == Activations::Int16 ? chunk_inputs : 64;
}
/// The largest magnitude of an integer activation.
constexpr float activation_limit(Activations kind) noexcept {
  return kind == Activations::Int16 ? 32639.0f : 127.0f;  // 32639 = 127 * 256 + 127: both bytes stay in int8
}

/// The shape of one row of activations, padded to whole steps of the packed weights.
struct ActivationShape {
  std::int64_t groups = 0;        // weight groups
  std::int64_t group = 0;         // inputs of a weight group
  std::int64_t padded_group = 0;  // inputs of the steps of a weight group
  std::int64_t x_group = 0;       // inputs of an activation group, at most
  int dim = 1;                    // coordinates of a packed index
  int planes = 2;                 // bytes of an integer

  friend bool operator==(const ActivationShape&, const ActivationShape&) = default;
  std::int64_t x_groups_per_group() const noexcept { return (padded_group + x_group - 1) / x_group; }
  std::int64_t x_groups() const noexcept { return groups * x_groups_per_group(); }
  /// Bytes of the integers of one row.
  std::int64_t row_bytes(ActivationOrder order) const noexcept {
    return groups * padded_group * (order == ActivationOrder::Words ? 2 : planes);
  }
};

/// Rows of an activation panel in ActivationOrder::AmxTiles; missing rows are zero.
inline constexpr int amx_tile_rows = 16;

/// Some rows of x as integers. The integers of one input are neighbours for all rows.
struct ActivationPanel {
  int rows = 0;
  std::uint8_t* quads = nullptr;  // integers, see ActivationOrder
  float* scales = nullptr;        // (x_groups, rows)
  std::int32_t* compensation =
      nullptr;  // (x_groups, rows): -128 * sum of q, as packed coordinates have 128 added

  /// Bytes of a panel of `rows` rows, a multiple of 64.
  static std::size_t bytes(const ActivationShape& shape, ActivationOrder order, int rows) noexcept {
    const std::int64_t all = quad_bytes(shape, order, rows) + 8 * rows * shape.x_groups();
    return static_cast<std::size_t>((all + 63) / 64 * 64);
  }
  ActivationPanel(const ActivationShape& shape, ActivationOrder order, int row_count,
                  std::uint8_t* memory) noexcept
      : rows(row_count),
        quads(memory),
        scales(reinterpret_cast<float*>(memory + quad_bytes(shape, order, row_count))),
        compensation(reinterpret_cast<std::int32_t*>(scales + row_count * shape.x_groups())) {
    if (order == ActivationOrder::AmxTiles && row_count < amx_tile_rows)
      std::memset(memory, 0, static_cast<std::size_t>(quad_bytes(shape, order, row_count)));
  }

  /// The first plane of quad `number` of row `row`.
  std::uint8_t* quad(const ActivationShape& shape, ActivationOrder order, std::int64_t number,
                     int row) const noexcept {
    if (order == ActivationOrder::AmxTiles)
      return quads + ((number / 16 * shape.planes * amx_tile_rows + row) * 16 + number % 16) * 4;
    return quads + (number * rows + row) * 4 * (order == ActivationOrder::Words ? 2 : shape.planes);
  }
  /// Bytes from a quad's first plane to its second.
  static std::int64_t plane_stride(ActivationOrder order) noexcept {
    return order == ActivationOrder::AmxTiles ? amx_tile_rows * 64 : 4;
  }

 private:
  static std::int64_t quad_bytes(const ActivationShape& shape, ActivationOrder order, int rows) noexcept {
    return (order == ActivationOrder::AmxTiles ? amx_tile_rows : rows) * shape.row_bytes(order);
  }
};

/// The scale of an activation group and the factor from inputs to integers, from the bits of the largest magnitude.
struct ActivationScale {
  float scale, inverse;
  ActivationScale(std::uint32_t peak_bits, float limit) noexcept {
    const float peak = std::bit_cast<float>(peak_bits);
    const bool finite = peak_bits < 0x7f800000u, zero = finite && peak < 0x1p-100f;
    scale = finite ? (zero ? 0.0f : peak / limit) : std::numeric_limits<float>::quiet_NaN();
    inverse = finite && !zero ? limit / peak : 0.0f;
  }
};

/// The position of input i of a group in the order of decoded weights: packed indices in fours, coordinate by
/// coordinate.
constexpr std::int64_t quad_position(std::int64_t i, int dim) noexcept {
  const std::int64_t index = i / dim, coordinate = i % dim;
  return (index / 4 * dim + coordinate) * 4 + index % 4;
}

/// Rounds a rotated row (groups * group inputs) into row `at` of a panel.
inline void quantize_row(Portable, const float* row, const ActivationShape& shape, Activations kind,
                         ActivationOrder order, const ActivationPanel& panel, int at) noexcept {
  std::int64_t x_group = at;  // index into scales and compensation
  for (std::int64_t g = 0; g < shape.groups; ++g) {
    for (std::int64_t first = 0; first < shape.padded_group; first += shape.x_group, x_group += panel.rows) {
      const float* x = row + g * shape.group + first;
      const std::int64_t padded = std::min(shape.x_group, shape.padded_group - first);
      const std::int64_t count = std::min(padded, shape.group - first);
      std::uint32_t peak = 0;
      for (std::int64_t i = 0; i < count; ++i)
        peak = std::max(peak, std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffu);
      const ActivationScale scale(peak, activation_limit(kind));
      std::int32_t sum = 0;
      for (std::int64_t i = 0; i < padded; ++i) {
        const bool real = i < count && scale.inverse != 0.0f;
        const auto q = real ? static_cast<std::int32_t>(std::lrint(x[i] * scale.inverse)) : 0;
        sum += q;
        const std::int64_t position = g * shape.padded_group + quad_position(first + i, shape.dim),
                           byte = position % 4;
        std::uint8_t* quad = panel.quad(shape, order, position / 4, at);
        if (order == ActivationOrder::Words) {
          const auto word = static_cast<std::int16_t>(q);
          std::memcpy(quad + 2 * (byte % 2 * 2 + byte / 2), &word, 2);
        } else if (shape.planes == 2) {
          quad[byte] = static_cast<std::uint8_t>((q + 128) >> 8);
          quad[byte + ActivationPanel::plane_stride(order)] = static_cast<std::uint8_t>(q);
        } else {
          quad[byte] = static_cast<std::uint8_t>(q);
        }
      }
      panel.scales[x_group] = scale.scale;
      panel.compensation[x_group] = static_cast<std::int32_t>(static_cast<std::uint32_t>(sum) * -128u);
    }
  }
}

// For vector kernels, which round 16 inputs at a time.

/// The order within 16 inputs that quad_position() gives to them, by dim / 2. The order of 8 dimensions is the order of
/// 4 after split_indices().
alignas(16) inline constexpr std::uint8_t quad_shuffles[3][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15},
    {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15}};
constexpr const std::uint8_t* quad_shuffle(int dim) noexcept { return quad_shuffles[std::min(dim / 2, 2)]; }

/// Exchanges inputs of 8 dimensions: the first halves of four vectors, then their second halves.
inline void split_indices(float* x, std::int64_t count) noexcept {
  for (std::int64_t i = 0; i < count; i += 32) {
    float inputs[32];
    std::memcpy(inputs, x + i, sizeof inputs);
    for (int j = 0; j < 8; ++j) std::memcpy(x + i + 4 * j, inputs + 4 * (j % 4 * 2 + j / 4), 16);
  }
}

/// The order of the bytes of four quads in ActivationOrder::Words.
alignas(16) inline constexpr std::uint8_t word_shuffle[16] = {0, 2,  1, 3,  4,  6,  5,  7,
                                                              8, 10, 9, 11, 12, 14, 13, 15};

/// Whether the two planes of a quad are eight neighbouring bytes.
constexpr bool joins_planes(const ActivationShape& shape, ActivationOrder order) noexcept {
  return order == ActivationOrder::Words || (order == ActivationOrder::Bytes && shape.planes == 2);
}

/// Copies the first `count` of four quads, Size bytes each, to addresses `stride` bytes apart.
template <int Size>
inline void scatter_quads(const std::uint8_t* quads, int count, std::uint8_t* to,
                          std::int64_t stride) noexcept {
  if (count == 4 && stride == Size) {
    for (int i = 0; i < 4 * Size; i += 16)  // loads of the size of the stores: others wait
      std::memcpy(to + i, quads + i, 16);
  } else {
    for (int j = 0; j < count; ++j, to += stride) std::memcpy(to, quads + j * Size, Size);
  }
}

/// Writes the first `count` of four quads: 32 bytes with joined planes, else 16 bytes of the high plane and 16 of the
/// low one.
inline void store_quads(const std::uint8_t* quads, const ActivationShape& shape, ActivationOrder order,
                        const ActivationPanel& panel, std::int64_t number, int row, int count) noexcept {
  std::uint8_t* to = panel.quad(shape, order, number, row);
  if (joins_planes(shape, order)) return scatter_quads<8>(quads, count, to, 8 * panel.rows);
  const std::int64_t stride = order == ActivationOrder::AmxTiles ? 4 : 4 * panel.rows;
  if (shape.planes == 2) {
    scatter_quads<4>(quads, count, to, stride);
    to += ActivationPanel::plane_stride(order);
  }
  scatter_quads<4>(quads + 16, count, to, stride);
}

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
