// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/device_matrix.cuh>

#include <catch2/catch.hpp>

#include <cstdint>
#include <vector>

#include "device_matrices.cuh"

using higgs::GridCodebook;
namespace gpu = higgs::gpu;

TEST_CASE("a byte names the points of all its codes, the first in its low bits",
          "[matmul][device_matrix][gpu]") {
  const GridCodebook<2, 16> book;
  const std::vector<std::int16_t> table = gpu::byte_table(book);
  REQUIRE(table.size() == 256 * 4);
  for (unsigned byte = 0; byte < 256; ++byte)
    for (std::size_t d = 0; d < 2; ++d) {
      CHECK(table[byte * 4 + d] == book.decode(static_cast<std::uint8_t>(byte & 15u))[d]);
      CHECK(table[byte * 4 + 2 + d] == book.decode(static_cast<std::uint8_t>(byte >> 4))[d]);
    }
  const std::vector<std::int16_t> pairs = gpu::byte_table(GridCodebook<2, 64>{});
  for (std::size_t i = 0; i < 128; ++i)
    for (std::size_t copy = 1; copy < 4; ++copy) CHECK(pairs[copy * 128 + i] == pairs[i]);
}

TEST_CASE("a matrix on the device takes its codes, scales and a table, and no more",
          "[matmul][device_matrix][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 256>>(128, 1024, 1024, 256, 3);
  const gpu::DeviceMatrix device(higgs::AnyQuantizedMatrix{w});
  CHECK(device.rows() == 128);
  CHECK(device.cols() == 1024);
  CHECK(device.size_bytes() == w.codes.size_bytes() + w.scales.size_bytes() + 256 * 2 * 2 + 1024 / 8);
}
