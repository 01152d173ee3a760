// SPDX-License-Identifier: Apache-2.0
// The matrices of a model on the device: dense ones in the type T of the activations, fp16 or bf16, and quantized ones
// packed for the library's products.
#pragma once

#include "device/product_space.cuh"
#include "device/queue.cuh"

#include <higgs/core/matrix_view.hpp>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/matmul_task.cuh>
#include <higgs/store/quantized_matrix.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace higgs::model {

/// Products of a matrix whose inputs are rotated once for it and for other matrices that rotate alike.
template <class T>
class RotatedProducts {
 public:
  virtual ~RotatedProducts() = default;
  /// Puts the rotation of x (M, cols) on the stream: `rotated` (M, rotated_cols()) without gaps between rows.
  virtual void rotate_async(gpu::DenseView<const T> x, gpu::DenseView<T> rotated, const ProductSpace& space,
                            Queue queue) const = 0;
  /// multiply_async() with inputs that rotate_async() of this matrix, or of one that rotates alike, has rotated.
  virtual void multiply_rotated_async(gpu::DenseView<const T> rotated, gpu::DenseView<T> y,
                                      const gpu::Epilogue<T>& epilogue, const ProductSpace& space,
                                      Queue queue) const = 0;
};

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
  /// Bytes of ProductSpace::workspace() for up to `batch` rows of x.
  virtual std::size_t workspace_bytes(std::int64_t batch) const = 0;
  /// Puts y = x * W^T, with what the epilogue adds, on the stream: x (M, cols), y (M, rows), or (M, rows / 2) if gated.
  virtual void multiply_async(gpu::DenseView<const T> x, gpu::DenseView<T> y,
                              const gpu::Epilogue<T>& epilogue, const ProductSpace& space,
                              Queue queue) const = 0;
  virtual void multiply_async(gpu::DenseView<const T> x, gpu::DenseView<float> y,
                              const gpu::Epilogue<float>& epilogue, const ProductSpace& space,
                              Queue queue) const = 0;
  /// Products of fewer rows of x may be gated; from as many on a GEMM multiplies, which cannot.
  virtual std::int64_t gated_below() const noexcept = 0;
  /// Columns of rotated inputs; 0: inputs are multiplied as they are.
  virtual std::int64_t rotated_cols() const noexcept = 0;
  /// Products with inputs that were rotated before, if the product with x has a launch that does nothing else; else null.
  virtual const RotatedProducts<T>* shared_rotation(gpu::DenseView<const T> x) const = 0;
};
template <class T>
using SharedDeviceMatrix = std::shared_ptr<const DeviceMatrix<T>>;

/// Writes rows [first, first + count) of a matrix as floats.
using ReadRows = std::function<void(std::int64_t first, std::int64_t count, std::span<float> out)>;

/// Copies rows of floats to the device as T, a few million weights at a time. Throws InvalidArgument, which names
/// `matrix` and the number, for one that is finite and infinite in T.
template <class T>
void upload_rows(const std::string& matrix, const ReadRows& read, gpu::DenseView<T> to);

/// A dense matrix: some rows, which may be apart, of weights that several matrices may share.
template <class T>
SharedDeviceMatrix<T> dense_matrix(std::shared_ptr<const gpu::DeviceBuffer<T>> weights,
                                   gpu::DenseView<const T> rows);
