// SPDX-License-Identifier: Apache-2.0
#include "device/dense.cuh"

#include "model/device/device_numbers.cuh"

#include <catch2/catch.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "emulator/emulator.hpp"

namespace gpu = higgs::gpu;
using namespace higgs::model;
using higgs::BFloat16;
using higgs::Half;

namespace {

// The product of (m, cols) and (rows, cols), whose rows are `step` apart, to rows of y that are one number longer.
template <class T, class Y>
std::vector<Y> product(const std::vector<T>& x, const std::vector<T>& w, const std::vector<float>& bias,
                       std::int64_t m, std::int64_t rows, std::int64_t cols, std::int64_t step) {
  const auto x_device = on_device(x), w_device = on_device(w);
  const auto bias_device = on_device(bias);
  const auto y = on_device(std::vector<Y>(static_cast<std::size_t>(m * (rows + 1)), Y(-9.0f)));
  dense_async(gpu::DenseView<const T>(x_device.data(), m, cols, step),
              gpu::DenseView<const T>(w_device.data(), rows, cols, step),
              gpu::DenseView<Y>(y.data(), m, rows, rows + 1),
              {.bias = bias.empty() ? nullptr : bias_device.data()}, nullptr);
  return y.to_host();
}

template <class T, class Y>
void check_product(std::int64_t m, std::int64_t rows, std::int64_t cols, std::int64_t step, bool with_bias) {
  const auto x = random_numbers<T>(1, m * step), w = random_numbers<T>(2, rows * step);
  const auto bias = with_bias ? random_numbers<float>(3, rows) : std::vector<float>();
  const std::vector<Y> y = product<T, Y>(x, w, bias, m, rows, cols, step);
  const double unit = std::is_same_v<Y, float> ? 0 : roundoff<T>;
  INFO(m << " rows of x, W " << rows << " x " << cols);
  for (std::int64_t r = 0; r < m; ++r)
    for (std::int64_t o = 0; o <= rows; ++o) {
      const double found =
          static_cast<double>(static_cast<float>(y[static_cast<std::size_t>(r * (rows + 1) + o)]));
      if (o == rows) {
        REQUIRE(found == -9);  // between rows of y
        continue;
      }
      double sum = with_bias ? static_cast<double>(bias[static_cast<std::size_t>(o)]) : 0,
             size = std::abs(sum);
      for (std::int64_t c = 0; c < cols; ++c) {
        const double term =
            static_cast<double>(static_cast<float>(x[static_cast<std::size_t>(r * step + c)])) *
            static_cast<double>(static_cast<float>(w[static_cast<std::size_t>(o * step + c)]));
        sum += term;
        size += std::abs(term);
      }
      REQUIRE(std::abs(found - sum) <= unit * std::abs(sum) + size * 1e-6);
    }
}

}  // namespace

// Rows of x for both kernels and a last tile of each, rows of W beyond whole tiles, columns for some and all warps.
TEMPLATE_TEST_CASE("a dense product is x * w^T + bias", "[model][device][gpu]", Half, BFloat16) {
  for (const std::int64_t m : {1, 8, 11, 70}) {
    check_product<TestType, float>(m, 33, 8, 8, false);
    check_product<TestType, TestType>(m, 16, 136, 144, true);
    check_product<TestType, float>(m, 5, 27, 27, true);  // numbers one by one
    check_product<TestType, TestType>(m, 5, 24, 27, true);
  }
}

TEST_CASE("a row of a dense product has the same bits in every batch", "[model][device][gpu]") {
  const std::int64_t m = 70, rows = 20, cols = 520;
  const auto x = random_numbers<Half>(4, m * cols), w = random_numbers<Half>(5, rows * cols);
  for_each_mma([&] {
    const std::vector<float> all = product<Half, float>(x, w, {}, m, rows, cols, cols);
    for (const std::int64_t r : {0, 9, 69}) {
      const std::vector<float> one = product<Half, float>(
          std::vector<Half>(x.begin() + r * cols, x.begin() + (r + 1) * cols), w, {}, 1, rows, cols, cols);
      CHECK(one == std::vector<float>(all.begin() + r * (rows + 1), all.begin() + (r + 1) * (rows + 1)));
    }
  });
}

