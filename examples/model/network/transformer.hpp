// SPDX-License-Identifier: Apache-2.0
// The forward pass of a decoder on the CPU, in float. run_block() and last_norm() in transformer.cpp hold all of its
// arithmetic.
#pragma once

#include "architecture/config.hpp"
#include "architecture/weights.hpp"
#include "network/kv_cache.hpp"
#include "network/ops.hpp"
#include "source/source.hpp"
#include "tokenizer/tokenizer.hpp"

#include <higgs/core/executor.hpp>
#include <higgs/core/matrix_view.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace higgs::model {

/// Throws InvalidArgument, which names both numbers, unless `token` is one of the `rows` of the embedding of `model`.
void check_token(TokenId token, std::int64_t rows, const std::string& model);

/// A model that can be run. A value: copies share the weights, and `weights` may be replaced layer by layer.
class Transformer {
 public:
  /// `name` stands for the model in messages.
  Transformer(ModelConfig model_config, Weights model_weights, std::string name = "the model");
  /// Loads a model. Throws FormatError or IoError.
  static Transformer load(const ModelSource& source, Executor& executor = default_executor());

  /// Reads `tokens` after those in `cache` and writes what the output layer sees of each: hidden (tokens,
  /// width). Throws InvalidArgument for ids outside the vocabulary and for more tokens than the cache has
  /// room for, and FormatError, with layer and token, where activations become NaN or infinite: a model that is
  /// damaged, or whose numbers exceed floats (in a cache of 16 bits: those).
  void forward(std::span<const TokenId> tokens, KvCache& cache, MatrixView<float> hidden,
               Executor& executor = default_executor()) const;
  /// The same for several texts at once, each with a cache of its own: `tokens` are those of the first text, then those
  /// of the next. Weights are read once for all. Each row has the bits that it has when its text is read alone.
  void forward(std::span<const TokenId> tokens, const std::vector<TextPart>& texts, MatrixView<float> hidden,
               Executor& executor = default_executor()) const;

  /// The steps of forward(), for callers that want the states between blocks: x (tokens, width) is what the
  /// first block sees of the tokens,
  void embed(std::span<const TokenId> tokens, MatrixView<float> x) const;
  /// what blocks [first, last) make of it, after the tokens in `cache`, to which they add no token,
  void run_blocks(std::size_t first, std::size_t last, MatrixView<float> x, KvCache& cache,
                  Executor& executor = default_executor()) const;
  /// and what the output layer sees.
  void finish(MatrixView<const float> x, MatrixView<float> hidden,
              Executor& executor = default_executor()) const;

  /// One block and the last norm in operations, which may be on a tape: x (tokens, width).
  Value run_block(std::size_t index, Value x, Ops& ops) const;
  Value last_norm(const Value& x, Ops& ops) const;

  /// The logits that follow each row: hidden (M, width), logits (M, vocabulary). Callers with many rows pass
  /// a few at a time, so that memory stays bounded. Throws FormatError if one is NaN or infinite.
  void logits(MatrixView<const float> hidden, MatrixView<float> logits,
              Executor& executor = default_executor()) const;
  /// forward(), and the logits that follow the last token of each text: logits (texts, vocabulary). Each text has tokens.
  void next_logits(std::span<const TokenId> tokens, const std::vector<TextPart>& texts,
                   MatrixView<float> logits, Executor& executor = default_executor()) const;

  const ModelConfig& config() const noexcept { return config_; }
  /// What messages call it: the path that it was loaded from.
  const std::string& name() const noexcept { return name_; }

  Weights weights;
  /// Where set, it sees what the linear layers of the blocks read. The layers are those of `weights`.
  Ops::Observer observer;

 private:
  Value attend(std::size_t index, const Value& x, Ops& ops) const;
  Value feed_forward(const Block& block, const Value& x, Ops& ops) const;
  void run_blocks(std::size_t first, std::size_t last, MatrixView<float> x,
                  const std::vector<TextPart>& texts, Executor& executor) const;
  // Throws FormatError, which names the token, unless all numbers are finite.
  void check_finite(MatrixView<const float> x, std::size_t layer, const Ops& ops) const;

  ModelConfig config_;
  std::string name_;
};

}  // namespace higgs::model
