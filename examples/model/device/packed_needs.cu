// SPDX-License-Identifier: Apache-2.0
// What quantized matrices of all formats need, computed without a kernel.
#include "device/linear_matrix.cuh"
#include "device/matrix.cuh"
#include "device/memory.hpp"

#include <higgs/codes/formats.cuh>
#include <higgs/matmul/linear.cuh>
#include <higgs/pack/packed_layout.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace higgs::model {

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
    PackedNeeds out{.rotated_cols = view.layout.depth()};
    const auto add = [&](std::int64_t count, std::size_t each) {
      const std::size_t bytes = static_cast<std::size_t>(count) * each;
      out.bytes += bytes;
      out.rounding += rounding_of(static_cast<std::int64_t>(bytes));
    };
    add(view.layout.load_count(), sizeof(uint4));
    add(view.layout.scale_count(), sizeof(Half));
    add(std::ssize(gpu::device_table(w.book)), sizeof(std::int16_t));
    add(std::ssize(w.input_scales), sizeof(float));
    add(w.seed ? (w.cols() + 31) / 32 : 0, sizeof(std::uint32_t));  // signs of the rotation
    const std::int64_t codes = rows * (coordinates ? layout.padded_cols() : w.row_bytes()),
                       scales = rows * layout.groups() * static_cast<std::int64_t>(sizeof(Half));
    out.loading = codes + rounding_of(codes) + scales + rounding_of(scales);
    const gpu::MatmulPlan plan = matrix_plan(view.layout, device);
    const auto workspace = [&](std::int64_t some) { return gpu::matmul_workspace(view, some, plan, device); };
    out.workspace = std::max(workspace(batch), workspace(std::min(batch, plan.dense_from - 1)));
    return out;
  });
}

}  // namespace higgs::model
