// SPDX-License-Identifier: Apache-2.0
// A product as kernels get it: matrices, plan and epilogue; and what a kernel must offer to be in the list of
// matmul/matmul.cuh.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/packed_matrix.cuh>
#include <higgs/pack/packed_layout.cuh>

#include <cuda_runtime.h>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// How the work on one matrix is cut.
struct MatmulPlan {
  int row_warps = 4;      // warps of a block along the rows of W, 64 rows each: 2 or 4
  std::int64_t grid = 1;  // blocks for up to 64 rows of x, each with an equal Stream-K range
  std::int64_t dense_from =
      std::numeric_limits<std::int64_t>::max();  // rows of x from which a GEMM multiplies
  std::int64_t dense_rows = 1024;  // rows of W that are decoded for it at a time; a multiple of 64
  /// Rows of x up to which the product's kernel rotates them, where it can; more rows take a launch before it. At
  /// most 4; 0: never. The bits are the same.
  std::int64_t rotate_inside = 4;
  /// Bytes of workspace that a product takes at most, unless its least launch needs more: products of more rows of x
  /// take several launches, one after the other. The bits are the same.
  std::int64_t most_workspace = std::int64_t{64} << 20;
  /// Programmatic dependent launch, with code for sm_90 or later: the kernel begins before the kernel in front of it
  /// on the stream has ended, and loads weights, scales and table before it waits for that. So that kernel must not
  /// write them. Nor may a kernel in front of that one, if that one overlaps too: the last launch without overlap is
  /// what they wait for. Products of the streaming kernel, of int8 and of experts overlap; others begin when all work
  /// in front has ended. Where a stream is captured, put no copy or memset directly in front of such a product
  /// (LaunchOptions).
  bool overlap_launches = false;
  /// Rows of x from which warpgroup products multiply, where the device has them (compute capability 9.0) and the
  /// program code for sm_90a; WgmmaKernel. Other bits than those of the streaming kernel, which depend on the batch.
  std::int64_t wgmma_from = std::numeric_limits<std::int64_t>::max();
  /// Planes of int8 that rotated activations become, for matrices of TableFormat<2> with int8 coordinates, as this library's
  /// have, and for up to 32 rows of x in one plane, 16 in two (Int8Kernel). All other products are as if it were 0. 0:
  /// never. 1: a relative error of the product of about .008 for normal inputs. 2: about .00003, where fp16 has .0002. Other
  /// bits than without planes, so the bits of a row depend on whether its batch has more rows than these.
  int int8_planes = 0;

  friend bool operator==(const MatmulPlan&, const MatmulPlan&) = default;
};

/// What has no influence on the bits of a row of y, which depend on the order of sums. Every product is
/// deterministic: equal calls on one device give equal bits. Tensor cores of other architectures (Device::architecture)
/// round sums in another way, so no value promises equal bits across architectures. Products of int8 (int8_planes) have
/// them where plans are equal and they are not gated (the e^x of silu is approximate): their sums on tensor cores are
/// integers.
enum class Reproducibility {
  PerDevice,      // the batch that the row is in; MIG and MPS may change the multiprocessors, and so the bits
  AcrossDevices,  // also the device among those of one architecture, and the shard of rows that a row of W is in
  // Nothing more: fewer and longer Stream-K ranges for more than 64 rows of x, and there warpgroup products on sm_90a.
  PerBatch
};

/// Blocks that a multiprocessor of the device runs at a time so that it has enough bytes under way: two from sm_90 on
/// where its shared memory has room for two tables.
inline int blocks_per_multiprocessor(const Device& device) {
  return device.architecture >= 90 && device.shared_bytes >= 2 * (LookupTable::end + 1024) ? 2 : 1;
}

