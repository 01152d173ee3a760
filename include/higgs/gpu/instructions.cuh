// SPDX-License-Identifier: Apache-2.0
// One function per PTX instruction that C++ has no name for, all of sm_80 (PTX ISA, version 7.4 or later).
#pragma once

#include <higgs/core/half.hpp>
#include <higgs/gpu/error.cuh>

#include <cuda_runtime.h>

#include <bit>
#include <cstddef>
#include <cstdint>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// mma.m16n8k16: c (16, 8) += a (16, 16) * b (16, 8), products exact, sums in fp32. With g = lane / 4, t =
/// lane % 4: a[0], a[1], a[2], a[3] hold rows g, g + 8, g, g + 8 and columns 2t, 2t + 1 (a[2], a[3]: + 8);
/// b.x, b.y hold rows 2t, 2t + 1 (b.y: + 8) of column g; c[0], c[1], c[2], c[3] are (g, 2t), (g, 2t + 1), (g
/// + 8, 2t), (g + 8, 2t + 1).
template <class T>
__device__ inline void mma_m16n8k16(float (&c)[4], const std::uint32_t (&a)[4], uint2 b);
template <>
__device__ inline void mma_m16n8k16<Half>(float (&c)[4], const std::uint32_t (&a)[4], uint2 b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}
template <>
__device__ inline void mma_m16n8k16<BFloat16>(float (&c)[4], const std::uint32_t (&a)[4], uint2 b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

/// mma.m16n8k32 of signed bytes: c (16, 8) += a (16, 32) * b (32, 8), all exact as long as sums are below 2^31. a[0],
/// a[1], a[2], a[3] hold rows g, g + 8, g, g + 8 and columns 4t ... 4t + 3 (a[2], a[3]: + 16); b.x, b.y hold rows
/// 4t ... 4t + 3 (b.y: + 16) of column g; c as in mma_m16n8k16.
__device__ inline void mma_m16n8k32(int (&c)[4], const std::uint32_t (&a)[4], uint2 b) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

/// fma.rn of two pairs of 16-bit numbers: a * b + c.
template <class T>
__device__ inline std::uint32_t fma_pair(std::uint32_t a, std::uint32_t b, std::uint32_t c);
template <>
__device__ inline std::uint32_t fma_pair<Half>(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t out;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
  return out;
}
template <>
__device__ inline std::uint32_t fma_pair<BFloat16>(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t out;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
  return out;
}

/// prmt: byte i of the result is byte (Selector >> 4 i & 7) of the eight bytes of b:a, where a is low.
template <std::uint32_t Selector>
__device__ inline std::uint32_t select_bytes(std::uint32_t a, std::uint32_t b) {
  std::uint32_t out;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "n"(Selector));
  return out;
}

/// lop3: the bits of `a` where Mask is set, the bits of `b` elsewhere.
template <std::uint32_t Mask>
__device__ inline std::uint32_t select_bits(std::uint32_t a, std::uint32_t b) {
  std::uint32_t out;  // 0xe4 = (a & m) | (b & ~m) of a = 0xf0, b = 0xcc, m = 0xaa
  asm("lop3.b32 %0, %1, %2, %3, 0xe4;" : "=r"(out) : "r"(a), "r"(b), "n"(Mask));
  return out;
}

/// lop3: (a & Mask) | Others.
template <std::uint32_t Mask, std::uint32_t Others>
__device__ inline std::uint32_t keep_bits(std::uint32_t a) {
  std::uint32_t out;  // 0xea = (a & m) | o of a = 0xf0, m = 0xcc, o = 0xaa
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(out) : "r"(a), "n"(Mask), "r"(Others));
  return out;
}

/// lop3: a ^ (b & Mask).
template <std::uint32_t Mask>
__device__ inline std::uint32_t flip_bits(std::uint32_t a, std::uint32_t b) {
  std::uint32_t out;  // 0x78 = a ^ (b & m) of a = 0xf0, b = 0xcc, m = 0xaa
  asm("lop3.b32 %0, %1, %2, %3, 0x78;" : "=r"(out) : "r"(a), "r"(b), "n"(Mask));
  return out;
}