// The weights of gate and up are rows of one matrix in turn, so each is a matrix whose rows are apart.
TEMPLATE_TEST_CASE("a gated dense product is silu(gate) * up, and a residual is added to it",
                   "[model][device][gpu]", float, Half) {
  const std::int64_t cols = 40, outputs = 19;
  const auto w = random_numbers<Half>(21, 2 * outputs * cols);
  const auto bias = random_numbers<float>(22, 2 * outputs);
  const auto w_device = on_device(w);
  const auto bias_device = on_device(bias);
  for (const std::int64_t m : {1, 11}) {
    const auto x_device = on_device(random_numbers<Half>(23, m * cols));
    const gpu::DenseView<const Half> x(x_device.data(), m, cols), both(w_device.data(), 2 * outputs, cols),
        gate(w_device.data(), outputs, cols, 2 * cols), up(w_device.data() + cols, outputs, cols, 2 * cols);
    const gpu::DeviceBuffer<float> gates(static_cast<std::size_t>(m * outputs)), ups(gates.size());
    dense_async(x, gate, gpu::DenseView<float>(gates.data(), m, outputs), {}, nullptr);
    dense_async(x, up, gpu::DenseView<float>(ups.data(), m, outputs), {}, nullptr);
    const std::vector<float> g = gates.to_host(), u = ups.to_host();
    const auto before = random_numbers<TestType>(24, m * outputs);
    const auto y = on_device(before);
    dense_async(x, both, gpu::DenseView<TestType>(y.data(), m, outputs),
                {.bias = bias_device.data(), .residual = y.data(), .gated = true}, nullptr);
    const std::vector<TestType> found = y.to_host();
    for (std::size_t i = 0; i < found.size(); ++i) {
      const std::size_t o = i % static_cast<std::size_t>(outputs);
      const double v = static_cast<double>(g[i]) + static_cast<double>(bias[2 * o]),
                   times = static_cast<double>(u[i]) + static_cast<double>(bias[2 * o + 1]),
                   exact =
                       v / (1 + std::exp(-v)) * times + static_cast<double>(static_cast<float>(before[i]));
      const double unit = std::is_same_v<TestType, float> ? 1e-6 : roundoff<Half>;
      REQUIRE(std::abs(static_cast<double>(static_cast<float>(found[i])) - exact) <=
              unit * std::abs(exact) + 1e-4);
    }
  }
}

namespace {

struct PlainGemm {
  template <class T, class Y>
  void operator()(gpu::DenseView<const T> x, gpu::DenseView<const T> w, gpu::DenseView<Y> y, bool add,
                  cudaStream_t stream) const {
    dense_async(x, w, y, {.residual = add ? y.data : nullptr}, stream);
  }
};

}  // namespace

TEST_CASE("a GEMM gives a dense product with its bias and residual, and refuses gated ones",
          "[model][device][gpu]") {
  const std::int64_t m = 3, rows = 1030, cols = 16;
  const auto x_device = on_device(random_numbers<Half>(31, m * cols)),
             w_device = on_device(random_numbers<Half>(32, rows * cols));
  const auto bias = on_device(random_numbers<float>(33, rows)),
             added = on_device(random_numbers<float>(34, m * rows));
  const gpu::DenseView<const Half> x(x_device.data(), m, cols), w(w_device.data(), rows, cols);
  for (const bool with_bias : {false, true})
    for (const int residual : {0, 1, 2}) {  // none, an array, y itself
      const auto result = [&](auto product) {
        const auto y = on_device(random_numbers<float>(35, m * rows));
        product(gpu::DenseView<float>(y.data(), m, rows),
                gpu::Epilogue<float>{.bias = with_bias ? bias.data() : nullptr,
                                     .residual = residual == 0   ? nullptr
                                                 : residual == 1 ? added.data()
                                                                 : y.data()});
        return y.to_host();
      };
      const std::vector<float> plain =
          result([&](auto y, const auto& epilogue) { dense_async(x, w, y, epilogue, nullptr); });
      const std::vector<float> by_gemm = result([&](auto y, const auto& epilogue) {
        dense_by_gemm_async(x, w, y, epilogue, PlainGemm(), nullptr);
      });
      INFO(with_bias << " " << residual);
      for (std::size_t i = 0; i < plain.size(); ++i)
        REQUIRE(std::abs(plain[i] - by_gemm[i]) <= 1e-5f * (1 + std::abs(plain[i])));
    }
  CHECK_THROWS_AS(dense_by_gemm_async(x, w, gpu::DenseView<float>(nullptr, m, rows / 2), {.gated = true},
                                      PlainGemm(), nullptr),
                  higgs::InvalidArgument);
}

TEST_CASE("a dense product reads its weights once for 8 rows of x", "[model][device][gpu]") {
  if (!emulator::in_use) return;
  const std::int64_t rows = 64, cols = 512;
  const auto w = on_device(random_numbers<Half>(6, rows * cols)),
             x = on_device(random_numbers<Half>(7, 8 * cols));
  const gpu::DeviceBuffer<float> y(static_cast<std::size_t>(8 * rows));
  emulator::clear_launches();
  dense_async(gpu::DenseView<const Half>(x.data(), 8, cols), gpu::DenseView<const Half>(w.data(), rows, cols),
              gpu::DenseView<float>(y.data(), 8, rows), {}, nullptr);
  CHECK(emulator::launches().back().sectors_read(w.data()) == rows * cols * 2 / 32);
}

TEST_CASE("a dense product refuses shapes that do not match", "[model][device][gpu]") {
  const gpu::DeviceBuffer<Half> a(256);
  const gpu::DenseView<const Half> x(a.data(), 2, 16), w(a.data(), 3, 16), narrow(a.data(), 3, 8);
  CHECK_THROWS_AS(dense_async(x, narrow, gpu::DenseView<Half>(a.data(), 2, 3), {}, nullptr),
                  higgs::InvalidArgument);
  CHECK_THROWS_AS(dense_async(x, w, gpu::DenseView<Half>(a.data(), 2, 4), {}, nullptr),
                  higgs::InvalidArgument);
  CHECK_THROWS_AS(dense_async(x, w, gpu::DenseView<Half>(a.data(), 2, 1), {.gated = true}, nullptr),
                  higgs::InvalidArgument);  // an odd number of rows
}
