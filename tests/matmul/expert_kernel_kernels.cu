// SPDX-License-Identifier: Apache-2.0
// The code that ptxas must make of the streaming kernel for experts: the loop of stream_kernel_kernels.cu, and registers
// for as many blocks.
#include <higgs/codes/formats.cuh>
#include <higgs/matmul/expert_kernel.cuh>

using higgs::gpu::TableFormat;

#define HIGGS_EXPERT_KERNEL(Format, ColumnTiles)                                                \
  template __global__ void higgs::gpu::detail::expert_kernel<Format, higgs::Half, ColumnTiles>( \
      __grid_constant__ const higgs::gpu::detail::ExpertTask);

// plan: expert_kernel<.*>: registers <= 255; loop.bar == 0
// plan: expert_kernel<.*TableFormat<4>, higgs::v0::Half, 1>: loop.hmma == 64; loop.ldg128 == 16; loop.lds32 == 256
HIGGS_EXPERT_KERNEL(TableFormat<4>, 1)
// Up to 64 rows of x: what a unit needs once is found anew for each, so nothing is spilled.
// plan: expert_kernel<.*, higgs::v0::Half, 8>: loop.hmma == 128; 4 * loop.ldg_distance >= 3 * loop.instructions
HIGGS_EXPERT_KERNEL(TableFormat<4>, 8)
HIGGS_EXPERT_KERNEL(TableFormat<8>, 8)

// plan: repack_scales_kernel: registers <= 64
