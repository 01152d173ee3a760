// SPDX-License-Identifier: Apache-2.0
// The warpgroup kernel in the list of kernels: launches that rotate and arrange x before it.
#pragma once

#include <higgs/codes/formats.cuh>
#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/matmul_task.cuh>
#include <higgs/matmul/stream_launch.cuh>
#include <higgs/matmul/wgmma_kernel.cuh>
#include <higgs/pack/packed_layout.cuh>
#include <higgs/rotate/hadamard.cuh>

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// From plan.wgmma_from rows of x on, on a device of compute capability 9.0: launches that rotate x (unless the caller
/// did) and arrange it, then warpgroup products, for as many rows at a time as plan.most_workspace has room for. A
/// program compiled without sm_90a (say for sm_90) has the streaming kernel multiply instead. Needs 225 KiB of shared
/// memory per block.
struct WgmmaKernel {
  template <class Task>
  static bool can(const Task& task, const Device& device);
  static std::size_t workspace(const MatmulSize& size, const Device& device);
  template <class Formats, class Archs, class X, class Y, class Gemm>
  static void launch(const MatmulTask<X, Y, Gemm>& task, std::byte* workspace, const Device& device,
                     cudaStream_t stream);
};

namespace detail {

inline bool wants_wgmma(const MatmulSize& size, const Device& device) {
  return device.architecture == 90 && device.shared_bytes >= WgmmaShape<1>::end &&
         size.batch >= size.plan.wgmma_from &&
         (size.rotated || size.gated || size.batch < size.plan.dense_from);
}

/// How the rows of x, W and its inputs are cut, so that the workspace is within plan.most_workspace.
struct WgmmaSplit {
  int row_tiles;                         // see WgmmaShape
  std::int64_t columns, group_rows;      // rows of a batch tile, of a warpgroup
  std::int64_t batch_tiles, row_blocks;  // tiles and blocks of a launch
  std::int64_t most_tiles;               // batch tiles that the workspace has room for
  std::int64_t most_units;               // blocks whose sums the workspace has room for
  int splits;                            // parts of the inputs

  WgmmaSplit(const MatmulSize& size, const Device& device) {
    const PackedLayout& layout = size.w.layout;
    const std::int64_t limit = size.plan.most_workspace, for_sums = limit / 16 * 9, for_x = limit - for_sums;
    const auto fits = [&](std::int64_t tiles) { return x_bytes(size, tiles * columns, device) <= for_x; };
    row_tiles = size.batch <= 128 ? 2 : 1;
    columns = 256 / row_tiles;
    if (!fits(1)) row_tiles = 2, columns = 128;
    group_rows = 64 * row_tiles;
    const std::int64_t all_tiles = ceil_div(size.batch, columns);
    most_tiles = most_that_fit(all_tiles, fits);
    row_blocks = ceil_div(layout.rows, wgmma_groups * group_rows);
    const std::int64_t cols = layout.warp_tile_cols(), most_splits = std::min<std::int64_t>(16, cols / 4);
    // Not fewer for fewer rows of x, so that their workspace is not larger.
    most_units = std::min({2 * std::int64_t{device.multiprocessors}, for_sums / unit_bytes,
                           ceil_div(layout.rows, 128) * ceil_div(size.batch, 256) * most_splits});
    if (most_splits < 2) most_units = 0;
    // Some launches of equal size may end before fewer.
    const std::int64_t least = ceil_div(all_tiles, most_tiles);
    std::int64_t best = std::numeric_limits<std::int64_t>::max();
    for (std::int64_t launches = least; launches < least + 4; ++launches) {
      const std::int64_t tiles = ceil_div(all_tiles, launches), rest = all_tiles % tiles;
      const int parts = best_splits(row_blocks * tiles, cols, device.multiprocessors, most_splits);
      const auto each = [&](std::int64_t some) {
        return cost(row_blocks * some, parts, cols, device.multiprocessors);
      };
      const std::int64_t all = all_tiles / tiles * each(tiles) + (rest > 0 ? each(rest) : 0);
      if (all < best) best = all, batch_tiles = tiles, splits = parts;
    }
  }

