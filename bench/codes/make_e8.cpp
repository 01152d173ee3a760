// SPDX-License-Identifier: Apache-2.0
// Makes the table of E8Codebook anew, the same bytes on every machine: make_e8 prints codes/e8/points.hpp,
// and on standard error how good it is. 3 minutes on 2 cores.
//
// The start are the points of E8 + 1/4 of least norm: 256 patterns of magnitudes, with every choice of signs
// of the right parity, moved by +-1/4. Lloyd's method then moves patterns and shift, all points of a pattern
// alike. At last the magnitudes become one of 16 levels, a few at a time, so that the others make up for it.
#include <higgs/core/executor.hpp>
#include <higgs/core/random.hpp>
#include <higgs/fit/gaussian_cloud.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <vector>

namespace {

// Patterns are in eighths of an integer of the table, samples in quarters: small enough that floats hold
// every sum of products exactly.
constexpr int pattern_unit = 8, sample_unit = 4, count = 256, lanes = 64;
constexpr double lattice_unit = 40.0;              // integers in 1 of E8
constexpr double greatest = 117 * pattern_unit;    // with the shift it fits int8
constexpr double deviation = lattice_unit / 0.97;  // integers in a standard deviation

using Pattern = std::array<float, 8>;

struct Code {
  std::vector<Pattern> patterns;  // the signs of the first half multiply to +1, of the second to -1
  float shift;
};

/// What the cells of all points of a pattern gather, signs undone.
struct Gathered {
  std::array<std::array<std::int64_t, 8>, count> sum{};
  std::array<std::int64_t, count> mass{};
  std::int64_t shift = 0, error = 0, samples = 0;

