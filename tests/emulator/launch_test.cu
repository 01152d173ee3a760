// SPDX-License-Identifier: Apache-2.0
// Faults that a kernel may have, one at a time: the emulator must see each, and nothing in the kernel without it.
#include <higgs/gpu/instructions.cuh>

#include <cuda_runtime.h>

#include <catch2/catch.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "device_array.cuh"
#include "emulator.hpp"

namespace {

using emulator::DeviceArray;

// Runs the launch with the checks for races on; returns why it failed, or nothing.
template <class Launch>
std::string failure_of(Launch launch, std::uint32_t seed = 1) {
  const emulator::Options before = emulator::options();
  emulator::options().check_races = true;
  emulator::options().seed = seed;
  emulator::options().resident_blocks = 4;
  launch();
  const bool failed = cudaGetLastError() != cudaSuccess || cudaDeviceSynchronize() != cudaSuccess;
  emulator::options() = before;
  const std::string why = failed ? emulator::last_failure() : "";
  emulator::forget_failure();
  return why;
}
using Catch::Matchers::Contains;

enum class Fault {
  None,
  NoBarrier,
  NoFence,
  OutOfBounds,
  Misaligned,
  Uninitialised,
  WeakWait,
  NoWarpSync,
  UnreadLoad,
  Endless,
  Deadlock
};

template <Fault fault>
__global__ void block_kernel(const int* in, int* out) {
  __shared__ int tile[128];
  const unsigned t = threadIdx.x;
  if (fault != Fault::Uninitialised || t < 64) tile[t] = in[t + (fault == Fault::OutOfBounds ? 100 : 0)];
  if constexpr (fault != Fault::NoBarrier) __syncthreads();
  if constexpr (fault == Fault::Deadlock) {
    if (t < 32) asm volatile("bar.sync 1, 128;");
  }
  if constexpr (fault == Fault::Endless) {
    while (true) asm volatile("");
  }
  const char* base = reinterpret_cast<const char*>(tile) + (fault == Fault::Misaligned ? 2 : 0);
  out[t] = reinterpret_cast<const volatile int*>(base)[127 - t - (fault == Fault::Misaligned ? 1 : 0)];
}

// Each block writes a part, the last to come adds them all up: in the same order whoever it is.
template <Fault fault>
__global__ void last_block_kernel(int* parts, unsigned* arrived, int* sum) {
  __shared__ bool is_last;
  parts[blockIdx.x * blockDim.x + threadIdx.x] = static_cast<int>(blockIdx.x + threadIdx.x);
  if constexpr (fault != Fault::NoFence) __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) is_last = atomicAdd(arrived, 1) == gridDim.x - 1;
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  int total = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) total += parts[b * blockDim.x + threadIdx.x];
  sum[threadIdx.x] = total;
  if (threadIdx.x == 0) *arrived = 0;
}

template <Fault fault>
__global__ void copy_kernel(const int* in, int* out) {
  __shared__ int tile[2][32];
  for (int stage = 0; stage < 2; ++stage) {
    const auto to = static_cast<unsigned>(__cvta_generic_to_shared(&tile[stage][threadIdx.x]));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(in + 32 * stage + threadIdx.x));
    asm volatile("cp.async.commit_group;");
  }
  if constexpr (fault == Fault::WeakWait) {
    asm volatile("cp.async.wait_group 1;");
  } else {
    asm volatile("cp.async.wait_group 0;");
  }
  __syncwarp();
  out[threadIdx.x] = tile[1][threadIdx.x];
}

template <Fault fault>
__global__ void warp_kernel(int* out) {
  __shared__ int tile[32];
  tile[threadIdx.x] = static_cast<int>(threadIdx.x);
  if constexpr (fault != Fault::NoWarpSync) __syncwarp();
  out[threadIdx.x] = *static_cast<const volatile int*>(&tile[31 - threadIdx.x]);
}

