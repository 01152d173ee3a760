// SPDX-License-Identifier: Apache-2.0
// Packed formats of lookup tables: the lanes of a step hold packed indices, a table holds the coordinates of each.
//
// A packed index is one symbol, or two neighbouring 1-dimensional symbols of 2 or 3 bits (the first in the low bits).
// Step s of a group holds these indices of each row (j = 0 ... 3: the bytes of a lane):
//
//     8 bits   1 vector    byte j = index 4s + j
//     4 bits   1 vector    byte j = index 8s + j | index (8s + 4 + j) << 4
//     6 bits   3 vectors   byte j of vector v = index 16s + 4v + j | bits 2v, 2v + 1 of index (16s + 12 + j) << 6
//
// Decoding needs shifts by constants at most, and a lane accumulates one row's dot product.
//
// A packed format is a type with the facts below, a type Tables, a function pack_group (see pack_panels()) and an
// overload of chunk_decoder() for Portable. Overloads for further instruction sets make it faster. The object that
// chunk_decoder(set, format, tables) returns decodes a chunk of a panel:
//     decoder(codes, steps, first, out) writes the coordinates of `steps` steps, 128 added, as (quads, 32 rows, 4)
//     bytes, the low plane; the high plane follows chunk_bytes later. `codes` is the step `first` of its group; earlier
//     steps of the group precede it in memory. It returns `out`, or the address of the bytes where they need no
//     decoding.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/cpu/portable/activations.hpp>
#include <higgs/cpu/portable/isa.hpp>
#include <higgs/pack/bits.hpp>
#include <higgs/pack/packed_layout.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <span>

