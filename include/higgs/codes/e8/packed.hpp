// SPDX-License-Identifier: Apache-2.0
// E8Codebook in packed order, and its decoders for CPUs.
//
// A step has two vectors and holds 4 codes of each row: byte j of a lane of the first vector is the pattern of code
// 4s + j, its bits 7 to 14; byte j of the second vector is its signs and side, the bits 0 to 6 and 15.
#pragma once

#include <higgs/codes/e8/e8.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/cpu/portable/lut.hpp>
#include <higgs/pack/bits.hpp>
#include <higgs/pack/packed_layout.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#if HIGGS_DEFINITIONS
#  include <higgs/cpu/intrinsics.hpp>
#endif

namespace higgs {
inline namespace v0 {
namespace cpu {

/// Lookup tables of the decoders.
struct E8Tables {
  // Two levels of 4 bits: bytes[i][pattern] has the magnitudes 2i and 2i + 1.
  alignas(64) std::uint8_t bytes[4][256] = {};
  // bytes[0 ... 3][pattern] as one word.
  alignas(64) std::uint32_t words[256] = {};
  // The coordinate values[level | sign << 4 | side << 5], 128 added.
  alignas(64) std::uint8_t values[64] = {};
};

/// The packed format of E8Codebook, see cpu/portable/lut.hpp.
struct E8Format {
  static constexpr int index_bits = 16, dim = 8, planes = 1;
  static constexpr std::int64_t step_bytes = 256, step_inputs = 32;
  using Tables = E8Tables;

  static Tables make_tables(const E8Codebook&) noexcept {
    using namespace higgs::detail;
    Tables out;
    for (std::size_t pattern = 0; pattern < 256; ++pattern)
      for (int i = 0; i < 4; ++i) {
        out.bytes[i][pattern] = static_cast<std::uint8_t>(e8_patterns[pattern] >> 8 * i);
        out.words[pattern] |= std::uint32_t{out.bytes[i][pattern]} << 8 * i;
      }
    for (std::size_t i = 0; i < 64; ++i) {
      const int level = e8_levels[i & 15u], shift = (i & 32u) != 0 ? -e8_shift : e8_shift;
      out.values[i] = static_cast<std::uint8_t>(128 + shift + ((i & 16u) != 0 ? -level : level));
    }
    return out;
  }

  static void pack_group(const CodedGroup& group, int /*per_index*/, std::int64_t steps, std::int64_t bytes,
                         std::uint8_t* lane) {
    const std::uint8_t* code = group.row.data() + 2 * group.first;
    for (std::int64_t s = 0; s < steps; ++s, lane += bytes, code += 8) {
      std::uint64_t codes = 0;
      if (4 * s + 4 <= group.count)
        std::memcpy(&codes, code, 8);
      else
        std::memcpy(&codes, code, static_cast<std::size_t>(2 * (group.count - 4 * s)));
      const std::uint32_t patterns = narrow(codes >> 7 & 0x00ff00ff00ff00ffu),
                          signs = narrow((codes & 0x007f007f007f007fu) | (codes >> 8 & 0x0080008000800080u));
      std::memcpy(lane, &patterns, 4);
      std::memcpy(lane + 64, &signs, 4);
    }
  }

  /// The eight signs of a code; the last one has no bit.
  static constexpr unsigned all_signs(unsigned pattern, unsigned signs) noexcept {
    const unsigned last = static_cast<unsigned>(std::popcount(signs & 127u)) + (pattern >> 7);
    return (signs & 127u) | (last & 1u) << 7;
  }

 private:
  /// The low bytes of four 16-bit words side by side.
  static constexpr std::uint32_t narrow(std::uint64_t x) noexcept {
    x = (x | x >> 8) & 0x0000ffff0000ffffu;
    return static_cast<std::uint32_t>(x | x >> 16);
  }
};

inline auto chunk_decoder(Portable, E8Format, const E8Tables& tables) noexcept {
  return [&tables](const std::uint8_t* codes, std::int64_t steps, std::int64_t /*first*/,
                   std::uint8_t* out) -> const std::uint8_t* {
    std::uint8_t* to = out;
    for (; steps > 0; --steps, codes += 256, to += 8 * 128)
      for (int i = 0; i < 4 * panel_rows; ++i) {  // code i % 4 of row i / 4
        const unsigned pattern = codes[i / 64 * 128 + i % 64], side = codes[i / 64 * 128 + 64 + i % 64];
        const unsigned signs = E8Format::all_signs(pattern, side);
        for (int d = 0; d < 8; ++d)
          to[d * 128 + i] = tables.values[(unsigned{tables.bytes[d / 2][pattern]} >> d % 2 * 4 & 15u) |
                                          (signs >> d & 1u) << 4 | side >> 7 << 5];
      }
    return out;
  };
}

#if !HIGGS_DEFINITIONS
#elif defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)
namespace avx2 {

inline void decode_e8(const E8Tables& tables, const std::uint8_t* codes, std::int64_t steps,
                      std::uint8_t* out) noexcept {
  const __m256i low4 = _mm256_set1_epi8(15), one = _mm256_set1_epi8(1);
  const __m256i middle =
                    _mm256_set1_epi8(static_cast<char>(tables.values[0])),  // level 0 is 0, of either side
      other = _mm256_set1_epi8(static_cast<char>(tables.values[32] - tables.values[0]));
  const __m128i shifted = _mm_load_si128(reinterpret_cast<const __m128i*>(tables.values));
  const __m256i levels = _mm256_broadcastsi128_si256(_mm_sub_epi8(shifted, _mm256_castsi256_si128(middle)));
  const char n = -128;  // parity of 4 bits, in the sign
  const __m256i parities =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, n, n, 0, n, 0, 0, n, n, 0, 0, n, 0, n, n, 0));
  for (; steps > 0; --steps, codes += 256, out += 8 * 128)
    for (int r = 0; r < 4; ++r) {  // rows 8 r ... 8 r + 7
      const std::uint8_t* from = codes + r / 2 * 128 + r % 2 * 32;
      __m256i pairs[4];
      look_up_words(tables.words, from, pairs);
      const __m256i signs = load(from + 64), side = _mm256_cmpgt_epi8(_mm256_setzero_si256(), signs);
      const __m256i center = _mm256_add_epi8(middle, _mm256_and_si256(side, other));
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(signs, 4), _mm256_set1_epi8(7));
      const __m256i last = _mm256_xor_si256(
          load(from), _mm256_xor_si256(_mm256_shuffle_epi8(parities, _mm256_and_si256(signs, low4)),
                                       _mm256_shuffle_epi8(parities, high)));
      HIGGS_UNROLL for (int d = 0; d < 8; ++d) {
        const __m256i pair = pairs[d / 2],
                      level = _mm256_and_si256(d % 2 == 0 ? pair : _mm256_srli_epi16(pair, 4), low4);
        const __m256i sign = _mm256_or_si256(d == 7 ? last : _mm256_slli_epi16(signs, 7 - d), one);
        const __m256i magnitude = _mm256_shuffle_epi8(levels, level);
        store(out + d * 128 + r * 32, _mm256_add_epi8(center, _mm256_sign_epi8(magnitude, sign)));
      }
    }
}

struct E8Decoder {
  const E8Tables& tables;
  const std::uint8_t* operator()(const std::uint8_t* codes, std::int64_t steps, std::int64_t /*first*/,
                                 std::uint8_t* out) const noexcept {
    decode_e8(tables, codes, steps, out);
    return out;
  }
};

}  // namespace avx2

