// SPDX-License-Identifier: Apache-2.0
#include "measure/output_gradients.hpp"

#include "measure/backward.hpp"
#include "model/tiny_model.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

using namespace higgs::model;

namespace {

constexpr std::int64_t window = 10;

// Calls visit(first token, hidden, logits) for each window of a text.
template <class Visit>
void for_windows(const Transformer& model, const std::vector<TokenId>& text, Visit&& visit) {
  for (std::int64_t first = 0; first < std::ssize(text); first += window) {
    const std::int64_t count = std::min(window, std::ssize(text) - first);
    KvCache cache(model.config(), window);
    Matrix hidden(count, model.config().width), logits(count, model.config().vocabulary);
    model.forward(std::span(text).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
                  cache, hidden.view());
    visit(first, hidden, logits);
  }
}

// Minus the log-probability of `drawn` (tokens) behind each token of a text. The last of a window predicts nothing.
double loss_of(const Transformer& model, const std::vector<TokenId>& text,
               const std::vector<std::int64_t>& drawn) {
  double loss = 0;
  for_windows(model, text, [&](std::int64_t first, const Matrix& hidden, Matrix& logits) {
    model.logits(hidden.view(), logits.view());
    for (std::int64_t t = 0; t + 1 < logits.rows; ++t) {
      double sum = 0;
      for (std::int64_t v = 0; v < logits.cols; ++v) sum += std::exp(static_cast<double>(logits.row(t)[v]));
      loss += std::log(sum) - static_cast<double>(logits.row(t)[drawn[static_cast<std::size_t>(first + t)]]);
    }
  });
  return loss;
}

// The tokens that OutputGradients draws: where the gradient of a logit is below zero.
std::vector<std::int64_t> drawn_tokens(const Transformer& model, const std::vector<TokenId>& text) {
  std::vector<std::int64_t> out;
  for_windows(model, text, [&](std::int64_t first, const Matrix& hidden, Matrix& logits) {
    draw_backward(model, hidden, higgs::random_bits(OutputGradients::seed, static_cast<std::uint64_t>(first)),
                  logits, higgs::default_executor());
    for (std::int64_t t = 0; t < logits.rows; ++t)
      out.push_back(std::min_element(logits.row(t), logits.row(t) + logits.cols) - logits.row(t));
  });
  return out;
}

}  // namespace

TEST_CASE("gradients of outputs are what a change of an output changes", "[model][output_gradients]") {
  for (const std::string family : {"llama", "qwen2", "qwen3", "granite"}) {
    const TemporaryFolder folder;
    write_folder(folder.path(), tiny_config(family));
    const ModelSource source(folder.path());
    const std::vector<TokenId> text = tiny_text(24);
    Transformer model = Transformer::load(source);
    const std::vector<std::int64_t> drawn = drawn_tokens(model, text);
    OutputGradients gradients(source, text, window);
    for (std::int64_t block = 0; block < model.config().layers; ++block) {
      Block& own = model.weights.blocks[static_cast<std::size_t>(block)];
      const auto found = gradients.of_block(block, own);
      for (const Part& part : block_parts()) {
        if (!part.is_linear() || part.shape(model.config()).empty()) continue;
        const Matrix& after = found.at(part.name);
        Linear& layer = part.in(own);
        REQUIRE(after.rows == 24);
        REQUIRE(after.cols == layer.rows());
        for (const std::int64_t output : {std::int64_t{0}, layer.rows() - 1}) {
          INFO(family << " " << part.name << " of block " << block << ", output " << output);
          double sum = 0;
          for (std::int64_t t = 0; t < after.rows; ++t) sum += static_cast<double>(after.row(t)[output]);
          const std::vector<float> bias = layer.bias;
          const auto loss_with = [&](float change) {
            layer.bias = bias.empty() ? std::vector<float>(static_cast<std::size_t>(layer.rows())) : bias;
            layer.bias[static_cast<std::size_t>(output)] += change;
            const double loss = loss_of(model, text, drawn);
            layer.bias = bias;
            return loss;
          };
          constexpr float change = 4e-3f;
          const double slope = (loss_with(change) - loss_with(-change)) / (2 * static_cast<double>(change));
          CHECK(sum == Approx(slope).epsilon(0.02).margin(2e-3));
        }
      }
    }
  }
}

TEST_CASE("the gradients of a block are given once, and a model without tokens has none",
          "[model][output_gradients]") {
  const TemporaryFolder folder;
  write_folder(folder.path(), tiny_config("llama"));
  const ModelSource source(folder.path());
  std::vector<std::int64_t> steps;
  OutputGradients gradients(source, tiny_text(12), window, higgs::default_executor(),
                            [&](std::int64_t done, std::int64_t total) {
                              CHECK(total == 4);
                              steps.push_back(done);
                            });
  CHECK(std::ranges::is_sorted(steps));
  CHECK(steps.back() == 4);
  const Block block = Transformer::load(source).weights.blocks[1];
  CHECK_NOTHROW(gradients.of_block(1, block));
  CHECK_THROWS_AS(gradients.of_block(1, block), higgs::InvalidArgument);
  CHECK_THROWS_AS(gradients.of_block(2, block), higgs::InvalidArgument);
  CHECK_THROWS_AS(OutputGradients(source, {}, window), higgs::InvalidArgument);
}
