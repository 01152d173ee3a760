// SPDX-License-Identifier: Apache-2.0
// Rows of x as the integer kernels read them: rotated, rounded to 16 or 8 bits, in the order of the tiles' units.
//
// A group of weights is cut into runs (the last may be shorter). Of the rotated inputs r of a run:
//     peak = max |r|,  step = peak / limit,  q = round to nearest even (r * (limit / peak)),
// limit = 32639 or 127. A run of NaN or infinity has step NaN; one below 2^-100 counts as zero. matmul()
// makes rows of huge numbers smaller before they come here. With runs of 512 a dot product of q and int8
// coordinates fits in 32 bits: 128 * 32639 * 512 < 2^31.
#pragma once

#include <higgs/core/concepts.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/pack/packed_layout.hpp>
#include <higgs/rotate/random_hadamard.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <optional>
#include <span>
#include <utility>

#if defined(HIGGS_TARGET_BEGIN)
#  include <immintrin.h>
#elif defined(HIGGS_NEON)
#  include <arm_neon.h>
#endif

namespace higgs {
inline namespace v0 {

/// How finely activations are rounded. A product's relative RMS error is about 3e-5 and 5e-3; the weights are exact.
enum class Activations {
  Int16,  ///< one step for each 512 inputs at most; costs nothing where memory is the limit
  Int8,   ///< one step for each 64 inputs at most; up to twice as fast where arithmetic is the limit
};

namespace detail {

/// Inputs whose products are added before a scale multiplies them: one run, or eight of 8-bit activations.
inline constexpr std::int64_t chunk_inputs = 512;
constexpr std::int64_t run_inputs(Activations kind) noexcept {
  return kind == Activations::Int16 ? chunk_inputs : 64;
}
constexpr float quantizer_limit(Activations kind) noexcept {
  return kind == Activations::Int16 ? 32639.0f : 127.0f;  // 32639 = 127 * 256 + 127: both bytes stay in int8
}

/// How activations are laid out for one kernel. A quad is four inputs that meet the four bytes of a lane of decoded
/// weights, see quad_position(). Planes: the high bytes of 16-bit integers, then the low ones.
enum class QuadOrder {
  Bytes,  // (quads, rows, planes, 4) int8
  Words,  // (quads, rows, 4) int16, of a quad the inputs 0, 2, 1, 3: those of even bytes, then those of odd ones
  Tiles,  // (quads / 16, planes, 16 rows, 16 quads, 4) int8
};

/// The shape of the activations of one group, padded to whole steps of the tiles.
struct RunShape {
  std::int64_t groups = 0;
  std::int64_t group = 0;         // inputs
  std::int64_t padded_group = 0;  // inputs that its steps hold
  std::int64_t run = 0;           // inputs, at most
  int dim = 1;                    // coordinates of a unit
  int planes = 2;

  std::int64_t runs_per_group() const noexcept { return (padded_group + run - 1) / run; }
  std::int64_t runs() const noexcept { return groups * runs_per_group(); }
  /// Bytes of the integers of one row.
  std::int64_t row_bytes(QuadOrder order) const noexcept {
    return groups * padded_group * (order == QuadOrder::Words ? 2 : planes);
  }
};

/// Rows of x in a panel of QuadOrder::Tiles; those that are missing are zero.
inline constexpr int tile_panel_rows = 16;

/// Some rows of activations. What belongs to one input lies together for all rows.
struct Panel {
  int rows = 0;
  std::uint8_t* quads = nullptr;        // see QuadOrder
  float* steps = nullptr;               // (runs, rows)
  std::int32_t* corrections = nullptr;  // (runs, rows): -128 * sum of q, as coordinates come with 128 added

  /// Bytes of a panel of `rows`, a multiple of 64.
  static std::size_t bytes(const RunShape& shape, QuadOrder order, int rows) noexcept {
    const std::int64_t all = quad_bytes(shape, order, rows) + 8 * rows * shape.runs();
    return static_cast<std::size_t>((all + 63) / 64 * 64);
  }
  Panel(const RunShape& shape, QuadOrder order, int row_count, std::uint8_t* memory) noexcept
      : rows(row_count),
        quads(memory),
        steps(reinterpret_cast<float*>(memory + quad_bytes(shape, order, row_count))),
        corrections(reinterpret_cast<std::int32_t*>(steps + row_count * shape.runs())) {
    if (order == QuadOrder::Tiles && row_count < tile_panel_rows)
      std::memset(memory, 0, static_cast<std::size_t>(quad_bytes(shape, order, row_count)));
  }

  /// Where row `at` has the first plane of a quad, and how far from there the next plane lies.
  std::uint8_t* quad(const RunShape& shape, QuadOrder order, std::int64_t number, int at) const noexcept {
    if (order == QuadOrder::Tiles)
      return quads + ((number / 16 * shape.planes * tile_panel_rows + at) * 16 + number % 16) * 4;
    return quads + (number * rows + at) * 4 * (order == QuadOrder::Words ? 2 : shape.planes);
  }
  static std::int64_t plane_stride(QuadOrder order) noexcept {
    return order == QuadOrder::Tiles ? tile_panel_rows * 64 : 4;
  }

 private:
  static std::int64_t quad_bytes(const RunShape& shape, QuadOrder order, int rows) noexcept {
    return (order == QuadOrder::Tiles ? tile_panel_rows : rows) * shape.row_bytes(order);
  }
};

/// The step of a run and the factor that takes inputs to integers, from the bits of the largest magnitude.
struct RunStep {
  float step, inverse;
  RunStep(std::uint32_t peak_bits, float limit) noexcept {
    const float peak = std::bit_cast<float>(peak_bits);
    const bool finite = peak_bits < 0x7f800000u, zero = finite && peak < 0x1p-100f;
    step = finite ? (zero ? 0.0f : peak / limit) : std::numeric_limits<float>::quiet_NaN();
    inverse = finite && !zero ? limit / peak : 0.0f;
  }
};

/// Where input i of a group goes in the order of decoded vectors: units in fours, coordinate by coordinate.
constexpr std::int64_t quad_position(std::int64_t i, int dim) noexcept {
  const std::int64_t unit = i / dim, coordinate = i % dim;
  return (unit / 4 * dim + coordinate) * 4 + unit % 4;
}

/// Quantizes a rotated row into row `at` of a panel.
inline void quantize_row_portable(const float* row, const RunShape& shape, Activations kind, QuadOrder order,
                                  const Panel& panel, int at) noexcept {
  const std::int64_t rows = panel.rows;
  std::int64_t run = at;  // index into steps and corrections
  for (std::int64_t g = 0; g < shape.groups; ++g) {
    for (std::int64_t first = 0; first < shape.padded_group; first += shape.run, run += rows) {
      const float* x = row + g * shape.group + first;
      const std::int64_t padded = std::min(shape.run, shape.padded_group - first);
      const std::int64_t count = std::min(padded, shape.group - first);
      std::uint32_t peak = 0;
      for (std::int64_t i = 0; i < count; ++i)
        peak = std::max(peak, std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffu);
      const RunStep scale(peak, quantizer_limit(kind));
      std::int32_t sum = 0;
      for (std::int64_t i = 0; i < padded; ++i) {
        const bool real = i < count && scale.inverse != 0.0f;
        const auto q = real ? static_cast<std::int32_t>(std::lrint(x[i] * scale.inverse)) : 0;
        sum += q;
        const std::int64_t place = g * shape.padded_group + quad_position(first + i, shape.dim),
                           byte = place % 4;
        std::uint8_t* quad = panel.quad(shape, order, place / 4, at);
        if (order == QuadOrder::Words) {
          const auto word = static_cast<std::int16_t>(q);
          std::memcpy(quad + 2 * (byte % 2 * 2 + byte / 2), &word, 2);
        } else if (shape.planes == 2) {
          quad[byte] = static_cast<std::uint8_t>((q + 128) >> 8);
          quad[byte + Panel::plane_stride(order)] = static_cast<std::uint8_t>(q);
        } else {
          quad[byte] = static_cast<std::uint8_t>(q);
        }
      }
      panel.steps[run] = scale.step;
      panel.corrections[run] = static_cast<std::int32_t>(static_cast<std::uint32_t>(sum) * -128u);
    }
  }
}

#if defined(HIGGS_TARGET_BEGIN) || defined(HIGGS_NEON)
/// The order within 16 inputs that quad_position() gives to them, by dim / 2. That of 8 dimensions is that of 4, once
/// split_units() has been there.
alignas(16) inline constexpr std::uint8_t quad_shuffles[3][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15},
    {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15}};
constexpr const std::uint8_t* quad_shuffle(int dim) noexcept { return quad_shuffles[std::min(dim / 2, 2)]; }
/// Of units of 8 dimensions the first halves of four, then their second ones.
inline void split_units(float* x, std::int64_t count) noexcept {
  for (std::int64_t i = 0; i < count; i += 32) {
    float units[32];
    std::memcpy(units, x + i, sizeof units);
    for (int j = 0; j < 8; ++j) std::memcpy(x + i + 4 * j, units + 4 * (j % 4 * 2 + j / 4), 16);
  }
}
/// The order within four quads of QuadOrder::Words.
alignas(16) inline constexpr std::uint8_t word_shuffle[16] = {0, 2,  1, 3,  4,  6,  5,  7,
                                                              8, 10, 9, 11, 12, 14, 13, 15};

/// Whether eight bytes of a quad lie together, those of both planes.
constexpr bool joins_planes(const RunShape& shape, QuadOrder order) noexcept {
  return order == QuadOrder::Words || (order == QuadOrder::Bytes && shape.planes == 2);
}

/// Copies the first `count` of four quads, Size bytes each, to places a stride apart.
template <int Size>
inline void scatter_quads(const std::uint8_t* quads, int count, std::uint8_t* to,
                          std::int64_t stride) noexcept {
  if (count == 4 && stride == Size) {
    for (int i = 0; i < 4 * Size; i += 16)  // of the size that was stored, or the load has to wait
      std::memcpy(to + i, quads + i, 16);
  } else {
    for (int j = 0; j < count; ++j, to += stride) std::memcpy(to, quads + j * Size, Size);
  }
}

/// Writes the first `count` of four quads: 32 bytes, of joined planes; else 16 of the high plane and 16 of the low one.
inline void store_quads(const std::uint8_t* quads, const RunShape& shape, QuadOrder order, const Panel& panel,
                        std::int64_t number, int at, int count) noexcept {
  std::uint8_t* to = panel.quad(shape, order, number, at);
  if (joins_planes(shape, order)) return scatter_quads<8>(quads, count, to, 8 * panel.rows);
  const std::int64_t stride = order == QuadOrder::Tiles ? 4 : 4 * panel.rows;
  if (shape.planes == 2) {
    scatter_quads<4>(quads, count, to, stride);
    to += Panel::plane_stride(order);
  }
  scatter_quads<4>(quads + 16, count, to, stride);
}
#endif

#if defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)
namespace avx2 {

[[gnu::always_inline]] inline __m128i load_shuffle(const std::uint8_t* order) noexcept {
  return _mm_load_si128(reinterpret_cast<const __m128i*>(order));
}

/// The bytes that store_quads() takes, from the high and low bytes of 16 integers, the low ones signed.
[[gnu::always_inline]] inline void join_planes(const RunShape& shape, QuadOrder order, __m128i high,
                                               __m128i low, std::uint8_t* quads) noexcept {
  __m128i first = high, second = low;
  if (order == QuadOrder::Words) {
    const __m128i swap = load_shuffle(word_shuffle);
    high = _mm_shuffle_epi8(_mm_add_epi8(high, _mm_cmpgt_epi8(_mm_setzero_si128(), low)), swap);
    low = _mm_shuffle_epi8(low, swap);
    first = _mm_unpacklo_epi8(low, high);
    second = _mm_unpackhi_epi8(low, high);
  } else if (joins_planes(shape, order)) {
    first = _mm_unpacklo_epi32(high, low);
    second = _mm_unpackhi_epi32(high, low);
  }
  _mm_store_si128(reinterpret_cast<__m128i*>(quads), first);
  _mm_store_si128(reinterpret_cast<__m128i*>(quads + 16), second);
}

/// As quantize_row_portable.
inline void quantize_row(const float* row, const RunShape& shape, Activations kind, QuadOrder order,
                         const Panel& panel, int at) noexcept {
  const __m128i shuffle = load_shuffle(quad_shuffle(shape.dim));
  const __m256i no_sign = _mm256_set1_epi32(0x7fffffff);
  std::int64_t run = at;
  for (std::int64_t g = 0; g < shape.groups; ++g)
    for (std::int64_t first = 0; first < shape.padded_group; first += shape.run, run += panel.rows) {
      alignas(32) float x[chunk_inputs + 16];  // with zeros behind the last input
      const std::int64_t padded = std::min(shape.run, shape.padded_group - first);
      const std::int64_t count = std::max<std::int64_t>(std::min(padded, shape.group - first), 0);
      std::copy_n(row + g * shape.group + first, count, x);
      std::fill(x + count, x + (padded + 15) / 16 * 16, 0.0f);
      if (shape.dim == 8) split_units(x, padded);
      __m256i magnitude = _mm256_setzero_si256();
      for (std::int64_t i = 0; i < padded; i += 8)
        magnitude = _mm256_max_epu32(magnitude,
                                     _mm256_and_si256(_mm256_castps_si256(_mm256_load_ps(x + i)), no_sign));
      alignas(32) std::uint32_t peaks[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(peaks), magnitude);
      const RunStep scale(*std::max_element(peaks, peaks + 8), quantizer_limit(kind));
      const __m256 inverse = _mm256_set1_ps(scale.inverse);
      const __m256i real = _mm256_set1_epi32(scale.inverse != 0.0f ? -1 : 0),
                    low_byte = _mm256_set1_epi32(255);
      __m256i sum = _mm256_setzero_si256();
      for (std::int64_t i = 0; i < padded; i += 16) {
        __m256i low[2], high[2];
        HIGGS_UNROLL
        for (int j = 0; j < 2; ++j) {
          const __m256 scaled = _mm256_mul_ps(_mm256_load_ps(x + i + 8 * j), inverse);
          const __m256i q = _mm256_and_si256(_mm256_cvtps_epi32(scaled), real);
          sum = _mm256_add_epi32(sum, q);
          low[j] = _mm256_and_si256(q, low_byte);
          high[j] =
              _mm256_and_si256(_mm256_srai_epi32(_mm256_add_epi32(q, _mm256_set1_epi32(128)), 8), low_byte);
        }
        const __m256i bytes = _mm256_permutevar8x32_epi32(
            _mm256_packus_epi16(_mm256_packus_epi32(low[0], low[1]), _mm256_packus_epi32(high[0], high[1])),
            _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        alignas(16) std::uint8_t quads[32];
        join_planes(shape, order, _mm_shuffle_epi8(_mm256_extracti128_si256(bytes, 1), shuffle),
                    _mm_shuffle_epi8(_mm256_castsi256_si128(bytes), shuffle), quads);
        store_quads(quads, shape, order, panel, (g * shape.padded_group + first + i) / 4, at,
                    static_cast<int>(std::min<std::int64_t>(16, padded - i)) / 4);
      }
      alignas(32) std::uint32_t sums[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(sums), sum);
      std::uint32_t all = 0;
      for (const std::uint32_t each : sums) all += each;
      panel.steps[run] = scale.step;
      panel.corrections[run] = static_cast<std::int32_t>(all * -128u);
    }
}

}  // namespace avx2
HIGGS_TARGET_END

HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace avx512 {

/// As quantize_row_portable.
inline void quantize_row(const float* row, const RunShape& shape, Activations kind, QuadOrder order,
                         const Panel& panel, int at) noexcept {
  const __m128i shuffle = avx2::load_shuffle(quad_shuffle(shape.dim));
  std::int64_t run = at;
  for (std::int64_t g = 0; g < shape.groups; ++g)
    for (std::int64_t first = 0; first < shape.padded_group; first += shape.run, run += panel.rows) {
      const float* x = row + g * shape.group + first;
      const std::int64_t padded = std::min(shape.run, shape.padded_group - first);
      const std::int64_t count = std::min(padded, shape.group - first);
      const auto load = [&](std::int64_t i) __attribute__((always_inline)) {
        const std::int64_t rest = count - i;
        if (rest >= 16) return _mm512_loadu_ps(x + i);
        return _mm512_maskz_loadu_ps(static_cast<__mmask16>(rest > 0 ? (1u << rest) - 1u : 0u), x + i);
      };
      const auto load_split = [&](std::int64_t i) __attribute__((always_inline)) {  // as split_units()
        if (shape.dim != 8) return load(i);
        const __m512 a = load(i / 32 * 32), b = load(i / 32 * 32 + 16);
        return i % 32 == 0 ? _mm512_shuffle_f32x4(a, b, 0x88) : _mm512_shuffle_f32x4(a, b, 0xdd);
      };
      __m512i magnitude = _mm512_setzero_si512();
      for (std::int64_t i = 0; i < count; i += 16)
        magnitude = _mm512_max_epu32(
            magnitude, _mm512_and_si512(_mm512_castps_si512(load(i)), _mm512_set1_epi32(0x7fffffff)));
      const RunStep scale(_mm512_reduce_max_epu32(magnitude), quantizer_limit(kind));
      const __m512 inverse = _mm512_set1_ps(scale.inverse);
      const __mmask16 real = scale.inverse != 0.0f ? 0xffff : 0;
      __m512i sum = _mm512_setzero_si512();
      for (std::int64_t i = 0; i < padded; i += 16) {
        const __m512i q = _mm512_maskz_cvtps_epi32(real, _mm512_mul_ps(load_split(i), inverse));
        sum = _mm512_add_epi32(sum, q);
        const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8);
        alignas(16) std::uint8_t quads[32];
        avx2::join_planes(shape, order, _mm_shuffle_epi8(_mm512_cvtepi32_epi8(high), shuffle),
                          _mm_shuffle_epi8(_mm512_cvtepi32_epi8(q), shuffle), quads);
        store_quads(quads, shape, order, panel, (g * shape.padded_group + first + i) / 4, at,
                    static_cast<int>(std::min<std::int64_t>(16, padded - i)) / 4);
      }
      panel.steps[run] = scale.step;
      panel.corrections[run] =
          static_cast<std::int32_t>(static_cast<std::uint32_t>(_mm512_reduce_add_epi32(sum)) * -128u);
    }
}

}  // namespace avx512
HIGGS_TARGET_END

#elif defined(HIGGS_NEON)

namespace neon {

/// As quantize_row_portable.
inline void quantize_row(const float* row, const RunShape& shape, Activations kind, QuadOrder order,
                         const Panel& panel, int at) noexcept {
  const bool words = order == QuadOrder::Words;
  const uint8x16_t shuffle = vld1q_u8(quad_shuffle(shape.dim)), swap = vld1q_u8(word_shuffle);
  std::int64_t run = at;
  for (std::int64_t g = 0; g < shape.groups; ++g)
    for (std::int64_t first = 0; first < shape.padded_group; first += shape.run, run += panel.rows) {
      float x[chunk_inputs + 16];  // with zeros behind the last input
      const std::int64_t padded = std::min(shape.run, shape.padded_group - first);
      const std::int64_t count = std::max<std::int64_t>(std::min(padded, shape.group - first), 0);
      std::copy_n(row + g * shape.group + first, count, x);
      std::fill(x + count, x + (padded + 15) / 16 * 16, 0.0f);
      if (shape.dim == 8) split_units(x, padded);
      uint32x4_t magnitude = vdupq_n_u32(0);
      for (std::int64_t i = 0; i < padded; i += 4)
        magnitude =
            vmaxq_u32(magnitude, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i)), vdupq_n_u32(0x7fffffff)));
      const RunStep scale(vmaxvq_u32(magnitude), quantizer_limit(kind));
      const int32x4_t real = vdupq_n_s32(scale.inverse != 0.0f ? -1 : 0);
      int32x4_t sum = vdupq_n_s32(0);
      for (std::int64_t i = 0; i < padded; i += 16) {
        int16x4_t parts[4];
        HIGGS_UNROLL
        for (int j = 0; j < 4; ++j) {
          const float32x4_t scaled = vmulq_n_f32(vld1q_f32(x + i + 4 * j), scale.inverse);
          const int32x4_t q = vandq_s32(vcvtnq_s32_f32(scaled), real);
          sum = vaddq_s32(sum, q);
          parts[j] = vmovn_s32(q);
        }
        const int16x8_t q0 = vcombine_s16(parts[0], parts[1]), q1 = vcombine_s16(parts[2], parts[3]);
        // High bytes of 16-bit integers as they are, of planes those beside a signed low byte.
        const int16x8_t bias = vdupq_n_s16(words ? 0 : 128);
        uint8x16_t low = vuzp1q_u8(vreinterpretq_u8_s16(q0), vreinterpretq_u8_s16(q1));
        uint8x16_t high =
            vuzp2q_u8(vreinterpretq_u8_s16(vaddq_s16(q0, bias)), vreinterpretq_u8_s16(vaddq_s16(q1, bias)));
        low = vqtbl1q_u8(low, shuffle);
        high = vqtbl1q_u8(high, shuffle);
        uint8x16_t pair[2] = {high, low};
        if (words) {
          low = vqtbl1q_u8(low, swap);
          high = vqtbl1q_u8(high, swap);
          pair[0] = vzip1q_u8(low, high);
          pair[1] = vzip2q_u8(low, high);
        } else if (joins_planes(shape, order)) {
          pair[0] = vreinterpretq_u8_u32(vzip1q_u32(vreinterpretq_u32_u8(high), vreinterpretq_u32_u8(low)));
          pair[1] = vreinterpretq_u8_u32(vzip2q_u32(vreinterpretq_u32_u8(high), vreinterpretq_u32_u8(low)));
        }
        std::uint8_t quads[32];
        vst1q_u8(quads, pair[0]);
        vst1q_u8(quads + 16, pair[1]);
        store_quads(quads, shape, order, panel, (g * shape.padded_group + first + i) / 4, at,
                    static_cast<int>(std::min<std::int64_t>(16, padded - i)) / 4);
      }
      panel.steps[run] = scale.step;
      panel.corrections[run] = static_cast<std::int32_t>(static_cast<std::uint32_t>(vaddvq_s32(sum)) * -128u);
    }
}

}  // namespace neon
#endif