  std::int64_t rows_at_once() const { return batch_tiles * columns; }
  /// Bytes for `rows` rows of x: rotated, unless the caller did that, and arranged; and the scratch of the rotation.
  static std::int64_t x_bytes(const MatmulSize& size, std::int64_t rows, const Device& device) {
    const std::int64_t one = static_cast<std::int64_t>(whole_part(rows * size.w.layout.depth() * 2));
    if (size.rotated) return one + static_cast<std::int64_t>(workspace_counters);
    return 2 * one + static_cast<std::int64_t>(workspace_counters + scratch_bytes(size, rows, device));
  }
  static std::size_t scratch_bytes(const MatmulSize& size, std::int64_t rows, const Device& device) {
    return size.rotated ? 0 : whole_part(rotate_scratch(size.w.rotation, rows, device) * 4);
  }
  /// Sums of a block: wgmma_groups * columns * group_rows numbers.
  static constexpr std::int64_t unit_bytes = std::int64_t{wgmma_groups} * 256 * 64 * 4;

  /// How long a launch takes, counted in warp tiles: each turn of the multiprocessors has a start and an end. Where inputs
  /// are split, sums go to memory, and the last block reads those of all splits: 64 bytes a clock, two warp tiles each.
  static std::int64_t cost(std::int64_t units, std::int64_t splits, std::int64_t cols,
                           std::int64_t multiprocessors) {
    constexpr std::int64_t launches = 10, ends = 4, sums = 2;
    return launches + ceil_div(units * splits, multiprocessors) * (ceil_div(cols, splits) + ends) +
           (splits > 1 ? sums * (splits + 1) : 0);
  }
  /// The number of splits that ends first.
  int best_splits(std::int64_t units, std::int64_t cols, std::int64_t multiprocessors,
                  std::int64_t most_splits) const {
    std::int64_t best = 1;
    for (std::int64_t s = 2; s <= most_splits && units * s <= most_units; ++s)
      if (cost(units, s, cols, multiprocessors) < cost(units, best, cols, multiprocessors)) best = s;
    return static_cast<int>(best);
  }
};

/// The parts of a workspace in bytes, in their order behind workspace_counters, which has room for the counters of split
/// blocks.
struct WgmmaWorkspace {
  std::size_t partial_sums, arranged, rotated, scratch;

