// SPDX-License-Identifier: Apache-2.0
// The code that ptxas must make of the operations of a decoder: no spills and no local memory. For heads of up to 128
// numbers three blocks of attention fit the registers of a multiprocessor, for wider heads two.
#include "device/attention.cuh"
#include "device/dense.cuh"
#include "device/ops.cuh"
#include "device/sampling.cuh"

using higgs::BFloat16;
using higgs::Half;
using higgs::gpu::DenseView;
namespace detail = higgs::model::detail;

#define HIGGS_ATTENTION_KERNELS(T, Width)                                                         \
  template __global__ void higgs::model::detail::decode_attention_kernel<T, Width>(               \
      const __grid_constant__ higgs::model::Attention<T>, std::int32_t, detail::DecodeWorkspace); \
  template __global__ void higgs::model::detail::prefill_attention_kernel<T, Width>(              \
      const __grid_constant__ higgs::model::Attention<T>);

// plan: attention_kernel<.*, 64>: registers <= 128; hmma > 0; ldsm > 0; ldgsts > 0
// plan: attention_kernel<.*, 128>: registers <= 168; hmma > 0; ldsm > 0; ldgsts > 0
// plan: attention_kernel<.*, 256>: registers <= 255; hmma > 0; ldsm > 0; ldgsts > 0
HIGGS_ATTENTION_KERNELS(Half, 64)

HIGGS_ATTENTION_KERNELS(BFloat16, 128)
HIGGS_ATTENTION_KERNELS(Half, 256)

// Six blocks of four warps fit a multiprocessor for a token or a few: their loads are all that is under way.
// plan: dense_kernel<.*, 1, true>: registers <= 80; loop.hmma > 0; loop.lds32 == 0; loop.bar == 0
// plan: dense_kernel<.*, 8, true>: registers <= 128; loop.hmma == 16; loop.ldg128 == 10; loop.lds32 == 0; loop.bar == 0
#define HIGGS_DENSE_KERNEL(T, Tiles)                                              \
  template __global__ void higgs::model::detail::dense_kernel<T, T, Tiles, true>( \
      DenseView<const T>, DenseView<const T>, DenseView<T>, higgs::gpu::Epilogue<T>);
HIGGS_DENSE_KERNEL(Half, 1)
HIGGS_DENSE_KERNEL(Half, 8)

// plan: turn_kernel<.*>: registers <= 64
template __global__ void higgs::model::detail::turn_kernel<Half>(higgs::model::Heads, DenseView<Half>,
                                                                 DenseView<const Half>, DenseView<const Half>,
                                                                 higgs::model::HeadTurns,
                                                                 higgs::model::TokenRows,
                                                                 higgs::model::KvLayer<Half>);
// plan: norm_kernel<.*>: registers <= 64; ldg128 > 0
template __global__ void higgs::model::detail::norm_kernel<Half, Half>(DenseView<const float>,
                                                                       DenseView<const Half>, float,
                                                                       DenseView<float>, const float*, float,
                                                                       float, DenseView<Half>, bool);
// plan: swiglu_kernel<.*>: registers <= 64; ldg128 == 2; stg128 == 1
template __global__ void higgs::model::detail::swiglu_kernel<Half>(DenseView<const Half>,
                                                                   DenseView<const Half>, DenseView<Half>,
                                                                   bool);
// A block has 512 threads.
// plan: choose_kernel<.*>: registers <= 128
template __global__ void higgs::model::detail::choose_kernel<float>(DenseView<const float>,
                                                                    higgs::model::TokenChoice,
                                                                    higgs::model::TextStates);

// The units of the application include the packing of quantized matrices.
// plan: repack_scales_kernel: registers <= 64
