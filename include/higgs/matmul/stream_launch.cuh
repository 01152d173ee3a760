// SPDX-License-Identifier: Apache-2.0
// The streaming kernel in the list of kernels: with a launch before it that rotates x, or rotating x itself.
#pragma once

#include <higgs/codes/formats.cuh>
#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/matmul_task.cuh>
#include <higgs/matmul/stream_kernel.cuh>
#include <higgs/matmul/stream_task.cuh>
#include <higgs/pack/packed_layout.cuh>
#include <higgs/rotate/hadamard.cuh>

#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// Any number of rows of x, 64 at a time: a launch that rotates x unless the caller did, then the streaming
/// kernel. Needs 66 KiB of shared memory per block.
struct StreamKernel {
  template <class Task>
  static bool can(const Task& task, const Device& device);
  static std::size_t workspace(const MatmulSize& size, const Device& device);
  template <class Formats, class Archs, class X, class Y, class Gemm>
  static void launch(const MatmulTask<X, Y, Gemm>& task, std::byte* workspace, const Device& device,
                     cudaStream_t stream);
};

/// Up to 4 rows of x, rotated by the streaming kernel: one launch.
struct RotatingStreamKernel {
  template <class Task>
  static bool can(const Task& task, const Device& device);
  static std::size_t workspace(const MatmulSize& size, const Device& device);
  template <class Formats, class Archs, class X, class Y, class Gemm>
  static void launch(const MatmulTask<X, Y, Gemm>& task, std::byte* workspace, const Device& device,
                     cudaStream_t stream);
};

namespace detail {

/// The rows of x are cut into `count` batch tiles of up to `columns` (8, 16, 32 or 64) rows: the most that there
/// can be, for experts.
struct BatchTiles {
  std::int64_t columns, count;
  explicit BatchTiles(const MatmulSize& size) {
    const std::int64_t experts = std::max(size.expert_count, 1), each = ceil_div(size.batch, experts);
    columns = each <= 8 ? 8 : each <= 16 ? 16 : each <= 32 ? 32 : 64;
    count = size.expert_count == 0 ? ceil_div(size.batch, columns)
                                   : size.batch / columns + std::min(experts, size.batch);
  }
};

/// The parts of a workspace in bytes, in their order behind workspace_counters. Arrival counters that fit there
/// need no part.
struct StreamWorkspace {
  std::size_t arrivals, partial_sums, x, scratch;

  StreamWorkspace(const MatmulSize& size, const Device& device) {
    const PackedLayout& layout = size.w.layout;
    const BatchTiles tiles(size);
    arrivals = whole_part(4 * tiles.count * ceil_div(layout.warp_tile_rows(), size.plan.row_warps));
    if (arrivals <= workspace_counters) arrivals = 0;
    const StreamSplit split{static_cast<int>(ceil_div(layout.warp_tile_rows(), size.plan.row_warps)),
                            static_cast<int>(layout.warp_tile_cols()), static_cast<int>(size.plan.grid)};
    partial_sums =
        whole_part(4 * slot_begin(split, static_cast<int>(tiles.count), 0,
                                  static_cast<int>(tiles.columns * size.plan.row_warps * warp_tile)));
    x = whole_part(size.batch * layout.depth() * 2);
    scratch = whole_part(rotate_scratch(size.w.rotation, size.batch, device) * 4);
  }
  std::size_t bytes() const { return workspace_counters + arrivals + partial_sums + x + scratch; }
};

/// The parameters of the streaming kernel but for its activations, with its counters and partial sums.
template <class X, class Y, class Gemm>
StreamTask stream_task(const MatmulTask<X, Y, Gemm>& task, const StreamWorkspace& parts, std::byte* at,
                       cudaStream_t stream) {
  const PackedLayout& layout = task.w.layout;
  expects(task.batch <= std::numeric_limits<std::int32_t>::max() - 64, [&] {
    return higgs::detail::sentence("higgs::gpu::matmul_async: x has ", task.batch,
                                   " rows, but at most 2^31 - 65 are possible");
  });
  StreamTask out;
  out.w = task.w;
  out.experts = task.experts;
  out.batch = task.batch;
  out.y = {task.y.data, output_type<Y>, task.y.row_stride, task.epilogue.bias, task.epilogue.residual};
  out.arrivals = reinterpret_cast<std::uint32_t*>(parts.arrivals == 0 ? at : at + workspace_counters);
  if (parts.arrivals != 0)
    check(cudaMemsetAsync(out.arrivals, 0, parts.arrivals, stream), "higgs::gpu::matmul_async");
  out.partial_sums = reinterpret_cast<float*>(at + workspace_counters + parts.arrivals);
  out.output_scale = std::ldexp(1.0f, task.w.exponent);
  out.rotation_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(task.w.rotation.block)));
  out.row_warps = task.plan.row_warps;
  out.k_warps = stream_warps / task.plan.row_warps;
  out.cols = static_cast<int>(layout.warp_tile_cols());
  out.group_cols = static_cast<int>(layout.padded_group() / warp_tile);
  out.rows = static_cast<int>(layout.warp_tile_rows());
  out.row_blocks = static_cast<int>(ceil_div(layout.warp_tile_rows(), task.plan.row_warps));
  out.batch_tiles = static_cast<int>(BatchTiles(task).count);
  out.grid = static_cast<int>(task.plan.grid);
  return out;
}

