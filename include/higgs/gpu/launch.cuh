// SPDX-License-Identifier: Apache-2.0
// Launches of kernels, and the facts of a device that they depend on.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/gpu/error.cuh>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// The architectures that a translation unit is compiled for. Every template that launches a kernel has them as a
/// parameter: so the linker never merges the launchers of two objects that were built for different architectures,
/// whose kernels differ.
template <int... Archs>
struct Architectures {};
#if defined(__CUDA_ARCH_LIST__)
using BuiltFor = Architectures<__CUDA_ARCH_LIST__>;
#else
using BuiltFor = Architectures<>;
#endif

/// The facts of a device that plans depend on: asked once, kept by the caller.
struct Device {
  int multiprocessors = 0;
  int shared_bytes = 0;  // shared memory that one block may have
  int architecture = 0;  // compute capability: 90 for sm_90
};

/// The properties of the current device.
inline Device current_device() {
  int id = 0;
  Device device;
  check(cudaGetDevice(&id), "higgs::gpu::current_device");
  check(cudaDeviceGetAttribute(&device.multiprocessors, cudaDevAttrMultiProcessorCount, id),
        "higgs::gpu::current_device");
  check(cudaDeviceGetAttribute(&device.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, id),
        "higgs::gpu::current_device");
  int major = 0, minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, id), "higgs::gpu::current_device");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, id), "higgs::gpu::current_device");
  device.architecture = 10 * major + minor;
  return device;
}

/// count / each, rounded up.
HIGGS_HOST_DEVICE constexpr std::int64_t ceil_div(std::int64_t count, std::int64_t each) noexcept {
  return (count + each - 1) / each;
}

/// Puts kernel(args...) on `stream`; throws CudaError if the launch is refused. Launches nothing for an empty
/// grid.
template <class... Params, class... Args>
void launch(void (*kernel)(Params...), dim3 grid, int threads, std::size_t shared, cudaStream_t stream,
            Args... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared > 48 * 1024)  // above it a kernel has to ask
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
          "higgs::gpu::launch: shared memory");
  kernel<<<grid, static_cast<unsigned>(threads), shared, stream>>>(static_cast<Params>(args)...);
  check(cudaGetLastError(), "higgs::gpu::launch");
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
