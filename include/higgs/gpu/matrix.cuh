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

namespace detail {

/// The memory of a matrix: rows of `row_bytes` bytes that begin `step` bytes after each other.
struct ByteRows {
  std::uintptr_t begin = 0;
  std::int64_t rows = 0, row_bytes = 0, step = 0;

  ByteRows(const void* first, std::int64_t bytes)
      : begin(reinterpret_cast<std::uintptr_t>(first)),
        rows(bytes > 0 ? 1 : 0),
        row_bytes(bytes),
        step(bytes) {}
  template <class T>
  explicit ByteRows(const DenseView<T>& view)
      : begin(reinterpret_cast<std::uintptr_t>(view.data)),
        rows(view.cols > 0 ? view.rows : 0),
        row_bytes(view.cols * std::int64_t{sizeof(T)}),
        step(view.row_stride * std::int64_t{sizeof(T)}) {}
  std::uintptr_t end() const { return begin + static_cast<std::uintptr_t>((rows - 1) * step + row_bytes); }
};

/// Whether two matrices have a byte in common. Where their rows are not equally far apart it compares the first and the
/// last bytes alone, so matrices between each other's rows then count as overlapping.
inline bool overlap(const ByteRows& a, const ByteRows& b) {
  if (a.rows <= 0 || b.rows <= 0 || a.end() <= b.begin || b.end() <= a.begin) return false;
  const std::int64_t step = a.rows > 1 ? a.step : b.step;
  if (step <= 0 || (a.rows > 1 && b.rows > 1 && a.step != b.step) || (a.rows == 1 && b.rows == 1))
    return true;
  const std::int64_t apart = (static_cast<std::int64_t>(b.begin - a.begin) % step + step) % step;
  return apart < a.row_bytes || apart + b.row_bytes > step;
}

/// Throws InvalidArgument if a and b have a byte in common.
inline void expect_apart(const char* function, const char* name_a, const ByteRows& a, const char* name_b,
                         const ByteRows& b) {
  expects(!overlap(a, b), [&] {
    return higgs::detail::sentence(function, ": ", name_a, " and ", name_b, " must not share memory, but ",
                                   name_a, " takes ", a.end() - a.begin, " bytes and ", name_b, " begins ",
                                   static_cast<std::int64_t>(b.begin - a.begin), " bytes after its first");
  });
}

/// Throws InvalidArgument unless `pointer` is a multiple of `bytes`; null is.
inline void expect_aligned(const char* function, const char* name, const void* pointer, std::size_t bytes) {
  const auto beyond = reinterpret_cast<std::uintptr_t>(pointer) % bytes;
  expects(beyond == 0, [&] {
    return higgs::detail::sentence(function, ": ", name, " begins ", beyond, " bytes after a multiple of ",
                                   bytes, " bytes, but must begin at one");
  });
}

}  // namespace detail

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
