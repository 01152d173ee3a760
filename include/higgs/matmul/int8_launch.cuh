// SPDX-License-Identifier: Apache-2.0
// The int8 kernel in the list of kernels: launches before it that rotate x and make int8 of it, or rotating x itself.
#pragma once

#include <higgs/codes/formats.cuh>
#include <higgs/codes/grid/fragments.cuh>
#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/int8_activations.cuh>
#include <higgs/matmul/int8_kernel.cuh>
#include <higgs/matmul/matmul_task.cuh>
#include <higgs/matmul/stream_launch.cuh>
#include <higgs/pack/fragment_decoder.cuh>
#include <higgs/pack/packed_layout.cuh>
#include <higgs/rotate/hadamard.cuh>

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// Where plan.int8_planes says so, for matrices of TableFormat<2> with int8 coordinates: up to 32 rows of x in one plane, up
/// to 16 in two. One launch for up to plan.rotate_inside rows where a warp can rotate 1024 inputs, else a launch before
/// that rotates and makes int8, or two. Rows that the caller has rotated become int8 from their 16-bit numbers, so that
/// their products have other bits than those of rows that are rotated here. Needs 66 KiB of shared memory per block.
///
/// Why not for other formats: at 3 and 4 bits a byte names two weights, so that a lookup of 32 bits would bring two int8
/// weights where it brings two 16-bit ones, and joining them takes more instructions. Decoding E8 and window codes is bound
/// by instructions.
struct Int8Kernel {
  template <class Task>
  static bool can(const Task& task, const Device& device);
  /// Not 0 for more rows of x than it serves, so that their workspace is enough for fewer, too.
  static std::size_t workspace(const MatmulSize& size, const Device& device);
  template <class Formats, class Archs, class X, class Y, class Gemm>
  static void launch(const MatmulTask<X, Y, Gemm>& task, std::byte* workspace, const Device& device,
                     cudaStream_t stream);  ///< as MatmulKernel says
};

namespace detail {

/// Whether plan and matrix ask for int8.
inline bool wants_int8(const MatmulSize& size) {
  return size.plan.int8_planes != 0 && size.w.layout.format == TableFormat<2>::format && size.w.int8_table;
}
/// Rows of x that the kernel serves.
inline std::int64_t most_int8_rows(const MatmulPlan& plan) { return 32 / std::max(plan.int8_planes, 1); }

/// The parts of a workspace in bytes: those of the streaming kernel, then int8 rows with their scales, x rotated to float,
/// and the scratch of the rotation.
struct Int8Workspace {
  std::int64_t columns;
  std::size_t bytes, scales, rotated, scratch;
  StreamWorkspace stream;

  Int8Workspace(const MatmulSize& size, const Device& device)
      : columns(BatchTiles(columns_of(size)).columns),
        bytes(whole_part(size.w.layout.depth() * columns)),
        scales(whole_part(ceil_div(size.w.layout.depth(), segment_inputs) * columns * 4)),
        rotated(size.rotated ? 0 : whole_part(size.batch * size.w.layout.depth() * 4)),
        scratch(size.rotated ? 0 : whole_part(rotate_scratch(size.w.rotation, size.batch, device) * 4)),
        stream(columns_of(size, activations()), device) {}
  std::size_t all() const { return stream.bytes() + activations(); }
  std::size_t activations() const { return bytes + scales + rotated + scratch; }

