// SPDX-License-Identifier: Apache-2.0
// What ptxas must make of the rotation of rows of fp16.
#include <higgs/rotate/hadamard.cuh>

using higgs::Half;
namespace detail = higgs::gpu::detail;

// Runs of 1024 inputs: registers for six blocks of 128 threads, 4 loads of 128 bits for the row and 8 for
// factors, 16 loads and stores of as many for each passage through shared memory, and a word for each pair of
// results.
// plan: rotate_wide_kernel: registers <= 80; smem == 16384; ldg128 == 12; ldg64 == 0; bar == 0; shfl == 0
// plan: rotate_wide_kernel: lds128 == 32; sts128 == 32; lds32 == 0; sts32 == 0; stg32 == 16; stg16 == 0
[[maybe_unused]] auto* const wide = detail::rotate_wide_kernel<Half, Half, detail::EveryRow>;
// All else: registers for 512 threads, for 256 with Paley's matrix. 32 bits are read and written where rows
// are no whole runs or not aligned, and for Paley's matrix; all else goes by 128.
// plan: rotate_block_kernel<true, false,.*>: registers <= 96; shfl == 0; lds128 >= 32; sts128 >= 32; lds32 <= 12
[[maybe_unused]] auto* const block = detail::rotate_block_kernel<true, false, detail::EveryRow>;
// plan: rotate_block_kernel<true, true,.*>: registers <= 255; shfl == 0
[[maybe_unused]] auto* const block_paley = detail::rotate_block_kernel<true, true, detail::EveryRow>;
// plan: rotate_block_kernel<false, true,.*>: registers <= 128; shfl == 0
[[maybe_unused]] auto* const block_scratch = detail::rotate_block_kernel<false, true, detail::EveryRow>;
