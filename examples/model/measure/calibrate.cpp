// SPDX-License-Identifier: Apache-2.0
#include "measure/calibrate.hpp"

#include "architecture/parts.hpp"
#include "measure/block_runner.hpp"
#include "measure/evaluate.hpp"
#include "measure/probe.hpp"
#include "network/sampling.hpp"
#include "network/transformer.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <cstddef>
#include <map>
#include <utility>

namespace higgs::model {

namespace {

// Of random tokens, and of the draws of the first window that a model writes.
constexpr std::uint64_t calibration_seed = 1;

// A window that a model writes. Its tokens begin as random ones, which texts begin with where the model has no beginning.
class SelfWritten {
 public:
  SelfWritten(const ModelConfig& config, std::span<const TokenId> beginning, std::span<TokenId> tokens,
              std::uint64_t seed)
      : config_(config),
        beginning_(beginning),
        tokens_(tokens),
        cache_(config, std::ssize(tokens), KvType::Half),
        sampler_({.temperature = 1, .seed = seed}) {
    put_beginning();
  }

  bool full() const { return written_ == tokens_.size(); }
  // The tokens that the model has not read, of which there is at least one, as a part of its text.
  std::span<const TokenId> unread() const {
    const auto read = static_cast<std::size_t>(cache_.size());
    return tokens_.subspan(read, written_ - read);
  }
  TextPart part() { return {&cache_, std::ssize(unread())}; }
  // Adds the token that these logits draw, and the beginning of the next text behind an end token.
  void draw(std::span<const float> logits) {
    const TokenId token = sampler_.choose(logits);
    tokens_[written_++] = token;
    const bool begins = beginning_.size() == 1 && beginning_[0] == token;
    if (std::ranges::count(config_.end_tokens, token) > 0 && !begins) put_beginning();
  }
  std::int64_t written() const { return static_cast<std::int64_t>(written_); }

 private:
  void put_beginning() {
    const std::size_t room = tokens_.size() - written_;
    const std::size_t count = std::min(room, std::max<std::size_t>(1, beginning_.size()));
    if (!beginning_.empty()) std::ranges::copy(beginning_.first(count), tokens_.begin() + place());
    written_ += count;
  }
  std::ptrdiff_t place() const { return static_cast<std::ptrdiff_t>(written_); }

  const ModelConfig& config_;
  std::span<const TokenId> beginning_;
  std::span<TokenId> tokens_;
  KvCache cache_;
  Sampler sampler_;
  std::size_t written_ = 0;
};

// Fills these windows, a token of each at a time. Calls `on_step` with the tokens that they have.
void write_together(const Transformer& model, std::vector<SelfWritten>& windows, Executor& executor,
                    const std::function<void(std::int64_t written)>& on_step) {
  while (true) {
    std::vector<SelfWritten*> growing;
    std::vector<TokenId> tokens;
    std::vector<TextPart> parts;
    std::int64_t written = 0;
    for (SelfWritten& each : windows) {
      written += each.written();
      if (each.full()) continue;
      growing.push_back(&each);
      tokens.insert(tokens.end(), each.unread().begin(), each.unread().end());
      parts.push_back(each.part());
    }
    on_step(written);
    if (growing.empty()) return;
    Matrix logits(std::ssize(parts), model.config().vocabulary);
    model.next_logits(tokens, parts, logits.view(), executor);
    executor.run(logits.rows, [&](std::int64_t i) {
      growing[static_cast<std::size_t>(i)]->draw({logits.row(i), static_cast<std::size_t>(logits.cols)});
    });
  }
}

}  // namespace

std::vector<TokenId> self_written_tokens(const Transformer& model, std::span<const TokenId> beginning,
                                         std::int64_t count, std::int64_t window, Executor& executor,
                                         const Progress& progress, const WrittenTokens& written) {
  constexpr std::int64_t windows_at_once = 64;
  expects(count >= 0 && window > 0 && window <= model.config().context,
          "higgs::model::self_written_tokens: windows must have tokens and fit the model's context");
  const std::int64_t before = std::ssize(written.before);
  expects(before == count || (before < count && before % (windows_at_once * window) == 0),
          "higgs::model::self_written_tokens: what was written before must be whole pieces of the text");
  std::vector<TokenId> out = random_tokens(count, model.config().vocabulary, calibration_seed);
  std::ranges::copy(written.before, out.begin());
  for (std::int64_t first = before; first < count; first += windows_at_once * window) {
    std::vector<SelfWritten> windows;
    const std::int64_t end = std::min(count, first + windows_at_once * window);
    for (std::int64_t at = first; at < end; at += window) {
      const auto size = static_cast<std::size_t>(std::min(window, count - at));
      windows.emplace_back(model.config(), beginning,
                           std::span(out).subspan(static_cast<std::size_t>(at), size),
                           calibration_seed + static_cast<std::uint64_t>(at / window));
    }
    write_together(model, windows, executor, [&](std::int64_t done) {
      if (progress) progress(first + done, count);
    });
    if (written.keep)
      written.keep(
          std::span(out).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(end - first)));
  }
  return out;
}

