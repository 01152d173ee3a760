// SPDX-License-Identifier: Apache-2.0
// The code that ptxas must make of the warpgroup kernel. 384 threads begin with 168 registers each; the two warpgroups
// that multiply take 240, of which 128 are sums. The loop is a warp tile, four products of four operands each: with one
// tile of rows a warp it has the code of decoding four times, of which a warp executes one.
// architectures: 90a
#include <higgs/codes/formats.cuh>
#include <higgs/matmul/wgmma_kernel.cuh>

using higgs::gpu::E8Format;
using higgs::gpu::TableFormat;
using higgs::gpu::WindowFormat;

#define HIGGS_WGMMA_KERNEL(Format, T, RowTiles)                                          \
  template __global__ void higgs::gpu::detail::wgmma_kernel<Format, higgs::T, RowTiles>( \
      __grid_constant__ const higgs::gpu::detail::WgmmaTask);

// plan: wgmma_kernel<.*>: registers == 168; loop.bar == 0; loop.sts32 == 0
// plan: wgmma_kernel<.*, 1>: loop.hgmma == 4; loop.ldg32 == 1
// plan: wgmma_kernel<.*, 2>: loop.hgmma == 8; loop.ldg32 == 2
// plan: wgmma_kernel<.*TableFormat<4>.*>: loop.ldg128 == 4; loop.ldg64 == 0; loop.lds32 == 64
HIGGS_WGMMA_KERNEL(TableFormat<4>, Half, 1)
HIGGS_WGMMA_KERNEL(TableFormat<4>, Half, 2)
HIGGS_WGMMA_KERNEL(TableFormat<8>, Half, 2)
HIGGS_WGMMA_KERNEL(TableFormat<3>, BFloat16, 1)
HIGGS_WGMMA_KERNEL(E8Format, Half, 2)
HIGGS_WGMMA_KERNEL(WindowFormat<8>, Half, 1)
HIGGS_WGMMA_KERNEL(WindowFormat<7>, Half, 2)

// plan: repack_scales_kernel: registers <= 64
