// SPDX-License-Identifier: Apache-2.0
#include "../../examples/model/probe.hpp"

#include "../../examples/model/evaluate.hpp"
#include "tiny_model.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

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

}  // namespace

TEST_CASE("a probe finds what running the whole noisy model finds", "[model][probe]") {
  for (const Architecture architecture : {Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3}) {
    const Transformer model = load_tiny(architecture);
    const std::vector<TokenId> text = tiny_text(38);
    NoiseProbe probe(model, text, 12);
    CHECK(probe.tokens().size() == 36);
    Evaluator evaluator(text, 12);
    const double reference = evaluator.set_reference(model).cross_entropy;
    CHECK(probe.cross_entropy() == Approx(reference));

    const std::vector<double> levels{0.01, 0.05};
    for (const auto& [block, part] :
         std::vector<std::pair<std::size_t, Part>>{{0, Part::Q},
                                                   {0, Part::Down},
                                                   {1, Part::V},
                                                   {1, Part::Up},
                                                   {0, Part::O}}) {  // forward, and back
      for (const higgs::NoiseShape shape : {higgs::NoiseShape::Even, higgs::NoiseShape::ByColumn}) {
        const std::vector<ProbeResult> found = probe.measure(block, part, levels, shape, 77);
        REQUIRE(found.size() == 2);
        for (std::size_t i = 0; i < 2; ++i) {
          Transformer noisy = model;
          const auto dense = std::get<DenseMatrix>(model.weights.blocks[block][part].weight);
          std::vector<float> values(dense.values->size());
          const double t2 = higgs::insert_noise(dense.view(), levels[i], higgs::random_bits(77, i),
                                                {values.data(), dense.rows, dense.cols}, shape);
          noisy.weights.blocks[block][part].weight = DenseMatrix(dense.rows, dense.cols, values);
          const Evaluation expected = evaluator.evaluate(noisy);
          CAPTURE(block, static_cast<int>(part), i);
          CHECK(found[i].t2 == t2);
          CHECK(found[i].kl == Approx(*expected.kl).margin(1e-9));
          CHECK(found[i].cross_entropy == Approx(expected.cross_entropy - reference).margin(1e-9));
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
