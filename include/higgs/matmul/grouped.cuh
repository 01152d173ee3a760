// SPDX-License-Identifier: Apache-2.0
// Products with the matrices of a mixture of experts: one rotation, then one launch for all.
#pragma once

#include <higgs/codes/formats.cuh>
#include <higgs/core/code.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/packed_matrix.cuh>
#include <higgs/store/quantized_matrix.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// Owns the matrices of a mixture of experts: equal shapes, codes, signs and input scales.
class Experts {
 public:
  /// Copies all to the device and packs them there on `stream`, as PackedMatrix does; returns when that is done.
  /// Throws InvalidArgument unless they are equal in all of that.
  template <Code C>
  explicit Experts(std::span<const QuantizedMatrix<C>> experts, cudaStream_t stream = nullptr) {
    std::vector<ExpertWeights> weights;
    for (const QuantizedMatrix<C>& w : experts) {
      const QuantizedMatrix<C>& first = experts.front();
      const auto equal = [](const auto& a, const auto& b) { return std::ranges::equal(a, b); };
      expects(w.layout == first.layout && w.seed == first.seed && equal(w.input_scales, first.input_scales) &&
                  device_table(w.book) == device_table(first.book),
              [&] {
                return higgs::detail::sentence(
                    "higgs::gpu::Experts: expert ", &w - experts.data(),
                    " has another layout, code, seed or other input scales than expert 0");
              });
      matrices_.emplace_back(w, stream);
      const PackedView& view = matrices_.back().view();
      weights.push_back({view.codes, view.scales, std::ldexp(1.0f, view.exponent)});
    }
    expects(!experts.empty(), "higgs::gpu::Experts: there must be an expert");
    weights_ = DeviceBuffer<ExpertWeights>(std::span<const ExpertWeights>(weights), stream);
  }

  /// The number of experts.
  int size() const noexcept { return static_cast<int>(matrices_.size()); }
  /// One expert. All share the layout, rotation and table of `[0]`.
  const PackedView& operator[](int expert) const {
    return matrices_[static_cast<std::size_t>(expert)].view();
  }
  /// (size()), in device memory.
  const ExpertWeights* weights() const noexcept { return weights_.data(); }

 private:
  std::vector<PackedMatrix> matrices_;
  DeviceBuffer<ExpertWeights> weights_;
};

/// Bytes of workspace for matmul_grouped_async with up to `batch` rows.
inline std::size_t matmul_grouped_workspace(const Experts& w, std::int64_t batch, const MatmulPlan& plan,
                                            const Device& device) {
  return matmul_workspace({w[0], batch, plan, w.size()}, device);
}

/// Products with the matrices of a mixture of experts in one launch after one rotation: rows [offsets[e],
/// offsets[e + 1]) of x meet expert e. x (M, cols) is sorted by expert; offsets, size() + 1 ascending numbers
/// from 0 to M in device memory, may change between launches of a graph. Bit for bit what matmul_async gives
/// each expert's rows under the same plan. A plan for fewer multiprocessors, say their number over the
/// experts in use, cuts small experts less. Errors are those of matmul_async.
template <class Formats = AnyFormat, class X, class Y, class Archs = BuiltFor>
void matmul_grouped_async(DenseView<X> x, const Experts& w, const std::int32_t* offsets, DenseView<Y> y,
                          std::span<std::byte> workspace, const MatmulPlan& plan, const Device& device,
                          cudaStream_t stream, const Epilogue<Y>& epilogue = {}) {
  const PackedView& shared = w[0];
  higgs::detail::expect_product("higgs::gpu::matmul_grouped_async", x, shared.layout.rows,
                                shared.rotation.cols, y);
  if (x.rows == 0 || y.cols == 0) return;
  const MatmulTask<std::remove_const_t<X>, Y> task{{shared, x.rows, plan, w.size()}, x, {}, y, epilogue,
                                                   {w.weights(), w.size(), offsets}};
  detail::launch_first<Formats, Archs>("higgs::gpu::matmul_grouped_async", ExpertKernels{}, task, workspace,
                                       device, stream);
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
