// SPDX-License-Identifier: Apache-2.0
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/expert_kernel.cuh>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace gpu = higgs::gpu;
namespace detail = higgs::gpu::detail;

namespace {

// One warp for each tile: first row, rows, expert, and the number of tiles.
__global__ void expert_tile_kernel(detail::ExpertWindow window, int columns, int4* out) {
  const detail::BatchTile tile = detail::expert_tile(window, static_cast<int>(blockIdx.x), columns);
  const int tiles = detail::expert_tiles(window, columns);
  if (threadIdx.x == 0) out[blockIdx.x] = int4{tile.first, tile.rows, tile.expert, tiles};
}

}  // namespace

TEST_CASE("tiles cut each expert's rows of a window, and there are none beyond",
          "[matmul][expert_kernel][gpu]") {
  constexpr int experts = 70;
  std::vector<std::int32_t> offsets{0};
  for (int e = 0; e < experts; ++e) offsets.push_back(offsets.back() + e % 5 * 4);  // 0 to 16 rows
  const gpu::DeviceBuffer<std::int32_t> offsets_device{std::span<const std::int32_t>(offsets)};
  struct Part {
    int first, rows;
  };
  for (const Part part : {Part{0, 560}, {0, 700}, {100, 64}, {3, 1}, {560, 9}}) {
    INFO("window of " << part.rows << " rows from " << part.first << " on");
    std::vector<int4> expected;
    for (int e = 0; e < experts; ++e) {
      const int end = std::min(offsets[e + 1] - part.first, part.rows);
      for (int first = std::max(offsets[e] - part.first, 0); first < end; first += 8)
        expected.push_back({first, std::min(8, end - first), e, 0});
    }
    const int tiles = static_cast<int>(expected.size());
    expected.push_back({0, 0, 0, 0});
    const gpu::DeviceBuffer<int4> out(expected.size());
    gpu::launch(expert_tile_kernel, dim3(static_cast<unsigned>(expected.size())), 32, 0, nullptr,
                detail::ExpertWindow{offsets_device.data(), experts, part.first, part.rows}, 8, out.data());
    gpu::check(cudaDeviceSynchronize(), "expert_tile_kernel");
    const std::vector<int4> found = out.to_host();
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CHECK(found[i].x == expected[i].x);
      CHECK(found[i].y == expected[i].y);
      CHECK(found[i].z == expected[i].z);
      CHECK(found[i].w == tiles);
    }
  }
}

TEST_CASE("tiles stay within the window whatever the offsets are", "[matmul][expert_kernel][gpu]") {
  const std::vector<std::int32_t> offsets{5, -2000000000, 90, 7, 2000000000, 30, -1};
  const gpu::DeviceBuffer<std::int32_t> offsets_device{std::span<const std::int32_t>(offsets)};
  const gpu::DeviceBuffer<int4> out(40);
  gpu::launch(expert_tile_kernel, dim3(40), 32, 0, nullptr,
              detail::ExpertWindow{offsets_device.data(), 6, 10, 50}, 8, out.data());
  gpu::check(cudaDeviceSynchronize(), "expert_tile_kernel");
  for (const int4& tile : out.to_host()) CHECK((tile.x >= 0 && tile.y >= 0 && tile.x + tile.y <= 50));
}
