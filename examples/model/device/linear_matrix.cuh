// SPDX-License-Identifier: Apache-2.0
// A packed matrix of the library as a DeviceMatrix. A unit that makes one compiles the kernels of all its formats.
#pragma once

#include "device/matrix.cuh"

#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/linear.cuh>

#include <cstddef>
#include <cstdint>
#include <utility>

namespace higgs::model {

/// The calls that compile kernels. nvcc 13.0 cannot compile them where a virtual function or a constructor asks for
/// them, so a unit with LinearMatrix<T, Formats> has `template struct LinearProducts<T, Formats>;` in front.
template <class T, class Formats>
struct LinearProducts {
  using Linear = gpu::Linear<Formats>;

  static void multiply(const Linear& linear, gpu::DenseView<const T> x, gpu::DenseView<T> y,
                       const gpu::Epilogue<T>& epilogue, const ProductSpace& space, Queue queue) {
    multiply_to<T>(linear, x, y, epilogue, space, queue);
  }
  static void multiply_to_floats(const Linear& linear, gpu::DenseView<const T> x, gpu::DenseView<float> y,
                                 const gpu::Epilogue<float>& epilogue, const ProductSpace& space,
                                 Queue queue) {
    multiply_to<float>(linear, x, y, epilogue, space, queue);
  }
  static void rotate(const Linear& linear, gpu::DenseView<const T> x, gpu::DenseView<T> rotated,
                     const ProductSpace& space, Queue queue) {
    linear.rotate(x, rotated, space.workspace(), queue.stream);
  }
  static void multiply_rotated(const Linear& linear, gpu::DenseView<const T> rotated, gpu::DenseView<T> y,
                               const gpu::Epilogue<T>& epilogue, const ProductSpace& space, Queue queue) {
    gpu::matmul_rotated_async<Formats>(rotated, linear.weights().view(), y, space.workspace(),
                                       plan_on(linear, queue), linear.device(), queue.stream, epilogue);
  }

 private:
  static gpu::MatmulPlan plan_on(const Linear& linear, Queue queue) {
    gpu::MatmulPlan plan = linear.plan();
    plan.overlap_launches = queue.overlaps;
    return plan;
  }
  template <class Y>
  static void multiply_to(const Linear& linear, gpu::DenseView<const T> x, gpu::DenseView<Y> y,
                          const gpu::Epilogue<Y>& epilogue, const ProductSpace& space, Queue queue) {
    const auto by = [&](const auto& gemm) {
      gpu::matmul_async<Formats>(x, linear.weights().view(), y, space.workspace(), plan_on(linear, queue),
                                 linear.device(), queue.stream, epilogue, gemm);
    };
    if (space.gemm())
      by(*space.gemm());
    else
      by(gpu::NoGemm{});
  }
};

/// The plan of a matrix in this build.
inline gpu::MatmulPlan matrix_plan(const gpu::PackedLayout& layout, const gpu::Device& device) {
  const gpu::MatmulPlan plan = gpu::plan_matmul(layout, device);
  return has_gemm ? gpu::with_gemm(plan, layout, device) : plan;
}

/// A gpu::Linear of the formats that the list `Formats` has, for activations of T.
template <class T, class Formats>
class LinearMatrix final : public DeviceMatrix<T>, private RotatedProducts<T> {
 public:
  explicit LinearMatrix(gpu::PackedMatrix weights) : linear_(std::move(weights)) {
    linear_.plan() = matrix_plan(linear_.weights().view().layout, linear_.device());
  }

  std::int64_t rows() const noexcept override { return linear_.rows(); }
  std::int64_t cols() const noexcept override { return linear_.cols(); }
  std::size_t size_bytes() const noexcept override { return linear_.weights().size_bytes(); }
  std::size_t workspace_bytes(std::int64_t batch) const override { return linear_.workspace_bytes(batch); }
  void multiply_async(gpu::DenseView<const T> x, gpu::DenseView<T> y, const gpu::Epilogue<T>& epilogue,
                      const ProductSpace& space, Queue queue) const override {
    Products::multiply(linear_, x, y, epilogue, space, queue);
  }
  void multiply_async(gpu::DenseView<const T> x, gpu::DenseView<float> y,
                      const gpu::Epilogue<float>& epilogue, const ProductSpace& space,
                      Queue queue) const override {
    Products::multiply_to_floats(linear_, x, y, epilogue, space, queue);
  }
  std::int64_t gated_below() const noexcept override { return linear_.plan().dense_from; }
  std::int64_t rotated_cols() const noexcept override { return linear_.rotated_cols(); }
  const RotatedProducts<T>* shared_rotation(gpu::DenseView<const T> x) const override {
    const gpu::MatmulTask<T, T> task{{linear_.weights().view(), x.rows, linear_.plan()}, x, {}, {}, {}};
    const bool inside = gpu::RotatingStreamKernel::can(task, linear_.device());
    return inside || x.rows >= linear_.plan().dense_from ? nullptr : this;
  }

 private:
  using Products = LinearProducts<T, Formats>;

  void rotate_async(gpu::DenseView<const T> x, gpu::DenseView<T> rotated, const ProductSpace& space,
                    Queue queue) const override {
    Products::rotate(linear_, x, rotated, space, queue);
  }
  void multiply_rotated_async(gpu::DenseView<const T> rotated, gpu::DenseView<T> y,
                              const gpu::Epilogue<T>& epilogue, const ProductSpace& space,
                              Queue queue) const override {
    Products::multiply_rotated(linear_, rotated, y, epilogue, space, queue);
  }

  gpu::Linear<Formats> linear_;
};

}  // namespace higgs::model
