// SPDX-License-Identifier: Apache-2.0
#include "network/generate.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <chrono>
#include <string>

namespace higgs::model {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Throws InvalidArgument for prompts that generate() cannot continue.
void check_prompts(const ModelConfig& config, std::span<const std::vector<TokenId>> prompts) {
  expects(!prompts.empty(), "higgs::model::generate: there is no prompt");
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const std::string which = "higgs::model::generate: prompt " + std::to_string(i + 1);
    if (prompts[i].empty()) throw InvalidArgument(which + " is empty");
    if (std::ssize(prompts[i]) >= config.context)
      throw InvalidArgument(which + " has " + std::to_string(prompts[i].size()) +
                            " tokens and fills the model's context of " + std::to_string(config.context));
  }
}

// Neighbouring prompts that are read together: weights are read once for many short ones, and states stay few.
std::vector<std::vector<std::size_t>> groups_of(std::span<const std::vector<TokenId>> prompts) {
  constexpr std::int64_t most_tokens_together = 512;
  std::vector<std::vector<std::size_t>> out;
  std::int64_t tokens = 0;
  for (std::size_t text = 0; text < prompts.size(); ++text) {
    tokens += std::ssize(prompts[text]);
    if (out.empty() || tokens > most_tokens_together) {
      out.emplace_back();
      tokens = std::ssize(prompts[text]);
    }
    out.back().push_back(text);
  }
  return out;
}

// A text that grows.
struct Growing {
  Growing(const ModelConfig& config, std::int64_t length, std::int64_t count, const Sampling& sampling)
      : limit(std::min(count, config.context - length)),
        sampler(sampling),
        cache(config, length + limit, KvType::Half) {}

  std::int64_t limit;  // tokens that it may get
  Sampler sampler;
  KvCache cache;
  TokenId next = 0;  // chosen, not yet one of the text
  bool ended = false;
};

// Texts that grow together.
class Texts {
 public:
  Texts(const Transformer& model, std::span<const std::vector<TokenId>> prompts, std::int64_t count,
        Sampling sampling, Executor& executor)
      : model_(model), executor_(executor) {
    for (const std::vector<TokenId>& prompt : prompts) {
      texts_.emplace_back(model.config(), std::ssize(prompt), count, sampling);
      ++sampling.seed;
    }
  }

  Growing& operator[](std::size_t text) { return texts_[text]; }

  // Reads more of these texts, read_of(text) of each, and chooses the tokens that follow. Returns the tokens read.
  template <class ReadOf>
  std::int64_t read(std::span<const std::size_t> which, const ReadOf& read_of) {
    std::vector<TokenId> tokens;
    std::vector<TextPart> parts;
    for (const std::size_t text : which) {
      const std::span<const TokenId> more = read_of(text);
      tokens.insert(tokens.end(), more.begin(), more.end());
      parts.push_back({&texts_[text].cache, std::ssize(more)});
    }
    Matrix logits(std::ssize(which), model_.config().vocabulary);
    model_.next_logits(tokens, parts, logits.view(), executor_);
    executor_.run(logits.rows, [&](std::int64_t row) {
      Growing& text = texts_[which[static_cast<std::size_t>(row)]];
      text.next = text.sampler.choose({logits.row(row), static_cast<std::size_t>(logits.cols)});
    });
    return std::ssize(tokens);
  }

 private:
  const Transformer& model_;
  Executor& executor_;
  std::vector<Growing> texts_;
};

}  // namespace

std::vector<Generation> generate(const Transformer& model, std::span<const std::vector<TokenId>> prompts,
                                 std::int64_t count, const Sampling& sampling, const OnToken& on_token,
                                 Executor& executor, std::span<const TokenId> more_ends) {
  const ModelConfig& config = model.config();
  check_prompts(config, prompts);
  Texts texts(model, prompts, count, sampling, executor);
  std::vector<Generation> out(prompts.size());
  std::vector<std::size_t> growing;
  for (const std::vector<std::size_t>& group : groups_of(prompts)) {
    const auto start = std::chrono::steady_clock::now();
    const std::int64_t read = texts.read(group, [&](std::size_t text) { return std::span(prompts[text]); });
    const double seconds = seconds_since(start);
    for (const std::size_t text : group) {
      out[text].prompt_tokens = std::ssize(prompts[text]);
      out[text].prefill_seconds =
          seconds * static_cast<double>(out[text].prompt_tokens) / static_cast<double>(read);
      if (texts[text].limit > 0) growing.push_back(text);
    }
  }
  const auto start = std::chrono::steady_clock::now();
  // Takes the chosen token of a text; whether the text has its last one.
  const auto take = [&](std::size_t text) {
    Generation& result = out[text];
    const TokenId token = texts[text].next;
    result.tokens.push_back(token);
    result.decode_seconds = seconds_since(start);
    if (on_token) on_token(text, token);
    return std::ranges::count(config.end_tokens, token) > 0 || std::ranges::count(more_ends, token) > 0 ||
           std::ssize(result.tokens) == texts[text].limit;
  };
  while (true) {
    std::erase_if(growing, take);
    if (growing.empty()) return out;
    texts.read(growing, [&](std::size_t text) { return std::span<const TokenId>(&texts[text].next, 1); });
  }
}

}  // namespace higgs::model
