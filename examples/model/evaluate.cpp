// SPDX-License-Identifier: Apache-2.0
#include "evaluate.hpp"

#include "math.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <string_view>
#include <utility>

namespace higgs::model {
namespace {

// Positions whose logits are in memory at once.
constexpr std::int64_t logit_rows = 64;

}  // namespace

double Evaluation::perplexity() const { return std::exp(cross_entropy); }

Evaluator::Evaluator(std::vector<TokenId> text, std::int64_t window, Executor& executor)
    : text_(std::move(text)), window_(window), windows_(0), executor_(executor) {
  expects(window >= 2, "higgs::model::Evaluator: a window has at least 2 tokens");
  windows_ = static_cast<std::int64_t>(text_.size()) / window;
  if (windows_ == 0)
    throw InvalidArgument("the text has " + std::to_string(text_.size()) +
                          " tokens, fewer than a window of " + std::to_string(window));
}

Evaluation Evaluator::set_reference(const Transformer& model, const Progress& progress) {
  Reference reference{model.config(), model.weights.output, {}};
  const Evaluation out = run(model, nullptr, &reference.hidden, KvType::Float, progress);
  reference_ = std::move(reference);
  return out;
}

Evaluation Evaluator::evaluate(const Transformer& model, const Progress& progress, KvType kv) const {
  expects(!reference_ || reference_->config.vocabulary == model.config().vocabulary,
          "higgs::model::Evaluator: the vocabularies of model and reference differ in size");
  return run(model, reference_ ? &*reference_ : nullptr, nullptr, kv, progress);
}

Evaluation Evaluator::run(const Transformer& model, const Reference* reference, std::vector<float>* keep,
                          KvType kv, const Progress& progress) const {
  const ModelConfig& config = model.config();
  const std::int64_t width = config.width, vocabulary = config.vocabulary, predicted = window_ - 1;
  if (window_ > config.context)
    throw InvalidArgument("a window of " + std::to_string(window_) +
                          " tokens exceeds the model's context of " + std::to_string(config.context));
  KvCache cache(config, window_, kv);
  std::vector<float> hidden(static_cast<std::size_t>(window_ * width));
  std::vector<float> logits(static_cast<std::size_t>(std::min(logit_rows, predicted) * vocabulary));
  std::vector<float> wanted(reference ? logits.size() : 0);
  std::vector<double> entropies(static_cast<std::size_t>(logit_rows)), divergences(entropies.size());

  Evaluation out;
  double kl = 0;
  for (std::int64_t window = 0; window < windows_; ++window) {
    const std::int64_t begin = window * window_;
    cache.truncate(0);
    const MatrixView<float> states(hidden.data(), window_, width);
    model.forward({text_.data() + begin, static_cast<std::size_t>(window_)}, cache, states, executor_);
    if (keep) keep->insert(keep->end(), hidden.begin(), hidden.end());

    for (std::int64_t first = 0; first < predicted; first += logit_rows) {
      const std::int64_t rows = std::min(logit_rows, predicted - first);
      const MatrixView<float> q(logits.data(), rows, vocabulary), p(wanted.data(), rows, vocabulary);
      model.logits(states.row_range(first, rows), q, executor_);
      if (reference) {
        const std::int64_t reference_width = reference->config.width;
        const float* seen = reference->hidden.data() + (begin + first) * reference_width;
        reference->output.apply({seen, rows, reference_width}, p, executor_);
      }
      parallel_for(executor_, rows, 1, [&](std::int64_t row, std::int64_t) {
        const auto at = static_cast<std::size_t>(row);
        const TokenId next = text_[static_cast<std::size_t>(begin + first + row + 1)];
        const double q_sum = log_sum_exp(q.row(row), vocabulary);
        entropies[at] = q_sum - static_cast<double>(q(row, next));
        if (reference)
          divergences[at] =
              kl_divergence(p.row(row), log_sum_exp(p.row(row), vocabulary), q.row(row), q_sum, vocabulary);
      });
      out.cross_entropy = std::accumulate(entropies.begin(), entropies.begin() + rows, out.cross_entropy);
      kl = std::accumulate(divergences.begin(), divergences.begin() + rows, kl);
      out.tokens += rows;
    }
    if (progress) progress(begin + window_, tokens());
  }
  out.cross_entropy /= static_cast<double>(out.tokens);
  if (reference) out.kl = kl / static_cast<double>(out.tokens);
  return out;
}

std::vector<TokenId> read_tokens(const std::filesystem::path& path, const Tokenizer& tokenizer,
                                 std::int64_t most) {
  const auto file = MappedFile::open(path);
  const std::string_view text(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
  const auto wanted = most > 0 ? static_cast<std::size_t>(most) : text.size();
  // A piece of the text that is almost surely enough; only its last word may differ from the whole text's.
  constexpr std::size_t bytes_per_token = 32;
  std::vector<TokenId> tokens;
  if (wanted < text.size() / bytes_per_token)
    tokens = tokenizer.encode(text.substr(0, wanted * bytes_per_token));
  if (tokens.size() < wanted + bytes_per_token) tokens = tokenizer.encode(text);
  tokens.resize(std::min(tokens.size(), wanted));
  return tokens;
}

}  // namespace higgs::model