// Loads a word that nobody needs, so that it is in a cache.
template <Fault fault>
__global__ void touch_kernel(const std::uint32_t* in, int* out) {
  const std::uint32_t word = in[threadIdx.x];
  if constexpr (fault == Fault::UnreadLoad)
    asm volatile("" ::"r"(word));  // no instruction of PTX
  else
    higgs::gpu::wait_for(word);
  out[threadIdx.x] = 1;
}

// A tile of 32 x 32 through shared memory, rows `Stride` apart; each number is read `Loads` times.
template <int Stride, int Loads>
__global__ void transpose_kernel(const int* in, int* out) {
  __shared__ int tile[32 * Stride];
  const int lane = static_cast<int>(threadIdx.x);
  for (int row = 0; row < 32; ++row)
    for (int load = 0; load < Loads; ++load)
      tile[row * Stride + lane] = static_cast<const volatile int*>(in)[row * 32 + lane];
  __syncwarp();
  for (int row = 0; row < 32; ++row) out[row * 32 + lane] = tile[lane * Stride + row];
}

template <Fault fault>
std::string failure_of_block(std::uint32_t seed = 1) {
  const DeviceArray<int> in(std::vector<int>(128, 1)), out(std::vector<int>(128));
  return failure_of([&] { block_kernel<fault><<<2, 128>>>(in.data(), out.data()); }, seed);
}

}  // namespace

TEST_CASE("faults of a block are seen, and a sound one is not accused", "[emulator][launch]") {
  if (!emulator::in_use) return;
  // Both blocks write the same output: that is a race between blocks.
  CHECK_THAT(failure_of_block<Fault::None>(), Contains("write after unordered write"));
  CHECK_THAT(failure_of_block<Fault::OutOfBounds>(), Contains("outside every allocation"));
  CHECK_THAT(failure_of_block<Fault::Misaligned>(), Contains("misaligned address"));
  CHECK_THAT(failure_of_block<Fault::Deadlock>(), Contains("deadlock in block"));
  const emulator::Options before = emulator::options();
  emulator::options().max_steps = 10000;
  CHECK_THAT(failure_of_block<Fault::Endless>(), Contains("more than 10000 warp instructions"));
  emulator::options() = before;
}

TEST_CASE("races in shared memory are seen", "[emulator][launch]") {
  if (!emulator::in_use) return;
  const DeviceArray<int> in(std::vector<int>(128, 1)), out(std::vector<int>(128));
  CHECK(failure_of([&] { block_kernel<Fault::None><<<1, 128>>>(in.data(), out.data()); }) == "");
  CHECK_THAT(failure_of([&] { block_kernel<Fault::NoBarrier><<<1, 128>>>(in.data(), out.data()); }),
             Contains("unordered") && Contains("source line"));
  CHECK_THAT(failure_of([&] { block_kernel<Fault::Uninitialised><<<1, 128>>>(in.data(), out.data()); }),
             Contains("uninitialised shared memory"));
}

TEST_CASE("blocks are ordered by fence and atomic, and by nothing less", "[emulator][launch]") {
  const DeviceArray<int> parts(std::vector<int>(8 * 64)), sum(std::vector<int>(64));
  const DeviceArray<unsigned> arrived({0});
  for (std::uint32_t seed = 0; seed < 5; ++seed) {
    CHECK(failure_of(
              [&] { last_block_kernel<Fault::None><<<8, 64>>>(parts.data(), arrived.data(), sum.data()); },
              seed) == "");
    const auto result = sum.host();
    for (int t = 0; t < 64; ++t) CHECK(result[static_cast<std::size_t>(t)] == 28 + 8 * t);
    CHECK(arrived.host()[0] == 0);
  }
  if (!emulator::in_use) return;
  CHECK_THAT(failure_of([&] {
               last_block_kernel<Fault::NoFence><<<8, 64>>>(parts.data(), arrived.data(), sum.data());
             }),
             Contains("read after unordered write"));
}

