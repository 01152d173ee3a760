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
#include <numeric>
#include <type_traits>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// Any number of rows of x: for each few hundred of them a launch that rotates x unless the caller did, then the streaming
/// kernel, 64 rows a block. Needs 66 KiB of shared memory per block.
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

/// The rows of x are cut into `count` batch tiles of up to `columns` (8, 16, 32 or 64) rows.
struct BatchTiles {
  std::int64_t columns, count;
  explicit BatchTiles(const MatmulSize& size) {
    columns = size.batch <= 8 ? 8 : size.batch <= 16 ? 16 : size.batch <= 32 ? 32 : 64;
    count = ceil_div(size.batch, columns);
  }
};

/// How the row blocks of W are cut.
inline StreamSplit split_of(const MatmulSize& size) {
  const PackedLayout& layout = size.w.layout;
  return {static_cast<int>(ceil_div(layout.warp_tile_rows(), size.plan.row_warps)),
          static_cast<int>(layout.warp_tile_cols()), static_cast<int>(size.plan.grid)};
}

/// The largest number in [1, most] for which fits(number) holds, which holds for all smaller ones too; 1 if it holds for
/// none.
template <class Fits>
std::int64_t most_that_fit(std::int64_t most, const Fits& fits) {
  std::int64_t low = 1;
  while (low < most) {
    const std::int64_t middle = low + (most - low + 1) / 2;
    if (fits(middle))
      low = middle;
    else
      most = middle - 1;
  }
  return low;
}

/// The parts of a workspace in bytes, in their order behind workspace_counters, and the launches that they are for.
/// Arrival counters that fit there need no part.
///
/// A launch has `tiles` batch tiles and `parts` of the equal parts of W between whose blocks no row block is split: all
/// of them, or what plan.most_workspace has room for.
struct StreamWorkspace {
  std::size_t arrivals = 0, partial_sums = 0, x = 0, scratch = 0;
  std::int64_t tiles, parts;

  StreamWorkspace(const MatmulSize& size, const Device& device) {
    const std::int64_t all_tiles = BatchTiles(size).count;
    const StreamSplit split = split_of(size);
    const std::int64_t all_parts = std::gcd(split.grid, split.row_blocks);
    const auto limit = static_cast<std::size_t>(std::max<std::int64_t>(size.plan.most_workspace, 0));
    const auto fits = [&](std::int64_t some_tiles, std::int64_t some_parts) {
      set(size, device, some_tiles, some_parts);
      return bytes() <= limit;
    };
    if (fits(all_tiles, all_parts)) return;
    tiles = most_that_fit(all_tiles, [&](std::int64_t some) { return fits(some, all_parts); });
    parts = fits(tiles, all_parts)
                ? all_parts
                : most_that_fit(all_parts, [&](std::int64_t some) { return fits(1, some); });
    // All of the limit, so that a product of fewer rows never needs more.
    if (fits(tiles, parts)) partial_sums += (limit - bytes()) / 256 * 256;
  }
  std::size_t bytes() const { return workspace_counters + arrivals + partial_sums + x + scratch; }

 private:
  void set(const MatmulSize& size, const Device& device, std::int64_t some_tiles, std::int64_t some_parts) {
    const std::int64_t columns = BatchTiles(size).columns;
    StreamSplit split = split_of(size);
    const int all_parts = std::gcd(split.grid, split.row_blocks);
    tiles = some_tiles, parts = some_parts;
    split.grid = split.grid / all_parts * static_cast<int>(parts);
    split.row_blocks = split.row_blocks / all_parts * static_cast<int>(parts);
    const std::int64_t rows = std::min(size.batch, tiles * columns);
    arrivals = whole_part(4 * arrival_counter(split, tiles, 0));
    if (arrivals <= workspace_counters) arrivals = 0;
    partial_sums = whole_part(
        4 * slot_begin(split, tiles, 0, static_cast<int>(columns * size.plan.row_warps * warp_tile)));
    x = size.rotated ? 0 : whole_part(rows * size.w.layout.depth() * 2);
    scratch = size.rotated ? 0 : whole_part(rotate_scratch(size.w.rotation, rows, device) * 4);
  }
};

/// The product of rows [first, first + count) of x.
template <class X, class Y, class Gemm>
MatmulTask<X, Y, Gemm> rows_of(MatmulTask<X, Y, Gemm> task, std::int64_t first, std::int64_t count) {
  task.batch = task.y.rows = count;
  (task.rotated ? task.rotated_x.rows : task.x.rows) = count;
  if (task.rotated)
    task.rotated_x.data = task.rotated_x.row(first);
  else
    task.x.data = task.x.row(first);
  task.y.data = task.y.row(first);
  if (task.epilogue.residual != nullptr) task.epilogue.residual += first * task.y.row_stride;
  return task;
}

