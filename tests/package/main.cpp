// SPDX-License-Identifier: Apache-2.0
#include <higgs/higgs.hpp>
int main() { return higgs::Quantizer<2, 256>::bits_per_weight == 4.0 ? 0 : 1; }