namespace higgs {
inline namespace v0 {
namespace cpu {

/// Bytes of one plane of a decoded chunk.
inline constexpr std::int64_t chunk_bytes = chunk_inputs * panel_rows;

/// Facts that follow from the bits of a packed index.
template <int Bits>
struct IndexFacts {
  static_assert(Bits == 4 || Bits == 6 || Bits == 8, "a packed index has 4, 6 or 8 bits");
  static constexpr int index_bits = Bits;
  static constexpr int vectors = Bits == 6 ? 3 : 1;                   // vectors of half a step
  static constexpr int indices = Bits == 8 ? 4 : Bits == 4 ? 8 : 16;  // indices of one row in a step
};

/// Coordinates of every packed index.
struct LutTables {
  // 128 added, (planes * dim, 256) bytes; tables of 4 and 6 bits repeat up to 64 entries.
  alignas(64) std::uint8_t bytes[4][256] = {};
  // bytes[0 ... 3][index] as one word, for formats of four dimensions.
  alignas(64) std::uint32_t words[256] = {};
};

namespace detail {

inline std::uint32_t load_quad(const std::uint8_t* indices) noexcept {
  std::uint32_t quad;
  std::memcpy(&quad, indices, 4);
  return quad;
}

/// Four indices of 4 or 6 bits side by side, a byte each.
constexpr std::uint32_t spread4(std::uint32_t x) noexcept {
  x = (x | x << 8) & 0x00ff00ffu;
  return (x | x << 4) & 0x0f0f0f0fu;
}
constexpr std::uint32_t spread6(std::uint32_t x) noexcept {
  x = (x & 0xfffu) | (x & 0xfff000u) << 4;
  return (x & 0x003f003fu) | (x & 0x0fc00fc0u) << 2;
}

/// Writes one lane of a step from the indices of one row, a byte each.
template <int Bits>
inline void write_lane(const std::uint8_t* indices, std::uint8_t* lane) noexcept {
  const auto store = [&](int vector, std::uint32_t quad) { std::memcpy(lane + 64 * vector, &quad, 4); };
  if constexpr (Bits == 8) return store(0, load_quad(indices));
  if constexpr (Bits == 4) return store(0, load_quad(indices) | load_quad(indices + 4) << 4);
  const std::uint32_t last = load_quad(indices + 12);
  for (int v = 0; v < 3; ++v) store(v, load_quad(indices + 4 * v) | (last >> 2 * v & 0x03030303u) << 6);
}

/// Writes one row's lanes of whole steps from indices that are packed without gaps.
template <int Bits>
inline void write_lanes(const std::uint8_t* packed, std::int64_t steps, std::int64_t step_bytes,
                        std::uint8_t* lane) noexcept {
  for (; steps > 0; --steps, packed += Bits == 6 ? 12 : 4, lane += step_bytes) {
    std::uint32_t quad = load_quad(packed);
    if constexpr (Bits == 4) quad = spread4(quad & 0xffffu) | spread4(quad >> 16) << 4;
    if constexpr (Bits == 6) {
      const std::uint32_t second = load_quad(packed + 4), third = load_quad(packed + 8);
      const std::uint32_t quads[3] = {quad & 0xffffffu, quad >> 24 | (second & 0xffffu) << 8,
                                      second >> 16 | (third & 0xffu) << 16};
      const std::uint32_t last = spread6(third >> 8);
      for (int v = 0; v < 3; ++v) {
        quad = spread6(quads[v]) | (last >> 2 * v & 0x03030303u) << 6;
        std::memcpy(lane + 64 * v, &quad, 4);
      }
    } else {
      std::memcpy(lane, &quad, 4);
    }
  }
}

/// Writes one row's lanes of a group, `per_index` symbols to an index. Where the group begins on a byte and symbols
/// fill whole indices, steps are copied as words; the rest goes symbol by symbol.
template <int Bits>
void pack_indices(const CodedGroup& group, int per_index, std::int64_t steps, std::int64_t step_bytes,
                  std::uint8_t* lane) {
  constexpr int indices = IndexFacts<Bits>::indices;
  const std::int64_t group_bits = group.count * group.symbol_bits;
  const bool aligned = group_bits % 8 == 0 && group.symbol_bits * per_index == Bits;
  const std::int64_t whole = aligned ? group_bits / (Bits * indices) : 0;
  if (whole > 0)
    write_lanes<Bits>(group.row.data() + group.first * group.symbol_bits / 8, whole, step_bytes, lane);
  const std::int64_t done = whole * indices * per_index;
  lane += whole * step_bytes;
  std::uint8_t step[higgs::detail::extent<indices * 2>];
  for (std::int64_t s = whole, next = done; s < steps; ++s, next += indices * per_index, lane += step_bytes) {
    std::fill(std::begin(step), std::end(step), std::uint8_t{0});
    const std::int64_t count = std::min<std::int64_t>(indices * per_index, group.count - next);
    if (count > 0)
      unpack_bits(group.row, group.symbol_bits, static_cast<std::size_t>(group.first + next),
                  std::span(step).first(static_cast<std::size_t>(count)));
    if (per_index == 2)
      for (int i = 0; i < indices; ++i)
        step[i] = static_cast<std::uint8_t>(step[2 * i] | step[2 * i + 1] << group.symbol_bits);
    write_lane<Bits>(step, lane);
  }
}

/// Index `i` of a step in one row's lane.
template <int Bits>
unsigned index_of_lane(const std::uint8_t* lane, int i) noexcept {
  const int quad = i / 4, j = i % 4;
  if constexpr (Bits == 8) return lane[j];
  if constexpr (Bits == 4) return lane[j] >> 4 * quad & 15u;
  if (quad < 3) return lane[64 * quad + j] & 63u;
  return unsigned{lane[j]} >> 6 | unsigned{lane[64 + j]} >> 6 << 2 | unsigned{lane[128 + j]} >> 6 << 4;
}

}  // namespace detail

/// Indices of `Bits` bits (4, 6 or 8) into a table of `Dim` coordinates of `Planes` bytes.
template <int Bits, int Dim, int Planes = 1>
struct Lut : IndexFacts<Bits> {
  static constexpr int dim = Dim, planes = Planes;
  static constexpr std::int64_t step_bytes = 128 * Lut::vectors, step_inputs = Lut::indices * Dim;
  static constexpr bool looks_up_256 = Bits == 8 && Dim == 2;
  using Tables = LutTables;

  /// Symbols of `symbol_bits` bits, `per_index` to an index.
  static void pack_group(const CodedGroup& group, int per_index, std::int64_t steps, std::int64_t bytes,
                         std::uint8_t* lane) {
    detail::pack_indices<Bits>(group, per_index, steps, bytes, lane);
  }

  /// The tables of points(index) -> Dim coordinates. Throws InvalidArgument for coordinates beyond the planes.
  template <class Points>
    requires std::invocable<const Points&, int>
  static Tables make_tables(const Points& points) {
    Tables out;
    for (int index = 0; index < 1 << Bits; ++index) {
      const auto point = points(index);
      for (int c = 0; c < Dim; ++c) {
        const int value = point[static_cast<std::size_t>(c)];
        expects(Planes == 1 || value <= 127 * 256 + 127,
                "higgs::PackedMatrix: coordinates must not exceed 32639");
        const int high = Planes == 2 ? (value + 128) >> 8 : 0, low = value - 256 * high;
        const int parts[2] = {low, high};
        for (int plane = 0; plane < Planes; ++plane)
          for (int copy = index; copy < (Bits == 8 ? 256 : 64); copy += 1 << Bits)
            out.bytes[plane + c][copy] = static_cast<std::uint8_t>(parts[plane] + 128);
      }
    }
    if constexpr (Dim == 4)
      for (int c = 0; c < 4; ++c)
        for (int index = 0; index < 256; ++index)
          out.words[index] |= std::uint32_t{out.bytes[c][index]} << 8 * c;
    return out;
  }
};

/// Coordinates as bytes, 128 added, for codes without a format of their own: 8 bits a weight.
struct CoordinateBytes : IndexFacts<8> {
  static constexpr int dim = 1, planes = 1;
  static constexpr std::int64_t step_bytes = 128, step_inputs = 4;
  struct Tables {};
  static void pack_group(const CodedGroup& group, int per_index, std::int64_t steps, std::int64_t bytes,
                         std::uint8_t* lane) {
    detail::pack_indices<8>(group, per_index, steps, bytes, lane);
  }
};

template <int Bits, int Dim, int Planes>
auto chunk_decoder(Portable, Lut<Bits, Dim, Planes>, const LutTables& tables) noexcept {
  return [&tables](const std::uint8_t* codes, std::int64_t steps, std::int64_t /*first*/,
                   std::uint8_t* out) -> const std::uint8_t* {
    using Format = Lut<Bits, Dim, Planes>;
    std::uint8_t* to = out;
    for (; steps > 0; --steps, codes += Format::step_bytes, to += Format::indices * Dim * 32)
      for (int row = 0; row < panel_rows; ++row) {
        const std::uint8_t* lane = codes + row / 16 * (Format::step_bytes / 2) + row % 16 * 4;
        for (int i = 0; i < Format::indices; ++i) {
          const unsigned index = detail::index_of_lane<Bits>(lane, i);
          for (int d = 0; d < Dim; ++d)
            for (int plane = 0; plane < Planes; ++plane)
              to[plane * chunk_bytes + (i / 4 * Dim + d) * 128 + row * 4 + i % 4] =
                  tables.bytes[plane + d][index];
        }
      }
    return out;
  };
}

inline auto chunk_decoder(Portable, CoordinateBytes, const CoordinateBytes::Tables&) noexcept {
  return [](const std::uint8_t* codes, std::int64_t, std::int64_t, std::uint8_t*) { return codes; };
}

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
