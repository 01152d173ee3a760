// SPDX-License-Identifier: Apache-2.0
// The code that ptxas must make of the int8 kernel: no spills, two blocks a multiprocessor by registers. The loop is a round
// of 8 warp tiles (4 for 32 columns).
#include <higgs/codes/grid/fragments.cuh>
#include <higgs/matmul/int8_activations.cuh>
#include <higgs/matmul/int8_kernel.cuh>

using higgs::gpu::TableFormat;

#define HIGGS_INT8_KERNEL(ColumnTiles, X)                                                   \
  template __global__ void higgs::gpu::detail::int8_kernel<TableFormat<2>, ColumnTiles, X>( \
      __grid_constant__ const higgs::gpu::detail::Int8Task);

// plan: detail::int8_kernel<.*>: registers <= 255; preexit == (arch >= 90); acqbulk == (arch >= 90); loop.ublkpf == (arch >= 90)
// plan: detail::int8_kernel<.*>: nanosleep == 1
// plan: detail::int8_kernel<.*>: loop.ldg_distance >= 300; loop.ldg32 == 0; loop.ldg64 == 0; loop.bar == 0; loop.ldgsts == 0
// plan: detail::int8_kernel<.*, [12], .*>: loop.ldg128 == 16; loop.lds32 == 256; loop.lds64 == 0
// plan: detail::int8_kernel<.*, 1, .*>: loop.imma == 64; loop.lds128 == 8; loop.instructions <= 96 * 8
HIGGS_INT8_KERNEL(1, void)
HIGGS_INT8_KERNEL(1, higgs::Half)
HIGGS_INT8_KERNEL(1, float)
// plan: detail::int8_kernel<.*, 2, .*>: loop.imma == 128; loop.lds128 == 16
HIGGS_INT8_KERNEL(2, void)
// plan: detail::int8_kernel<.*, 4, .*>: loop.imma == 128; loop.lds128 == 16; loop.lds32 == 128; loop.ldg128 == 8
HIGGS_INT8_KERNEL(4, void)
// plan: rotate(d?)_to_int8_kernel<.*>: registers <= 128
template __global__ void higgs::gpu::detail::rotate_to_int8_kernel<higgs::Half>(
    higgs::gpu::Rotation, higgs::gpu::DenseView<const higgs::Half>, float, higgs::gpu::detail::Int8Rows);
template __global__ void higgs::gpu::detail::rotated_to_int8_kernel<float>(higgs::gpu::DenseView<const float>,
                                                                           higgs::gpu::detail::Int8Rows);
// plan: repack_scales_kernel: registers <= 64
