// SPDX-License-Identifier: Apache-2.0
// How files keep weights: plain floats, and the blocks of GGUF (https://github.com/ggml-org/ggml).
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace higgs {
inline namespace v0 {

/// The inputs of a tensor seen as a matrix: its last extent.
inline std::int64_t matrix_cols(const std::vector<std::int64_t>& shape) noexcept {
  return shape.empty() ? 1 : shape.back();
}
/// The outputs of a tensor seen as a matrix: the product of all extents but the last.
HIGGS_INLINE std::int64_t matrix_rows(const std::vector<std::int64_t>& shape) noexcept;

/// Weights in blocks: a row is a whole number of them.
struct BlockFormat {
  std::string_view name;
  int block;                                                                // weights
  int bytes;                                                                // bytes of a block
  void (*decode)(const std::uint8_t* in, std::int64_t blocks, float* out);  // null: can only be copied

  constexpr std::int64_t row_bytes(std::int64_t cols) const noexcept { return cols / block * bytes; }
};

namespace detail {

// All numbers are little-endian and unaligned.
HIGGS_INLINE float load_half(const std::uint8_t* at) noexcept;
HIGGS_INLINE float load_bfloat16(const std::uint8_t* at) noexcept;
// 2^(code - 127 - Halvings): an exponent alone, without sign (OCP Microscaling Formats, E8M0).
template <int Halvings>
constexpr float power_of_two(std::uint8_t code) noexcept {
  const int exponent = code - Halvings;
  return std::bit_cast<float>(exponent > 0 ? static_cast<std::uint32_t>(exponent) << 23
                                           : 0x00400000u >> -exponent);  // subnormal: 2^-127 and below
}
// Weight i of 32 in 16 bytes: the low nibbles are weights 0..15, the high ones 16..31.
constexpr int half_nibble(const std::uint8_t* in, int i) noexcept { return in[i % 16] >> i / 16 * 4 & 15; }
// Bit 4 of weight i: bit i of four bytes.
constexpr int fifth_bit(const std::uint8_t* in, int i) noexcept { return (in[i / 8] >> i % 8 & 1) << 4; }

// One decoder for each format: reads a block at `in` and writes its weights. Products of the fp16 and integer
// parts fit the 24 bits of a float, so each weight is rounded at most once and no compiler can change it.

inline void decode_f32(const std::uint8_t* in, float* out) noexcept { std::memcpy(out, in, 4); }
inline void decode_f16(const std::uint8_t* in, float* out) noexcept { *out = load_half(in); }
inline void decode_bf16(const std::uint8_t* in, float* out) noexcept { *out = load_bfloat16(in); }
HIGGS_INLINE void decode_f64(const std::uint8_t* in, float* out) noexcept;
// | sign | 4 bits of exponent, bias 7 | 3 bits of mantissa |       no infinities, NaN is 7f and ff
// OCP 8-bit Floating Point Specification, revision 1.0; both types are exact as floats.
HIGGS_INLINE void decode_f8_e4m3(const std::uint8_t* in, float* out) noexcept;
// The upper half of an fp16.
inline void decode_f8_e5m2(const std::uint8_t* in, float* out) noexcept {
  *out = static_cast<float>(Half::from_bits(static_cast<std::uint16_t>(*in << 8)));
}
// Scales of other tensors alone are kept in this type.
inline void decode_f8_e8m0(const std::uint8_t* in, float* out) noexcept {
  *out = *in == 0xff ? std::bit_cast<float>(0x7fc00000u) : power_of_two<0>(*in);
}

// | d f16 | 16 bytes of nibbles |                                 w = d (q - 8)
inline void decode_q4_0(const std::uint8_t* in, float* out) noexcept {
  const float d = load_half(in);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(half_nibble(in + 2, i) - 8);
}
// | d f16 | m f16 | 16 bytes of nibbles |                         w = d q + m
inline void decode_q4_1(const std::uint8_t* in, float* out) noexcept {
  const float d = load_half(in), m = load_half(in + 2);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(half_nibble(in + 4, i)) + m;
}
// | d f16 | 4 bytes of fifth bits | 16 bytes of nibbles |         w = d (q - 16)
HIGGS_INLINE void decode_q5_0(const std::uint8_t* in, float* out) noexcept;
// | d f16 | m f16 | 4 bytes of fifth bits | 16 bytes of nibbles | w = d q + m
HIGGS_INLINE void decode_q5_1(const std::uint8_t* in, float* out) noexcept;
// | d f16 | 32 int8 |                                             w = d q
inline void decode_q8_0(const std::uint8_t* in, float* out) noexcept {
  const float d = load_half(in);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<std::int8_t>(in[2 + i]));
}

// Scale and minimum, 6 bits each, of the eight groups of 32 in a block of Q4_K and Q5_K, in 12 bytes:
//     bytes 0..3    bits 0..5: scale of group j,           bits 6..7: bits 4..5 of the scale of group j + 4
//     bytes 4..7    bits 0..5: minimum of group j,         bits 6..7: bits 4..5 of the minimum of group j + 4
//     bytes 8..11   bits 0..3: those of scale j + 4,       bits 4..7: bits 0..3 of minimum j + 4
struct ScaleAndMinimum {
  int scale, minimum;
};
constexpr ScaleAndMinimum group_of_k_block(const std::uint8_t* in, int group) noexcept {
  if (group < 4) return {in[group] & 63, in[group + 4] & 63};
  const int j = group - 4;
  return {(in[j + 8] & 15) | (in[j] >> 6) << 4, in[j + 8] >> 4 | (in[j + 4] >> 6) << 4};
}
// | d f16 | m f16 | 12 bytes of groups | 128 bytes |              w = d scale q - m minimum
// Bytes 32 k .. 32 k + 31 hold the nibbles of group 2 k (low) and 2 k + 1 (high).
HIGGS_INLINE void decode_q4_k(const std::uint8_t* in, float* out) noexcept;
// | d f16 | m f16 | 12 bytes of groups | 32 bytes | 128 bytes |   w = d scale q - m minimum
// As Q4_K; bit g of byte i of the 32 is bit 4 of weight i of group g.
HIGGS_INLINE void decode_q5_k(const std::uint8_t* in, float* out) noexcept;
// | 128 bytes of low nibbles | 64 bytes of high bit pairs | 16 int8, scales of 16 weights | d f16 |
// Each half, 128 weights, has 64 and 32 of these bytes: weight i of its quarter k takes nibble k / 2 of byte
// 32 (k % 2) + i, and bit pair k of byte i.                       w = d scale (q - 32)
HIGGS_INLINE void decode_q6_k(const std::uint8_t* in, float* out) noexcept;

// | 16 bytes: scale (low) and minimum (high) of 16 weights | 64 bytes of bit pairs | d f16 | m f16 |
// Each half, 128 weights, has 32 bytes of pairs: weight i of its quarter k takes pair k of byte i.
//                                                                 w = d scale q - m minimum
HIGGS_INLINE void decode_q2_k(const std::uint8_t* in, float* out) noexcept;
// Scale, 6 bits, of group j of the 16 in a block of Q3_K: bits 0..3 are nibble j / 8 of byte j % 8,
// bits 4..5 pair j / 4 of byte 8 + j % 4.
constexpr int scale_of_q3_k(const std::uint8_t* in, int j) noexcept {
  return (in[j % 8] >> j / 8 * 4 & 15) | (in[8 + j % 4] >> j / 4 * 2 & 3) << 4;
}
// | 32 bytes of third bits | 64 bytes of bit pairs | 12 bytes of scales | d f16 |
// Pairs as in Q2_K; bit k of byte i of the 32 is bit 2 of weight 32 k + i.
//                                                                 w = d (scale - 32) (q - 4)
HIGGS_INLINE void decode_q3_k(const std::uint8_t* in, float* out) noexcept;
// The 16 levels of IQ4_NL and IQ4_XS, which lie closer around zero.
inline constexpr std::array<std::int8_t, 16> iq4_levels{-127, -104, -83, -65, -49, -35, -22, -10,
                                                        1,    13,   25,  38,  53,  69,  89,  113};
// | d f16 | 16 bytes of nibbles |                                 w = d level(q)
HIGGS_INLINE void decode_iq4_nl(const std::uint8_t* in, float* out) noexcept;
// | d f16 | 16 bits: bit pairs | 4 bytes of nibbles | 8 groups of 16 bytes of nibbles |
// Scale, 6 bits, of group g: nibble g, then pair g.               w = d (scale - 32) level(q)
HIGGS_INLINE void decode_iq4_xs(const std::uint8_t* in, float* out) noexcept;
// | e, an exponent | 16 bytes of nibbles: sign, 3 bits |          w = 2^(e - 128) level(q)
HIGGS_INLINE void decode_mxfp4(const std::uint8_t* in, float* out) noexcept;
// | 48 bytes of five digits | 4 bytes of four digits | d f16 |    w = d (q - 1)
// A byte is a fraction of 256 with digits of base 3, the first one leads. The first 32 bytes hold weights 0..159:
// weight i + 32 k is digit k of byte i; the next 16 bytes and the last 4 likewise.
HIGGS_INLINE void decode_tq1_0(const std::uint8_t* in, float* out) noexcept;
// | 64 bytes of bit pairs | d f16 |    pairs as in Q2_K           w = d (q - 1)
HIGGS_INLINE void decode_tq2_0(const std::uint8_t* in, float* out) noexcept;

template <void (*Decode)(const std::uint8_t*, float*) noexcept, int Block, int Bytes>
constexpr BlockFormat make_format(std::string_view name) {
  return {name, Block, Bytes, [](const std::uint8_t* in, std::int64_t blocks, float* out) {
            for (; blocks > 0; --blocks, in += Bytes, out += Block) Decode(in, out);
          }};
}

inline constexpr std::array block_formats{make_format<decode_f32, 1, 4>("F32"),
                                          make_format<decode_f16, 1, 2>("F16"),
                                          make_format<decode_bf16, 1, 2>("BF16"),
                                          make_format<decode_f64, 1, 8>("F64"),
                                          make_format<decode_f8_e4m3, 1, 1>("F8_E4M3"),
                                          make_format<decode_f8_e5m2, 1, 1>("F8_E5M2"),
                                          make_format<decode_q4_0, 32, 18>("Q4_0"),
                                          make_format<decode_q4_1, 32, 20>("Q4_1"),
                                          make_format<decode_q5_0, 32, 22>("Q5_0"),
                                          make_format<decode_q5_1, 32, 24>("Q5_1"),
                                          make_format<decode_q8_0, 32, 34>("Q8_0"),
                                          make_format<decode_q2_k, 256, 84>("Q2_K"),
                                          make_format<decode_q3_k, 256, 110>("Q3_K"),
                                          make_format<decode_q4_k, 256, 144>("Q4_K"),
                                          make_format<decode_q5_k, 256, 176>("Q5_K"),
                                          make_format<decode_q6_k, 256, 210>("Q6_K"),
                                          make_format<decode_iq4_nl, 32, 18>("IQ4_NL"),
                                          make_format<decode_iq4_xs, 256, 136>("IQ4_XS"),
                                          make_format<decode_mxfp4, 32, 17>("MXFP4"),
                                          make_format<decode_tq1_0, 256, 54>("TQ1_0"),
                                          make_format<decode_tq2_0, 256, 66>("TQ2_0"),
                                          BlockFormat{"I8", 1, 1, nullptr},
                                          BlockFormat{"I16", 1, 2, nullptr},
                                          BlockFormat{"I32", 1, 4, nullptr},
                                          BlockFormat{"I64", 1, 8, nullptr},
                                          BlockFormat{"Q8_K", 256, 292, nullptr},
                                          BlockFormat{"IQ1_S", 256, 50, nullptr},
                                          BlockFormat{"IQ1_M", 256, 56, nullptr},
                                          BlockFormat{"IQ2_XXS", 256, 66, nullptr},
                                          BlockFormat{"IQ2_XS", 256, 74, nullptr},
                                          BlockFormat{"IQ2_S", 256, 82, nullptr},
                                          BlockFormat{"IQ3_XXS", 256, 98, nullptr},
                                          BlockFormat{"IQ3_S", 256, 110, nullptr},
                                          BlockFormat{"NVFP4", 64, 36, nullptr},
                                          BlockFormat{"Q1_0", 128, 18, nullptr}};

// For scales alone: a tensor of its own of this type holds no weights.
inline constexpr BlockFormat f8_e8m0_format = make_format<decode_f8_e8m0, 1, 1>("F8_E8M0");

}  // namespace detail

/// The format of that name ("BF16", "Q4_K"); null if there is none.
HIGGS_INLINE const BlockFormat* block_format_named(std::string_view name) noexcept;

#if HIGGS_DEFINITIONS

HIGGS_INLINE std::int64_t matrix_rows(const std::vector<std::int64_t>& shape) noexcept {
  std::int64_t rows = 1;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

namespace detail {

HIGGS_INLINE float load_half(const std::uint8_t* at) noexcept {
  std::uint16_t bits;
  std::memcpy(&bits, at, 2);
  return static_cast<float>(Half::from_bits(bits));
}

HIGGS_INLINE float load_bfloat16(const std::uint8_t* at) noexcept {
  std::uint16_t bits;
  std::memcpy(&bits, at, 2);
  return static_cast<float>(BFloat16::from_bits(bits));
}

HIGGS_INLINE void decode_f64(const std::uint8_t* in, float* out) noexcept {
  double value;
  std::memcpy(&value, in, 8);
  *out = static_cast<float>(value);
}

HIGGS_INLINE void decode_f8_e4m3(const std::uint8_t* in, float* out) noexcept {
  const std::uint32_t magnitude = *in & 0x7fu, sign = (*in & 0x80u) << 24;
  const float value = magnitude == 0x7f ? std::bit_cast<float>(0x7fc00000u)
                      : magnitude < 8   ? static_cast<float>(magnitude) * 0x1p-9f
                                        : std::bit_cast<float>((magnitude << 20) + (120u << 23));
  *out = std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
}

HIGGS_INLINE void decode_q5_0(const std::uint8_t* in, float* out) noexcept {
  const float d = load_half(in);
  for (int i = 0; i < 32; ++i)
    out[i] = d * static_cast<float>((half_nibble(in + 6, i) | fifth_bit(in + 2, i)) - 16);
}

HIGGS_INLINE void decode_q5_1(const std::uint8_t* in, float* out) noexcept {
  const float d = load_half(in), m = load_half(in + 2);
  for (int i = 0; i < 32; ++i)
    out[i] = d * static_cast<float>(half_nibble(in + 8, i) | fifth_bit(in + 4, i)) + m;
}

HIGGS_INLINE void decode_q4_k(const std::uint8_t* in, float* out) noexcept {
  for (int group = 0; group < 8; ++group) {
    const auto [scale, minimum] = group_of_k_block(in + 4, group);
    const float d = load_half(in) * static_cast<float>(scale);
    const float m = load_half(in + 2) * static_cast<float>(minimum);
    const std::uint8_t* nibbles = in + 16 + group / 2 * 32;
    for (int i = 0; i < 32; ++i) *out++ = d * static_cast<float>(nibbles[i] >> group % 2 * 4 & 15) - m;
  }
}

HIGGS_INLINE void decode_q5_k(const std::uint8_t* in, float* out) noexcept {
  for (int group = 0; group < 8; ++group) {
    const auto [scale, minimum] = group_of_k_block(in + 4, group);
    const float d = load_half(in) * static_cast<float>(scale);
    const float m = load_half(in + 2) * static_cast<float>(minimum);
    const std::uint8_t* high = in + 16;
    const std::uint8_t* nibbles = in + 48 + group / 2 * 32;
    for (int i = 0; i < 32; ++i) {
      const int q = (nibbles[i] >> group % 2 * 4 & 15) | (high[i] >> group & 1) << 4;
      *out++ = d * static_cast<float>(q) - m;
    }
  }
}

HIGGS_INLINE void decode_q6_k(const std::uint8_t* in, float* out) noexcept {
  const float d = load_half(in + 208);
  for (int w = 0; w < 256; ++w) {
    const int half = w / 128, quarter = w / 32 % 4, i = w % 32;
    const int low = in[64 * half + quarter % 2 * 32 + i] >> quarter / 2 * 4 & 15;
    const int high = in[128 + 32 * half + i] >> 2 * quarter & 3;
    const float scale = d * static_cast<float>(static_cast<std::int8_t>(in[192 + w / 16]));
    out[w] = scale * static_cast<float>((low | high << 4) - 32);
  }
}

HIGGS_INLINE void decode_q2_k(const std::uint8_t* in, float* out) noexcept {
  for (int w = 0; w < 256; ++w) {
    const int q = in[16 + w / 128 * 32 + w % 32] >> w / 32 % 4 * 2 & 3;
    const float d = load_half(in + 80) * static_cast<float>(in[w / 16] & 15);
    const float m = load_half(in + 82) * static_cast<float>(in[w / 16] >> 4);
    out[w] = d * static_cast<float>(q) - m;
  }
}

HIGGS_INLINE void decode_q3_k(const std::uint8_t* in, float* out) noexcept {
  const float d = load_half(in + 108);
  for (int w = 0; w < 256; ++w) {
    const int low = in[32 + w / 128 * 32 + w % 32] >> w / 32 % 4 * 2 & 3;
    const int high = in[w % 32] >> w / 32 & 1;
    const float scale = d * static_cast<float>(scale_of_q3_k(in + 96, w / 16) - 32);
    out[w] = scale * static_cast<float>((low | high << 2) - 4);
  }
}

HIGGS_INLINE void decode_iq4_nl(const std::uint8_t* in, float* out) noexcept {
  const float d = load_half(in);
  for (int i = 0; i < 32; ++i)
    out[i] = d * static_cast<float>(iq4_levels[static_cast<std::size_t>(half_nibble(in + 2, i))]);
}

HIGGS_INLINE void decode_iq4_xs(const std::uint8_t* in, float* out) noexcept {
  for (int group = 0; group < 8; ++group) {
    const int scale = (in[4 + group / 2] >> group % 2 * 4 & 15) | (in[2 + group / 4] >> group % 4 * 2 & 3)
                                                                      << 4;
    const float d = load_half(in) * static_cast<float>(scale - 32);
    for (int i = 0; i < 32; ++i)
      *out++ =
          d * static_cast<float>(iq4_levels[static_cast<std::size_t>(half_nibble(in + 8 + 16 * group, i))]);
  }
}

HIGGS_INLINE void decode_mxfp4(const std::uint8_t* in, float* out) noexcept {
  constexpr std::array<std::int8_t, 8> levels{0, 1, 2, 3, 4, 6, 8, 12};  // E2M1, doubled
  for (int i = 0; i < 32; ++i) {
    const int q = half_nibble(in + 1, i), level = levels[static_cast<std::size_t>(q & 7)];
    out[i] = power_of_two<1>(*in) * static_cast<float>(q < 8 ? level : -level);
  }
}

HIGGS_INLINE void decode_tq1_0(const std::uint8_t* in, float* out) noexcept {
  const float d = load_half(in + 52);
  const auto decode_part = [&](const std::uint8_t* bytes, int count, int digits) {
    for (int k = 0, power = 1; k < digits; ++k, power *= 3)
      for (int i = 0; i < count; ++i) *out++ = d * static_cast<float>((bytes[i] * power % 256 * 3 >> 8) - 1);
  };
  decode_part(in, 32, 5);
  decode_part(in + 32, 16, 5);
  decode_part(in + 48, 4, 4);
}

HIGGS_INLINE void decode_tq2_0(const std::uint8_t* in, float* out) noexcept {
  const float d = load_half(in + 64);
  for (int w = 0; w < 256; ++w)
    out[w] = d * static_cast<float>((in[w / 128 * 32 + w % 32] >> w / 32 % 4 * 2 & 3) - 1);
}

}  // namespace detail

HIGGS_INLINE const BlockFormat* block_format_named(std::string_view name) noexcept {
  for (const BlockFormat& format : detail::block_formats)
    if (format.name == name) return &format;
  return nullptr;
}

#endif

}  // namespace v0
}  // namespace higgs
