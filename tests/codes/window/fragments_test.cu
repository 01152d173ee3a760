// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/window/fragments.cuh>
#include <higgs/matmul/decode.cuh>
#include <higgs/matmul/decode.hpp>
#include <higgs/matmul/grouped.cuh>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "codes/device_fragments.cuh"
#include "emulator/emulator.hpp"
#include "emulator/schedules.hpp"
#include "matmul/device_matrices.cuh"

using higgs::Half;
using higgs::WindowCode;
namespace gpu = higgs::gpu;

namespace {

template <int SymbolBits>
using Formats = gpu::MatmulFormats<typename gpu::FormatOf<WindowCode<SymbolBits>>::type>;

// Warp tile `tile` of 64 rows, whose groups are 128 inputs.
template <int SymbolBits, class T>
void check_fragments(int tile) {
  using Code = WindowCode<SymbolBits>;
  INFO(Code::name() << ", warp tile " << tile);
  const Code code;
  const auto w = random_matrix<Code>(64, 256, 64, 128, 3);
  const gpu::PackedMatrix matrix(w);
  std::vector<std::int8_t> coordinates(64 * 256);
  for (std::size_t row = 0; row < 64; ++row) {
    std::vector<std::uint8_t> symbols(128);
    higgs::unpack_bits(w.row_codes(static_cast<std::int64_t>(row)), SymbolBits, 0,
                       std::span<std::uint8_t>(symbols));
    for (std::size_t group = 0; group < 2; ++group)
      code.decode(std::span<const std::uint8_t>(symbols).subspan(64 * group, 64),
                  std::span(coordinates).subspan(row * 256 + group * 128, 128));
  }
  const gpu::PackedView& view = matrix.view();
  using Format = typename gpu::FormatOf<Code>::type;
  CHECK(wrong_fragments<Format, T>(
            view.codes + tile * gpu::tile_units<Format>, view.table, [&](int row, int k) {
              return static_cast<float>(coordinates[static_cast<std::size_t>(row * 256 + tile * 64 + k)]);
            }) == 0);
  if (!emulator::in_use) return;
  const emulator::Counters& c = emulator::launches().back().counters;
  CHECK(c.shared_passes == c.shared_passes_ideal);
}

template <int... SymbolBits>
void check_all() {
  for (int tile = 0; tile < 4; ++tile) {
    (check_fragments<SymbolBits, Half>(tile), ...);
    (check_fragments<SymbolBits, higgs::BFloat16>(tile), ...);
  }
}

template <int SymbolBits>
std::vector<float> product(const gpu::PackedMatrix& w, const Normals<Half>& x) {
  return device_product<float, Formats<SymbolBits>>(w.view(), x,
                                                    gpu::plan_matmul(w.view().layout, gpu::current_device()));
}

template <class Code>
std::vector<double> exact_product(const higgs::QuantizedMatrix<Code>& w, const Normals<Half>& x) {
  std::vector<double> out(static_cast<std::size_t>(x.view.rows * w.rows()));
  higgs::matmul_reference(higgs::MatrixView<const Half>(x.view), w,
                          higgs::MatrixView<double>(out.data(), x.view.rows, w.rows()));
  return out;
}

template <int SymbolBits>
void check_product(std::int64_t rows, std::int64_t cols, std::int64_t block, std::int64_t group,
                   std::int64_t batch) {
  using Code = WindowCode<SymbolBits>;
  INFO(Code::name() << ": " << rows << " x " << cols << ", block " << block << ", group " << group
                    << ", batch " << batch);
  const auto w = random_matrix<Code>(rows, cols, block, group, 5, true);
  const Normals<Half> x(batch, cols, 6);
  const auto y = product<SymbolBits>(gpu::PackedMatrix(w), x);
  CHECK(relative_error(y, exact_product(w, x)) < 3e-4);
  if (!emulator::in_use) return;
  const emulator::Counters& c = emulator::launches().back().counters;
  CHECK(c.shared_passes == c.shared_passes_ideal);
}

template <int SymbolBits>
void check_products() {
  check_product<SymbolBits>(70, 130, 64, 64, 3);
  check_product<SymbolBits>(65, 300, 60, 20, 12);       // groups shorter than a warp tile
  check_product<SymbolBits>(70, 60, 20, 5, 9);          // the last symbol of a group codes one weight
  check_product<SymbolBits>(200, 1024, 1024, 1024, 2);  // x is rotated by the kernel
  check_product<SymbolBits>(130, 768, 256, 256, 40);
  check_product<SymbolBits>(64, 1536, 512, 512, 70);
}

template <int SymbolBits>
void check_dequantize(std::int64_t rows, std::int64_t cols, std::int64_t block, std::int64_t group) {
  const auto w = random_matrix<WindowCode<SymbolBits>>(rows, cols, block, group, 5, true);
  const gpu::PackedMatrix device(w);
  const auto size = static_cast<std::size_t>(rows * cols);
  std::vector<float> expected(size);
  higgs::dequantize(w, higgs::MatrixView<float>(expected.data(), rows, cols));
  const gpu::DeviceBuffer<float> decoded(size),
      workspace(static_cast<std::size_t>(64 * w.layout.padded_cols()));
  gpu::dequantize_async<Formats<SymbolBits>>(device.view(), gpu::DenseView<float>(decoded.data(), rows, cols),
                                             gpu::Basis::Original, gpu::current_device(), nullptr,
                                             workspace.span());
  CHECK(decoded.to_host() == expected);
}

template <int SymbolBits>
void check_experts() {
  using Code = WindowCode<SymbolBits>;
  std::vector<higgs::QuantizedMatrix<Code>> matrices;
  for (std::uint64_t e = 0; e < 3; ++e) {
    matrices.push_back(random_matrix<Code>(150, 192, 64, 64, 20 + e));
    matrices.back().seed = 7;
  }
  const gpu::Experts experts{std::span<const higgs::QuantizedMatrix<Code>>(matrices)};
  const std::vector<std::int32_t> offsets{0, 5, 5, 30};
  const Normals<Half> x(30, 192, 6);
  const gpu::Device device = gpu::current_device();
  const gpu::MatmulPlan plan = gpu::plan_matmul(experts[0].layout, device);
  const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)};
  const gpu::DeviceBuffer<std::int32_t> offsets_device{std::span<const std::int32_t>(offsets)};
  const gpu::DeviceBuffer<float> y(30 * 150);
  const auto workspace =
      gpu::DeviceBuffer<std::byte>::zeros(gpu::matmul_grouped_workspace(experts, 30, plan, device));
  gpu::matmul_grouped_async<Formats<SymbolBits>>(
      gpu::DenseView<const Half>(x_device.data(), 30, 192), experts, {30, offsets_device.data()},
      gpu::DenseView<float>(y.data(), 30, 150), workspace.span(), plan, device, nullptr);
  const std::vector<float> together = y.to_host();
  for (const int e : {0, 2}) {
    const auto first = static_cast<std::size_t>(offsets[static_cast<std::size_t>(e)]);
    const auto count = static_cast<std::size_t>(offsets[static_cast<std::size_t>(e) + 1]) - first;
    Normals<Half> some(static_cast<std::int64_t>(count), 192, 6);
    std::copy_n(x.data.data() + first * 192, count * 192, some.data.begin());
    const auto alone = device_product<float, Formats<SymbolBits>>(experts[e], some, plan);
    CHECK(alone ==
          std::vector<float>(together.data() + first * 150, together.data() + (first + count) * 150));
  }
}

