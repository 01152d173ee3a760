// SPDX-License-Identifier: Apache-2.0
#include "device/dense.cuh"
#include "device/device.hpp"
#include "device/matrix.cuh"

#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace higgs::model {
namespace {

template <class T>
class DenseDeviceMatrix final : public DeviceMatrix<T> {
 public:
  DenseDeviceMatrix(std::shared_ptr<const gpu::DeviceBuffer<T>> weights, gpu::DenseView<const T> rows)
      : weights_(std::move(weights)), view_(rows) {}

  std::int64_t rows() const noexcept override { return view_.rows; }
  std::int64_t cols() const noexcept override { return view_.cols; }
  std::size_t size_bytes() const noexcept override {
    return static_cast<std::size_t>(view_.rows * view_.cols) * sizeof(T);
  }
  std::size_t workspace_bytes(std::int64_t) const override { return 0; }
  void multiply_async(gpu::DenseView<const T> x, gpu::DenseView<T> y, const gpu::Epilogue<T>& epilogue,
                      const ProductSpace& space, Queue queue) const override {
    multiply<T>(x, y, epilogue, space, queue);
  }
  void multiply_async(gpu::DenseView<const T> x, gpu::DenseView<float> y,
                      const gpu::Epilogue<float>& epilogue, const ProductSpace& space,
                      Queue queue) const override {
    multiply<float>(x, y, epilogue, space, queue);
  }
  std::int64_t gated_below() const noexcept override {
    return has_gemm ? gemm_from : std::numeric_limits<std::int64_t>::max();
  }
  std::int64_t rotated_cols() const noexcept override { return 0; }
  const RotatedProducts<T>* shared_rotation(gpu::DenseView<const T>) const override { return nullptr; }

 private:
  template <class Y>
  void multiply(gpu::DenseView<const T> x, gpu::DenseView<Y> y, const gpu::Epilogue<Y>& epilogue,
                const ProductSpace& space, Queue queue) const {
    if constexpr (has_gemm)
      if (space.gemm() && x.rows >= gemm_from && !epilogue.gated)
        return dense_by_gemm_async<T, Y>(x, view_, y, epilogue, *space.gemm(), queue);
    dense_async<T, Y>(x, view_, y, epilogue, queue);
  }

  std::shared_ptr<const gpu::DeviceBuffer<T>> weights_;
  gpu::DenseView<const T> view_;
};

// `values` as T in `out`. Throws InvalidArgument, which names `matrix`, for a number that is infinite there alone.
template <class T>
void convert(const std::string& matrix, std::span<const float> values, std::vector<T>& out) {
  out.clear();
  for (const float value : values) {
    out.push_back(static_cast<T>(value));
    if (std::isfinite(value) && !std::isfinite(static_cast<float>(out.back())))
      throw InvalidArgument(matrix + " holds " + std::to_string(value) + ", which exceeds the range of " +
                            std::string(name_of(device_type_of<T>)) +
                            (device_type_of<T> == DeviceType::Fp16 ? "; --dtype bf16 has the range of floats"
                                                                   : ", which is that of floats"));
  }
}

}  // namespace

template <class T>
void upload_rows(const std::string& matrix, const ReadRows& read, gpu::DenseView<T> to) {
  constexpr std::int64_t piece_weights = 1 << 22;  // in host memory at once
  const std::int64_t each = std::max<std::int64_t>(1, piece_weights / std::max<std::int64_t>(1, to.cols));
  const std::size_t row_bytes = static_cast<std::size_t>(to.cols) * sizeof(T);
  std::vector<float> floats;
  std::vector<T> converted;
  for (std::int64_t first = 0; first < to.rows; first += each) {
    const std::int64_t count = std::min(each, to.rows - first);
    floats.resize(static_cast<std::size_t>(count * to.cols));
    read(first, count, floats);
    convert<T>(matrix, floats, converted);
    gpu::check(
        cudaMemcpy2D(to.row(first), static_cast<std::size_t>(to.row_stride) * sizeof(T), converted.data(),
                     row_bytes, row_bytes, static_cast<std::size_t>(count), cudaMemcpyHostToDevice),
        "higgs::model::upload_rows");
  }
  // The last bytes may still be on their way, and other streams do not wait for them.
  gpu::check(cudaStreamSynchronize(nullptr), "higgs::model::upload_rows");
}

template <class T>
SharedDeviceMatrix<T> dense_matrix(std::shared_ptr<const gpu::DeviceBuffer<T>> weights,
                                   gpu::DenseView<const T> rows) {
  return std::make_shared<DenseDeviceMatrix<T>>(std::move(weights), rows);
}

template void upload_rows(const std::string&, const ReadRows&, gpu::DenseView<Half>);
template void upload_rows(const std::string&, const ReadRows&, gpu::DenseView<BFloat16>);
template SharedDeviceMatrix<Half> dense_matrix(std::shared_ptr<const gpu::DeviceBuffer<Half>>,
                                               gpu::DenseView<const Half>);
template SharedDeviceMatrix<BFloat16> dense_matrix(std::shared_ptr<const gpu::DeviceBuffer<BFloat16>>,
                                                   gpu::DenseView<const BFloat16>);

}  // namespace higgs::model
