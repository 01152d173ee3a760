// SPDX-License-Identifier: Apache-2.0
// expect: Group must be positive; 1024 is the default
#include <higgs/quantizer.hpp>
#if defined(MISUSE)
using Q = higgs::Quantizer<2, 256, 0>;
#else
using Q = higgs::Quantizer<2, 256, 64>;
#endif
static_assert(Q::bits_per_weight == 4.0);
int main() {}
