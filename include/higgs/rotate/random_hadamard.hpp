// SPDX-License-Identifier: Apache-2.0
// Random signs from a seed, then the Hadamard transform of each block, and back.
//
// The signs belong to the file format and never change: the input of absolute column c is negated if
// bit c % 64 of random_bits(seed, c / 64) is set.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/cpu/convert.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/random.hpp>
#include <higgs/rotate/hadamard.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#if defined(HIGGS_TARGET_BEGIN)
#  include <immintrin.h>
#endif

namespace higgs {
inline namespace v0 {

/// The signs of 64 columns: bit i is set if column `first_column` + i is negated.
HIGGS_HOST_DEVICE constexpr std::uint64_t sign_bits(std::uint64_t seed, std::int64_t first_column) noexcept {
  const auto column = static_cast<std::uint64_t>(first_column);
  const std::uint64_t low = random_bits(seed, column / 64) >> column % 64;
  return column % 64 == 0 ? low : low | random_bits(seed, column / 64 + 1) << (64 - column % 64);
}

namespace detail {

inline void flip_signs(std::span<float> x, std::uint64_t bits) {
  for (float& value : x) {
    const auto flip = static_cast<std::uint32_t>(bits << 63 >> 32);
    value = std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) ^ flip);
    bits >>= 1;
  }
}

#if defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)
inline void flip_signs_avx2(float* x, std::uint64_t bits) {  // 64 values
  const __m256 top = _mm256_set1_ps(-0.0f);
  for (int half = 0; half < 64; half += 32) {
    const __m256i word = _mm256_set1_epi32(static_cast<int>(static_cast<std::uint32_t>(bits >> half)));
    __m256i to_top = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24);
    for (float* y = x + half; y != x + half + 32; y += 8) {
      const __m256 flip = _mm256_and_ps(_mm256_castsi256_ps(_mm256_sllv_epi32(word, to_top)), top);
      _mm256_storeu_ps(y, _mm256_xor_ps(_mm256_loadu_ps(y), flip));
      to_top = _mm256_sub_epi32(to_top, _mm256_set1_epi32(8));
    }
  }
}
HIGGS_TARGET_END

HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
/// out[i] = x[i] * scales[i], negated where its bit is set; 64 values, `scales` may be null.
template <class X>
void load_signed_avx512(const X* x, const float* scales, std::uint64_t bits, float* out) {
  for (std::ptrdiff_t i = 0; i < 64; i += 16) {
    __m512 v = cpu::load_16_floats(x + i);
    if (scales != nullptr) v = _mm512_mul_ps(v, _mm512_loadu_ps(scales + i));
    v = _mm512_mask_xor_ps(v, static_cast<__mmask16>(bits >> i), v, _mm512_set1_ps(-0.0f));
    _mm512_storeu_ps(out + i, v);
  }
}
HIGGS_TARGET_END
#endif

}  // namespace detail

/// Negates the values of `x`, columns `first_column` and on, whose sign is negative. Undoes itself.
/// Throws InvalidArgument if `first_column` is negative.
inline void apply_signs(std::span<float> x, std::uint64_t seed, std::int64_t first_column = 0,
                        Isa isa = best_isa()) {
  expects(first_column >= 0, "higgs::apply_signs: first_column must not be negative");
  isa = usable_isa(isa);
  for (std::size_t i = 0; i < x.size(); i += 64) {
    const std::uint64_t bits = sign_bits(seed, first_column + static_cast<std::int64_t>(i));
    const std::span<float> part = x.subspan(i, std::min<std::size_t>(64, x.size() - i));
#if defined(HIGGS_TARGET_BEGIN)
    if (isa_includes(isa, Isa::Avx2) && part.size() == 64) {
      detail::flip_signs_avx2(part.data(), bits);
      continue;
    }
#endif
    detail::flip_signs(part, bits);
  }
}

/// Rotates a padded row in place: signs (none without a seed), then each run of `block` values times
/// H / sqrt(block). `first_column` is the absolute column of row[0], so that shards rotate like the whole.
/// Throws InvalidArgument unless `block` is a supported order that divides row.size(), and first_column >= 0.
inline void rotate_row(std::span<float> row, std::int64_t block, std::optional<std::uint64_t> seed,
                       std::int64_t first_column = 0, Isa isa = best_isa()) {
  if (seed) apply_signs(row, *seed, first_column, isa);
  hadamard_blocks(row, block, isa);
}

/// The same from numbers of any kind to another row, a block at a time: converted, times `scales` (x.size(), or none),
/// and zeros behind the last. Throws InvalidArgument as well unless row.size() >= x.size() and the sizes of x and
/// scales agree.
template <Scalar X>
void rotate_row(std::span<const X> x, std::span<const float> scales, std::span<float> row, std::int64_t block,
                std::optional<std::uint64_t> seed, std::int64_t first_column = 0, Isa isa = best_isa()) {
  expects(is_hadamard_order(block) && static_cast<std::int64_t>(row.size()) % block == 0 &&
              row.size() >= x.size(),
          "higgs::rotate_row: row must hold whole blocks, and all of x");
  expects(scales.empty() || scales.size() == x.size(),
          "higgs::rotate_row: scales must be as many as x, or none");
  expects(first_column >= 0, "higgs::rotate_row: first_column must not be negative");
  isa = usable_isa(isa);
  const auto size = static_cast<std::size_t>(block);
  for (std::size_t begin = 0; begin < row.size(); begin += size) {
    const std::size_t end = std::min(begin + size, std::max(begin, x.size()));  // of the inputs of this block
    std::size_t i = begin;
#if defined(HIGGS_TARGET_BEGIN)
    if (isa_includes(isa, Isa::Avx512))
      for (; i + 64 <= end; i += 64)
        detail::load_signed_avx512(x.data() + i, scales.empty() ? nullptr : scales.data() + i,
                                   seed ? sign_bits(*seed, first_column + static_cast<std::int64_t>(i)) : 0,
                                   row.data() + i);
#endif
    to_floats(x.data() + i, static_cast<std::int64_t>(end - i), row.data() + i, isa);
    for (std::size_t k = i; k < end && !scales.empty(); ++k) row[k] *= scales[k];
    if (seed) apply_signs(row.subspan(i, end - i), *seed, first_column + static_cast<std::int64_t>(i), isa);
    std::fill(row.begin() + static_cast<std::ptrdiff_t>(end),
              row.begin() + static_cast<std::ptrdiff_t>(begin + size), 0.0f);
    hadamard_blocks(row.subspan(begin, size), block, isa);
  }
}

/// The inverse of rotate_row, up to rounding.
inline void unrotate_row(std::span<float> row, std::int64_t block, std::optional<std::uint64_t> seed,
                         std::int64_t first_column = 0, Isa isa = best_isa()) {
  hadamard_blocks(row, block, isa);
  if (seed) apply_signs(row, *seed, first_column, isa);
}

}  // namespace v0
}  // namespace higgs
