// SPDX-License-Identifier: Apache-2.0
// An engine's own kernel takes the Hadamard transform in: silu(gate) * up is rotated in the registers where it is
// made, and the product that follows reads it from there.
#include <higgs/higgs.hpp>

#include <cmath>
#include <cstdio>
#include <span>
#include <vector>

using higgs::Half;
namespace gpu = higgs::gpu;

// One warp for each block of 1024 inputs: hidden = silu(gate) * up, signs, Hadamard, fp16.
__global__ void activate_and_rotate_kernel(const float* gate, const float* up, const std::uint32_t* signs,
                                           Half* out) {
  const int lane = static_cast<int>(threadIdx.x), start = static_cast<int>(blockIdx.x) * 1024 + lane * 8;
  float v[32];
  for (int i = 0; i < 32; ++i) {
    const int column = start + i / 8 * 256 + i % 8,
              place = column % 32;  // the column that hadamard_warp takes in v[i]
    const float hidden = gate[column] / (1.0f + expf(-gate[column])) * up[column];
    const bool negative = signs[column / 32] >> ((place % 2 == 0 ? 15 : 31) - place / 2) & 1u;
    v[i] = negative ? -hidden : hidden;
  }
  gpu::hadamard_warp(v);
  for (int i = 0; i < 32; ++i)
    out[start + i / 8 * 256 + i % 8] = gpu::from_float<Half>(v[i] * 0.03125f);  // 1 / sqrt(1024)
}

int main() {
  constexpr int inputs = 2048, outputs = 200;
  std::vector<float> weights(outputs * inputs), gate(inputs), up(inputs), hidden(inputs), expected(outputs);
  for (std::size_t i = 0; i < weights.size(); ++i)
    weights[i] = static_cast<float>(higgs::random_normal(1, i));
  for (std::size_t i = 0; i < inputs; ++i) {
    gate[i] = static_cast<float>(higgs::random_normal(2, i));
    up[i] = static_cast<float>(higgs::random_normal(3, i));
    hidden[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
  }
  higgs::QuantizeOptions options;
  options.input_scales = false;  // they would be one more factor beside the signs
  const auto w = higgs::quantize(higgs::MatrixView<const float>(weights.data(), outputs, inputs),
                                 higgs::GridCodebook<2, 256>{}, options);
  higgs::matmul(higgs::MatrixView<const float>(hidden.data(), 1, inputs), w,
                higgs::MatrixView<float>(expected.data(), 1, outputs));

  const gpu::Linear<gpu::MatmulFormats<gpu::TableFormat<4>>> linear(w);
  const gpu::DeviceBuffer<float> gate_device{std::span<const float>(gate)},
      up_device{std::span<const float>(up)};
  const gpu::DeviceBuffer<Half> rotated(inputs);
  const gpu::DeviceBuffer<float> y(outputs);
  const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(linear.workspace_bytes(1));

  gpu::launch(activate_and_rotate_kernel, dim3(inputs / 1024), 32, 0, nullptr, gate_device.data(),
              up_device.data(), linear.weights().view().rotation.signs, rotated.data());
  linear.multiply_rotated(gpu::DenseView<const Half>(rotated.data(), 1, inputs),
                          gpu::DenseView<float>(y.data(), 1, outputs), workspace.span(), nullptr);
  const std::vector<float> result = y.to_host();

  double error = 0, norm = 0;
  for (std::size_t i = 0; i < outputs; ++i) {
    error += std::pow(result[i] - expected[i], 2);
    norm += std::pow(expected[i], 2);
  }
  std::printf("relative difference from the CPU: %.2g\n", std::sqrt(error / norm));
  return std::sqrt(error / norm) < 3e-4 ? 0 : 1;
}