/// lop3: a ^ b ^ c.
__device__ inline std::uint32_t flip_twice(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t out;  // 0x96 = a ^ b ^ c of a = 0xf0, b = 0xcc, c = 0xaa
  asm("lop3.b32 %0, %1, %2, %3, 0x96;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
  return out;
}

/// The address of a pointer to shared memory, for the instructions below.
__device__ inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

/// ld.shared of 32 or 64 bits at address + Offset, aligned to their size. Volatile, so that the compiler moves none
/// across a barrier.
template <int Offset>
__device__ inline std::uint32_t load_shared_32(std::uint32_t address) {
  std::uint32_t out;
  asm volatile("ld.shared.u32 %0, [%1+%2];" : "=r"(out) : "r"(address), "n"(Offset));
  return out;
}
template <int Offset>
__device__ inline uint2 load_shared_64(std::uint32_t address) {
  uint2 out;
  asm volatile("ld.shared.v2.u32 {%0,%1}, [%2+%3];" : "=r"(out.x), "=r"(out.y) : "r"(address), "n"(Offset));
  return out;
}

/// ld.shared.v4 at address + Offset, a multiple of 16.
template <int Offset = 0>
__device__ inline uint4 load_shared_128(std::uint32_t address) {
  uint4 out;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4+%5];"
               : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w)
               : "r"(address), "n"(Offset)
               : "memory");
  return out;
}
/// st.shared of the low 16 bits of v at address + Offset, a multiple of 2.
template <int Offset>
__device__ inline void store_shared_16(std::uint32_t address, std::uint32_t v) {
  asm volatile("st.shared.u16 [%0+%2], %1;" ::"r"(address), "h"(static_cast<std::uint16_t>(v)), "n"(Offset)
               : "memory");
}
/// st.shared of 32 bits at address + Offset, a multiple of 4.
template <int Offset>
__device__ inline void store_shared_32(std::uint32_t address, std::uint32_t v) {
  asm volatile("st.shared.u32 [%0+%2], %1;" ::"r"(address), "r"(v), "n"(Offset) : "memory");
}
/// st.shared.v2: 8 bytes at address + Offset, a multiple of 8.
template <int Offset = 0>
__device__ inline void store_shared_64(std::uint32_t address, uint2 v) {
  asm volatile("st.shared.v2.u32 [%0+%3], {%1,%2};" ::"r"(address), "r"(v.x), "r"(v.y), "n"(Offset)
               : "memory");
}
/// st.shared.v4: 16 bytes at address + Offset, a multiple of 16.
template <int Offset = 0>
__device__ inline void store_shared_128(std::uint32_t address, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0+%5], {%1,%2,%3,%4};" ::"r"(address), "r"(v.x), "r"(v.y), "r"(v.z),
               "r"(v.w), "n"(Offset)
               : "memory");
}

/// createpolicy: lines that are loaded under it are the first to leave the second-level cache.
__device__ inline std::uint64_t evict_first_policy() {
  std::uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

/// a / b rounded to nearest, if a, b, 1 / b and a / b are normal numbers: __fdiv_rn without its branch for other
/// numbers. rcp.approx, then corrections by fused multiply-adds (Markstein, IBM J. Res. Dev. 34, 1990).
__device__ inline float divide_normal(float a, float b) {
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(b));
  inverse = fmaf(inverse, fmaf(-b, inverse, 1.0f), inverse);
  float quotient = __fmul_rn(a, inverse);
  quotient = fmaf(fmaf(-b, quotient, a), inverse, quotient);
  return fmaf(fmaf(-b, quotient, a), inverse, quotient);
}

/// The same value, unknown to the compiler: keeps it from computing in advance and spending registers on that.
__device__ inline int opaque(int value) {
  asm volatile("" : "+r"(value));
  return value;
}
__device__ inline uint4 opaque(uint4 value) {
  asm volatile("" : "+r"(value.x), "+r"(value.y), "+r"(value.z), "+r"(value.w));
  return value;
}

/// Returns when a value has been loaded. Its reader does nothing, whatever the value is: a sleep of no time. Without a
/// reader ptxas removes the load.
__device__ inline void wait_for(std::uint32_t value) {
  asm volatile(
      "{.reg .pred never;\n setp.eq.u32 never, %0, 0x80008000;\n @never nanosleep.u32 0;}" ::"r"(value));
}

/// threadIdx.x, read again by each call: it takes no register between two uses.
__device__ inline int thread_index() {
  int out;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(out));
  return out;
}

