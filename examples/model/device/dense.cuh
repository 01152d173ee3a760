// SPDX-License-Identifier: Apache-2.0
// The product of layers whose weights are dense: a plain kernel of tensor-core instructions that needs no library. A row
// of y depends on that row of x alone, bit for bit, not on the batch.
#pragma once

#include <higgs/core/half.hpp>
#include <higgs/gpu/matrix.cuh>

#include <cuda_runtime.h>

namespace higgs::model {

/// y = x * w^T + bias: x (M, cols) and w (rows, cols) of T, y (M, rows) of T or float, bias (rows) of float in device
/// memory or null. Products are exact, sums float.
template <class T, class Y>
void dense_async(gpu::DenseView<const T> x, gpu::DenseView<const T> w, const float* bias, gpu::DenseView<Y> y,
                 cudaStream_t stream);

}  // namespace higgs::model