/// The product with parts [first, first + count) of W of those that StreamWorkspace counts.
template <class X, class Y, class Gemm>
MatmulTask<X, Y, Gemm> parts_of(MatmulTask<X, Y, Gemm> task, std::int64_t first, std::int64_t count) {
  const StreamSplit split = split_of(task);
  const std::int64_t all = std::gcd(split.grid, split.row_blocks),
                     row_warps = split.row_blocks / all * task.plan.row_warps;
  PackedLayout& layout = task.w.layout;
  const std::int64_t warp_row = first * row_warps, row = warp_row * warp_tile;
  task.w.codes += warp_row * layout.warp_tile_cols() * (layout.loads * 32 + layout.tail_units);
  task.w.scales += warp_row * layout.groups * warp_tile;
  layout.rows = std::min(layout.rows - row, count * row_warps * warp_tile);
  task.plan.grid = split.grid / all * count;
  const std::int64_t each = task.gated ? 2 : 1;  // rows of W for an output
  task.y.data += row / each;
  task.y.cols = layout.rows / each;
  if (task.epilogue.bias != nullptr) task.epilogue.bias += row;
  if (task.epilogue.residual != nullptr) task.epilogue.residual += row / each;
  return task;
}

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
  out.batch = task.batch;
  out.y = {task.y.data,        output_type<Y>,         task.y.row_stride,
           task.epilogue.bias, task.epilogue.residual, task.epilogue.gated};
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
  out.row_blocks = split_of(task).row_blocks;
  out.batch_tiles = static_cast<int>(BatchTiles(task).count);
  out.grid = static_cast<int>(task.plan.grid);
  return out;
}

/// What the plan asks for. Throws InvalidArgument where the device has no programmatic dependent launch. A launch directly
/// `behind_memset` never overlaps: LaunchOptions says why.
inline LaunchOptions launch_options(const MatmulPlan& plan, const Device& device,
                                    bool behind_memset = false) {
  expects(!plan.overlap_launches || device.architecture >= 90, [&] {
    return higgs::detail::sentence(
        "higgs::gpu::matmul_async: plan.overlap_launches needs sm_90 or later, but the device is sm_",
        device.architecture);
  });
  return {.overlaps_previous = plan.overlap_launches && !behind_memset};
}

/// Refuses a launch that overlaps the one in front of it if the kernel's code lacks the instruction that waits.
template <class Kernel>
void require_waiting_code(const LaunchOptions& options, Kernel kernel) {
  if (!options.overlaps_previous) return;
  const int architecture = compiled_for(kernel);
  expects(architecture >= 90, [&] {
    return higgs::detail::sentence(
        "higgs::gpu::matmul_async: plan.overlap_launches needs code for sm_90 or later, but this program has "
        "that of compute_",
        architecture, " for the device");
  });
}

/// Launches the instance for the format of w.
template <class Formats, class Archs, class T, int ColumnTiles, class X = void>
void launch_stream(const StreamTask& task, cudaStream_t stream, const LaunchOptions& options) {
  expects(std::int64_t{task.grid} * task.batch_tiles < std::int64_t{1} << 31,
          "higgs::gpu::matmul_async: too many blocks");
  const dim3 grid(static_cast<unsigned>(task.grid * task.batch_tiles));
  with_format("higgs::gpu::matmul_async", task.w.layout, Formats{}, [&]<class Format>(Format) {
    const auto kernel = stream_kernel<Format, T, ColumnTiles, X>;
    require_waiting_code(options, kernel);
    gpu::launch(options, kernel, grid, stream_threads, stream_shared, stream, task);
  });
}

/// Calls launch(task of the streaming kernel but for its activations) for each launch with these rows of x.
template <class X, class Y, class Gemm, class Launch>
void for_each_part(const MatmulTask<X, Y, Gemm>& task, const StreamWorkspace& space, std::byte* at,
                   cudaStream_t stream, const Launch& launch) {
  const StreamSplit split = split_of(task);
  const std::int64_t all = std::gcd(split.grid, split.row_blocks);
  for (std::int64_t first = 0; first < all; first += space.parts)
    launch(stream_task(parts_of(task, first, std::min(space.parts, all - first)), space, at, stream));
}

