// SPDX-License-Identifier: Apache-2.0
// Instantiates what users instantiate, so that the warnings of their compilers show: each stage once, and the file
// formats. Returns 0 if what was stored multiplies like what was quantized.
#include <higgs/higgs.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace {

constexpr std::int64_t rows = 192, cols = 128;

std::vector<float> normal(std::uint64_t seed, std::int64_t count) {
  std::vector<float> out(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(higgs::random_normal(seed, i));
  return out;
}

// y = x W^T for activations of each type.
template <class Matrix>
std::vector<float> products(const Matrix& w) {
  const std::vector<float> x = normal(2, cols);
  std::vector<higgs::Half> half(x.begin(), x.end());
  std::vector<higgs::BFloat16> brain(x.begin(), x.end());
  std::vector<float> y(static_cast<std::size_t>(3 * rows));
  const higgs::MatrixView<float> out(y.data(), 3, rows);
  higgs::matmul(higgs::MatrixView<const float>(x.data(), 1, cols), w, out.row_range(0, 1));
  higgs::matmul(higgs::MatrixView<const higgs::Half>(half.data(), 1, cols), w, out.row_range(1, 1));
  higgs::matmul(higgs::MatrixView<const higgs::BFloat16>(brain.data(), 1, cols), w, out.row_range(2, 1));
  return y;
}

bool close(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += std::pow(static_cast<double>(a[i] - b[i]), 2);
    norm += std::pow(static_cast<double>(a[i]), 2);
  }
  return error < 1e-4 * norm;
}

template <higgs::Codebook Book>
bool stores_and_multiplies(const std::filesystem::path& path, const Book& book) {
  const std::vector<float> weights = normal(1, rows * cols);
  const auto w = higgs::quantize(higgs::MatrixView<const float>(weights.data(), rows, cols), book,
                                 {.scale_format = higgs::ScaleFormat::Log8});
  higgs::CheckpointContents contents;
  contents.add_layer<Book>("layer", w.layout, w.seed, "F32");
  higgs::CheckpointWriter writer(path, std::move(contents));
  writer.write_layer("layer", w);
  writer.commit();
  const higgs::AnyQuantizedMatrix loaded = higgs::Checkpoint::open(path).load("layer");
  const higgs::ShardedMatrix<Book> half(w, {.rows = rows / 2, .cols = cols});
  const std::vector<float> y = products(w);
  return close(y, products(loaded)) && close(y, products(higgs::TiledMatrix(loaded))) &&
         half.matrix.rows() == rows / 2;
}

bool reads_models(const std::filesystem::path& path) {
  try {
    const higgs::GgufFile gguf(path);
    return false;
  } catch (const higgs::FormatError&) {
    const higgs::TensorSource source = higgs::TensorSource::open(path);
    std::vector<float> row(1);
    source.read_rows(source.tensors().at(0).name, 0, 0, std::span<float>(row).first(0));
    return true;
  }
}

bool fits_and_plans() {
  const auto grid =
      higgs::fit_grid<2, 8>({.starts = 1, .steps = 2, .polish_steps = 1, .log2_samples = 12, .rotations = 1});
  const auto line = higgs::fit_grid<1, 4>();
  const std::vector<higgs::PlanLayer> layers{
      {.name = "layer", .weights = rows * cols, .alpha = 1, .formats = higgs::shipped_formats(rows, cols)}};
  const auto plan = higgs::allocate(layers, higgs::Budget::bits(5));
  return grid.codebook().mse() < 1 && line.codebook().mse() < 1 && plan && plan->proven;
}

}  // namespace

int main() {
  const auto path = std::filesystem::temp_directory_path() / "higgs_consumer.safetensors";
  const bool fine = stores_and_multiplies(path, higgs::GridCodebook<2, 256>{}) &&
                    stores_and_multiplies(path, higgs::E8Codebook{}) && reads_models(path) &&
                    fits_and_plans();
  std::filesystem::remove(path);
  std::puts(fine ? "fine" : "wrong");
  return fine ? 0 : 1;
}