inline auto chunk_decoder(Avx2, E8Format, const E8Tables& tables) noexcept { return avx2::E8Decoder{tables}; }
HIGGS_TARGET_END

HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace avx512 {

/// Byte permutes give two levels at once, and a permute of 64 values makes one of them a coordinate. Its index is a
/// level, a sign, and the side in bit 5. The sign is in bit 4, 0, 3 or 1 of coordinates d % 4, so that one affine
/// instruction places the signs of four coordinates.
template <>
struct Decoder<E8Format> {
  static constexpr int vectors = 1, quads = 8;
  static constexpr unsigned sign_bits[4] = {4, 0, 3, 1};

  /// The matrix of vgf2p8affineqb that makes bit i of a byte the parity of its bits `sources[i]`.
  static constexpr long long bit_matrix(std::array<unsigned, 8> sources) noexcept {
    std::uint64_t out = 0;
    for (std::size_t i = 0; i < 8; ++i) out |= std::uint64_t{sources[i]} << 8 * (7 - i);
    return static_cast<long long>(out);
  }
  /// The matrix that moves the sign of an index for coordinate d to the bit that E8Tables::values expects.
  static constexpr long long index_matrix(int d) noexcept {
    std::array<unsigned, 8> sources{};
    for (unsigned i = 0, level = 0; i < 5; ++i) sources[i == sign_bits[d] ? 4 : level++] = 1u << i;
    sources[5] = 1u << 5;
    return bit_matrix(sources);
  }

  struct Tables {
    __m512i table[4][4], values[4];
  };
  [[gnu::always_inline]] static inline Tables load_tables(const E8Tables& from) noexcept {
    Tables out;
    // Levels of coordinates 2 and 3: bits 0, 1, 2, 4 and, shifted right by 3, bits 0, 2, 3, 4.
    const __m512i scatter = _mm512_set1_epi64(bit_matrix({1, 2, 4, 16, 8, 32, 64, 128}));
    alignas(64) std::uint8_t all[64];
    for (std::uint8_t i = 0; i < 64; ++i) all[i] = i;
    for (int i = 0; i < 4; ++i) {
      const __m512i matrix = _mm512_set1_epi64(index_matrix(i));
      out.values[i] = _mm512_permutexvar_epi8(
          _mm512_gf2p8affine_epi64_epi8(_mm512_load_si512(all), matrix, 0), _mm512_load_si512(from.values));
      for (int r = 0; r < 4; ++r) {
        out.table[i][r] = _mm512_load_si512(from.bytes[i] + 64 * r);
        if (i % 2 != 0) out.table[i][r] = _mm512_gf2p8affine_epi64_epi8(out.table[i][r], scatter, 0);
      }
    }
    return out;
  }

  /// Patterns, then signs and side as the indices of coordinates 0 to 3 and 4 to 7 have them.
  [[gnu::always_inline]] static inline void load_indices(const std::uint8_t* codes, __m512i* index) noexcept {
    constexpr long long first = bit_matrix({1u << 1, 1u << 3, 0, 1u << 2, 1u << 0, 1u << 7}),
                        second = bit_matrix({1u << 5, 0x7f, 0, 1u << 6, 1u << 4, 1u << 7});
    index[0] = _mm512_loadu_si512(codes);
    const __m512i signs = _mm512_loadu_si512(codes + 64);
    index[1] = _mm512_gf2p8affine_epi64_epi8(signs, _mm512_set1_epi64(first), 0);
    index[2] = _mm512_gf2p8affine_epi64_epi8(signs, _mm512_set1_epi64(second), 0);
    // Patterns from 128 on have an odd number of signs.
    const __m512i flipped = _mm512_xor_si512(index[2], _mm512_set1_epi8(2));
    index[2] = _mm512_mask_mov_epi8(index[2], _mm512_movepi8_mask(index[0]), flipped);
  }

  [[gnu::always_inline]] static inline __m512i decode(const Tables& tables, int c, const __m512i* index,
                                                      int /*v*/) noexcept {
    __m512i levels = look_up(tables.table[c / 2], index[0]);
    if (c % 2 != 0) levels = _mm512_srli_epi16(levels, 3);
    // Bitwise select, 0xca: where the mask is set the second operand, else the third.
    const __m512i level_bits = _mm512_set1_epi8(static_cast<char>(31 & ~(1 << sign_bits[c % 4])));
    const __m512i value = _mm512_ternarylogic_epi32(level_bits, levels, index[1 + c / 4], 0xca);
    return _mm512_permutexvar_epi8(value, tables.values[c % 4]);
  }
};

}  // namespace avx512

