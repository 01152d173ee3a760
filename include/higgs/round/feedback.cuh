// SPDX-License-Identifier: Apache-2.0
// The factors of a second moment in device memory.
#pragma once

#include <higgs/gpu/error.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/round/feedback.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// Feedback in device memory: 4 bytes a value of U, so 4 * cols^2 or 4 * cols * part.
class DeviceFeedback {
 public:
  /// A copy; it is complete when the constructor returns.
  explicit DeviceFeedback(const Feedback& feedback)
      : part_(feedback.part()),
        damping_(feedback.damping()),
        mean_cost_(feedback.mean_cost()),
        d_(feedback.d()) {
    if (feedback.empty()) return;
    const auto last = static_cast<std::size_t>(feedback.rows(parts() - 1).size());
    u_ = DeviceBuffer<float>(static_cast<std::size_t>((parts() - 1) * part_ * part_) + last);
    for (std::int64_t i = 0; i < parts(); ++i) {
      const MatrixView<const float> from = feedback.rows(i);
      check(cudaMemcpyAsync(u_.data() + i * part_ * part_, from.data,
                            static_cast<std::size_t>(from.size()) * sizeof(float), cudaMemcpyHostToDevice,
                            cudaStreamLegacy),
            "higgs::gpu::DeviceFeedback");
    }
    check(cudaStreamSynchronize(cudaStreamLegacy), "higgs::gpu::DeviceFeedback");
  }

  bool empty() const noexcept { return u_.size() == 0; }    ///< whether all inputs are zero
  double damping() const noexcept { return damping_; }      ///< the damping that was used
  double mean_cost() const noexcept { return mean_cost_; }  ///< as Feedback::mean_cost()
  std::int64_t cols() const noexcept { return static_cast<std::int64_t>(d_.size()); }  ///< rotated inputs
  std::int64_t part() const noexcept { return part_; }  ///< rotated inputs of a part; the last may have fewer
  std::int64_t parts() const noexcept { return (cols() + part_ - 1) / part_; }  ///< parts of U

  /// U of rotated inputs i * part() and on, 0 <= i < parts(), unless empty().
  DenseView<const float> rows(std::int64_t i) const noexcept {
    const std::int64_t size = std::min(part_, cols() - i * part_);
    return {u_.data() + i * part_ * part_, size, size};
  }
  /// (cols()): what the square of an input's error costs, once the errors before it are fed back.
  const float* d() const noexcept { return d_.data(); }

 private:
  std::int64_t part_;
  double damping_, mean_cost_;
  DeviceBuffer<float> u_;  // (parts, part, part), the last part smaller in both
  DeviceBuffer<float> d_;  // (cols)
};

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
