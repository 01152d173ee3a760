// SPDX-License-Identifier: Apache-2.0
// The order of codes in memory that every CPU kernel reads: made once at load, never stored in files.
//
// Rows come in strips of 32. A strip is one contiguous stream, group after group along K, so that a product
// reads memory in one direction:
//
//     strip | group 0                                  | group 1 ...
//           | 32 fp16 scales | step 0 | step 1 | ...   |
//     step  | vectors of rows 0-15 | vectors of rows 16-31 |        a vector: 16 lanes of 4 bytes, one lane a row
//
// A unit is one code, or two neighbouring 1-dimensional codes of 2 or 3 bits (the first in the low bits). The
// step s of a group holds these of its units for each row (j = 0 ... 3: the bytes of a lane):
//
//     8 bits   1 vector    byte j = unit 4s + j
//     4 bits   1 vector    byte j = unit 8s + j | unit (8s + 4 + j) << 4
//     6 bits   3 vectors   byte j of vector v = unit 16s + 4v + j | bits 2v, 2v + 1 of unit (16s + 12 + j) << 6
//     16 bits  2 vectors   byte j = bits 7 to 14 of unit 4s + j, then its bits 0 to 6 and 15: the pattern
//                          and the signs of codes/e8/e8.hpp
//
// Decoding needs shifts by constants at most, and a lane accumulates one row's dot product. Missing rows and
// the end of a group's last step are code 0 with scale 0 or activation 0.
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
#include <vector>