  void add(const Gathered& other) {
    for (std::size_t k = 0; k < count; ++k) {
      mass[k] += other.mass[k];
      for (std::size_t d = 0; d < 8; ++d) sum[k][d] += other.sum[k][d];
    }
    shift += other.shift, error += other.error, samples += other.samples;
  }
  /// Per weight of N(0, 1).
  double mse() const {
    constexpr double unit = pattern_unit * deviation;
    return static_cast<double>(error) / static_cast<double>(samples) / 8 / unit / unit;
  }
};

// The nearest points of `lanes` samples.
void encode(const Code& code, const float (*sample)[lanes], Gathered& out) {
  float best[lanes];
  std::int32_t chosen[lanes];
  std::fill_n(best, lanes, -1e30f);
  for (int side = 0; side < 2; ++side) {
    float z[8][lanes], base[lanes] = {};
    std::int32_t odd[lanes] = {};
    const float shift = (side == 0 ? code.shift : -code.shift) / pattern_unit * sample_unit;
    for (int d = 0; d < 8; ++d)
      for (int i = 0; i < lanes; ++i) {
        const float moved = sample[d][i] - shift;
        odd[i] ^= moved < 0;
        z[d][i] = std::abs(moved);
        base[i] -= moved * moved;
      }
    for (int k = 0; k < count; ++k) {
      const Pattern& pattern = code.patterns[static_cast<std::size_t>(k)];
      float norm = 0, score[lanes], least[lanes];
      for (const float p : pattern) norm += p * p;
      std::fill_n(score, lanes, -std::floor(norm * sample_unit / pattern_unit / 2));
      std::fill_n(least, lanes, 1e30f);
      for (std::size_t d = 0; d < 8; ++d)
        for (int i = 0; i < lanes; ++i) {
          const float product = z[d][i] * pattern[d];
          score[i] += product;
          least[i] = std::min(least[i], product);
        }
      const std::int32_t wanted = k >= count / 2;
      for (int i = 0; i < lanes; ++i) {
        const float total = score[i] + base[i] - (odd[i] != wanted ? 2 * least[i] : 0.0f);
        chosen[i] = total > best[i] ? side * count + k : chosen[i];
        best[i] = std::max(best[i], total);
      }
    }
  }
  for (int i = 0; i < lanes; ++i) {
    const auto k = static_cast<std::size_t>(chosen[i] % count);
    const Pattern& pattern = code.patterns[k];
    const int side = chosen[i] < count ? 1 : -1;
    std::array<std::int64_t, 8> along;
    std::int64_t least = INT64_MAX;
    std::size_t weakest = 0;
    bool odd = false;
    for (std::size_t d = 0; d < 8; ++d) {
      const auto z = static_cast<std::int64_t>(sample[d][i] * pattern_unit / sample_unit -
                                               static_cast<float>(side) * code.shift);
      odd ^= z < 0;
      along[d] = std::abs(z);
      const std::int64_t product = along[d] * static_cast<std::int64_t>(pattern[d]);
      if (product < least) least = product, weakest = d;
    }
    const bool flip = odd != (k >= count / 2);
    if (flip) along[weakest] = -along[weakest];
    for (std::size_t d = 0; d < 8; ++d) {
      const bool negative = (sample[d][i] * pattern_unit / sample_unit <
                             static_cast<float>(side) * code.shift) != (flip && d == weakest);
      const std::int64_t miss = along[d] - static_cast<std::int64_t>(pattern[d]);
      out.sum[k][d] += along[d];
      out.error += miss * miss;
      // Where the shift alone would have to be for this sample.
      out.shift += side * (negative ? -miss : miss) + static_cast<std::int64_t>(code.shift);
    }
    ++out.mass[k], ++out.samples;
  }
}

Gathered gather(const Code& code, std::uint64_t seed, std::int64_t batches) {
  Gathered total;
  std::mutex mutex;
  higgs::parallel_for(higgs::default_executor(), batches, 128, [&](std::int64_t begin, std::int64_t end) {
    Gathered part;
    higgs::detail::Sobol<8> sequence(higgs::random_bits(seed, static_cast<std::uint64_t>(begin)));
    const auto& quantile = higgs::detail::HalfNormal::instance();
    for (std::int64_t batch = begin; batch < end; ++batch) {
      float sample[8][lanes];
      for (int i = 0; i < lanes; ++i) {
        const auto u = sequence.next();
        for (std::size_t d = 0; d < 8; ++d) {
          const double x = std::rint(quantile(u[d] & 0x7fffffffu) * 0x1p-12 * deviation * sample_unit);
          sample[d][i] = static_cast<float>((u[d] >> 31) != 0 ? -x : x);
        }
      }
      encode(code, sample, part);
    }
    const std::lock_guard lock(mutex);
    total.add(part);
  });
  return total;
}

Code start(std::uint64_t seed) {
  std::array<std::vector<Pattern>, 2> inner, rim;  // by parity
  for (int bits = 0; bits < 1 << 16; ++bits) {
    Pattern pattern;
    int norm = 0, sum = 0;  // of twice the pattern
    for (std::size_t d = 0; d < 8; ++d) {
      const int twice = 2 * (bits >> 2 * d & 3) + 1;
      pattern[d] = static_cast<float>(std::rint(twice * lattice_unit / 2 * pattern_unit));
      norm += twice * twice, sum += twice;
    }
    const auto parity = static_cast<std::size_t>(sum / 2 % 2);
    if (norm <= 40) inner[parity].push_back(pattern);
    if (norm == 48) rim[parity].push_back(pattern);
  }
  Code code{{}, static_cast<float>(lattice_unit / 4 * pattern_unit)};
  std::uint64_t counter = 0;
  for (const std::size_t parity : {0u, 1u}) {
    std::vector<Pattern>& patterns = inner[parity];
    std::vector<Pattern>& more = rim[parity];
    while (patterns.size() < count / 2) {
      std::swap(more[higgs::random_bits(seed, counter++) % more.size()], more.back());
      patterns.push_back(more.back());
      more.pop_back();
    }
    code.patterns.insert(code.patterns.end(), patterns.begin(), patterns.end());
  }
  return code;
}

/// Moves the patterns `gain` times the way to the means of their cells, those that are `frozen` excepted.
void step_toward(const Gathered& cells, double gain, const std::vector<std::array<bool, 8>>& frozen,
                 Code& code) {
  for (std::size_t k = 0; k < count; ++k)
    for (std::size_t d = 0; d < 8; ++d) {
      if (frozen[k][d] || cells.mass[k] == 0) continue;
      const double mean = static_cast<double>(cells.sum[k][d]) / static_cast<double>(cells.mass[k]);
      const double at = code.patterns[k][d] + gain * (mean - code.patterns[k][d]);
      code.patterns[k][d] = static_cast<float>(std::clamp(std::rint(at), 1.0, greatest));
    }
}

using Flags = std::vector<std::array<bool, 8>>;

/// The mean distance of y to its points: where the shift has to be.
void move_shift(const Gathered& cells, Code& code) {
  const double mean = static_cast<double>(cells.shift) / static_cast<double>(8 * cells.samples);
  code.shift = static_cast<float>(2 * std::rint(mean / 2));  // whole in units of samples
}

/// The 16 whole levels (in integers of the table) near which the magnitudes are, by dynamic programming:
/// `cost` of the first values in so many runs, each at its mean.
std::array<int, 16> find_levels(const Code& code) {
  std::vector<double> values, sum{0}, square{0};
  for (const Pattern& pattern : code.patterns)
    for (const float p : pattern) values.push_back(p / pattern_unit);
  std::sort(values.begin(), values.end());
  for (const double v : values) sum.push_back(sum.back() + v), square.push_back(square.back() + v * v);
  const std::size_t n = values.size();
  std::vector<double> cost(n + 1, 1e30);
  std::array<std::vector<std::size_t>, 16> begin;
  cost[0] = 0;
  for (auto& from : begin) {
    std::vector<double> next(n + 1, 1e30);
    from.resize(n + 1);
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = i + 1; j <= n && cost[i] < 1e30; ++j) {
        const double all = sum[j] - sum[i];
        const double total = cost[i] + square[j] - square[i] - all * all / static_cast<double>(j - i);
        if (total < next[j]) next[j] = total, from[j] = i;
      }
    cost = next;
  }
  std::array<int, 16> levels;
  std::size_t end = n;
  for (std::size_t i = 16; i-- > 0; end = begin[i][end])
    levels[i] = static_cast<int>(
        std::rint((sum[end] - sum[begin[i][end]]) / static_cast<double>(end - begin[i][end])));
  return levels;
}

