// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/linear.cuh>
#include <higgs/store/stacked_rows.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "device_matrices.cuh"
#include "emulator/emulator.hpp"

using higgs::GridCodebook;
using higgs::Half;
namespace gpu = higgs::gpu;

namespace {

using Formats = gpu::MatmulFormats<gpu::TableFormat<4>>;

}  // namespace

TEST_CASE("a linear layer gives the bits of matmul_async for every batch that its workspace is for",
          "[matmul][linear][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 256>>(150, 192, 64, 64, 5, true);
  const gpu::Linear<Formats> linear(w);
  CHECK(linear.rows() == 150);
  CHECK(linear.cols() == 192);
  const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(linear.workspace_bytes(20));
  for (const std::int64_t batch : {20, 3, 9}) {
    const Normals<Half> x(batch, 192, 6);
    const Normals bias(1, 150, 8);
    const Normals<float> residual(batch, 150, 9);
    const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)};
    const gpu::DeviceBuffer<float> bias_device{std::span<const float>(bias.data)},
        y{std::span<const float>(residual.data)};
    linear(gpu::DenseView<const Half>(x_device.data(), batch, 192),
           gpu::DenseView<float>(y.data(), batch, 150), workspace.span(), nullptr,
           {bias_device.data(), y.data()});
    gpu::check(cudaDeviceSynchronize(), "linear");
    CHECK(y.to_host() == device_product<float, Formats>(linear.weights().view(), x, linear.plan(), bias.data,
                                                        residual.data));
  }
}

TEST_CASE("a linear layer takes inputs that were rotated before", "[matmul][linear][gpu]") {
  const gpu::Linear<Formats> linear(
      higgs::AnyQuantizedMatrix(random_matrix<GridCodebook<2, 256>>(70, 128, 64, 64, 5)));
  const Normals<Half> x(6, 128, 6);  // more rows than the kernel rotates
  const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)}, rotated(x.data.size());
  const gpu::DeviceBuffer<float> y(6 * 70);
  const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(linear.workspace_bytes(6));
  gpu::rotate_async(linear.weights().view().rotation, gpu::DenseView<const Half>(x_device.data(), 6, 128),
                    gpu::DenseView<Half>(rotated.data(), 6, 128), linear.device(), nullptr);
  linear.multiply_rotated(gpu::DenseView<const Half>(rotated.data(), 6, 128),
                          gpu::DenseView<float>(y.data(), 6, 70), workspace.span(), nullptr);
  gpu::check(cudaDeviceSynchronize(), "linear");
  CHECK(y.to_host() == device_product<float, Formats>(linear.weights().view(), x, linear.plan()));
}

TEST_CASE("layers that rotate alike share one rotation, or are one layer", "[matmul][linear][gpu]") {
  using Book = GridCodebook<2, 256>;
  std::vector<higgs::QuantizedMatrix<Book>> parts;
  for (const std::int64_t rows : {70, 130}) {
    parts.push_back(random_matrix<Book>(rows, 180, 64, 32, static_cast<std::uint64_t>(rows), true));
    parts.back().seed = 7;
    parts.back().input_scales = parts.front().input_scales;
    parts.back().exponent = rows == 70 ? -3 : 0;
  }
  REQUIRE(rotates_alike(parts[0], parts[1]));
  const gpu::Device device = gpu::current_device();
  const auto layer = [&](const higgs::QuantizedMatrix<Book>& w) {
    return gpu::Linear<Formats>(gpu::PackedMatrix(w), device, gpu::Reproducibility::AcrossDevices);
  };
  const gpu::Linear<Formats> first = layer(parts[0]), second = layer(parts[1]),
                             both = layer(
                                 concatenate_rows(std::span<const higgs::QuantizedMatrix<Book>>(parts)));
  REQUIRE(first.rotated_cols() == 384);  // six groups of 32 inputs, each padded with 32 zeros
  for (const std::int64_t batch : {3, 9}) {
    const Normals<Half> x(batch, 180, 6);
    const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)};
    const gpu::DenseView<const Half> x_view(x_device.data(), batch, 180);
    std::vector<Half> anything(static_cast<std::size_t>(batch * 384), Half(3.0f));
    const gpu::DeviceBuffer<Half> rotated{std::span<const Half>(anything)};
    const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(both.workspace_bytes(batch));
    first.rotate(x_view, gpu::DenseView<Half>(rotated.data(), batch, 384), workspace.span(), nullptr);
    const auto outputs = [&](const gpu::Linear<Formats>& linear, bool shared) {
      const gpu::DeviceBuffer<float> y(static_cast<std::size_t>(batch * linear.rows()));
      const gpu::DenseView<float> y_view(y.data(), batch, linear.rows());
      if (shared)
        linear.multiply_rotated(gpu::DenseView<const Half>(rotated.data(), batch, 384), y_view,
                                workspace.span(), nullptr);
      else
        linear(x_view, y_view, workspace.span(), nullptr);
      gpu::check(cudaDeviceSynchronize(), "linear");
      return y.to_host();
    };
    const auto y_first = outputs(first, false), y_second = outputs(second, false),
               y_both = outputs(both, false);
    CHECK(outputs(first, true) == y_first);
    CHECK(outputs(second, true) == y_second);
    for (std::int64_t m = 0; m < batch; ++m) {
      const auto row = [&](const std::vector<float>& y, std::int64_t cols) {
        return std::vector<float>(y.begin() + m * cols, y.begin() + (m + 1) * cols);
      };
      std::vector<float> expected = row(y_first, 70);
      for (const float value : row(y_second, 130)) expected.push_back(value);
      CHECK(row(y_both, 200) == expected);
    }
    CHECK_THROWS_WITH(
        first.rotate(x_view, gpu::DenseView<Half>(rotated.data(), batch, 380), workspace.span(), nullptr),
        Catch::Contains("rotate: x is"));
  }
}

