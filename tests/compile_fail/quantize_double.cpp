// SPDX-License-Identifier: Apache-2.0
// expect: higgs takes float and 16-bit floats
#include <higgs/quantizer.hpp>
#if defined(MISUSE)
using Number = double;
#else
using Number = higgs::BFloat16;
#endif
double bits(const Number* w) {
  return higgs::quantize(higgs::MatrixView<const Number>(w, 64, 64), "2x256").bits_per_weight();
}
int main() {}