/// Rotates rows of x for which there is room, unless the caller did, and multiplies them.
template <class Formats, class Archs, class X, class Y, class Gemm>
void multiply_rows(const MatmulTask<X, Y, Gemm>& task, const StreamWorkspace& space, std::byte* workspace,
                   const Device& device, cudaStream_t stream) {
  using T = OperandOf<X>;
  const void* x = task.rotated_x.data;
  if (!task.rotated) {
    std::byte* const at = workspace + workspace_counters + space.arrivals + space.partial_sums;
    const DenseView<T> rotated(reinterpret_cast<T*>(at), task.batch, task.w.layout.depth());
    if (task.w.rotation.group != task.w.rotation.padded_group)
      check(cudaMemsetAsync(rotated.data, 0, space.x, stream), "higgs::gpu::matmul_async");
    rotate_async<X, T, Archs>(task.w.rotation, task.x, rotated, device, stream,
                              reinterpret_cast<float*>(at + space.x));
    x = rotated.data;
  }
  const LaunchOptions options = launch_options(task.plan, device, space.arrivals != 0);
  for_each_part(task, space, workspace, stream, [&](StreamTask part) {
    part.rotated_x = x;
    part.x_stride = task.w.layout.depth();
    switch (BatchTiles(task).columns) {
      case 8:
        return launch_stream<Formats, Archs, T, 1>(part, stream, options);
      case 16:
        return launch_stream<Formats, Archs, T, 2>(part, stream, options);
      case 32:
        return launch_stream<Formats, Archs, T, 4>(part, stream, options);
      default:
        return launch_stream<Formats, Archs, T, 8>(part, stream, options);
    }
  });
}

}  // namespace detail

template <class Task>
bool StreamKernel::can(const Task& task, const Device& device) {
  return device.shared_bytes >= detail::stream_shared && workspace(task, device) != 0;
}

inline std::size_t StreamKernel::workspace(const MatmulSize& size, const Device& device) {
  const bool dense = size.batch >= size.plan.dense_from && !size.rotated && !size.gated;
  return dense ? 0 : detail::StreamWorkspace(size, device).bytes();
}

template <class Formats, class Archs, class X, class Y, class Gemm>
void StreamKernel::launch(const MatmulTask<X, Y, Gemm>& task, std::byte* workspace, const Device& device,
                          cudaStream_t stream) {
  const detail::StreamWorkspace space(task, device);
  const std::int64_t rows = space.tiles * detail::BatchTiles(task).columns;
  for (std::int64_t first = 0; first < task.batch; first += rows)
    detail::multiply_rows<Formats, Archs>(detail::rows_of(task, first, std::min(rows, task.batch - first)),
                                          space, workspace, device, stream);
}

namespace detail {
/// Whether a warp can rotate 1024 inputs of x by itself (rotate_inputs).
template <class Task>
bool can_rotate_in_warps(const Task& task) {
  const Rotation& r = task.w.rotation;
  return !task.rotated && r.cols % 8 == 0 && r.group == r.padded_group && r.block <= 1024 &&
         std::has_single_bit(static_cast<std::uint64_t>(r.block)) &&
         reinterpret_cast<std::uintptr_t>(task.x.data) % 16 == 0 &&
         task.x.row_stride * sizeof(*task.x.data) % 16 == 0;
}
}  // namespace detail

template <class Task>
bool RotatingStreamKernel::can(const Task& task, const Device& device) {
  return StreamKernel::can(task, device) && detail::can_rotate_in_warps(task) &&
         task.batch <= std::min<std::int64_t>(task.plan.rotate_inside, detail::rotated_inside);
}

inline std::size_t RotatingStreamKernel::workspace(const MatmulSize& size, const Device& device) {
  return StreamKernel::workspace(size,
                                 device);  // alignment, which decides between the two, is not known here
}

template <class Formats, class Archs, class X, class Y, class Gemm>
void RotatingStreamKernel::launch(const MatmulTask<X, Y, Gemm>& task, std::byte* workspace,
                                  const Device& device, cudaStream_t stream) {
  const detail::StreamWorkspace space(task, device);
  const LaunchOptions options = detail::launch_options(task.plan, device, space.arrivals != 0);
  detail::for_each_part(task, space, workspace, stream, [&](detail::StreamTask part) {
    part.x = task.x.data;
    part.x_stride = task.x.row_stride;
    detail::launch_stream<Formats, Archs, OperandOf<X>, 1, X>(part, stream, options);
  });
}

static_assert(MatmulKernel<StreamKernel> && MatmulKernel<RotatingStreamKernel>);

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
