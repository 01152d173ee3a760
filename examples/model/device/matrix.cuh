// SPDX-License-Identifier: Apache-2.0
// The matrices of a model on the device: dense ones in the type T of the activations, fp16 or bf16, and quantized ones
// packed for the library's products.
#pragma once

#include <higgs/core/matrix_view.hpp>
#include <higgs/gpu/matrix.cuh>
#include <higgs/store/quantized_matrix.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace higgs::model {

/// A matrix W (rows, cols) on the device that rows of x are multiplied with. It does not change, so that copies of a
/// model share it.
template <class T>
class DeviceMatrix {
 public:
  virtual ~DeviceMatrix() = default;
  virtual std::int64_t rows() const noexcept = 0;
  virtual std::int64_t cols() const noexcept = 0;
  /// Device memory that it holds.
  virtual std::size_t size_bytes() const noexcept = 0;
  /// Bytes of workspace for up to `batch` rows of x: zeros at first, at a multiple of 256 bytes. Calls on one stream may
  /// share it.
  virtual std::size_t workspace_bytes(std::int64_t batch) const = 0;
  /// Puts y = x * W^T + bias on the stream: x (M, cols), y (M, rows), bias (rows) of float in device memory or null.
  virtual void multiply_async(gpu::DenseView<const T> x, const float* bias, gpu::DenseView<T> y,
                              std::span<std::byte> workspace, cudaStream_t stream) const = 0;
  virtual void multiply_async(gpu::DenseView<const T> x, const float* bias, gpu::DenseView<float> y,
                              std::span<std::byte> workspace, cudaStream_t stream) const = 0;
};
template <class T>
using SharedDeviceMatrix = std::shared_ptr<const DeviceMatrix<T>>;

/// Writes rows [first, first + count) of a matrix as floats.
using ReadRows = std::function<void(std::int64_t first, std::int64_t count, std::span<float> out)>;

/// Copies rows of floats to the device as T, a few million weights at a time: (rows, cols). Throws InvalidArgument, which
/// names `matrix` and the number, for one that is finite and infinite in T.
template <class T>
gpu::DeviceBuffer<T> upload_rows(const std::string& matrix, std::int64_t rows, std::int64_t cols,
                                 const ReadRows& read);

/// A dense matrix: takes its weights, (rows, cols).
template <class T>
SharedDeviceMatrix<T> dense_matrix(std::shared_ptr<const gpu::DeviceBuffer<T>> weights, std::int64_t rows,
                                   std::int64_t cols);
/// Packs a quantized matrix of any code that the library has. Its kernels are compiled in quantized_matrix.cu alone.
template <class T>
SharedDeviceMatrix<T> quantized_matrix(const AnyQuantizedMatrix& weights);
/// What quantized_matrix() will need of device memory, in bytes.
struct PackedNeeds {
  std::size_t bytes = 0;      // DeviceMatrix::size_bytes()
  std::size_t workspace = 0;  // DeviceMatrix::workspace_bytes()
};
PackedNeeds packed_needs(const AnyQuantizedMatrix& weights, std::int64_t batch);

/// An array of floats that copies of a model share; null: none.
using SharedFloats = std::shared_ptr<const gpu::DeviceBuffer<float>>;

/// y = x * weight^T + bias.
template <class T>
struct DeviceLinear {
  SharedDeviceMatrix<T> weight;
  SharedFloats bias;  // (rows), or null

  template <class Y>
  void multiply_async(gpu::DenseView<const T> x, gpu::DenseView<Y> y, std::span<std::byte> workspace,
                      cudaStream_t stream) const {
    weight->multiply_async(x, bias ? bias->data() : nullptr, y, workspace, stream);
  }
};

}  // namespace higgs::model