inline void quantize_row(const float* row, const RunShape& shape, Activations kind, QuadOrder order,
                         const Panel& panel, int at, Isa isa) noexcept {
#if defined(HIGGS_TARGET_BEGIN)
  if (isa_includes(isa, Isa::Avx512)) return avx512::quantize_row(row, shape, kind, order, panel, at);
  if (isa_includes(isa, Isa::Avx2)) return avx2::quantize_row(row, shape, kind, order, panel, at);
#elif defined(HIGGS_NEON)
  if (isa_includes(isa, Isa::Neon)) return neon::quantize_row(row, shape, kind, order, panel, at);
#endif
  static_cast<void>(isa);
  quantize_row_portable(row, shape, kind, order, panel, at);
}

/// Whether all steps of row `at` are numbers up to `most`.
inline bool steps_are_at_most(const Panel& panel, const RunShape& shape, int at, float most) noexcept {
  bool all = true;
  for (std::int64_t run = 0; run < shape.runs(); ++run) all &= panel.steps[run * panel.rows + at] <= most;
  return all;
}

/// Memory that is kept between calls on a thread, so that a steady state allocates nothing. A call that begins inside
/// another one on the same thread finds nothing kept and allocates its own.
class Scratch {
 public:
  static constexpr std::size_t alignment = 64;

