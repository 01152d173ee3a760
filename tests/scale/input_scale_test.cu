// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/random.hpp>
#include <higgs/scale/input_scale.cuh>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "emulator/emulator.hpp"

namespace gpu = higgs::gpu;

TEST_CASE("columns have the host's statistics for any pieces of rows", "[scale][input_scale][gpu]") {
  const auto check = [](auto zero, std::int64_t rows, std::int64_t cols, std::int64_t first_piece,
                        bool negative = false) {
    using T = decltype(zero);
    std::vector<T> w(static_cast<std::size_t>(rows * cols));
    for (std::size_t i = 0; i < w.size(); ++i)
      w[i] = static_cast<T>(static_cast<float>(higgs::random_normal(5, i) * std::exp2(i % 7)));
    for (T& weight : w)
      if (negative && static_cast<float>(weight) > 0) weight = static_cast<T>(-static_cast<float>(weight));
    higgs::ColumnStatistics host(cols);
    host.add(higgs::MatrixView<const T>(w.data(), rows, cols));
    const gpu::DeviceBuffer<T> weights{std::span<const T>(w)};
    gpu::DeviceColumnStatistics device(cols);
    device.add_async(gpu::DenseView<const T>(weights.data(), first_piece, cols), nullptr);
    device.add_async(gpu::DenseView<const T>(weights.data() + first_piece * cols, rows - first_piece, cols),
                     nullptr);
    const higgs::ColumnStatistics found = device.to_host(nullptr);
    CHECK(found.input_scales() == host.input_scales());
    CHECK(found.max_magnitude() == host.max_magnitude());
    CHECK(found.max_magnitude(found.input_scales()) == host.max_magnitude(host.input_scales()));
  };
  check(0.0f, 37, 70, 20);
  check(0.0f, 37, 70, 20, true);
  check(higgs::Half{}, 9, 129, 9);
  check(higgs::Half{}, 9, 129, 9, true);
  check(higgs::BFloat16{}, 1, 1, 0);
}

TEST_CASE("statistics of columns read each sector once", "[scale][input_scale][gpu]") {
  if (!emulator::in_use) return;
  const gpu::DeviceBuffer<higgs::Half> weights{
      std::span<const higgs::Half>(std::vector<higgs::Half>(64 * 256))};
  gpu::DeviceColumnStatistics device(256);
  emulator::clear_launches();
  device.add_async(gpu::DenseView<const higgs::Half>(weights.data(), 64, 256), nullptr);
  CHECK(emulator::launches().back().sectors_read(weights.data()) == 64 * 256 * 2 / 32);
}
