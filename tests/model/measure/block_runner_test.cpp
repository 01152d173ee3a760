// SPDX-License-Identifier: Apache-2.0
#include "measure/block_runner.hpp"

#include "model/tiny_model.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

using namespace higgs::model;

namespace {

// The states of a text before each block and after the last one, as the whole model has them.
std::vector<Matrix> states_of(const ModelSource& source, std::span<const TokenId> text, std::int64_t window) {
  const Transformer model = Transformer::load(source);
  Matrix states(std::ssize(text), model.config().width);
  model.embed(text, states.view());
  std::vector<Matrix> out{states};
  for (std::size_t block = 0; block < model.weights.blocks.size(); ++block) {
    for (std::int64_t first = 0; first < states.rows; first += window) {
      KvCache cache(model.config(), window);
      model.run_blocks(block, block + 1,
                       states.view().row_range(first, std::min(window, states.rows - first)), cache);
    }
    out.push_back(states);
  }
  return out;
}

}  // namespace

TEST_CASE("states between blocks are those of the whole model, from any block on", "[model][block_runner]") {
  for (const std::string family : {"llama", "granite"}) {
    const ModelConfig config = tiny_config(family);
    const TemporaryFolder folder;
    write_folder(folder.path(), config);
    const ModelSource source(folder.path());
    const std::vector<TokenId> text = tiny_text(24);
    const std::vector<Matrix> expected = states_of(source, text, 10);
    for (std::int64_t first = 0; first <= config.layers; ++first) {
      BlockRunner runner(source, text, 10);
      runner.go_to(first, expected[static_cast<std::size_t>(first)]);
      for (std::int64_t block = first; block <= config.layers; ++block) {
        INFO(family << " from " << first << " at " << block);
        CHECK(runner.block() == block);
        CHECK(std::ranges::equal(std::span(runner.states().data, 24u * 24u),
                                 expected[static_cast<std::size_t>(block)].values));
        if (block == config.layers) break;
        runner.load();
        runner.step();
      }
      CHECK(runner.output_squares().size() == static_cast<std::size_t>(config.width));
    }
  }
}

TEST_CASE("an observer sees the same inputs before a block runs as while it runs", "[model][block_runner]") {
  const TemporaryFolder folder;
  write_folder(folder.path(), tiny_config("qwen2"));
  const ModelSource source(folder.path());
  BlockRunner runner(source, tiny_text(24), 10);
  while (runner.block() < 2) {
    runner.load();
    std::vector<float> seen[2];
    const auto into = [](std::vector<float>& place) {
      return [&place](std::span<const Linear* const>, higgs::MatrixView<const float> x) {
        place.insert(place.end(), x.data, x.data + x.size());
      };
    };
    runner.observe(into(seen[0]));
    runner.step(into(seen[1]));
    CHECK(seen[0].size() == std::size_t{24} * (24 + 24 + 24 + 36));
    CHECK(seen[0] == seen[1]);
  }
}

TEST_CASE("a replaced layer is what the next block sees", "[model][block_runner]") {
  const TemporaryFolder folder;
  write_folder(folder.path(), tiny_config("llama"));
  const ModelSource source(folder.path());
  BlockRunner runner(source, tiny_text(24), 10);
  const std::vector<float> before(runner.states().data, runner.states().data + runner.states().size());
  Block& block = runner.load();
  block.o.weight = share(Matrix(24, 24));
  block.down.weight = share(Matrix(24, 36));
  runner.step();  // a block whose outputs are zero
  CHECK(std::ranges::equal(std::span(runner.states().data, before.size()), before));
}

TEST_CASE("a text that cannot run and states that do not fit are refused", "[model][block_runner]") {
  const TemporaryFolder folder;
  write_folder(folder.path(), tiny_config("llama"));
  const ModelSource source(folder.path());
  const std::vector<TokenId> text = tiny_text(24), outside{1, 40};
  CHECK_THROWS_AS(BlockRunner(source, {}, 10), higgs::InvalidArgument);
  CHECK_THROWS_AS(BlockRunner(source, text, 0), higgs::InvalidArgument);
  CHECK_THROWS_AS(BlockRunner(source, outside, 10), higgs::InvalidArgument);
  BlockRunner runner(source, text, 10);
  CHECK_THROWS_AS(runner.go_to(3, Matrix(24, 24)), higgs::InvalidArgument);
  CHECK_THROWS_AS(runner.go_to(1, Matrix(23, 24)), higgs::InvalidArgument);
  CHECK_THROWS_AS(runner.output_squares(), higgs::InvalidArgument);
}
