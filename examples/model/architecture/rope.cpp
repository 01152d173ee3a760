// SPDX-License-Identifier: Apache-2.0
#include "architecture/rope.hpp"

#include "architecture/config.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace higgs::model {

std::vector<float> rope_frequencies(const ModelConfig& config, std::int64_t positions) {
  const RopeScaling& scaling = config.rope_scaling;
  const auto width = static_cast<double>(config.head_width);
  // YaRN: the pair that turns `turns` times in the original context.
  const auto pair_of = [&](double turns) {
    return width * std::log(scaling.original_context / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(config.rope_theta));
  };
  double first = 0, last = 0;
  if (scaling.kind == RopeScaling::Kind::Yarn) {
    first = pair_of(scaling.beta_fast);
    last = pair_of(scaling.beta_slow);
    if (scaling.truncate) {
      first = std::floor(first);
      last = std::ceil(last);
    }
    first = std::max(first, 0.0);
    last = std::min(last, width - 1);
    if (first == last) last += 0.001;
  }
  const auto& divisors =
      static_cast<double>(positions) > scaling.original_context ? scaling.long_factor : scaling.short_factor;
  std::vector<float> out;
  for (std::int64_t i = 0; i < config.head_width; i += 2) {
    const std::int64_t pair = i / 2;
    double frequency = std::pow(config.rope_theta, -static_cast<double>(i) / width);
    double kept = 1;  // how much of the frequency is not stretched
    if (scaling.kind == RopeScaling::Kind::Linear) kept = 0;
    if (scaling.kind == RopeScaling::Kind::Llama3) {
      const double turns = scaling.original_context * frequency / (2 * std::numbers::pi);
      kept = std::clamp(
          (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor), 0.0, 1.0);
    }
    if (scaling.kind == RopeScaling::Kind::Yarn)
      kept = 1 - std::clamp((static_cast<double>(pair) - first) / (last - first), 0.0, 1.0);
    frequency = (1 - kept) * frequency / scaling.factor + kept * frequency;
    if (scaling.kind == RopeScaling::Kind::LongRope) frequency /= divisors[static_cast<std::size_t>(pair)];
    out.push_back(static_cast<float>(frequency));
  }
  return out;
}

}  // namespace higgs::model
