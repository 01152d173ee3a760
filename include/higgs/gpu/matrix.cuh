// SPDX-License-Identifier: Apache-2.0
// Device memory: DeviceBuffer owns it on the host, DenseView is a matrix in it for kernels.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/gpu/error.cuh>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// A row-major matrix in device memory, not owned; rows begin `row_stride` elements after each other.
template <class T>
struct DenseView {
  T* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t row_stride = 0;

  constexpr DenseView() = default;
  constexpr DenseView(T* first, std::int64_t row_count, std::int64_t col_count) noexcept
      : DenseView(first, row_count, col_count, col_count) {}
  constexpr DenseView(T* first, std::int64_t row_count, std::int64_t col_count,
                      std::int64_t row_step) noexcept
      : data(first), rows(row_count), cols(col_count), row_stride(row_step) {}
  /// A view for reading, from a view for writing.
  template <class Mutable>
    requires(std::is_same_v<T, const Mutable> && !std::is_const_v<Mutable>)
  constexpr DenseView(const DenseView<Mutable>& other) noexcept
      : DenseView(other.data, other.rows, other.cols, other.row_stride) {}

  /// The first element of a row.
  HIGGS_HOST_DEVICE constexpr T* row(std::int64_t r) const noexcept { return data + r * row_stride; }
};

/// Owns device memory for `size` elements, whose contents are undefined until written.
template <class T>
class DeviceBuffer {
  static_assert(std::is_trivially_copyable_v<T>, "DeviceBuffer<T>: T is copied byte by byte");

 public:
  DeviceBuffer() = default;
  /// `size` elements; throws CudaError if the device has no room.
  explicit DeviceBuffer(std::size_t size) : size_(size) {
    void* memory = nullptr;
    if (size != 0) check(cudaMalloc(&memory, size * sizeof(T)), "higgs::gpu::DeviceBuffer: cudaMalloc");
    data_ = static_cast<T*>(memory);
  }
  /// `size` elements of zero bytes; returns when they are written.
  static DeviceBuffer zeros(std::size_t size) {
    DeviceBuffer out(size);
    if (size != 0) {
      check(cudaMemset(out.data_, 0, out.size_bytes()), "higgs::gpu::DeviceBuffer::zeros");
      check(cudaDeviceSynchronize(), "higgs::gpu::DeviceBuffer::zeros");
    }
    return out;
  }
  /// A copy of host memory, made on `stream`. It is complete when the constructor returns, so work on any stream may use
  /// it: the constructor waits for `stream`, because cudaMemcpy may return before pageable memory has arrived (CUDA
  /// Runtime API, "API synchronization behavior").
  explicit DeviceBuffer(std::span<const T> host, cudaStream_t stream = cudaStreamLegacy)
      : DeviceBuffer(host.size()) {
    if (host.empty()) return;
    check(cudaMemcpyAsync(data_, host.data(), host.size_bytes(), cudaMemcpyHostToDevice, stream),
          "higgs::gpu::DeviceBuffer");
    check(cudaStreamSynchronize(stream), "higgs::gpu::DeviceBuffer");
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~DeviceBuffer() { static_cast<void>(cudaFree(data_)); }

  T* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }
  std::size_t size_bytes() const noexcept { return size_ * sizeof(T); }
  /// The whole buffer, for calls that take a part of device memory.
  std::span<T> span() const noexcept { return {data_, size_}; }
  /// The whole buffer in host memory, after all work on `stream` so far; waits for that stream alone.
  std::vector<T> to_host(cudaStream_t stream) const {
    std::vector<T> host(size_);
    if (size_ == 0) return host;
    check(cudaMemcpyAsync(host.data(), data_, size_bytes(), cudaMemcpyDeviceToHost, stream),
          "higgs::gpu::DeviceBuffer::to_host");
    check(cudaStreamSynchronize(stream), "higgs::gpu::DeviceBuffer::to_host");
    return host;
  }
  /// The whole buffer in host memory, after all work on all streams of the device.
  std::vector<T> to_host() const {
    check(cudaDeviceSynchronize(), "higgs::gpu::DeviceBuffer::to_host");
    return to_host(cudaStreamLegacy);
  }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
