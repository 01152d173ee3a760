// SPDX-License-Identifier: Apache-2.0
// Products with the matrices of a mixture of experts: one rotation, one launch.
#pragma once

#include <higgs/codes/formats.cuh>
#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/packed_matrix.cuh>
#include <higgs/matmul/stream_kernel.cuh>
#include <higgs/rotate/hadamard.cuh>
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

/// Owns the matrices of a mixture of experts: equal shapes, codebooks, signs and input scales.
class Experts {
 public:
  template <Codebook Book>
  explicit Experts(std::span<const QuantizedMatrix<Book>> experts, cudaStream_t stream = nullptr) {
    std::vector<ExpertWeights> weights;
    for (const QuantizedMatrix<Book>& w : experts) {
      const QuantizedMatrix<Book>& first = experts.front();
      const auto equal = [](const auto& a, const auto& b) { return std::ranges::equal(a, b); };
      expects(w.layout == first.layout && w.seed == first.seed && equal(w.input_scales, first.input_scales) &&
                  device_table(w.book) == device_table(first.book),
              [&] {
                return higgs::detail::sentence(
                    "higgs::gpu::Experts: expert ", &w - experts.data(),
                    " has another layout, codebook, seed or other input scales than expert 0");
              });
      matrices_.emplace_back(w, stream);
      const PackedView& view = matrices_.back().view();
      weights.push_back({view.codes, view.scales, std::ldexp(1.0f, view.exponent)});
    }
    expects(!experts.empty(), "higgs::gpu::Experts: there must be an expert");
    weights_ = DeviceBuffer<ExpertWeights>(std::span<const ExpertWeights>(weights));
  }

  int size() const noexcept { return static_cast<int>(matrices_.size()); }
  /// One expert; of `[0]`, the order, rotation and table serve all.
  const PackedView& operator[](int expert) const {
    return matrices_[static_cast<std::size_t>(expert)].view();
  }
  /// (size()), in device memory.
  const ExpertWeights* weights() const noexcept { return weights_.data(); }

 private:
  std::vector<PackedMatrix> matrices_;
  DeviceBuffer<ExpertWeights> weights_;
};

namespace detail {

/// Tiles of rows of x for a mixture of experts: their rows, and the most that there can be.
struct ExpertTiles {
  std::int64_t columns, count;
  ExpertTiles(std::int64_t experts, std::int64_t batch) noexcept
      : columns(batch_tile(ceil_div(batch, experts))), count(batch / columns + std::min(experts, batch)) {}
};

}  // namespace detail

/// Bytes of workspace for matmul_grouped_async with up to `batch` rows.
inline std::size_t matmul_grouped_workspace(const Experts& w, std::int64_t batch, const MatmulPlan& plan,
                                            const Device& device) {
  const detail::ExpertTiles tiles(w.size(), batch);
  return detail::MatmulWorkspace(w[0], batch, tiles.columns, tiles.count, plan, device).size();
}

/// Products with the matrices of a mixture of experts in one launch after one rotation: rows [offsets[e],
/// offsets[e + 1]) of x meet expert e. x (M, cols) is sorted by expert; offsets, size() + 1 ascending numbers
/// from 0 to M in device memory, may change between launches of a graph. Bit for bit what matmul_async gives
/// each expert's rows under the same plan. A plan for fewer multiprocessors, say their number over the
/// experts in use, cuts small experts less.
template <class Formats = AnyFormat, class X, class Y, class Archs = BuiltFor>
void matmul_grouped_async(DenseView<X> x, const Experts& w, const std::int32_t* offsets, DenseView<Y> y,
                          std::span<std::byte> workspace, const MatmulPlan& plan, const Device& device,
                          cudaStream_t stream, const Epilogue<Y>& epilogue = {}) {
  using In = std::remove_const_t<X>;
  using T = std::conditional_t<std::is_same_v<In, BFloat16>, BFloat16, Half>;
  const PackedView& shared = w[0];
  higgs::detail::expect_product("higgs::gpu::matmul_grouped_async", x, shared.layout.rows,
                                shared.rotation.cols, y);
  detail::expect_shared_memory("higgs::gpu::matmul_grouped_async", device);
  if (x.rows == 0 || y.cols == 0) return;
  const detail::ExpertTiles tiles(w.size(), x.rows);
  const detail::MatmulWorkspace parts(shared, x.rows, tiles.columns, tiles.count, plan, device);
  detail::check_workspace(workspace, parts);
  detail::MatmulTask task = detail::task_for<In>(x, shared, y, plan, epilogue);
  std::byte* const at = parts.place(task, workspace.data(), stream);
  const DenseView<T> rotated(reinterpret_cast<T*>(at), x.rows, shared.layout.depth());
  if (shared.rotation.group != shared.rotation.padded_group)
    check(cudaMemsetAsync(rotated.data, 0, parts.x, stream), "higgs::gpu::matmul_grouped_async");
  rotate_async<In, T, Archs>(shared.rotation, x, rotated, device, stream,
                             reinterpret_cast<float*>(at + parts.x));
  task.x = rotated.data;
  task.x_stride = rotated.row_stride;
  task.experts = w.weights();
  task.expert_count = w.size();
  task.offsets = offsets;
  detail::multiply_async<Formats, T>(task, plan, tiles.columns, tiles.count, stream);
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
