// SPDX-License-Identifier: Apache-2.0
// The choice of the next token, on the CPU and by the kernel of device/sampling.cuh: equal logits and seeds give equal
// tokens. Probabilities are integers, so that their sums do not depend on an order.
#pragma once

#include <higgs/config.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <span>

namespace higgs::model {

/// How the next token is chosen.
struct Sampling {
  double temperature = 0;  ///< 0: the likeliest token
  std::int64_t top_k = 0;  ///< among the k likeliest tokens; 0: all
  double top_p = 1;        ///< among the likeliest tokens that together have this probability
  std::uint64_t seed = 0;
};

/// Sampling as kernels take it.
struct TokenChoice {
  float slope = 0;         // log2(e) / temperature; 0: the likeliest token
  std::int32_t top_k = 0;  // among the k likeliest tokens; 0: all
  double top_p = 1;        // among the likeliest tokens that together have this probability

  TokenChoice() = default;
  /// Throws InvalidArgument for a negative temperature or top_k, and for top_p outside (0, 1].
  explicit TokenChoice(const Sampling& sampling);
};

/// The token that 64 random bits choose; ties go to the lowest id. Returns -1 - id if the logit of `id` is NaN or
/// +infinity, for the lowest such id. Throws InvalidArgument unless there are 1 to most_tokens logits.
std::int32_t choose_token(std::span<const float> logits, const TokenChoice& choice, std::uint64_t random);

/// Chooses tokens: token i by random_bits(seed, i) of higgs/core/random.hpp.
class Sampler {
 public:
  /// Throws as TokenChoice does.
  explicit Sampler(const Sampling& sampling) : choice_(sampling), seed_(sampling.seed) {}
  /// Throws FormatError, which names the token, for a logit that is NaN or +infinity: the model is damaged.
  std::int32_t choose(std::span<const float> logits);

 private:
  TokenChoice choice_;
  std::uint64_t seed_;
  std::uint64_t drawn_ = 0;
};

/// Rows of the largest vocabulary: sums of weights stay below 2^57.
inline constexpr std::int64_t most_tokens = std::int64_t{1} << 19;

/// A number that is larger for a larger logit, and equal for equal ones.
HIGGS_HOST_DEVICE constexpr std::uint32_t order_of(float logit) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(logit + 0.0f);  // -0 equals 0
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
/// The logit of an order.
HIGGS_HOST_DEVICE constexpr float logit_of(std::uint32_t order) noexcept {
  return std::bit_cast<float>(order >> 31 ? order & 0x7fffffffu : ~order);
}

/// log2 of a token's probability relative to the likeliest, whose logit is `most`; NaN if all logits are -infinity.
HIGGS_HOST_DEVICE inline float log2_odds(float logit, float most, float slope) noexcept {
  return logit == most ? 0.0f : (logit - most) * slope;
}
/// A token's probability as an integer, 2^38 for the likeliest: 2^log2_odds within 2^-22, cut to whole numbers.
HIGGS_HOST_DEVICE inline std::uint64_t weight_of(float log2_odds) noexcept {
  if (!(log2_odds > -40)) return 0;
  const float whole = rintf(log2_odds), rest = log2_odds - whole;
  float power = 1.5252734e-5f;  // Taylor's series of 2^rest, |rest| <= 1/2: ln(2)^k / k!
  power = fmaf(power, rest, 1.5403530e-4f);
  power = fmaf(power, rest, 1.3333558e-3f);
  power = fmaf(power, rest, 9.6181291e-3f);
  power = fmaf(power, rest, 5.5504109e-2f);
  power = fmaf(power, rest, 2.4022651e-1f);
  power = fmaf(power, rest, 6.9314718e-1f);
  power = fmaf(power, rest, 1.0f);
  return static_cast<std::uint64_t>(power * 0x1p38f) >> -static_cast<int>(whole);
}
/// a * b / 2^64, rounded down.
HIGGS_HOST_DEVICE constexpr std::uint64_t multiply_high(std::uint64_t a, std::uint64_t b) noexcept {
  const std::uint64_t a0 = a & 0xffffffffu, a1 = a >> 32, b0 = b & 0xffffffffu, b1 = b >> 32;
  const std::uint64_t middle = a1 * b0 + (a0 * b0 >> 32), other = a0 * b1 + (middle & 0xffffffffu);
  return a1 * b1 + (middle >> 32) + (other >> 32);
}
/// The weight that the likeliest tokens must reach together to have the probability top_p of `total`: 1 to `total`.
HIGGS_HOST_DEVICE inline std::uint64_t nucleus_of(double top_p, std::uint64_t total) noexcept {
  const auto wanted = static_cast<std::uint64_t>(ceil(top_p * static_cast<double>(total)));
  return wanted < 1 ? 1 : wanted > total ? total : wanted;
}

}  // namespace higgs::model
