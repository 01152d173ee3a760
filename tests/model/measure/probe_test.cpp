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
using Architecture = ModelConfig::Architecture;

namespace {

Transformer load_tiny(Architecture architecture) {
  const TemporaryFolder folder;
  write_folder(folder.path(), tiny_config(architecture));
  return Transformer::load(ModelSource(folder.path()));
}

// Powers of two, so that dividing and multiplying by them is exact.
std::vector<float> some_scales(std::int64_t count) {
  std::vector<float> out;
  for (std::int64_t i = 0; i < count; ++i) out.push_back(std::ldexp(1.0f, static_cast<int>(i % 5) - 2));
  return out;
}

// Noise that is even where columns are divided by the scales, if there are any.
DenseMatrix with_noise(const DenseMatrix& w, double level, std::uint64_t seed, std::vector<float> scales,
                       double& t2) {
  if (scales.empty()) scales.assign(static_cast<std::size_t>(w.cols), 1);
  std::vector<float> values = *w.values;
  const auto scale = [&](std::size_t i) { return scales[i % static_cast<std::size_t>(w.cols)]; };
  for (std::size_t i = 0; i < values.size(); ++i) values[i] /= scale(i);
  const higgs::MatrixView<float> view(values.data(), w.rows, w.cols);
  t2 = higgs::insert_noise(view, level, seed, view);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] *= scale(i);
  return {w.rows, w.cols, std::move(values)};
}

}  // namespace

TEST_CASE("a probe of the embedding or the output layer finds what the noisy model finds", "[model][probe]") {
  for (const Architecture architecture : {Architecture::Llama, Architecture::Qwen3}) {  // tied, untied
    const Transformer model = load_tiny(architecture);
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
        const auto found =
            output ? probe.measure_output(levels, 5, scales) : probe.measure_embedding(levels, 5, scales);
        REQUIRE(found.size() == 2);
        for (std::size_t i = 0; i < 2; ++i) {
          CAPTURE(tied, output, scaled, i);
          Transformer noisy = model;
          double t2 = 0;
          const auto dense = output ? std::get<DenseMatrix>(model.weights.output.weight)
                                    : std::get<DenseMatrix>(model.weights.embedding.weight);
          const DenseMatrix weight = with_noise(dense, levels[i], higgs::random_bits(5, i), scales, t2);
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
  for (const Architecture architecture : {Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3}) {
    const Transformer model = load_tiny(architecture);
    const std::vector<TokenId> text = tiny_text(38);
    NoiseProbe probe(model, text, 12);
    CHECK(probe.tokens().size() == 36);
    Evaluator evaluator(text, 12);
    const double reference = evaluator.set_reference(model).cross_entropy.mean;
    CHECK(probe.cross_entropy() == Approx(reference));

    const std::vector<double> levels{0.01, 0.05};
    for (const auto& [block, part] :
         std::vector<std::pair<std::size_t, Part>>{{0, Part::Q},
                                                   {0, Part::Down},
                                                   {1, Part::V},
                                                   {1, Part::Up},
                                                   {0, Part::O}}) {  // forward, and back
      for (const bool scaled : {false, true}) {
        const auto dense = std::get<DenseMatrix>(model.weights.blocks[block][part].weight);
        const std::vector<float> scales = scaled ? some_scales(dense.cols) : std::vector<float>();
        const std::vector<ProbeResult> found = probe.measure(block, part, levels, 77, scales);
        REQUIRE(found.size() == 2);
        for (std::size_t i = 0; i < 2; ++i) {
          Transformer noisy = model;
          double t2 = 0;
          noisy.weights.blocks[block][part].weight =
              with_noise(dense, levels[i], higgs::random_bits(77, i), scales, t2);
          const Evaluation expected = evaluator.evaluate(noisy);
          CAPTURE(block, static_cast<int>(part), i);
          CHECK(found[i].t2 == t2);
          CHECK(found[i].kl == Approx(expected.divergence->kl.mean).margin(1e-9));
          CHECK(found[i].cross_entropy == Approx(expected.cross_entropy.mean - reference).margin(1e-9));
        }
      }
    }
  }
}

TEST_CASE("what cannot be probed is refused", "[model][probe]") {
  const Transformer model = load_tiny(Architecture::Llama);
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
