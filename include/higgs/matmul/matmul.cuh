// SPDX-License-Identifier: Apache-2.0
// y = x * W^T on the device from a matrix in tile order: any M, N, K >= 1, no allocation, no synchronization.
#pragma once

#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/decode.cuh>
#include <higgs/matmul/packed_matrix.cuh>
#include <higgs/matmul/stream_kernel.cuh>
#include <higgs/rotate/hadamard.cuh>

#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>
#include <utility>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// How the work on one matrix is cut.
struct MatmulPlan {
  int row_warps = 4;      // 64 rows each; 2 or 4
  std::int64_t grid = 1;  // blocks for up to 64 rows of x, each with an equal run of slabs
  std::int64_t dense_from = std::numeric_limits<std::int64_t>::max();  // rows of x that a caller's GEMM takes
  std::int64_t dense_rows = 1024;  // rows of W that are decoded for it at a time; a multiple of 64
  // Rows of x up to which the product's kernel rotates them, where it can; beyond, a launch before it does.
  // At most 4; 0: never. The bits are the same.
  std::int64_t rotate_inside = detail::rotated_inside;

  friend bool operator==(const MatmulPlan&, const MatmulPlan&) = default;
};

/// Who sees the same bits, which the order of sums decides. A product is deterministic under each.
enum class Reproducibility {
  PerDevice,      // a row of x, in whatever batch
  AcrossDevices,  // that, on every device, and a row of W in whatever shard of rows
  PerBatch        // only equal calls: fewer and longer runs where there are more than 64 rows of x
};

/// The plan for `w`: under PerDevice, a block for each multiprocessor unless there is less work; under
/// AcrossDevices, one for each 512 inputs of 256 rows. `batch` counts under PerBatch alone.
inline MatmulPlan plan_matmul(const PackedLayout& layout, const Device& device,
                              Reproducibility reproducibility = Reproducibility::PerDevice,
                              std::int64_t batch = 1) {
  MatmulPlan plan;
  if (reproducibility == Reproducibility::AcrossDevices) {
    plan.grid = ceil_div(layout.warp_tile_rows(), plan.row_warps) * ceil_div(layout.warp_tile_cols(), 8);
    return plan;
  }
  plan.row_warps = layout.warp_tile_rows() > 2 ? 4 : 2;
  const std::int64_t work = ceil_div(layout.warp_tile_rows(), plan.row_warps) * layout.warp_tile_cols();
  const std::int64_t tiles = reproducibility == Reproducibility::PerBatch ? ceil_div(batch, 64) : 1;
  const std::int64_t blocks =
      tiles == 1 ? device.multiprocessors : ceil_div(2 * device.multiprocessors, tiles);
  const std::int64_t least =
      2 * detail::stream_warps / plan.row_warps;  // slabs of a row block that are worth a block
  plan.grid = std::clamp<std::int64_t>(ceil_div(work, least), 1, blocks);
  return plan;
}

/// Stands for no GEMM: the fused kernels serve every batch. A GEMM is called as gemm(x, w, y, add, stream)
/// with DenseView<const T> x and w, DenseView<Y> y, all row-major, and gives y = x * w^T, plus y
/// if `add`. To cuBLAS a row-major matrix is a transposed one (see class Blas in bench/matmul/matmul_bench.cu).
struct NoGemm {};

namespace detail {

/// Rows of x that one block multiplies at a time: 8, 16, 32 or 64.
constexpr std::int64_t batch_tile(std::int64_t batch) noexcept {
  return batch <= 8 ? 8 : batch <= 16 ? 16 : batch <= 32 ? 32 : 64;
}

/// The parts of a workspace, each a multiple of 256 bytes. In front, where no call puts anything else, are the
/// counters that every call leaves as zeros; one that needs more clears its own.
struct MatmulWorkspace {
  static constexpr std::size_t counters = 4096;
  std::size_t arrivals = 0, sums = 0, x = 0, scratch = 0, dense = 0;  // bytes of each

