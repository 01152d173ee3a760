// SPDX-License-Identifier: Apache-2.0
// How kernels are timed on a GPU: CUDA events around a graph of the launches, as engines run them, with the
// cache emptied before each; the median of many. The limits are measured in the same process: a copy for
// bytes, cuBLAS for fp16.
#pragma once
#include <higgs/gpu/error.cuh>
#include <higgs/gpu/matrix.cuh>

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <vector>

namespace bench {

using higgs::gpu::check;

/// A stream, freed with the object.
class Stream {
 public:
  Stream() { check(cudaStreamCreate(&stream_), "cudaStreamCreate"); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { static_cast<void>(cudaStreamDestroy(stream_)); }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// The median time of launches of a graph, in microseconds, after two that warm up; prepare() is called before each and
/// does not count.
template <class Prepare>
double median_launch_us(cudaGraphExec_t work, cudaStream_t stream, int repetitions, const Prepare& prepare) {
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin), "cudaEventCreate");
  check(cudaEventCreate(&end), "cudaEventCreate");
  std::vector<float> times;
  for (int k = 0; k < repetitions + 2; ++k) {
    prepare(k);
    check(cudaEventRecord(begin, stream), "cudaEventRecord");
    check(cudaGraphLaunch(work, stream), "cudaGraphLaunch");
    check(cudaEventRecord(end, stream), "cudaEventRecord");
    check(cudaEventSynchronize(end), "cudaEventSynchronize");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
    if (k >= 2) times.push_back(ms * 1e3f);
  }
  check(cudaEventDestroy(begin), "cudaEventDestroy");
  check(cudaEventDestroy(end), "cudaEventDestroy");
  std::nth_element(times.begin(), times.begin() + repetitions / 2, times.end());
  return static_cast<double>(times[static_cast<std::size_t>(repetitions / 2)]);
}
inline double median_launch_us(cudaGraphExec_t work, cudaStream_t stream, int repetitions) {
  return median_launch_us(work, stream, repetitions, [](int) {});
}

/// Times work on one stream. `thorough` off: small buffers and one repetition, to see that all of it runs.
class Stopwatch {
 public:
  explicit Stopwatch(bool thorough) : repetitions_(thorough ? 51 : 1) {
    int cache = 0;
    check(cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, 0), "L2 cache size");
    const std::size_t beyond = std::max(std::size_t{64} << 20, 2 * static_cast<std::size_t>(cache));
    flushed_ = higgs::gpu::DeviceBuffer<std::byte>(thorough ? beyond : 1024);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  /// Microseconds of launch(stream), captured once.
  template <class Launch>
  double median_us(const Launch& launch) const {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t work = nullptr;
    launch(stream_);  // what a library makes at its first call
    check(cudaStreamSynchronize(stream_), "warm-up");
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    launch(stream_);
    check(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
    check(cudaGraphInstantiate(&work, graph, 0), "cudaGraphInstantiate");
    const double us = median_launch_us(work, stream_, repetitions_, [&](int k) {
      check(cudaMemsetAsync(flushed_.data(), k, flushed_.size_bytes(), stream_), "cudaMemsetAsync");
    });
    check(cudaGraphExecDestroy(work), "cudaGraphExecDestroy");
    check(cudaGraphDestroy(graph), "cudaGraphDestroy");
    return us;
  }

  /// GB/s of a copy on the device, bytes read and written together: what memory gives at most here.
  double copy_rate() const {
    const std::size_t bytes = repetitions_ > 1 ? std::size_t{512} << 20 : 4096;
    const higgs::gpu::DeviceBuffer<std::byte> from(bytes), to(bytes);
    const double us = median_us([&](cudaStream_t stream) {
      check(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, stream),
            "cudaMemcpyAsync");
    });
    return 2e-3 * static_cast<double>(bytes) / us;
  }

 private:
  int repetitions_;
  Stream stream_;
  higgs::gpu::DeviceBuffer<std::byte> flushed_;
};

}  // namespace bench
