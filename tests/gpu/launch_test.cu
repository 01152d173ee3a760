// SPDX-License-Identifier: Apache-2.0
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>

#include <atomic>
#include <catch2/catch.hpp>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <thread>
#include <vector>

#include "emulator/emulator.hpp"

namespace {
namespace gpu = higgs::gpu;

__global__ void add_kernel(int* values, int by) { values[threadIdx.x] += by; }

__global__ void architecture_kernel(int* value) {
#if defined(__CUDA_ARCH__)
  *value = __CUDA_ARCH__;
#endif
}

// out = the last of so many words of shared memory, which has the number of words.
__global__ void last_word_kernel(std::uint32_t words, std::uint32_t* out) {
  extern __shared__ std::uint32_t space[];
  space[words - 1] = words;
  *out = space[words - 1];
}

// The same beside 1 KiB that the kernel has of its own: out = 7 more.
__global__ void last_own_word_kernel(std::uint32_t words, std::uint32_t* out) {
  __shared__ std::uint32_t own[256];
  extern __shared__ std::uint32_t space[];
  own[words % 256] = 7;
  space[words - 1] = words;
  *out = space[words - 1] + own[words % 256];
}

// griddepcontrol.wait, then out = in.
template <bool Waits>
__global__ void copy_kernel(const int* in, int* out) {
#if __CUDA_ARCH__ >= 900 || defined(HIGGS_EMULATED)
  if constexpr (Waits) asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  out[threadIdx.x] = in[threadIdx.x];
}

// An error that stays for cudaGetLastError, as an engine that polls an event leaves cudaErrorNotReady.
void leave_an_error() { REQUIRE(cudaSetDevice(-1) == cudaErrorInvalidDevice); }

}  // namespace

TEST_CASE("an error that the caller's calls left is neither reported by a launch nor cleared",
          "[gpu][launch]") {
  const auto values = gpu::DeviceBuffer<int>::zeros(32);
  leave_an_error();
  CHECK_NOTHROW(gpu::launch(add_kernel, dim3(1), 32, 0, nullptr, values.data(), 5));
  CHECK_NOTHROW(gpu::launch(add_kernel, dim3(1), 32, 0, nullptr, values.data(), 2));
  CHECK(cudaGetLastError() == cudaErrorInvalidDevice);
  CHECK(values.to_host() == std::vector<int>(32, 7));
}

TEST_CASE("a launch that is refused says so once, and whatever else was wrong before", "[gpu][launch]") {
  const auto values = gpu::DeviceBuffer<int>::zeros(32);
  for (const bool after_an_error : {false, true}) {
    if (after_an_error) leave_an_error();
    const auto code_of = [&](int threads, std::size_t shared) {
      try {
        gpu::launch(add_kernel, dim3(1), threads, shared, nullptr, values.data(), 1);
      } catch (const gpu::CudaError& error) {
        return error.code;
      }
      return cudaSuccess;
    };
    CHECK(code_of(4096, 0) == cudaErrorInvalidConfiguration);
    CHECK(code_of(32, std::size_t{1} << 30) == cudaErrorInvalidValue);
    CHECK(cudaGetLastError() == cudaSuccess);
  }
  CHECK(values.to_host() == std::vector<int>(32, 0));
}

