// SPDX-License-Identifier: Apache-2.0
#include "engine.hpp"

#include <higgs/higgs.hpp>

std::vector<float> normal(std::int64_t count, std::uint64_t seed) {
  std::vector<float> out;
  for (std::int64_t i = 0; i < count; ++i)
    out.push_back(static_cast<float>(higgs::random_normal(seed, static_cast<std::uint64_t>(i))));
  return out;
}

std::vector<float> run_engine(const std::filesystem::path& file, const std::vector<float>& x) {
  const std::vector<float> weights = normal(std::int64_t{96} * 768, 1);
  const auto matrix =
      higgs::Quantizer<2, 256>{}.quantize(higgs::MatrixView<const float>(weights.data(), 96, 768));
  higgs::CheckpointContents contents;
  contents.add_layer("layer", matrix);
  higgs::CheckpointWriter writer(file, contents);
  writer.write_layer("layer", matrix);
  writer.commit();

  const higgs::Checkpoint checkpoint = higgs::Checkpoint::open(file);
  const higgs::PackedMatrix packed(checkpoint.load("layer"));
  std::vector<float> y(96);
  higgs::matmul(higgs::MatrixView<const float>(x.data(), 1, 768), packed,
                higgs::MatrixView<float>(y.data(), 1, 96));
  return y;
}
