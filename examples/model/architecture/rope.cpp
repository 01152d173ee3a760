// SPDX-License-Identifier: Apache-2.0
#include "architecture/rope.hpp"

#include "architecture/config.hpp"
#include "architecture/config_reading.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace higgs::model {

double yarn_attention(double factor, double scale) {
  return factor <= 1 ? 1 : 0.1 * scale * std::log(factor) + 1;
}

void check_rope(const ModelConfig& config, const Fields& fields, const std::string& keys) {
  for (const std::int64_t positions : {std::int64_t{1}, config.context})
    for (const float each : rope_frequencies(config, positions))
      if (!std::isfinite(each) || !std::isfinite(static_cast<float>(config.rope_scaling.attention_factor)))
        fields.fail("one of " + keys + " is so extreme that rotary positions exceed floats");
}

std::vector<double> read_divisors(const SourceTensor& tensor, const ModelConfig& config) {
  const auto fail = [&](const std::string& what) {
    throw FormatError(tensor.owner->path().string() + ": tensor " + in_quotes(tensor.name) + " " + what);
  };
  if (tensor.shape != std::vector<std::int64_t>{config.head_width / 2} || !tensor.readable())
    fail("must hold " + std::to_string(config.head_width / 2) + " floats, half the width of a head");
  std::vector<float> values(static_cast<std::size_t>(tensor.cols()));
  tensor.read_rows(0, 1, values);
  for (const float each : values)
    if (!(each > 0) || !std::isfinite(each))
      fail("holds " + std::to_string(each) + ", but divisors of frequencies must be above 0");
  return {values.begin(), values.end()};
}

void divide_frequencies(ModelConfig& config, const std::vector<double>& divisors) {
  RopeScaling& scaling = config.rope_scaling;
  if (scaling.kind != RopeScaling::Kind::LongRope) {
    ModelConfig plain = config;
    plain.rope_scaling = {};
    const std::vector<float> with = rope_frequencies(config), without = rope_frequencies(plain);
    std::vector<double> factors;
    for (std::size_t i = 0; i < with.size(); ++i)
      factors.push_back(static_cast<double>(without[i]) / static_cast<double>(with[i]));
    scaling = {.kind = RopeScaling::Kind::LongRope,
               .original_context = static_cast<double>(config.context),
               .short_factor = factors,
               .long_factor = factors,
               .attention_factor = scaling.attention_factor};
  }
  for (auto* factors : {&scaling.short_factor, &scaling.long_factor})
    for (std::size_t i = 0; i < factors->size(); ++i) (*factors)[i] *= divisors[i];
}

void divide_frequencies(ModelConfig& config, const SourceTensor& divisors) {
  divide_frequencies(config, read_divisors(divisors, config));
}

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