/// The plan for a matrix. PerDevice: a block for each multiprocessor unless there is less work, or two where two fit and
/// each has 8 warp tiles for a warp. AcrossDevices: one for each 512 inputs of 256 rows. `batch` counts for PerBatch
/// alone.
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
  const std::int64_t most = std::int64_t{device.multiprocessors} * blocks_per_multiprocessor(device);
  const std::int64_t blocks = tiles > 1          ? ceil_div(2 * device.multiprocessors, tiles)
                              : work >= 8 * most ? most
                                                 : device.multiprocessors;
  const std::int64_t least =
      8 / plan.row_warps;  // warp tiles of a row block that are worth a block of 4 warps
  plan.grid = std::clamp<std::int64_t>(ceil_div(work, least), 1, blocks);
  if (reproducibility == Reproducibility::PerBatch && device.architecture == 90) plan.wgmma_from = 65;
  return plan;
}

/// No GEMM: the fused kernels serve every batch. A GEMM is called as gemm(x, w, y, add, stream) with
/// DenseView<const T> x and w, DenseView<Y> y, all row-major. It gives y = x * w^T, plus y if `add`. cuBLAS counts
/// columns first: to it a row-major matrix is a transposed one (see CublasGemm in matmul/cublas_gemm.cuh).
struct NoGemm {};

/// What becomes of the sums s = x W^T of a product on their way out, in float. y = s + bias + residual, (M, N); or gated:
///
///     y[m][i] = silu(s[m][2 i] + bias[2 i]) * (s[m][2 i + 1] + bias[2 i + 1]) + residual[m][i],   (M, N / 2)
///
/// where silu(v) = v / (1 + e^-v): the rows of W are those of a gate and of what it multiplies in turn, as
/// interleave_rows makes them. Each y is rounded once to its type.
template <class Y>
struct Epilogue {
  const float* bias = nullptr;  // (N)
  const Y* residual = nullptr;  // shape of y, rows as far apart as y's; may be y itself
  bool gated = false;           // needs an even N, and no GEMM multiplies
};

/// The type in which tensor cores multiply activations of type X: bf16 for bf16, fp16 for all others.
template <class X>
using OperandOf = std::conditional_t<std::is_same_v<std::remove_const_t<X>, BFloat16>, BFloat16, Half>;

/// What distinguishes one of several matrices of equal layout and code, beside its rotation.
struct ExpertWeights {
  const uint4* codes = nullptr;  // as in PackedView
  const Half* scales = nullptr;  // as in PackedView
  float output_scale = 1;        // 2^exponent
};

/// What the workspace of a product depends on.
struct MatmulSize {
  PackedView w;
  std::int64_t batch = 0;  // rows of x
  MatmulPlan plan;
  bool rotated = false;  // whether the caller has rotated x
  bool gated = false;    // whether the epilogue is
};

/// A product y = x * W^T + bias + residual. Either x or rotated_x is given.
template <class X, class Y, class Gemm = NoGemm>
struct MatmulTask : MatmulSize {
  DenseView<const X> x;                     // (batch, cols)
  DenseView<const OperandOf<X>> rotated_x;  // (batch, depth) in padded groups, without gaps between rows
  DenseView<Y> y;                           // (batch, rows)
  Epilogue<Y> epilogue;
  const Gemm* gemm = nullptr;  // as NoGemm says
};

namespace detail {
using AnyTask = MatmulTask<Half, float>;
}

/// A kernel of the list in matmul/matmul.cuh, a class without state:
///
/// - can(task, device): whether it computes this product.
/// - workspace(size, device): bytes that it needs for a product of this size; 0 if it serves none of that size.
/// - launch<Formats, Archs>(task, workspace, device, stream): puts the product on the stream. The first
///   `workspace_counters` bytes are zeros; so they must be after it. The rest has any contents.
template <class K>
concept MatmulKernel = requires(const detail::AnyTask& task, const Device& device) {
  { K::can(task, device) } -> std::same_as<bool>;
  { K::workspace(task, device) } -> std::same_as<std::size_t>;
};

/// Bytes at the front of a workspace that kernels may use as counters, zeros between two calls.
inline constexpr std::size_t workspace_counters = 4096;

