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
