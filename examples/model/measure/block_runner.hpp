// SPDX-License-Identifier: Apache-2.0
// A text that goes through a model one block at a time.
#pragma once

#include "architecture/weights.hpp"
#include "math/matrix.hpp"
#include "network/kv_cache.hpp"
#include "network/ops.hpp"
#include "network/transformer.hpp"
#include "source/source.hpp"
#include "tokenizer/tokenizer.hpp"

#include <higgs/core/executor.hpp>
#include <higgs/core/matrix_view.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace higgs::model {

/// Runs a text through a model whose blocks are loaded one after the other. Memory holds one block as floats and the
/// states of all tokens, whatever the model's size. Errors of the forward pass are those of Transformer.
class BlockRunner {
 public:
  /// Begins before the first block: the states are rows of the embedding. The text is cut into windows of `window` tokens,
  /// the last of which may be shorter. Source and executor must outlive this. Throws InvalidArgument if there are no tokens
  /// or one is outside the vocabulary, FormatError if the embedding is quantized already or damaged.
  BlockRunner(const ModelSource& source, std::span<const TokenId> tokens, std::int64_t window,
              Executor& executor = default_executor());

  /// The block whose inputs the states are; the number of blocks once all have run.
  std::int64_t block() const noexcept { return block_; }
  /// (tokens, width)
  MatrixView<const float> states() const noexcept { return states_.view(); }
  /// Goes on from states (tokens, width) before `block`, as an earlier run of the same text left them.
  void go_to(std::int64_t block, Matrix states);

  /// Loads block() and returns it. Its linear layers may be replaced before it runs. Throws as load_block() does.
  Block& load();
  /// Shows an observer what the linear layers of block(), which is loaded, read. The states stay as they are.
  void observe(Ops::Observer observer);
  /// Runs block(), which is loaded, and drops its weights: the states are those before the next one. An observer sees what
  /// the linear layers read.
  void step(Ops::Observer observer = {});
  /// The mean squares (width) of what the output layer reads. All blocks must have run.
  std::vector<double> output_squares() const;

 private:
  void run(MatrixView<float> window);
  MatrixView<float> window_at(std::int64_t first);

  const ModelSource& source_;
  std::int64_t window_;
  Executor& executor_;
  Transformer model_;  // its blocks are empty, but for the one that is loaded
  KvCache cache_;      // room for a window; a block leaves no tokens in it
  std::int64_t block_ = 0;
  Matrix states_;  // (tokens, width)
};

/// A model of `source` without weights, whose blocks are loaded one at a time.
Transformer without_weights(const ModelSource& source);

/// Adds to `squares` (cols) the squares of each column of x, over the tokens that there are in all.
void add_squares(MatrixView<const float> x, std::int64_t tokens, std::vector<double>& squares);

}  // namespace higgs::model