namespace detail {

/// Columns of y. Throws InvalidArgument for a gated product of an odd number of rows.
inline std::int64_t outputs_of(const char* function, const PackedLayout& layout, bool gated) {
  expects(!gated || layout.rows % 2 == 0, [&] {
    return higgs::detail::sentence(function, ": w has ", layout.rows,
                                   " rows, but a gated product needs an even number of them");
  });
  return gated ? layout.rows / 2 : layout.rows;
}

/// Throws InvalidArgument for a plan that no kernel can follow.
inline void check_plan(const char* function, const MatmulPlan& plan) {
  expects(plan.row_warps == 2 || plan.row_warps == 4, [&] {
    return higgs::detail::sentence(function, ": plan.row_warps is ", plan.row_warps, ", but must be 2 or 4");
  });
  expects(plan.grid >= 1 && plan.grid <= std::numeric_limits<std::int32_t>::max(), [&] {
    return higgs::detail::sentence(function, ": plan.grid is ", plan.grid,
                                   " blocks, but must be from 1 to 2^31 - 1");
  });
  expects(plan.rotate_inside >= 0 && plan.rotate_inside <= 4, [&] {
    return higgs::detail::sentence(function, ": plan.rotate_inside is ", plan.rotate_inside,
                                   " rows of x, but must be from 0 to 4");
  });
  expects(plan.int8_planes >= 0 && plan.int8_planes <= 2, [&] {
    return higgs::detail::sentence(function, ": plan.int8_planes is ", plan.int8_planes,
                                   ", but must be 0, 1 or 2");
  });
}

/// A part of a workspace: `bytes` rounded up to a multiple of 256.
inline std::size_t whole_part(std::int64_t bytes) {
  return static_cast<std::size_t>(ceil_div(bytes, 256) * 256);
}

/// Throws InvalidArgument for an argument that is not aligned, and for one that is written and shares memory with
/// another.
template <class X, class Y, class Gemm>
void check_pointers(const char* function, const MatmulTask<X, Y, Gemm>& task,
                    std::span<const std::byte> workspace) {
  expect_aligned(function, "x", task.x.data, sizeof(X));
  expect_aligned(function, "rotated x", task.rotated_x.data, 16);
  expect_aligned(function, "y", task.y.data, sizeof(Y));
  expect_aligned(function, "bias", task.epilogue.bias, sizeof(float));
  expect_aligned(function, "residual", task.epilogue.residual, sizeof(Y));
  expect_aligned(function, "w.codes", task.w.codes, 16);
  expect_aligned(function, "w.scales", task.w.scales, 16);
  expect_aligned(function, "w.table", task.w.table, 16);
  expect_aligned(function, "w.rotation.factors", task.w.rotation.factors, 16);
  const DenseView<Y>& y = task.y;
  expects(y.rows <= 1 || y.row_stride >= y.cols, [&] {
    return higgs::detail::sentence(function, ": rows of y are ", y.row_stride, " elements apart, but have ",
                                   y.cols);
  });
  const ByteRows in = task.rotated ? ByteRows(task.rotated_x) : ByteRows(task.x), out(y),
                 space(workspace.data(), std::ssize(workspace)),
                 bias(task.epilogue.bias, task.epilogue.bias != nullptr ? task.w.layout.rows * 4 : 0),
                 residual(DenseView<const Y>(task.epilogue.residual,
                                             task.epilogue.residual != nullptr ? y.rows : 0, y.cols,
                                             y.row_stride));
  expect_apart(function, "x", in, "y", out);
  expect_apart(function, "bias", bias, "y", out);
  if (task.epilogue.residual != y.data) expect_apart(function, "residual", residual, "y", out);
  expect_apart(function, "the workspace", space, "x", in);
  expect_apart(function, "the workspace", space, "y", out);
  expect_apart(function, "the workspace", space, "bias", bias);
  expect_apart(function, "the workspace", space, "residual", residual);
}

inline void check_workspace(const char* function, std::span<std::byte> workspace, std::size_t needed) {
  const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(workspace.data());
  expects(workspace.size() >= needed && begin % 256 == 0, [&] {
    return higgs::detail::sentence(function, ": the workspace holds ", workspace.size(), " bytes and begins ",
                                   begin % 256, " after a multiple of 256, but must hold ", needed,
                                   " (see matmul_workspace) from such a multiple on");
  });
}

}  // namespace detail
}  // namespace gpu
}  // namespace v0
}  // namespace higgs