/// All rows of weights (rows, cols).
template <class T>
SharedDeviceMatrix<T> dense_matrix(std::shared_ptr<const gpu::DeviceBuffer<T>> weights, std::int64_t rows,
                                   std::int64_t cols) {
  const gpu::DenseView<const T> all(weights->data(), rows, cols);
  return dense_matrix<T>(std::move(weights), all);
}
/// Packs a quantized matrix of any code that the library has. Its kernels are compiled in quantized_matrix.cu alone.
template <class T>
SharedDeviceMatrix<T> quantized_matrix(const AnyQuantizedMatrix& weights);
/// What quantized_matrix() will need of device memory.
struct PackedNeeds {
  std::size_t bytes = 0;          // DeviceMatrix::size_bytes()
  std::size_t workspace = 0;      // DeviceMatrix::workspace_bytes()
  std::int64_t rotated_cols = 0;  // DeviceMatrix::rotated_cols()
  std::int64_t rounding = 0;      // rounding_of() its allocations
  std::int64_t loading = 0;       // bytes that are there besides while it is packed
};
/// The same for a matrix of `rows` rows that is like `weights` in everything else.
PackedNeeds packed_needs(const AnyQuantizedMatrix& weights, std::int64_t rows, std::int64_t batch);

/// An array of floats that copies of a model share; null: none.
using SharedFloats = std::shared_ptr<const gpu::DeviceBuffer<float>>;

/// y = x * weight^T + bias.
template <class T>
struct DeviceLinear {
  SharedDeviceMatrix<T> weight;
  SharedFloats bias;  // (rows), or null

  /// The epilogue of a product with what else becomes of it.
  template <class Y>
  gpu::Epilogue<Y> with_bias(gpu::Epilogue<Y> epilogue = {}) const {
    epilogue.bias = bias ? bias->data() : nullptr;
    return epilogue;
  }
  template <class Y>
  void multiply_async(gpu::DenseView<const T> x, gpu::DenseView<Y> y, const ProductSpace& space, Queue queue,
                      const gpu::Epilogue<Y>& epilogue = {}) const {
    weight->multiply_async(x, y, with_bias(epilogue), space, queue);
  }
};

/// Linear layers of a block that multiply the same inputs: one matrix, where their weights can be one, or several.
template <class T>
struct DeviceGroup {
  DeviceLinear<T> joined;  // the rows of all layers; without weights where they are not one matrix
  std::vector<DeviceLinear<T>> parts;  // each layer; may be empty where they are one matrix
  bool rotate_alike = false;           // whether one rotation of x serves all parts

  bool is_joined() const noexcept { return joined.weight != nullptr; }
  ProductNeeds needs(std::int64_t batch) const;
  /// Products of all parts side by side: x (M, cols), y (M, rows of all layers).
  void multiply_parts_async(gpu::DenseView<const T> x, gpu::DenseView<T> y, const ProductSpace& space,
                            Queue queue) const;
};

template <class T>
ProductNeeds DeviceGroup<T>::needs(std::int64_t batch) const {
  if (is_joined()) return {joined.weight->workspace_bytes(batch)};
  ProductNeeds out;
  for (const DeviceLinear<T>& part : parts)
    out.workspace = std::max(out.workspace, part.weight->workspace_bytes(batch));
  if (rotate_alike)
    out.rotated = static_cast<std::size_t>(batch * parts[0].weight->rotated_cols()) * sizeof(T);
  return out;
}

template <class T>
void DeviceGroup<T>::multiply_parts_async(gpu::DenseView<const T> x, gpu::DenseView<T> y,
                                          const ProductSpace& space, Queue queue) const {
  const DeviceMatrix<T>& first = *parts[0].weight;
  const RotatedProducts<T>* rotation = rotate_alike ? first.shared_rotation(x) : nullptr;
  const gpu::DenseView<T> rotated(reinterpret_cast<T*>(space.rotated().data()), x.rows, first.rotated_cols());
  if (rotation) rotation->rotate_async(x, rotated, space, queue);
  std::int64_t begin = 0;
  for (const DeviceLinear<T>& part : parts) {
    const gpu::DenseView<T> out(y.data + begin, y.rows, part.weight->rows(), y.row_stride);
    if (const RotatedProducts<T>* products = rotation ? part.weight->shared_rotation(x) : nullptr)
      products->multiply_rotated_async(rotated, out, part.template with_bias<T>(), space, queue);
    else
      part.multiply_async(x, out, space, queue);
    begin += out.cols;
  }
}

}  // namespace higgs::model
