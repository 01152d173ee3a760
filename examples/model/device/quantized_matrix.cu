// SPDX-License-Identifier: Apache-2.0
// The only unit of the application that compiles products of quantized matrices: all formats, fp16 and bf16.
#include "device/matrix.cuh"

#include <higgs/codes/formats.cuh>
#include <higgs/core/half.hpp>
#include <higgs/matmul/linear.cuh>
#include <higgs/pack/packed_layout.cuh>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace higgs::model {
namespace {

// nvcc 13.0 cannot instantiate the kernels from a virtual function.
template <class T, class Y>
void multiply(const gpu::Linear<>& linear, gpu::DenseView<const T> x, const float* bias, gpu::DenseView<Y> y,
              std::span<std::byte> workspace, cudaStream_t stream) {
  linear(x, y, workspace, stream, {bias});
}
template void multiply(const gpu::Linear<>&, gpu::DenseView<const Half>, const float*, gpu::DenseView<Half>,
                       std::span<std::byte>, cudaStream_t);
template void multiply(const gpu::Linear<>&, gpu::DenseView<const Half>, const float*, gpu::DenseView<float>,
                       std::span<std::byte>, cudaStream_t);
template void multiply(const gpu::Linear<>&, gpu::DenseView<const BFloat16>, const float*,
                       gpu::DenseView<BFloat16>, std::span<std::byte>, cudaStream_t);
template void multiply(const gpu::Linear<>&, gpu::DenseView<const BFloat16>, const float*,
                       gpu::DenseView<float>, std::span<std::byte>, cudaStream_t);

template <class T>
class QuantizedDeviceMatrix final : public DeviceMatrix<T> {
 public:
  explicit QuantizedDeviceMatrix(const AnyQuantizedMatrix& weights) : linear_(weights) {}

  std::int64_t rows() const noexcept override { return linear_.rows(); }
  std::int64_t cols() const noexcept override { return linear_.cols(); }
  std::size_t size_bytes() const noexcept override { return linear_.weights().size_bytes(); }
  std::size_t workspace_bytes(std::int64_t batch) const override { return linear_.workspace_bytes(batch); }
  void multiply_async(gpu::DenseView<const T> x, const float* bias, gpu::DenseView<T> y,
                      std::span<std::byte> workspace, cudaStream_t stream) const override {
    multiply(linear_, x, bias, y, workspace, stream);
  }
  void multiply_async(gpu::DenseView<const T> x, const float* bias, gpu::DenseView<float> y,
                      std::span<std::byte> workspace, cudaStream_t stream) const override {
    multiply(linear_, x, bias, y, workspace, stream);
  }

 private:
  gpu::Linear<> linear_;
};

}  // namespace

template <class T>
SharedDeviceMatrix<T> quantized_matrix(const AnyQuantizedMatrix& weights) {
  return std::make_shared<QuantizedDeviceMatrix<T>>(weights);
}
template SharedDeviceMatrix<Half> quantized_matrix(const AnyQuantizedMatrix& weights);
template SharedDeviceMatrix<BFloat16> quantized_matrix(const AnyQuantizedMatrix& weights);

PackedNeeds packed_needs(const AnyQuantizedMatrix& weights, std::int64_t batch) {
  const gpu::Device device = gpu::current_device();
  return weights.visit([&]<class C>(const QuantizedMatrix<C>& w) {
    using Format = typename gpu::FormatOf<C>::type;
    const CodeLayout& layout = w.layout;
    const bool coordinates = gpu::FormatOf<C>::stores_coordinates;
    gpu::PackedView view;
    view.layout = gpu::packed_layout<Format>(coordinates ? 1 : C::dim, coordinates ? 8 : code_bits<C>,
                                             w.rows(), layout.groups(), layout.group);
    view.rotation.cols = w.cols();
    view.rotation.block = layout.block;
    view.rotation.group = layout.group;
    view.rotation.padded_group = view.layout.padded_group();
    const std::size_t signs = w.seed ? static_cast<std::size_t>((w.cols() + 31) / 32 * 4) : 0;
    const std::size_t bytes = static_cast<std::size_t>(view.layout.load_count()) * sizeof(uint4) +
                              static_cast<std::size_t>(view.layout.scale_count()) * sizeof(Half) +
                              gpu::device_table(w.book).size() * sizeof(std::int16_t) +
                              w.input_scales.size() * sizeof(float) + signs;
    return PackedNeeds{bytes,
                       gpu::matmul_workspace(view, batch, gpu::plan_matmul(view.layout, device), device)};
  });
}

}  // namespace higgs::model
