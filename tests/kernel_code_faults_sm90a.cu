// SPDX-License-Identifier: Apache-2.0
// A kernel whose warpgroup products ptxas serializes, since an operand changes while they are under way, and one without
// that fault; one that gives registers back without a bound of its threads, which ptxas ignores: tests/kernel_code_test.py.
// architectures: 90a
#include <cstdint>

// plan: (serialized|good)_kernel: loop.hgmma == 1
namespace {

__device__ uint4 plus_one(uint4 a) {
  asm volatile("add.u32 %0, %0, 1;\n add.u32 %1, %1, 1;\n add.u32 %2, %2, 1;\n add.u32 %3, %3, 1;"
               : "+r"(a.x), "+r"(a.y), "+r"(a.z), "+r"(a.w));
  return a;
}

template <bool Serialized>
__device__ void multiply(const uint4* weights, float* out, int steps) {
  float d[4] = {};
  uint4 a = weights[threadIdx.x];
#pragma unroll 1
  for (int step = 1; step <= steps; ++step) {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    asm volatile(
        "{.reg .pred p;\n setp.eq.u32 p, 0, 0;\n wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 "
        "{%0,%1,%2,%3}, "
        "{%4,%5,%6,%7}, %8, p, 1, 1, 0;}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "l"(std::uint64_t{0x4000004000010040}));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    if constexpr (Serialized) a = plus_one(a);
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    asm volatile("" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])::"memory");
    if constexpr (!Serialized) a = plus_one(a);
  }
  for (int k = 0; k < 4; ++k) out[128 * k + threadIdx.x] = d[k];
}

}  // namespace

__global__ void serialized_kernel(const uint4* weights, float* out, int steps) {
  multiply<true>(weights, out, steps);
}
__global__ void good_kernel(const uint4* weights, float* out, int steps) {
  multiply<false>(weights, out, steps);
}
// plan: unbounded_kernel: registers <= 32
__global__ void unbounded_kernel(float* out) {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
  out[threadIdx.x] = 1;
}
