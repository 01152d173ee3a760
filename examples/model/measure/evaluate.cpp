// SPDX-License-Identifier: Apache-2.0
#include "measure/evaluate.hpp"

#include "math/math.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <numeric>
#include <span>
#include <string_view>
#include <utility>

namespace higgs::model {
namespace {

// Positions whose logits are in memory at once.
constexpr std::int64_t logit_rows = 64;

// Fewer windows tell too little about how windows differ.
constexpr std::int64_t least_windows = 8;

// Of a mean of independent values.
double standard_error(std::span<const double> values, double mean) {
  if (values.size() < 2) return std::numeric_limits<double>::quiet_NaN();
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  const auto n = static_cast<double>(values.size());
  return std::sqrt(squares / (n - 1) / n);
}

Divergence describe(std::vector<double> divergences, std::int64_t agreed, std::int64_t block) {
  Divergence out;
  out.kl = estimate_mean(divergences, block);
  const std::size_t n = divergences.size(), rank = (n * 99 + 99) / 100 - 1;
  std::nth_element(divergences.begin(), divergences.begin() + static_cast<std::ptrdiff_t>(rank),
                   divergences.end());
  out.quantile_99 = divergences[rank];
  out.most = *std::max_element(divergences.begin() + static_cast<std::ptrdiff_t>(rank), divergences.end());
  out.top_agreement = static_cast<double>(agreed) / static_cast<double>(n);
  return out;
}

// What one token tells.
struct TokenLoss {
  double entropy = 0, divergence = 0;
  bool agrees = false;
};

// The loss of the logits q where token `next` follows, and how far they are from the logits p, unless that is null.
TokenLoss loss_of(const float* q, const float* p, TokenId next, std::int64_t vocabulary) {
  const double q_sum = log_sum_exp(q, vocabulary);
  TokenLoss loss{.entropy = q_sum - static_cast<double>(q[next])};
  if (!p) return loss;
  loss.divergence = kl_divergence(p, log_sum_exp(p, vocabulary), q, q_sum, vocabulary);
  loss.agrees = std::max_element(q, q + vocabulary) - q == std::max_element(p, p + vocabulary) - p;
  return loss;
}

// The losses of one text, as they come, and what they add up to.
class Losses {
 public:
  explicit Losses(bool with_divergence) : with_divergence_(with_divergence) {}

  // Throws FormatError unless it is finite; it is that of token `position` of window `window`.
  void add(const TokenLoss& loss, std::int64_t position, std::int64_t window) {
    if (!std::isfinite(loss.entropy) || !std::isfinite(loss.divergence))
      throw FormatError("the model's logits are NaN or infinite after token " + std::to_string(position + 1) +
                        " of window " + std::to_string(window + 1) + " of the text");
    entropies_.push_back(loss.entropy);
    entropy_ += loss.entropy;
    if (!with_divergence_) return;
    divergences_.push_back(loss.divergence);
    divergence_ += loss.divergence;
    agreed_ += loss.agrees;
  }
  // The means after some windows.
  Evaluation so_far(std::int64_t windows) const {
    Evaluation out{.tokens = std::ssize(entropies_), .windows = windows};
    out.cross_entropy.mean = entropy_ / static_cast<double>(out.tokens);
    if (with_divergence_) out.divergence.emplace().kl.mean = divergence_ / static_cast<double>(out.tokens);
    return out;
  }
  // All that they tell, with `predicted` tokens in a window.
  Evaluation all(std::int64_t windows, std::int64_t predicted) {
    Evaluation out = so_far(windows);
    out.cross_entropy = estimate_mean(entropies_, predicted);
    if (with_divergence_) out.divergence = describe(std::move(divergences_), agreed_, predicted);
    return out;
  }

