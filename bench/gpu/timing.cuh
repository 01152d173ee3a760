// SPDX-License-Identifier: Apache-2.0
// How kernels are timed on a GPU: CUDA events around repeated launches, each with weights that are not in the L2 cache,
// the median of many. The limits are measured in the same process: memcpy for bytes, cuBLAS (where it is found) for fp16.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

namespace bench {

inline void check(cudaError_t e) {
  if (e != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(e));
}

/// Overwrites more memory than the L2 cache holds.
class CacheFlush {
 public:
  CacheFlush() {
    int l2 = 0;
    check(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, 0));
    bytes_ = std::max<std::size_t>(std::size_t{2} * static_cast<std::size_t>(l2), std::size_t{64} << 20);
    check(cudaMalloc(&data_, bytes_));
  }
  CacheFlush(const CacheFlush&) = delete;
  CacheFlush& operator=(const CacheFlush&) = delete;
  ~CacheFlush() { cudaFree(data_); }
  void operator()(cudaStream_t stream) const { check(cudaMemsetAsync(data_, 0, bytes_, stream)); }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// Median time of launch(stream) in microseconds, the cache flushed before each.
template <class Launch>
double median_us(const CacheFlush& flush, cudaStream_t stream, Launch launch, int repetitions = 51) {
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  std::vector<float> times;
  for (int k = 0; k < repetitions + 3; ++k) {  // the first three warm up
    flush(stream);
    check(cudaEventRecord(begin, stream));
    launch(stream);
    check(cudaEventRecord(end, stream));
    check(cudaEventSynchronize(end));
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end));
    if (k >= 3) times.push_back(ms * 1e3f);
  }
  check(cudaEventDestroy(begin));
  check(cudaEventDestroy(end));
  std::nth_element(times.begin(), times.begin() + repetitions / 2, times.end());
  return static_cast<double>(times[static_cast<std::size_t>(repetitions / 2)]);
}

/// Bytes a microsecond of a device-to-device copy, read and written ones together: what memory can give at most here.
inline double copy_bytes_per_us(const CacheFlush& flush, cudaStream_t stream,
                                std::size_t bytes = std::size_t{512} << 20) {
  void *from = nullptr, *to = nullptr;
  check(cudaMalloc(&from, bytes));
  check(cudaMalloc(&to, bytes));
  const double us = median_us(
      flush, stream,
      [&](cudaStream_t s) { check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, s)); }, 11);
  check(cudaFree(from));
  check(cudaFree(to));
  return 2.0 * static_cast<double>(bytes) / us;
}

}  // namespace bench
