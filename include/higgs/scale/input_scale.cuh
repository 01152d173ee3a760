// SPDX-License-Identifier: Apache-2.0
// Statistics of the columns of a matrix on the device, for input scales and the exponent.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/gpu/error.cuh>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/scale/input_scale.hpp>

#include <cuda_runtime.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace gpu {

namespace detail {
/// One thread per column: sums in the order of the rows. `largest` holds the bits of magnitudes, which sort as the
/// magnitudes do.
template <class T>
__global__ void __launch_bounds__(64)
    column_statistics_kernel(DenseView<const T> w, double* squares, std::int32_t* largest) {
  const std::int64_t col = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (col >= w.cols) return;
  const T* at = w.data + col;
  double sum = squares[col];
  std::int32_t most = largest[col];
#pragma unroll 8
  for (std::int64_t r = 0; r < w.rows; ++r, at += w.row_stride) {
    const float value = to_float(*at);
    sum = fma(static_cast<double>(value), static_cast<double>(value), sum);  // an exact product
    most = max(most, std::bit_cast<std::int32_t>(value) & std::numeric_limits<std::int32_t>::max());
  }
  squares[col] = sum;
  largest[col] = most;
}
}  // namespace detail

/// ColumnStatistics of a matrix in device memory, given as rows in order: the host's bits.
class DeviceColumnStatistics {
 public:
  /// For matrices of `cols` columns.
  explicit DeviceColumnStatistics(std::int64_t cols)
      : squares_(DeviceBuffer<double>::zeros(size_of(cols))),
        largest_(DeviceBuffer<std::int32_t>::zeros(size_of(cols))) {}

  /// Adds the next rows of the matrix.
  template <class T, class Archs = BuiltFor>
  void add_async(DenseView<const T> rows, cudaStream_t stream) {
    expects(rows.cols == static_cast<std::int64_t>(squares_.size()), [&] {
      return higgs::detail::sentence("higgs::gpu::DeviceColumnStatistics::add_async: rows are ",
                                     higgs::detail::shape_text(rows.rows, rows.cols), ", but the matrix has ",
                                     squares_.size(), " columns");
    });
    launch(detail::column_statistics_kernel<T>, dim3(static_cast<unsigned>(ceil_div(rows.cols, 64))), 64, 0,
           stream, rows, squares_.data(), largest_.data());
    rows_ += rows.rows;
  }

  /// The statistics of all rows added; waits for `stream`. Throws InvalidArgument, naming the first column, for a
  /// weight that is NaN or infinite.
  ColumnStatistics to_host(cudaStream_t stream) const {
    return {squares_.to_host(stream), largest_.to_host(stream), rows_};
  }

 private:
  static std::size_t size_of(std::int64_t cols) {
    expects(cols >= 1, "higgs::gpu::DeviceColumnStatistics: a matrix has at least one column");
    return static_cast<std::size_t>(cols);
  }

  std::int64_t rows_ = 0;
  DeviceBuffer<double> squares_;
  DeviceBuffer<std::int32_t> largest_;
};

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
