// SPDX-License-Identifier: Apache-2.0
#include "math/math.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

// One copy of a function for each instruction set; the loader picks the best one that the machine has.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__)
#  define HIGGS_MODEL_CLONES [[gnu::target_clones("avx512f", "avx2", "default")]]
#else
#  define HIGGS_MODEL_CLONES
#endif

namespace higgs::model {
namespace {

// Sums go to this many lanes, which compilers keep in vector registers.
constexpr int lanes = 32;

// exp(x) within 2 ulp for x <= 88; 0 below -87. No branches, so that loops over it become vector code.
[[gnu::always_inline]] inline float fast_exp(float x) noexcept {
  constexpr float log2_e = 1.44269504f;
  constexpr float ln2_high = 0.693145752f,
                  ln2_low = 1.42860677e-6f;  // their sum is ln 2, the first has 12 bits
  constexpr float magic = 0x1.8p23f;         // adding it rounds to an integer
  const float clamped = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  const float shifted = clamped * log2_e + magic;
  const float whole = shifted - magic;
  const float r = (clamped - whole * ln2_high) - whole * ln2_low;  // |r| <= ln 2 / 2
  // Taylor's series; the first term left out is r^8 / 8! < 6e-9.
  float e = 1.0f / 5040.0f;
  e = e * r + 1.0f / 720.0f;
  e = e * r + 1.0f / 120.0f;
  e = e * r + 1.0f / 24.0f;
  e = e * r + 1.0f / 6.0f;
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  // The low bits of `shifted` hold the integer; they go to the exponent.
  const float power = std::bit_cast<float>(
      (std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(magic) + 127) << 23);
  return x < -87.0f ? 0.0f : e * power;
}

[[gnu::always_inline]] inline float largest(const float* x, std::int64_t n) noexcept {
  float most[lanes];
  std::fill(most, most + lanes, -INFINITY);
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int lane = 0; lane < lanes; ++lane) most[lane] = x[i + lane] > most[lane] ? x[i + lane] : most[lane];
  for (; i < n; ++i) most[0] = std::max(most[0], x[i]);
  return *std::max_element(most, most + lanes);
}

[[gnu::always_inline]] inline double total(const float (&sums)[lanes]) noexcept {
  double sum = 0;
  for (const float each : sums) sum += static_cast<double>(each);
  return sum;
}

// Terms that a float lane adds up before a double takes over: keeps long sums as exact as short ones.
constexpr std::int64_t run = 64 * lanes;

}  // namespace

HIGGS_MODEL_CLONES
void rms_norm(const float* x, const float* gain, std::int64_t n, double epsilon, float* out) noexcept {
  float sums[lanes] = {};
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int lane = 0; lane < lanes; ++lane) sums[lane] += x[i + lane] * x[i + lane];
  for (int lane = 0; i + lane < n; ++lane) sums[lane] += x[i + lane] * x[i + lane];
  const auto factor = static_cast<float>(1.0 / std::sqrt(total(sums) / static_cast<double>(n) + epsilon));
  for (i = 0; i < n; ++i) out[i] = x[i] * factor * gain[i];
}

HIGGS_MODEL_CLONES
void softmax(float* x, std::int64_t n) noexcept {
  const float most = largest(x, n);
  float sums[lanes] = {};
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int lane = 0; lane < lanes; ++lane) sums[lane] += x[i + lane] = fast_exp(x[i + lane] - most);
  for (; i < n; ++i) sums[0] += x[i] = fast_exp(x[i] - most);
  const auto factor = static_cast<float>(1.0 / total(sums));
  for (i = 0; i < n; ++i) x[i] *= factor;
}

HIGGS_MODEL_CLONES
void swiglu(const float* gate, const float* up, std::int64_t n, float* out) noexcept {
  for (std::int64_t i = 0; i < n; ++i) out[i] = gate[i] / (1.0f + fast_exp(-gate[i])) * up[i];
}

HIGGS_MODEL_CLONES
double log_sum_exp(const float* x, std::int64_t n) noexcept {
  const float most = largest(x, n);
  double sum = 0;
  for (std::int64_t begin = 0; begin < n; begin += run) {
    const std::int64_t end = std::min(n, begin + run);
    float sums[lanes] = {};
    std::int64_t i = begin;
    for (; i + lanes <= end; i += lanes)
      for (int lane = 0; lane < lanes; ++lane) sums[lane] += fast_exp(x[i + lane] - most);
    for (; i < end; ++i) sums[0] += fast_exp(x[i] - most);
    sum += total(sums);
  }
  return static_cast<double>(most) + std::log(sum);
}

HIGGS_MODEL_CLONES
double kl_divergence(const float* p, double p_log_sum, const float* q, double q_log_sum,
                     std::int64_t n) noexcept {
  // sum p (log p - log q), where log p - log q = (p_i - q_i) - (p_log_sum - q_log_sum). The constant joins
  // each term before it is summed: terms stay as small as the divergence is.
  const auto p_sum = static_cast<float>(p_log_sum), shift = static_cast<float>(p_log_sum - q_log_sum);
  double sum = 0, mass = 0;
  for (std::int64_t begin = 0; begin < n; begin += run) {
    const std::int64_t end = std::min(n, begin + run);
    float sums[lanes] = {}, masses[lanes] = {};
    std::int64_t i = begin;
    const auto add = [&](std::int64_t at, int lane) {
      const float probability = fast_exp(p[at] - p_sum);
      sums[lane] += probability * ((p[at] - q[at]) - shift);
      masses[lane] += probability;
    };
    for (; i + lanes <= end; i += lanes)
      for (int lane = 0; lane < lanes; ++lane) add(i + lane, lane);
    for (; i < end; ++i) add(i, 0);
    sum += total(sums);
    mass += total(masses);
  }
  // Rounding of p_sum and shift moves all probabilities together; the mass, which should be 1, shows by how
  // much.
  return sum / mass;
}

HIGGS_MODEL_CLONES
std::int64_t find_not_finite(const float* x, std::int64_t n) noexcept {
  constexpr std::uint32_t exponent = 0x7f800000;  // all ones: neither NaN nor infinity has another
  for (std::int64_t begin = 0; begin < n; begin += run) {
    const std::int64_t end = std::min(n, begin + run);
    std::uint32_t found = 0;  // no branch, so that the loop becomes vector code
    for (std::int64_t i = begin; i < end; ++i)
      found |= (std::bit_cast<std::uint32_t>(x[i]) & exponent) == exponent ? 1u : 0u;
    if (found == 0) continue;
    for (std::int64_t i = begin; i < end; ++i)
      if ((std::bit_cast<std::uint32_t>(x[i]) & exponent) == exponent) return i;
  }
  return -1;
}

}  // namespace higgs::model
