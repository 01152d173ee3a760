// SPDX-License-Identifier: Apache-2.0
// What device.hpp promises, in a build with CUDA.
#include "device/decoder.cuh"
#include "device/device.hpp"
#include "device/generator.cuh"
#include "device/memory.hpp"
#include "device/network.cuh"

#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/gpu/error.cuh>

#include <algorithm>
#include <string>

namespace higgs::model {
namespace {

// Throws InvalidArgument if the model, with the texts that the options speak of, does not fit.
void check_room(const ModelSource& source, const DeviceOptions& options) {
  const std::string name = source.path().string();
  const ModelConfig& config = source.require_config();
  require_shapes(name, config);
  const std::int64_t tokens = std::clamp<std::int64_t>(options.tokens, 1, config.context);
  const DecoderSize size{.rows = std::max(options.texts, std::min(tokens, options.chunk)),
                         .sequences = options.texts,
                         .capacity = tokens,
                         .logit_rows = 64};
  DeviceNeeds needs = device_needs(source, options, size);
  needs.copies = copies_bytes(config, needs, options.copies);
  require_memory(name, needs, free_device_memory());
}

bool runs_in_bf16(const ModelSource& source, const DeviceOptions& options) {
  const DeviceType type = options.type == DeviceType::OfModel ? type_of(source) : options.type;
  return type == DeviceType::Bf16;
}

// Has code for the architectures of all kernels of this build.
__global__ void any_kernel() {}

#define HIGGS_TEXT_OF(...) #__VA_ARGS__
#define HIGGS_ARCHITECTURES(list) HIGGS_TEXT_OF(list)

}  // namespace

void require_device() {
  int count = 0, device = 0, major = 0, minor = 0;
  gpu::check(cudaGetDeviceCount(&count), "--device cuda: no GPU can be used");
  gpu::check(cudaGetDevice(&device), "--device cuda");
  gpu::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "--device cuda");
  gpu::check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "--device cuda");
  const std::string capability = std::to_string(major) + "." + std::to_string(minor);
  if (major < 8)
    throw InvalidArgument("--device cuda: the GPU has compute capability " + capability +
                          "; kernels need 8.0 or later");
  cudaFuncAttributes facts = {};
  const cudaError_t found = cudaFuncGetAttributes(&facts, reinterpret_cast<const void*>(&any_kernel));
  if (found == cudaErrorNoKernelImageForDevice || found == cudaErrorUnsupportedPtxVersion) {
    static_cast<void>(cudaGetLastError());  // the error is told here
    throw InvalidArgument("--device cuda: the GPU has compute capability " + capability + ", and " +
                          cudaGetErrorString(found) + ": this higgs-model has code for architectures " +
                          HIGGS_ARCHITECTURES((__CUDA_ARCH_LIST__)) +
                          "; -DCMAKE_CUDA_ARCHITECTURES=native builds it for the GPU at hand");
  }
  gpu::check(found, "--device cuda");
}

std::unique_ptr<Network> open_device_network(const ModelSource& source, const DeviceOptions& options,
                                             Executor& executor) {
  check_room(source, options);
  if (runs_in_bf16(source, options))
    return std::make_unique<DeviceNetwork<BFloat16>>(source, options, executor);
  return std::make_unique<DeviceNetwork<Half>>(source, options, executor);
}

std::unique_ptr<DeviceGenerator> open_device_generator(const ModelSource& source,
                                                       const DeviceOptions& options, Executor& executor) {
  check_room(source, options);
  if (runs_in_bf16(source, options))
    return std::make_unique<ModelGenerator<BFloat16>>(source, options, executor);
  return std::make_unique<ModelGenerator<Half>>(source, options, executor);
}

}  // namespace higgs::model
