// SPDX-License-Identifier: Apache-2.0
// What the readers of rotary positions share.
#include "architecture/config.hpp"
#include "architecture/config_reading.hpp"
#include "architecture/rope.hpp"

#include <cmath>

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

}  // namespace higgs::model
