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
