// SPDX-License-Identifier: Apache-2.0
#include "measure/fisher.hpp"

#include "model/tiny_model.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <vector>

using namespace higgs::model;

TEST_CASE("gradients find the sensitivities that small noise finds", "[model][fisher]") {
  for (const std::string family : {"llama", "qwen2", "qwen3", "granite"}) {
    const TemporaryFolder folder;
    write_folder(folder.path(), tiny_config(family));
    const Transformer model = Transformer::load(ModelSource(folder.path()));
    const std::vector<TokenId> text = tiny_text(24);
    const SensitivityFile file = measure_fisher(
        model, text, {.model = "tiny", .text = "t", .window = 12, .seed = 3, .levels = {}}, 300);
    const bool tied = model.config().tied_embeddings;
    REQUIRE(file.layers.size() == (tied ? 15 : 16));
    NoiseProbe probe(model, text, 12);
    CHECK(file.protocol.cross_entropy == Approx(probe.cross_entropy()));
    constexpr double t2 = 1e-4;
    for (std::size_t i = 0; i < file.layers.size(); ++i) {
      std::vector<higgs::NoisePoint> points;
      const std::vector<double> levels(40, t2);
      for (const ProbeResult& each : probe.measure(file.layers[i].name, levels, 1000 + i))
        points.push_back({1, each.kl / t2});
      const higgs::Sensitivity noise = higgs::fit_sensitivity(points),
                               gradients = fit_layer(file.layers[i], Metric::Kl, file.protocol);
      CAPTURE(family, i, noise.alpha, gradients.alpha);
      // Five standard errors of both, and 3 % for what is not quadratic at this t^2.
      CHECK(std::fabs(noise.alpha - gradients.alpha) <
            5 * std::hypot(noise.standard_error, gradients.standard_error) + 0.03 * noise.alpha);
    }
  }
}

TEST_CASE("gradients find what noise finds that spreads as a calibrated quantizer's error",
          "[model][fisher]") {
  ModelConfig config = tiny_config("llama");
  config.ffn_width = 130;  // enough rows for input scales in gate and up
  std::vector<TinyTensor> tensors = tiny_tensors(config);
  for (TinyTensor& tensor : tensors)  // columns of very different size
    for (std::size_t c = 0; tensor.shape.size() == 2 && tensor.shape[0] == 130 && c < tensor.values.size();
         ++c)
      tensor.values[c] = std::ldexp(tensor.values[c], static_cast<int>(c % 24 % 5) - 2);
  const TemporaryFolder folder;
  write_folder(folder.path(), config, tensors);
  const ModelSource source(folder.path());
  const Transformer model = Transformer::load(source);
  const std::vector<TokenId> text = tiny_text(24);
  const InputSquares squares = measure_inputs(source, text, 12);
  for (const bool calibrated : {false, true}) {
    const ProbeProtocol protocol{
        .model = "tiny", .text = "t", .window = 12, .calibrated = calibrated, .seed = 3, .levels = {}};
    const SensitivityFile file =
        measure_fisher(model, text, protocol, 300, {}, higgs::default_executor(), squares);
    NoiseProbe probe(model, text, 12);
    for (const std::size_t i : {4u, 5u, 11u, 12u}) {
      const BlockLinear layer = block_linears(config)[i];
      higgs::ColumnStatistics columns(24);  // of gate and up, which share input scales
      for (const BlockLinear& each : sharing_layers(layer.name, Sharing::Alike))
        columns.add(require_dense(each.in(model.weights), "")->view());
      const std::vector<float> scales = error_scales(columns, layer.name, config, protocol, squares);
      REQUIRE(scales.size() == 24);
      std::vector<higgs::NoisePoint> points;
      constexpr double t2 = 1e-4;
      const std::vector<double> levels(40, t2);
      for (const ProbeResult& each : probe.measure(layer.name, levels, 1000 + i, scales))
        points.push_back({1, each.kl / t2});
      const higgs::Sensitivity noise = higgs::fit_sensitivity(points),
                               gradients = fit_layer(file.layers[i], Metric::Kl, protocol);
      CAPTURE(calibrated, i, noise.alpha, gradients.alpha);
      CHECK(std::fabs(noise.alpha - gradients.alpha) <
            5 * std::hypot(noise.standard_error, gradients.standard_error) + 0.03 * noise.alpha);
    }
  }
  CHECK_THROWS_AS(measure_fisher(model, text, {.window = 12, .calibrated = true, .levels = {}}, 1),
                  higgs::InvalidArgument);
}

TEST_CASE("gradients of nothing are refused", "[model][fisher]") {
  const TemporaryFolder folder;
  write_folder(folder.path(), tiny_config("llama"));
  const Transformer model = Transformer::load(ModelSource(folder.path()));
  CHECK_THROWS_AS(measure_fisher(model, tiny_text(11), {.window = 12, .levels = {}}, 1),
                  higgs::InvalidArgument);
  CHECK_THROWS_AS(measure_fisher(model, tiny_text(24), {.window = 12, .levels = {}}, 0),
                  higgs::InvalidArgument);
  CHECK_THROWS_AS(measure_fisher(model, tiny_text(24), {.window = 12, .levels = {0.1}}, 1),
                  higgs::InvalidArgument);
}
