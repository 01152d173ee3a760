// SPDX-License-Identifier: Apache-2.0
// Everything, in the order the data goes.
#pragma once

#include <higgs/config.hpp>

// Words every stage speaks.
#include <higgs/core/concepts.hpp>
#include <higgs/core/convert.hpp>
#include <higgs/core/cpu.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/core/random.hpp>
#include <higgs/core/scale_format.hpp>

// rotate: weights become Gaussian.
#include <higgs/rotate/hadamard.hpp>
#include <higgs/rotate/random_hadamard.hpp>

// scale: groups of unit variance.
#include <higgs/scale/group_scale.hpp>
#include <higgs/scale/input_scale.hpp>

// encode: each vector to the nearest point of a codebook.
#include <higgs/codebook/e8.hpp>
#include <higgs/codebook/fit_grid.hpp>
#include <higgs/codebook/fit_line.hpp>
#include <higgs/codebook/gaussian_cloud.hpp>
#include <higgs/codebook/gaussian_grids.hpp>
#include <higgs/codebook/grid.hpp>
#include <higgs/codebook/lattice.hpp>
#include <higgs/codebook/measure_grid.hpp>
#include <higgs/codebook/radix.hpp>
#include <higgs/codebook/shipped.hpp>
#include <higgs/codebook/uniform.hpp>
#include <higgs/encode/byte_table.hpp>
#include <higgs/encode/cell_search.hpp>
#include <higgs/encode/e8_search.hpp>
#include <higgs/encode/exhaustive_search.hpp>
#include <higgs/encode/grid_search.hpp>
#include <higgs/encode/lattice_search.hpp>
#include <higgs/encode/line_search.hpp>
#include <higgs/encode/nearest.hpp>
#include <higgs/encode/plane_search.hpp>
#include <higgs/encode/radix_search.hpp>

// pack: codes become bits.
#include <higgs/pack/bits.hpp>
#include <higgs/pack/tiles.hpp>

// store: matrices and models in files.
#include <higgs/store/block_format.hpp>
#include <higgs/store/checkpoint.hpp>
#include <higgs/store/checkpoint_writer.hpp>
#include <higgs/store/gguf.hpp>
#include <higgs/store/journal.hpp>
#include <higgs/store/json.hpp>
#include <higgs/store/mapped_file.hpp>
#include <higgs/store/quantized_matrix.hpp>
#include <higgs/store/safetensors.hpp>
#include <higgs/store/shard.hpp>
#include <higgs/store/tensor_source.hpp>

// All of the above in one call.
#include <higgs/quantizer.hpp>

// matmul: y = x * W^T from codes.
#include <higgs/matmul/activations.hpp>
#include <higgs/matmul/decode.hpp>
#include <higgs/matmul/dense.hpp>
#include <higgs/matmul/matmul.hpp>
#include <higgs/matmul/reference.hpp>
#include <higgs/matmul/strip.hpp>
#include <higgs/matmul/strip_amx.hpp>
#include <higgs/matmul/strip_avx2.hpp>
#include <higgs/matmul/strip_avx512.hpp>
#include <higgs/matmul/strip_neon.hpp>
#include <higgs/matmul/strip_product.hpp>
#include <higgs/matmul/tiled_matrix.hpp>

// allocate: which layer gets how many bits.
#include <higgs/allocate/knapsack.hpp>
#include <higgs/allocate/knapsack_front.hpp>
#include <higgs/allocate/knapsack_problem.hpp>
#include <higgs/allocate/plan.hpp>
#include <higgs/allocate/sensitivity.hpp>

// The CUDA half, in the same order.
#if defined(__CUDACC__)
#  include <higgs/encode/nearest.cuh>
#  include <higgs/gpu/error.cuh>
#  include <higgs/gpu/instructions.cuh>
#  include <higgs/gpu/launch.cuh>
#  include <higgs/gpu/matrix.cuh>
#  include <higgs/matmul/decode.cuh>
#  include <higgs/matmul/device_matrix.cuh>
#  include <higgs/matmul/fragments.cuh>
#  include <higgs/matmul/grouped.cuh>
#  include <higgs/matmul/matmul.cuh>
#  include <higgs/matmul/stream_kernel.cuh>
#  include <higgs/pack/tiles.cuh>
#  include <higgs/quantizer.cuh>
#  include <higgs/rotate/hadamard.cuh>
#  include <higgs/scale/group_scale.cuh>
#  include <higgs/scale/input_scale.cuh>
#endif
