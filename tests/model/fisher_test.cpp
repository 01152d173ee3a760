// SPDX-License-Identifier: Apache-2.0
#include "../../examples/model/fisher.hpp"

#include "tiny_model.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <vector>

using namespace higgs::model;
using Architecture = ModelConfig::Architecture;

TEST_CASE("gradients find the sensitivities that small noise finds", "[model][fisher]") {
  for (const Architecture architecture : {Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3}) {
    const TemporaryFolder folder;
    write_folder(folder.path(), tiny_config(architecture));
    const Transformer model = Transformer::load(ModelSource(folder.path()));
    const std::vector<TokenId> text = tiny_text(24);
    const SensitivityFile file = measure_fisher(
        model, text, {.model = "tiny", .text = "t", .window = 12, .seed = 3, .levels = {}}, 300);
    REQUIRE(file.layers.size() == 14);
    NoiseProbe probe(model, text, 12);
    CHECK(file.protocol.cross_entropy == Approx(probe.cross_entropy()));
    constexpr double t2 = 1e-4;
    for (std::size_t i = 0; i < 14; ++i) {
      std::vector<higgs::NoisePoint> points;
      const std::vector<double> levels(40, t2);
      for (const ProbeResult& each :
           probe.measure(i / 7, all_parts[i % 7], levels, higgs::NoiseShape::Even, 1000 + i))
        points.push_back({1, each.kl / t2});
      const higgs::Sensitivity noise = higgs::fit_sensitivity(points),
                               gradients = fit_layer(file.layers[i], Metric::Kl, file.protocol);
      CAPTURE(static_cast<int>(architecture), i, noise.alpha, gradients.alpha);
      // Five standard errors of both, and 3 % for what is not quadratic at this t^2.
      CHECK(std::fabs(noise.alpha - gradients.alpha) <
            5 * std::hypot(noise.standard_error, gradients.standard_error) + 0.03 * noise.alpha);
    }
  }
}

TEST_CASE("gradients of nothing are refused", "[model][fisher]") {
  const TemporaryFolder folder;
  write_folder(folder.path(), tiny_config(Architecture::Llama));
  const Transformer model = Transformer::load(ModelSource(folder.path()));
  CHECK_THROWS_AS(measure_fisher(model, tiny_text(11), {.window = 12, .levels = {}}, 1),
                  higgs::InvalidArgument);
  CHECK_THROWS_AS(measure_fisher(model, tiny_text(24), {.window = 12, .levels = {}}, 0),
                  higgs::InvalidArgument);
  CHECK_THROWS_AS(measure_fisher(model, tiny_text(24), {.window = 12, .levels = {0.1}}, 1),
                  higgs::InvalidArgument);
}
