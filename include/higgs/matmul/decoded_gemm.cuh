// SPDX-License-Identifier: Apache-2.0
// The caller's GEMM in the list of kernels: for so many rows of x that decoding W once pays.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/decode.cuh>
#include <higgs/matmul/matmul_task.cuh>
#include <higgs/pack/packed_layout.cuh>
#include <higgs/rotate/hadamard.cuh>

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// `plan` for a caller that passes a GEMM to every call: sets dense_from and dense_rows. dense_from is the number of
/// rows of x from which the model of docs/notes/cuda-kernels.md PREDICTS decoding and a GEMM to be faster than the
/// streaming kernel, which decodes W for each 64 rows. That depends on how much faster the instructions of a GEMM are
/// than mma.sync: 512 rows on sm_90, 256 on sm_100 and later 10.x, 1024 on sm_80, where both are equal and cuBLAS only
/// overlaps better. On sm_86, sm_89 and sm_120 mma.sync is all there is: never. Under plan.wgmma_from, whose kernel has the
/// instructions of a GEMM and decodes for 256 rows, 2048. dense_rows: as many rows of W as take 32 MiB, so that few launches
/// follow each other and the decoded part stays in the second-level cache.
MatmulPlan with_gemm(MatmulPlan plan, const PackedLayout& layout, const Device& device);

/// From plan.dense_from rows of x on, if the caller brings a GEMM (see NoGemm): x is rotated, W is decoded
/// plan.dense_rows rows at a time and rounded to the type of the operands, and the GEMM multiplies. Bias plus
/// residual is rounded to Y before the product is added.
struct DecodedGemm {
  template <class X, class Y, class Gemm>
  static bool can(const MatmulTask<X, Y, Gemm>& task, const Device& device) {
    return !std::is_same_v<Gemm, NoGemm> && workspace(task, device) != 0 &&
           device.shared_bytes >= LookupTable::end;
  }
  static std::size_t workspace(const MatmulSize& size, const Device& device);
  template <class Formats, class Archs, class X, class Y, class Gemm>
  static void launch(const MatmulTask<X, Y, Gemm>& task, std::byte* workspace, const Device& device,
                     cudaStream_t stream);
};

namespace detail {

/// The parts of a workspace in bytes, in their order behind workspace_counters.
struct DecodedGemmWorkspace {
  std::size_t x, scratch, weights;

  DecodedGemmWorkspace(const MatmulSize& size, const Device& device) {
    const std::int64_t depth = size.w.rotation.padded_cols();
    x = whole_part(size.batch * depth * 2);
    scratch = whole_part(rotate_scratch(size.w.rotation, size.batch, device) * 4);
    weights = whole_part(std::min(size.plan.dense_rows, size.w.layout.rows) * depth * 2);
  }
};

/// y = bias + residual, one thread per element.
template <class Y>
__global__ void prepare_outputs_kernel(DenseView<Y> y, Epilogue<Y> epilogue) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x, m = i / y.cols, n = i % y.cols;
  if (m >= y.rows) return;
  float value = epilogue.bias != nullptr ? epilogue.bias[n] : 0.0f;
  if (epilogue.residual != nullptr) value += to_float(epilogue.residual[m * y.row_stride + n]);
  y.row(m)[n] = from_float<Y>(value);
}

}  // namespace detail

inline MatmulPlan with_gemm(MatmulPlan plan, const PackedLayout& layout, const Device& device) {
  const int generation = device.architecture / 10;
  constexpr std::int64_t never = std::numeric_limits<std::int64_t>::max();
  plan.dense_from = plan.wgmma_from != never    ? 2048
                    : device.architecture == 80 ? 1024
                    : generation == 9           ? 512
                    : generation == 10          ? 256
                                                : never;
  constexpr std::int64_t most_weights = std::int64_t{16} << 20;
  plan.dense_rows = std::max<std::int64_t>(most_weights / layout.depth() / warp_tile, 1) * warp_tile;
  return plan;
}

inline std::size_t DecodedGemm::workspace(const MatmulSize& size, const Device& device) {
  if (size.batch < size.plan.dense_from || size.rotated || size.gated) return 0;
  const detail::DecodedGemmWorkspace parts(size, device);
  return workspace_counters + parts.x + parts.scratch + parts.weights;
}

template <class Formats, class Archs, class X, class Y, class Gemm>
void DecodedGemm::launch(const MatmulTask<X, Y, Gemm>& task, std::byte* workspace, const Device& device,
                         cudaStream_t stream) {
  using T = OperandOf<X>;
  expects(task.plan.dense_rows > 0 && task.plan.dense_rows % warp_tile == 0,
          "higgs::gpu::matmul_async: dense_rows must be a multiple of 64");
  const detail::DecodedGemmWorkspace parts(task, device);
  std::byte* const at = workspace + workspace_counters;
  Rotation rotation = task.w.rotation;
  rotation.group = rotation.padded_group = rotation.block;  // without gaps
  const std::int64_t depth = rotation.padded_cols();
  const DenseView<T> rotated(reinterpret_cast<T*>(at), task.batch, depth);
  rotate_async<X, T, Archs>(rotation, task.x, rotated, device, stream,
                            reinterpret_cast<float*>(at + parts.x));
  const DenseView<Y>& y = task.y;
  const Epilogue<Y>& epilogue = task.epilogue;
  const bool bias = epilogue.bias != nullptr, residual = epilogue.residual != nullptr;
  if (bias || (residual && epilogue.residual != y.data))
    gpu::launch(detail::prepare_outputs_kernel<Y>,
                dim3(static_cast<unsigned>(ceil_div(y.rows * y.cols, 256))), 256, 0, stream, y, epilogue);
  auto* decoded = reinterpret_cast<T*>(at + parts.x + parts.scratch);
  for (std::int64_t row = 0; row < y.cols; row += task.plan.dense_rows) {
    const DenseView<T> weights(decoded, std::min(task.plan.dense_rows, y.cols - row), depth);
    detail::decode_rows_async<Formats, T, Archs>(task.w, row, weights, device, stream);
    if constexpr (!std::is_same_v<Gemm, NoGemm>)
      (*task.gemm)(DenseView<const T>(rotated), DenseView<const T>(weights),
                   DenseView<Y>(y.data + row, y.rows, weights.rows, y.row_stride), bias || residual, stream);
  }
}

static_assert(MatmulKernel<DecodedGemm>);

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
