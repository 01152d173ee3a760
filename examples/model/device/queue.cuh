// SPDX-License-Identifier: Apache-2.0
// How kernels of a decoder follow each other on a stream.
#pragma once

#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>

#include <cuda_runtime.h>

namespace higgs::model {

/// A stream for kernels that begin with begin_kernel(). Where launches overlap (programmatic dependent launch, CUDA
/// Programming Guide), a kernel begins while the one in front still runs, and waits for its end before it touches memory.
struct Queue {
  cudaStream_t stream = nullptr;
  bool overlaps = false;

  Queue(cudaStream_t on, bool launches_overlap = false) : stream(on), overlaps(launches_overlap) {}
  gpu::LaunchOptions options() const noexcept { return {.overlaps_previous = overlaps}; }
};

/// The first statement of a kernel that a Queue launches: the next one may begin, and all before have ended.
__device__ inline void begin_kernel() {
  gpu::allow_next_kernel();
  gpu::wait_for_previous_kernel();
}

namespace detail {
template <class Archs>
__global__ void waiting_kernel() {
  begin_kernel();
}
}  // namespace detail

/// Whether a Queue of this device may overlap: from compute capability 9.0 on, where the code of the program can wait.
/// A program without code for sm_90 or later runs that of an older architecture there, which cannot.
template <class Archs = gpu::BuiltFor>
bool launches_can_overlap(const gpu::Device& device) {
  return device.architecture >= 90 && gpu::compiled_for(detail::waiting_kernel<Archs>) >= 90;
}

}  // namespace higgs::model
