// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime.h>

#include <algorithm>
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

namespace {

// Whatever a test leaves, streams do their work at once again.
struct LateStreams {
  emulator::Options before = emulator::options();
  LateStreams() { emulator::options().late = true; }
  LateStreams(const LateStreams&) = delete;
  LateStreams& operator=(const LateStreams&) = delete;
  ~LateStreams() {
    cudaDeviceSynchronize();
    emulator::options() = before;
  }
};

cudaStream_t new_stream(unsigned flags) {
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, flags) == cudaSuccess);
  return stream;
}

// What device memory holds, waiting for nothing.
std::vector<int> peek(const Buffer& values) {
  return emulator::in_use ? std::vector<int>(values.data(), values.data() + 32) : std::vector<int>();
}
const std::vector<int> zeros(32, 0), ones(32, 1), twos(32, 2);

}  // namespace

TEST_CASE("streams that are late work when something waits for them, in their order", "[emulator][runtime]") {
  if (!emulator::in_use) return;
  const Buffer a(zeros), b(zeros);
  const LateStreams late;
  cudaStream_t first = new_stream(cudaStreamNonBlocking), second = new_stream(cudaStreamNonBlocking);
  cudaEvent_t event = nullptr;
  REQUIRE(cudaEventCreate(&event) == cudaSuccess);
  add_one_kernel<<<1, 32, 0, first>>>(a.data());
  add_one_kernel<<<1, 32, 0, second>>>(b.data());
  REQUIRE(cudaEventRecord(event, second) == cudaSuccess);
  CHECK(peek(a) == zeros);
  CHECK(cudaStreamSynchronize(first) == cudaSuccess);
  CHECK(peek(a) == ones);
  CHECK(peek(b) == zeros);
  CHECK(cudaEventQuery(event) == cudaErrorNotReady);
  CHECK(cudaGetLastError() == cudaErrorNotReady);
  CHECK(cudaEventQuery(event) == cudaSuccess);
  CHECK(peek(b) == ones);
  add_one_kernel<<<1, 32, 0, second>>>(b.data());
  REQUIRE(cudaEventRecord(event, second) == cudaSuccess);
  REQUIRE(cudaStreamWaitEvent(first, event, 0) == cudaSuccess);
  REQUIRE(cudaMemcpyAsync(a.data(), b.data(), 128, cudaMemcpyDeviceToDevice, first) == cudaSuccess);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(peek(a) == twos);
  cudaEventDestroy(event);
  cudaStreamDestroy(first);
  cudaStreamDestroy(second);
}

TEST_CASE("events can tell the time by the kernels between them", "[emulator][runtime]") {
  if (!emulator::in_use) return;
  const Buffer a(zeros);
  cudaEvent_t begin = nullptr, end = nullptr;
  REQUIRE(cudaEventCreate(&begin) == cudaSuccess);
  REQUIRE(cudaEventCreate(&end) == cudaSuccess);
  emulator::options().launch_seconds = 0.5;
  REQUIRE(cudaEventRecord(begin, nullptr) == cudaSuccess);
  for (int i = 0; i < 3; ++i) add_one_kernel<<<1, 32>>>(a.data());
  REQUIRE(cudaEventRecord(end, nullptr) == cudaSuccess);
  emulator::options().launch_seconds = 0;
  float milliseconds = 0;
  REQUIRE(cudaEventElapsedTime(&milliseconds, begin, end) == cudaSuccess);
  CHECK(milliseconds == 1500);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
}

TEST_CASE("an upload from pageable memory lands when the legacy stream is waited for",
          "[emulator][runtime]") {
  if (!emulator::in_use) return;
  const Buffer a(zeros), b(zeros);
  const LateStreams late;
  cudaStream_t stream = new_stream(cudaStreamNonBlocking), blocking = new_stream(cudaStreamDefault);
  std::vector<int> host = ones;
  REQUIRE(cudaMemcpy(a.data(), host.data(), 128, cudaMemcpyHostToDevice) == cudaSuccess);
  host = twos;  // the upload has a copy
  REQUIRE(cudaMemcpyAsync(b.data(), a.data(), 128, cudaMemcpyDeviceToDevice, stream) == cudaSuccess);
  REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
  CHECK(peek(b) == zeros);  // the race of an upload that nobody waited for
  REQUIRE(cudaMemcpyAsync(b.data(), a.data(), 128, cudaMemcpyDeviceToDevice, blocking) == cudaSuccess);
  REQUIRE(cudaStreamSynchronize(blocking) == cudaSuccess);
  CHECK(peek(b) == ones);  // but blocking streams come behind the legacy stream
  cudaStreamDestroy(stream);
  cudaStreamDestroy(blocking);
}