std::vector<TokenId> calibration_tokens(const ModelSource& source, const std::string& random_self_or_file,
                                        std::int64_t count, Executor& executor, const Progress& progress,
                                        const WrittenTokens& written) {
  const ModelConfig& config = source.require_config();
  if (random_self_or_file == "random") return random_tokens(count, config.vocabulary, calibration_seed);
  if (random_self_or_file != "self") {
    std::vector<TokenId> tokens =
        read_tokens(random_self_or_file, Tokenizer(source.vocabulary(), source.path().string()), count);
    if (tokens.empty()) throw InvalidArgument(random_self_or_file + ": has no token to calibrate with");
    return tokens;
  }
  if (std::ssize(written.before) == count) return written.before;  // the model is not even loaded
  std::vector<TokenId> beginning = source.vocabulary().prefix;
  if (beginning.empty() && config.begin_token) beginning.push_back(*config.begin_token);
  return self_written_tokens(Transformer::load(source, executor), beginning, count,
                             std::min(calibration_window, config.context), executor, progress, written);
}

InputSquares measure_inputs(const ModelSource& source, std::span<const TokenId> tokens, std::int64_t window,
                            Executor& executor, const Progress& progress) {
  const ModelConfig& config = source.require_config();
  const std::vector<BlockLinear> linears = block_linears(config);
  BlockRunner runner(source, tokens, window, executor);
  InputSquares out;
  while (runner.block() < config.layers) {
    const auto index = static_cast<std::size_t>(runner.block());
    Block& block = runner.load();
    std::map<const Linear*, std::string> names;
    for (const BlockLinear& each : linears)
      if (each.block == index) names.emplace(&each.part->in(block), each.name);
    runner.step([&](std::span<const Linear* const> layers, MatrixView<const float> x) {
      std::vector<double>& squares = out[names.at(layers.front())];
      add_squares(x, std::ssize(tokens), squares);
      for (const Linear* layer : layers.subspan(1)) out[names.at(layer)] = squares;
    });
    if (progress) progress(runner.block(), config.layers);
  }
  out[std::string(config.tied_embeddings ? embedding_name : output_name)] = runner.output_squares();
  return out;
}

ColumnStatistics shared_columns(const ModelConfig& config, std::string_view name, Sharing sharing,
                                const std::function<SharedMatrix(std::string_view)>& dense,
                                Executor& executor) {
  const SharedMatrix own = dense(name);
  ColumnStatistics columns(own->cols);
  const std::vector<BlockLinear> layers = sharing_layers(name, sharing);
  if (layers.empty()) columns.add(own->view(), executor);
  for (const BlockLinear& layer : layers)
    if (!layer.part->shape(config).empty())
      columns.add(layer.name == name ? own->view() : dense(layer.name)->view(), executor);
  return columns;
}

}  // namespace higgs::model
