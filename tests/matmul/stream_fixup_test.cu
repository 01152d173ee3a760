// SPDX-License-Identifier: Apache-2.0
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/stream_fixup.cuh>
#include <higgs/matmul/stream_kernel.cuh>

#include <catch2/catch.hpp>

#include <cstddef>
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
template <int ColumnTiles>
__global__ void fixup_kernel(detail::StreamTask task) {
  extern __shared__ std::byte space[];
  auto& block = *reinterpret_cast<detail::StreamBlock*>(
      space + (detail::stream_block_begin - gpu::shared_address(space)));
  if (!detail::begin_block<8 * ColumnTiles>(task, block)) return;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int block_rows = task.row_warps * 64;
  for (int row_block = block.begin / task.cols; row_block * task.cols < block.end; ++row_block) {
    detail::StreamSums<ColumnTiles> sums;
    for (int i = 0; i < 4; ++i)
      for (int c = 0; c < ColumnTiles; ++c)
        for (int k = 0; k < 4; ++k)
          sums[i][c][k] = partial(block.index, 8 * c + lane % 4 * 2 + k % 2,
                                  row_block * block_rows + thread / 32 * 64 + 16 * i + lane / 4 + k / 2 * 8);
    detail::finish_rows<ColumnTiles>(task, block, thread, row_block, sums);
  }
}

struct Shape {
  int rows, cols, batch, grid, row_warps = 4;
};

template <int ColumnTiles>
void check_fixup(const Shape& s) {
  constexpr int columns = 8 * ColumnTiles;
  const int block_rows = 64 * s.row_warps;
  INFO("rows " << s.rows << ", warp tiles " << s.cols << ", batch " << s.batch << ", grid " << s.grid
               << ", row warps " << s.row_warps);
  const auto outputs = static_cast<std::size_t>(s.rows * s.batch);
  std::vector<float> bias(static_cast<std::size_t>(s.rows)), residual(outputs);
  for (std::size_t n = 0; n < bias.size(); ++n) bias[n] = 0.5f * static_cast<float>(n % 9);
  for (std::size_t i = 0; i < outputs; ++i) residual[i] = static_cast<float>(2 + i % 7);
  const gpu::DeviceBuffer<float> bias_device{std::span<const float>(bias)},
      residual_device{std::span<const float>(residual)}, y(outputs);
  detail::StreamTask task;
  task.w.layout.rows = s.rows;
  task.batch = s.batch;
  task.y = {y.data(), gpu::OutputType::Float, s.rows, bias_device.data(), residual_device.data()};
  task.output_scale = 0.25f;
  task.cols = s.cols;
  task.rows = (s.rows + 63) / 64;
  task.row_warps = s.row_warps;
  task.k_warps = 4 / s.row_warps;
  task.row_blocks = (s.rows + block_rows - 1) / block_rows;
  task.grid = s.grid;
  const detail::StreamSplit split{task.row_blocks, s.cols, s.grid};
  const auto arrivals = gpu::DeviceBuffer<std::uint32_t>::zeros(static_cast<std::size_t>(task.row_blocks));
  const gpu::DeviceBuffer<float> partial_sums(
      static_cast<std::size_t>(detail::slot_begin(split, 1, 0, columns * block_rows)));
  task.arrivals = arrivals.data();
  bool split_rows = false;
  for (int row_block = 0; row_block < task.row_blocks; ++row_block)
    split_rows |= split.first_owner(row_block) != split.last_owner(row_block);
  if (split_rows) task.partial_sums = partial_sums.data();  // others need none
  gpu::launch(fixup_kernel<ColumnTiles>, dim3(static_cast<unsigned>(s.grid)), detail::stream_threads,
              detail::stream_shared, nullptr, task);

  const std::vector<float> found = y.to_host();
  std::size_t wrong = 0;
  for (int m = 0; m < s.batch; ++m)
    for (int n = 0; n < s.rows; ++n) {
      float sum = 0;
      const int row_block = n / block_rows;
      for (int block = split.first_owner(row_block); block <= split.last_owner(row_block); ++block)
        if (split.begin(block) < split.begin(block + 1)) sum += partial(block, m, n);
      const auto at = static_cast<std::size_t>(m * s.rows + n);
      wrong += found[at] != sum * 0.25f + bias[static_cast<std::size_t>(n)] + residual[at];
    }
  CHECK(wrong == 0);
  for (const std::uint32_t counter : arrivals.to_host()) CHECK(counter == 0);
}

