// SPDX-License-Identifier: Apache-2.0
// Owners of a stream, a graph, an event and page-locked host memory, a clock, and what device memory is free.
#pragma once

#include <higgs/gpu/error.cuh>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

namespace higgs::model {

struct DestroyCuda {
  void operator()(cudaStream_t stream) const noexcept { static_cast<void>(cudaStreamDestroy(stream)); }
  void operator()(cudaEvent_t event) const noexcept { static_cast<void>(cudaEventDestroy(event)); }
  void operator()(cudaGraph_t graph) const noexcept { static_cast<void>(cudaGraphDestroy(graph)); }
  void operator()(cudaGraphExec_t graph) const noexcept { static_cast<void>(cudaGraphExecDestroy(graph)); }
};
using Stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, DestroyCuda>;
using Event = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, DestroyCuda>;
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, DestroyCuda>;

/// A stream that waits for no other.
inline Stream make_stream() {
  cudaStream_t stream = nullptr;
  gpu::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "higgs::model::make_stream");
  return Stream(stream);
}

inline Event make_event() {
  cudaEvent_t event = nullptr;
  gpu::check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "higgs::model::make_event");
  return Event(event);
}

/// The times at which the work of a stream passes marks.
class StreamClock {
 public:
  /// Keeps the times of the last `kept` marks.
  explicit StreamClock(std::int64_t kept) {
    for (std::int64_t i = 0; i < kept; ++i) {
      cudaEvent_t event = nullptr;
      gpu::check(cudaEventCreate(&event), "higgs::model::StreamClock");
      marks_.emplace_back(event);
    }
  }
  /// Puts the next mark on the stream: they count from 0.
  void mark_async(cudaStream_t stream) {
    gpu::check(cudaEventRecord(at(count_++), stream), "higgs::model::StreamClock::mark_async");
  }
  /// Seconds between two marks that are kept and that the stream has passed.
  double seconds(std::int64_t from, std::int64_t to) const {
    float milliseconds = 0;
    gpu::check(cudaEventElapsedTime(&milliseconds, at(from), at(to)), "higgs::model::StreamClock::seconds");
    return static_cast<double>(milliseconds) / 1000;
  }

 private:
  cudaEvent_t at(std::int64_t mark) const {
    return marks_[static_cast<std::size_t>(mark) % marks_.size()].get();
  }
  std::vector<Event> marks_;
  std::int64_t count_ = 0;
};

/// Bytes of device memory that can be allocated.
inline std::int64_t free_device_memory() {
  std::size_t free = 0, total = 0;
  gpu::check(cudaMemGetInfo(&free, &total), "higgs::model::free_device_memory");
  return static_cast<std::int64_t>(free);
}

/// A graph of what work() puts on the stream; nothing of it runs.
template <class Work>
Graph capture(cudaStream_t stream, Work&& work) {
  gpu::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "higgs::model::capture");
  cudaGraph_t captured = nullptr;
  try {
    work();
  } catch (...) {
    static_cast<void>(cudaStreamEndCapture(stream, &captured));
    if (captured) static_cast<void>(cudaGraphDestroy(captured));
    throw;
  }
  gpu::check(cudaStreamEndCapture(stream, &captured), "higgs::model::capture");
  const std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, DestroyCuda> graph(captured);
  cudaGraphExec_t executable = nullptr;
  gpu::check(cudaGraphInstantiate(&executable, captured, 0), "higgs::model::capture");
  return Graph(executable);
}

/// Page-locked host memory, to which copies from the device run beside kernels.
template <class T>
class PinnedBuffer {
 public:
  explicit PinnedBuffer(std::size_t size) : size_(size) {
    void* memory = nullptr;
    gpu::check(cudaMallocHost(&memory, size * sizeof(T)), "higgs::model::PinnedBuffer");
    data_.reset(static_cast<T*>(memory));
  }
  T* data() const noexcept { return data_.get(); }
  std::span<const T> span() const noexcept { return {data_.get(), size_}; }

 private:
  struct Free {
    void operator()(T* memory) const noexcept { static_cast<void>(cudaFreeHost(memory)); }
  };
  std::unique_ptr<T, Free> data_;
  std::size_t size_;
};

}  // namespace higgs::model