// Rows of the upper and the lower part, each the sum of the products with the first and the last inputs.
template <int SymbolBits>
void check_shards() {
  const auto w = random_matrix<WindowCode<SymbolBits>>(130, 448, 64, 32, 5, true);
  const Normals<Half> x(3, 448, 6);
  const std::vector<double> exact = exact_product(w, x);
  std::vector<float> sum(exact.size());
  for (const higgs::Shard part : {higgs::Shard{0, 70, 0, 192}, higgs::Shard{0, 70, 192, 256},
                                  higgs::Shard{70, 60, 0, 192}, higgs::Shard{70, 60, 192, 256}}) {
    Normals<Half> columns(3, part.cols, 6);
    for (std::int64_t m = 0; m < 3; ++m)
      for (std::int64_t c = 0; c < part.cols; ++c) columns.view(m, c) = x.view(m, part.first_col + c);
    const auto y = product<SymbolBits>(gpu::PackedMatrix(w, part), columns);
    for (std::int64_t m = 0; m < 3; ++m)
      for (std::int64_t r = 0; r < part.rows; ++r)
        sum[static_cast<std::size_t>(m * 130 + part.first_row + r)] +=
            y[static_cast<std::size_t>(m * part.rows + r)];
  }
  CHECK(relative_error(sum, exact) < 3e-4);
}

template <int SymbolBits>
void check_schedules() {
  const gpu::PackedMatrix w(random_matrix<WindowCode<SymbolBits>>(330, 640, 320, 320, 5));
  for (const std::int64_t batch : {3, 12, 40}) {
    const Normals<Half> x(batch, 640, 6);
    std::vector<float> first;
    emulator::for_each_schedule(4, [&](std::uint32_t seed) {
      emulator::options().resident_blocks = 1 + seed % 5;
      const auto y = product<SymbolBits>(w, x);
      if (seed == 0) first = y;
      REQUIRE(y == first);
    });
  }
}

}  // namespace

TEST_CASE("fragments of window codes hold the coordinates that the host decodes, without bank conflicts",
          "[codes][window][fragments][gpu]") {
  check_all<2, 3, 4, 5, 6, 7, 8>();
}

TEST_CASE("window codes are multiplied as the reference does, for all batches and groups",
          "[codes][window][fragments][gpu]") {
  check_products<2>();
  check_products<3>();
  check_products<4>();
  check_products<5>();
  check_products<6>();
  check_products<7>();
  check_products<8>();
}

TEST_CASE("window codes are dequantized to the host's weights", "[codes][window][fragments][gpu]") {
  check_dequantize<2>(66, 130, 64, 64);
  check_dequantize<3>(66, 256, 256, 256);
  check_dequantize<4>(66, 130, 64, 64);
  check_dequantize<5>(66, 256, 256, 256);
  check_dequantize<6>(3, 300, 60, 20);
  check_dequantize<7>(66, 130, 64, 64);
  check_dequantize<8>(66, 384, 128, 128);
}

TEST_CASE("experts and shards of window codes give the products of the whole",
          "[codes][window][fragments][gpu]") {
  check_experts<5>();
  check_experts<8>();
  check_shards<4>();
  check_shards<7>();
}

TEST_CASE("no schedule changes a bit of a product with a window code, and none has a race",
          "[codes][window][fragments][gpu]") {
  check_schedules<6>();
  check_schedules<7>();
}
