// SPDX-License-Identifier: Apache-2.0
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/stream_task.cuh>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace gpu = higgs::gpu;

TEST_CASE("the owner of a warp tile is the block whose range holds it", "[matmul][stream_task][gpu]") {
  for (int row_blocks = 1; row_blocks <= 6; ++row_blocks)
    for (int cols = 1; cols <= 6; ++cols)
      for (int grid = 1; grid <= 40; ++grid) {
        const gpu::detail::StreamSplit split{row_blocks, cols, grid};
        CHECK(split.begin(0) == 0);
        CHECK(split.begin(grid) == split.total());
        for (int item = 0; item < split.total(); ++item) {
          const int owner = split.owner(item);
          CHECK((split.begin(owner) <= item && item < split.begin(owner + 1)));
        }
      }
}

TEST_CASE("owners of split row blocks have a slot each", "[matmul][stream_task][gpu]") {
  for (int row_blocks = 1; row_blocks <= 9; ++row_blocks)
    for (int cols = 1; cols <= 7; ++cols)
      for (int grid = 1; grid <= 30; ++grid) {
        const gpu::detail::StreamSplit split{row_blocks, cols, grid};
        int next = 0;  // the first slot that is free
        for (int row_block = 0; row_block < row_blocks; ++row_block) {
          const int first = split.first_owner(row_block), last = split.last_owner(row_block);
          if (first == last) continue;
          CHECK(split.slot(row_block, first) >= next);
          next = split.slot(row_block, first) + last - first + 1;
        }
        CHECK(next <= split.slots());
        CHECK(split.slots() < 2 * grid);
      }
}

TEST_CASE("offsets of slots and counters do not overflow", "[matmul][stream_task][gpu]") {
  const gpu::detail::StreamSplit split{16, 64, 132};  // 4096 x 4096 on 132 multiprocessors
  CHECK(gpu::detail::slot_begin(split, 1, 0, 64 * 256) == 147 * 64 * 256);
  CHECK(gpu::detail::slot_begin(split, 1000, 5, 64 * 256) == std::int64_t{147'005} * 64 * 256);
  CHECK(gpu::detail::arrival_counter(split, 200'000'000, 3) == std::int64_t{3'200'000'003});
}

TEST_CASE("buffers of activations fill the second halves of the lines, piece by piece",
          "[matmul][stream_task][gpu]") {
  using Shared = gpu::detail::SharedLayout<4>;
  std::vector<int> offsets;
  for (int piece = 0; piece < Shared::buffer_bytes / 32; ++piece) offsets.push_back(Shared::piece(piece));
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    CHECK(offsets[i] % 256 < 128);
    CHECK(offsets[i] == static_cast<int>(i / 8 * 256 + i % 8 * 16));
  }
  CHECK(offsets.back() < Shared::buffer_bytes);
}

namespace {

// One warp for each tile: first row, rows, expert.
__global__ void expert_tile_kernel(gpu::ExpertTask experts, int columns, int4* out) {
  const gpu::detail::BatchTile tile =
      gpu::detail::expert_tile(experts, static_cast<int>(blockIdx.x), columns);
  if (threadIdx.x == 0) out[blockIdx.x] = int4{tile.first, tile.rows, tile.expert, 0};
}

}  // namespace

TEST_CASE("tiles cut each expert's rows, and there are none beyond", "[matmul][stream_task][gpu]") {
  std::vector<std::int32_t> offsets{0};
  for (int e = 0; e < 70; ++e) offsets.push_back(offsets.back() + e % 5 * 4);  // 0 to 16 rows
  std::vector<int4> expected;
  for (int e = 0; e < 70; ++e)
    for (int first = offsets[e]; first < offsets[e + 1]; first += 8)
      expected.push_back({first, std::min(8, offsets[e + 1] - first), e, 0});
  expected.push_back({0, 0, 0, 0});
  const gpu::DeviceBuffer<std::int32_t> offsets_device{std::span<const std::int32_t>(offsets)};
  const gpu::DeviceBuffer<int4> out(expected.size());
  gpu::launch(expert_tile_kernel, dim3(static_cast<unsigned>(expected.size())), 32, 0, nullptr,
              gpu::ExpertTask{nullptr, 70, offsets_device.data()}, 8, out.data());
  const std::vector<int4> found = out.to_host();
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK(found[i].x == expected[i].x);
    CHECK(found[i].y == expected[i].y);
    CHECK(found[i].z == expected[i].z);
  }
}
