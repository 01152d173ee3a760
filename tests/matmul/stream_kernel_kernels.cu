// SPDX-License-Identifier: Apache-2.0
// The code that ptxas must make of the streaming kernel. With 255 registers for 128 threads two blocks fit a
// multiprocessor; by their shared memory of 66 KiB one fits (sm_86, 89, 120), two (80) or three (90, 100). The loop is a
// round of warp tiles, of 16 tiles each, between two changes of group: a load of 128 bits for 4 tiles, 4 lookups per
// tile, one mma per tile and 8 rows of x, no barrier, and up to 13 instructions per tile for up to 8 rows of x. What is
// loaded in the loop is used 300 instructions later or more; beside the sums of 64 rows of x, where the loads of one warp
// tile are under way, after 3/4 of the loop. From sm_90 on weights are prefetched (ublkpf), in the loop or beyond 32 rows of
// x once a chunk, and all kernels wait for the one in front (acqbulk) after they have let the next one begin (preexit). The
// loads that bring the table near are there: their reader is (nanosleep).
#include <higgs/codes/formats.cuh>
#include <higgs/matmul/stream_kernel.cuh>

using higgs::gpu::E8Format;
using higgs::gpu::TableFormat;
using higgs::gpu::WindowFormat;

#define HIGGS_STREAM_KERNEL(Format, ColumnTiles, X)                                                \
  template __global__ void higgs::gpu::detail::stream_kernel<Format, higgs::Half, ColumnTiles, X>( \
      __grid_constant__ const higgs::gpu::detail::StreamTask);

