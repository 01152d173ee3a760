// SPDX-License-Identifier: Apache-2.0
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/rotate/hadamard.hpp>
#include <higgs/rotate/paley.cuh>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace gpu = higgs::gpu;
namespace detail = higgs::gpu::detail;

namespace {

__global__ void combine_runs_kernel(int base, int run, const float* x, float* y) {
  extern __shared__ __align__(16) float space[];
  const int n = base * run, thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  for (int i = thread; i < n; i += threads) space[gpu::padded_offset(i)] = x[i];
  __syncthreads();
  detail::combine_runs(base, gpu::shared_address(space), 0, run, run, detail::Team::of_block());
  __syncthreads();
  for (int i = thread; i < n; i += threads) y[i] = space[gpu::padded_offset(i)];
}

// The same by a table of signs.
__global__ void combine_kernel(int base, int run, const float* x, float* y, detail::HadamardBase matrix) {
  extern __shared__ __align__(16) float space[];
  const int n = base * run, quads = base / 4, thread = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  auto* const signs = reinterpret_cast<detail::QuadSigns*>(space + 2 * n);
  for (int i = thread; i < n; i += threads) space[gpu::padded_offset(i)] = x[i];
  for (int i = thread; i < base * quads; i += threads)
    signs[i] = detail::quad_signs(matrix.codes[i % base * quads + i / base]);
  __syncthreads();
  for (int i = thread; i < quads * run; i += threads) {
    float out[4];
    detail::combine(signs, quads, space, run, i / run * 4, i % run, out);
    for (int j = 0; j < 4; ++j) y[(i / run * 4 + j) * run + i % run] = out[j];
  }
}

}  // namespace

TEST_CASE("runs are combined by the matrix of each base", "[rotate][paley][gpu]") {
  const int run = 16;  // gaps are within it
  for (const int base : {12, 20, 28, 36, 44, 52, 60}) {
    const auto n = static_cast<std::size_t>(base * run);
    std::vector<float> x(n), expected(n);
    for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<float>(static_cast<int>(i * 37 % 101) - 50);
    for (std::size_t i = 0; i < n; ++i)  // integers: exact in any order
      for (int k = 0; k < base; ++k)
        expected[i] += static_cast<float>(higgs::hadamard_sign(base, static_cast<std::int64_t>(i) / run, k)) *
                       x[static_cast<std::size_t>(k * run) + i % run];
    const gpu::DeviceBuffer<float> in{std::span<const float>(x)}, out(n), by_table(n);
    INFO("base " << base);
    gpu::launch(combine_runs_kernel, dim3(1), 32, 2 * n * sizeof(float), nullptr, base, run, in.data(),
                out.data());
    CHECK(out.to_host() == expected);
    detail::HadamardBase matrix;
    const higgs::detail::HadamardShape shape = higgs::detail::hadamard_shape(base);
    std::copy_n(shape.codes, base * base / 4, matrix.codes);
    gpu::launch(combine_kernel, dim3(1), 32, 2 * n * sizeof(float) + detail::quad_sign_bytes(base), nullptr,
                base, run, in.data(), by_table.data(), matrix);
    CHECK(by_table.to_host() == expected);
  }
}
