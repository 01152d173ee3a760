// SPDX-License-Identifier: Apache-2.0
#include "architecture/weights.hpp"

#include "model/tiny_model.hpp"

#include <higgs/matmul/decode.hpp>
#include <higgs/quantizer.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <variant>
#include <vector>

using namespace higgs::model;

TEST_CASE("a row of the embedding is that row of the whole, dense or quantized", "[model][weights]") {
  const TinyTensor tensor = tiny_tensor("embed", {40, 24});
  const Embedding dense{share(Matrix(40, 24, tensor.values))};
  const higgs::AnyQuantizedMatrix matrix = higgs::quantize(require_dense(dense, "")->view(), "2x256");
  const Embedding quantized{matrix};
  CHECK(quantized.rows() == 40);
  CHECK(quantized.cols() == 24);
  std::vector<float> whole(40 * 24), row(24);
  std::visit(
      [&](const auto& each) { higgs::dequantize(each, higgs::MatrixView<float>(whole.data(), 40, 24)); },
      matrix);
  for (std::int64_t r = 0; r < 40; ++r) {
    dense.read_row(r, row.data());
    CHECK(std::equal(row.begin(), row.end(), tensor.values.begin() + r * 24));
    quantized.read_row(r, row.data());
    CHECK(std::equal(row.begin(), row.end(), whole.begin() + r * 24));
  }
}

TEST_CASE("layers that are applied together give the bits that each gives alone", "[model][weights]") {
  const auto matrix = [](const char* name, std::int64_t rows) {
    return share(Matrix(rows, 24, tiny_tensor(name, {rows, 24}).values));
  };
  const auto quantized = [&](const char* name, std::int64_t rows, std::uint64_t seed) {
    return higgs::PackedMatrix(higgs::quantize(matrix(name, rows)->view(), "2x256", {.seed = seed}));
  };
  const std::vector<Linear> layers{{quantized("q", 36, 1)},
                                   {quantized("k", 12, 1), tiny_tensor("k.bias", {12}).values},
                                   {matrix("v", 12), tiny_tensor("v.bias", {12}).values},
                                   {quantized("other", 20, 2)}};
  const Matrix x(3, 24, tiny_tensor("x", {3, 24}).values);
  std::vector<const Linear*> all;
  std::vector<Matrix> alone, together;
  for (const Linear& layer : layers) {
    all.push_back(&layer);
    alone.emplace_back(3, layer.rows());
    together.emplace_back(3, layer.rows());
    layer.apply(x.view(), alone.back().view(), higgs::default_executor());
  }
  std::vector<higgs::MatrixView<float>> y;
  for (Matrix& each : together) y.push_back(each.view());
  apply_all(all, x.view(), y, higgs::default_executor());
  for (std::size_t i = 0; i < layers.size(); ++i) CHECK(together[i].values == alone[i].values);
}