int nearest_level(const std::array<int, 16>& levels, float p) {
  int best = 0;
  for (int i = 1; i < 16; ++i)
    if (std::abs(p - static_cast<float>(pattern_unit * levels[static_cast<std::size_t>(i)])) <
        std::abs(p - static_cast<float>(pattern_unit * levels[static_cast<std::size_t>(best)])))
      best = i;
  return best;
}

/// Freezes the magnitudes that are nearest to a level, `share` of them all.
void freeze(const std::array<int, 16>& levels, double share, Code& code, Flags& frozen) {
  std::vector<float> misses;
  const auto miss = [&](std::size_t k, std::size_t d) {
    const int level = levels[static_cast<std::size_t>(nearest_level(levels, code.patterns[k][d]))];
    return std::abs(code.patterns[k][d] - static_cast<float>(pattern_unit * level));
  };
  for (std::size_t k = 0; k < count; ++k)
    for (std::size_t d = 0; d < 8; ++d) misses.push_back(miss(k, d));
  std::sort(misses.begin(), misses.end());
  const float bound = misses[static_cast<std::size_t>(share * 8 * count) - 1];
  for (std::size_t k = 0; k < count; ++k)
    for (std::size_t d = 0; d < 8; ++d)
      if (frozen[k][d] || miss(k, d) <= bound) {
        const int level = levels[static_cast<std::size_t>(nearest_level(levels, code.patterns[k][d]))];
        code.patterns[k][d] = static_cast<float>(pattern_unit * level);
        frozen[k][d] = true;
      }
}

}  // namespace

