// SPDX-License-Identifier: Apache-2.0
// Rows of x as the integer kernels read them: rotated, rounded to 16 or 8 bits, in the order of the tiles' units.
//
// A group of weights is cut into runs (the last may be shorter). Of the rotated inputs r of a run:
//     peak = max |r|,  step = peak / limit,  q = round to nearest even (r * (limit / peak)),
// limit = 32639 or 127. A run of NaN or infinity has step NaN; one below 2^-100 counts as zero.
// With runs of 512 a dot product of q and int8 coordinates fits in 32 bits: 128 * 32639 * 512 < 2^31.
#pragma once

#include <higgs/core/cpu.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/pack/tiles.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <span>
#include <utility>

#if defined(HIGGS_TARGET_BEGIN)
#  include <immintrin.h>
#endif

namespace higgs {
inline namespace v0 {

/// How finely activations are rounded. A product's relative RMS error is about 3e-5 and 5e-3; the weights are exact.
enum class Activations {
  Int16,  ///< one step for each 512 inputs at most; costs nothing where memory is the limit
  Int8,   ///< one step for each 64 inputs at most; up to twice as fast where arithmetic is the limit
};

namespace detail {

constexpr std::int64_t run_inputs(Activations kind) noexcept { return kind == Activations::Int16 ? 512 : 64; }
constexpr float quantizer_limit(Activations kind) noexcept {
  return kind == Activations::Int16 ? 32639.0f : 127.0f;  // 32639 = 127 * 256 + 127: both bytes stay in int8
}

/// How activations are laid out for one instruction set.
enum class QuadOrder {
  Bytes,  // (inputs / 4, rows, planes) quads of int8 in the order of decoded vectors; planes: high byte, low byte
  Words,  // (inputs / 2, rows) pairs of int16 in the order of inputs
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

/// Some rows of activations. What belongs to one input lies together for all rows.
struct Panel {
  int rows = 0;
  std::uint8_t* quads = nullptr;        // row_bytes * rows, see QuadOrder
  float* steps = nullptr;               // (runs, rows)
  std::int32_t* corrections = nullptr;  // (runs, rows): 128 * sum of q, for coordinates stored with 128 added

  /// Bytes of a panel of `rows`, a multiple of 64.
  static std::size_t bytes(const RunShape& shape, QuadOrder order, int rows) noexcept {
    const auto all = static_cast<std::size_t>(rows * (shape.row_bytes(order) + 8 * shape.runs()));
    return (all + 63) / 64 * 64;
  }
  Panel(const RunShape& shape, QuadOrder order, int row_count, std::uint8_t* memory) noexcept
      : rows(row_count),
        quads(memory),
        steps(reinterpret_cast<float*>(memory + row_count * shape.row_bytes(order))),
        corrections(reinterpret_cast<std::int32_t*>(steps + row_count * shape.runs())) {}
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
  const std::int64_t rows = panel.rows, per_input = order == QuadOrder::Words ? 2 : shape.planes;
  std::int64_t run = at;  // index into steps and corrections
  for (std::int64_t g = 0; g < shape.groups; ++g) {
    std::uint8_t* quads = panel.quads + g * shape.padded_group * per_input * rows;
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
        if (order == QuadOrder::Words) {
          const auto word = static_cast<std::int16_t>(q);
          std::memcpy(quads + (((first + i) / 2 * rows + at) * 2 + (first + i) % 2) * 2, &word, 2);
        } else {
          const std::int64_t place = quad_position(first + i, shape.dim);
          std::uint8_t* quad = quads + (place / 4 * rows + at) * 4 * shape.planes + place % 4;
          if (shape.planes == 2) {
            quad[0] = static_cast<std::uint8_t>((q + 128) >> 8);
            quad[4] = static_cast<std::uint8_t>(q);
          } else {
            quad[0] = static_cast<std::uint8_t>(q);
          }
        }
      }
      panel.steps[run] = scale.step;
      panel.corrections[run] = static_cast<std::int32_t>(static_cast<std::uint32_t>(sum) * 128u);
    }
  }
}

#if defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace avx512 {

/// The same in the order Bytes.
inline void quantize_row(const float* row, const RunShape& shape, Activations kind, const Panel& panel,
                         int at) noexcept {
  alignas(16) static constexpr std::uint8_t orders[3][16] = {
      {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
      {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15},
      {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15}};
  const __m128i order = _mm_load_si128(reinterpret_cast<const __m128i*>(orders[shape.dim / 2]));
  const std::int64_t rows = panel.rows, stride = rows * shape.planes;  // of quads
  std::int64_t run = at;
  for (std::int64_t g = 0; g < shape.groups; ++g) {
    for (std::int64_t first = 0; first < shape.padded_group; first += shape.run, run += rows) {
      const float* x = row + g * shape.group + first;
      const std::int64_t padded = std::min(shape.run, shape.padded_group - first);
      const std::int64_t count = std::min(padded, shape.group - first);
      const auto load = [&](std::int64_t i) __attribute__((always_inline)) {
        const std::int64_t rest = count - i;
        if (rest >= 16) return _mm512_loadu_ps(x + i);
        return _mm512_maskz_loadu_ps(static_cast<__mmask16>(rest > 0 ? (1u << rest) - 1u : 0u), x + i);
      };
      __m512i magnitude = _mm512_setzero_si512();
      for (std::int64_t i = 0; i < count; i += 16)
        magnitude = _mm512_max_epu32(
            magnitude, _mm512_and_si512(_mm512_castps_si512(load(i)), _mm512_set1_epi32(0x7fffffff)));
      const RunStep scale(_mm512_reduce_max_epu32(magnitude), quantizer_limit(kind));
      const __m512 inverse = _mm512_set1_ps(scale.inverse);
      const __mmask16 real = scale.inverse != 0.0f ? 0xffff : 0;
      __m512i sum = _mm512_setzero_si512();
      std::uint8_t* quad =
          panel.quads + ((g * shape.padded_group + first) / 4 * rows + at) * 4 * shape.planes;
      for (std::int64_t i = 0; i < padded; i += 16) {
        const __m512i q = _mm512_maskz_cvtps_epi32(real, _mm512_mul_ps(load(i), inverse));
        sum = _mm512_add_epi32(sum, q);
        const __m128i low = _mm_shuffle_epi8(_mm512_cvtepi32_epi8(q), order);
        alignas(16) std::uint32_t lows[4], highs[4];
        _mm_store_si128(reinterpret_cast<__m128i*>(lows), low);
        const int quads = static_cast<int>(std::min<std::int64_t>(16, padded - i)) / 4;
        if (shape.planes == 1) {
          for (int j = 0; j < quads; ++j, quad += 4 * stride) std::memcpy(quad, lows + j, 4);
          continue;
        }
        const __m512i upper = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8);
        const __m128i high = _mm_shuffle_epi8(_mm512_cvtepi32_epi8(upper), order);
        if (rows == 1 && quads == 4) {
          _mm_storeu_si128(reinterpret_cast<__m128i*>(quad), _mm_unpacklo_epi32(high, low));
          _mm_storeu_si128(reinterpret_cast<__m128i*>(quad + 16), _mm_unpackhi_epi32(high, low));
          quad += 32;
          continue;
        }
        _mm_store_si128(reinterpret_cast<__m128i*>(highs), high);
        for (int j = 0; j < quads; ++j, quad += 4 * stride) {
          std::memcpy(quad, highs + j, 4);
          std::memcpy(quad + 4, lows + j, 4);
        }
      }
      panel.steps[run] = scale.step;
      panel.corrections[run] =
          static_cast<std::int32_t>(static_cast<std::uint32_t>(_mm512_reduce_add_epi32(sum)) * 128u);
    }
  }
}

}  // namespace avx512
HIGGS_TARGET_END
#endif

inline void quantize_row(const float* row, const RunShape& shape, Activations kind, QuadOrder order,
                         const Panel& panel, int at, Isa isa) noexcept {
#if defined(HIGGS_TARGET_BEGIN)
  if (isa == Isa::Avx512 && order == QuadOrder::Bytes)
    return avx512::quantize_row(row, shape, kind, panel, at);
#endif
  static_cast<void>(isa);
  quantize_row_portable(row, shape, kind, order, panel, at);
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

}  // namespace v0
}  // namespace higgs
