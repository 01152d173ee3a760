// SPDX-License-Identifier: Apache-2.0
// The product that mma and wgmma are made of.
#pragma once
#include "emulator.hpp"

namespace emulator {

/// c (16, 8) += a (16, k) * b (k, 8).
struct Tile {
  double a[16][32], b[32][8], c[16][8];
};
/// Multiplies over `k_count` columns of a, as `rounding` says. `half_result`: c is in half precision.
void multiply_tile(Tile& t, int k_count, MmaRounding rounding, bool half_result);

}  // namespace emulator
