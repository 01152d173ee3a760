// SPDX-License-Identifier: Apache-2.0
// The kernels that the programs of this folder time, compiled once (codes/), and random matrices for them.
#pragma once
#include <higgs/core/half.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/matmul_task.cuh>
#include <higgs/matmul/packed_matrix.cuh>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace bench {

/// A code whose kernels a file of codes/ compiles.
struct BenchCode {
  std::string_view name;
  double bits;
  bool window = false;
};
/// 4, 3 and 2 bits of grids, then of window codes; only grids of 4 and 2 bits under HIGGS_BENCH_FEW_CODES, for short builds.
std::span<const BenchCode> codes();

/// A packed matrix of random codes of every value, with equal scales and a random rotation. What codes stand for does not
/// change the time.
higgs::gpu::PackedMatrix random_weights(std::string_view code, std::int64_t rows, std::int64_t cols);

/// Normal numbers, of which the first 4096 recur. Zeros would draw less power.
std::vector<higgs::Half> random_halves(std::int64_t count);

/// y = x * W^T by matmul_async.
void multiply(higgs::gpu::DenseView<const higgs::Half> x, const higgs::gpu::PackedView& w,
              higgs::gpu::DenseView<higgs::Half> y, std::span<std::byte> workspace,
              const higgs::gpu::MatmulPlan& plan, const higgs::gpu::Device& device, cudaStream_t stream);

/// The weights in the original basis; `space`: 64 rows of W as floats.
void dequantize(const higgs::gpu::PackedView& w, higgs::gpu::DenseView<float> out,
                const higgs::gpu::Device& device, cudaStream_t stream, std::span<float> space);

/// ||y - reference|| / ||reference|| of a small product of the code.
double relative_error(std::string_view code);

/// Memory of one product of `batch` rows with random x.
struct Product {
  higgs::gpu::PackedView w;
  std::int64_t batch;
  higgs::gpu::MatmulPlan plan;
  higgs::gpu::Device device;
  higgs::gpu::DeviceBuffer<higgs::Half> x, y;
  higgs::gpu::DeviceBuffer<std::byte> workspace;

  Product(const higgs::gpu::PackedView& matrix, std::int64_t rows, const higgs::gpu::MatmulPlan& cut,
          const higgs::gpu::Device& where);
  /// The product with its own matrix, or with another of the same shape.
  void operator()(cudaStream_t stream) const { with(w, stream); }
  void with(const higgs::gpu::PackedView& other, cudaStream_t stream) const;
};

/// A matrix with the contents of another one, at an address of its own: what a cache holds of the other does not help it.
struct PackedCopy {
  higgs::gpu::DeviceBuffer<uint4> codes;
  higgs::gpu::DeviceBuffer<higgs::Half> scales;
  higgs::gpu::PackedView view;

  explicit PackedCopy(const higgs::gpu::PackedView& original);
};

}  // namespace bench