/// st.global.v4 of 16 bytes to a multiple of 16. The compiler makes four stores of an assignment whose parts it computes.
__device__ inline void store_128(void* pointer, uint4 v) {
  asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(pointer), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
/// ld.global.v4.
__device__ inline uint4 load_128(const void* pointer) { return *static_cast<const uint4*>(pointer); }
/// ld.global.v4 of data that no thread writes and no thread reads again: without the first-level cache, and under
/// `policy` in the second.
__device__ inline uint4 load_streaming_128(const void* pointer, std::uint64_t policy) {
  uint4 out;
  asm volatile("ld.global.L1::no_allocate.L2::cache_hint.v4.u32 {%0,%1,%2,%3}, [%4], %5;"
               : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w)
               : "l"(pointer), "l"(policy));
  return out;
}

/// ld.global.v2, otherwise the same.
__device__ inline uint2 load_streaming_64(const void* pointer, std::uint64_t policy) {
  uint2 out;
  asm volatile("ld.global.L1::no_allocate.L2::cache_hint.v2.u32 {%0,%1}, [%2], %3;"
               : "=r"(out.x), "=r"(out.y)
               : "l"(pointer), "l"(policy));
  return out;
}

/// Both without a policy, which takes two registers.
__device__ inline uint2 load_streaming_64(const void* pointer) {
  uint2 out;
  asm volatile("ld.global.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(out.x), "=r"(out.y) : "l"(pointer));
  return out;
}
__device__ inline uint4 load_streaming_128(const void* pointer) {
  uint4 out;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w)
               : "l"(pointer));
  return out;
}

/// cp.async.bulk.prefetch.L2: asks for `bytes` bytes of global memory, multiples of 16. Nothing before sm_90.
__device__ inline void prefetch_to_cache([[maybe_unused]] const void* global, [[maybe_unused]] int bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(global), "r"(bytes));
#endif
}

// Programmatic dependent launch (CUDA Programming Guide; LaunchOptions::overlaps_previous). Nothing before sm_90, and
// for kernels that are launched without it.

/// griddepcontrol.wait: returns when the kernel in front on the stream has ended and what it wrote can be read.
__device__ inline void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// griddepcontrol.launch_dependents: the kernel behind on the stream may begin, when all blocks have said so or ended.
__device__ inline void allow_next_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// cp.async: 16 bytes from global + GlobalOffset to shared + SharedOffset (in bytes), multiples of 16, without the
/// first-level cache. Unless `exists` it writes zeros and reads nothing.
template <int SharedOffset, int GlobalOffset>
__device__ inline void copy_async_128(std::uint32_t shared, const void* global, bool exists) {
  asm volatile("cp.async.cg.shared.global [%0+%1], [%2+%3], 16, %4;" ::"r"(shared), "n"(SharedOffset),
               "l"(global), "n"(GlobalOffset), "r"(exists ? 16 : 0)
               : "memory");
}
/// cp.async.commit_group: the copies issued since the last call become one group.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// cp.async.wait_group: returns when at most `Pending` of the newest groups of this thread are under way.
template <int Pending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

/// cvt.rn: two floats to 16 bits each, `low` in the low half; overflow gives infinity.
template <class T>
__device__ inline std::uint32_t round_pair(float low, float high);
template <>
__device__ inline std::uint32_t round_pair<Half>(float low, float high) {
  std::uint32_t out;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}
template <>
__device__ inline std::uint32_t round_pair<BFloat16>(float low, float high) {
  std::uint32_t out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}

/// cvt: a stored number as a float, exactly.
__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(Half value) {
  float out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(value.bits));
  return out;
}
__device__ inline float to_float(BFloat16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}
/// Both numbers of a pair as floats, exactly.
template <class T>
__device__ inline float2 to_floats(std::uint32_t pair);
template <>
__device__ inline float2 to_floats<Half>(std::uint32_t pair) {
  float2 out;
  asm("{.reg .b16 low, high;\n mov.b32 {low, high}, %2;\n cvt.f32.f16 %0, low;\n cvt.f32.f16 %1, high;}"
      : "=f"(out.x), "=f"(out.y)
      : "r"(pair));
  return out;
}
template <>
__device__ inline float2 to_floats<BFloat16>(std::uint32_t pair) {
  return {std::bit_cast<float>(pair << 16), std::bit_cast<float>(pair & 0xffff0000u)};
}

/// A float in the storage type T, rounded to nearest, ties to even.
template <class T>
__device__ inline T from_float(float value) {
  return T::from_bits(static_cast<std::uint16_t>(round_pair<T>(value, 0.0f)));
}
template <>
__device__ inline float from_float<float>(float value) {
  return value;
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
