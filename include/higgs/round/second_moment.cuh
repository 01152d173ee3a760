// SPDX-License-Identifier: Apache-2.0
// The second moment of a layer's inputs on the device: the sums of second_moment.hpp, bit for bit.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/gpu/error.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/round/outer_product.cuh>
#include <higgs/round/second_moment.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// SecondMoment in device memory: the same sums for any split of the rows into calls. It takes 4 bytes a product, as that.
class DeviceSecondMoment {
 public:
  /// The arguments of SecondMoment; zeros.
  explicit DeviceSecondMoment(std::int64_t cols, std::int64_t part = 0)
      : cols_(cols), part_(part == 0 ? cols : std::min(part, cols)), rows_(0) {
    expects(cols >= 1 && part >= 0, [&] {
      return higgs::detail::sentence("higgs::gpu::DeviceSecondMoment: ", cols, " inputs in parts of ", part,
                                     ", but there is at least one input, and no part is negative");
    });
    const std::int64_t last = cols_ - (parts() - 1) * part_;
    sums_ = DeviceBuffer<float>::zeros(static_cast<std::size_t>((parts() - 1) * part_ * part_ + last * last));
  }

  /// From sums in host memory, to which more rows may be added here.
  explicit DeviceSecondMoment(const SecondMoment& moment)
      : cols_(moment.cols()), part_(moment.part()), rows_(moment.rows()), sums_(moment.sums()) {}

  /// Takes in the next rows of inputs, x (n, cols). They must be finite: to_host() refuses the sums of others. Throws
  /// InvalidArgument for other columns.
  template <class T, class Archs = BuiltFor>
  void add_async(DenseView<const T> x, const Device& device, cudaStream_t stream) {
    using higgs::detail::sentence;
    expects(x.cols == cols_, [&] {
      return sentence("higgs::gpu::DeviceSecondMoment::add_async: x is ",
                      higgs::detail::shape_text(x.rows, x.cols), ", but there are ", cols_, " inputs");
    });
    for (std::int64_t i = 0; i < parts(); ++i) {
      const DenseView<float> sums = block(i);
      const DenseView<const T> inputs(x.data + i * part_, x.rows, sums.cols, x.row_stride);
      add_upper_outer_products_async<T, Archs>(inputs, inputs, sums, device, stream);
    }
    rows_ += x.rows;
  }

  std::int64_t cols() const noexcept { return cols_; }  ///< inputs
  std::int64_t part() const noexcept { return part_; }  ///< inputs of a diagonal block; cols() if H is whole
  std::int64_t parts() const noexcept { return ceil_div(cols_, part_); }  ///< diagonal blocks
  std::int64_t rows() const noexcept { return rows_; }                    ///< rows added

  /// Diagonal block i, 0 <= i < parts(): inputs i * part() and on. Its upper triangle is valid.
  DenseView<const float> values(std::int64_t i) const noexcept { return block(i); }

  /// The sums of all rows added; waits for `stream`. Throws InvalidArgument as SecondMoment's constructor does: for sums of
  /// inputs that are NaN or infinite, and for sums of squares beyond float.
  SecondMoment to_host(cudaStream_t stream) const { return {cols_, part_, rows_, sums_.to_host(stream)}; }

 private:
  DenseView<float> block(std::int64_t i) const noexcept {
    const std::int64_t size = std::min(part_, cols_ - i * part_);
    return {sums_.data() + i * part_ * part_, size, size};
  }

  std::int64_t cols_, part_, rows_;
  DeviceBuffer<float> sums_;  // (parts, part, part), the last part smaller in both; zeros below the diagonals
};

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
