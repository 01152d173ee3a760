// SPDX-License-Identifier: Apache-2.0
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/stream_fixup.cuh>
#include <higgs/matmul/stream_kernel.cuh>

#include <catch2/catch.hpp>

#include <cstdint>
#include <span>
#include <vector>

#include "emulator/schedules.hpp"

using higgs::Half;
namespace gpu = higgs::gpu;
namespace detail = higgs::gpu::detail;

namespace {

// The partial sum of a block for output (m, n).
__host__ __device__ float partial(int block, int m, int n) {
  return static_cast<float>((block + 1) * 10000 + n * 10 + m);
}

// The last stages of the streaming kernel, with sums that are known.
__global__ void fixup_kernel(detail::StreamTask task) {
  __shared__ detail::StreamBlock block;
  if (!detail::begin_block<8>(task, block)) return;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  for (int row_block = block.begin / task.cols; row_block * task.cols < block.end; ++row_block) {
    detail::StreamSums<1> sums;
    for (int i = 0; i < 4; ++i)
      for (int k = 0; k < 4; ++k)
        sums[i][0][k] = partial(block.index, lane % 4 * 2 + k % 2,
                                row_block * 256 + thread / 32 * 64 + 16 * i + lane / 4 + k / 2 * 8);
    detail::store_partial_sums<1>(task, block, thread, row_block, sums);
    detail::fixup<8>(task, block, block.last, row_block);
    __syncthreads();
  }
}

struct Shape {
  int rows, cols, batch, grid;
};

void check_fixup(const Shape& s) {
  INFO("rows " << s.rows << ", warp tiles " << s.cols << ", batch " << s.batch << ", grid " << s.grid);
  const auto outputs = static_cast<std::size_t>(s.rows * s.batch);
  const std::vector<float> bias(static_cast<std::size_t>(s.rows), 0.5f), residual(outputs, 2);
  const gpu::DeviceBuffer<float> bias_device{std::span<const float>(bias)},
      residual_device{std::span<const float>(residual)}, y(outputs);
  detail::StreamTask task;
  task.w.layout.rows = s.rows;
  task.batch = s.batch;
  task.y = {y.data(), gpu::OutputType::Float, s.rows, bias_device.data(), residual_device.data()};
  task.output_scale = 0.25f;
  task.cols = s.cols;
  task.rows = (s.rows + 63) / 64;
  task.row_blocks = (s.rows + 255) / 256;
  task.grid = s.grid;
  const auto arrivals = gpu::DeviceBuffer<std::uint32_t>::zeros(static_cast<std::size_t>(task.row_blocks));
  const gpu::DeviceBuffer<float> partial_sums(static_cast<std::size_t>(s.grid * 2 * 8 * 256));
  task.arrivals = arrivals.data();
  task.partial_sums = partial_sums.data();
  gpu::launch(fixup_kernel, dim3(static_cast<unsigned>(s.grid)), detail::stream_threads, 0, nullptr, task);

  const std::vector<float> found = y.to_host();
  const detail::StreamSplit split{task.row_blocks * s.cols, s.grid};
  std::size_t wrong = 0;
  for (int m = 0; m < s.batch; ++m)
    for (int n = 0; n < s.rows; ++n) {
      float sum = 0;
      const int first = n / 256 * s.cols;
      for (int block = split.owner(first); block <= split.owner(first + s.cols - 1); ++block)
        if (split.begin(block) < split.begin(block + 1)) sum += partial(block, m, n);
      wrong += found[static_cast<std::size_t>(m * s.rows + n)] != sum * 0.25f + 0.5f + 2;
    }
  CHECK(wrong == 0);
  for (const std::uint32_t counter : arrivals.to_host()) CHECK(counter == 0);
}

template <class Y>
__global__ void store_outputs_kernel(gpu::MatmulOutput y, int n, int count) {
  float v[4] = {1, 2, 3, 4};
  detail::store_outputs<Y>(y, 0, n, count, v);
}

}  // namespace

TEST_CASE("the last block to arrive adds the partial sums of all and leaves the counters at zero",
          "[matmul][stream_fixup][gpu]") {
  emulator::for_each_schedule(6, [](std::uint32_t) {
    check_fixup({256, 5, 8, 1});  // one block for all
    check_fixup({256, 5, 3, 4});  // four blocks for one row block
    check_fixup({600, 7, 8, 5});  // ranges that begin within row blocks
    check_fixup({600, 2, 1, 2});  // a range of more than one row block
  });
}

TEST_CASE("outputs are stored for any count and alignment, with bias and residual",
          "[matmul][stream_fixup][gpu]") {
  const std::vector<float> bias{10, 20, 30, 40, 50, 60, 70, 80};
  const std::vector<Half> before(8, Half(100.0f));
  const gpu::DeviceBuffer<float> bias_device{std::span<const float>(bias)};
  for (int n = 0; n <= 4; ++n)
    for (int count = 1; count <= 4; ++count) {
      const gpu::DeviceBuffer<Half> y{std::span<const Half>(before)};
      gpu::launch(store_outputs_kernel<Half>, dim3(1), 1, 0, nullptr,
                  gpu::MatmulOutput{y.data(), gpu::OutputType::Half, 8, bias_device.data(), y.data()}, n,
                  count);
      const std::vector<Half> found = y.to_host();
      for (int i = 0; i < 8; ++i) {
        const bool stored = i >= n && i < n + count;
        const float expected = stored ? 100.0f + static_cast<float>(10 * (i + 1) + i - n + 1) : 100.0f;
        CHECK(found[static_cast<std::size_t>(i)] == Half(expected));
      }
    }
}
