// SPDX-License-Identifier: Apache-2.0
// Kernels with one fault each; tests/kernel_code_test.py wants every one of them seen.
#include <cstdint>

// plan: good_kernel: registers <= 64; loop.hmma == loop.ldg128; loop.ldg32 == 0; loop.bar == 0; lds32 > 0
// plan: local_array_kernel: registers <= 255
// plan: spill_kernel: registers <= 255
// plan: too_many_registers_kernel: registers <= 16
// plan: barrier_in_loop_kernel: loop.bar == 0
// plan: narrow_load_kernel: loop.ldg32 == 0
// plan: late_load_kernel: loop.ldg_distance > 30
// plan: kernel_that_is_gone: registers <= 255

enum class Fault { None, Barrier, Narrow };

template <Fault fault>
__device__ void multiply(const uint4* weights, float* out, int steps) {
  __shared__ uint32_t table[32];
  table[threadIdx.x] = threadIdx.x;
  __syncthreads();
  float c[4] = {};
#pragma unroll 1
  for (int k = 0; k < steps; ++k) {
    uint4 a;
    if constexpr (fault == Fault::Narrow) {
      const auto* words = reinterpret_cast<const volatile uint32_t*>(weights + k * 32 + threadIdx.x);
      a = {words[0], words[1], words[2], words[3]};
    } else {
      a = weights[k * 32 + threadIdx.x];
    }
    const uint32_t b = table[a.x & 31];
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%8},{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b));
    if constexpr (fault == Fault::Barrier) __syncthreads();
  }
  for (int k = 0; k < 4; ++k) out[4 * threadIdx.x + k] = c[k];
}

__global__ void good_kernel(const uint4* weights, float* out, int steps) {
  multiply<Fault::None>(weights, out, steps);
}
__global__ void late_load_kernel(const uint4* weights, float* out, int steps) {
  multiply<Fault::None>(weights, out, steps);
}
__global__ void too_many_registers_kernel(const uint4* weights, float* out, int steps) {
  multiply<Fault::None>(weights, out, steps);
}
__global__ void barrier_in_loop_kernel(const uint4* weights, float* out, int steps) {
  multiply<Fault::Barrier>(weights, out, steps);
}
__global__ void narrow_load_kernel(const uint4* weights, float* out, int steps) {
  multiply<Fault::Narrow>(weights, out, steps);
}
__global__ void local_array_kernel(const int* in, int* out, int count) {
  int sums[64] = {};
  for (int k = 0; k < count; ++k) sums[in[k] & 63] += k;
  out[threadIdx.x] = sums[in[threadIdx.x] & 63];
}
// 64 values that live through the loop, 32 registers.
__global__ void __launch_bounds__(1024, 2) spill_kernel(const float* in, float* out, int count) {
  float values[64];
#pragma unroll
  for (int k = 0; k < 64; ++k) values[k] = in[k * 1024 + threadIdx.x];
  for (int step = 0; step < count; ++step) {
#pragma unroll
    for (int k = 0; k < 64; ++k) values[k] = values[k] * values[(k + 1) % 64] + in[step];
  }
#pragma unroll
  for (int k = 0; k < 64; ++k) out[k * 1024 + threadIdx.x] = values[k];
}
__global__ void unplanned(int* out) { out[threadIdx.x] = 1; }
