// SPDX-License-Identifier: Apache-2.0
// Quantized matrices of random codes, and what the device makes of them beside the reference.
#pragma once

#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/reference.hpp>

#include "matrices.hpp"

#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

/// A matrix of random codes and scales: every code, also those that quantization seldom chooses.
template <class Book>
higgs::QuantizedMatrix<Book> random_matrix(std::int64_t rows, std::int64_t cols, std::int64_t block,
                                           std::int64_t group, std::uint64_t seed,
                                           bool with_input_scales = false) {
  struct Storage {
    std::vector<std::uint8_t> codes;
    std::vector<higgs::Half> scales, input_scales;
  };
  auto storage = std::make_shared<Storage>();
  higgs::QuantizedMatrix<Book> w;
  w.layout = {rows, cols, block, group, with_input_scales};
  w.seed = seed;
  w.exponent = -3;
  storage->codes.resize(static_cast<std::size_t>(rows * w.row_bytes()));
  for (std::size_t i = 0; i < storage->codes.size(); ++i)
    storage->codes[i] = static_cast<std::uint8_t>(higgs::random_bits(seed, i) >> 20);
  for (std::int64_t i = 0; i < rows * w.layout.groups(); ++i) {
    const double uniform = higgs::random_uniform(seed + 1, static_cast<std::uint64_t>(i));
    storage->scales.push_back(higgs::Half(uniform < 0.1 ? 0.0f : static_cast<float>(uniform * 0.02)));
  }
  if (with_input_scales)
    for (std::int64_t i = 0; i < cols; ++i)
      storage->input_scales.push_back(higgs::Half(
          0.5f + static_cast<float>(higgs::random_uniform(seed + 2, static_cast<std::uint64_t>(i)))));
  w.codes = storage->codes;
  w.scales = storage->scales;
  w.input_scales = storage->input_scales;
  w.owner = storage;
  return w;
}

/// y = x W^T by the device's kernels, y in `Y`.
template <class Y, class Bits = higgs::gpu::AnyBits, class X>
std::vector<Y> device_product(const higgs::gpu::TiledMatrix& w, const Normals<X>& x,
                              const higgs::gpu::MatmulPlan& plan, const std::vector<float>& bias = {},
                              const std::vector<Y>& residual = {}) {
  namespace gpu = higgs::gpu;
  const gpu::Device device = gpu::current_device();
  const std::int64_t batch = x.view.rows, rows = w.order.rows;
  const gpu::DeviceBuffer<X> x_device{std::span<const X>(x.data)};
  gpu::DeviceBuffer<Y> y(static_cast<std::size_t>(batch * rows));
  const gpu::DeviceBuffer<float> bias_device{std::span<const float>(bias)};
  const gpu::DeviceBuffer<Y> residual_device{std::span<const Y>(residual)};
  const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(gpu::matmul_workspace(w, batch, plan, device));
  gpu::matmul_async<Bits>(gpu::DeviceMatrixView<const X>(x_device.data(), batch, x.view.cols), w,
                          gpu::DeviceMatrixView<Y>(y.data(), batch, rows),
                          std::span(workspace.data(), workspace.size()), plan, device, nullptr,
                          {bias_device.data(), residual_device.data()});
  gpu::check(cudaDeviceSynchronize(), "device_product");
  return y.to_host();
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