TEST_CASE("a layer ends in silu(gate) * up, with bias and residual", "[matmul][linear][gpu]") {
  using Book = GridCodebook<2, 256>;
  const auto gate = random_matrix<Book>(75, 192, 64, 64, 5);
  auto up = random_matrix<Book>(75, 192, 64, 64, 6);
  up.seed = gate.seed;
  up.exponent = -1;
  const gpu::Linear<Formats> linear(interleave_rows(gate, up));
  const std::int64_t stride = 77;  // rows of y that are not aligned
  for (const std::int64_t batch : {3, 9}) {
    const Normals<Half> x(batch, 192, 6);
    const Normals bias(1, 150, 8), residual(batch, stride, 9);
    const auto sums = device_product<float, Formats>(linear.weights().view(), x, linear.plan(), bias.data);
    const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)};
    const gpu::DeviceBuffer<float> bias_device{std::span<const float>(bias.data)},
        y{std::span<const float>(residual.data)};
    const gpu::DeviceBuffer<Half> rounded(static_cast<std::size_t>(batch * 75));
    const gpu::DenseView<const Half> x_view(x_device.data(), batch, 192);
    const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(linear.workspace_bytes(batch, true));
    linear(x_view, gpu::DenseView<Half>(rounded.data(), batch, 75), workspace.span(), nullptr,
           {bias_device.data(), nullptr, true});
    linear(x_view, gpu::DenseView<float>(y.data(), batch, 75, stride), workspace.span(), nullptr,
           {bias_device.data(), y.data(), true});
    gpu::check(cudaDeviceSynchronize(), "linear");
    const std::vector<float> found = y.to_host();
    const std::vector<Half> halves = rounded.to_host();
    for (std::int64_t m = 0; m < batch; ++m)
      for (std::int64_t i = 0; i < stride; ++i) {
        const float kept = residual.view(m, i), result = found[static_cast<std::size_t>(m * stride + i)];
        if (i >= 75) {
          CHECK(result == kept);
          continue;
        }
        const float g = sums[static_cast<std::size_t>(m * 150 + 2 * i)],
                    u = sums[static_cast<std::size_t>(m * 150 + 2 * i + 1)],
                    product = g / (1 + std::exp(-g)) * u;
        CHECK(std::abs(result - (product + kept)) <= 1e-6f * (std::abs(product) + std::abs(kept)));
        CHECK(std::abs(static_cast<float>(halves[static_cast<std::size_t>(m * 75 + i)]) - product) <=
              1e-3f * std::abs(product) + 1e-7f);
      }
    CHECK_THROWS_WITH(linear(x_view, gpu::DenseView<float>(y.data(), batch, 77), workspace.span(), nullptr,
                             {nullptr, nullptr, true}),
                      Catch::Contains("must be"));
  }
}

