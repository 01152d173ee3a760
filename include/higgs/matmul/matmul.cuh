// SPDX-License-Identifier: Apache-2.0
// y = x * W^T on the device from a matrix in tile order: any M, N, K >= 1, no allocation, no synchronization.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/device_matrix.cuh>
#include <higgs/matmul/stream_kernel.cuh>
#include <higgs/rotate/hadamard.cuh>

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// The bits of a weight that a call to matmul_async compiles kernels for: all, unless the caller names fewer.
template <int... Bits>
using MatmulBits = std::integer_sequence<int, Bits...>;
using AnyBits = MatmulBits<2, 3, 4, 8>;

/// How the work on one matrix is cut. It never depends on M: a row of y has the same bits in every batch.
struct MatmulPlan {
  int row_warps = 4;      // 64 rows each; 2 or 4
  std::int64_t grid = 1;  // blocks, each with an equal run of slabs

  friend bool operator==(const MatmulPlan&, const MatmulPlan&) = default;
};

/// The order of sums: the best for one device, or one that no device changes.
enum class Sums { FixedPerDevice, FixedEverywhere };

/// The plan for `w`: a block for each multiprocessor (for 128 of them under FixedEverywhere), unless there is
/// less work.
inline MatmulPlan plan_matmul(const TileOrder& order, const Device& device,
                              Sums sums = Sums::FixedPerDevice) {
  MatmulPlan plan;
  plan.row_warps = order.row_slabs() > 2 ? 4 : 2;
  const std::int64_t work = ceil_div(order.row_slabs(), plan.row_warps) * order.slabs();
  const std::int64_t blocks = sums == Sums::FixedEverywhere ? 128 : device.multiprocessors;
  const std::int64_t least =
      2 * detail::stream_warps / plan.row_warps;  // slabs of a row block that are worth a block
  plan.grid = std::clamp<std::int64_t>(ceil_div(work, least), 1, blocks);
  return plan;
}

namespace detail {

/// Rows of x that one block multiplies at a time: 8, 16, 32 or 64.
constexpr std::int64_t batch_tile(std::int64_t batch) noexcept {
  return batch <= 8 ? 8 : batch <= 16 ? 16 : batch <= 32 ? 32 : 64;
}

/// The parts of a workspace, each a multiple of 256 bytes.
struct MatmulWorkspace {
  std::size_t arrivals = 0, sums = 0, x = 0, scratch = 0;  // bytes of each

  MatmulWorkspace(const TiledMatrix& w, std::int64_t batch, const MatmulPlan& plan, const Device& device) {
    const auto whole = [](std::int64_t bytes) {
      return static_cast<std::size_t>(ceil_div(bytes, 256) * 256);
    };
    const std::int64_t columns = batch_tile(batch), tiles = ceil_div(batch, columns);
    arrivals = whole(4 * tiles * ceil_div(w.order.row_slabs(), plan.row_warps));
    sums = whole(tiles * plan.grid * 2 * columns * plan.row_warps * slab * 4);
    x = whole(batch * w.order.depth() * 2);
    scratch = whole(rotate_scratch(w.rotation, batch, device) * 4);
  }
  std::size_t size() const noexcept { return arrivals + sums + x + scratch; }
};

template <class T, int ColumnTiles, int... Bits>
void launch_stream(const MatmulTask& task, const MatmulPlan& plan, cudaStream_t stream,
                   std::integer_sequence<int, Bits...>) {
  const dim3 grid(static_cast<unsigned>(plan.grid),
                  static_cast<unsigned>(ceil_div(task.batch, 8 * ColumnTiles)));
  const auto go = [&](auto kernel) {
    launch(kernel, grid, stream_threads, stream_shared, stream, task);
    return true;
  };
  const bool known = ((task.w.order.bits == Bits && go(stream_kernel<Bits, T, ColumnTiles>)) || ...);
  expects(known, "higgs::gpu::matmul_async: no kernel was compiled for the bits of w (see MatmulBits)");
}

}  // namespace detail

/// Bytes of workspace for matmul_async with up to `batch` rows. Its contents need no preparation.
inline std::size_t matmul_workspace(const TiledMatrix& w, std::int64_t batch, const MatmulPlan& plan,
                                    const Device& device) {
  return detail::MatmulWorkspace(w, batch, plan, device).size();
}

/// Whether matmul_async runs on this device: it needs 66 KiB of shared memory in a block.
inline bool can_matmul(const Device& device) noexcept { return device.shared_bytes >= detail::stream_shared; }

/// What may be added to a product on its way out.
template <class Y>
struct Epilogue {
  const float* bias = nullptr;  // (N)
  const Y* residual = nullptr;  // (M, N), rows as far apart as y's; may be y itself
};