TEST_CASE("threads that launch one kernel with different sizes of shared memory do not refuse each other",
          "[gpu][launch]") {
  const std::uint32_t sizes[] = {13 << 10, 24 << 10, 12 << 10};  // words: 52, 96 and 48 KiB
  const auto out = gpu::DeviceBuffer<std::uint32_t>::zeros(3);
  constexpr int turns = 500;
  std::atomic<int> launches[3] = {}, refused[3] = {};
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < 3; ++i)
    threads.emplace_back([&, i] {
      while (launches[0] < turns || launches[1] < turns || launches[2] < turns) {  // so that all meet
        try {
          gpu::launch(last_word_kernel, dim3(1), 1, sizes[i] * 4, nullptr, sizes[i], out.data() + i);
        } catch (const gpu::CudaError&) {
          ++refused[i];
        }
        ++launches[i];
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const int count : refused) CHECK(count == 0);
  CHECK(out.to_host() == std::vector<std::uint32_t>(std::begin(sizes), std::end(sizes)));
}

TEST_CASE("a launch may have all shared memory of a block beside the kernel's own, and no more",
          "[gpu][launch]") {
  const auto out = gpu::DeviceBuffer<std::uint32_t>::zeros(1);
  const auto most = static_cast<std::uint32_t>(gpu::current_device().shared_bytes);
  gpu::launch(last_word_kernel, dim3(1), 1, most, nullptr, most / 4, out.data());
  CHECK(out.to_host()[0] == most / 4);
  gpu::launch(last_own_word_kernel, dim3(1), 1, most - 1024, nullptr, most / 4 - 256, out.data());
  CHECK(out.to_host()[0] == most / 4 - 256 + 7);
  CHECK_THROWS_AS(
      gpu::launch(last_own_word_kernel, dim3(1), 1, most - 1020, nullptr, most / 4 - 255, out.data()),
      gpu::CudaError);
}

TEST_CASE("the code of a kernel has the value of __CUDA_ARCH__", "[gpu][launch]") {
  const auto value = gpu::DeviceBuffer<int>::zeros(1);
  gpu::launch(architecture_kernel, dim3(1), 1, 0, nullptr, value.data());
  CHECK(10 * gpu::compiled_for(architecture_kernel) == value.to_host()[0]);
}

TEST_CASE("a launch takes the attributes of sm_90, and older devices refuse them", "[gpu][launch]") {
  const auto values = gpu::DeviceBuffer<int>::zeros(32);
  const emulator::Options before = emulator::options();
  const auto overlap = [&] {
    gpu::launch({.overlaps_previous = true}, add_kernel, dim3(1), 32, 0, nullptr, values.data(), 3);
  };
  if (emulator::in_use) {
    emulator::options().compute_capability = 80;
    CHECK_THROWS_AS(overlap(), gpu::CudaError);
    emulator::options().compute_capability = 90;
  }
  if (gpu::current_device().architecture >= 90) {
    for (int turn = 1; turn <= 2; ++turn) {
      overlap();
      CHECK(values.to_host() == std::vector<int>(32, 3 * turn));
    }
  }
  emulator::options() = before;
}

TEST_CASE("a kernel that begins before the one in front ends must wait before it touches what that one uses",
          "[gpu][launch]") {
  const emulator::Options before = emulator::options();
  emulator::options().compute_capability = 90;
  const auto values = gpu::DeviceBuffer<int>::zeros(32), copy = gpu::DeviceBuffer<int>::zeros(32),
             other = gpu::DeviceBuffer<int>::zeros(32);
  const auto fails = [](auto kernel, const gpu::DeviceBuffer<int>& from, const gpu::DeviceBuffer<int>& to) {
    try {
      gpu::launch({.overlaps_previous = true}, kernel, dim3(1), 32, 0, nullptr,
                  static_cast<const int*>(from.data()), to.data());
      return false;
    } catch (const gpu::CudaError&) {
      CHECK_THAT(emulator::last_failure(), Catch::Contains("no griddepcontrol.wait before"));
      emulator::forget_failure();
      return true;
    }
  };
  if (gpu::current_device().architecture >= 90) {
    for (int turn = 1; turn <= 20; ++turn) {
      gpu::launch(add_kernel, dim3(1), 32, 0, nullptr, values.data(), 1);
      CHECK(!fails(copy_kernel<true>, values, copy));
      CHECK(!fails(copy_kernel<true>, copy, other));
      CHECK(other.to_host() == std::vector<int>(32, turn));
    }
  }
  if (emulator::in_use) {
    const auto add = [&] { gpu::launch(add_kernel, dim3(1), 32, 0, nullptr, values.data(), 1); };
    add();
    CHECK(fails(copy_kernel<false>, values, copy));  // it reads what the launch in front writes
    add();
    CHECK(fails(copy_kernel<false>, copy, values));  // it writes what the launch in front reads
    add();
    CHECK(!fails(copy_kernel<true>, copy, other));
    CHECK(fails(copy_kernel<false>, values, copy));  // the first of a chain may still run
    add();
    CHECK(!fails(copy_kernel<false>, copy, other));  // nobody uses these
    add();
    gpu::check(cudaDeviceSynchronize(), "add_kernel");
    CHECK(!fails(copy_kernel<false>, values, copy));  // the launch in front has ended
  }
  emulator::options() = before;
}

TEST_CASE(
    "a captured launch overlaps a kernel in front of it, and the emulator refuses one behind other work",
    "[gpu][launch]") {
  const emulator::Options before = emulator::options();
  emulator::options().compute_capability = 90;
  const auto values = gpu::DeviceBuffer<int>::zeros(32), copy = gpu::DeviceBuffer<int>::zeros(32);
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  const auto overlap = [&] {
    gpu::launch({.overlaps_previous = true}, copy_kernel<true>, dim3(1), 32, 0, stream,
                static_cast<const int*>(values.data()), copy.data());
  };
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  if (gpu::current_device().architecture >= 90) {
    overlap();  // loads the kernel
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    overlap();  // nothing is in front of it
    gpu::launch(add_kernel, dim3(1), 32, 0, stream, values.data(), 2);
    overlap();
    if (emulator::in_use) {
      REQUIRE(cudaMemsetAsync(copy.data(), 0, copy.size_bytes(), stream) == cudaSuccess);
      CHECK_THROWS_AS(overlap(), gpu::CudaError);
      REQUIRE(cudaMemcpyAsync(copy.data(), values.data(), copy.size_bytes(), cudaMemcpyDeviceToDevice,
                              stream) == cudaSuccess);
      CHECK_THROWS_AS(overlap(), gpu::CudaError);
    }
    REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
    for (int turn = 1; turn <= 20; ++turn) {
      REQUIRE(cudaGraphLaunch(executable, stream) == cudaSuccess);
      CHECK(copy.to_host(stream) == std::vector<int>(32, 2 * turn));
    }
    REQUIRE(cudaGraphExecDestroy(executable) == cudaSuccess);
    REQUIRE(cudaGraphDestroy(graph) == cudaSuccess);
  }
  REQUIRE(cudaStreamDestroy(stream) == cudaSuccess);
  emulator::options() = before;
}
