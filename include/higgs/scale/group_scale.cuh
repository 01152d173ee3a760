// SPDX-License-Identifier: Apache-2.0
// Scales of groups on the device: half a warp per group, with the sums of exact_dot(), bit for bit.
#pragma once

#include <higgs/gpu/error.cuh>
#include <higgs/scale/group_scale.hpp>

#include <cuda_runtime.h>

#include <cstdint>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// The sum of `each` over the 16 lanes of half a warp in the order of exact_dot(), returned to all 16. `each` of lane l
/// is the sum of terms l, l + 16, ... All lanes of the warp call it.
template <class T>
__device__ inline T fold_half_warp(T each) {
  for (int by = 8; by > 0; by /= 2)
    each += __shfl_down_sync(0xffffffffu, each, static_cast<unsigned>(by), 16);
  return __shfl_sync(0xffffffffu, each, 0, 16);
}

/// sum_of_squares() of the floats x(0) ... x(size - 1) by lanes threadIdx.x % 16. All lanes of the warp call it; size is 0
/// for half a warp without any.
template <class X>
__device__ inline double sum_of_squares_half_warp(X&& x, std::int64_t size) {
  double sum = 0;  // products of floats are exact in double, so fusing changes nothing
  for (std::int64_t i = threadIdx.x % 16; i < size; i += 16) {
    const auto value = static_cast<double>(x(i));
    sum = fma(value, value, sum);
  }
  return fold_half_warp(sum);
}
/// The same for an array.
__device__ inline double sum_of_squares_half_warp(const float* x, std::int64_t size) {
  return sum_of_squares_half_warp([x](std::int64_t i) { return x[i]; }, size);
}

/// fit_group_scale() of a group whose input i was encoded as the integer point(i), returned to all 16 lanes.
template <class Point>
__device__ inline GroupFit fit_group_scale_half_warp(const float* x, std::int64_t size, double x_squared,
                                                     ScaleFormat format, Point&& point) {
  double product = 0;
  std::int64_t norm = 0;  // as exact as a double, and faster on most GPUs
  for (std::int64_t i = threadIdx.x % 16; i < size; i += 16) {
    const int q = point(i);
    product = fma(static_cast<double>(x[i]), static_cast<double>(q), product);
    norm += static_cast<std::int64_t>(q) * q;
  }
  product = fold_half_warp(product);
  norm = fold_half_warp(norm);
  return higgs::detail::fit_of_sums(product, static_cast<double>(norm), x_squared, format);
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