  WgmmaWorkspace(const MatmulSize& size, const WgmmaSplit& split, const Device& device)
      : partial_sums(whole_part(split.most_units * WgmmaSplit::unit_bytes)),
        arranged(whole_part(split.most_tiles * split.columns * size.w.layout.depth() * 2)),
        rotated(size.rotated ? 0 : arranged),
        scratch(WgmmaSplit::scratch_bytes(size, split.most_tiles * split.columns, device)) {}
  std::size_t bytes() const { return workspace_counters + partial_sums + arranged + rotated + scratch; }
};

/// The parameters of the kernel but for its rows of x.
template <class X, class Y, class Gemm>
WgmmaTask wgmma_task(const MatmulTask<X, Y, Gemm>& task, const WgmmaSplit& split, const WgmmaWorkspace& parts,
                     std::byte* at) {
  const PackedLayout& layout = task.w.layout;
  WgmmaTask out;
  out.w = task.w;
  out.y = {task.y.data,        output_type<Y>,         task.y.row_stride,
           task.epilogue.bias, task.epilogue.residual, task.epilogue.gated};
  out.arrivals = reinterpret_cast<std::uint32_t*>(at);
  out.partial_sums = reinterpret_cast<float*>(at + workspace_counters);
  out.x = reinterpret_cast<const uint4*>(at + workspace_counters + parts.partial_sums);
  out.output_scale = std::ldexp(1.0f, task.w.exponent);
  out.cols = static_cast<int>(layout.warp_tile_cols());
  out.group_cols = static_cast<int>(layout.padded_group() / warp_tile);
  out.rows = static_cast<int>(layout.warp_tile_rows());
  out.splits = split.splits;
  return out;
}

/// Whether the program has the code of this instance of the kernel for the current device. Objects for sm_90 and for
/// sm_90a share the names of templates, and the linker keeps the functions of any of them. So nothing is remembered: a
/// function asks for the very instance that it launches.
inline bool has_wgmma_code(void (*kernel)(WgmmaTask)) {
  cudaFuncAttributes facts = {};
  const cudaError_t error = cudaFuncGetAttributes(&facts, reinterpret_cast<const void*>(kernel));
  if (error != cudaErrorNoKernelImageForDevice && error != cudaErrorInvalidDeviceFunction) {
    check(error, "higgs::gpu::matmul_async: warpgroup products");
    return facts.maxThreadsPerBlock >= wgmma_threads;
  }
  static_cast<void>(cudaGetLastError());  // no image for this device: nobody else's error
  return false;
}

/// Puts the product on the stream, split.rows_at_once() rows of x at a time. False if the program lacks the code.
template <class Format, class Archs, int RowTiles, class X, class Y, class Gemm>
bool launch_wgmma(const MatmulTask<X, Y, Gemm>& task, const WgmmaSplit& split, std::byte* workspace,
                  const Device& device, cudaStream_t stream) {
  using T = OperandOf<X>;
  using Shape = WgmmaShape<RowTiles>;
  const auto kernel = wgmma_kernel<Format, T, RowTiles>;
  if (!has_wgmma_code(kernel)) return false;
  const WgmmaWorkspace parts(task, split, device);
  WgmmaTask out = wgmma_task(task, split, parts, workspace);
  const std::int64_t depth = task.w.layout.depth();
  std::byte* const arranged = workspace + workspace_counters + parts.partial_sums;
  for (std::int64_t first = 0; first < task.batch; first += split.rows_at_once()) {
    const std::int64_t rows = std::min(split.rows_at_once(), task.batch - first);
    const MatmulTask<X, Y, Gemm> part = rows_of(task, first, rows);
    const void* x = part.rotated_x.data;
    if (!task.rotated) {
      const DenseView<T> rotated(reinterpret_cast<T*>(arranged + parts.arranged), rows, depth);
      if (task.w.rotation.group != task.w.rotation.padded_group)
        check(cudaMemsetAsync(rotated.data, 0, parts.rotated, stream), "higgs::gpu::matmul_async");
      rotate_async<X, T, Archs>(task.w.rotation, part.x, rotated, device, stream,
                                reinterpret_cast<float*>(arranged + parts.arranged + parts.rotated));
      x = rotated.data;
    }
    arrange_async<typename Format::Activations, Shape::columns, Archs>(
        x, rows, out.cols, reinterpret_cast<uint4*>(arranged), stream);
    out.first_x = first;
    out.batch = rows;
    out.batch_tiles = static_cast<int>(ceil_div(rows, Shape::columns));
    gpu::launch(kernel, dim3(static_cast<unsigned>(split.row_blocks * split.splits * out.batch_tiles)),
                wgmma_threads, Shape::end, stream, out);
  }
  return true;
}

}  // namespace detail

template <class Task>
bool WgmmaKernel::can(const Task& task, const Device& device) {
  return detail::wants_wgmma(task, device);
}

inline std::size_t WgmmaKernel::workspace(const MatmulSize& size, const Device& device) {
  if (!detail::wants_wgmma(size, device)) return 0;
  const detail::WgmmaSplit split(size, device);
  return std::max(detail::WgmmaWorkspace(size, split, device).bytes(), StreamKernel::workspace(size, device));
}

template <class Formats, class Archs, class X, class Y, class Gemm>
void WgmmaKernel::launch(const MatmulTask<X, Y, Gemm>& task, std::byte* workspace, const Device& device,
                         cudaStream_t stream) {
  const detail::WgmmaSplit split(task, device);
  bool done = false;
  with_format("higgs::gpu::matmul_async", task.w.layout, Formats{}, [&]<class Format>(Format) {
    const auto launch = [&]<int RowTiles>(std::integral_constant<int, RowTiles>) {
      return split.row_tiles == RowTiles &&
             detail::launch_wgmma<Format, Archs, RowTiles>(task, split, workspace, device, stream);
    };
    done = launch(std::integral_constant<int, 1>{}) || launch(std::integral_constant<int, 2>{});
  });
  if (!done) StreamKernel::launch<Formats, Archs>(task, workspace, device, stream);
}

static_assert(MatmulKernel<WgmmaKernel>);

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
