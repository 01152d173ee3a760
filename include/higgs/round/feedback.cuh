// SPDX-License-Identifier: Apache-2.0
// The factors of a second moment on the device: U and d of feedback.hpp, bit for bit.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/gpu/error.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/rotate/hadamard.cuh>
#include <higgs/round/feedback.hpp>
#include <higgs/round/outer_product.cuh>
#include <higgs/round/second_moment.cuh>
#include <higgs/store/quantized_matrix.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace gpu {

namespace detail {

inline constexpr int factor_panel = 128;  // columns that are factored before they move all others

/// diagonal (upper.rows) = the diagonal of a matrix.
template <class Archs>
__global__ void __launch_bounds__(128) copy_diagonal_kernel(DenseView<const float> upper, float* diagonal) {
  const std::int64_t k = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (k < upper.rows) diagonal[k] = upper.row(k)[k];
}

/// D H D in full, and zeros in the padding: `upper` (m, m) has the upper triangle of H, `scales` (m) are D, or null, and
/// h (n, n) is the output, n >= m. The grid's y counts rows.
template <class Archs>
__global__ void __launch_bounds__(128)
    scale_second_moment_kernel(DenseView<const float> upper, const float* scales, DenseView<float> h) {
  const std::int64_t j = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (j >= h.cols) return;
  for (std::int64_t i = blockIdx.y; i < h.rows; i += gridDim.y) {
    const std::int64_t low = min(i, j), high = max(i, j);
    float value = 0;
    if (high < upper.rows) {
      value = upper.row(low)[high];
      if (scales != nullptr) value = __fmul_rn(value, __fmul_rn(scales[low], scales[high]));
    }
    h.row(i)[j] = value;
  }
}

/// Swaps h (n, n) with its transpose, two tiles a block.
template <class Archs>
__global__ void __launch_bounds__(256) transpose_kernel(DenseView<float> h) {
  if (blockIdx.y > blockIdx.x) return;
  constexpr int tile = 32, rows = 8;
  __shared__ float tiles[2][tile][tile + 1];
  const int x = static_cast<int>(threadIdx.x) % tile, y = static_cast<int>(threadIdx.x) / tile;
  const std::int64_t first[2] = {std::int64_t{blockIdx.y} * tile, std::int64_t{blockIdx.x} * tile};
  const auto for_each = [&](const auto& visit) {
    for (int side = 0; side < 2; ++side)
      for (int r = y; r < tile; r += rows) {
        const std::int64_t row = first[side] + r, col = first[1 - side] + x;
        if (row < h.rows && col < h.cols) visit(h.row(row)[col], side, r);
      }
  };
  for_each([&](const float& value, int side, int r) { tiles[side][r][x] = value; });
  __syncthreads();
  for_each([&](float& value, int side, int r) { value = tiles[1 - side][x][r]; });
}

/// Adds damping * mean to the diagonal of h.
template <class Archs>
__global__ void __launch_bounds__(128) damp_kernel(DenseView<float> h, double damping, double mean) {
  const std::int64_t k = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (k < h.rows) h.row(k)[k] = static_cast<float>(fma(damping, mean, static_cast<double>(h.row(k)[k])));
}

/// Columns [begin, end) of h, which is factored behind them: their block on the diagonal, in double, by one block of threads.
/// Sets `failed` where a value of d would not be above `least`. Dynamic shared memory: the upper triangle, column after column,
/// and one column more.
template <class Archs>
__global__ void __launch_bounds__(256)
    factor_diagonal_kernel(DenseView<float> h, float* d, std::int64_t begin, std::int64_t end, double least,
                           int* failed) {
  extern __shared__ __align__(16) double factor_space[];
  const auto n = static_cast<int>(end - begin), threads = static_cast<int>(blockDim.x);
  const auto first = static_cast<int>(threadIdx.x), lane = first % 32, warp = first / 32;
  const auto at = [&](int i, int j) -> double& { return factor_space[j * (j + 1) / 2 + i]; };
  double* const column = factor_space + n * (n + 1) / 2;  // before it is divided
  for (int i = 0; i < n; ++i)
    for (int j = i + first; j < n; j += threads) at(i, j) = static_cast<double>(h.row(begin + i)[begin + j]);
  __syncthreads();
  for (int k = n - 1; k >= 0; --k) {
    const double square = at(k, k);
    if (!(square > least)) {
      if (first == 0) *failed = 1;
      return;
    }
    for (int i = first; i < k; i += threads) {
      column[i] = at(i, k);
      at(i, k) /= square;
    }
    __syncthreads();
    for (int j = warp; j < k; j += threads / 32)
      for (int i = lane; i <= j; i += 32) at(i, j) = fma(-at(i, k), column[j], at(i, j));
    __syncthreads();
  }
  for (int i = 0; i < n; ++i)
    for (int j = i + first; j < n; j += threads)
      h.row(begin + i)[begin + j] = i == j ? 1.0f : static_cast<float>(at(i, j));
  for (int i = first; i < n; i += threads) d[begin + i] = static_cast<float>(at(i, i));
}

/// The same columns above that block U: X of X diag(d) U^T = B, in place of B. `x` and `negated` (end - begin, begin) become
/// X^T and -diag(d) X^T. A thread has a row of h.
template <class Archs>
__global__ void __launch_bounds__(64)
    solve_above_kernel(DenseView<float> h, const float* d, std::int64_t begin, std::int64_t end, float* x,
                       float* negated) {
  constexpr int run = 16;  // columns that are subtracted together
  __shared__ float values[factor_panel][64];
  const std::int64_t row = std::int64_t{blockIdx.x} * 64 + threadIdx.x;
  if (row >= begin) return;
  const auto n = static_cast<int>(end - begin), own = static_cast<int>(threadIdx.x);
  float* const b = h.row(row) + begin;
  for (int t = 0; t < n; ++t) values[t][own] = -b[t];
  const auto subtract = [&](int t, int from, int from_end) {
    const float* const u = h.row(begin + t) + begin;
    float sum = values[t][own];
    for (int s = from; s < from_end; ++s) sum = fmaf(-u[s], values[s][own], sum);
    values[t][own] = sum;
  };
  for (int high = n; high > 0;) {
    const int low = (high - 1) / run * run;
    for (int t = low; t < high; ++t) subtract(t, high, n);
    for (int t = high - 1; t-- > low;) subtract(t, t + 1, high);
    high = low;
  }
  for (int t = 0; t < n; ++t) {
    const float y = values[t][own], solved = __fdiv_rn(y, -d[begin + t]);
    negated[t * begin + row] = y;
    x[t * begin + row] = solved;
    b[t] = solved;
  }
}

/// Zeros below the diagonal. The grid's y counts rows.
template <class Archs>
__global__ void __launch_bounds__(128) clear_below_diagonal_kernel(DenseView<float> h) {
  const std::int64_t j = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (std::int64_t i = blockIdx.y; i < h.rows; i += gridDim.y)
    if (j < i) h.row(i)[j] = 0;
}

/// Blocks of 128 columns and up to 65535 rows.
inline dim3 square_blocks(std::int64_t n) {
  return {static_cast<unsigned>(ceil_div(n, 128)), static_cast<unsigned>(std::min<std::int64_t>(n, 65535))};
}

}  // namespace detail