inline auto chunk_decoder(Avx512, E8Format, const E8Tables& tables) noexcept {
  return avx512::ChunkDecoder<E8Format>{tables};
}
HIGGS_TARGET_END

#elif defined(HIGGS_NEON)
namespace neon {

/// Decodes coordinates 2i and 2i + 1, with the table of their levels in registers.
inline void decode_e8(const E8Tables& tables, int i, const std::uint8_t* codes, std::int64_t steps,
                      std::uint8_t* out) noexcept {
  const std::uint8_t* bytes = tables.bytes[i];
  const uint8x16x4_t table0 = vld1q_u8_x4(bytes), table1 = vld1q_u8_x4(bytes + 64),
                     table2 = vld1q_u8_x4(bytes + 128), table3 = vld1q_u8_x4(bytes + 192),
                     values = vld1q_u8_x4(tables.values);
  const uint8x16_t low4 = vdupq_n_u8(15), bit4 = vdupq_n_u8(16), bit5 = vdupq_n_u8(32);
  const uint8x16_t first = vdupq_n_u8(static_cast<std::uint8_t>(1 << 2 * i)),
                   second = vdupq_n_u8(static_cast<std::uint8_t>(2 << 2 * i));
  for (; steps > 0; --steps, codes += 256, out += 8 * 128)
    for (int r = 0; r < 8; ++r) {
      const std::uint8_t* from = codes + r / 4 * 128 + r % 4 * 16;
      const uint8x16_t pattern = vld1q_u8(from), coded = vld1q_u8(from + 64);
      const uint8x16_t odd = vaddq_u8(vcntq_u8(vandq_u8(coded, vdupq_n_u8(127))), vshrq_n_u8(pattern, 7));
      const uint8x16_t signs = vsliq_n_u8(coded, odd, 7), side = vandq_u8(vshrq_n_u8(coded, 2), bit5);
      const uint8x16_t levels = look_up<8>(table0, table1, table2, table3, pattern);
      const uint8x16_t index0 = vorrq_u8(vandq_u8(levels, low4), vandq_u8(vtstq_u8(signs, first), bit4)),
                       index1 = vorrq_u8(vshrq_n_u8(levels, 4), vandq_u8(vtstq_u8(signs, second), bit4));
      vst1q_u8(out + 2 * i * 128 + r * 16, vqtbl4q_u8(values, vorrq_u8(index0, side)));
      vst1q_u8(out + (2 * i + 1) * 128 + r * 16, vqtbl4q_u8(values, vorrq_u8(index1, side)));
    }
}

struct E8Decoder {
  const E8Tables& tables;
  const std::uint8_t* operator()(const std::uint8_t* codes, std::int64_t steps, std::int64_t /*first*/,
                                 std::uint8_t* out) const noexcept {
    for (int i = 0; i < 4; ++i) decode_e8(tables, i, codes, steps, out);
    return out;
  }
};

}  // namespace neon

inline auto chunk_decoder(Neon, E8Format, const E8Tables& tables) noexcept { return neon::E8Decoder{tables}; }
#endif

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
