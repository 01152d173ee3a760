// SPDX-License-Identifier: Apache-2.0
// A whole matrix in device memory becomes codes and scales: those of quantizer.hpp, bit for bit.
#pragma once

#include <higgs/core/code.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/gpu/error.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/quantizer.hpp>
#include <higgs/round/row_quantizer.cuh>
#include <higgs/round/row_quantizer.hpp>
#include <higgs/scale/input_scale.cuh>
#include <higgs/scale/input_scale.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// higgs::quantize() of a matrix in device memory: the same QuantizedMatrix in host memory, bit for bit, except for
/// weight_error: that is NaN with input scales or padding, and t2 otherwise. Takes about 256 MiB of device memory, for a
/// chain code 384, some rows at a time; waits for `stream`. Throws InvalidArgument for weights that are NaN or infinite.
template <class T, Code C, class Archs = BuiltFor>
QuantizedMatrix<C> quantize(DenseView<const T> w, const C& book, const QuantizeOptions& options = {},
                            cudaStream_t stream = nullptr) {
  struct Storage {
    std::vector<std::uint8_t> codes;
    std::vector<Half> scales;
    Normalization normalization;
  };
  higgs::detail::expect_data("higgs::gpu::quantize", "w", w);
  expects(options.output_gradients == nullptr,
          "higgs::gpu::quantize: output_gradients count beside a second moment of inputs, on the host");
  QuantizedMatrix<C> out(book);
  out.layout = make_layout(w.rows, w.cols, C::dim, options);
  out.seed = options.seed;
  DeviceColumnStatistics columns(w.cols);
  columns.add_async<T, Archs>(w, stream);
  auto storage = std::make_shared<Storage>();
  const ColumnStatistics own = columns.to_host(stream);  // refuses weights that are not finite
  storage->normalization = make_normalization(*higgs::detail::normalizing_statistics(options, own),
                                              out.layout, book.step(), options.input_squares);
  out.input_scales = storage->normalization.input_scales;
  out.exponent = storage->normalization.exponent;

  const Device device = current_device();
  const DeviceRowQuantizer<C> quantizer(book, out.layout, out.seed, out.exponent, out.input_scales,
                                        options.scale_search);
  const std::int64_t groups = out.layout.groups();
  const std::int64_t most = std::clamp<std::int64_t>((std::int64_t{1} << 25) / out.layout.padded_cols(), 1,
                                                     std::max<std::int64_t>(w.rows, 1));
  const DeviceBuffer<std::byte> workspace(quantizer.workspace_size(most, device));
  const DeviceBuffer<std::uint8_t> codes(static_cast<std::size_t>(most * out.row_bytes()));
  const DeviceBuffer<Half> scales(static_cast<std::size_t>(most * groups));
  const DeviceBuffer<double2> errors(scales.size());
  typename RowQuantizer<C>::Error total;
  const auto append = [&](const auto& from, auto& to, std::int64_t count) {
    const std::size_t size = to.size(), bytes = static_cast<std::size_t>(count) * sizeof(to[0]);
    to.resize(size + static_cast<std::size_t>(count));
    check(cudaMemcpyAsync(to.data() + size, from.data(), bytes, cudaMemcpyDeviceToHost, stream),
          "higgs::gpu::quantize");
  };
  for (std::int64_t row = 0; row < w.rows; row += most) {
    const std::int64_t count = std::min(most, w.rows - row);
    quantizer.template quantize_rows_async<T, Archs>(
        DenseView<const T>(w.row(row), count, w.cols, w.row_stride), codes.data(), scales.data(),
        std::span(workspace.data(), workspace.size()), device, stream, errors.data());
    std::vector<double2> of_groups;
    append(codes, storage->codes, count * out.row_bytes());
    append(scales, storage->scales, count * groups);
    append(errors, of_groups, count * groups);
    check(cudaStreamSynchronize(stream), "higgs::gpu::quantize");
    for (std::size_t g = 0; g < of_groups.size();) {
      typename RowQuantizer<C>::Error of_row;
      for (std::int64_t k = 0; k < groups; ++k, ++g) {
        of_row.squared_error += of_groups[g].x;
        of_row.squared_norm += of_groups[g].y;
      }
      total += of_row;
    }
  }
  out.t2 = total.t2();
  if (!out.layout.input_scales && out.layout.padded_cols() == w.cols) out.weight_error = out.t2;
  out.codes = storage->codes;
  out.scales = storage->scales;
  out.owner = std::move(storage);
  return out;
}

/// The same for types that have the bits of a Scalar: __half, __nv_bfloat16.
template <class T, Code C, class Archs = BuiltFor>
  requires(!higgs::detail::is_scalar<T>)
QuantizedMatrix<C> quantize(DenseView<const T> w, const C& book, const QuantizeOptions& options = {},
                            cudaStream_t stream = nullptr) {
  const auto scalars = higgs::detail::as_scalars(w);
  using Plain = std::remove_const_t<std::remove_pointer_t<decltype(scalars.data)>>;
  return quantize<Plain, C, Archs>(scalars, book, options, stream);
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
