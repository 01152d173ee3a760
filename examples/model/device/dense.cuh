// SPDX-License-Identifier: Apache-2.0
// The product of layers whose weights are dense: a plain kernel of tensor-core instructions that needs no library. A row
// of y depends on that row of x alone, bit for bit, not on the batch.
#pragma once

#include "device/ops.cuh"
#include "device/queue.cuh"

#include <higgs/config.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/matmul_task.cuh>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

namespace higgs::model {

/// y = x * w^T + bias + residual, or what a gated Epilogue says: x (M, cols) and w (rows, cols) of T, y (M, rows) of T or
/// float, (M, rows / 2) if gated. Products are exact, sums float; y is rounded once.
template <class T, class Y>
void dense_async(gpu::DenseView<const T> x, gpu::DenseView<const T> w, gpu::DenseView<Y> y,
                 const std::type_identity_t<gpu::Epilogue<Y>>& epilogue, Queue queue);

/// The same by a GEMM, as gpu::NoGemm says, for a product that is not gated. Bias plus residual is rounded to Y before
/// the product is added.
template <class T, class Y, class Gemm>
void dense_by_gemm_async(gpu::DenseView<const T> x, gpu::DenseView<const T> w, gpu::DenseView<Y> y,
                         const std::type_identity_t<gpu::Epilogue<Y>>& epilogue, const Gemm& gemm,
                         Queue queue);

/// Rows of x from which a GEMM multiplies. Up to 64 rows, which are texts that grow together, a row keeps its bits in every
/// batch. No GPU has measured where a GEMM begins to be faster.
inline constexpr std::int64_t gemm_from = 65;

namespace detail {

constexpr int dense_warps = 4;     // each sums a part of the columns
constexpr int dense_outputs = 16;  // rows of w that a block multiplies
constexpr int dense_columns = 32;  // columns that a warp multiplies at a time: 8 neighbours a lane

/// Eight neighbours of a row from column c on, zeros from the row's end on. `Together`: all or none of them exist, at a
/// multiple of 16 bytes.
template <bool Together, class T>
__device__ inline uint4 load_eight(const T* row, int c, int cols) {
  if (!row || c >= cols) return make_uint4(0, 0, 0, 0);
  if constexpr (Together) return gpu::load_128(row + c);
  const auto pair = [&](int i) {
    const std::uint32_t low = i < cols ? row[i].bits : 0, high = i + 1 < cols ? row[i + 1].bits : 0;
    return low | high << 16;
  };
  return make_uint4(pair(c), pair(c + 2), pair(c + 4), pair(c + 6));
}

// Grid (rows of x over 8 * Tiles, rows of w over dense_outputs), so that blocks that read the same weights are
// neighbours. A sum does not depend on the order of its columns, so lane 4g + t takes 8 neighbouring columns, 8t to
// 8t + 7 of 32, as operands of two mma: rows of w and x come by loads of 128 bits, without shared memory.
template <class T, class Y, int Tiles, bool Together>
__global__ void __launch_bounds__(32 * dense_warps, Tiles == 1 ? 6 : 4)
    dense_kernel(gpu::DenseView<const T> x, gpu::DenseView<const T> w, gpu::DenseView<Y> y,
                 gpu::Epilogue<Y> epilogue) {
  begin_kernel();
  __shared__ float parts[dense_warps][8 * Tiles][dense_outputs + 1];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / 4, t = lane % 4;
  const std::int64_t first_x = std::int64_t{blockIdx.x} * 8 * Tiles,
                     first_w = std::int64_t{blockIdx.y} * dense_outputs;
  const auto w_row = [&](std::int64_t r) { return r < w.rows ? w.row(r) : nullptr; };
  const T *low = w_row(first_w + g), *high = w_row(first_w + g + 8);
  float sums[Tiles][4] = {};
  const int cols = static_cast<int>(w.cols);
  for (int c = warp * dense_columns + 8 * t; c < cols + 8 * t; c += dense_warps * dense_columns) {
    const uint4 a0 = load_eight<Together>(low, c, cols), a1 = load_eight<Together>(high, c, cols);
    HIGGS_UNROLL for (int n = 0; n < Tiles; ++n) {
      const std::int64_t r = first_x + 8 * n + g;
      const uint4 b = load_eight<Together>(r < x.rows ? x.row(r) : nullptr, c, cols);
      gpu::mma_m16n8k16<T>(sums[n], {a0.x, a1.x, a0.y, a1.y}, make_uint2(b.x, b.y));
      gpu::mma_m16n8k16<T>(sums[n], {a0.z, a1.z, a0.w, a1.w}, make_uint2(b.z, b.w));
    }
  }
  HIGGS_UNROLL for (int n = 0; n < Tiles; ++n) HIGGS_UNROLL
    for (int e = 0; e < 4; ++e) parts[warp][8 * n + 2 * t + e % 2][g + e / 2 * 8] = sums[n][e];
  __syncthreads();
  const auto output = [&](int row, int each) {  // output `each` of the block, with its bias
    float sum = epilogue.bias != nullptr ? epilogue.bias[first_w + each] : 0;
    HIGGS_UNROLL for (int part = 0; part < dense_warps; ++part)
      sum += parts[part][row][each];
    return sum;
  };
  const int each = epilogue.gated ? 2 : 1, outputs = dense_outputs / each;  // rows of w for a number of y
  for (int i = static_cast<int>(threadIdx.x); i < 8 * Tiles * outputs; i += 32 * dense_warps) {
    const int row = i / outputs, n = i % outputs * each;
    const std::int64_t r = first_x + row, c = (first_w + n) / each;
    if (r >= y.rows || c >= y.cols) continue;
    float value = output(row, n);
    if (epilogue.gated) value = silu_times(value, output(row, n + 1));
    if (epilogue.residual != nullptr) value += gpu::to_float(epilogue.residual[r * y.row_stride + c]);
    y.row(r)[c] = gpu::from_float<Y>(value);
  }
}

// y = bias + residual. Grid (rows, cols over row_threads).
template <class Y>
__global__ void __launch_bounds__(row_threads)
    begin_outputs_kernel(gpu::DenseView<Y> y, gpu::Epilogue<Y> epilogue) {
  begin_kernel();
  const std::int64_t r = blockIdx.x, c = std::int64_t{blockIdx.y} * row_threads + threadIdx.x;
  if (c >= y.cols) return;
  float value = epilogue.bias != nullptr ? epilogue.bias[c] : 0;
  if (epilogue.residual != nullptr) value += gpu::to_float(epilogue.residual[r * y.row_stride + c]);
  y.row(r)[c] = gpu::from_float<Y>(value);
}

}  // namespace detail

template <class T, class Y>
void dense_async(gpu::DenseView<const T> x, gpu::DenseView<const T> w, gpu::DenseView<Y> y,
                 const std::type_identity_t<gpu::Epilogue<Y>>& epilogue, Queue queue) {
  const std::int64_t outputs = epilogue.gated ? w.rows / 2 : w.rows;
  expects(x.cols == w.cols && y.rows == x.rows && y.cols == outputs && (!epilogue.gated || w.rows % 2 == 0),
          [&] {
            return "higgs::model::dense_async: x is (" + std::to_string(x.rows) + ", " +
                   std::to_string(x.cols) + "), w (" + std::to_string(w.rows) + ", " +
                   std::to_string(w.cols) + "), so y must be (" + std::to_string(x.rows) + ", " +
                   std::to_string(outputs) + "), the columns equal and the rows of w even in a gated product";
          });
  const auto in_eights = [](const gpu::DenseView<const T>& view) {
    return view.cols % 8 == 0 && view.row_stride % 8 == 0 &&
           reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0;
  };
  const auto put = [&]<int Tiles, bool Together>() {
    const dim3 grid(static_cast<unsigned>(gpu::ceil_div(x.rows, 8 * Tiles)),
                    static_cast<unsigned>(gpu::ceil_div(w.rows, detail::dense_outputs)));
    gpu::launch(queue.options(), detail::dense_kernel<T, Y, Tiles, Together>, grid, 32 * detail::dense_warps,
                0, queue.stream, x, w, y, epilogue);
  };
  if (!in_eights(x) || !in_eights(w))
    put.template operator()<1, false>();
  else if (x.rows <= 8)
    put.template operator()<1, true>();
  else
    put.template operator()<8, true>();
}

template <class T, class Y, class Gemm>
void dense_by_gemm_async(gpu::DenseView<const T> x, gpu::DenseView<const T> w, gpu::DenseView<Y> y,
                         const std::type_identity_t<gpu::Epilogue<Y>>& epilogue, const Gemm& gemm,
                         Queue queue) {
  expects(!epilogue.gated, "higgs::model::dense_by_gemm_async: a GEMM multiplies no gated products");
  const bool bias = epilogue.bias != nullptr, residual = epilogue.residual != nullptr;
  if (bias || (residual && epilogue.residual != y.data))
    gpu::launch(queue.options(), detail::begin_outputs_kernel<Y>,
                detail::grid_of(y.rows, gpu::ceil_div(y.cols, detail::row_threads)), detail::row_threads, 0,
                queue.stream, y, epilogue);
  gemm(x, w, y, bias || residual, queue.stream);
}

}  // namespace higgs::model
