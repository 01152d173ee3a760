// SPDX-License-Identifier: Apache-2.0
// Quantized matrices of random codes, and what the device makes of them beside the reference.
#pragma once

#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/reference.hpp>

#include "matrices.hpp"

#include <cmath>
#include <cstdint>
#include <vector>

/// y = x W^T by the device's kernels, y in `Y`.
template <class Y, class Formats = higgs::gpu::AnyFormat, class X>
std::vector<Y> device_product(const higgs::gpu::PackedView& w, const Normals<X>& x,
                              const higgs::gpu::MatmulPlan& plan, const std::vector<float>& bias = {},
                              const std::vector<Y>& residual = {}) {
  namespace gpu = higgs::gpu;
  const gpu::Device device = gpu::current_device();
  const std::int64_t batch = x.view.rows, rows = w.layout.rows;
  const gpu::DeviceBuffer<X> x_device{std::span<const X>(x.data)};
  gpu::DeviceBuffer<Y> y(static_cast<std::size_t>(batch * rows));
  const gpu::DeviceBuffer<float> bias_device{std::span<const float>(bias)};
  const gpu::DeviceBuffer<Y> residual_device{std::span<const Y>(residual)};
  const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(gpu::matmul_workspace(w, batch, plan, device));
  gpu::matmul_async<Formats>(gpu::DenseView<const X>(x_device.data(), batch, x.view.cols), w,
                             gpu::DenseView<Y>(y.data(), batch, rows), workspace.span(), plan, device,
                             nullptr, {bias_device.data(), residual_device.data()});
  gpu::check(cudaDeviceSynchronize(), "device_product");
  return y.to_host();
}

/// Whether a capture can hold work(stream): not if it is the first use of a kernel under Options::refuse_cold.
template <class Work>
bool can_be_captured(const Work& work) {
  namespace gpu = higgs::gpu;
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  gpu::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "can_be_captured");
  gpu::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "can_be_captured");
  bool done = true;
  try {
    work(stream);
  } catch (const gpu::CudaError&) {
    done = false;
  }
  static_cast<void>(cudaStreamEndCapture(stream, &graph));
  static_cast<void>(cudaGraphDestroy(graph));
  static_cast<void>(cudaStreamDestroy(stream));
  return done;
}

/// ||y - reference|| / ||reference||.
template <class Y>
double relative_error(const std::vector<Y>& y, const std::vector<double>& reference) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    const double difference = static_cast<double>(static_cast<float>(y[i])) - reference[i];
    error += difference * difference;
    norm += reference[i] * reference[i];
  }
  return norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
}