TEST_CASE("a layer adds a residual of its own to rows that have a stride", "[matmul][linear][gpu]") {
  const gpu::Linear<Formats> linear(random_matrix<GridCodebook<2, 256>>(148, 192, 64, 64, 5));
  for (const std::int64_t stride : {148, 152, 153})
    for (const std::int64_t offset : {0, 1}) {  // stores of 16 bytes, and of 4
      const Normals<Half> x(5, 192, 6);
      const Normals residual(1, 5 * stride + 1, 9);
      const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)};
      const gpu::DeviceBuffer<float> residual_device{std::span<const float>(residual.data)},
          y{std::span<const float>(std::vector<float>(residual.data.size(), 7.0f))};
      const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(linear.workspace_bytes(5));
      linear(gpu::DenseView<const Half>(x_device.data(), 5, 192),
             gpu::DenseView<float>(y.data() + offset, 5, 148, stride), workspace.span(), nullptr,
             {nullptr, residual_device.data() + offset});
      gpu::check(cudaDeviceSynchronize(), "linear");
      const auto plain = device_product<float, Formats>(linear.weights().view(), x, linear.plan());
      std::vector<float> expected(residual.data.size(), 7.0f);
      for (std::int64_t m = 0; m < 5; ++m)
        for (std::int64_t n = 0; n < 148; ++n) {
          const auto at = static_cast<std::size_t>(offset + m * stride + n);
          expected[at] = plain[static_cast<std::size_t>(m * 148 + n)] + residual.data[at];
        }
      CHECK(y.to_host() == expected);
    }
}

TEST_CASE("a linear layer refuses a format that is not in its list when it is made",
          "[matmul][linear][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 64>>(64, 64, 64, 64, 5);
  CHECK_THROWS_WITH(gpu::Linear<Formats>(w), Catch::Contains("gpu::Linear: no kernel was compiled"));
  gpu::Linear<gpu::MatmulFormats<gpu::TableFormat<3>>> linear(w);
  linear.plan().dense_from = 100;
  CHECK(linear.workspace_bytes(1000) >= linear.workspace_bytes(99));
  CHECK(linear.workspace_bytes(1000, true) >=
        linear.workspace_bytes(1000));  // gated products are never dense
}

TEST_CASE("a linear layer refuses inputs in the memory of its outputs, and a plan for another device",
          "[matmul][linear][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 256>>(64, 64, 64, 64, 5);
  const gpu::Linear<Formats> linear(w);
  const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(linear.workspace_bytes(2));
  const auto x = gpu::DeviceBuffer<Half>::zeros(3 * 64);
  const gpu::DenseView<Half> in(x.data(), 2, 64), out(x.data() + 64, 2, 64);
  CHECK_THROWS_WITH(linear(in, out, workspace.span(), nullptr),
                    Catch::Contains("x and y must not share memory"));
  CHECK_THROWS_WITH(
      linear.multiply_rotated(gpu::DenseView<const Half>(x.data() + 1, 1, 64),
                              gpu::DenseView<Half>(x.data() + 128, 1, 64), workspace.span(), nullptr),
      Catch::Contains("rotated x begins 2 bytes after a multiple of 16"));
  gpu::Device other = gpu::current_device();
  CHECK(other.reserved_shared_bytes <= gpu::LookupTable::begin);
  other.id += 1;
  CHECK_THROWS_WITH(gpu::Linear<Formats>(gpu::PackedMatrix(w), other),
                    Catch::Contains("in the memory of device"));
  other.id -= 1;
  other.reserved_shared_bytes = 4096;
  CHECK_THROWS_WITH(gpu::Linear<Formats>(gpu::PackedMatrix(w), other), Catch::Contains("4096 bytes"));
}

TEST_CASE("a layer that is warm is captured for any batch without the first use of a kernel",
          "[matmul][linear][gpu]") {
  const emulator::Options before = emulator::options();
  emulator::options().refuse_cold = true;
  // A format and orders that no other case uses, so that its kernels are cold here.
  using Cold = gpu::MatmulFormats<gpu::TableFormat<2>>;
  gpu::Linear<Cold> linear(random_matrix<GridCodebook<2, 16>>(70, 192, 64, 64, 5));
  const auto x = gpu::DeviceBuffer<higgs::BFloat16>::zeros(40 * 192 + 1);
  const gpu::DeviceBuffer<float> y(40 * 70);
  linear.plan().int8_planes = 1;
  const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(linear.workspace_bytes(40));
  const auto captures = [&](std::int64_t batch, int first) {
    return can_be_captured([&](cudaStream_t stream) {
      linear(gpu::DenseView<const higgs::BFloat16>(x.data() + first, batch, 192),
             gpu::DenseView<float>(y.data(), batch, 70), workspace.span(), stream);
    });
  };
  for (const int planes : {0, 1, 2}) {
    linear.plan().int8_planes = planes;
    if (emulator::in_use && planes < 2) CHECK(!captures(1, 0));  // one and two planes have common kernels
    linear.warm_up<higgs::BFloat16, float>();
    for (const int first : {0, 1})
      for (std::int64_t batch = 1; batch <= 40; batch += 3) CHECK(captures(batch, first));
  }
  emulator::options() = before;
}
