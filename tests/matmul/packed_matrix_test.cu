// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/packed_matrix.cuh>

#include <catch2/catch.hpp>

#include <cstdint>
#include <vector>

#include "device_matrices.cuh"

using higgs::GridCodebook;
namespace gpu = higgs::gpu;

TEST_CASE("a matrix on the device takes its codes, scales and a table, and no more",
          "[matmul][packed_matrix][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 256>>(128, 1024, 1024, 256, 3);
  const gpu::PackedMatrix device(higgs::AnyQuantizedMatrix{w});
  CHECK(device.rows() == 128);
  CHECK(device.cols() == 1024);
  CHECK(device.size_bytes() == w.codes.size_bytes() + w.scales.size_bytes() + 256 * 2 * 2 + 1024 / 8);
}

namespace {

// Columns [first, first + count) of x.
struct Columns : Normals<higgs::Half> {
  Columns(const Normals<higgs::Half>& x, std::int64_t first, std::int64_t count)
      : Normals<higgs::Half>(x.view.rows, count, 1) {
    for (std::int64_t m = 0; m < x.view.rows; ++m)
      for (std::int64_t c = 0; c < count; ++c) view(m, c) = x.view(m, first + c);
  }
};

template <class Book>
void check_shards(std::int64_t rows, std::int64_t cols, std::int64_t block, std::int64_t group,
                  std::int64_t row_cut, std::int64_t col_cut) {
  using Formats = gpu::MatmulFormats<typename gpu::FormatOf<Book>::type>;
  const auto w = random_matrix<Book>(rows, cols, block, group, 5, true);
  const Normals<higgs::Half> x(3, cols, 6);
  std::vector<double> exact(static_cast<std::size_t>(3 * rows));
  higgs::matmul_reference(higgs::MatrixView<const higgs::Half>(x.view), w,
                          higgs::MatrixView<double>(exact.data(), 3, rows));
  std::vector<float> whole(exact.size());
  for (const higgs::Shard upper :
       {higgs::Shard{0, row_cut, 0, 0}, higgs::Shard{row_cut, rows - row_cut, 0, 0}}) {
    std::vector<float> sum(static_cast<std::size_t>(3 * upper.rows));
    for (const std::int64_t first : {std::int64_t{0}, col_cut}) {
      const higgs::Shard part{upper.first_row, upper.rows, first, first == 0 ? col_cut : cols - col_cut};
      const gpu::PackedMatrix device =
          first == 0 ? gpu::PackedMatrix(w, part) : gpu::PackedMatrix(higgs::AnyQuantizedMatrix{w}, part);
      const auto plan = gpu::plan_matmul(device.view().layout, gpu::current_device());
      sum = device_product<float, Formats, higgs::Half>(device.view(), Columns(x, first, part.cols), plan, {},
                                                        sum);
    }
    for (std::int64_t m = 0; m < 3; ++m)
      for (std::int64_t r = 0; r < upper.rows; ++r)
        whole[static_cast<std::size_t>(m * rows + upper.first_row + r)] =
            sum[static_cast<std::size_t>(m * upper.rows + r)];
  }
  CHECK(relative_error(whole, exact) < 3e-4);
}

}  // namespace

TEST_CASE("the products of shards add up to that of the matrix", "[matmul][packed_matrix][gpu]") {
  check_shards<GridCodebook<2, 256>>(130, 448, 64, 32, 70, 192);
  check_shards<GridCodebook<1, 8>>(20, 50, 20, 20, 7, 20);  // 60 bits a group: shards begin within a byte
  const auto w = random_matrix<GridCodebook<2, 256>>(8, 128, 64, 64, 5);
  CHECK_THROWS_AS(gpu::PackedMatrix(w, higgs::Shard{0, 8, 32, 64}), higgs::InvalidArgument);
  CHECK_THROWS_AS(gpu::PackedMatrix(w, higgs::Shard{4, 5, 0, 128}), higgs::InvalidArgument);
}