template <class Y>
__global__ void store_outputs_kernel(detail::StreamTask task, int n, int count, const float* bias, bool any) {
  float4 v[2] = {{1, 2, 3, 4}, {5, 6, 7, 8}};
  const detail::OutputColumns columns{n, count, {bias[0], bias[1], bias[2], bias[3]}};
  if (any)
    detail::store_any_outputs<Y>(task, columns, 1, 2, 4, 1.0f, v);
  else
    detail::store_outputs<Y>(task.y, columns, 1, 2, 4, 1.0f, v);
}

// Rows 1 and 3 of y (4, 9) from column n on, where the residual is y itself or begins elsewhere.
template <class Y>
void check_outputs(int n, int count, std::int64_t stride, int residual_shift, bool any = false) {
  if (!any) check_outputs<Y>(n, count, stride, residual_shift, true);
  INFO("column " << n << ", count " << count << ", stride " << stride << ", residual from "
                 << residual_shift);
  const std::vector<float> bias{10, 20, 30, 40};
  std::vector<Y> before(static_cast<std::size_t>(4 * stride + residual_shift));
  for (std::size_t i = 0; i < before.size(); ++i) before[i] = Y(static_cast<float>(100 + i));
  const gpu::DeviceBuffer<float> bias_device{std::span<const float>(bias)};
  const gpu::DeviceBuffer<Y> y{std::span<const Y>(before)}, residual{std::span<const Y>(before)};
  const Y* added = residual_shift == 0 ? y.data() : residual.data() + residual_shift;
  detail::StreamTask task;
  task.y = {y.data(), detail::output_type<Y>, stride, nullptr, added};
  gpu::launch(store_outputs_kernel<Y>, dim3(1), 1, 0, nullptr, task, n, count, bias_device.data(), any);
  const std::vector<Y> found = y.to_host();
  for (int m = 0; m < 4; ++m)
    for (int i = 0; i < stride; ++i) {
      const auto at = static_cast<std::size_t>(m * stride + i);
      const bool stored = m % 2 == 1 && i >= n && i < n + count;
      const float sum = static_cast<float>(m / 2 * 4 + i - n + 1 + 10 * (i - n + 1) + 100 + residual_shift) +
                        static_cast<float>(at);
      CHECK(found[at] == (stored ? Y(sum) : before[at]));
    }
}

}  // namespace

TEST_CASE("a split row block gets the sums of all its owners, and the counters end at zero",
          "[matmul][stream_fixup][gpu]") {
  emulator::for_each_schedule(6, [](std::uint32_t) {
    check_fixup<1>({256, 5, 3, 4});       // four blocks for one row block
    check_fixup<1>({600, 7, 8, 5});       // ranges that begin within row blocks
    check_fixup<1>({600, 2, 1, 2});       // a range of more than one row block
    check_fixup<2>({300, 11, 13, 9, 2});  // more owners than are loaded at a time, two row warps
  });
  check_fixup<4>({520, 3, 32, 9});
  check_fixup<8>({260, 9, 61, 7});
}

TEST_CASE("a row block that one block owns goes to the outputs without the workspace",
          "[matmul][stream_fixup][gpu]") {
  emulator::for_each_schedule(4, [](std::uint32_t) {
    check_fixup<1>({256, 5, 8, 1});
    check_fixup<1>({650, 3, 5, 3});
    check_fixup<2>({300, 2, 16, 1, 2});
    check_fixup<8>({520, 2, 61, 3});  // in two parts
  });
  check_fixup<4>({520, 2, 32, 1});
  check_fixup<8>({260, 2, 20, 1});
}

TEST_CASE("outputs are stored for any count and alignment, with bias and residual",
          "[matmul][stream_fixup][gpu]") {
  for (int n = 0; n <= 4; ++n)
    for (int count = 1; count <= 4; ++count)
      for (const std::int64_t stride : {8, 9})
        for (const int shift : {0, 1, 4}) {
          check_outputs<Half>(n, count, stride, shift);
          check_outputs<float>(n, count, stride, shift);
          check_outputs<higgs::BFloat16>(n, count, stride, shift);
        }
}
