// SPDX-License-Identifier: Apache-2.0
// expect: Dim must lie in .* is the order Dim, Size\?
#include <higgs/quantizer.hpp>
#if defined(MISUSE)
using Q = higgs::Quantizer<256, 2>;
#else
using Q = higgs::Quantizer<2, 256>;
#endif
static_assert(Q::bits_per_weight == 4.0);
int main() {}