 private:
  bool with_divergence_;
  std::vector<double> entropies_, divergences_;  // by predicted token
  double entropy_ = 0, divergence_ = 0;
  std::int64_t agreed_ = 0;
};

}  // namespace

Estimate estimate_mean(std::span<const double> values, std::int64_t block) {
  const auto each = static_cast<std::size_t>(block);
  const std::size_t blocks = values.size() / each;
  expects(block > 0 && blocks * each == values.size(),
          "higgs::model::estimate_mean: values must fill their blocks");
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  if (static_cast<std::int64_t>(blocks) < least_windows) return {mean, standard_error(values, mean)};
  std::vector<double> means;
  for (std::size_t i = 0; i < blocks; ++i) {
    const auto window = values.subspan(i * each, each);
    means.push_back(std::accumulate(window.begin(), window.end(), 0.0) / static_cast<double>(each));
  }
  return {mean, standard_error(means, mean)};
}

double Evaluation::perplexity() const { return std::exp(cross_entropy.mean); }
double Evaluation::perplexity_error() const { return perplexity() * cross_entropy.standard_error; }
bool Evaluation::by_windows() const { return windows >= least_windows; }

std::string Evaluator::coverage() const {
  const std::int64_t left = text_tokens() - tokens();
  std::string out =
      std::to_string(tokens() - windows_) + " of " + std::to_string(text_tokens()) + " tokens predicted";
  if (left > 0)
    out += "; the last " + std::to_string(left) + (left == 1 ? " does" : " do") + " not fill a window";
  return out;
}

std::string describe_means(const Evaluation& so_far) {
  char text[80];
  std::snprintf(text, sizeof text, "perplexity %.4g", so_far.perplexity());
  std::string out = text;
  if (!so_far.divergence) return out;
  std::snprintf(text, sizeof text, ", KL %.4g", so_far.divergence->kl.mean);
  return out + text;
}

Evaluator::Evaluator(std::vector<TokenId> text, std::int64_t window, Executor& executor)
    : text_(std::move(text)), window_(window), windows_(0), executor_(executor) {
  expects(window >= 2, "higgs::model::Evaluator: a window has at least 2 tokens");
  windows_ = static_cast<std::int64_t>(text_.size()) / window;
  if (windows_ == 0)
    throw InvalidArgument("the text has " + std::to_string(text_.size()) +
                          " tokens, fewer than a window of " + std::to_string(window));
}

Evaluation Evaluator::set_reference(Network& model, const Progress& progress) {
  Reference reference{model.config().vocabulary, model.output(), Matrix(tokens(), model.config().width)};
  const Evaluation out = run(model, nullptr, &reference.hidden, progress);
  reference_ = std::move(reference);
  return out;
}

Evaluation Evaluator::set_reference(const Transformer& model, const Progress& progress) {
  HostNetwork network(model, executor_);
  return set_reference(network, progress);
}

Evaluation Evaluator::evaluate(Network& model, const Progress& progress) const {
  expects(!reference_ || reference_->vocabulary == model.config().vocabulary,
          "higgs::model::Evaluator: the vocabularies of model and reference differ in size");
  return run(model, reference_ ? &*reference_ : nullptr, nullptr, progress);
}

Evaluation Evaluator::evaluate(const Transformer& model, const Progress& progress, KvType kv) const {
  HostNetwork network(model, executor_, kv);
  return evaluate(network, progress);
}

Evaluation Evaluator::run(Network& model, const Reference* reference, Matrix* keep,
                          const Progress& progress) const {
  const ModelConfig& config = model.config();
  const std::int64_t width = config.width, vocabulary = config.vocabulary, predicted = window_ - 1;
  if (window_ > config.context)
    throw InvalidArgument("a window of " + std::to_string(window_) +
                          " tokens exceeds the model's context of " + std::to_string(config.context));
  Matrix states(window_, width), logits(std::min(logit_rows, predicted), vocabulary);
  Matrix wanted(reference ? logits.rows : 0, vocabulary);
  std::vector<TokenLoss> each(static_cast<std::size_t>(logit_rows));
  Losses losses(reference != nullptr);
  for (std::int64_t window = 0; window < windows_; ++window) {
    const std::int64_t begin = window * window_;
    model.forward({text_.data() + begin, static_cast<std::size_t>(window_)}, states.view());
    if (keep) std::copy(states.values.begin(), states.values.end(), keep->row(begin));
    for (std::int64_t first = 0; first < predicted; first += logit_rows) {
      const std::int64_t rows = std::min(logit_rows, predicted - first);
      const MatrixView<float> q = logits.view().row_range(0, rows), p(wanted.values.data(), rows, vocabulary);
      model.logits(states.view().row_range(first, rows), q);
      if (reference) reference->output(reference->hidden.view().row_range(begin + first, rows), p);
      parallel_for(executor_, rows, 1, [&](std::int64_t row, std::int64_t) {
        const TokenId next = text_[static_cast<std::size_t>(begin + first + row + 1)];
        each[static_cast<std::size_t>(row)] =
            loss_of(q.row(row), reference ? p.row(row) : nullptr, next, vocabulary);
      });
      for (std::int64_t row = 0; row < rows; ++row)
        losses.add(each[static_cast<std::size_t>(row)], first + row, window);
    }
    if (progress) progress(begin + window_, tokens(), losses.so_far(window + 1));
  }
  return losses.all(windows_, predicted);
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
