// SPDX-License-Identifier: Apache-2.0
// All points for many vectors at a time, in integer lanes.
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/portable/isa.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace higgs {
inline namespace v0 {
namespace cpu {

/// Vectors that a search takes at a time.
inline constexpr int search_batch = 64;

/// A run of at most 256 points, arranged so that one signed maximum finds the nearest and the lowest of
/// equals: start + 256 <y, c> = 256 * score + 255 - index + a constant, exactly, in 32 bits.
template <int Dim>
struct PointRun {
  static constexpr int pairs = (Dim + 1) / 2;
  struct Entry {
    std::array<std::int32_t, static_cast<std::size_t>(pairs)> words;  // two int16 each: coordinates times 256
    std::int32_t start;
  };
  const Entry* entries;
  int count;
};

/// The position in the run and the score (for comparison between runs) of a maximum.
constexpr std::int32_t place_of(std::int32_t best) noexcept { return 255 - (best & 255); }
constexpr std::int32_t score_of(std::int32_t best) noexcept { return best >> 8; }

/// best[i] = the maximum over the run for vector i of `fixed` (search_batch, Dim).
template <int Dim>
void search_run(Portable, const PointRun<Dim>& run, const float* fixed, std::int32_t* best) noexcept {
  std::int32_t y[higgs::detail::extent<Dim>][search_batch];
  for (int i = 0; i < search_batch; ++i)
    for (int d = 0; d < Dim; ++d) y[d][i] = static_cast<std::int32_t>(fixed[i * Dim + d]);
  std::fill_n(best, search_batch, std::numeric_limits<std::int32_t>::min());
  for (int k = 0; k < run.count; ++k) {
    std::int32_t sums[search_batch];
    std::fill_n(sums, search_batch, run.entries[k].start);
    for (int d = 0; d < Dim; ++d) {
      const std::int32_t word = run.entries[k].words[static_cast<std::size_t>(d / 2)];
      const std::int32_t c = d % 2 == 0 ? static_cast<std::int16_t>(word & 0xffff) : word >> 16;
      for (int i = 0; i < search_batch; ++i) sums[i] += c * y[d][i];
    }
    for (int i = 0; i < search_batch; ++i) best[i] = std::max(best[i], sums[i]);
  }
}

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
