// SPDX-License-Identifier: Apache-2.0
// Rotary positions: the angles by which the heads of queries and keys are turned.
#pragma once

#include <higgs/store/tensor_source.hpp>

#include <cstdint>
#include <vector>

namespace higgs::model {

struct ModelConfig;

/// How the angles of the rotary embedding are stretched beyond the context of pre-training.
struct RopeScaling {
  enum class Kind { None, Linear, Llama3, Yarn, LongRope };
  Kind kind = Kind::None;
  double factor = 1;  // Linear, Llama3, Yarn: the frequencies that are stretched are divided by it
  // Llama 3: wavelengths above original_context / low_freq_factor are stretched, those below
  // original_context / high_freq_factor are not, those between in part.
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  double original_context = 8192;  // Llama3, Yarn, LongRope: positions of pre-training
  // Yarn: frequencies that turn less than beta_slow times in the original context are stretched, those that turn
  // more than beta_fast times are not. `truncate` rounds the border to whole pairs.
  double beta_fast = 32;
  double beta_slow = 1;
  bool truncate = true;
  // LongRope: divisors of the frequencies, (head_width / 2): for texts within the original context, and beyond.
  std::vector<double> short_factor{}, long_factor{};
  double attention_factor = 1;  // Yarn, LongRope: cosines and sines are multiplied by it

  bool operator==(const RopeScaling&) const = default;
};

/// Angle per position of each pair of a head, in texts of up to `positions` tokens: head_width / 2 of them, rounded
/// to float as in training.
std::vector<float> rope_frequencies(const ModelConfig& config, std::int64_t positions = 1);
/// Divides the frequencies by what a tensor (head_width / 2) holds, on top of the scaling that there is. Throws
/// FormatError, which names the tensor, for another shape and for numbers that are not above 0.
void divide_frequencies(ModelConfig& config, const SourceTensor& divisors);

}  // namespace higgs::model