TEST_CASE("a wait that is too weak gives what was not yet copied", "[emulator][launch]") {
  std::vector<int> numbers(64);
  for (int i = 0; i < 64; ++i) numbers[static_cast<std::size_t>(i)] = i;
  const DeviceArray<int> in(numbers), out(std::vector<int>(32));
  copy_kernel<Fault::None><<<1, 32>>>(in.data(), out.data());
  CHECK(out.host() == std::vector<int>(numbers.begin() + 32, numbers.end()));
  if (!emulator::in_use) return;
  copy_kernel<Fault::WeakWait><<<1, 32>>>(in.data(), out.data());
  CHECK(out.host() == std::vector<int>(32, -1));
}

TEST_CASE("a load that nothing reads, which ptxas removes, is refused", "[emulator][launch]") {
  const DeviceArray<std::uint32_t> in(std::vector<std::uint32_t>(32, 0x80008000u));
  const DeviceArray<int> out(std::vector<int>(32));
  CHECK(failure_of([&] { touch_kernel<Fault::None><<<1, 32>>>(in.data(), out.data()); }) == "");
  CHECK(out.host() == std::vector<int>(32, 1));
  if (!emulator::in_use) return;
  CHECK_THAT(failure_of([&] { touch_kernel<Fault::UnreadLoad><<<1, 32>>>(in.data(), out.data()); }),
             Contains("nothing reads what it loads"));
}

TEST_CASE("lanes that run apart show a missing __syncwarp", "[emulator][launch]") {
  if (!emulator::in_use) return;
  int wrong_with = 0, wrong_without = 0;
  for (std::uint32_t seed = 1; seed <= 40; ++seed) {
    emulator::options().seed = seed;
    std::vector<int> expected(32);
    for (int i = 0; i < 32; ++i) expected[static_cast<std::size_t>(i)] = 31 - i;
    const DeviceArray<int> out(std::vector<int>(32));
    warp_kernel<Fault::None><<<1, 32>>>(out.data());
    wrong_with += out.host() != expected ? 1 : 0;
    warp_kernel<Fault::NoWarpSync><<<1, 32>>>(out.data());
    wrong_without += out.host() != expected ? 1 : 0;
  }
  emulator::options().seed = 0;
  CHECK(wrong_with == 0);
  CHECK(wrong_without > 0);
}

TEST_CASE("a stride that conflicts and a load too many are counted", "[emulator][launch]") {
  if (!emulator::in_use) return;
  const DeviceArray<int> in(std::vector<int>(1024, 1)), out(std::vector<int>(1024));
  const auto counters_of = [&](auto kernel) {
    emulator::clear_launches();
    kernel<<<1, 32>>>(in.data(), out.data());
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    return emulator::launches().back().counters;
  };
  const emulator::Counters sound = counters_of(transpose_kernel<33, 1>);
  CHECK(sound.shared_passes == 64);
  CHECK(sound.shared_passes == sound.shared_passes_ideal);
  CHECK(sound.sectors_read == 1024 * 4 / 32);
  CHECK(sound.sectors_written == 1024 * 4 / 32);
  const emulator::Counters conflicts = counters_of(transpose_kernel<32, 1>);
  CHECK(conflicts.shared_passes == 32 + 32 * 32);  // one store a pass, 32 passes a load
  CHECK(conflicts.shared_passes_ideal == 64);
  CHECK(counters_of(transpose_kernel<33, 2>).sectors_read == 2 * sound.sectors_read);
}

TEST_CASE("a launch that the device could not take is refused", "[emulator][launch]") {
  const DeviceArray<int> in(std::vector<int>(128, 1)), out(std::vector<int>(128));
  block_kernel<Fault::None><<<1, 2048>>>(in.data(), out.data());
  CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration);
  block_kernel<Fault::None><<<1, 128, 60000>>>(in.data(), out.data());
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
  REQUIRE(cudaFuncSetAttribute(block_kernel<Fault::None>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               60000) == cudaSuccess);
  block_kernel<Fault::None><<<1, 128, 60000>>>(in.data(), out.data());
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
}
