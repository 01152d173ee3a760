// SPDX-License-Identifier: Apache-2.0
// Hopper's instructions against what C++ computes on the host, and faults of kernels that use them, one at a time: the
// emulator must see each. The first case also runs on a GPU of compute capability 9.0.
#include <higgs/core/half.hpp>
#include <higgs/gpu/hopper.cuh>
#include <higgs/gpu/instructions.cuh>

#include <cuda_runtime.h>

#include <catch2/catch.hpp>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "device_array.cuh"
#include "emulator.hpp"

namespace {

using emulator::DeviceArray;
using higgs::BFloat16;
using higgs::Half;
namespace gpu = higgs::gpu;

// Options of a Hopper GPU while it lives.
class AsHopper {
 public:
  AsHopper() { emulator::options().compute_capability = 90; }
  AsHopper(const AsHopper&) = delete;
  AsHopper& operator=(const AsHopper&) = delete;
  ~AsHopper() {
    emulator::options() = before_;
    emulator::forget_failure();
  }

 private:
  emulator::Options before_ = emulator::options();
};

enum class Fault {
  None,
  NoFence,         // wgmma.fence
  ReadsSumsEarly,  // before wgmma.wait_group
  WritesOperandEarly,
  NoCommit,
  WritesMatrixEarly,
  NoProxyFence,  // behind ordinary stores of b
  NoPhaseWait,   // for the bulk copy of b
  WrongParity,
  ArrivesEarly,  // before wgmma.wait_group, so that the next copy lands in the matrix
  TooManyArrivals,
  NoBarrierFence,  // behind mbarrier.init
  OneWarpMore      // takes another way through the products
};

// What a GPU's tensor cores may cut off of sums of 320 products: in 20 steps a unit in the last place of 1024.
[[maybe_unused]] constexpr float most_cut_off = 20 * 0x1p-13f;
constexpr int stages = 2;
template <int Columns>
constexpr int stage_bytes = Columns * 128;

// sums (64, Columns) = start + a (64, 64 steps) * b (64 steps, Columns). Warps 0 to 3 multiply, warp 4 copies a ring of b.
// a: registers (steps, 4, 4, 128); b: (steps, Columns, 64) in the 128-byte swizzle.
template <class T, int Columns, Fault fault>
__global__ void ring_kernel(const std::uint32_t* a, const uint4* b, float* y, int steps) {
#if HIGGS_HAS_HOPPER
  extern __shared__ __align__(1024) unsigned char ring[];
  const std::uint32_t begin = gpu::shared_address(ring), full = begin + stages * stage_bytes<Columns>,
                      empty = full + 8 * stages;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  if (thread == 128) {
    for (std::uint32_t s = 0; s < stages; ++s)
      gpu::begin_barrier(full + 8 * s, 1), gpu::begin_barrier(empty + 8 * s, 4);
    if (fault != Fault::NoBarrierFence) gpu::fence_barriers();
  }
  __syncthreads();
  if (thread >= 128) {
    for (int i = 0; i < steps && lane == 0; ++i) {
      const auto s = static_cast<std::uint32_t>(i % stages);
      if (i >= stages) gpu::wait_for_phase(empty + 8 * s, (i / stages - 1) % 2);
      gpu::arrive_expecting(full + 8 * s, stage_bytes<Columns>);
      gpu::copy_bulk(begin + s * stage_bytes<Columns>, b + i * (stage_bytes<Columns> / 16),
                     stage_bytes<Columns>, full + 8 * s);
    }
    return;
  }
  float sums[Columns / 2];
  HIGGS_UNROLL for (int k = 0; k < Columns / 2; ++k)
    sums[k] = static_cast<float>(k % 5);
  std::uint32_t operands[4][4];
  for (int i = 0; i < steps; ++i) {
    HIGGS_UNROLL for (int q = 0; q < 4; ++q) HIGGS_UNROLL
      for (int k = 0; k < 4; ++k) operands[q][k] = a[((i * 4 + q) * 4 + k) * 128 + thread];
    const auto s = static_cast<std::uint32_t>(i % stages);
    if (fault != Fault::NoPhaseWait)
      gpu::wait_for_phase(full + 8 * s, (i / stages + (fault == Fault::WrongParity ? 1 : 0)) % 2);
    const std::uint32_t matrix = begin + s * stage_bytes<Columns>;
    if (fault == Fault::NoProxyFence)
      gpu::store_shared_32<0>(matrix + 4 * static_cast<std::uint32_t>(thread),
                              gpu::load_shared_32<0>(matrix + 4 * static_cast<std::uint32_t>(thread)));
    if (fault != Fault::NoFence || i == 0) gpu::fence_products(sums, operands);
    if (fault == Fault::OneWarpMore && thread >= 96)
      gpu::wgmma_m64k16<T, Columns>(sums, operands[1], gpu::swizzled_matrix(matrix));
    HIGGS_UNROLL for (std::uint32_t q = 0; q < 4; ++q)
      gpu::wgmma_m64k16<T, Columns>(sums, operands[q], gpu::swizzled_matrix(matrix + 32 * q));
    if (fault != Fault::NoCommit) gpu::commit_products();
    if (fault == Fault::ReadsSumsEarly) y[thread] = sums[3];
    if (fault == Fault::WritesOperandEarly) asm volatile("add.u32 %0, %0, 1;" : "+r"(operands[2][1]));
    if (fault == Fault::WritesMatrixEarly && thread == 0)
      gpu::store_shared_32<0>(matrix + 4 * static_cast<std::uint32_t>(thread), 7);
    if (fault == Fault::ArrivesEarly && lane == 0) gpu::arrive_at(empty + 8 * s);
    gpu::wait_products<0>(sums, operands);
    if (fault != Fault::ArrivesEarly && (lane == 0 || fault == Fault::TooManyArrivals))
      gpu::arrive_at(empty + 8 * s);
  }
  HIGGS_UNROLL for (int k = 0; k < Columns / 2; ++k)
    y[k * 128 + thread] = sums[k];
#endif
}

__global__ void shared_begin_kernel(std::uint32_t* begin) {
  extern __shared__ unsigned char dynamic[];
  *begin = gpu::shared_address(dynamic);
}
__global__ void reserved_kernel(std::uint32_t* word) { *word = gpu::load_shared_32<1020>(threadIdx.x); }

template <class T>
T random_number(std::mt19937& random) {
  return T(std::normal_distribution<float>(0, 4)(random));
}

// The operands on the host: numbers, and how the kernel wants them.
template <class T, int Columns>
struct Product {
  int steps;
  std::vector<T> a, b;  // (64, 64 steps), (Columns, 64 steps)
  explicit Product(int count)
      : steps(count), a(64 * 64 * static_cast<std::size_t>(count)), b(Columns * a.size() / 64) {
    std::mt19937 random(7);
    for (T& v : a) v = random_number<T>(random);
    for (T& v : b) v = random_number<T>(random);
  }
  std::size_t at(int row, int k) const { return static_cast<std::size_t>(row * 64 * steps + k); }