/// Floats of workspace of factor_async() for h (n, n).
inline std::int64_t factor_workspace(std::int64_t n) noexcept { return 2 * detail::factor_panel * n; }

/// h = U diag(d) U^T in place, with the bits of higgs::factor(): the upper triangle of h (n, n) is read, and becomes U with its
/// ones, and zeros below. Sets *failed to 1 where a value of d would not be above `least`, else leaves it; h and d are then not
/// complete. `workspace`: factor_workspace(n) floats. All pointers are to device memory.
template <class Archs = BuiltFor>
void factor_async(DenseView<float> h, float* d, double least, float* workspace, int* failed,
                  const Device& device, cudaStream_t stream) {
  expects(h.rows == h.cols, [&] {
    return higgs::detail::sentence("higgs::gpu::factor_async: h is ",
                                   higgs::detail::shape_text(h.rows, h.cols), ", but must be square");
  });
  constexpr std::int64_t panel = detail::factor_panel;
  constexpr std::size_t shared = sizeof(double) * (panel * (panel + 1) / 2 + panel);
  for (std::int64_t end = h.rows; end > 0;) {
    const std::int64_t begin = (end - 1) / panel * panel, n = end - begin;
    launch(detail::factor_diagonal_kernel<Archs>, dim3(1), 256, shared, stream, h, d, begin, end, least,
           failed);
    float *const x = workspace, *const negated = workspace + n * begin;
    launch(detail::solve_above_kernel<Archs>, dim3(static_cast<unsigned>(ceil_div(begin, 64))), 64, 0, stream,
           h, d, begin, end, x, negated);
    add_upper_outer_products_async<float, Archs>(
        DenseView<const float>(negated, n, begin), DenseView<const float>(x, n, begin),
        DenseView<float>(h.data, begin, begin, h.row_stride), device, stream);
    end = begin;
  }
  launch(detail::clear_below_diagonal_kernel<Archs>, detail::square_blocks(h.rows), 128, 0, stream, h);
}

