// SPDX-License-Identifier: Apache-2.0
// How files keep weights: plain floats, and the blocks of GGUF (https://github.com/ggml-org/ggml).
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>

#include <array>
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
inline std::int64_t matrix_rows(const std::vector<std::int64_t>& shape) noexcept {
  std::int64_t rows = 1;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

/// Weights in blocks: a row is a whole number of them.
struct BlockFormat {
  std::string_view name;
  int block;                                                                // weights
  int bytes;                                                                // of a block
  void (*decode)(const std::uint8_t* in, std::int64_t blocks, float* out);  // null: can only be copied

  constexpr std::int64_t row_bytes(std::int64_t cols) const noexcept { return cols / block * bytes; }
};

namespace detail {

// All numbers are little-endian and unaligned.
inline float load_half(const std::uint8_t* at) noexcept {
  std::uint16_t bits;
  std::memcpy(&bits, at, 2);
  return static_cast<float>(Half::from_bits(bits));
}
inline float load_bfloat16(const std::uint8_t* at) noexcept {
  std::uint16_t bits;
  std::memcpy(&bits, at, 2);
  return static_cast<float>(BFloat16::from_bits(bits));
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
inline void decode_f64(const std::uint8_t* in, float* out) noexcept {
  double value;
  std::memcpy(&value, in, 8);
  *out = static_cast<float>(value);
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
inline void decode_q5_0(const std::uint8_t* in, float* out) noexcept {
  const float d = load_half(in);
  for (int i = 0; i < 32; ++i)
    out[i] = d * static_cast<float>((half_nibble(in + 6, i) | fifth_bit(in + 2, i)) - 16);
}
// | d f16 | m f16 | 4 bytes of fifth bits | 16 bytes of nibbles | w = d q + m
inline void decode_q5_1(const std::uint8_t* in, float* out) noexcept {
  const float d = load_half(in), m = load_half(in + 2);
  for (int i = 0; i < 32; ++i)
    out[i] = d * static_cast<float>(half_nibble(in + 8, i) | fifth_bit(in + 4, i)) + m;
}
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
inline void decode_q4_k(const std::uint8_t* in, float* out) noexcept {
  for (int group = 0; group < 8; ++group) {
    const auto [scale, minimum] = group_of_k_block(in + 4, group);
    const float d = load_half(in) * static_cast<float>(scale);
    const float m = load_half(in + 2) * static_cast<float>(minimum);
    const std::uint8_t* nibbles = in + 16 + group / 2 * 32;
    for (int i = 0; i < 32; ++i) *out++ = d * static_cast<float>(nibbles[i] >> group % 2 * 4 & 15) - m;
  }
}
// | d f16 | m f16 | 12 bytes of groups | 32 bytes | 128 bytes |   w = d scale q - m minimum
// As Q4_K; bit g of byte i of the 32 is bit 4 of weight i of group g.
inline void decode_q5_k(const std::uint8_t* in, float* out) noexcept {
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
// | 128 bytes of low nibbles | 64 bytes of high bit pairs | 16 int8, scales of 16 weights | d f16 |
// Each half, 128 weights, has 64 and 32 of these bytes: weight i of its quarter k takes nibble k / 2 of byte
// 32 (k % 2) + i, and bit pair k of byte i.                       w = d scale (q - 32)
inline void decode_q6_k(const std::uint8_t* in, float* out) noexcept {
  const float d = load_half(in + 208);
  for (int w = 0; w < 256; ++w) {
    const int half = w / 128, quarter = w / 32 % 4, i = w % 32;
    const int low = in[64 * half + quarter % 2 * 32 + i] >> quarter / 2 * 4 & 15;
    const int high = in[128 + 32 * half + i] >> 2 * quarter & 3;
    const float scale = d * static_cast<float>(static_cast<std::int8_t>(in[192 + w / 16]));
    out[w] = scale * static_cast<float>((low | high << 4) - 32);
  }
}

template <void (*Decode)(const std::uint8_t*, float*) noexcept, int Block, int Bytes>
constexpr BlockFormat make_format(std::string_view name) {
  return {name, Block, Bytes, [](const std::uint8_t* in, std::int64_t blocks, float* out) {
            for (; blocks > 0; --blocks, in += Bytes, out += Block) Decode(in, out);
          }};
}

inline constexpr std::array block_formats{
    make_format<decode_f32, 1, 4>("F32"),       make_format<decode_f16, 1, 2>("F16"),
    make_format<decode_bf16, 1, 2>("BF16"),     make_format<decode_f64, 1, 8>("F64"),
    make_format<decode_q4_0, 32, 18>("Q4_0"),   make_format<decode_q4_1, 32, 20>("Q4_1"),
    make_format<decode_q5_0, 32, 22>("Q5_0"),   make_format<decode_q5_1, 32, 24>("Q5_1"),
    make_format<decode_q8_0, 32, 34>("Q8_0"),   make_format<decode_q4_k, 256, 144>("Q4_K"),
    make_format<decode_q5_k, 256, 176>("Q5_K"), make_format<decode_q6_k, 256, 210>("Q6_K"),
    BlockFormat{"I8", 1, 1, nullptr},           BlockFormat{"I16", 1, 2, nullptr},
    BlockFormat{"I32", 1, 4, nullptr},          BlockFormat{"I64", 1, 8, nullptr}};

}  // namespace detail

/// The format of that name ("BF16", "Q4_K"); null if there is none.
inline const BlockFormat* block_format_named(std::string_view name) noexcept {
  for (const BlockFormat& format : detail::block_formats)
    if (format.name == name) return &format;
  return nullptr;
}

}  // namespace v0
}  // namespace higgs