  /// For `tiles` times `columns` rows of x that are `batch` in all.
  MatmulWorkspace(const PackedView& w, std::int64_t batch, std::int64_t columns, std::int64_t tiles,
                  const MatmulPlan& plan, const Device& device) {
    arrivals = whole(4 * tiles * ceil_div(w.layout.warp_tile_rows(), plan.row_warps));
    if (arrivals <= counters) arrivals = 0;
    sums = whole(tiles * plan.grid * 2 * columns * plan.row_warps * warp_tile * 4);
    x = whole(batch * w.layout.depth() * 2);
    scratch = whole(rotate_scratch(w.rotation, batch, device) * 4);
  }
  MatmulWorkspace(const PackedView& w, std::int64_t batch, const MatmulPlan& plan, const Device& device)
      : MatmulWorkspace(w, batch, batch_tile(batch), ceil_div(batch, batch_tile(batch)), plan, device) {
    if (batch < plan.dense_from) return;
    arrivals = sums = 0;
    x = whole(batch * w.rotation.padded_cols() * 2);
    dense = whole(std::min(plan.dense_rows, w.layout.rows) * w.rotation.padded_cols() * 2);
  }
  std::size_t size() const noexcept { return counters + arrivals + sums + x + scratch + dense; }
  /// Places the counters and sums of `task` in a workspace and returns what follows them.
  std::byte* place(MatmulTask& task, std::byte* at, cudaStream_t stream) const {
    task.arrivals = reinterpret_cast<std::uint32_t*>(arrivals == 0 ? at : at + counters);
    if (arrivals != 0) check(cudaMemsetAsync(task.arrivals, 0, arrivals, stream), "higgs::gpu::matmul_async");
    task.sums = reinterpret_cast<float*>(at + counters + arrivals);
    return at + counters + arrivals + sums;
  }

 private:
  static std::size_t whole(std::int64_t bytes) {
    return static_cast<std::size_t>(ceil_div(bytes, 256) * 256);
  }
};

template <class Formats, class T, int ColumnTiles, class X = void>
void launch_stream(MatmulTask task, const MatmulPlan& plan, std::int64_t tiles, cudaStream_t stream) {
  expects(plan.grid * tiles < std::int64_t{1} << 31, "higgs::gpu::matmul_async: too many blocks");
  task.batch_tiles = static_cast<int>(tiles);
  task.grid = static_cast<int>(plan.grid);
  const dim3 grid(static_cast<unsigned>(plan.grid * tiles));
  with_format("higgs::gpu::matmul_async", task.w.layout, Formats{}, [&]<class Format>(Format) {
    launch(stream_kernel<Format, T, ColumnTiles, X>, grid, stream_threads, stream_shared, stream, task);
  });
}

}  // namespace detail

/// Bytes of workspace for matmul_async with `batch` rows, enough for fewer on the same side of
/// plan.dense_from. It begins as zeros (DeviceBuffer::zeros); then any calls, on any matrices, may use it one
/// after the other.
inline std::size_t matmul_workspace(const PackedView& w, std::int64_t batch, const MatmulPlan& plan,
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

/// What every product on `w` has in common.
template <class X, class Y>
MatmulTask task_for(DenseView<const X> x, const PackedView& w, DenseView<Y> y, const MatmulPlan& plan,
                    const Epilogue<Y>& epilogue) {
  expects(x.rows <= std::numeric_limits<std::int32_t>::max() - 64, [&] {
    return higgs::detail::sentence("higgs::gpu::matmul_async: x has ", x.rows,
                                   " rows, but at most 2^31 - 65 go");
  });
  MatmulTask task;
  task.w = w;
  task.x = x.data;
  task.x_stride = x.row_stride;
  task.batch = x.rows;
  task.y = {y.data,
            std::is_same_v<Y, float>  ? OutputType::Float
            : std::is_same_v<Y, Half> ? OutputType::Half
                                      : OutputType::BFloat16,
            y.row_stride, epilogue.bias, epilogue.residual};
  task.unit = std::ldexp(1.0f, w.exponent);
  task.rotation_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(w.rotation.block)));
  task.row_warps = plan.row_warps;
  task.k_warps = stream_warps / plan.row_warps;
  task.slabs = static_cast<int>(w.layout.warp_tile_cols());
  task.group_slabs = static_cast<int>(w.layout.padded_group() / warp_tile);
  task.row_slabs = static_cast<int>(w.layout.warp_tile_rows());
  task.row_blocks = static_cast<int>(ceil_div(w.layout.warp_tile_rows(), plan.row_warps));
  return task;
}

/// `tiles` tiles of up to `columns` (8, 16, 32, 64) rows of x.
template <class Formats, class T>
void multiply_async(const MatmulTask& task, const MatmulPlan& plan, std::int64_t columns, std::int64_t tiles,
                    cudaStream_t stream) {
  switch (columns) {
    case 8:
      return launch_stream<Formats, T, 1>(task, plan, tiles, stream);
    case 16:
      return launch_stream<Formats, T, 2>(task, plan, tiles, stream);
    case 32:
      return launch_stream<Formats, T, 4>(task, plan, tiles, stream);
    default:
      return launch_stream<Formats, T, 8>(task, plan, tiles, stream);
  }
}

