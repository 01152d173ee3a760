// SPDX-License-Identifier: Apache-2.0
// Sums of outer products on the device, with the bits of outer_product.hpp: each output is one chain of fused multiply-adds
// in the order of t. So no tile size, no device and no split of the t into calls changes a bit.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/gpu/error.cuh>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace higgs {
inline namespace v0 {
namespace gpu {

namespace detail {

/// The thread of a block of 256 in a square of 16 x 16 threads. A warp has 4 x 8 of them, so that its reads of 128 bits
/// are 4 and 8 different ones, each without a conflict.
struct OuterProductThread {
  int row, col;
  __device__ explicit OuterProductThread(int thread)
      : row(thread / 64 * 4 + thread % 32 / 8), col(thread / 32 % 2 * 8 + thread % 8) {}
};

/// Calls visit(output, sum) for the outputs of this thread in the tile of c at (first_row, first_col).
template <int Quads, class Visit>
__device__ inline void for_each_output(const DenseView<float>& c, std::int64_t first_row,
                                       std::int64_t first_col, bool upper,
                                       float (&sums)[4 * Quads][4 * Quads], const Visit& visit) {
  const OuterProductThread at(thread_index());  // found anew, or it would take registers between two calls
  const auto rows = static_cast<int>(min(c.rows - first_row, std::int64_t{64 * Quads}));
  const auto cols = static_cast<int>(min(c.cols - first_col, std::int64_t{64 * Quads}));
  const int diagonal =
      upper ? static_cast<int>(first_row - first_col) : -64 * Quads;  // column of row 0's first output
  float* to = c.row(first_row + at.row * 4) + first_col + at.col * 4;
  HIGGS_UNROLL for (int i = 0; i < 4 * Quads; ++i) {
    const int row = i / 4 * 64 + at.row * 4 + i % 4;
    HIGGS_UNROLL for (int j = 0; j < 4 * Quads; ++j) {
      const int col = j / 4 * 64 + at.col * 4 + j % 4;
      if (row < rows && col < cols && col >= row + diagonal) visit(to[j / 4 * 64 + j % 4], sums[i][j]);
    }
    to += (i % 4 == 3 ? 61 : 1) * c.row_stride;
  }
}

/// A tile of 64 * Quads outputs on each side for each block; 4 * Quads on each side for each thread, 64 outputs between two
/// quads. Blocks walk along t by `depth` rows: the next ones are on their way to registers, where they become floats, while
/// these are multiplied. Where `upper`, outputs below the diagonal are neither read nor written. Tiles whose rows are all not
/// `wanted` (m) are left out, unless that is null.
template <class T, int Quads>
__global__ void __launch_bounds__(256, Quads == 2 ? 2 : 4)
    outer_product_kernel(DenseView<const T> a, DenseView<const T> b, DenseView<float> c, bool upper,
                         const std::uint8_t* wanted) {
  constexpr int tile = 64 * Quads, depth = 8, step = 256 / tile, loads = depth / step;
  __shared__ __align__(16) float left[2][depth][tile], right[2][depth][tile];
  const std::int64_t first_row = std::int64_t{blockIdx.y} * tile, first_col = std::int64_t{blockIdx.x} * tile;
  if (upper && first_col + tile <= first_row) return;
  if (wanted != nullptr) {
    const std::int64_t row = first_row + threadIdx.x;
    if (!__syncthreads_or(threadIdx.x < tile && row < c.rows && wanted[row] != 0)) return;
  }
  float sums[4 * Quads][4 * Quads] = {};
  for_each_output<Quads>(c, first_row, first_col, upper, sums,
                         [](const float& output, float& sum) { sum = output; });

  // Each thread loads one column of a and of b, every `step` rows.
  const int own = static_cast<int>(threadIdx.x) % tile, start = static_cast<int>(threadIdx.x) / tile;
  const bool in_a = first_row + own < a.cols, in_b = first_col + own < b.cols;
  const T* from_a = a.row(start) + first_row + own;
  const T* from_b = b.row(start) + first_col + own;
  float next_a[loads], next_b[loads];
  const auto load = [&](int rows) {  // `rows` are left
    HIGGS_UNROLL for (int i = 0; i < loads; ++i) {
      const bool exists = start + i * step < rows;
      next_a[i] = exists && in_a ? to_float(*from_a) : 0.0f;
      next_b[i] = exists && in_b ? to_float(*from_b) : 0.0f;
      from_a += step * a.row_stride;
      from_b += step * b.row_stride;
    }
  };
  const auto store = [&](int stage) {
    HIGGS_UNROLL for (int i = 0; i < loads; ++i) {
      left[stage][start + i * step][own] = next_a[i];
      right[stage][start + i * step][own] = next_b[i];
    }
  };
  const OuterProductThread at(static_cast<int>(threadIdx.x));
  const auto multiply = [&](int stage, int t) {
    float x[4 * Quads], y[4 * Quads];
    HIGGS_UNROLL for (int q = 0; q < Quads; ++q) {
      *reinterpret_cast<float4*>(x + 4 * q) =
          *reinterpret_cast<const float4*>(&left[stage][t][64 * q + 4 * at.row]);
      *reinterpret_cast<float4*>(y + 4 * q) =
          *reinterpret_cast<const float4*>(&right[stage][t][64 * q + 4 * at.col]);
    }
    HIGGS_UNROLL for (int i = 0; i < 4 * Quads; ++i) HIGGS_UNROLL
      for (int j = 0; j < 4 * Quads; ++j) sums[i][j] = fmaf(x[i], y[j], sums[i][j]);
  };

  auto rows = static_cast<int>(a.rows);
  load(rows);
  store(0);
  __syncthreads();
  _Pragma("unroll 1") for (int stage = 0; rows > 0; stage ^= 1, rows -= depth) {
    if (rows > depth) load(rows - depth);
    if (rows >= depth) {
      _Pragma("unroll 2") for (int t = 0; t < depth; ++t) multiply(stage, t);
    } else {  // further rows of zeros would turn a sum of -0 to 0
      _Pragma("unroll 1") for (int t = 0; t < rows; ++t) multiply(stage, t);
    }
    if (rows > depth) store(stage ^ 1);
    __syncthreads();
  }
  for_each_output<Quads>(c, first_row, first_col, upper, sums,
                         [](float& output, const float& sum) { output = sum; });
}

template <class T, class Archs>
void add_outer_products_async(const char* function, DenseView<const T> a, DenseView<const T> b,
                              DenseView<float> c, bool upper, const Device& device, cudaStream_t stream,
                              const std::uint8_t* wanted = nullptr) {
  using higgs::detail::sentence, higgs::detail::shape_text;
  expects(a.rows == b.rows && c.rows == a.cols && c.cols == b.cols, [&] {
    return sentence(function, ": a is ", shape_text(a.rows, a.cols), ", b is ", shape_text(b.rows, b.cols),
                    " and c is ", shape_text(c.rows, c.cols), ", but c must be ", shape_text(a.cols, b.cols),
                    ", and a and b need as many rows");
  });
  expects(!upper || c.rows == c.cols, [&] {
    return sentence(function, ": c is ", shape_text(c.rows, c.cols), ", which has no upper triangle");
  });
  expects(c.rows <= std::int64_t{64} * 65535 && a.rows < std::int64_t{1} << 31, [&] {
    return sentence(function, ": c has ", c.rows, " rows and a ", a.rows, ", but a launch takes ", 64 * 65535,
                    " and less than 2^31");
  });
  higgs::detail::expect_data(function, "a", a);
  higgs::detail::expect_data(function, "b", b);
  higgs::detail::expect_data(function, "c", c);
  expect_aligned(function, "a", a.data, sizeof(T));
  expect_aligned(function, "b", b.data, sizeof(T));
  expect_aligned(function, "c", c.data, sizeof(float));
  expect_apart(function, "c", ByteRows(c), "a", ByteRows(a));
  expect_apart(function, "c", ByteRows(c), "b", ByteRows(b));
  if (a.rows == 0) return;
  const auto tiles = [&](std::int64_t side) {
    return dim3(static_cast<unsigned>(ceil_div(c.cols, side)), static_cast<unsigned>(ceil_div(c.rows, side)));
  };
  const dim3 large = tiles(128);
  // Large tiles read less of a and b, small ones keep more multiprocessors at work.
  if (std::int64_t{large.x} * large.y / (upper ? 2 : 1) >= device.multiprocessors)
    launch(outer_product_kernel<T, 2>, large, 256, 0, stream, a, b, c, upper, wanted);
  else
    launch(outer_product_kernel<T, 1>, tiles(64), 256, 0, stream, a, b, c, upper, wanted);
}

}  // namespace detail

/// c (m, n) += a^T b for a (k, m) and b (k, n), numbers of type T as floats: the bits of higgs::add_outer_products. c shares
/// no memory with a or b. Throws InvalidArgument for shapes that do not fit, and for pointers that are no multiples of their
/// elements' sizes.
template <class T, class Archs = BuiltFor>
void add_outer_products_async(DenseView<const T> a, DenseView<const T> b, DenseView<float> c,
                              const Device& device, cudaStream_t stream) {
  detail::add_outer_products_async<T, Archs>("higgs::gpu::add_outer_products_async", a, b, c, false, device,
                                             stream);
}

/// The same for a square c, of which only the outputs on and above the diagonal are read and written: half the work where
/// a^T b is symmetric.
template <class T, class Archs = BuiltFor>
void add_upper_outer_products_async(DenseView<const T> a, DenseView<const T> b, DenseView<float> c,
                                    const Device& device, cudaStream_t stream) {
  detail::add_outer_products_async<T, Archs>("higgs::gpu::add_upper_outer_products_async", a, b, c, true,
                                             device, stream);
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
