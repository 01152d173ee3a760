// SPDX-License-Identifier: Apache-2.0
// A linear layer on the device: what an engine calls.
#pragma once

#include <higgs/codes/formats.cuh>
#include <higgs/core/code.hpp>
#include <higgs/core/error.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/matmul_task.cuh>
#include <higgs/matmul/packed_matrix.cuh>
#include <higgs/rotate/hadamard.cuh>
#include <higgs/store/quantized_matrix.hpp>
#include <higgs/store/shard.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// y = x * W^T + bias + residual with a matrix on the device: owns the packed weights, the plan and the facts of
/// the device.
///
///     const gpu::Linear linear(quantized);                       // at load
///     const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(linear.workspace_bytes(batch));
///     linear(x, y, workspace.span(), stream);                    // for each token
///
/// A workspace as large as the largest need serves all layers of a stream: calls leave it as they need it. Formats:
/// those that kernels are compiled for; name fewer for shorter builds:
/// gpu::Linear<gpu::MatmulFormats<gpu::TableFormat<4>>>.
template <class Formats = AnyFormat>
class Linear {
 public:
  /// Takes packed weights. Throws InvalidArgument if the list lacks their format.
  explicit Linear(PackedMatrix weights, const Device& device = current_device())
      : Linear(std::move(weights), device, Reproducibility::PerDevice) {}
  /// The same under another promise of equal bits.
  Linear(PackedMatrix weights, const Device& device, Reproducibility reproducibility)
      : weights_(std::move(weights)),
        device_(device),
        plan_(plan_matmul(weights_.view().layout, device, reproducibility)) {
    detail::check_device("higgs::gpu::Linear", weights_.view(), device);
    with_format("higgs::gpu::Linear", weights_.view().layout, Formats{}, [](auto) {});
  }
  /// Packs `w`, or a part of it, on the current device; returns when that is done.
  template <Code C>
  explicit Linear(const QuantizedMatrix<C>& w) : Linear(PackedMatrix(w)) {}
  template <Code C>
  Linear(const QuantizedMatrix<C>& w, const Shard& part) : Linear(PackedMatrix(w, part)) {}
  explicit Linear(const AnyQuantizedMatrix& w) : Linear(PackedMatrix(w)) {}
  Linear(const AnyQuantizedMatrix& w, const Shard& part) : Linear(PackedMatrix(w, part)) {}

  /// Outputs.
  std::int64_t rows() const noexcept { return weights_.rows(); }
  /// Inputs.
  std::int64_t cols() const noexcept { return weights_.cols(); }
  /// The packed weights, for calls of the lower layer.
  const PackedMatrix& weights() const noexcept { return weights_; }
  /// The device that the plan is for.
  const Device& device() const noexcept { return device_; }
  /// How the work is cut, for a caller to change before the first call: dense_from, dense_rows, rotate_inside,
  /// int8_planes.
  MatmulPlan& plan() noexcept { return plan_; }
  /// How the work is cut.
  const MatmulPlan& plan() const noexcept { return plan_; }

  /// Bytes of workspace for calls with up to `batch` rows of x. It begins as zeros and at a multiple of 256. A GEMM
  /// multiplies no gated products (Epilogue): beyond plan().dense_from rows these need the workspace of `gated`.
  std::size_t workspace_bytes(std::int64_t batch, bool gated = false) const {
    const std::int64_t fused =
        gated ? batch : std::min(batch, plan_.dense_from - 1);  // the most rows without a GEMM
    const MatmulSize size{weights_.view(), batch, plan_},
        fused_size{weights_.view(), fused, plan_, false, gated};
    return std::max(matmul_workspace(size, device_), matmul_workspace(fused_size, device_));
  }

  /// Puts y = x * W^T + bias + residual on the stream: x (M, cols), y (M, rows), each of float or a 16-bit float.
  /// Contract and errors: see matmul_async.
  template <class X, class Y, class Archs = BuiltFor, class Gemm = NoGemm>
  void operator()(DenseView<X> x, DenseView<Y> y, std::span<std::byte> workspace, cudaStream_t stream,
                  const std::type_identity_t<Epilogue<Y>>& epilogue = {}, const Gemm& gemm = {}) const {
    matmul_async<Formats, X, Y, Archs, Gemm>(x, weights_.view(), y, workspace, plan_, device_, stream,
                                             epilogue, gemm);
  }

  /// Loads every kernel that calls with these types and `gemm` may launch: multiplies zeros in memory of its own by the
  /// layer, once for each number of rows that another kernel serves, and waits for `stream`. For use before a capture,
  /// under the plan that the calls will have: CUDA loads a kernel at its first launch, which a stream that is captured may
  /// not allow ("Lazy Loading" in the CUDA Programming Guide).
  template <class X, class Y, class Archs = BuiltFor, class Gemm = NoGemm>
  void warm_up(cudaStream_t stream = nullptr, const Gemm& gemm = {}) const;

