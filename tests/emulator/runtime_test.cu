// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime.h>

#include <catch2/catch.hpp>
#include <numeric>
#include <vector>

#include "device_array.cuh"
#include "emulator.hpp"

namespace {

__global__ void reverse_kernel(const int* in, int* out, int count) {
  extern __shared__ int tile[];
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) tile[threadIdx.x] = in[i];
  __syncthreads();
  const int from = static_cast<int>(blockDim.x - 1 - threadIdx.x);
  const int source = static_cast<int>(blockIdx.x * blockDim.x) + from;
  if (i < count) out[i] = source < count ? tile[from] : -1;
}

__global__ void add_one_kernel(int* values) { ++values[threadIdx.x]; }

using Buffer = emulator::DeviceArray<int>;

}  // namespace

TEST_CASE("a kernel with barriers and dynamic shared memory gives what its source says",
          "[emulator][runtime]") {
  std::vector<int> numbers(100);
  std::iota(numbers.begin(), numbers.end(), 0);
  const Buffer in(numbers), out(std::vector<int>(100, 0));
  emulator::clear_launches();
  reverse_kernel<<<2, 64, 64 * sizeof(int)>>>(in.data(), out.data(), 100);
  REQUIRE(cudaGetLastError() == cudaSuccess);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  const std::vector<int> result = out.host();
  for (int i = 0; i < 100; ++i) {
    const int source = i / 64 * 64 + 63 - i % 64;
    REQUIRE(result[static_cast<std::size_t>(i)] == (source < 100 ? source : -1));
  }
  if (!emulator::in_use) return;
  const emulator::Counters counters = emulator::launches().at(0).counters;
  CHECK(counters.bytes_read == 400);
  CHECK(counters.sectors_read == 13);
  CHECK(counters.sectors_written == 13);
  CHECK(counters.shared_passes == counters.shared_passes_ideal);
  CHECK(counters[emulator::Class::SharedStore] == 4);
  CHECK(counters[emulator::Class::Mma] == 0);
}

TEST_CASE("a captured graph runs when launched, as often as launched", "[emulator][runtime]") {
  const Buffer values(std::vector<int>(32, 5));
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  add_one_kernel<<<1, 32, 0, stream>>>(values.data());
  add_one_kernel<<<1, 32, 0, stream>>>(values.data());
  REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  CHECK(values.host() == std::vector<int>(32, 5));
  REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
  for (int i = 0; i < 3; ++i) REQUIRE(cudaGraphLaunch(executable, stream) == cudaSuccess);
  REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
  CHECK(values.host() == std::vector<int>(32, 11));
  REQUIRE(cudaGraphExecDestroy(executable) == cudaSuccess);
  REQUIRE(cudaGraphDestroy(graph) == cudaSuccess);
  REQUIRE(cudaStreamDestroy(stream) == cudaSuccess);
}

TEST_CASE("allocating while a stream is captured is refused", "[emulator][runtime]") {
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  void* p = nullptr;
  REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  CHECK(cudaMalloc(&p, 4) == cudaErrorStreamCaptureUnsupported);
  cudaStreamEndCapture(stream, &graph);
  CHECK(cudaGetLastError() != cudaSuccess);
  if (graph != nullptr) cudaGraphDestroy(graph);
  REQUIRE(cudaStreamDestroy(stream) == cudaSuccess);
}
