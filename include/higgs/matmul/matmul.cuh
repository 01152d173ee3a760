// SPDX-License-Identifier: Apache-2.0
// y = x * W^T on the device from a packed matrix: any M, N, K >= 1, no allocation, no synchronization. The lower
// layer of gpu::Linear (matmul/linear.cuh).
#pragma once

#include <higgs/codes/formats.cuh>
#include <higgs/codes/registry.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/decoded_gemm.cuh>
#include <higgs/matmul/int8_launch.cuh>
#include <higgs/matmul/matmul_task.cuh>
#include <higgs/matmul/packed_matrix.cuh>
#include <higgs/matmul/stream_launch.cuh>
#include <higgs/matmul/wgmma_launch.cuh>

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// The kernels of products: the first that can computes one. A new kernel is a header with a MatmulKernel and its
/// name here.
using Kernels = TypeList<Int8Kernel, RotatingStreamKernel, WgmmaKernel, StreamKernel, DecodedGemm>;
/// Those for activations that the caller has rotated.
using RotatedKernels = TypeList<Int8Kernel, WgmmaKernel, StreamKernel>;

/// Bytes of workspace for a product of this size. It begins as zeros (DeviceBuffer::zeros); then any calls, on any
/// matrices, may use it one after the other. Two calls at once need two: calls on streams that nothing orders, and two
/// launches of one graph that may overlap. On one they would count in the same counters and add each other's sums, and
/// nothing reports that. After a CudaError of a kernel the contents are lost, as the CUDA context is.
std::size_t matmul_workspace(const MatmulSize& size, const Device& device);

/// The same for matmul_async with `batch` rows of x: enough for fewer on the same side of plan.dense_from.
std::size_t matmul_workspace(const PackedView& w, std::int64_t batch, const MatmulPlan& plan,
                             const Device& device);

/// y = x * W^T + bias + residual, or what a gated Epilogue says: x (M, cols) and y (M, rows), (M, rows / 2) if gated, of float or a 16-bit float (see ScalarOf), `workspace`
/// of matmul_workspace() bytes from a multiple of 256 on, in use by no other call at the same time. Formats: those
/// that kernels are compiled for.
///
/// x is rotated to fp16 (bf16 if x is bf16), products with the integer coordinates are exact, sums are float. fp16
/// ends at 65504: larger rotated inputs become infinite, and their row of y is NaN or infinite, as it is for NaN and
/// infinite inputs. bf16 has the range of float. Deterministic. From plan.dense_from rows on `gemm` multiplies (see
/// NoGemm and DecodedGemm), which must be as deterministic.
///
/// y shares no memory with x, bias or workspace, nor with a residual that is not y itself. Bias and the arrays of w begin at
/// multiples of their elements; codes, scales, table and factors at multiples of 16 bytes.
///
/// Throws InvalidArgument for shapes that do not fit, a workspace that is too small, memory that is not aligned, wrongly
/// shared or (as far as w and `device` say) of another device, a format that is not in the list, or where no kernel can:
/// dense_from rows without a gemm, or a device with less than 66 KiB of shared memory per block.
template <class Formats = AnyFormat, class X, class Y, class Archs = BuiltFor, class Gemm = NoGemm>
void matmul_async(DenseView<X> x, const PackedView& w, DenseView<Y> y, std::span<std::byte> workspace,
                  const MatmulPlan& plan, const Device& device, cudaStream_t stream,
                  const Epilogue<Y>& epilogue = {}, const Gemm& gemm = {});

/// The same for activations that the caller has rotated, say in the kernel that made them (hadamard_warp): x
/// (M, depth) without gaps between rows, from a multiple of 16 bytes, in padded groups with zeros between them (see
/// Rotation). Its workspace is that of a MatmulSize with `rotated`. Never dense.
template <class Formats = AnyFormat, class T, class Y, class Archs = BuiltFor>
void matmul_rotated_async(DenseView<const T> x, const PackedView& w, DenseView<Y> y,
                          std::span<std::byte> workspace, const MatmulPlan& plan, const Device& device,
                          cudaStream_t stream, const Epilogue<Y>& epilogue = {});