namespace higgs {
inline namespace v0 {

/// Rows of a strip.
inline constexpr std::int64_t strip_rows = 32;

/// Sizes of the tile order of one matrix.
struct PackedLayout {
  std::int64_t rows = 0;
  std::int64_t groups = 0;  // along a row
  std::int64_t codes_per_group = 0;
  int code_bits = 8;       // in interchange order; 1 to 8, or 16
  int unit_bits = 8;       // 4, 6, 8 or 16
  int codes_per_unit = 1;  // 2: unit_bits = 2 * code_bits

  constexpr int vectors_per_step() const noexcept { return unit_bits == 6 ? 3 : unit_bits == 16 ? 2 : 1; }
  constexpr int units_per_step() const noexcept { return unit_bits >= 8 ? 4 : unit_bits == 4 ? 8 : 16; }
  constexpr std::int64_t units_per_group() const noexcept {
    return (codes_per_group + codes_per_unit - 1) / codes_per_unit;
  }
  constexpr std::int64_t steps_per_group() const noexcept {
    return (units_per_group() + units_per_step() - 1) / units_per_step();
  }
  constexpr std::int64_t step_bytes() const noexcept { return std::int64_t{2} * 64 * vectors_per_step(); }
  constexpr std::int64_t scale_bytes() const noexcept { return 2 * strip_rows; }
  constexpr std::int64_t group_bytes() const noexcept {
    return scale_bytes() + steps_per_group() * step_bytes();
  }
  constexpr std::int64_t strips() const noexcept { return (rows + strip_rows - 1) / strip_rows; }
  constexpr std::int64_t strip_bytes() const noexcept { return groups * group_bytes(); }
  constexpr std::int64_t bytes() const noexcept { return strips() * strip_bytes(); }
  friend constexpr bool operator==(const PackedLayout&, const PackedLayout&) = default;
};

namespace detail {

/// Turns the codes of a group of one row into units, padded with zeros to whole steps.
inline void codes_to_units(const PackedLayout& layout, std::span<std::uint8_t> codes) noexcept {
  if (layout.codes_per_unit == 1) return;
  for (std::size_t i = 0; i < codes.size() / 2; ++i)
    codes[i] = static_cast<std::uint8_t>(codes[2 * i] | codes[2 * i + 1] << layout.code_bits);
}

inline std::uint32_t load_quad(const std::uint8_t* units) noexcept {
  std::uint32_t quad;
  std::memcpy(&quad, units, 4);
  return quad;
}

/// Writes one lane of a step of up to 8 bits: `units` are those of one row, `lane` points at its bytes in the
/// first vector.
inline void write_lane(int unit_bits, const std::uint8_t* units, std::uint8_t* lane) noexcept {
  const auto store = [&](int vector, std::uint32_t quad) { std::memcpy(lane + 64 * vector, &quad, 4); };
  if (unit_bits == 8) return store(0, load_quad(units));
  if (unit_bits == 4) return store(0, load_quad(units) | load_quad(units + 4) << 4);
  const std::uint32_t last = load_quad(units + 12);
  for (int v = 0; v < 3; ++v) store(v, load_quad(units + 4 * v) | (last >> 2 * v & 0x03030303u) << 6);
}

/// Four units of 4 or 6 bits side by side, a byte each.
constexpr std::uint32_t spread4(std::uint32_t x) noexcept {
  x = (x | x << 8) & 0x00ff00ffu;
  return (x | x << 4) & 0x0f0f0f0fu;
}
constexpr std::uint32_t spread6(std::uint32_t x) noexcept {
  x = (x & 0xfffu) | (x & 0xfff000u) << 4;
  return (x & 0x003f003fu) | (x & 0x0fc00fc0u) << 2;
}

/// The low bytes of four 16-bit words side by side.
constexpr std::uint32_t narrow16(std::uint64_t x) noexcept {
  x = (x | x >> 8) & 0x0000ffff0000ffffu;
  return static_cast<std::uint32_t>(x | x >> 16);
}

/// Writes one row's lanes of whole steps from units that lie side by side in `packed`.
template <int UnitBits>
inline void write_lanes(const std::uint8_t* packed, std::int64_t steps, std::int64_t step_bytes,
                        std::uint8_t* lane) noexcept {
  for (; steps > 0; --steps, packed += UnitBits == 6 ? 12 : UnitBits == 16 ? 8 : 4, lane += step_bytes) {
    std::uint32_t quad = load_quad(packed);
    if constexpr (UnitBits == 16) {
      const std::uint64_t units = quad | std::uint64_t{load_quad(packed + 4)} << 32;
      const std::uint32_t patterns = narrow16(units >> 7 & 0x00ff00ff00ff00ffu),
                          signs =
                              narrow16((units & 0x007f007f007f007fu) | (units >> 8 & 0x0080008000800080u));
      std::memcpy(lane, &patterns, 4);
      std::memcpy(lane + 64, &signs, 4);
      continue;
    }
    if constexpr (UnitBits == 4) quad = spread4(quad & 0xffffu) | spread4(quad >> 16) << 4;
    if constexpr (UnitBits == 6) {
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

/// The bytes of one strip, into `out` (strip_bytes). Where groups begin on bytes and codes make up whole
/// units, steps are written as they lie in memory; what is left goes code by code.
inline void pack_strip(const PackedLayout& layout, std::int64_t strip, std::span<const std::uint8_t> codes,
                       std::int64_t row_bytes, std::span<const Half> scales, std::uint8_t* out) {
  const std::int64_t first = strip * strip_rows, count = std::min(strip_rows, layout.rows - first);
  const std::int64_t steps = layout.steps_per_group(), step_bytes = layout.step_bytes(),
                     group_bits = layout.codes_per_group * layout.code_bits;
  const auto write_steps = layout.unit_bits == 16  ? write_lanes<16>
                           : layout.unit_bits == 8 ? write_lanes<8>
                           : layout.unit_bits == 6 ? write_lanes<6>
                                                   : write_lanes<4>;
  const bool aligned = group_bits % 8 == 0 && layout.code_bits * layout.codes_per_unit == layout.unit_bits;
  const std::int64_t whole = aligned ? group_bits / (layout.unit_bits * layout.units_per_step()) : 0;
  const std::int64_t first_code = whole * layout.units_per_step() * layout.codes_per_unit,
                     rest = layout.codes_per_group - first_code;
  const auto step_units = static_cast<std::size_t>(layout.units_per_step());
  // Room for the codes left of a group and for their units, whichever are more.
  std::vector<std::uint8_t> units(static_cast<std::size_t>(steps - whole) * step_units *
                                  static_cast<std::size_t>(layout.codes_per_unit));
  if (count < strip_rows) std::memset(out, 0, static_cast<std::size_t>(layout.strip_bytes()));
  for (std::int64_t g = 0; g < layout.groups; ++g) {
    std::uint8_t* group = out + g * layout.group_bytes();
    for (std::int64_t row = 0; row < count; ++row) {
      const Half scale = scales[static_cast<std::size_t>((first + row) * layout.groups + g)];
      std::memcpy(group + 2 * row, &scale, 2);
      const auto bytes = codes.subspan(static_cast<std::size_t>((first + row) * row_bytes),
                                       static_cast<std::size_t>(row_bytes));
      std::uint8_t* lane = group + layout.scale_bytes() + row / 16 * (step_bytes / 2) + row % 16 * 4;
      const std::int64_t piece =
          g * group_bits / 8;  // of the row; the next row's is too short for hardware to foresee
#if defined(__GNUC__)
      for (std::int64_t i = piece; row + 1 < count && i < piece + group_bits / 8; i += 64)
        __builtin_prefetch(bytes.data() + row_bytes + i);
#endif
      if (whole > 0) write_steps(bytes.data() + piece, whole, step_bytes, lane);
      if (whole == steps) continue;
      lane += whole * step_bytes;
      if (layout.unit_bits == 16) {
        std::uint8_t last[8] = {};
        std::memcpy(last, bytes.data() + piece + 8 * whole, static_cast<std::size_t>(2 * rest));
        write_lanes<16>(last, 1, step_bytes, lane);
        continue;
      }
      unpack_bits(bytes, layout.code_bits, static_cast<std::size_t>(g * layout.codes_per_group + first_code),
                  std::span(units).first(static_cast<std::size_t>(rest)));
      std::fill(units.begin() + static_cast<std::ptrdiff_t>(rest), units.end(), std::uint8_t{0});
      codes_to_units(layout, units);
      for (std::int64_t s = 0; s < steps - whole; ++s, lane += step_bytes)
        write_lane(layout.unit_bits, units.data() + static_cast<std::size_t>(s) * step_units, lane);
    }
  }
}

}  // namespace detail

/// Repacks a matrix from interchange order: `codes` (rows, row_bytes) and `scales` (rows, groups) into `out`
/// (layout.bytes()). Throws InvalidArgument if sizes do not fit.
inline void pack_panels(const PackedLayout& layout, std::span<const std::uint8_t> codes, std::int64_t row_bytes,
                       std::span<const Half> scales, std::span<std::uint8_t> out,
                       Executor& executor = default_executor()) {
  const auto size = [](std::int64_t n) { return static_cast<std::size_t>(n); };
  const int used_bits = layout.code_bits * layout.codes_per_unit;
  expects(layout.rows >= 0 && layout.groups >= 0 && layout.codes_per_group > 0 && layout.code_bits >= 1 &&
              (layout.codes_per_unit == 1 || layout.codes_per_unit == 2) &&
              (((layout.unit_bits == 4 || layout.unit_bits == 6 || layout.unit_bits == 8) &&
                used_bits <= layout.unit_bits) ||
               (layout.unit_bits == 16 && layout.code_bits == 16 && layout.codes_per_unit == 1)),
          "higgs::pack_panels: the layout is impossible");
  expects(size(row_bytes) == packed_bytes(size(layout.groups * layout.codes_per_group), layout.code_bits) &&
              codes.size() == size(layout.rows * row_bytes) &&
              scales.size() == size(layout.rows * layout.groups) && out.size() == size(layout.bytes()),
          "higgs::pack_panels: codes, scales or out has the wrong size");
  parallel_for(executor, layout.strips(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t strip = begin; strip < end; ++strip)
      detail::pack_strip(layout, strip, codes, row_bytes, scales, out.data() + strip * layout.strip_bytes());
  });
}

}  // namespace v0
}  // namespace higgs
