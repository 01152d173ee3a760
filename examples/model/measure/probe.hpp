// SPDX-License-Identifier: Apache-2.0
// What noise in a single layer does to a model.
#pragma once

#include "architecture/parts.hpp"
#include "math/matrix.hpp"
#include "network/network.hpp"
#include "tokenizer/tokenizer.hpp"

#include <higgs/allocate/sensitivity.hpp>
#include <higgs/core/executor.hpp>

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace higgs::model {

/// A model with one noisy layer beside the model itself; means over the tokens predicted.
struct ProbeResult {
  double t2 = 0;
  double kl = 0;             // KL(model || noisy model), in nats a token
  double cross_entropy = 0;  // difference, noisy model less model, in nats a token
};

/// Inserts noise into one layer after the other. Only the blocks from that layer on are run: the states
/// before them are kept, width floats a token, and move on with the layers.
class NoiseProbe {
 public:
  /// `tokens` are cut into windows as by Evaluator. The network must outlive this.
  NoiseProbe(Network& model, std::vector<TokenId> tokens, std::int64_t window,
             Executor& executor = default_executor());
  /// The same for a model on the CPU.
  NoiseProbe(const Transformer& model, std::vector<TokenId> tokens, std::int64_t window,
             Executor& executor = default_executor());

  /// Those of whole windows.
  const std::vector<TokenId>& tokens() const noexcept { return tokens_; }
  /// The model's own cross entropy, in nats a token.
  double cross_entropy() const noexcept { return cross_entropy_; }

  /// The model with noise of each level in the matrix of that name: a linear layer of a block (in rising order they are
  /// fastest), the embedding, which in a tied model is the output layer too, or the output layer of a model that is not
  /// tied. The noise is even once columns are divided by `scales` (cols), as a quantizer's error is; none: even as they
  /// are. Throws InvalidArgument if the model has no such matrix, or has it quantized.
  std::vector<ProbeResult> measure(std::string_view name, std::span<const double> levels, std::uint64_t seed,
                                   std::span<const float> scales = {});

 private:
  NoiseProbe(std::shared_ptr<Network> model, std::vector<TokenId> tokens, std::int64_t window,
             Executor& executor);
  std::vector<ProbeResult> measure_linear(const BlockLinear& layer, std::span<const double> levels,
                                          std::uint64_t seed, std::span<const float> scales);
  std::vector<ProbeResult> measure_embedding(std::span<const double> levels, std::uint64_t seed,
                                             std::span<const float> scales);
  std::vector<ProbeResult> measure_output(std::span<const double> levels, std::uint64_t seed,
                                          std::span<const float> scales);
  void begin(std::int64_t window);
  void go_to(std::size_t block);
  Matrix finish(Network& model, std::size_t block, Matrix states);
  void compare(const std::vector<Matrix>& hidden, const OutputLayer& output, std::span<ProbeResult> results);

  std::shared_ptr<Network> model_;  // owned where it was made here
  OutputLayer output_;              // output layer of the model itself
  std::vector<BlockLinear> layers_;
  std::vector<TokenId> tokens_;
  std::int64_t window_, windows_;
  Executor& executor_;
  std::size_t block_ = 0;
  Matrix states_;     // before block_: (windows * window, width)
  Matrix reference_;  // inputs of the model's output layer: (windows * window, width)
  double cross_entropy_ = 0;
};

/// Tokens drawn uniformly from a vocabulary: text for measurements without data.
std::vector<TokenId> random_tokens(std::int64_t count, std::int64_t vocabulary, std::uint64_t seed);

}  // namespace higgs::model
