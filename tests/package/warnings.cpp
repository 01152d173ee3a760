// SPDX-License-Identifier: Apache-2.0
// Instantiates what users instantiate, so that the warnings of their compilers show: each stage, and the files' formats.
// It is compiled, never run.
#include <higgs/higgs.hpp>
#include <higgs/models.hpp>
#include <higgs/tools.hpp>

#include <cstdint>
#include <filesystem>
#include <utility>
#include <vector>

namespace {

constexpr std::int64_t rows = 192, cols = 128;

// y = x W^T for activations of each type.
template <class Matrix>
void multiply(const Matrix& w) {
  const std::vector<float> x(cols);
  const std::vector<higgs::Half> half(x.begin(), x.end());
  const std::vector<higgs::BFloat16> brain(x.begin(), x.end());
  std::vector<float> y(rows);
  const higgs::MatrixView<float> out(y.data(), 1, rows);
  higgs::matmul(higgs::MatrixView<const float>(x.data(), 1, cols), w, out);
  higgs::matmul(higgs::MatrixView<const higgs::Half>(half.data(), 1, cols), w, out);
  higgs::matmul(higgs::MatrixView<const higgs::BFloat16>(brain.data(), 1, cols), w, out);
}

template <higgs::Codebook Book>
void store_and_multiply(const std::filesystem::path& path, const Book& book) {
  const std::vector<float> weights(rows * cols);
  const auto w = higgs::quantize(higgs::MatrixView<const float>(weights.data(), rows, cols), book);
  higgs::CheckpointContents contents;
  contents.add_layer("layer", w, "F32");
  higgs::CheckpointWriter writer(path, std::move(contents));
  writer.write_layer("layer", w);
  writer.commit();
  const higgs::AnyQuantizedMatrix loaded = higgs::Checkpoint::open(path).load("layer");
  const higgs::ShardedMatrix<Book> half(w, {.rows = rows / 2, .cols = cols});
  multiply(half.matrix);
  multiply(loaded);
  multiply(higgs::PackedMatrix(loaded));
}

void read_model(const std::filesystem::path& path) {
  const higgs::GgufFile gguf(path);
  const higgs::TensorSource source = higgs::TensorSource::open(path);
  std::vector<float> row(cols);
  source.read_rows(source.tensors().at(0).name, 0, 1, row);
}

void fit_and_plan() {
  const auto grid = higgs::fit_grid<2, 8>();
  const auto line = higgs::fit_grid<1, 4>();
  const std::vector<float> weights(rows * cols);
  const higgs::MatrixView<const float> w(weights.data(), rows, cols);
  multiply(higgs::quantize(w, grid.codebook()));
  multiply(higgs::quantize(w, line.codebook()));
  const std::vector<higgs::PlanLayer> layers{
      {.name = "layer", .weights = rows * cols, .alpha = 1, .formats = higgs::shipped_formats(rows, cols)}};
  higgs::allocate(layers, higgs::Budget::bits(5));
}

}  // namespace

int main() {
  store_and_multiply("x.safetensors", higgs::GridCodebook<2, 256>{});
  store_and_multiply("x.safetensors", higgs::E8Codebook{});
  read_model("x.gguf");
  fit_and_plan();
}
