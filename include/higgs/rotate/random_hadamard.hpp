// SPDX-License-Identifier: Apache-2.0
// Random signs from a seed, then the Hadamard transform of each block, and back.
//
// The signs belong to the file format and never change: the input of absolute column c is negated if
// bit c % 64 of random_bits(seed, c / 64) is set.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/cpu/portable/signs.hpp>
#include <higgs/rotate/hadamard.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace higgs {
inline namespace v0 {

/// Negates the values of `x`, columns `first_column` and on, whose sign is negative. Undoes itself.
/// Throws InvalidArgument if `first_column` is negative.
HIGGS_INLINE void apply_signs(std::span<float> x, std::uint64_t seed, std::int64_t first_column = 0,
                              Isa isa = best_isa());

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
                std::optional<std::uint64_t> seed, std::int64_t first_column = 0, Isa isa = best_isa());

/// The inverse of rotate_row, up to rounding.
inline void unrotate_row(std::span<float> row, std::int64_t block, std::optional<std::uint64_t> seed,
                         std::int64_t first_column = 0, Isa isa = best_isa()) {
  hadamard_blocks(row, block, isa);
  if (seed) apply_signs(row, *seed, first_column, isa);
}

#if HIGGS_DEFINITIONS

HIGGS_INLINE void apply_signs(std::span<float> x, std::uint64_t seed, std::int64_t first_column, Isa isa) {
  expects(first_column >= 0, "higgs::apply_signs: first_column must not be negative");
  cpu::dispatch(usable_isa(isa), [&](auto set) { flip_signs(set, x.data(), x.size(), seed, first_column); });
}

template <Scalar X>
void rotate_row(std::span<const X> x, std::span<const float> scales, std::span<float> row, std::int64_t block,
                std::optional<std::uint64_t> seed, std::int64_t first_column, Isa isa) {
  expects(is_hadamard_order(block) && static_cast<std::int64_t>(row.size()) % block == 0 &&
              row.size() >= x.size(),
          "higgs::rotate_row: row must hold whole blocks, and all of x");
  expects(scales.empty() || scales.size() == x.size(),
          "higgs::rotate_row: scales must be as many as x, or none");
  expects(first_column >= 0, "higgs::rotate_row: first_column must not be negative");
  isa = usable_isa(isa);
  const auto size = static_cast<std::size_t>(block);
  for (std::size_t begin = 0; begin < row.size(); begin += size) {
    const std::size_t end = std::min(begin + size, std::max(begin, x.size()));  // end of the block's inputs
    cpu::dispatch(isa, [&](auto set) {
      load_signed(set, x.data() + begin, scales.empty() ? nullptr : scales.data() + begin, end - begin, seed,
                  first_column + static_cast<std::int64_t>(begin), row.data() + begin);
    });
    std::fill(row.begin() + static_cast<std::ptrdiff_t>(end),
              row.begin() + static_cast<std::ptrdiff_t>(begin + size), 0.0f);
    hadamard_blocks(row.subspan(begin, size), block, isa);
  }
}

#endif

}  // namespace v0
}  // namespace higgs
