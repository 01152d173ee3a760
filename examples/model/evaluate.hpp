// SPDX-License-Identifier: Apache-2.0
// How good a model is on a text: its perplexity, and its divergence from a reference model.
#pragma once

#include "tokenizer.hpp"
#include "transformer.hpp"

#include <higgs/core/executor.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <vector>

namespace higgs::model {

/// Means over all tokens that were predicted.
struct Evaluation {
  std::int64_t tokens = 0;
  double cross_entropy = 0;  // of the text under the model, in nats
  std::optional<double> kl;  // KL(reference || model), in nats; none without a reference
  double perplexity() const;
};

/// Evaluates models on one text, cut into windows that do not overlap: every token of a window but the first
/// is predicted from those before it in the window. What is left at the end of the text is not used.
class Evaluator {
 public:
  /// Called after each window with the tokens done and to do.
  using Progress = std::function<void(std::int64_t done, std::int64_t total)>;

  /// Throws InvalidArgument if the text is shorter than a window, or a window than 2 tokens.
  Evaluator(std::vector<TokenId> text, std::int64_t window, Executor& executor = default_executor());

  /// Tokens in whole windows.
  std::int64_t tokens() const noexcept { return windows_ * window_; }

  /// Evaluates the model that later ones are compared with. It runs once: what its output layer saw is kept,
  /// width floats for each token.
  Evaluation set_reference(const Transformer& model, const Progress& progress = {});
  /// Evaluates a model, with KL if there is a reference. Throws InvalidArgument if their vocabularies differ
  /// in size.
  Evaluation evaluate(const Transformer& model, const Progress& progress = {},
                      KvType kv = KvType::Float) const;

 private:
  struct Reference {
    ModelConfig config;
    Linear output;              // shares the weights
    std::vector<float> hidden;  // (tokens, width)
  };
  Evaluation run(const Transformer& model, const Reference* reference, std::vector<float>* keep, KvType kv,
                 const Progress& progress) const;

  std::vector<TokenId> text_;
  std::int64_t window_;
  std::int64_t windows_;
  Executor& executor_;
  std::optional<Reference> reference_;
};

/// The first `most` tokens of a text file, or all (0). Throws IoError if it cannot be read.
std::vector<TokenId> read_tokens(const std::filesystem::path& path, const Tokenizer& tokenizer,
                                 std::int64_t most);

}  // namespace higgs::model