namespace detail {

/// Puts the product on the stream by the first kernel of the list that can.
template <class Formats, class Archs, class Task, MatmulKernel... Ks>
void launch_first(const char* function, TypeList<Ks...>, const Task& task, std::span<std::byte> workspace,
                  const Device& device, cudaStream_t stream) {
  check_device(function, task.w, device);
  check_plan(function, task.plan);
  const auto attempt = [&]<class K>(std::type_identity<K>) {
    if (!K::can(task, device)) return false;
    const std::size_t needed = K::workspace(task, device);
    check_workspace(function, workspace, needed);
    check_pointers(function, task, workspace.first(needed));
    K::template launch<Formats, Archs>(task, workspace.data(), device, stream);
    return true;
  };
  const bool done = (attempt(std::type_identity<Ks>{}) || ...);
  expects(done, [&] {
    return higgs::detail::sentence(function, ": no kernel can: x has ", task.batch,
                                   " rows, and from plan.dense_from = ", task.plan.dense_from,
                                   " on a gemm must be passed; a block of the device may have ",
                                   device.shared_bytes, " bytes of shared memory, and needs ", stream_shared);
  });
}

template <MatmulKernel... Ks>
std::size_t largest_workspace(const MatmulSize& size, const Device& device, TypeList<Ks...>) {
  return std::max({Ks::workspace(size, device)...});
}

}  // namespace detail

inline std::size_t matmul_workspace(const MatmulSize& size, const Device& device) {
  detail::check_plan("higgs::gpu::matmul_workspace", size.plan);
  if (size.rotated) return detail::largest_workspace(size, device, RotatedKernels{});
  return detail::largest_workspace(size, device, Kernels{});
}

inline std::size_t matmul_workspace(const PackedView& w, std::int64_t batch, const MatmulPlan& plan,
                                    const Device& device) {
  return matmul_workspace({w, batch, plan}, device);
}

template <class Formats, class X, class Y, class Archs, class Gemm>
void matmul_async(DenseView<X> x, const PackedView& w, DenseView<Y> y, std::span<std::byte> workspace,
                  const MatmulPlan& plan, const Device& device, cudaStream_t stream,
                  const Epilogue<Y>& epilogue, const Gemm& gemm) {
  if constexpr (!higgs::detail::is_scalar<X> || !higgs::detail::is_scalar<Y>) {
    const auto in = higgs::detail::as_scalars(x);
    const auto out = higgs::detail::as_scalars(y);
    using In = std::remove_pointer_t<decltype(in.data)>;
    using Out = std::remove_pointer_t<decltype(out.data)>;
    const Epilogue<Out> added{epilogue.bias, reinterpret_cast<const Out*>(epilogue.residual), epilogue.gated};
    matmul_async<Formats, In, Out, Archs>(in, w, out, workspace, plan, device, stream, added, gemm);
  } else {
    higgs::detail::expect_product("higgs::gpu::matmul_async", x,
                                  detail::outputs_of("higgs::gpu::matmul_async", w.layout, epilogue.gated),
                                  w.rotation.cols, y);
    if (x.rows == 0 || y.cols == 0) return;
    const MatmulTask<std::remove_const_t<X>, Y, Gemm> task{
        {w, x.rows, plan, false, epilogue.gated}, x, {}, y, epilogue, &gemm};
    detail::launch_first<Formats, Archs>("higgs::gpu::matmul_async", Kernels{}, task, workspace, device,
                                         stream);
  }
}

template <class Formats, class T, class Y, class Archs>
void matmul_rotated_async(DenseView<const T> x, const PackedView& w, DenseView<Y> y,
                          std::span<std::byte> workspace, const MatmulPlan& plan, const Device& device,
                          cudaStream_t stream, const Epilogue<Y>& epilogue) {
  higgs::detail::expect_product(
      "higgs::gpu::matmul_rotated_async", x,
      detail::outputs_of("higgs::gpu::matmul_rotated_async", w.layout, epilogue.gated), w.layout.depth(), y);
  expects(x.row_stride == x.cols, [&] {
    return higgs::detail::sentence("higgs::gpu::matmul_rotated_async: rows of x are ", x.row_stride,
                                   " elements apart, but must follow each other without gaps of ", x.cols);
  });
  if (x.rows == 0 || y.cols == 0) return;
  const MatmulTask<T, Y> task{{w, x.rows, plan, true, epilogue.gated}, {}, x, y, epilogue};
  detail::launch_first<Formats, Archs>("higgs::gpu::matmul_rotated_async", RotatedKernels{}, task, workspace,
                                       device, stream);
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