namespace detail {

template <class Bits, class T, class Y>
void multiply_async(const T* x, std::int64_t batch, const TiledMatrix& w, DeviceMatrixView<Y> y,
                    const MatmulPlan& plan, std::uint32_t* arrivals, float* sums, cudaStream_t stream,
                    const Epilogue<Y>& epilogue) {
  MatmulTask task;
  task.w = w;
  task.x = x;
  task.x_stride = w.order.depth();
  task.batch = batch;
  task.y = {y.data,
            std::is_same_v<Y, float>  ? OutputType::Float
            : std::is_same_v<Y, Half> ? OutputType::Half
                                      : OutputType::BFloat16,
            y.row_stride, epilogue.bias, epilogue.residual};
  task.arrivals = arrivals;
  task.sums = sums;
  task.row_warps = plan.row_warps;
  task.unit = std::ldexp(1.0f, w.exponent);
  switch (batch_tile(batch)) {
    case 8:
      return launch_stream<T, 1>(task, plan, stream, Bits{});
    case 16:
      return launch_stream<T, 2>(task, plan, stream, Bits{});
    case 32:
      return launch_stream<T, 4>(task, plan, stream, Bits{});
    default:
      return launch_stream<T, 8>(task, plan, stream, Bits{});
  }
}

inline void check_workspace(std::span<std::byte> workspace, const MatmulWorkspace& parts) {
  expects(workspace.size() >= parts.size() && reinterpret_cast<std::uintptr_t>(workspace.data()) % 256 == 0,
          "higgs::gpu::matmul_async: workspace must hold matmul_workspace() bytes from a multiple of 256");
}

}  // namespace detail

/// y = x * W^T: x (M, cols) and y (M, rows) of float, Half or BFloat16. x is rotated to fp16 (bf16 if x is),
/// products with the integer coordinates are exact, sums are float. Deterministic; `workspace` must not be in
/// use by another call at the same time, and begin at a multiple of 256.
template <class Bits = AnyBits, class X, class Y, class Archs = BuiltFor>
void matmul_async(DeviceMatrixView<X> x, const TiledMatrix& w, DeviceMatrixView<Y> y,
                  std::span<std::byte> workspace, const MatmulPlan& plan, const Device& device,
                  cudaStream_t stream, const Epilogue<Y>& epilogue = {}) {
  using In = std::remove_const_t<X>;
  using T = std::conditional_t<std::is_same_v<In, BFloat16>, BFloat16, Half>;
  expects(x.cols == w.rotation.cols && y.rows == x.rows && y.cols == w.order.rows,
          "higgs::gpu::matmul_async: x must be (M, cols) and y (M, rows) of w");
  expects(can_matmul(device), "higgs::gpu::matmul_async: the device lacks shared memory (see can_matmul)");
  if (x.rows == 0 || y.cols == 0) return;
  const detail::MatmulWorkspace parts(w, x.rows, plan, device);
  detail::check_workspace(workspace, parts);
  std::byte* at = workspace.data();
  auto* arrivals = reinterpret_cast<std::uint32_t*>(at);
  auto* sums = reinterpret_cast<float*>(at += parts.arrivals);
  auto* rotated = reinterpret_cast<T*>(at += parts.sums);
  auto* scratch = reinterpret_cast<float*>(at += parts.x);
  if (w.rotation.group != w.rotation.padded_group)
    check(cudaMemsetAsync(rotated, 0, parts.x, stream), "higgs::gpu::matmul_async");
  rotate_async<In, T, Archs>(w.rotation, x, DeviceMatrixView<T>(rotated, x.rows, w.order.depth()), device,
                             stream, scratch, std::span(arrivals, parts.arrivals / 4));
  detail::multiply_async<Bits>(rotated, x.rows, w, y, plan, arrivals, sums, stream, epilogue);
}

/// The same for activations that the caller has rotated, say in the kernel that made them (hadamard_warp): x
/// (M, depth) without gaps between rows, from a multiple of 16 bytes, in padded groups with zeros between
/// them (see Rotation).
template <class Bits = AnyBits, class T, class Y, class Archs = BuiltFor>
void matmul_rotated_async(DeviceMatrixView<const T> x, const TiledMatrix& w, DeviceMatrixView<Y> y,
                          std::span<std::byte> workspace, const MatmulPlan& plan, const Device& device,
                          cudaStream_t stream, const Epilogue<Y>& epilogue = {}) {
  expects(x.cols == w.order.depth() && x.row_stride == x.cols && y.rows == x.rows && y.cols == w.order.rows,
          "higgs::gpu::matmul_rotated_async: x must be (M, depth) and y (M, rows) of w");
  expects(can_matmul(device),
          "higgs::gpu::matmul_rotated_async: the device lacks shared memory (see can_matmul)");
  if (x.rows == 0 || y.cols == 0) return;
  const detail::MatmulWorkspace parts(w, x.rows, plan, device);
  detail::check_workspace(workspace, parts);
  check(cudaMemsetAsync(workspace.data(), 0, parts.arrivals, stream), "higgs::gpu::matmul_rotated_async");
  detail::multiply_async<Bits>(x.data, x.rows, w, y, plan, reinterpret_cast<std::uint32_t*>(workspace.data()),
                               reinterpret_cast<float*>(workspace.data() + parts.arrivals), stream, epilogue);
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
