// SPDX-License-Identifier: Apache-2.0
// The only unit of the application that compiles products of quantized matrices: all formats, fp16 and bf16.
#include "device/linear_matrix.cuh"
#include "device/matrix.cuh"

#include <higgs/codes/formats.cuh>
#include <higgs/core/half.hpp>
#include <higgs/matmul/linear.cuh>
#include <higgs/pack/packed_layout.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace higgs::model {

template struct LinearProducts<Half, gpu::AnyFormat>;
template struct LinearProducts<BFloat16, gpu::AnyFormat>;

template <class T>
SharedDeviceMatrix<T> quantized_matrix(const AnyQuantizedMatrix& weights) {
  return std::make_shared<LinearMatrix<T, gpu::AnyFormat>>(gpu::PackedMatrix(weights));
}
template SharedDeviceMatrix<Half> quantized_matrix(const AnyQuantizedMatrix& weights);
template SharedDeviceMatrix<BFloat16> quantized_matrix(const AnyQuantizedMatrix& weights);

PackedNeeds packed_needs(const AnyQuantizedMatrix& weights, std::int64_t rows, std::int64_t batch) {
  const gpu::Device device = gpu::current_device();
  return weights.visit([&]<class C>(const QuantizedMatrix<C>& w) {
    using Format = typename gpu::FormatOf<C>::type;
    const CodeLayout& layout = w.layout;
    const bool coordinates = gpu::FormatOf<C>::stores_coordinates;
    gpu::PackedView view;
    view.layout = gpu::packed_layout<Format>(coordinates ? 1 : C::dim, coordinates ? 8 : code_bits<C>, rows,
                                             layout.groups(), layout.group);
    view.rotation.cols = w.cols();
    view.rotation.block = layout.block;
    view.rotation.group = layout.group;
    view.rotation.padded_group = view.layout.padded_group();
    const std::size_t signs = w.seed ? static_cast<std::size_t>((w.cols() + 31) / 32 * 4) : 0;
    const std::size_t bytes = static_cast<std::size_t>(view.layout.load_count()) * sizeof(uint4) +
                              static_cast<std::size_t>(view.layout.scale_count()) * sizeof(Half) +
                              gpu::device_table(w.book).size() * sizeof(std::int16_t) +
                              w.input_scales.size() * sizeof(float) + signs;
    const gpu::MatmulPlan plan = matrix_plan(view.layout, device);
    const auto workspace = [&](std::int64_t some) { return gpu::matmul_workspace(view, some, plan, device); };
    return PackedNeeds{bytes, std::max(workspace(batch), workspace(std::min(batch, plan.dense_from - 1))),
                       view.layout.depth()};
  });
}

}  // namespace higgs::model