  std::vector<std::uint32_t> registers() const {
    std::vector<std::uint32_t> out(static_cast<std::size_t>(steps) * 16 * 128);
    for (std::size_t i = 0; i < out.size(); ++i) {
      const int thread = static_cast<int>(i % 128), k = static_cast<int>(i / 128 % 4),
                q = static_cast<int>(i / 512);
      const int row = thread / 32 * 16 + thread % 32 / 4 + k % 2 * 8,
                first = 16 * q + thread % 4 * 2 + k / 2 * 8;
      out[i] = a[at(row, first)].bits | std::uint32_t{a[at(row, first + 1)].bits} << 16;
    }
    return out;
  }
  std::vector<uint4> matrices() const {
    std::vector<uint4> out(static_cast<std::size_t>(steps) * Columns * 8);
    auto* bytes = reinterpret_cast<unsigned char*>(out.data());
    for (int i = 0; i < steps; ++i) {
      for (int n = 0; n < Columns; ++n) {
        for (int k = 0; k < 64; ++k) {
          const std::uint32_t to =
              gpu::swizzled(static_cast<std::uint32_t>(n), static_cast<std::uint32_t>(2 * k));
          std::memcpy(bytes + i * stage_bytes<Columns> + to, &b[at(n, 64 * i + k)], 2);
        }
      }
    }
    return out;
  }
  // Sum k of a thread: 16 products at a time are added exactly.
  float sum(int thread, int k) const {
    const int row = thread / 32 * 16 + thread % 32 / 4 + k % 4 / 2 * 8,
              n = k / 4 * 8 + thread % 4 * 2 + k % 2;
    auto sum = static_cast<float>(k % 5);
    for (int first = 0; first < 64 * steps; first += 16) {
      double exact = sum;
      for (int j = first; j < first + 16; ++j)
        exact += double{static_cast<float>(a[at(row, j)])} * static_cast<float>(b[at(n, j)]);
      sum = static_cast<float>(exact);
    }
    return sum;
  }
};

template <class T, int Columns, Fault fault>
std::vector<float> run(const Product<T, Columns>& p) {
  const DeviceArray<std::uint32_t> a(p.registers());
  const DeviceArray<uint4> b(p.matrices());
  const DeviceArray<float> y(std::vector<float>(Columns / 2 * 128, 0.0f));
  const int bytes = stages * stage_bytes<Columns> + 16 * stages;
  const auto kernel = ring_kernel<T, Columns, fault>;
  REQUIRE(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) == cudaSuccess);
  kernel<<<1, 160, static_cast<std::size_t>(bytes)>>>(a.data(), b.data(), y.data(), p.steps);
  if (cudaGetLastError() != cudaSuccess) return {};
  return y.host();
}

