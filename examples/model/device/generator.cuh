// SPDX-License-Identifier: Apache-2.0
// Texts that grow on the device: prompts in chunks, then one CUDA graph for each token of all texts. The host launches
// the graph and reads tokens some steps later; it neither allocates nor waits for single tokens.
#pragma once

#include "device/decoder.cuh"
#include "device/device.hpp"
#include "device/sampling.cuh"
#include "device/stream.cuh"
#include "device/weights.cuh"

#include <higgs/gpu/matrix.cuh>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace higgs::model {

/// Steps between two readings of tokens.
inline constexpr std::int32_t steps_per_reading = 8;

/// The size of a decoder that continues these prompts by at most `count` tokens.
DecoderSize generation_size(const ModelConfig& config, std::span<const std::int64_t> lengths,
                            std::int64_t count, std::int64_t chunk);

/// Some texts and all memory that their growth needs.
template <class T>
class Generating {
 public:
  /// Throws as generate() does.
  Generating(const ModelConfig& config, const DeviceWeights<T>& weights,
             std::span<const std::vector<TokenId>> prompts, std::int64_t count, std::int64_t chunk,
             const Sampling& sampling, std::span<const TokenId> more_ends);

  /// Loads the kernels of prompts and steps, which neither a capture nor a clock should do: runs the first prompt's first
  /// chunk and a step, puts the state of all texts back, and waits. It must come before read_prompts_async().
  void warm_up(cudaStream_t stream);
  /// Reads the prompts and chooses the first token of each text.
  void read_prompts_async(cudaStream_t stream);
  /// Puts the next token of each text on the stream: what a graph of a step holds.
  void step_async(cudaStream_t stream);
  /// Marks the end of a step on the stream, for clocks. It follows each step behind the prompts.
  void mark_step_async(cudaStream_t stream) { step_clock_.mark_async(stream); }

  /// Puts a copy of the state on the stream. Readings 0 and 1 may be under way at the same time; wait() returns
  /// when a reading can be used.
  void read_async(int reading, cudaStream_t stream);
  void wait(int reading) const;
  /// The number of tokens that a text had at a reading.
  std::int64_t count(int reading, std::size_t text) const;
  /// Token `index` of a text, of the last steps_per_reading before a reading.
  TokenId token(int reading, std::size_t text, std::int64_t index) const;
  /// Seconds that the prompt of a text took, after a reading.
  double prompt_seconds(std::size_t text) const;
  /// Seconds between the steps that gave tokens `from` and `to` of any text: of the last steps_per_reading before a
  /// reading, or the one before these.
  double seconds(std::int64_t from, std::int64_t to) const { return step_clock_.seconds(from, to); }
  /// Whether all texts had ended. Throws FormatError, which names the token, if a logit was NaN or infinite.
  bool ended(int reading) const;

  /// Steps until the last text must have ended.
  std::int64_t steps() const noexcept { return steps_; }
  Decoder<T>& decoder() noexcept { return decoder_; }

 private:
  struct Prompt {
    std::int64_t first, length;  // in prompt_tokens_
  };

  ModelConfig config_;
  std::int64_t texts_, chunk_, steps_;
  std::vector<Prompt> prompts_;
  Decoder<T> decoder_;
  TokenChoice choice_;
  gpu::DeviceBuffer<std::int32_t> prompt_tokens_, prompt_positions_, prompt_sequences_;  // all prompts
  gpu::DeviceBuffer<std::int32_t>
      state_;  // (texts) positions, counts, damage; then (texts, steps_per_reading)
  gpu::DeviceBuffer<std::int32_t> tokens_, limits_, ends_;
  gpu::DeviceBuffer<std::uint64_t> seeds_;
  TextStates states_;
  PinnedBuffer<std::int32_t> readings_[2];
  Event done_[2];
  StreamClock prompt_clock_;  // marks: the beginning, and the end of each prompt
  StreamClock step_clock_;    // marks: the end of all prompts, and that of each step
};

/// A model that generates, in fp16 or bf16 (T).
template <class T>
class ModelGenerator final : public DeviceGenerator {
 public:
  ModelGenerator(const ModelSource& source, const DeviceOptions& options, Executor& executor);

  const ModelConfig& config() const noexcept override { return config_; }
  std::vector<Generation> generate(std::span<const std::vector<TokenId>> prompts, std::int64_t count,
                                   const Sampling& sampling, const OnToken& on_token,
                                   std::span<const TokenId> more_ends = {}) override;

 private:
  std::string name_;
  ModelConfig config_;
  DeviceOptions options_;
  DeviceWeights<T> weights_;
};

}  // namespace higgs::model
