// SPDX-License-Identifier: Apache-2.0
// Quantizes a matrix to 4 bits a weight and multiplies with it.
#include <higgs/higgs.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  std::vector<float> weights(512 * 1024), input(1024), output(512);
  for (std::size_t i = 0; i < weights.size(); ++i)
    weights[i] = static_cast<float>(higgs::random_normal(1, i));
  for (std::size_t i = 0; i < input.size(); ++i) input[i] = static_cast<float>(higgs::random_normal(2, i));

  // README: begin
  using Q = higgs::Quantizer<2, 256>;  // 2-D grid of 256 points: 4 bits a weight
  static_assert(Q::bits_per_weight == 4.0);

  const higgs::MatrixView<const float> w(weights.data(), 512, 1024);  // outputs x inputs
  const auto quantized = Q{}.quantize(w);                             // as files store it
  const higgs::PackedMatrix packed(quantized);                        // as kernels read it: once, at load

  const higgs::MatrixView<const float> x(input.data(), 1, 1024);
  const higgs::MatrixView<float> y(output.data(), 1, 512);
  higgs::matmul(x, packed, y);  // y = x * W^T from the packed codes
  // README: end
  std::printf("%.4f bits a weight, t^2 %.5f, expected %.5f\n", quantized.bits_per_weight(), quantized.t2,
              Q::relative_error);
  return std::fabs(quantized.t2 / Q::relative_error - 1) < 0.015 ? 0 : 1;
}
