// SPDX-License-Identifier: Apache-2.0
// expect: bias must be floats
#include <higgs/matmul/matmul.hpp>

#include <vector>
#if defined(MISUSE)
using Number = higgs::Half;
#else
using Number = float;
#endif
void product(higgs::MatrixView<float> x, const higgs::PackedMatrix& w, higgs::MatrixView<float> y,
             const std::vector<Number>& bias) {
  higgs::matmul(x, w, y, bias);
}
int main() {}
