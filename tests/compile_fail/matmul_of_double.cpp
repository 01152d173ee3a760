// SPDX-License-Identifier: Apache-2.0
// expect: higgs takes float and 16-bit floats
#include <higgs/matmul/matmul.hpp>
#if defined(MISUSE)
using Number = double;
#else
using Number = float;
#endif
void product(const Number* x, const higgs::PackedMatrix& w, float* y) {
  higgs::matmul(higgs::MatrixView<const Number>(x, 1, w.cols()), w, higgs::MatrixView<float>(y, 1, w.rows()));
}
int main() {}