/// y = bias + residual, one thread for each element.
template <class Y>
__global__ void prepare_outputs_kernel(DenseView<Y> y, Epilogue<Y> epilogue) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x, m = i / y.cols, n = i % y.cols;
  if (m >= y.rows) return;
  float value = epilogue.bias != nullptr ? epilogue.bias[n] : 0.0f;
  if (epilogue.residual != nullptr) value += to_float(epilogue.residual[m * y.row_stride + n]);
  y.row(m)[n] = from_float<Y>(value);
}

/// The product by `gemm`, of W decoded plan.dense_rows rows at a time.
template <class Formats, class T, class X, class Y, class Archs, class Gemm>
void multiply_dense_async(DenseView<X> x, const PackedView& w, DenseView<Y> y, std::byte* at,
                          const MatmulWorkspace& parts, const MatmulPlan& plan, const Device& device,
                          cudaStream_t stream, const Epilogue<Y>& epilogue, const Gemm& gemm) {
  expects(plan.dense_rows > 0 && plan.dense_rows % warp_tile == 0,
          "higgs::gpu::matmul_async: dense_rows must be a multiple of 64");
  at += MatmulWorkspace::counters;
  Rotation rotation = w.rotation;
  rotation.group = rotation.padded_group = rotation.block;  // without gaps
  const std::int64_t depth = rotation.padded_cols();
  const DenseView<T> rotated(reinterpret_cast<T*>(at), x.rows, depth);
  rotate_async<std::remove_const_t<X>, T, Archs>(rotation, x, rotated, device, stream,
                                                 reinterpret_cast<float*>(at + parts.x));
  const bool bias = epilogue.bias != nullptr, residual = epilogue.residual != nullptr;
  if (bias || (residual && epilogue.residual != y.data))
    launch(prepare_outputs_kernel<Y>, dim3(static_cast<unsigned>(ceil_div(y.rows * y.cols, 256))), 256, 0,
           stream, y, epilogue);
  auto* decoded = reinterpret_cast<T*>(at + parts.x + parts.scratch);
  for (std::int64_t row = 0; row < y.cols; row += plan.dense_rows) {
    const DenseView<T> weights(decoded, std::min(plan.dense_rows, y.cols - row), depth);
    decode_rows_async<Formats, T, Archs>(w, row, weights, stream);
    gemm(DenseView<const T>(rotated), DenseView<const T>(weights),
         DenseView<Y>(y.data + row, y.rows, weights.rows, y.row_stride), bias || residual, stream);
  }
}

/// Whether stream_kernel can rotate these rows.
template <class X>
bool can_rotate_inside(const Rotation& r, const DenseView<X>& x) {
  return x.rows <= rotated_inside && r.cols % 8 == 0 && r.group == r.padded_group && r.block <= 1024 &&
         std::has_single_bit(static_cast<std::uint64_t>(r.block)) &&
         reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 && x.row_stride * sizeof(X) % 16 == 0;
}

inline void check_workspace(std::span<std::byte> workspace, const MatmulWorkspace& parts) {
  const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(workspace.data());
  expects(workspace.size() >= parts.size() && begin % 256 == 0, [&] {
    return higgs::detail::sentence("higgs::gpu::matmul_async: the workspace holds ", workspace.size(),
                                   " bytes and begins ", begin % 256,
                                   " after a multiple of 256, but must hold ", parts.size(),
                                   " (see matmul_workspace) from such a multiple on");
  });
}

inline void expect_shared_memory(const char* function, const Device& device) {
  expects(can_matmul(device), [&] {
    return higgs::detail::sentence(function, ": a block of the device may have ", device.shared_bytes,
                                   " bytes of shared memory, but the kernel needs ", stream_shared);
  });
}

}  // namespace detail

