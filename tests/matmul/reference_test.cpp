// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/decode.hpp>
#include <higgs/matmul/reference.hpp>
#include <higgs/quantizer.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

#include "matrices.hpp"

using higgs::MatrixView;

TEST_CASE("the reference is the product with the dequantized matrix", "[matmul][reference]") {
  const Normals w(7, 100, 1), x(3, 100, 2);
  const auto quantized = higgs::Quantizer<2, 64>{}.quantize(w.view);
  std::vector<float> back(700);
  const MatrixView<float> decoded(back.data(), 7, 100);
  higgs::dequantize(quantized, decoded);
  std::vector<double> y(21);
  const MatrixView<double> out(y.data(), 3, 7);
  higgs::matmul_reference(x.view, quantized, out);
  for (std::int64_t m = 0; m < 3; ++m)
    for (std::int64_t n = 0; n < 7; ++n) {
      double sum = 0, magnitude = 0;
      for (std::int64_t k = 0; k < 100; ++k) {
        sum += double{x.view(m, k)} * double{decoded(n, k)};
        magnitude += std::fabs(double{x.view(m, k)} * double{decoded(n, k)});
      }
      CHECK(std::fabs(out(m, n) - sum) <
            1e-5 * magnitude);  // the float transform of 128 values in dequantize
    }
}
