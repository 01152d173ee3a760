// SPDX-License-Identifier: Apache-2.0
// Launches of kernels, and the facts of a device that they depend on.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/gpu/error.cuh>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <tuple>

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
  int multiprocessors = 0;        // as the driver counts them: fewer in a MIG instance
  int shared_bytes = 0;           // shared memory that one block may have
  int architecture = 0;           // compute capability: 90 for sm_90
  int reserved_shared_bytes = 0;  // shared memory in front of each block's that CUDA keeps for itself
  int id = -1;                    // as cudaSetDevice takes it; -1: not known
};

/// The properties of the current device.
inline Device current_device() {
  int id = 0;
  Device device;
  check(cudaGetDevice(&id), "higgs::gpu::current_device");
  device.id = id;
  check(cudaDeviceGetAttribute(&device.multiprocessors, cudaDevAttrMultiProcessorCount, id),
        "higgs::gpu::current_device");
  check(cudaDeviceGetAttribute(&device.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, id),
        "higgs::gpu::current_device");
  check(cudaDeviceGetAttribute(&device.reserved_shared_bytes, cudaDevAttrReservedSharedMemoryPerBlock, id),
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

/// The virtual architecture of the code that the current device runs for a kernel: 80 for compute_80. Macros such as
/// __CUDA_ARCH__ had its value: a program without code for the device runs that of an older one.
template <class... Params>
int compiled_for(void (*kernel)(Params...)) {
  cudaFuncAttributes facts = {};
  check(cudaFuncGetAttributes(&facts, reinterpret_cast<const void*>(kernel)), "higgs::gpu::compiled_for");
  return facts.ptxVersion;
}

/// What a launch may ask for beside its grid, on sm_90 or later.
struct LaunchOptions {
  /// Blocks of a cluster along x, a divisor of grid.x; 1: no clusters.
  unsigned cluster = 1;
  /// Programmatic dependent launch (CUDA Programming Guide): the kernel may begin before the kernel in front of it on the
  /// stream ends. It must execute griddepcontrol.wait before it touches what earlier work on the stream writes or reads.
  /// In a stream that is captured a kernel must be in front of it, if anything is: the programmatic edges of a graph lead
  /// from kernels to kernels alone (CUDA Runtime API, cudaGraphDependencyType).
  bool overlaps_previous = false;
};

namespace detail {

/// Lets the blocks of a kernel have as much dynamic shared memory as the current device gives to one: above 48 KiB CUDA
/// wants each kernel to ask (CUDA Programming Guide, "Shared Memory"). All launches ask for the same number, so a thread
/// that launches a kernel with few bytes never takes from another thread what that one has just asked for.
inline void ask_for_shared_memory(const void* kernel) {
  constexpr const char* call = "higgs::gpu::launch: shared memory";
  cudaFuncAttributes facts = {};
  check(cudaFuncGetAttributes(&facts, kernel), call);
  int device = 0, most = 0;
  check(cudaGetDevice(&device), call);
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), call);
  most -= static_cast<int>(facts.sharedSizeBytes);
  if (facts.maxDynamicSharedSizeBytes < most)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most), call);
}

}  // namespace detail

/// Puts kernel(args...) on `stream`. Launches nothing for an empty grid. Throws CudaError if CUDA refuses this launch;
/// errors that earlier calls left for cudaGetLastError are neither reported nor cleared. Threads may launch one kernel at
/// the same time.
template <class... Params, class... Args>
void launch(const LaunchOptions& options, void (*kernel)(Params...), dim3 grid, int threads,
            std::size_t shared, cudaStream_t stream, Args... args) {
  static_assert(sizeof...(Params) == sizeof...(Args));
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  const auto* function = reinterpret_cast<const void*>(kernel);
  if (shared > 48 * 1024) detail::ask_for_shared_memory(function);
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = attributes;
  if (options.cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs++].val.clusterDim = {options.cluster, 1, 1};
  }
  if (options.overlaps_previous) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
  }
  std::tuple<Params...> values(static_cast<Params>(args)...);
  std::apply(
      [&](auto&... value) {
        void* pointers[] = {static_cast<void*>(&value)..., nullptr};
        check(cudaLaunchKernelExC(&config, function, pointers), "higgs::gpu::launch");
      },
      values);
}
/// The same without options.
template <class... Params, class... Args>
void launch(void (*kernel)(Params...), dim3 grid, int threads, std::size_t shared, cudaStream_t stream,
            Args... args) {
  launch(LaunchOptions{}, kernel, grid, threads, shared, stream, args...);
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