TEST_CASE("a download waits for the legacy stream and its blocking ones, not for others",
          "[emulator][runtime]") {
  if (!emulator::in_use) return;
  const Buffer a(zeros);
  const LateStreams late;
  cudaStream_t stream = new_stream(cudaStreamNonBlocking), blocking = new_stream(cudaStreamDefault);
  std::vector<int> host(32, -1);
  add_one_kernel<<<1, 32, 0, stream>>>(a.data());
  REQUIRE(cudaMemcpy(host.data(), a.data(), 128, cudaMemcpyDeviceToHost) == cudaSuccess);
  CHECK(host == zeros);
  add_one_kernel<<<1, 32, 0, blocking>>>(a.data());
  REQUIRE(cudaMemcpy(host.data(), a.data(), 128, cudaMemcpyDeviceToHost) == cudaSuccess);
  CHECK(host == ones);
  REQUIRE(cudaMemcpyAsync(host.data(), a.data(), 128, cudaMemcpyDeviceToHost, stream) == cudaSuccess);
  CHECK(host == twos);
  cudaStreamDestroy(stream);
  cudaStreamDestroy(blocking);
}

TEST_CASE("pinned memory is read and written when the copy's turn comes", "[emulator][runtime]") {
  if (!emulator::in_use) return;
  const Buffer a(zeros);
  const LateStreams late;
  cudaStream_t stream = new_stream(cudaStreamNonBlocking);
  int* pinned = nullptr;
  REQUIRE(cudaMallocHost(reinterpret_cast<void**>(&pinned), 128) == cudaSuccess);
  std::copy(ones.begin(), ones.end(), pinned);
  REQUIRE(cudaMemcpyAsync(a.data(), pinned, 128, cudaMemcpyHostToDevice, stream) == cudaSuccess);
  std::copy(twos.begin(), twos.end(), pinned);  // too early
  REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
  CHECK(peek(a) == twos);
  add_one_kernel<<<1, 32, 0, stream>>>(a.data());
  REQUIRE(cudaMemcpyAsync(pinned, a.data(), 128, cudaMemcpyDeviceToHost, stream) == cudaSuccess);
  CHECK(std::equal(twos.begin(), twos.end(), pinned));
  REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
  CHECK(pinned[0] == 3);
  REQUIRE(cudaFreeHost(pinned) == cudaSuccess);
  cudaStreamDestroy(stream);
}

TEST_CASE("the device has as much memory as the options say, and counts allocations", "[emulator][runtime]") {
  if (!emulator::in_use) return;
  const std::uint64_t usual = emulator::options().memory_bytes;
  std::size_t before = 0, after = 0, total = 0;
  REQUIRE(cudaMemGetInfo(&before, &total) == cudaSuccess);
  CHECK(total == usual);
  const std::uint64_t count = emulator::allocations();
  void *kept = nullptr, *refused = nullptr;
  REQUIRE(cudaMalloc(&kept, 1000) == cudaSuccess);
  REQUIRE(cudaMemGetInfo(&after, &total) == cudaSuccess);
  CHECK(after == before - 1000);
  CHECK(emulator::allocations() == count + 1);
  emulator::options().memory_bytes = usual - after + 100;
  CHECK(cudaMalloc(&refused, 101) == cudaErrorMemoryAllocation);
  CHECK(refused == nullptr);
  CHECK(cudaMalloc(&refused, 100) == cudaSuccess);
  emulator::options().memory_bytes = usual;
  CHECK(cudaFree(kept) == cudaSuccess);
  CHECK(cudaFree(refused) == cudaSuccess);
  REQUIRE(cudaMemGetInfo(&after, &total) == cudaSuccess);
  CHECK(after == before);
  CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
}
