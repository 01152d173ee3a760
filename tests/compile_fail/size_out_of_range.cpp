// SPDX-License-Identifier: Apache-2.0
// expect: Size must lie in .2, 65536.
#include <higgs/quantizer.hpp>
#if defined(MISUSE)
using Q = higgs::Quantizer<2, 65537>;
#else
using Q = higgs::Quantizer<2, 65536>;
#endif
static_assert(Q::bits_per_weight == 8.0);
int main() {}