  explicit Scratch(std::size_t bytes) : memory_(std::exchange(kept(), {})) {
    if (memory_.size < bytes) memory_ = Memory(bytes);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { kept() = std::move(memory_); }
  std::uint8_t* data() const noexcept { return memory_.data; }

 private:
  struct Memory {
    std::uint8_t* data = nullptr;
    std::size_t size = 0;
    Memory() = default;
    explicit Memory(std::size_t bytes)
        : data(static_cast<std::uint8_t*>(::operator new(bytes, std::align_val_t{alignment}))), size(bytes) {}
    Memory(Memory&& other) noexcept
        : data(std::exchange(other.data, nullptr)), size(std::exchange(other.size, 0)) {}
    Memory& operator=(Memory&& other) noexcept {
      std::swap(data, other.data);
      std::swap(size, other.size);
      return *this;
    }
    ~Memory() { ::operator delete(data, std::align_val_t{alignment}); }
  };
  static Memory& kept() noexcept {
    static thread_local Memory memory;
    return memory;
  }
  Memory memory_;
};

}  // namespace detail

/// Rotates a row of x as rotate_row() does and rounds it to 8 bits, for int8 products of your own: out[k] * steps[k / 64]
/// is input k, steps being a 127th of the largest magnitude of their 64 inputs, and NaN where one is not finite. Throws
/// InvalidArgument as rotate_row() does, and unless out.size() is a multiple of 4 and steps holds one for each 64.
template <Scalar X>
void rotate_to_int8(std::span<const X> x, std::span<const float> scales, std::span<std::int8_t> out,
                    std::span<float> steps, std::int64_t block, std::optional<std::uint64_t> seed,
                    std::int64_t first_column = 0, Isa isa = best_isa()) {
  const auto size = static_cast<std::int64_t>(out.size());
  const detail::RunShape shape{.groups = 1,
                               .group = size,
                               .padded_group = size,
                               .run = detail::run_inputs(Activations::Int8),
                               .dim = 1,
                               .planes = 1};
  expects(size % 4 == 0 && std::ssize(steps) == shape.runs(), [&] {
    return detail::sentence("higgs::rotate_to_int8: out holds ", size, " values and steps ", steps.size(),
                            ", but out must hold a multiple of 4, and steps one for each 64 of them");
  });
  const detail::Scratch scratch(out.size() * sizeof(float) + steps.size() * sizeof(std::int32_t));
  const std::span<float> row(reinterpret_cast<float*>(scratch.data()), out.size());
  rotate_row(x, scales, row, block, seed, first_column, isa);
  detail::Panel panel(shape, detail::QuadOrder::Bytes, 1, reinterpret_cast<std::uint8_t*>(out.data()));
  panel.steps = steps.data();
  panel.corrections = reinterpret_cast<std::int32_t*>(row.data() + row.size());
  detail::quantize_row(row.data(), shape, Activations::Int8, detail::QuadOrder::Bytes, panel, 0,
                       usable_isa(isa));
}

}  // namespace v0
}  // namespace higgs
