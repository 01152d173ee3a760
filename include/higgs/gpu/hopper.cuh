// SPDX-License-Identifier: Apache-2.0
// One function per PTX instruction that only Hopper has (sm_90a; PTX ISA 8.0 or later): warpgroup products, barriers in
// shared memory that count bytes, and bulk copies. Kernels call them where HIGGS_HAS_HOPPER is 1, which is so when
// nvcc compiles for compute_90a, and not for compute_90.
#pragma once

#include <higgs/core/half.hpp>
#include <higgs/gpu/error.cuh>

#include <cuda_runtime.h>

#include <cstdint>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#  define HIGGS_HAS_HOPPER 1
#else
#  define HIGGS_HAS_HOPPER 0
#endif

namespace higgs {
inline namespace v0 {
namespace gpu {

// The 128-byte swizzle (PTX ISA, "Shared memory matrix layout"). A matrix of 64 numbers of 16 bits a row has rows of
// 128 bytes, eight of them in 1024 bytes that begin at a multiple of 1024.

/// Bytes of eight rows, and their alignment.
inline constexpr int swizzle_bytes = 1024;

/// Where byte `byte` of row `row` is: pieces of 16 bytes change places within the row.
HIGGS_HOST_DEVICE constexpr std::uint32_t swizzled(std::uint32_t row, std::uint32_t byte) {
  return row * 128 + (byte ^ (row % 8) * 16);
}

/// The descriptor of a matrix of such rows at shared address `address`, for the 16 columns that begin there: a
/// multiple of 1024, plus 32 for each 16 columns.
HIGGS_HOST_DEVICE constexpr std::uint64_t swizzled_matrix(std::uint32_t address) {
  constexpr std::uint64_t mode_128 = std::uint64_t{1} << 62, unused_stride = std::uint64_t{1} << 16,
                          eight_rows = std::uint64_t{swizzle_bytes / 16} << 32;
  return mode_128 | eight_rows | unused_stride | (address & 0x3ffffu) >> 4;
}

// Warpgroup products: four warps, the first one's number a multiple of 4, multiply at the same time.

#define HIGGS_SUMS_TEXT_32                                \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15" \
  ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define HIGGS_SUMS_TEXT_64                                           \
  HIGGS_SUMS_TEXT_32                                                 \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47" \
  ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define HIGGS_SUMS_TEXT_128                                                      \
  HIGGS_SUMS_TEXT_64                                                             \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"             \
  ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"             \
  ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111" \
  ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define HIGGS_SUMS_8(i)                                                                      \
  "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3]), "+f"(sums[i + 4]), \
      "+f"(sums[i + 5]), "+f"(sums[i + 6]), "+f"(sums[i + 7])
#define HIGGS_SUMS_32(i) HIGGS_SUMS_8(i), HIGGS_SUMS_8(i + 8), HIGGS_SUMS_8(i + 16), HIGGS_SUMS_8(i + 24)
#define HIGGS_SUMS_64 HIGGS_SUMS_32(0), HIGGS_SUMS_32(32)
#define HIGGS_SUMS_128 HIGGS_SUMS_64, HIGGS_SUMS_32(64), HIGGS_SUMS_32(96)
#define HIGGS_WGMMA(T, type, columns, text, operands, a0, a1, a2, a3, b0)                                 \
  template <>                                                                                             \
  __device__ inline void wgmma_m64k16<T, columns>(float(&sums)[columns / 2], const std::uint32_t(&a)[4],  \
                                                  std::uint64_t b) {                                      \
    asm volatile("{.reg .pred add;\n setp.eq.u32 add, 0, 0;\n wgmma.mma_async.sync.aligned.m64n" #columns \
                 "k16.f32." type "." type " {" text "}, {" a0 "," a1 "," a2 "," a3 "}, " b0               \
                 ", add, 1, 1, 0;}"                                                                       \
                 : operands                                                                               \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                   \
  }

/// wgmma.mma_async.m64nNk16, N = Columns (64, 128 or 256): sums (64, N) += a (64, 16) * b (16, N), products exact, sums
/// in fp32. Warp w of the four has rows 16 w ... 16 w + 15 of a and sums: a as in mma_m16n8k16, sums[4 c + i] as its c[i]
/// for columns 8 c ... 8 c + 7. b is a swizzled_matrix(), row n of which has the 16 numbers of column n. Asynchronous:
/// from here to wait_products() nobody may touch a, sums or the matrix.
template <class T, int Columns>
__device__ inline void wgmma_m64k16(float (&sums)[Columns / 2], const std::uint32_t (&a)[4], std::uint64_t b);
HIGGS_WGMMA(Half, "f16", 64, HIGGS_SUMS_TEXT_32, HIGGS_SUMS_32(0), "%32", "%33", "%34", "%35", "%36")
HIGGS_WGMMA(Half, "f16", 128, HIGGS_SUMS_TEXT_64, HIGGS_SUMS_64, "%64", "%65", "%66", "%67", "%68")
HIGGS_WGMMA(Half, "f16", 256, HIGGS_SUMS_TEXT_128, HIGGS_SUMS_128, "%128", "%129", "%130", "%131", "%132")
HIGGS_WGMMA(BFloat16, "bf16", 64, HIGGS_SUMS_TEXT_32, HIGGS_SUMS_32(0), "%32", "%33", "%34", "%35", "%36")
HIGGS_WGMMA(BFloat16, "bf16", 128, HIGGS_SUMS_TEXT_64, HIGGS_SUMS_64, "%64", "%65", "%66", "%67", "%68")
HIGGS_WGMMA(BFloat16, "bf16", 256, HIGGS_SUMS_TEXT_128, HIGGS_SUMS_128, "%128", "%129", "%130", "%131",
            "%132")
#undef HIGGS_WGMMA
#undef HIGGS_SUMS_128
#undef HIGGS_SUMS_64
#undef HIGGS_SUMS_32
#undef HIGGS_SUMS_8
#undef HIGGS_SUMS_TEXT_128
#undef HIGGS_SUMS_TEXT_64
#undef HIGGS_SUMS_TEXT_32

namespace detail {
/// No instruction: the compiler computes the values before this point, and what follows uses them only behind it.
__device__ inline void pin(float& value) { asm volatile("" : "+f"(value)::"memory"); }
__device__ inline void pin(std::uint32_t& value) { asm volatile("" : "+r"(value)::"memory"); }
template <class T, int Count>
__device__ inline void pin(T (&values)[Count]) {
  HIGGS_UNROLL for (int i = 0; i < Count; ++i)
    pin(values[i]);
}
}  // namespace detail

/// wgmma.fence: later products see what was written to `registers` before, arrays of their a and sums.
template <class... Registers>
__device__ inline void fence_products(Registers&... registers) {
  (detail::pin(registers), ...);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
/// wgmma.commit_group: the products issued since the last call become one group.
__device__ inline void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// wgmma.wait_group: returns when at most `Pending` of the newest groups of this warp are under way. `registers`: the
/// arrays of a and sums of the others, which the compiler leaves alone until here.
template <int Pending, class... Registers>
__device__ inline void wait_products(Registers&... registers) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
  (detail::pin(registers), ...);
}

/// setmaxnreg: every warp of a warpgroup calls it. Gives registers back, or waits until others have given enough: a thread
/// has `Count` then, a multiple of 8.
template <int Count>
__device__ inline void give_registers_back() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}
template <int Count>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}
/// bar.sync: barrier `Barrier` (1 to 15) of the first `Threads` threads that arrive there.
template <int Barrier, int Threads>
__device__ inline void sync_some() {
  asm volatile("bar.sync %0, %1;" ::"n"(Barrier), "n"(Threads) : "memory");
}

// Barriers in shared memory, 8 bytes each. A phase ends when all threads that the barrier expects have arrived and all
// bytes that they announced have come; then the next one begins. Phases count from 0.

/// mbarrier.init: `threads` arrive in each phase. fence_barriers() and a barrier of the block must follow.
__device__ inline void begin_barrier(std::uint32_t barrier, int threads) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(threads) : "memory");
}
/// fence.mbarrier_init: bulk copies see the barriers that this thread has begun.
__device__ inline void fence_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
/// fence.proxy.async: later bulk copies and products see what this thread wrote to shared memory before.
__device__ inline void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
/// mbarrier.arrive.
__device__ inline void arrive_at(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// mbarrier.arrive.expect_tx: announces `bytes` bytes of bulk copies and arrives.
__device__ inline void arrive_expecting(std::uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
/// mbarrier.try_wait: returns when the phase of this parity has ended.
__device__ inline void wait_for_phase(std::uint32_t barrier, int parity) {
  asm volatile(
      "{.reg .pred done;\n again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n @!done bra "
      "again;}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

/// cp.async.bulk: `bytes` bytes from global to shared memory, multiples of 16; their arrival counts at `barrier`.
__device__ inline void copy_bulk(std::uint32_t shared, const void* global, int bytes, std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared),
      "l"(global), "r"(bytes), "r"(barrier)
      : "memory");
}
/// cp.async.bulk.prefetch.L2: asks for `bytes` bytes of global memory, a multiple of 16.
__device__ inline void prefetch_bulk(const void* global, int bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(global), "r"(bytes));
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
