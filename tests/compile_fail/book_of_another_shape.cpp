// SPDX-License-Identifier: Apache-2.0
// expect: the codebook C has another shape; pass its own dim and size
#include <higgs/quantizer.hpp>
#if defined(MISUSE)
using Q = higgs::Quantizer<2, 256, 1024, higgs::UniformCodebook8>;
#else
using Q = higgs::Quantizer<1, 256, 1024, higgs::UniformCodebook8>;
#endif
static_assert(Q::bits_per_weight > 0.0);
int main() {}
