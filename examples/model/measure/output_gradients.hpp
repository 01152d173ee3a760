// SPDX-License-Identifier: Apache-2.0
// How what a model says of a text depends on what its linear layers write.
#pragma once

#include "architecture/parts.hpp"
#include "measure/calibrate.hpp"
#include "network/kv_cache.hpp"
#include "network/transformer.hpp"
#include "source/source.hpp"
#include "tokenizer/tokenizer.hpp"

#include <higgs/core/executor.hpp>

#include <cstdint>
#include <map>
#include <span>
#include <string_view>
#include <vector>

namespace higgs::model {

/// Gradients of minus the log-probability of tokens that are drawn from a model's predictions, with respect to the outputs
/// of its linear layers. Their second moment over the tokens is the outputs' factor of a layer's Fisher information
/// (K-FAC, Martens and Grosse, 2015). Memory holds one block as floats, or the output layer, and for each block the
/// states before it and the gradients after it: 8 bytes times blocks, tokens and width.
class OutputGradients {
 public:
  /// Tokens of a window are drawn with random_bits(seed, first token of the window).
  static constexpr std::uint64_t seed = 2;

  /// Runs the text through the model and back, in windows of `window` tokens (the last may be shorter). Source and executor
  /// must outlive this. `progress` is called with the steps done and to do, two a block. Throws as BlockRunner does.
  OutputGradients(const ModelSource& source, std::span<const TokenId> tokens, std::int64_t window,
                  Executor& executor = default_executor(), const Progress& progress = {});

  /// (tokens, rows) for each linear layer of block `index`, by Part::name. `block` has its weights, which are dense. Once
  /// for each block: what was kept of it is dropped.
  std::map<std::string_view, Matrix> of_block(std::int64_t index, const Block& block);

 private:
  // The gradients before block `index`, which is loaded, from those after it.
  Matrix go_back(std::int64_t index, const Tape::OnLinear& on_linear);
  Matrix predict(const ModelSource& source, MatrixView<const float> states);

  std::int64_t window_;
  Executor& executor_;
  Transformer model_;  // its blocks are empty, but for the one that is loaded
  KvCache cache_;
  std::vector<Matrix> states_, gradients_;  // by block: before it (tokens, width), and after it
};

}  // namespace higgs::model