/// Feedback in device memory: 4 bytes a value of U, so 4 * cols^2 or 4 * cols * part.
class DeviceFeedback {
 public:
  /// A copy; it is complete when the constructor returns.
  explicit DeviceFeedback(const Feedback& feedback)
      : DeviceFeedback(feedback.cols(), feedback.part(), feedback.damping(), feedback.mean_cost()) {
    d_ = DeviceBuffer<float>(feedback.d());
    if (feedback.empty()) return;
    u_ = DeviceBuffer<float>(values());
    for (std::int64_t i = 0; i < parts(); ++i) {
      const MatrixView<const float> from = feedback.rows(i);
      check(cudaMemcpyAsync(part_of(i).data, from.data, static_cast<std::size_t>(from.size()) * sizeof(float),
                            cudaMemcpyHostToDevice, cudaStreamLegacy),
            "higgs::gpu::DeviceFeedback");
    }
    check(cudaStreamSynchronize(cudaStreamLegacy), "higgs::gpu::DeviceFeedback");
  }

  /// From a second moment on the device, with the bits and the errors of Feedback's constructor. It waits for `stream`, and
  /// takes 8 * cols * min(part, cols) bytes for that time beside what it owns.
  template <class Archs = BuiltFor>
  static DeviceFeedback from(const DeviceSecondMoment& moment, const CodeLayout& layout,
                             std::optional<std::uint64_t> seed, std::span<const Half> input_scales,
                             double damping, const Device& device, cudaStream_t stream);

  bool empty() const noexcept { return u_.size() == 0; }    ///< whether all inputs are zero
  double damping() const noexcept { return damping_; }      ///< the damping that was used
  double mean_cost() const noexcept { return mean_cost_; }  ///< as Feedback::mean_cost()
  std::int64_t cols() const noexcept { return cols_; }      ///< rotated inputs
  std::int64_t part() const noexcept { return part_; }  ///< rotated inputs of a part; the last may have fewer
  std::int64_t parts() const noexcept { return ceil_div(cols_, part_); }  ///< parts of U

  /// U of rotated inputs i * part() and on, 0 <= i < parts(), unless empty().
  DenseView<const float> rows(std::int64_t i) const noexcept { return part_of(i); }
  /// (cols()): what the square of an input's error costs, once the errors before it are fed back.
  const float* d() const noexcept { return d_.data(); }

 private:
  DeviceFeedback(std::int64_t cols, std::int64_t part, double damping, double mean_cost)
      : cols_(cols), part_(part), damping_(damping), mean_cost_(mean_cost) {}

  std::size_t values() const {
    const std::int64_t last = cols_ - (parts() - 1) * part_;
    return static_cast<std::size_t>((parts() - 1) * part_ * part_ + last * last);
  }
  DenseView<float> part_of(std::int64_t i) const noexcept {
    const std::int64_t size = std::min(part_, cols_ - i * part_);
    return {u_.data() + i * part_ * part_, size, size};
  }

