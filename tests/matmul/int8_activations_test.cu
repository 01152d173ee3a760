// SPDX-License-Identifier: Apache-2.0
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/int8_activations.cuh>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "emulator/emulator.hpp"
#include "int8_reference.cuh"

namespace gpu = higgs::gpu;
using gpu::detail::Int8Rows;
using higgs::Half;

namespace {

// What the device makes of rows of rotated inputs, in the order of the host's Int8Row.
template <class X>
std::vector<Int8Row> device_rows(const std::vector<X>& x, std::int64_t batch, int planes, int columns) {
  const auto inputs = static_cast<std::int64_t>(x.size()) / batch;
  const int tiles = static_cast<int>(inputs / 64), segments = (tiles + 15) / 16;
  const gpu::DeviceBuffer<X> from{std::span<const X>(x)};
  const gpu::DeviceBuffer<std::uint8_t> bytes(static_cast<std::size_t>(tiles * columns * 64));
  const gpu::DeviceBuffer<float> scales(static_cast<std::size_t>(segments * columns));
  gpu::check(cudaMemset(scales.data(), 0xff, scales.size_bytes()), "cudaMemset");
  const Int8Rows rows{bytes.data(), scales.data(), columns, planes, tiles};
  gpu::launch(gpu::detail::rotated_to_int8_kernel<X>,
              dim3(static_cast<unsigned>(gpu::ceil_div(batch * segments, std::int64_t{4}))),
              gpu::detail::int8_threads, 0, nullptr, gpu::DenseView<const X>(from.data(), batch, inputs),
              rows);
  gpu::check(cudaDeviceSynchronize(), "rotated_to_int8_kernel");
  const std::vector<std::uint8_t> all = bytes.to_host();
  const std::vector<float> all_scales = scales.to_host();
  for (std::size_t i = 0; i < all_scales.size(); ++i)
    if (static_cast<std::int64_t>(i) % (columns / planes) >= batch) CHECK(all_scales[i] == 0);  // no row of x
  std::vector<Int8Row> out;
  for (std::int64_t m = 0; m < batch; ++m) {
    Int8Row row({}, planes);
    for (int plane = 0; plane < planes; ++plane) {
      const auto column = static_cast<std::size_t>(m + plane * columns / 2);
      for (std::size_t i = 0; i < static_cast<std::size_t>(inputs); ++i) {
        const std::size_t tile = i / 64, within = i % 16 / 4 * 16 + i % 64 / 16 * 4 + i % 4;
        row.planes[plane].push_back(
            static_cast<std::int8_t>(all[(tile * static_cast<std::size_t>(columns) + column) * 64 + within]));
      }
      for (std::size_t s = 0; s < static_cast<std::size_t>(segments); ++s)
        row.scales.push_back(all_scales[s * static_cast<std::size_t>(columns) + column]);
    }
    out.push_back(row);
  }
  return out;
}

// Relative error of rows in int8.
double error_of(const std::vector<float>& x, int planes) {
  const Int8Row row(x, planes);
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double whole = planes == 1 ? row.planes[0][i] : 256.0 * row.planes[0][i] + row.planes[1][i];
    const double difference = whole * static_cast<double>(row.scales[i / 1024]) - static_cast<double>(x[i]);
    error += difference * difference;
    norm += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
  return std::sqrt(error / norm);
}

template <class X>
void check_rows(const std::vector<X>& x, std::int64_t batch, int planes, int columns) {
  INFO("batch " << batch << ", planes " << planes << ", columns " << columns);
  const std::vector<Int8Row> rows = device_rows(x, batch, planes, columns);
  const std::size_t inputs = x.size() / static_cast<std::size_t>(batch), segments = (inputs + 1023) / 1024;
  for (std::size_t m = 0; m < rows.size(); ++m) {
    std::vector<float> row;
    for (std::size_t i = 0; i < inputs; ++i) row.push_back(static_cast<float>(x[m * inputs + i]));
    const Int8Row expected(row, planes);
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < inputs; ++i)
      if (!std::isnan(expected.scales[i / 1024]))
        for (int plane = 0; plane < planes; ++plane)
          wrong += rows[m].planes[plane][i] != expected.planes[plane][i];
    CHECK(wrong == 0);
    for (std::size_t s = 0; s < rows[m].scales.size(); ++s) {
      const float scale = expected.scales[s % segments] * (planes == 2 && s < segments ? 256 : 1);
      CHECK((rows[m].scales[s] == scale || (std::isnan(rows[m].scales[s]) && std::isnan(scale))));
    }
  }
}

}  // namespace

TEST_CASE("rows become the host's int8, with its scales", "[matmul][int8_activations][gpu]") {
  for (const int planes : {1, 2}) {
    check_rows(Normals<float>(3, 1024, 5).data, 3, planes, 8);
    check_rows(Normals<Half>(5, 64, 6).data, 5, planes, 16);
    check_rows(Normals<higgs::BFloat16>(9, 2112, 7).data, 9, planes, 32);
  }
}

TEST_CASE("every value of a plane occurs and is rounded to nearest, ties to even",
          "[matmul][int8_activations][gpu]") {
  for (const int planes : {1, 2}) {
    const int most = planes == 1 ? 127 : 32639, count = 4 * most + 1;  // from -most to most by halves
    const int each = (count + 1022) / 1023;
    std::vector<float> x;
    for (int s = 0; s < each; ++s) {
      x.push_back(static_cast<float>(most));  // so that the scale is 1
      for (int i = 0; i < 1023; ++i)
        x.push_back(static_cast<float>(std::min(-2 * most + s * 1023 + i, 2 * most)) / 2);
    }
    check_rows(x, 1, planes, 8);
    const Int8Row row(x, planes);
    int least = 0, largest = 0;
    for (const std::vector<int>& plane : row.planes)
      for (const int v : plane) least = std::min(least, v), largest = std::max(largest, v);
    CHECK(least == (planes == 1 ? -127 : -128));
    CHECK(largest == 127);
  }
}

TEST_CASE("zeros, infinities, NaN and the smallest and largest numbers have the scales that are promised",
          "[matmul][int8_activations][gpu]") {
  constexpr float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const int planes : {1, 2})
    for (const float one : {0.0f, inf, -inf, nan, -nan, 0x1p-149f, 0x1.fffffep-101f, 0x1p-100f,
                            0x1.fffffep125f, 0x1p126f, -3e38f}) {
      std::vector<float> x(3 * 1024, 0.0f);
      x[1024 + 17] = one;
      x[2048 + 1] = 1;
      check_rows(x, 1, planes, 8);
      const std::vector<float> scales = device_rows(x, 1, planes, 8)[0].scales;
      CHECK(scales[0] == 0);
      CHECK(scales[2] > 0);
      CHECK(std::isnan(scales[1]) == !(std::fabs(one) < 0x1p126f));
      if (!std::isnan(scales[1])) CHECK((scales[1] > 0) == (std::fabs(one) >= 0x1p-100f));
    }
}

TEST_CASE("one plane of normal inputs has an error below .0085, two below .000035",
          "[matmul][int8_activations][gpu]") {
  const std::vector<float> x = Normals<float>(1, 64 * 1024, 5).data;
  CHECK(error_of(x, 1) > 0.005);
  CHECK(error_of(x, 1) < 0.0085);
  CHECK(error_of(x, 2) < 0.000035);
}