  /// Columns of rotated x: padded groups with zeros between them.
  std::int64_t rotated_cols() const noexcept { return weights_.view().layout.depth(); }

  /// Puts the rotation of x (M, cols) on the stream: `rotated` (M, rotated_cols()) without gaps between rows, from a
  /// multiple of 16 bytes on, is what multiply_rotated of this layer takes, and of every layer that rotates alike
  /// (rotates_alike). The products have the bits of operator() if T is the type that it rotates x to, OperandOf<X>, and
  /// the plan has no int8_planes.
  /// `workspace` is as for `batch` = M. Throws InvalidArgument for shapes that do not fit or a small workspace.
  template <class X, class T, class Archs = BuiltFor>
  void rotate(DenseView<const X> x, DenseView<T> rotated, std::span<std::byte> workspace,
              cudaStream_t stream) const;

  /// The same as operator() for fewer than plan().dense_from rows of x that were rotated before, (M,
  /// rotated_cols()): see matmul_rotated_async.
  template <class T, class Y, class Archs = BuiltFor>
  void multiply_rotated(DenseView<const T> x, DenseView<Y> y, std::span<std::byte> workspace,
                        cudaStream_t stream, const std::type_identity_t<Epilogue<Y>>& epilogue = {}) const {
    matmul_rotated_async<Formats, T, Y, Archs>(x, weights_.view(), y, workspace, plan_, device_, stream,
                                               epilogue);
  }

 private:
  PackedMatrix weights_;
  Device device_;
  MatmulPlan plan_;
};

template <class Formats>
template <class X, class Y, class Archs, class Gemm>
void Linear<Formats>::warm_up(cudaStream_t stream, const Gemm& gemm) const {
  // One row more than each tile of rows holds, and the first batches of warpgroup products and of a GEMM.
  constexpr std::int64_t never = std::numeric_limits<std::int64_t>::max();
  std::vector<std::int64_t> batches;
  for (const std::int64_t batch : {std::int64_t{1}, std::int64_t{5}, std::int64_t{9}, std::int64_t{17},
                                   std::int64_t{33}, std::int64_t{65}, std::int64_t{129}, plan_.wgmma_from})
    if (batch < plan_.dense_from && (batch <= 33 || plan_.wgmma_from != never)) batches.push_back(batch);
  if (!std::is_same_v<Gemm, NoGemm> && plan_.dense_from != never) batches.push_back(plan_.dense_from);
  if (batches.empty()) return;
  const std::int64_t most = *std::max_element(batches.begin(), batches.end());
  const auto x = DeviceBuffer<X>::zeros(static_cast<std::size_t>(most * cols() + 1));
  const DeviceBuffer<Y> y(static_cast<std::size_t>(most * rows()));
  const auto workspace = DeviceBuffer<std::byte>::zeros(workspace_bytes(most));
  for (const std::int64_t batch : batches)
    for (const int unaligned : {0, 1})  // another kernel may rotate rows that begin anywhere
      (*this)(DenseView<const X>(x.data() + unaligned, batch, cols()), DenseView<Y>(y.data(), batch, rows()),
              workspace.span(), stream, {}, gemm);
  check(cudaStreamSynchronize(stream), "higgs::gpu::Linear::warm_up");
}

template <class Formats>
template <class X, class T, class Archs>
void Linear<Formats>::rotate(DenseView<const X> x, DenseView<T> rotated, std::span<std::byte> workspace,
                             cudaStream_t stream) const {
  const Rotation& rotation = weights_.view().rotation;
  expects(x.cols == cols() && rotated.rows == x.rows && rotated.cols == rotated_cols() &&
              rotated.row_stride == rotated.cols,
          [&] {
            return higgs::detail::sentence("higgs::gpu::Linear::rotate: x is (", x.rows, ", ", x.cols,
                                           "), rotated (", rotated.rows, ", ", rotated.cols, ") with rows ",
                                           rotated.row_stride, " apart, but must be (M, ", cols(),
                                           ") and (M, ", rotated_cols(), ") without gaps");
          });
  if (x.rows == 0) return;
  const auto scratch = static_cast<std::size_t>(rotate_scratch(rotation, x.rows, device_)) * sizeof(float);
  if (scratch != 0)
    detail::check_workspace("higgs::gpu::Linear::rotate", workspace, workspace_counters + scratch);
  if (rotation.group != rotation.padded_group)
    check(cudaMemsetAsync(rotated.data, 0, static_cast<std::size_t>(rotated.rows * rotated.cols) * sizeof(T),
                          stream),
          "higgs::gpu::Linear::rotate");
  rotate_async<X, T, Archs>(
      rotation, x, rotated, device_, stream,
      scratch == 0 ? nullptr : reinterpret_cast<float*>(workspace.data() + workspace_counters));
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
