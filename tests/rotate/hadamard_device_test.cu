// SPDX-License-Identifier: Apache-2.0
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/rotate/hadamard.hpp>
#include <higgs/rotate/hadamard_device.cuh>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "matmul/matrices.hpp"

namespace gpu = higgs::gpu;

namespace {

__global__ void hadamard_block_kernel(const float* x, float* y, int n, int run) {
  extern __shared__ __align__(16) float space[];
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x))
    space[gpu::padded_offset(i)] = x[i];
  __syncthreads();
  gpu::hadamard_block(space, n, run);
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x))
    y[i] = space[gpu::padded_offset(i)];
}

// Value 8 c + i of lane l is element 256 c + 8 l + i.
template <int Count>
__global__ void hadamard_warp_kernel(const float* x, float* y, int n) {
  float v[Count];
  for (int i = 0; i < Count; ++i) v[i] = x[i / 8 * 256 + static_cast<int>(threadIdx.x) * 8 + i % 8];
  gpu::hadamard_warp(v, n);
  for (int i = 0; i < Count; ++i) y[i / 8 * 256 + static_cast<int>(threadIdx.x) * 8 + i % 8] = v[i];
}

template <int Count>
void check_warp(int n) {
  const Normals<float> x(1, 32 * Count, 3);
  std::vector<float> expected = x.data;
  higgs::hadamard_blocks(expected, n);
  const gpu::DeviceBuffer<float> in{std::span<const float>(x.data)}, out(x.data.size());
  gpu::launch(hadamard_warp_kernel<Count>, dim3(1), 32, 0, nullptr, in.data(), out.data(), n);
  std::vector<float> found = out.to_host();
  for (float& value : found) value *= static_cast<float>(1.0 / std::sqrt(static_cast<double>(n)));
  CHECK(found == expected);
}

}  // namespace

TEST_CASE("a warp transforms what its lanes hold", "[rotate][hadamard_device][gpu]") {
  for (int n = 1; n <= 256; n *= 2) check_warp<8>(n);
  check_warp<16>(512);
  check_warp<32>(1024);
}

TEST_CASE("a block transforms runs of every power of two in its shared memory",
          "[rotate][hadamard_device][gpu]") {
  for (int run = 1; run <= 4096; run *= 2) {
    const int n = std::max(3 * run, 24);
    const Normals<float> x(1, n / std::max(run, 8) * std::max(run, 8), 3);
    const auto count = static_cast<int>(x.view.cols);
    std::vector<float> expected = x.data;
    higgs::hadamard_blocks(expected, run);
    const gpu::DeviceBuffer<float> in{std::span<const float>(x.data)}, out(x.data.size());
    gpu::launch(hadamard_block_kernel, dim3(1), 96, sizeof(float) * static_cast<std::size_t>(count) * 9 / 8,
                nullptr, in.data(), out.data(), count, run);
    std::vector<float> found = out.to_host();
    for (float& value : found) value *= static_cast<float>(1.0 / std::sqrt(static_cast<double>(run)));
    CHECK(found == expected);
  }
}