 private:
  /// The product of the streaming kernel that needs as much for sums, beside `others` bytes of the plan's limit.
  static MatmulSize columns_of(MatmulSize size, std::size_t others = 0) {
    size.batch *= size.plan.int8_planes;
    size.rotated = true;
    size.plan.most_workspace -= static_cast<std::int64_t>(others);
    return size;
  }
};

/// Launches that make int8 of x, at `at` in the workspace.
template <class Archs, class X, class Y, class Gemm>
void make_int8_rows(const MatmulTask<X, Y, Gemm>& task, const Int8Workspace& space, const Int8Rows& rows,
                    std::byte* at, const Device& device, cudaStream_t stream) {
  const Rotation& rotation = task.w.rotation;
  const auto grid =
      static_cast<unsigned>(ceil_div(task.batch * rows.segments(), std::int64_t{int8_threads / 32}));
  if (can_rotate_in_warps(task))
    return launch(rotate_to_int8_kernel<X>, dim3(grid), int8_threads, 0, stream, rotation, task.x,
                  static_cast<float>(1.0 / std::sqrt(static_cast<double>(rotation.block))), rows);
  const auto convert = [&]<class T>(DenseView<const T> rotated) {
    launch(rotated_to_int8_kernel<T>, dim3(grid), int8_threads, 0, stream, rotated, rows);
  };
  if (task.rotated) return convert(task.rotated_x);
  const DenseView<float> rotated(reinterpret_cast<float*>(at), task.batch, task.w.layout.depth());
  if (rotation.group != rotation.padded_group)
    check(cudaMemsetAsync(rotated.data, 0, space.rotated, stream), "higgs::gpu::matmul_async");
  rotate_async<X, float, Archs>(rotation, task.x, rotated, device, stream,
                                reinterpret_cast<float*>(at + space.rotated));
  convert(DenseView<const float>(rotated.data, rotated.rows, rotated.cols));
}

/// Launches the instance for these columns; X as in Int8Config.
template <class Format, class Archs, int ColumnTiles, class X = void>
void launch_int8(const Int8Task& task, cudaStream_t stream, const LaunchOptions& options) {
  const auto kernel = int8_kernel<Format, ColumnTiles, X>;
  require_waiting_code(options, kernel);
  gpu::launch(options, kernel, dim3(static_cast<unsigned>(task.grid)), stream_threads, int8_shared, stream,
              task);
}

/// The product of one format.
template <class Format, class Archs, class X, class Y, class Gemm>
void multiply_int8(const MatmulTask<X, Y, Gemm>& task, std::byte* workspace, const Device& device,
                   cudaStream_t stream) {
  const Int8Workspace space(task, device);
  std::byte* const at = workspace + space.stream.bytes();
  const Int8Rows rows{reinterpret_cast<std::uint8_t*>(at), reinterpret_cast<float*>(at + space.bytes),
                      static_cast<int>(space.columns), task.plan.int8_planes,
                      static_cast<int>(task.w.layout.warp_tile_cols())};
  const bool inside = can_rotate_in_warps(task) &&
                      task.batch <= std::min<std::int64_t>(task.plan.rotate_inside, rotated_inside);
  if (!inside) make_int8_rows<Archs>(task, space, rows, at + space.bytes + space.scales, device, stream);
  const LaunchOptions options = launch_options(task.plan, device, space.stream.arrivals != 0);
  for_each_part(task, space.stream, workspace, stream, [&](const StreamTask& part) {
    Int8Task out{part, rows};
    out.x = inside ? task.x.data : nullptr;
    out.x_stride = task.x.row_stride;
    if (inside) return launch_int8<Format, Archs, 1, X>(out, stream, options);
    if (space.columns == 8) return launch_int8<Format, Archs, 1>(out, stream, options);
    if (space.columns == 16) return launch_int8<Format, Archs, 2>(out, stream, options);
    launch_int8<Format, Archs, 4>(out, stream, options);
  });
}

}  // namespace detail

template <class Task>
bool Int8Kernel::can(const Task& task, const Device& device) {
  return detail::wants_int8(task) && task.batch <= detail::most_int8_rows(task.plan) &&
         device.shared_bytes >= detail::int8_shared &&
         (task.rotated || task.gated || task.batch < task.plan.dense_from);
}

inline std::size_t Int8Kernel::workspace(const MatmulSize& size, const Device& device) {
  if (!detail::wants_int8(size)) return 0;
  MatmulSize most = size;
  most.batch = std::min(size.batch, detail::most_int8_rows(size.plan));
  return detail::Int8Workspace(most, device).all();
}

template <class Formats, class Archs, class X, class Y, class Gemm>
void Int8Kernel::launch(const MatmulTask<X, Y, Gemm>& task, std::byte* workspace, const Device& device,
                        cudaStream_t stream) {
  with_format("higgs::gpu::matmul_async", task.w.layout, Formats{}, [&]<class Format>(Format) {
    if constexpr (Int8Decoder<Format>) detail::multiply_int8<Format, Archs>(task, workspace, device, stream);
  });
}

static_assert(MatmulKernel<Int8Kernel>);

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
