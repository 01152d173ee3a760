// SPDX-License-Identifier: Apache-2.0
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>

#include <catch2/catch.hpp>
#include <cstddef>
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