template <class T, int Columns>
void check_product() {
  const Product<T, Columns> p(5);
  for (const std::uint32_t seed : {0, 1, 2}) {
    emulator::options().seed = seed;
    emulator::options().check_races = seed != 0;
    const std::vector<float> y = run<T, Columns, Fault::None>(p);
    REQUIRE(y.size() == Columns / 2 * 128);
    for (int i = 0; i < Columns / 2 * 128; ++i) {
      const float want = p.sum(i % 128, i / 128), got = y[static_cast<std::size_t>(i)];
      const bool equal = emulator::in_use ? got == want : std::abs(got - want) <= most_cut_off;
      if (equal) continue;
      INFO("columns " << Columns << ", sum " << i / 128 << " of thread " << i % 128);
      REQUIRE(got == want);
    }
  }
}

template <Fault fault>
std::string failure() {
  const AsHopper options;
  emulator::options().check_races = true;
  const bool failed = run<Half, 64, fault>(Product<Half, 64>(4)).empty();
  return failed ? emulator::last_failure() : "";
}
using Catch::Matchers::Contains;

}  // namespace

TEST_CASE("products of a warpgroup from a ring of bulk copies are those of the host",
          "[emulator][warpgroup]") {
  const AsHopper options;
  int capability = 0;
  REQUIRE(cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, 0) == cudaSuccess);
  if (capability != 9) return;
  check_product<Half, 64>();
  check_product<Half, 128>();
  check_product<Half, 256>();
  check_product<BFloat16, 64>();
  check_product<BFloat16, 128>();
  check_product<BFloat16, 256>();
}

TEST_CASE("misuse of Hopper's instructions is reported", "[emulator][warpgroup]") {
  if (!emulator::in_use) return;
  CHECK_THAT(failure<Fault::NoFence>(), Contains("without wgmma.fence behind it"));
  CHECK_THAT(failure<Fault::ReadsSumsEarly>(), Contains("a sum of wgmma before wgmma.wait_group"));
  CHECK_THAT(failure<Fault::WritesOperandEarly>(), Contains("a register of a of wgmma is written before"));
  CHECK_THAT(failure<Fault::NoCommit>(),
             Contains("before wgmma.wait_group") || Contains("ends before its products"));
  CHECK_THAT(failure<Fault::WritesMatrixEarly>(), Contains("matrix of wgmma was written before"));
  CHECK_THAT(failure<Fault::NoProxyFence>(), Contains("without fence.proxy.async behind it"));
  CHECK_THAT(failure<Fault::NoPhaseWait>(), Contains("deadlock"));
  CHECK_THAT(failure<Fault::WrongParity>(), Contains("more threads arrive at an mbarrier"));
  CHECK_THAT(failure<Fault::ArrivesEarly>(),
             Contains("race") || Contains("matrix of wgmma was written before"));
  CHECK_THAT(failure<Fault::TooManyArrivals>(), Contains("more threads arrive at an mbarrier"));
  CHECK_THAT(failure<Fault::NoBarrierFence>(), Contains("without fence.proxy.async behind it"));
  CHECK_THAT(failure<Fault::OneWarpMore>(), Contains("execute different products"));
  CHECK_THAT(failure<Fault::None>(), Catch::Matchers::Equals(""));
}

TEST_CASE("dynamic shared memory begins behind the part that CUDA keeps for itself on Hopper",
          "[emulator][warpgroup]") {
  const AsHopper options;
  int capability = 0, reserved = 0;
  REQUIRE(cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, 0) == cudaSuccess);
  if (capability != 9) return;
  REQUIRE(cudaDeviceGetAttribute(&reserved, cudaDevAttrReservedSharedMemoryPerBlock, 0) == cudaSuccess);
  CHECK(reserved == 1024);
  const DeviceArray<std::uint32_t> word(std::vector<std::uint32_t>(1));
  shared_begin_kernel<<<1, 1, 64>>>(word.data());
  REQUIRE(cudaGetLastError() == cudaSuccess);
  CHECK(word.host()[0] == 1024);
  if (!emulator::in_use) return;
  reserved_kernel<<<1, 1, 64>>>(word.data());
  CHECK(cudaGetLastError() != cudaSuccess);
  CHECK_THAT(emulator::last_failure(), Contains("shared address 1020 is CUDA's own"));
}