int main() {
  constexpr std::uint64_t seed = 1;
  constexpr int steps = 300, stages = 32;
  constexpr double heat = 0.12 * lattice_unit * pattern_unit;
  Code code = start(seed);
  Flags frozen(count);
  std::uint64_t round = 0;
  for (int step = 0; step < steps; ++step) {
    const Gathered cells = gather(code, higgs::random_bits(seed, ++round), 4096);
    const double left = std::max(0.0, 1 - static_cast<double>(step) / (0.7 * steps));
    const double settling = step - 0.7 * steps;
    if (step % 50 == 0 || step == steps - 1) std::fprintf(stderr, "step %d: %.6f\n", step, cells.mse());
    move_shift(cells, code);
    step_toward(cells, left > 0 ? 1.5 : 1 / (1 + settling / 8), frozen, code);
    const std::uint64_t noise = higgs::random_bits(~seed, round);
    for (std::size_t k = 0; k < count && left > 0; ++k)
      for (std::size_t d = 0; d < 8; ++d) {
        const double moved =
            code.patterns[k][d] + 2 * heat * left * (higgs::random_uniform(noise, 8 * k + d) - 0.5);
        code.patterns[k][d] = static_cast<float>(std::clamp(std::rint(moved), 1.0, greatest));
      }
  }
  const int shift = static_cast<int>(std::rint(code.shift / pattern_unit));
  code.shift = static_cast<float>(shift * pattern_unit);
  std::fprintf(stderr, "before rounding: %.6f\n", gather(code, 77, 1 << 15).mse());

  const std::array<int, 16> levels = find_levels(code);
  for (int stage = 1; stage <= stages; ++stage) {
    freeze(levels, static_cast<double>(stage) / stages, code, frozen);
    for (int step = 0; step < 3; ++step)
      step_toward(gather(code, higgs::random_bits(seed, ++round), 4096), 1.0, frozen, code);
  }

  const Gathered cells = gather(code, 78, 1 << 17);
  std::sort(code.patterns.begin(), code.patterns.begin() + count / 2);
  std::sort(code.patterns.begin() + count / 2, code.patterns.end());
  std::fprintf(stderr, "%.6f, shift %d\n", cells.mse(), shift);
  std::printf(R"(// SPDX-License-Identifier: Apache-2.0
// Made by bench/codes/make_e8.cpp; edit that, not this.
#pragma once

#include <higgs/config.hpp>

#include <array>
#include <cstdint>

namespace higgs {
inline namespace v0 {
namespace detail {

inline constexpr double e8_step = %.12g;
inline constexpr double e8_mse = %.6g;
inline constexpr int e8_shift = %d;
inline constexpr std::array<std::uint8_t, 16> e8_levels = {{)",
              1 / deviation, cells.mse(), shift);
  for (std::size_t i = 0; i < 16; ++i) std::printf("%s%d", i == 0 ? "" : ", ", levels[i]);
  std::printf("}};\n/// Magnitude d of a pattern is the level in bits 4 d ... 4 d + 3.\n");
  std::printf("inline constexpr std::array<std::uint32_t, %d> e8_patterns = {{", count);
  for (std::size_t k = 0; k < count; ++k) {
    std::uint32_t word = 0;
    for (std::size_t d = 0; d < 8; ++d)
      word |= static_cast<std::uint32_t>(nearest_level(levels, code.patterns[k][d])) << 4 * d;
    std::printf("%s0x%08x,", k % 8 == 0 ? "\n    " : " ", word);
  }
  std::printf("\n}};\n\n}  // namespace detail\n}  // namespace v0\n}  // namespace higgs\n");
}
