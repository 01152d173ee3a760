// SPDX-License-Identifier: Apache-2.0
#include "device/dense.cuh"
#include "device/device.hpp"
#include "device/matrix.cuh"

#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>

#include <algorithm>
#include <cmath>
#include <utility>

namespace higgs::model {
namespace {

template <class T>
class DenseDeviceMatrix final : public DeviceMatrix<T> {
 public:
  DenseDeviceMatrix(std::shared_ptr<const gpu::DeviceBuffer<T>> weights, std::int64_t rows, std::int64_t cols)
      : weights_(std::move(weights)), rows_(rows), cols_(cols) {}

  std::int64_t rows() const noexcept override { return rows_; }
  std::int64_t cols() const noexcept override { return cols_; }
  std::size_t size_bytes() const noexcept override { return weights_->size_bytes(); }
  std::size_t workspace_bytes(std::int64_t) const override { return 0; }
  void multiply_async(gpu::DenseView<const T> x, const float* bias, gpu::DenseView<T> y, std::span<std::byte>,
                      cudaStream_t stream) const override {
    dense_async<T, T>(x, view(), bias, y, stream);
  }
  void multiply_async(gpu::DenseView<const T> x, const float* bias, gpu::DenseView<float> y,
                      std::span<std::byte>, cudaStream_t stream) const override {
    dense_async<T, float>(x, view(), bias, y, stream);
  }

 private:
  gpu::DenseView<const T> view() const noexcept { return {weights_->data(), rows_, cols_}; }

  std::shared_ptr<const gpu::DeviceBuffer<T>> weights_;
  std::int64_t rows_, cols_;
};

}  // namespace

template <class T>
gpu::DeviceBuffer<T> upload_rows(const std::string& matrix, std::int64_t rows, std::int64_t cols,
                                 const ReadRows& read) {
  constexpr std::int64_t piece_weights = 1 << 22;  // in host memory at once
  gpu::DeviceBuffer<T> out(static_cast<std::size_t>(rows * cols));
  const std::int64_t each = std::max<std::int64_t>(1, piece_weights / std::max<std::int64_t>(1, cols));
  std::vector<float> floats;
  std::vector<T> converted;
  for (std::int64_t first = 0; first < rows; first += each) {
    const std::int64_t count = std::min(each, rows - first);
    floats.resize(static_cast<std::size_t>(count * cols));
    read(first, count, floats);
    converted.clear();
    for (const float value : floats) {
      converted.push_back(static_cast<T>(value));
      if (std::isfinite(value) && !std::isfinite(static_cast<float>(converted.back())))
        throw InvalidArgument(matrix + " holds " + std::to_string(value) + ", which exceeds the range of " +
                              std::string(name_of(device_type_of<T>)) +
                              (device_type_of<T> == DeviceType::Fp16
                                   ? "; --dtype bf16 has the range of floats"
                                   : ", which is that of floats"));
    }
    gpu::check(cudaMemcpy(out.data() + first * cols, converted.data(), converted.size() * sizeof(T),
                          cudaMemcpyHostToDevice),
               "higgs::model::upload_rows");
  }
  // The last bytes may still be on their way, and other streams do not wait for them.
  gpu::check(cudaStreamSynchronize(nullptr), "higgs::model::upload_rows");
  return out;
}

template <class T>
SharedDeviceMatrix<T> dense_matrix(std::shared_ptr<const gpu::DeviceBuffer<T>> weights, std::int64_t rows,
                                   std::int64_t cols) {
  return std::make_shared<DenseDeviceMatrix<T>>(std::move(weights), rows, cols);
}

template gpu::DeviceBuffer<Half> upload_rows(const std::string&, std::int64_t, std::int64_t, const ReadRows&);
template gpu::DeviceBuffer<BFloat16> upload_rows(const std::string&, std::int64_t, std::int64_t,
                                                 const ReadRows&);
template SharedDeviceMatrix<Half> dense_matrix(std::shared_ptr<const gpu::DeviceBuffer<Half>>, std::int64_t,
                                               std::int64_t);
template SharedDeviceMatrix<BFloat16> dense_matrix(std::shared_ptr<const gpu::DeviceBuffer<BFloat16>>,
                                                   std::int64_t, std::int64_t);

}  // namespace higgs::model