/// Launches the instance for the format of w.
template <class Formats, class T, int ColumnTiles, class X = void>
void launch_stream(const StreamTask& task, cudaStream_t stream) {
  expects(std::int64_t{task.grid} * task.batch_tiles < std::int64_t{1} << 31,
          "higgs::gpu::matmul_async: too many blocks");
  const dim3 grid(static_cast<unsigned>(task.grid * task.batch_tiles));
  with_format("higgs::gpu::matmul_async", task.w.layout, Formats{}, [&]<class Format>(Format) {
    gpu::launch(stream_kernel<Format, T, ColumnTiles, X>, grid, stream_threads, stream_shared, stream, task);
  });
}

}  // namespace detail

template <class Task>
bool StreamKernel::can(const Task& task, const Device& device) {
  return device.shared_bytes >= detail::stream_shared && workspace(task, device) != 0;
}

inline std::size_t StreamKernel::workspace(const MatmulSize& size, const Device& device) {
  const bool dense = size.batch >= size.plan.dense_from && size.expert_count == 0 && !size.rotated;
  return dense ? 0 : detail::StreamWorkspace(size, device).bytes();
}

template <class Formats, class Archs, class X, class Y, class Gemm>
void StreamKernel::launch(const MatmulTask<X, Y, Gemm>& task, std::byte* workspace, const Device& device,
                          cudaStream_t stream) {
  using T = OperandOf<X>;
  const detail::StreamWorkspace parts(task, device);
  detail::StreamTask stream_task = detail::stream_task(task, parts, workspace, stream);
  stream_task.rotated_x = task.rotated_x.data;
  stream_task.x_stride = task.w.layout.depth();
  if (!task.rotated) {
    std::byte* const at = workspace + workspace_counters + parts.arrivals + parts.partial_sums;
    const DenseView<T> rotated(reinterpret_cast<T*>(at), task.batch, task.w.layout.depth());
    if (task.w.rotation.group != task.w.rotation.padded_group)
      check(cudaMemsetAsync(rotated.data, 0, parts.x, stream), "higgs::gpu::matmul_async");
    rotate_async<X, T, Archs>(task.w.rotation, task.x, rotated, device, stream,
                              reinterpret_cast<float*>(at + parts.x));
    stream_task.rotated_x = rotated.data;
  }
  switch (detail::BatchTiles(task).columns) {
    case 8:
      return detail::launch_stream<Formats, T, 1>(stream_task, stream);
    case 16:
      return detail::launch_stream<Formats, T, 2>(stream_task, stream);
    case 32:
      return detail::launch_stream<Formats, T, 4>(stream_task, stream);
    default:
      return detail::launch_stream<Formats, T, 8>(stream_task, stream);
  }
}

template <class Task>
bool RotatingStreamKernel::can(const Task& task, const Device& device) {
  const Rotation& r = task.w.rotation;
  return StreamKernel::can(task, device) && !task.rotated && task.expert_count == 0 &&
         task.batch <= std::min<std::int64_t>(task.plan.rotate_inside, detail::rotated_inside) &&
         r.cols % 8 == 0 && r.group == r.padded_group && r.block <= 1024 &&
         std::has_single_bit(static_cast<std::uint64_t>(r.block)) &&
         reinterpret_cast<std::uintptr_t>(task.x.data) % 16 == 0 &&
         task.x.row_stride * sizeof(*task.x.data) % 16 == 0;
}

inline std::size_t RotatingStreamKernel::workspace(const MatmulSize& size, const Device& device) {
  return StreamKernel::workspace(size,
                                 device);  // alignment, which decides between the two, is not known here
}

template <class Formats, class Archs, class X, class Y, class Gemm>
void RotatingStreamKernel::launch(const MatmulTask<X, Y, Gemm>& task, std::byte* workspace,
                                  const Device& device, cudaStream_t stream) {
  detail::StreamTask stream_task =
      detail::stream_task(task, detail::StreamWorkspace(task, device), workspace, stream);
  stream_task.x = task.x.data;
  stream_task.x_stride = task.x.row_stride;
  detail::launch_stream<Formats, OperandOf<X>, 1, X>(stream_task, stream);
}

static_assert(MatmulKernel<StreamKernel> && MatmulKernel<RotatingStreamKernel>);

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
