// SPDX-License-Identifier: Apache-2.0
// cuBLAS as the GEMM of matmul_async. The only header that needs cublas_v2.h (and -lcublas), so no umbrella header
// includes it.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// cuBLAS refused a call; the message has the call and the library's text.
struct CublasError : std::runtime_error {
  CublasError(cublasStatus_t status, const char* what)
      : std::runtime_error(std::string(what).append(": ").append(cublasGetStatusString(status))),
        code(status) {}
  cublasStatus_t code;  // as the call returned it
};

/// y = x * W^T (+ y) by cublasGemmEx on dense weights, with float sums: the last argument of matmul_async, and a dense
/// product of its own.
///
///     const gpu::CublasGemm gemm;  // at load, for the current device
///     linear.plan() = gpu::with_gemm(linear.plan(), linear.weights().view().layout, linear.device());
///     linear(x, y, workspace.span(), stream, {}, gemm);
///
/// It owns a handle and 4 MiB of device memory (32 MiB from sm_90 on: the sizes that NVIDIA recommends), which
/// cuBLAS uses instead of its own pool. So a call neither allocates nor waits, and may be captured in a CUDA graph;
/// the object must live as long as the graph. No two calls may run at the same time: streams that run at the same
/// time need an object each. Then NVIDIA promises equal bits for equal calls, under one version of cuBLAS, on devices
/// of one architecture with equally many multiprocessors (cuBLAS, "Results Reproducibility"). The bits of a row of y
/// may depend on the batch.
class CublasGemm {
 public:
  /// Throws CublasError or CudaError if the device refuses.
  explicit CublasGemm(const Device& device = current_device()) : workspace_(workspace_bytes(device)) {
    check(cublasCreate(&handle_), "higgs::gpu::CublasGemm: cublasCreate");
    // Sums of a product that is split along its inputs stay float.
    const auto mode =
        static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
    const cublasStatus_t status = cublasSetMathMode(handle_, mode);
    if (status != CUBLAS_STATUS_SUCCESS) cublasDestroy(handle_);
    check(status, "higgs::gpu::CublasGemm: cublasSetMathMode");
  }
  CublasGemm(CublasGemm&& other) noexcept
      : workspace_(std::move(other.workspace_)), handle_(std::exchange(other.handle_, nullptr)) {}
  CublasGemm& operator=(CublasGemm&&) = delete;
  ~CublasGemm() {
    if (handle_ != nullptr) cublasDestroy(handle_);
  }

  /// Device memory that an object owns beside cuBLAS's handle.
  static std::size_t workspace_bytes(const Device& device) {
    return std::size_t{device.architecture >= 90 ? 32u : 4u} << 20;
  }

  /// x (M, K) and w (N, K) of fp16 or bf16, y (M, N) of float or the type of x. Rows may have a stride. Throws
  /// InvalidArgument for shapes that do not fit or exceed an int, CublasError if cuBLAS refuses.
  template <class T, class Y>
  void operator()(DenseView<const T> x, DenseView<const T> w, DenseView<Y> y, bool add,
                  cudaStream_t stream) const;

 private:
  static void check(cublasStatus_t status, const char* what) {
    if (status != CUBLAS_STATUS_SUCCESS) throw CublasError(status, what);
  }
  template <class T>
  static constexpr cudaDataType type_of = std::is_same_v<T, Half>       ? CUDA_R_16F
                                          : std::is_same_v<T, BFloat16> ? CUDA_R_16BF
                                                                        : CUDA_R_32F;
  static int to_int(std::int64_t number) {
    expects(number >= 0 && number <= std::numeric_limits<int>::max(), [&] {
      return higgs::detail::sentence("higgs::gpu::CublasGemm: a size or stride is ", number,
                                     ", but cuBLAS takes an int");
    });
    return static_cast<int>(number);
  }

  DeviceBuffer<std::byte> workspace_;
  cublasHandle_t handle_ = nullptr;
};

template <class T, class Y>
void CublasGemm::operator()(DenseView<const T> x, DenseView<const T> w, DenseView<Y> y, bool add,
                            cudaStream_t stream) const {
  static_assert(std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>,
                "higgs::gpu::CublasGemm: x and w are of fp16 or bf16");
  static_assert(
      std::is_same_v<Y, float> || std::is_same_v<Y, T>,
      "higgs::gpu::CublasGemm: y is of float or the type of the operands (x of float counts as fp16)");
  expects(x.cols == w.cols && y.rows == x.rows && y.cols == w.rows, [&] {
    return higgs::detail::sentence("higgs::gpu::CublasGemm: x is ", x.rows, " x ", x.cols, ", w ", w.rows,
                                   " x ", w.cols, " and y ", y.rows, " x ", y.cols,
                                   ", but y = x * w^T takes (M, K), (N, K) and (M, N)");
  });
  if (y.rows == 0 || y.cols == 0) return;
  check(cublasSetStream(handle_, stream), "higgs::gpu::CublasGemm: cublasSetStream");
  // cublasSetStream goes back to cuBLAS's own pool, so the workspace is set at each call.
  check(cublasSetWorkspace(handle_, workspace_.data(), workspace_.size_bytes()),
        "higgs::gpu::CublasGemm: cublasSetWorkspace");
  // cuBLAS counts columns first, so it sees y^T = w * x^T, with w transposed.
  const float one = 1, old = add ? 1.0f : 0.0f;
  check(cublasGemmEx(handle_, CUBLAS_OP_T, CUBLAS_OP_N, to_int(w.rows), to_int(x.rows), to_int(x.cols), &one,
                     w.data, type_of<T>, to_int(w.row_stride), x.data, type_of<T>, to_int(x.row_stride), &old,
                     y.data, type_of<Y>, to_int(y.row_stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        "higgs::gpu::CublasGemm: cublasGemmEx");
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
