// SPDX-License-Identifier: Apache-2.0
// What ptxas must make of the streaming kernel. 128 threads a block and one or two blocks on a multiprocessor
// leave a thread all of its 255 registers. The loop holds four slabs of 16 tiles: a load of 128 bits for 4
// tiles (and one for scales where a group ends), 4 lookups and one mma for a tile and 8 rows of x, no barrier.
#include <higgs/matmul/stream_kernel.cuh>

// plan: stream_kernel<4, higgs::v0::Half, 1>: registers <= 255; loop.hmma == 64; loop.lds32 == 256
// plan: stream_kernel<4, higgs::v0::Half, 1>: loop.lds64 == 16; loop.ldg128 == 20; loop.ldg32 == 0
// plan: stream_kernel<4, higgs::v0::Half, 1>: loop.ldg64 == 0; loop.bar == 0
template __global__ void higgs::gpu::detail::stream_kernel<4, higgs::Half, 1>(
    __grid_constant__ const higgs::gpu::detail::MatmulTask);

// 3 bits: three loads for 16 tiles, four of whose bytes are gathered from the others' spare bits.
//
// plan: stream_kernel<3, higgs::v0::Half, 1>: registers <= 255; loop.hmma == 64; loop.lds32 == 256
// plan: stream_kernel<3, higgs::v0::Half, 1>: loop.lds64 == 16; loop.ldg128 == 16; loop.ldg32 == 0
// plan: stream_kernel<3, higgs::v0::Half, 1>: loop.ldg64 == 0; loop.bar == 0
template __global__ void higgs::gpu::detail::stream_kernel<3, higgs::Half, 1>(
    __grid_constant__ const higgs::gpu::detail::MatmulTask);

// plan: repack_scales_kernel: registers <= 32
