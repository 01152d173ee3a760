// SPDX-License-Identifier: Apache-2.0
// What ptxas must make of the rotation of rows of fp16: registers for six blocks of 128 threads, 4 loads of
// 128 bits for the row and 8 for factors, 16 loads and stores of as many for each passage through shared
// memory, and a word for each pair of results.
#include <higgs/rotate/hadamard.cuh>

// plan: rotate_wide_kernel: registers <= 80; smem == 16384; ldg128 == 12; ldg64 == 0; bar == 0; shfl == 0
// plan: rotate_wide_kernel: lds128 == 32; sts128 == 32; lds32 == 0; sts32 == 0; stg32 == 16; stg16 == 0
template __global__ void higgs::gpu::detail::rotate_wide_kernel<higgs::Half, higgs::Half, true>(
    higgs::gpu::Rotation, higgs::gpu::DeviceMatrixView<const higgs::Half>,
    higgs::gpu::DeviceMatrixView<higgs::Half>, float, std::uint32_t, higgs::gpu::detail::RotationCase);