  std::int64_t cols_, part_;
  double damping_, mean_cost_;
  DeviceBuffer<float> u_;  // (parts, part, part), the last part smaller in both
  DeviceBuffer<float> d_;  // (cols)
};

template <class Archs>
DeviceFeedback DeviceFeedback::from(const DeviceSecondMoment& moment, const CodeLayout& layout,
                                    std::optional<std::uint64_t> seed, std::span<const Half> input_scales,
                                    double damping, const Device& device, cudaStream_t stream) {
  higgs::detail::expect_feedback(moment, layout, input_scales, damping);
  DeviceFeedback out(layout.padded_cols(), moment.parts() == 1 ? layout.padded_cols() : moment.part(),
                     damping, 0);
  out.d_ = DeviceBuffer<float>::zeros(static_cast<std::size_t>(out.cols_));
  std::vector<float> scales;
  for (const Half scale : input_scales) scales.push_back(static_cast<float>(scale));
  const DeviceBuffer<float> scales_device{std::span<const float>(scales), stream};
  const DeviceBuffer<float> diagonal(static_cast<std::size_t>(moment.cols()));
  for (std::int64_t i = 0; i < moment.parts(); ++i) {
    const DenseView<const float> h = moment.values(i);
    launch(detail::copy_diagonal_kernel<Archs>, dim3(static_cast<unsigned>(ceil_div(h.rows, 128))), 128, 0,
           stream, h, diagonal.data() + i * moment.part());
  }
  const double mean =
      higgs::detail::scaled_trace(diagonal.to_host(stream), scales) / static_cast<double>(out.cols_);
  if (mean == 0) return out;
  out.u_ = DeviceBuffer<float>(out.values());

  const std::int64_t widest = std::min(out.part_, out.cols_);
  const Rotation all{.cols = widest, .block = layout.block, .group = widest, .padded_group = widest};
  const DeviceBuffer<float> workspace(static_cast<std::size_t>(factor_workspace(widest))),
      scratch(static_cast<std::size_t>(rotate_scratch(all, widest, device)));
  const auto factor_part = [&](std::int64_t i, double least, int* failed) {
    const DenseView<float> h = out.part_of(i);
    const std::int64_t first = i * out.part_;
    const DeviceBuffer<std::uint32_t> signs{
        std::span<const std::uint32_t>(seed ? sign_words(*seed, h.cols, first)
                                            : std::vector<std::uint32_t>()),
        stream};
    launch(detail::scale_second_moment_kernel<Archs>, detail::square_blocks(h.rows), 128, 0, stream,
           moment.values(i), scales.empty() ? nullptr : scales_device.data() + first, h);
    const Rotation rotation{.cols = h.cols,
                            .block = layout.block,
                            .signs = signs.data(),
                            .group = h.cols,
                            .padded_group = h.cols};
    const auto tiles = static_cast<unsigned>(ceil_div(h.rows, 32));
    for (int side = 0; side < 2; ++side) {
      rotate_async<float, float, Archs>(rotation, DenseView<const float>(h), h, device, stream,
                                        scratch.data());
      if (side == 0) launch(detail::transpose_kernel<Archs>, dim3(tiles, tiles), 256, 0, stream, h);
    }
    launch(detail::damp_kernel<Archs>, dim3(static_cast<unsigned>(ceil_div(h.rows, 128))), 128, 0, stream, h,
           out.damping_, mean);
    factor_async<Archs>(h, out.d_.data() + first, least, workspace.data(), failed, device, stream);
    check(cudaStreamSynchronize(stream), "higgs::gpu::DeviceFeedback");  // before the signs are freed
  };
  while (true) {
    const DeviceBuffer<int> failed = DeviceBuffer<int>::zeros(1);
    for (std::int64_t i = 0; i < out.parts(); ++i) factor_part(i, out.damping_ * mean / 2, failed.data());
    if (failed.to_host(stream)[0] == 0) break;
    out.damping_ = higgs::detail::raised_damping(out.damping_, mean, moment.cols(), out.cols_);
  }
  out.mean_cost_ = mean * (1 + out.damping_);
  return out;
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
