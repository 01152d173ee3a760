// SPDX-License-Identifier: Apache-2.0
// What ptxas must make of outer products: all sums in registers, two blocks of 256 threads a multiprocessor, factors read by
// 128 bits: two steps in the loop of whole stretches, and one in the loop of the rest. A barrier more than
// its two finds out whether a tile is wanted.
#include <higgs/round/outer_product.cuh>

namespace gpu = higgs::gpu;

// plan: outer_product_kernel<.*, 2>: registers <= 128; bar == 3; lds128 == 12; lds32 == 0; lds64 == 0
[[maybe_unused]] auto* const large = gpu::detail::outer_product_kernel<float, 2>;
[[maybe_unused]] auto* const large_half = gpu::detail::outer_product_kernel<higgs::Half, 2>;
// plan: outer_product_kernel<.*, 1>: registers <= 64; bar == 3; lds128 == 6; lds32 == 0; lds64 == 0
[[maybe_unused]] auto* const small = gpu::detail::outer_product_kernel<float, 1>;
