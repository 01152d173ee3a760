// SPDX-License-Identifier: Apache-2.0
#include "network/network.hpp"

#include "model/tiny_model.hpp"

#include <higgs/core/error.hpp>
#include <higgs/quantizer.hpp>

#include <catch2/catch.hpp>

#include <memory>
#include <string>
#include <vector>

using namespace higgs::model;

namespace {

constexpr int tokens = 20;

// The logits of each token, by the model itself.
Matrix logits_of(const Transformer& model) {
  KvCache cache(model.config(), tokens);
  Matrix hidden(tokens, model.config().width), out(tokens, model.config().vocabulary);
  model.forward(tiny_text(tokens), cache, hidden.view());
  model.logits(hidden.view(), out.view());
  return out;
}

// The same by a network.
Matrix logits_of(Network& model) {
  Matrix hidden(tokens, model.config().width), out(tokens, model.config().vocabulary);
  model.forward(tiny_text(tokens), hidden.view());
  model.logits(hidden.view(), out.view());
  return out;
}

// A matrix of a model, twice as large.
SharedMatrix doubled(const Network& model, std::string_view name) {
  Matrix out = *model.dense(name, "test");
  for (float& value : out.values) value *= 2;
  return share(std::move(out));
}

}  // namespace

TEST_CASE("a network on the CPU gives the bits of its model, at once and in steps", "[model][network]") {
  for (const char* family : {"llama", "qwen2", "qwen3", "granite"}) {
    const Transformer model = load_tiny(tiny_config(family));
    HostNetwork network(model);
    const Matrix expected = logits_of(model);
    CHECK(logits_of(network).values == expected.values);

    Matrix states(tokens, model.config().width), out(tokens, model.config().vocabulary);
    network.embed(tiny_text(tokens), states.view());
    network.run_blocks(0, 1, states.view());
    network.run_blocks(1, 2, states.view());
    network.finish(states.view(), states.view());
    network.output()(states.view(), out.view());
    CHECK(out.values == expected.values);
  }
}

TEST_CASE("each matrix can be replaced, in a copy that leaves the network as it is", "[model][network]") {
  for (const char* family : {"llama", "qwen3"}) {  // a tied output layer, and one of its own
    const ModelConfig config = tiny_config(family);
    HostNetwork network(load_tiny(config));
    const Matrix before = logits_of(network);
    std::vector<std::string> names{std::string(embedding_name)};
    if (!config.tied_embeddings) names.emplace_back(output_name);
    for (const BlockLinear& each : block_linears(config)) names.push_back(each.name);
    for (const std::string& name : names) {
      INFO(name);
      const std::unique_ptr<Network> copy = network.copy();
      const OutputLayer old_output = copy->output();
      copy->replace(name, doubled(network, name));
      CHECK(logits_of(*copy).values != before.values);
      CHECK(logits_of(network).values == before.values);
      // An output layer that was asked for before the change is that of before.
      Matrix hidden(tokens, config.width), out(tokens, config.vocabulary);
      network.forward(tiny_text(tokens), hidden.view());
      old_output(hidden.view(), out.view());
      CHECK(out.values == before.values);
      copy->replace(name, network.dense(name, "test"));
      CHECK(logits_of(*copy).values == before.values);
    }
  }
}

TEST_CASE("a quantized matrix takes the place of a dense one, which can be asked for no more",
          "[model][network]") {
  const ModelConfig config = tiny_config("llama");
  HostNetwork network(load_tiny(config));
  for (const std::string& name :
       {weight_name(1, &Block::down), weight_name(0, &Block::q), std::string(embedding_name)}) {
    const auto quantized = higgs::quantize(network.dense(name, "test")->view(), "2x256");
    network.replace(name, quantized);
    CHECK_THAT(message_of<higgs::InvalidArgument>([&] { network.dense(name, "the test"); }),
               Catch::Contains("the test") && Catch::Contains("quantized"));
  }
  CHECK(logits_of(network).values == logits_of(network.model()).values);
}

TEST_CASE("a matrix that the model lacks is refused by its name", "[model][network]") {
  HostNetwork network(load_tiny(tiny_config("llama")));
  const SharedMatrix any = network.dense(embedding_name, "test");
  for (const std::string name : {"model.layers.2.mlp.up_proj.weight", "lm_head.weight", ""}) {
    CHECK_THAT(message_of<higgs::InvalidArgument>([&] { network.replace(name, any); }),
               Catch::Contains("no matrix \"" + name + "\""));
    CHECK_THROWS_AS(network.dense(name, "test"), higgs::InvalidArgument);
  }
}
