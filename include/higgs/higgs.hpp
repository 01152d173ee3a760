// SPDX-License-Identifier: Apache-2.0
// What an engine needs, in the order of the data: quantize, store, load, multiply, allocate.
// <higgs/tools.hpp> adds fitting and measuring, <higgs/models.hpp> the formats of other libraries.
#pragma once

#include <higgs/config.hpp>

// Types that every stage uses.
#include <higgs/core/code.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/function_ref.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/core/random.hpp>
#include <higgs/core/scale_format.hpp>
#include <higgs/core/scratch.hpp>

// cpu: kernels for each instruction set.
#include <higgs/cpu/convert.hpp>
#include <higgs/cpu/isas.hpp>

// rotate: weights become Gaussian.
#include <higgs/rotate/hadamard.hpp>
#include <higgs/rotate/random_hadamard.hpp>

// scale: groups of unit variance.
#include <higgs/scale/group_scale.hpp>
#include <higgs/scale/input_scale.hpp>

// encode: each group of weights becomes bits, by a code.
#include <higgs/codes/e8/code.hpp>
#include <higgs/codes/e8/e8.hpp>
#include <higgs/codes/e8/packed.hpp>
#include <higgs/codes/e8/search.hpp>
#include <higgs/codes/grid/gaussian_grids.hpp>
#include <higgs/codes/grid/grid.hpp>
#include <higgs/codes/lattice/code.hpp>
#include <higgs/codes/lattice/lattice.hpp>
#include <higgs/codes/lattice/search.hpp>
#include <higgs/codes/radix/code.hpp>
#include <higgs/codes/radix/radix.hpp>
#include <higgs/codes/radix/search.hpp>
#include <higgs/codes/rates.hpp>
#include <higgs/codes/registry.hpp>
#include <higgs/codes/uniform/uniform.hpp>
#include <higgs/codes/window/code.hpp>
#include <higgs/codes/window/packed.hpp>
#include <higgs/codes/window/points.hpp>
#include <higgs/codes/window/viterbi.hpp>
#include <higgs/codes/window/window.hpp>
#include <higgs/encode/cell_search.hpp>
#include <higgs/encode/encoder.hpp>
#include <higgs/encode/exhaustive_search.hpp>
#include <higgs/encode/line_search.hpp>
#include <higgs/encode/nearest.hpp>
#include <higgs/encode/plane_search.hpp>
#include <higgs/encode/point_search.hpp>

// round: rows of a matrix become symbols and scales.
#include <higgs/round/rotated_rows.hpp>
#include <higgs/round/row_quantizer.hpp>

// pack: symbols become bytes.
#include <higgs/pack/bits.hpp>
#include <higgs/pack/packed_layout.hpp>

// store: matrices in files.
#include <higgs/store/checkpoint.hpp>
#include <higgs/store/checkpoint_writer.hpp>
#include <higgs/store/quantized_matrix.hpp>
#include <higgs/store/shard.hpp>
#include <higgs/store/stacked_rows.hpp>

// Rotate, scale, encode and pack in one call.
#include <higgs/quantizer.hpp>

// matmul: y = x * W^T from codes.
#include <higgs/matmul/activations.hpp>
#include <higgs/matmul/decode.hpp>
#include <higgs/matmul/dense.hpp>
#include <higgs/matmul/matmul.hpp>
#include <higgs/matmul/packed_format.hpp>
#include <higgs/matmul/packed_matrix.hpp>
#include <higgs/matmul/reference.hpp>

// allocate: which layer gets how many bits.
#include <higgs/allocate/knapsack.hpp>
#include <higgs/allocate/knapsack_front.hpp>
#include <higgs/allocate/knapsack_problem.hpp>
#include <higgs/allocate/plan.hpp>

// The CUDA half, in the same order.
#if defined(__CUDACC__)
#  include <higgs/codes/e8/fragments.cuh>
#  include <higgs/codes/formats.cuh>
#  include <higgs/codes/grid/fragments.cuh>
#  include <higgs/codes/window/fragments.cuh>
#  include <higgs/codes/window/viterbi.cuh>
#  include <higgs/encode/nearest.cuh>
#  include <higgs/gpu/error.cuh>
#  include <higgs/gpu/hopper.cuh>
#  include <higgs/gpu/instructions.cuh>
#  include <higgs/gpu/launch.cuh>
#  include <higgs/gpu/matrix.cuh>
#  include <higgs/matmul/decode.cuh>
#  include <higgs/matmul/decoded_gemm.cuh>
#  include <higgs/matmul/expert_kernel.cuh>
#  include <higgs/matmul/grouped.cuh>
#  include <higgs/matmul/int8_activations.cuh>
#  include <higgs/matmul/int8_kernel.cuh>
#  include <higgs/matmul/int8_launch.cuh>
#  include <higgs/matmul/linear.cuh>
#  include <higgs/matmul/matmul.cuh>
#  include <higgs/matmul/matmul_task.cuh>
#  include <higgs/matmul/packed_matrix.cuh>
#  include <higgs/matmul/routing.cuh>
#  include <higgs/matmul/stream_fixup.cuh>
#  include <higgs/matmul/stream_kernel.cuh>
#  include <higgs/matmul/stream_launch.cuh>
#  include <higgs/matmul/stream_prefetch.cuh>
#  include <higgs/matmul/stream_task.cuh>
#  include <higgs/matmul/wgmma_kernel.cuh>
#  include <higgs/matmul/wgmma_launch.cuh>
#  include <higgs/pack/fragment_decoder.cuh>
#  include <higgs/pack/packed_layout.cuh>
#  include <higgs/quantizer.cuh>
#  include <higgs/rotate/hadamard.cuh>
#  include <higgs/rotate/hadamard_device.cuh>
#  include <higgs/rotate/paley.cuh>
#  include <higgs/round/feedback.cuh>
#  include <higgs/round/feedback_quantizer.cuh>
#  include <higgs/round/outer_product.cuh>
#  include <higgs/round/row_quantizer.cuh>
#  include <higgs/round/second_moment.cuh>
#  include <higgs/scale/group_scale.cuh>
#  include <higgs/scale/input_scale.cuh>
#endif
