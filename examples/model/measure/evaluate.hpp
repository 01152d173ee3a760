// SPDX-License-Identifier: Apache-2.0
// How good a model is on a text: its perplexity, and its divergence from a reference model.
#pragma once

#include "math/matrix.hpp"
#include "network/network.hpp"
#include "tokenizer/tokenizer.hpp"

#include <higgs/core/executor.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace higgs::model {

/// A mean and its standard error.
struct Estimate {
  double mean = 0;
  double standard_error = 0;
};

/// Values in the order of the text, `block` of which belong to a window. From 8 windows on, the error is the
/// standard deviation of the windows' means over the root of their number, which allows for correlation within a window.
/// With fewer windows, it treats every value as independent, which is too hopeful. NaN for less than two values.
Estimate estimate_mean(std::span<const double> values, std::int64_t block);

/// How far a model is from a reference, by KL(reference || model) in nats of the next token's distribution.
struct Divergence {
  Estimate kl;
  double quantile_99 = 0;    // the least value that 99 % of the tokens do not exceed
  double most = 0;           // largest of all tokens
  double top_agreement = 0;  // share of tokens of which both hold the same one likeliest
};

/// What a model does on a text, over all tokens that were predicted.
struct Evaluation {
  std::int64_t tokens = 0;
  std::int64_t windows = 0;
  Estimate cross_entropy{};                // cross entropy of the text under the model, in nats
  std::optional<Divergence> divergence{};  // none without a reference

  double perplexity() const;
  /// Of the perplexity, to first order.
  double perplexity_error() const;
  /// Whether the standard errors are those of means of windows; see estimate_mean().
  bool by_windows() const;
};

/// Evaluates models on one text, cut into windows that do not overlap: every token of a window but the first
/// is predicted from those before it in the window. What is left at the end of the text is not used.
class Evaluator {
 public:
  /// Called after each window with the tokens done and to do, and the means so far; only those are filled in.
  using Progress = std::function<void(std::int64_t done, std::int64_t total, const Evaluation& so_far)>;

  /// Throws InvalidArgument if the text is shorter than a window, or a window than 2 tokens.
  Evaluator(std::vector<TokenId> text, std::int64_t window, Executor& executor = default_executor());

  /// Tokens in whole windows.
  std::int64_t tokens() const noexcept { return windows_ * window_; }
  /// Tokens of the text.
  std::int64_t text_tokens() const noexcept { return static_cast<std::int64_t>(text_.size()); }
  /// "511 of 600 tokens predicted; the last 88 do not fill a window".
  std::string coverage() const;

  /// Evaluates the model that later ones are compared with. It runs once: what its output layer saw is kept,
  /// width floats for each token.
  /// Throws FormatError, which names the place in the text, if the model's logits are NaN or infinite.
  Evaluation set_reference(Network& model, const Progress& progress = {});
  Evaluation set_reference(const Transformer& model, const Progress& progress = {});
  /// Evaluates a model, with KL if there is a reference. Throws InvalidArgument if their vocabularies differ
  /// in size, FormatError as set_reference() does.
  Evaluation evaluate(Network& model, const Progress& progress = {}) const;
  Evaluation evaluate(const Transformer& model, const Progress& progress = {},
                      KvType kv = KvType::Float) const;

 private:
  struct Reference {
    std::int64_t vocabulary;
    OutputLayer output;  // shares the weights
    Matrix hidden;       // (tokens, width)
  };
  Evaluation run(Network& model, const Reference* reference, Matrix* keep, const Progress& progress) const;

  std::vector<TokenId> text_;
  std::int64_t window_;
  std::int64_t windows_;
  Executor& executor_;
  std::optional<Reference> reference_;
};

/// "perplexity 15.27, KL 0.1234": the means of an evaluation that is not finished, for a progress bar.
std::string describe_means(const Evaluation& so_far);

/// The first `most` tokens of a text file, or all (0). Throws IoError if it cannot be read.
std::vector<TokenId> read_tokens(const std::filesystem::path& path, const Tokenizer& tokenizer,
                                 std::int64_t most);

}  // namespace higgs::model