// plan: stream_kernel<.*, higgs::v0::Half, [124], .*>: loop.ldg_distance >= 300; loop.ublkpf == (arch >= 90)
// plan: stream_kernel<.*, higgs::v0::Half, 8, .*>: 4 * loop.ldg_distance >= 3 * loop.instructions; loop.ublkpf == 0
// plan: stream_kernel<.*>: ublkpf == (2 if arch >= 90 else 0) + loop.ublkpf
// plan: stream_kernel<.*>: registers <= 255; preexit == (arch >= 90); acqbulk == (arch >= 90); nanosleep == 1
// plan: stream_kernel<.*TableFormat<.>, higgs::v0::Half, 1, .*>: loop.instructions <= 13 * loop.hmma
// plan: stream_kernel<.*TableFormat<.>, higgs::v0::Half, 1, .*>: loop.hmma == 64; loop.ldgsts == 0
// plan: stream_kernel<.*TableFormat<.>, higgs::v0::Half, ., .*>: loop.ldg32 == 0; loop.ldg64 == 0; loop.bar == 0
// plan: stream_kernel<.*TableFormat<4>, higgs::v0::Half, 1, .*>: loop.ldg128 == 16; loop.lds32 == 256; loop.lds64 == 16
HIGGS_STREAM_KERNEL(TableFormat<4>, 1, void)
HIGGS_STREAM_KERNEL(TableFormat<4>, 1, higgs::Half)  // rotates x itself
HIGGS_STREAM_KERNEL(TableFormat<4>, 1, float)
// 3 bits: three loads for 16 tiles, four of whose bytes are gathered from the others' spare bits.
// plan: stream_kernel<.*TableFormat<3>, higgs::v0::Half, 1, .*>: loop.ldg128 == 12; loop.lds32 == 256; loop.lds64 == 16
HIGGS_STREAM_KERNEL(TableFormat<3>, 1, void)
// 2 bits: a lookup brings four weights.
// plan: stream_kernel<.*TableFormat<2>, higgs::v0::Half, 1, .*>: loop.ldg128 == 8; loop.lds32 == 0; loop.lds64 == 144
HIGGS_STREAM_KERNEL(TableFormat<2>, 1, void)
HIGGS_STREAM_KERNEL(TableFormat<2>, 1, higgs::Half)
// Up to 16 and 32 rows of x.
// plan: stream_kernel<.*TableFormat<4>, higgs::v0::Half, 2, void>: loop.hmma == 128; loop.ldg128 == 16; loop.lds32 == 256
HIGGS_STREAM_KERNEL(TableFormat<4>, 2, void)
// plan: stream_kernel<.*TableFormat<4>, higgs::v0::Half, 4, void>: loop.hmma == 256; loop.ldg128 == 16; loop.lds32 == 256
HIGGS_STREAM_KERNEL(TableFormat<4>, 4, void)
// Up to 64 rows of x: half of all registers are sums; the facts of a block are in shared memory.
// plan: stream_kernel<.*TableFormat<.>, higgs::v0::Half, 8, void>: registers <= 255; loop.hmma == 128
HIGGS_STREAM_KERNEL(TableFormat<8>, 8, void)
HIGGS_STREAM_KERNEL(TableFormat<4>, 8, void)
HIGGS_STREAM_KERNEL(TableFormat<3>, 8, void)
// E8: a lookup of 128 bits for eight weights of a lane, registers for two blocks.
// plan: stream_kernel<.*E8Format, higgs::v0::Half, 1, .*>: registers <= 255; loop.ldg32 == 0; loop.ldg64 == 0; loop.bar == 0
// plan: stream_kernel<.*E8Format, higgs::v0::Half, 1, .*>: loop.hmma == 64; loop.ldg128 == 8; loop.lds128 == 64
// plan: stream_kernel<.*E8Format, higgs::v0::Half, 1, .*>: loop.lds32 == 0; loop.lds64 == 16
HIGGS_STREAM_KERNEL(E8Format, 1, void)
// Window codes: a lookup of 32 bits for two weights, as the grids; 64 bits of the warp tile before for each row of lanes,
// and for odd numbers of bits a symbol 64 bits of words; one or two shuffles for signs, one for windows. No spills, not
// even for 64 rows of x.
// plan: stream_kernel<.*WindowFormat<.>, higgs::v0::Half, ., .*>: registers <= 255; loop.ldg32 == 0; loop.bar == 0
// plan: stream_kernel<.*WindowFormat<.>, higgs::v0::Half, 1, .*>: loop.hmma == 64; loop.lds32 == 256; loop.lds64 == 16
// plan: stream_kernel<.*WindowFormat<8>, higgs::v0::Half, 1, .*>: loop.ldg128 == 16; loop.ldg64 == 4; loop.shfl == 8
// plan: stream_kernel<.*WindowFormat<8>, higgs::v0::Half, 1, .*>: loop.instructions <= 22 * loop.hmma
HIGGS_STREAM_KERNEL(WindowFormat<8>, 1, void)
HIGGS_STREAM_KERNEL(WindowFormat<8>, 1, higgs::Half)
HIGGS_STREAM_KERNEL(WindowFormat<8>, 4, void)
HIGGS_STREAM_KERNEL(WindowFormat<8>, 8, void)
// plan: stream_kernel<.*WindowFormat<7>, higgs::v0::Half, 1, .*>: loop.ldg128 == 12; loop.ldg64 == 8; loop.shfl == 8
// plan: stream_kernel<.*WindowFormat<[4-7]>, higgs::v0::Half, 1, .*>: loop.instructions <= 23.5 * loop.hmma
HIGGS_STREAM_KERNEL(WindowFormat<7>, 1, float)
HIGGS_STREAM_KERNEL(WindowFormat<7>, 4, void)
HIGGS_STREAM_KERNEL(WindowFormat<7>, 8, void)
// plan: stream_kernel<.*WindowFormat<6>, higgs::v0::Half, 1, .*>: loop.ldg128 == 12; loop.ldg64 == 4; loop.shfl == 12
HIGGS_STREAM_KERNEL(WindowFormat<6>, 1, void)
HIGGS_STREAM_KERNEL(WindowFormat<6>, 4, void)
// plan: stream_kernel<.*WindowFormat<5>, higgs::v0::Half, 1, .*>: loop.ldg128 == 8; loop.ldg64 == 8; loop.shfl == 12
HIGGS_STREAM_KERNEL(WindowFormat<5>, 1, void)
// plan: stream_kernel<.*WindowFormat<4>, higgs::v0::Half, 1, .*>: loop.ldg128 == 8; loop.ldg64 == 4; loop.shfl == 12
HIGGS_STREAM_KERNEL(WindowFormat<4>, 1, void)
HIGGS_STREAM_KERNEL(WindowFormat<4>, 4, void)
HIGGS_STREAM_KERNEL(WindowFormat<4>, 8, void)

// plan: repack_(scales_kernel|kernel<.*(E8Format|WindowFormat<.> ?)>): registers <= 64
template __global__ void higgs::gpu::detail::repack_kernel<E8Format>(higgs::gpu::PackedLayout,
                                                                     const std::uint8_t*, uint4*);
template __global__ void higgs::gpu::detail::repack_kernel<WindowFormat<7>>(higgs::gpu::PackedLayout,
                                                                            const std::uint8_t*, uint4*);
