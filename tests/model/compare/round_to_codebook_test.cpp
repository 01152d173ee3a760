// SPDX-License-Identifier: Apache-2.0
#include "compare/round_to_codebook.hpp"

#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

#include "compare/compare.hpp"
#include "model/tiny_model.hpp"
#include "source/source.hpp"

using namespace higgs::model;

TEST_CASE("codebooks that no file names round with the error that the rate-distortion theory allows",
          "[model][compare]") {
  constexpr std::int64_t rows = 16, cols = 512;
  std::vector<float> w;
  for (std::uint64_t i = 0; i < rows * cols; ++i) w.push_back(static_cast<float>(higgs::random_normal(5, i)));
  const higgs::MatrixView<const float> view(w.data(), rows, cols);
  for (const std::string& name : further_codebook_names()) {
    if (name == "e8n4") continue;  // slow
    const RoundedMatrix rounded = round_to_codebook(view, name, {});
    double error = 0;
    for (std::size_t i = 0; i < w.size(); ++i)
      error += std::pow(static_cast<double>(rounded.weight.values[i]) - w[i], 2);
    const double decibels = 10 * std::log10(error / static_cast<double>(w.size())) +
                            20 * (rounded.bits - 16.0 / cols) * std::log10(2.0);
    INFO(name << ", " << rounded.bits << " bits");
    CHECK(decibels > 0.5);
    CHECK(decibels < 6.5);
  }
  CHECK_THROWS_AS(round_to_codebook(view, "3x65", {}), higgs::InvalidArgument);
}

TEST_CASE("a method may ask for groups of 128 and for codebooks that do not ship", "[model][compare]") {
  const TemporaryFolder folder;
  write_folder(folder.path(), tiny_config("llama"));
  const Transformer model = Transformer::load(ModelSource(folder.path()));
  ComparisonRow fp16, log8;
  CHECK_NOTHROW(with_method(model, parse_method("higgs 3x64"), {}, fp16));
  CHECK_NOTHROW(with_method(model, parse_method("higgs 3x64 g128"), {}, log8));
  CHECK(log8.t2 < fp16.t2);
  CHECK_NOTHROW(with_method(model, parse_method("higgs 2x256 g128"), {}, fp16));
}
