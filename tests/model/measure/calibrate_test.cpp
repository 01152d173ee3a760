// SPDX-License-Identifier: Apache-2.0
#include "measure/calibrate.hpp"

#include "architecture/parts.hpp"
#include "compare/compare.hpp"
#include "measure/probe.hpp"
#include "measure/sensitivity.hpp"
#include "network/network.hpp"
#include "network/sampling.hpp"
#include "network/transformer.hpp"

#include "model/tiny_model.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using namespace higgs::model;

TEST_CASE("mean squares are those of what the layers of the whole model read", "[model][calibrate]") {
  for (const std::string family : {"llama", "qwen3"}) {
    const ModelConfig config = tiny_config(family);
    const TemporaryFolder folder;
    write_folder(folder.path(), config);
    const ModelSource source(folder.path());
    const std::vector<TokenId> text = tiny_text(24);

    Transformer model = Transformer::load(source);
    InputSquares expected;
    model.observer = [&](std::span<const Linear* const> layers, higgs::MatrixView<const float> x) {
      std::set<std::string_view> inputs;
      for (const BlockLinear& each : block_linears(config)) {
        if (std::find(layers.begin(), layers.end(), &each.in(model.weights)) == layers.end()) continue;
        inputs.insert(each.part->input);
        auto& squares = expected[each.name];
        squares.resize(static_cast<std::size_t>(x.cols));
        for (std::int64_t r = 0; r < x.rows; ++r)
          for (std::int64_t c = 0; c < x.cols; ++c)
            squares[static_cast<std::size_t>(c)] +=
                static_cast<double>(x(r, c)) * static_cast<double>(x(r, c)) / 24;
      }
      CHECK(inputs.size() == 1);  // who reads the same says so in the list of parts
      CHECK(std::ranges::count(block_parts(), *inputs.begin(), &Part::input) == std::ssize(layers));
    };
    for (const std::size_t first : {0u, 10u, 20u}) {  // windows of 10, 10 and 4 tokens
      const auto window = std::span(text).subspan(first, std::min<std::size_t>(10, 24 - first));
      KvCache cache(config, 10);
      std::vector<float> hidden(window.size() * static_cast<std::size_t>(config.width));
      model.forward(window, cache, {hidden.data(), std::ssize(window), config.width});
      auto& squares = expected[config.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight"];
      squares.resize(static_cast<std::size_t>(config.width));
      for (std::size_t i = 0; i < hidden.size(); ++i)
        squares[i % squares.size()] += static_cast<double>(hidden[i]) * static_cast<double>(hidden[i]) / 24;
    }
    std::int64_t last = 0;
    const InputSquares found = measure_inputs(source, text, 10, higgs::default_executor(),
                                              [&](std::int64_t done, std::int64_t) { last = done; });
    CHECK(last == config.layers);
    REQUIRE(found.size() == static_cast<std::size_t>(7 * config.layers) + 1);  // and the output layer
    for (const auto& [name, squares] : expected) {
      INFO(name);
      REQUIRE(found.at(name).size() == squares.size());
      for (std::size_t c = 0; c < squares.size(); ++c)
        CHECK(found.at(name)[c] == Approx(squares[c]).epsilon(1e-5));
    }
  }
}

TEST_CASE("shared statistics are those of the stacked rows of all layers that share", "[model][calibrate]") {
  const ModelConfig config = tiny_config("qwen3");
  const HostNetwork model(load_tiny(config));
  const auto dense = [&](std::string_view name) { return model.dense(name, "the test"); };
  for (const Sharing sharing : {Sharing::Alike, Sharing::Fused})
    for (const std::string& name : probed_layers(config)) {
      INFO(name);
      std::vector<std::string> names;
      for (const BlockLinear& each : sharing_layers(name, sharing)) names.push_back(each.name);
      if (names.empty()) names.push_back(name);  // an embedding, an output layer
      std::vector<float> rows;
      for (const std::string& each : names) {
        const SharedMatrix matrix = dense(each);
        rows.insert(rows.end(), matrix->values.begin(), matrix->values.end());
      }
      const std::int64_t cols = dense(name)->cols;
      higgs::ColumnStatistics expected(cols);
      expected.add(higgs::MatrixView<const float>(rows.data(), std::ssize(rows) / cols, cols));
      const higgs::ColumnStatistics found = shared_columns(config, name, sharing, dense);
      CHECK(found.rows() == expected.rows());
      CHECK(found.input_scales() == expected.input_scales());
      CHECK(found.max_magnitude() == expected.max_magnitude());
    }
}

TEST_CASE("nothing to run, or tokens that the model does not have, are refused", "[model][calibrate]") {
  const TemporaryFolder folder;
  write_folder(folder.path(), tiny_config("llama"));
  const ModelSource source(folder.path());
  CHECK_THROWS_AS(measure_inputs(source, {}, 10), higgs::InvalidArgument);
  CHECK_THROWS_AS(measure_inputs(source, std::vector<TokenId>{1, 40}, 10), higgs::InvalidArgument);
  CHECK_THROWS_AS(measure_inputs(source, std::vector<TokenId>{-1}, 10), higgs::InvalidArgument);
  const auto tokens = calibration_tokens(source, "random", 100);
  CHECK(tokens.size() == 100);
  CHECK_NOTHROW(measure_inputs(source, tokens, 64));
  CHECK_THROWS_AS(calibration_tokens(source, (folder / "none.txt").string(), 5), higgs::IoError);
}

namespace {

// What self_written_tokens() promises, a window after the other and without a cache.
std::vector<TokenId> written_by(const Transformer& model, const std::vector<TokenId>& beginning,
                                std::int64_t count, std::int64_t window) {
  const ModelConfig& config = model.config();
  std::vector<TokenId> random = random_tokens(count, config.vocabulary, 1), out;
  for (std::uint64_t seed = 1; std::ssize(out) < count; ++seed) {
    Sampler sampler({.temperature = 1, .seed = seed});
    std::vector<TokenId> text;
    const auto room = static_cast<std::size_t>(std::min(window, count - std::ssize(out)));
    const auto begin = [&] {
      text.insert(text.end(), beginning.begin(), beginning.end());
      if (beginning.empty() && text.size() < room) text.push_back(random[out.size() + text.size()]);
    };
    begin();
    while (text.size() < room) {
      KvCache cache(config, window, KvType::Half);
      Matrix hidden(std::ssize(text), config.width), logits(1, config.vocabulary);
      model.forward(text, cache, hidden.view());
      model.logits(hidden.view().row_range(hidden.rows - 1, 1), logits.view());
      text.push_back(sampler.choose(logits.values));
      if (std::ranges::count(config.end_tokens, text.back()) > 0 && beginning != std::vector{text.back()})
        begin();
    }
    text.resize(room);
    out.insert(out.end(), text.begin(), text.end());
  }
  return out;
}

}  // namespace

TEST_CASE("a model writes its windows together as it would one after the other", "[model][calibrate]") {
  ModelConfig config = tiny_config("qwen3");
  config.end_tokens = {3, 39, 11};
  const Transformer model = load_tiny(config);
  higgs::SerialExecutor one;
  higgs::ThreadPool three(3);
  for (const auto& beginning : std::vector<std::vector<TokenId>>{{}, {3}, {5}, {1, 2, 4}}) {
    constexpr std::int64_t count = 70 * 9 - 2;  // more windows than grow together, the last is shorter
    std::vector<std::int64_t> progress;
    const std::vector<TokenId> found =
        self_written_tokens(model, beginning, count, 9, one, [&](std::int64_t done, std::int64_t total) {
          CHECK(total == count);
          progress.push_back(done);
        });
    CHECK(found == written_by(model, beginning, count, 9));
    CHECK(self_written_tokens(model, beginning, count, 9, three) == found);
    CHECK(std::ranges::is_sorted(progress));
    CHECK(progress.back() == count);
    CHECK(std::ranges::count(found, 39) > 0);  // texts end
  }
  CHECK(self_written_tokens(model, {}, 0, 9).empty());
  CHECK_THROWS_AS(self_written_tokens(model, {}, 5, 65), higgs::InvalidArgument);  // context 64
  CHECK_THROWS_AS(self_written_tokens(model, {}, 5, 0), higgs::InvalidArgument);
}

TEST_CASE("a model goes on with its text behind any piece, and ends with the same tokens",
          "[model][calibrate]") {
  const Transformer model = load_tiny(tiny_config("llama"));
  const std::int64_t count = 140 * 5 - 3, piece = 64 * 5;
  higgs::SerialExecutor one;
  std::vector<TokenId> kept;
  const auto write = [&](std::vector<TokenId> before) {
    kept = before;
    return self_written_tokens(model, {}, count, 5, one, {},
                               {.before = std::move(before), .keep = [&](std::span<const TokenId> more) {
                                  kept.insert(kept.end(), more.begin(), more.end());
                                }});
  };
  const std::vector<TokenId> whole = self_written_tokens(model, {}, count, 5, one);
  for (const std::int64_t size : {std::int64_t{0}, piece, 2 * piece, count}) {
    INFO(size);
    CHECK(write({whole.begin(), whole.begin() + size}) == whole);
    CHECK(kept == whole);
  }
  std::vector<TokenId> other(static_cast<std::size_t>(piece), 1);  // is taken as it is
  const std::vector<TokenId> found = write(other);
  CHECK(std::ranges::equal(std::span(found).first(other.size()), other));
  CHECK(std::ranges::equal(std::span(found).subspan(other.size()), std::span(whole).subspan(other.size())));
  for (const std::int64_t size : {std::int64_t{1}, piece - 1, count - 1, count + 1})
    CHECK_THROWS_AS(write(std::vector<TokenId>(static_cast<std::size_t>(size))), higgs::InvalidArgument);
}

TEST_CASE("a model's own text begins as the tokenizer says, else with the model's begin token",
          "[model][calibrate]") {
  ModelConfig config = tiny_config("llama");
  const auto written = [&](const std::vector<TokenId>& prefix) {
    const TemporaryFolder folder;
    write_folder(folder.path(), config);
    Vocabulary vocabulary = tiny_vocabulary();
    vocabulary.prefix = prefix;
    write_file(folder / "tokenizer.json", write_tokenizer_json(vocabulary));
    return calibration_tokens(ModelSource(folder.path()), "self", 100);
  };
  const Transformer model = load_tiny(config);
  CHECK(written({}) == self_written_tokens(model, {}, 100, 64));  // context 64
  CHECK(written({5, 6}) == self_written_tokens(model, std::vector<TokenId>{5, 6}, 100, 64));
  config.begin_token = 7;
  CHECK(written({}) == self_written_tokens(model, std::vector<TokenId>{7}, 100, 64));
  CHECK(written({5, 6}).at(64) == 5);
}

TEST_CASE("a method that is calibrated needs the inputs of every layer", "[model][compare]") {
  const TemporaryFolder folder;
  write_folder(folder.path(), tiny_config("llama"));
  const ModelSource source(folder.path());
  const Transformer model = Transformer::load(source);
  ComparisonRow row;
  CHECK(parse_method("higgs 2x256 random").calibrated);
  CHECK_FALSE(parse_method("higgs 2x256").calibrated);
  CHECK_THROWS_AS(with_method(model, parse_method("higgs 2x256 random"), {}, row), higgs::InvalidArgument);
  CHECK_NOTHROW(
      with_method(model, parse_method("higgs 2x256 random"), measure_inputs(source, tiny_text(24), 12), row));
}
