// SPDX-License-Identifier: Apache-2.0
// Lookups by tbl.
#pragma once

#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/neon/isa.hpp>
#include <higgs/cpu/portable/lut.hpp>

#include <cstddef>
#include <cstdint>

#if defined(HIGGS_NEON)

namespace higgs {
inline namespace v0 {
namespace cpu {
using higgs::detail::extent;
namespace neon {

/// A vector of indices of Bits bits, looked up in a table of 16, 64 or 256 entries.
template <int Bits>
[[gnu::always_inline]] inline uint8x16_t look_up(uint8x16x4_t table0, uint8x16x4_t table1,
                                                 uint8x16x4_t table2, uint8x16x4_t table3,
                                                 uint8x16_t index) noexcept {
  if constexpr (Bits == 4) return vqtbl1q_u8(table0.val[0], index);
  uint8x16_t out = vqtbl4q_u8(table0, index);
  if constexpr (Bits == 8) {
    // Indices of other quarters are 64 or more here, and tbx leaves their results alone.
    const uint8x16_t quarter = vdupq_n_u8(64);
    out = vqtbx4q_u8(out, table1, index = vsubq_u8(index, quarter));
    out = vqtbx4q_u8(out, table2, index = vsubq_u8(index, quarter));
    out = vqtbx4q_u8(out, table3, vsubq_u8(index, quarter));
  }
  return out;
}

/// The indices of 4 rows in a step, from where their first byte lies: out[v] holds 4 for each row.
template <int Bits>
[[gnu::always_inline]] inline void load_indices(const std::uint8_t* lanes, uint8x16_t* out) noexcept {
  const uint8x16_t a = vld1q_u8(lanes);
  if constexpr (Bits == 8) out[0] = a;
  if constexpr (Bits == 4) {
    out[0] = vandq_u8(a, vdupq_n_u8(15));
    out[1] = vshrq_n_u8(a, 4);
  }
  if constexpr (Bits == 6) {
    const uint8x16_t b = vld1q_u8(lanes + 64), c = vld1q_u8(lanes + 128), low6 = vdupq_n_u8(63);
    out[0] = vandq_u8(a, low6);
    out[1] = vandq_u8(b, low6);
    out[2] = vandq_u8(c, low6);
    out[3] = vsliq_n_u8(vsliq_n_u8(vshrq_n_u8(a, 6), vshrq_n_u8(b, 6), 2), vshrq_n_u8(c, 6), 4);
  }
}

/// Decodes one of the `dim` coordinates of every index, with its table in registers.
template <int Bits>
inline void decode_coordinate(const std::uint8_t* bytes, const std::uint8_t* codes, std::int64_t steps,
                              int dim, std::uint8_t* out) noexcept {
  constexpr int vectors = Bits == 8 ? 1 : Bits == 4 ? 2 : 4;
  constexpr std::int64_t half = Bits == 6 ? 192 : 64;
  // No array: g++ 12 would keep it in memory. Small tables are followed by bytes that are not looked up.
  const uint8x16x4_t table0 = vld1q_u8_x4(bytes), table1 = vld1q_u8_x4(bytes + 64),
                     table2 = vld1q_u8_x4(bytes + 128), table3 = vld1q_u8_x4(bytes + 192);
  for (; steps > 0; --steps, codes += 2 * half, out += vectors * dim * 128)
    for (int r = 0; r < 8; ++r) {
      uint8x16_t index[extent<vectors>];
      load_indices<Bits>(codes + r / 4 * half + r % 4 * 16, index);
      HIGGS_UNROLL for (int v = 0; v < vectors; ++v)
        vst1q_u8(out + v * dim * 128 + r * 16, look_up<Bits>(table0, table1, table2, table3, index[v]));
    }
}

/// One coordinate at a time: a table of 256 entries fills half of the registers.
template <int Bits, int Dim, int Planes>
struct LutDecoder {
  const LutTables& tables;
  const std::uint8_t* operator()(const std::uint8_t* codes, std::int64_t steps, std::int64_t /*first*/,
                                 std::uint8_t* out) const noexcept {
    for (int c = 0; c < Dim * Planes; ++c)  // coordinates, or the planes of the only one
      decode_coordinate<Bits>(tables.bytes[c], codes, steps, Dim,
                              out + c * (Planes == 2 ? chunk_bytes : 128));
    return out;
  }
};

}  // namespace neon

template <int Bits, int Dim, int Planes>
auto chunk_decoder(Neon, Lut<Bits, Dim, Planes>, const LutTables& tables) noexcept {
  return neon::LutDecoder<Bits, Dim, Planes>{tables};
}

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
