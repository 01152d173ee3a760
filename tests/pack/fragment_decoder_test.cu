// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/formats.cuh>
#include <higgs/matmul/decode.cuh>
#include <higgs/matmul/decode.hpp>
#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/reference.hpp>
#include <higgs/pack/fragment_decoder.cuh>

#include <catch2/catch.hpp>

#include <cstdint>
#include <span>
#include <vector>

#include "codes/toy_code.hpp"
#include "emulator/emulator.hpp"
#include "matmul/device_matrices.cuh"

using higgs::Half;
namespace gpu = higgs::gpu;

// ToyCode, whose weight depends on two neighbouring symbols: its 2 bits a weight in 4. Half h of word i of load s
// has the symbols of inputs 4 t - 1 ... 4 t + 3 of tile (i, s), row g + 8 h, the first in the highest two bits of
// ten: a byte of it names two weights.
struct ToyFragments {
  static constexpr gpu::PackedFormat format = gpu::PackedFormat::Custom;
  static constexpr int loads = 4, table_size = 16;
  using Activations = gpu::FourInputsPerLane;

  static __device__ void repack(const gpu::PackedLayout& layout, const std::uint8_t* codes, std::int64_t row,
                                std::int64_t k, int lane, uint4 (&out)[4]) {
    std::uint32_t words[16] = {};  // (tile along the inputs, row of tiles)
    for (int half = 0; half < 32; ++half) {
      const int s = half / 8, i = half / 2 % 4;
      const std::int64_t r = row + 16 * i + half % 2 * 8 + lane / 4, first = k + 16 * s + lane % 4 * 4;
      std::uint32_t window =
          first % layout.padded_group() == 0 ? 0 : gpu::symbol_at(layout, codes, r, first - 1);
      for (int j = 0; j < 4; ++j) window = window << 2 | gpu::symbol_at(layout, codes, r, first + j);
      words[4 * s + i] |= window << 16 * (half % 2);
    }
    for (int s = 0; s < 4; ++s)
      out[s] = uint4{words[4 * s], words[4 * s + 1], words[4 * s + 2], words[4 * s + 3]};
  }
  // Line b has weights (b >> 2 & 15) and (b & 15) for the six bits b of three symbols.
  template <class T>
  static __device__ void fill_table(const std::int16_t* table) {
    for (unsigned at = threadIdx.x; at < 64 * 8; at += blockDim.x) {
      const unsigned line = at / 8;
      const std::uint32_t pair = gpu::round_pair<T>(table[line >> 2], table[line & 15]);
      gpu::store_shared_128(gpu::LookupTable::begin + line * gpu::LookupTable::line_bytes + at % 8 * 16,
                            uint4{pair, pair, pair, pair});
    }
  }
  static __device__ std::uint32_t table_offset(int lane) { return static_cast<unsigned>(lane) * 4; }
  template <class T, int Row, int Step>
  static __device__ void decode(std::uint32_t (&a)[1][4], const uint4 (&loads)[4], std::uint32_t offset) {
    const std::uint32_t word = gpu::detail::word_of(loads[Step], Row);
    const auto pair = [&](std::uint32_t window) {
      return gpu::load_shared_32<gpu::LookupTable::begin>(gpu::LookupTable::line_of<0>(window & 63u, offset));
    };
    a[0][0] = pair(word >> 4);
    a[0][1] = pair(word >> 20);
    a[0][2] = pair(word);
    a[0][3] = pair(word >> 16);
  }
};
static_assert(gpu::FragmentDecoder<ToyFragments>);

using Formats = gpu::MatmulFormats<ToyFragments>;

namespace higgs::gpu {
template <>
struct FormatOf<ToyCode> {
  static constexpr bool stores_coordinates = false;
  using type = ToyFragments;
};
}  // namespace higgs::gpu

// Found beside ToyCode. (16)
std::vector<std::int16_t> lookup_table(const ToyCode&) {
  return {ToyCode::table.begin(), ToyCode::table.end()};
}

namespace {

void check_toy_product(std::int64_t rows, std::int64_t cols, std::int64_t block, std::int64_t group,
                       std::int64_t batch) {
  INFO(rows << " x " << cols << ", block " << block << ", group " << group << ", batch " << batch);
  const auto w = random_matrix<ToyCode>(rows, cols, block, group, 5, true);
  const gpu::PackedMatrix device(w);
  const Normals<Half> x(batch, cols, 6);
  std::vector<double> exact(static_cast<std::size_t>(batch * rows));
  higgs::matmul_reference(higgs::MatrixView<const Half>(x.view), w,
                          higgs::MatrixView<double>(exact.data(), batch, rows));
  const auto y = device_product<float, Formats>(
      device.view(), x, gpu::plan_matmul(device.view().layout, gpu::current_device()));
  CHECK(relative_error(y, exact) < 3e-4);
  if (!emulator::in_use) return;
  const emulator::Counters& c = emulator::launches().back().counters;
  CHECK(c.shared_passes == c.shared_passes_ideal);
}

}  // namespace

TEST_CASE("a type is a format if it has all functions that kernels call", "[pack][fragment_decoder][gpu]") {
  STATIC_REQUIRE(gpu::FragmentDecoder<gpu::TableFormat<4>>);
  STATIC_REQUIRE(gpu::FragmentDecoder<gpu::E8Format>);
  STATIC_REQUIRE(!gpu::FragmentDecoder<int>);
}

TEST_CASE("a code of neighbouring symbols is multiplied by its own decoder, with no change in a kernel",
          "[pack][fragment_decoder][gpu]") {
  check_toy_product(70, 130, 64, 64, 3);   // x is rotated by the kernel
  check_toy_product(65, 300, 60, 20, 12);  // groups shorter than a warp tile
  check_toy_product(130, 512, 512, 256, 40);
}

TEST_CASE("a code of neighbouring symbols is decoded to the host's weights",
          "[pack][fragment_decoder][gpu]") {
  const auto w = random_matrix<ToyCode>(66, 130, 64, 64, 5, true);
  const gpu::PackedMatrix device(w);
  std::vector<float> expected(66 * 130);
  higgs::dequantize(w, higgs::MatrixView<float>(expected.data(), 66, 130));
  const gpu::DeviceBuffer<float> decoded(expected.size()), workspace(128 * 192);
  gpu::dequantize_async<Formats>(device.view(), gpu::DenseView<float>(decoded.data(), 66, 130),
                                 gpu::Basis::Original, gpu::current_device(), nullptr, workspace.span());
  CHECK(decoded.to_host() == expected);
}
