// SPDX-License-Identifier: Apache-2.0
// The only unit of the application that compiles products of quantized matrices: all formats, fp16 and bf16.
#include "device/linear_matrix.cuh"
#include "device/matrix.cuh"

#include <higgs/codes/formats.cuh>
#include <higgs/core/half.hpp>
#include <higgs/matmul/linear.cuh>

#include <memory>

namespace higgs::model {

template struct LinearProducts<Half, gpu::AnyFormat>;
template struct LinearProducts<BFloat16, gpu::AnyFormat>;

template <class T>
SharedDeviceMatrix<T> quantized_matrix(const AnyQuantizedMatrix& weights) {
  return std::make_shared<LinearMatrix<T, gpu::AnyFormat>>(gpu::PackedMatrix(weights));
}
template SharedDeviceMatrix<Half> quantized_matrix(const AnyQuantizedMatrix& weights);
template SharedDeviceMatrix<BFloat16> quantized_matrix(const AnyQuantizedMatrix& weights);

}  // namespace higgs::model