/// y = x * W^T: x (M, cols) and y (M, rows) of float or a 16-bit float (see ScalarOf). x is rotated to fp16
/// (bf16 if x is), products with the integer coordinates are exact, sums are float. Once they are rotated,
/// inputs beyond fp16's 65504 are infinite, as NaN and infinity are: their row of y is NaN or infinite. bf16
/// has the range of floats. Deterministic; `workspace` (see matmul_workspace) must not be in use by another
/// call at the same time, and begin at a multiple of 256. From plan.dense_from rows on W is decoded, rounded
/// to x's type, for `gemm` (see NoGemm), which must be as deterministic; bias plus residual is rounded to Y
/// then.
template <class Formats = AnyFormat, class X, class Y, class Archs = BuiltFor, class Gemm = NoGemm>
void matmul_async(DenseView<X> x, const PackedView& w, DenseView<Y> y, std::span<std::byte> workspace,
                  const MatmulPlan& plan, const Device& device, cudaStream_t stream,
                  const Epilogue<Y>& epilogue = {}, const Gemm& gemm = {}) {
  using In = std::remove_const_t<X>;
  using T = std::conditional_t<std::is_same_v<In, BFloat16>, BFloat16, Half>;
  higgs::detail::expect_product("higgs::gpu::matmul_async", x, w.layout.rows, w.rotation.cols, y);
  detail::expect_shared_memory("higgs::gpu::matmul_async", device);
  if (x.rows == 0 || y.cols == 0) return;
  const detail::MatmulWorkspace parts(w, x.rows, plan, device);
  detail::check_workspace(workspace, parts);
  std::byte* at = workspace.data();
  if (x.rows >= plan.dense_from) {
    if constexpr (!std::is_same_v<Gemm, NoGemm>)
      return detail::multiply_dense_async<Formats, T, X, Y, Archs>(x, w, y, at, parts, plan, device, stream,
                                                                   epilogue, gemm);
    throw InvalidArgument("higgs::gpu::matmul_async: so many rows of x need a gemm (see dense_from)");
  }
  detail::MatmulTask task = detail::task_for<In>(x, w, y, plan, epilogue);
  at = parts.place(task, at, stream);
  if (x.rows <= plan.rotate_inside && detail::can_rotate_inside(w.rotation, x))
    return detail::launch_stream<Formats, T, 1, In>(task, plan, 1, stream);
  const DenseView<T> rotated(reinterpret_cast<T*>(at), x.rows, w.layout.depth());
  if (w.rotation.group != w.rotation.padded_group)
    check(cudaMemsetAsync(rotated.data, 0, parts.x, stream), "higgs::gpu::matmul_async");
  rotate_async<In, T, Archs>(w.rotation, x, rotated, device, stream, reinterpret_cast<float*>(at + parts.x));
  task.x = rotated.data;
  task.x_stride = rotated.row_stride;
  const std::int64_t columns = detail::batch_tile(x.rows);
  detail::multiply_async<Formats, T>(task, plan, columns, ceil_div(x.rows, columns), stream);
}

/// The same for types that have the bits of a Scalar: __half, __nv_bfloat16.
template <class Formats = AnyFormat, class X, class Y, class Archs = BuiltFor, class Gemm = NoGemm>
  requires(!higgs::detail::is_scalar<X> || !higgs::detail::is_scalar<Y>)
void matmul_async(DenseView<X> x, const PackedView& w, DenseView<Y> y, std::span<std::byte> workspace,
                  const MatmulPlan& plan, const Device& device, cudaStream_t stream,
                  const Epilogue<Y>& epilogue = {}, const Gemm& gemm = {}) {
  const auto in = higgs::detail::as_scalars(x);
  const auto out = higgs::detail::as_scalars(y);
  using In = std::remove_pointer_t<decltype(in.data)>;
  using Out = std::remove_pointer_t<decltype(out.data)>;
  const Epilogue<Out> added{epilogue.bias, reinterpret_cast<const Out*>(epilogue.residual)};
  matmul_async<Formats, In, Out, Archs>(in, w, out, workspace, plan, device, stream, added, gemm);
}

/// The same for activations that the caller has rotated, say in the kernel that made them (hadamard_warp): x
/// (M, depth) without gaps between rows, from a multiple of 16 bytes, in padded groups with zeros between
/// them (see Rotation). Never dense.
template <class Formats = AnyFormat, class T, class Y, class Archs = BuiltFor>
void matmul_rotated_async(DenseView<const T> x, const PackedView& w, DenseView<Y> y,
                          std::span<std::byte> workspace, const MatmulPlan& plan, const Device& device,
                          cudaStream_t stream, const Epilogue<Y>& epilogue = {}) {
  higgs::detail::expect_product("higgs::gpu::matmul_rotated_async", x, w.layout.rows, w.layout.depth(), y);
  expects(x.row_stride == x.cols, [&] {
    return higgs::detail::sentence("higgs::gpu::matmul_rotated_async: rows of x are ", x.row_stride,
                                   " elements apart, but must follow each other without gaps of ", x.cols);
  });
  detail::expect_shared_memory("higgs::gpu::matmul_rotated_async", device);
  if (x.rows == 0 || y.cols == 0) return;
  const std::int64_t columns = detail::batch_tile(x.rows), tiles = ceil_div(x.rows, columns);
  const detail::MatmulWorkspace parts(w, x.rows, columns, tiles, plan, device);
  detail::check_workspace(workspace, parts);
  detail::MatmulTask task = detail::task_for(x, w, y, plan, epilogue);
  parts.place(task, workspace.data(), stream);
  detail::multiply_async<Formats, T>(task, plan, columns, tiles, stream);
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
