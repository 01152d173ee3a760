// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/config.hpp>

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#  error higgs kernels need sm_80 or later: set CMAKE_CUDA_ARCHITECTURES to 80 or more, or nvcc -arch=sm_80 (CUDA 13 takes sm_75 where nobody says)
#endif

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// The CUDA runtime refused a call or a kernel failed; the message has the call and the runtime's text.
struct CudaError : std::runtime_error {
  CudaError(cudaError_t error, const char* what)
      : std::runtime_error(std::string(what).append(": ").append(cudaGetErrorString(error))), code(error) {}
  cudaError_t code;
};

/// Throws CudaError unless `error`, which the CUDA call just returned, is cudaSuccess. `what` names the call. The
/// exception takes the error's place: cudaGetLastError does not tell it again, unless the context is lost.
inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  throw CudaError(error, what);
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
