// SPDX-License-Identifier: Apache-2.0
// How large the inputs of each linear layer are, and the weights that they meet: what input scales are made of.
#pragma once

#include "architecture/config.hpp"
#include "architecture/parts.hpp"
#include "math/matrix.hpp"
#include "network/transformer.hpp"
#include "source/source.hpp"
#include "tokenizer/tokenizer.hpp"

#include <higgs/core/executor.hpp>
#include <higgs/scale/input_scale.hpp>

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace higgs::model {

/// Mean squares of a layer's inputs (cols), by the name of its weight.
using InputSquares = std::map<std::string, std::vector<double>, std::less<>>;

/// Tokens in a window to calibrate with. The first of a text draws attention from all others, and products with what it
/// carries must be right: short windows give it weight.
inline constexpr std::int64_t calibration_window = 128;
/// Tokens to calibrate with, where nobody asks for another number.
inline constexpr std::int64_t calibration_token_count = 4096;
/// The same for rounding by second moments: more still help much, docs/results.md has what they gain.
inline constexpr std::int64_t second_moment_token_count = 8192;

/// Called with what is done and what there is to do.
using Progress = std::function<void(std::int64_t done, std::int64_t total)>;

/// Tokens that a model has written, for a run that was killed.
struct WrittenTokens {
  std::vector<TokenId> before{};  ///< what earlier runs wrote of the same text; taken as it is
  /// Called with each further piece of the text, in order.
  std::function<void(std::span<const TokenId> piece)> keep{};
};

/// `count` tokens that a model writes, in windows of `window` (the last may be shorter), up to 64 of which grow together. A
/// window begins as a text does: with `beginning`, or, if that is empty, with a random token. All other tokens are drawn
/// from the model's whole distribution. Behind a drawn end token a text begins in the same window, and the model still sees
/// what stands before it; an end token that is the beginning, too, stands once. The tokens do not depend on the number of
/// threads. `progress` counts tokens. `written` begins with whole pieces, as it was given them. Throws InvalidArgument for a
/// window beyond the model's context, and as Transformer::forward() does.
std::vector<TokenId> self_written_tokens(const Transformer& model, std::span<const TokenId> beginning,
                                         std::int64_t count, std::int64_t window,
                                         Executor& executor = default_executor(),
                                         const Progress& progress = {}, const WrittenTokens& written = {});

/// Tokens to calibrate with. "random": random ones of the model's vocabulary, no data needed. "self": tokens that the model
/// writes itself in windows of calibration_window, which begin with the tokenizer's prefix, or the model's begin token
/// without one; the whole model is in memory as floats, and `progress` counts tokens. What `written` has is not written
/// again. Else the first of a text file. Throws IoError if it cannot be read.
std::vector<TokenId> calibration_tokens(const ModelSource& source, const std::string& random_self_or_file,
                                        std::int64_t count, Executor& executor = default_executor(),
                                        const Progress& progress = {}, const WrittenTokens& written = {});

/// Runs `tokens` through a model, in windows of `window` (the last may be shorter), and measures what each linear layer
/// of its blocks and the output layer read; in a tied model the embedding is the output layer. Memory holds one block as
/// floats and the states of all tokens at a time, whatever the model's size. `progress` is called with the blocks done and to do. Throws FormatError for a model that is damaged,
/// InvalidArgument if there are no tokens or one is outside the vocabulary.
InputSquares measure_inputs(const ModelSource& source, std::span<const TokenId> tokens, std::int64_t window,
                            Executor& executor = default_executor(), const Progress& progress = {});

/// Statistics of the weights that share input scales with layer `name`: the rows of its sharing_layers(), one layer after
/// the other. An embedding or output layer shares with none. `dense` gives the floats of a matrix by the name of its
/// weight.
ColumnStatistics shared_columns(const ModelConfig& config, std::string_view name, Sharing sharing,
                                const std::function<SharedMatrix(std::string_view name)>& dense,
                                Executor& executor = default_executor());

}  // namespace higgs::model
