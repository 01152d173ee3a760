// SPDX-License-Identifier: Apache-2.0
#include "measure/probe.hpp"

#include "measure/evaluate.hpp"
#include "model/tiny_model.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

using namespace higgs::model;

namespace {

// Powers of two, so that dividing and multiplying by them is exact.
std::vector<float> some_scales(std::int64_t count) {
  std::vector<float> out;
  for (std::int64_t i = 0; i < count; ++i) out.push_back(std::ldexp(1.0f, static_cast<int>(i % 5) - 2));
  return out;
}

// Noise that is even where columns are divided by the scales, if there are any.
SharedMatrix with_noise(Matrix w, double level, std::uint64_t seed, std::vector<float> scales, double& t2) {
  if (scales.empty()) scales.assign(static_cast<std::size_t>(w.cols), 1);
  std::vector<float>& values = w.values;
  const auto scale = [&](std::size_t i) { return scales[i % static_cast<std::size_t>(w.cols)]; };
  for (std::size_t i = 0; i < values.size(); ++i) values[i] /= scale(i);
  t2 = higgs::insert_noise(w.view(), level, seed, w.view());
  for (std::size_t i = 0; i < values.size(); ++i) values[i] *= scale(i);
  return share(std::move(w));
}

}  // namespace

TEST_CASE("a probe of the embedding or the output layer finds what the noisy model finds", "[model][probe]") {
  for (const std::string family : {"llama", "qwen3"}) {  // tied, untied
    const Transformer model = load_tiny(tiny_config(family));
    const std::vector<TokenId> text = tiny_text(36);
    NoiseProbe probe(model, text, 12);
    Evaluator evaluator(text, 12);
    const double reference = evaluator.set_reference(model).cross_entropy.mean;
    const std::vector<double> levels{0.01, 0.05};
    const bool tied = model.config().tied_embeddings;
    for (const bool output : {false, true})
      for (const bool scaled : {false, true}) {
        if (output && tied) continue;
        const std::vector<float> scales = scaled ? some_scales(model.config().width) : std::vector<float>();
        const auto found = probe.measure(output ? output_name : embedding_name, levels, 5, scales);
        REQUIRE(found.size() == 2);
        for (std::size_t i = 0; i < 2; ++i) {
          CAPTURE(tied, output, scaled, i);
          Transformer noisy = model;
          double t2 = 0;
          const Matrix& dense =
              output ? *require_dense(model.weights.output, "") : *require_dense(model.weights.embedding, "");
          const SharedMatrix weight = with_noise(dense, levels[i], higgs::random_bits(5, i), scales, t2);
          if (!output) noisy.weights.embedding.weight = weight;
          if (output || tied) noisy.weights.output.weight = weight;
          const Evaluation expected = evaluator.evaluate(noisy);
          CHECK(found[i].t2 == t2);
          CHECK(found[i].kl == Approx(expected.divergence->kl.mean).margin(1e-9));
          CHECK(found[i].cross_entropy == Approx(expected.cross_entropy.mean - reference).margin(1e-9));
        }
      }
  }
}

TEST_CASE("a probe finds what running the whole noisy model finds", "[model][probe]") {
  for (const std::string family : {"llama", "qwen2", "qwen3"}) {
    const Transformer model = load_tiny(tiny_config(family));
    const std::vector<TokenId> text = tiny_text(38);
    NoiseProbe probe(model, text, 12);
    CHECK(probe.tokens().size() == 36);
    Evaluator evaluator(text, 12);
    const double reference = evaluator.set_reference(model).cross_entropy.mean;
    CHECK(probe.cross_entropy() == Approx(reference));

    const std::vector<double> levels{0.01, 0.05};
    for (const auto& [block, place] :
         std::vector<std::pair<std::size_t, Linear Block::*>>{{0, &Block::q},
                                                              {0, &Block::down},
                                                              {1, &Block::v},
                                                              {1, &Block::up},
                                                              {0, &Block::o}}) {  // forward, and back
      const std::string name = weight_name(static_cast<std::int64_t>(block), place);
      for (const bool scaled : {false, true}) {
        const Matrix& dense = *require_dense(model.weights.blocks[block].*place, "");
        const std::vector<float> scales = scaled ? some_scales(dense.cols) : std::vector<float>();
        const std::vector<ProbeResult> found = probe.measure(name, levels, 77, scales);
        REQUIRE(found.size() == 2);
        for (std::size_t i = 0; i < 2; ++i) {
          Transformer noisy = model;
          double t2 = 0;
          (noisy.weights.blocks[block].*place).weight =
              with_noise(dense, levels[i], higgs::random_bits(77, i), scales, t2);
          const Evaluation expected = evaluator.evaluate(noisy);
          CAPTURE(name, i);
          CHECK(found[i].t2 == t2);
          CHECK(found[i].kl == Approx(expected.divergence->kl.mean).margin(1e-9));
          CHECK(found[i].cross_entropy == Approx(expected.cross_entropy.mean - reference).margin(1e-9));
        }
      }
    }
  }
}

TEST_CASE("what cannot be probed is refused", "[model][probe]") {
  const Transformer model = load_tiny(tiny_config("llama"));
  CHECK_THROWS_AS(NoiseProbe(model, tiny_text(10), 11), higgs::InvalidArgument);
  CHECK_THROWS_AS(NoiseProbe(model, tiny_text(10), 1), higgs::InvalidArgument);
  CHECK_THROWS_AS(NoiseProbe(model, tiny_text(100000), 100000), higgs::InvalidArgument);
}

TEST_CASE("random tokens cover the vocabulary and depend on the seed alone", "[model][probe]") {
  const std::vector<TokenId> tokens = random_tokens(4000, 40, 3);
  std::vector<int> counts(40);
  for (const TokenId token : tokens) {
    REQUIRE((token >= 0 && token < 40));
    ++counts[static_cast<std::size_t>(token)];
  }
  for (const int count : counts) CHECK((count > 50 && count < 150));  // five standard deviations
  CHECK(random_tokens(4000, 40, 3) == tokens);
  CHECK(random_tokens(4000, 40, 4) != tokens);
}
