// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/grid/fragments.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/pack/bits.hpp>
#include <higgs/pack/packed_layout.cuh>

#include <catch2/catch.hpp>

#include <higgs/core/random.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace gpu = higgs::gpu;
using higgs::Half;

namespace {

// Byte j of tile (i, s) that a lane holds, by the table at TableFormat.
std::uint32_t byte_at(int bits, const std::vector<uint4>& packed, std::int64_t tile, int lane, int i, int s,
                      int j) {
  const auto byte = [&](int load, int word, int which) -> std::uint32_t {
    const uint4 v = packed[static_cast<std::size_t>((tile * bits + load) * 32 + lane)];
    const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
    return words[word] >> 8 * which & 255u;
  };
  if (bits == 2) return byte(s / 2, i, s % 2 * 2 + j);
  if (bits == 4) return byte(s, i, j);
  if (bits == 8) return byte(2 * s + i / 2, i % 2 * 2 + j / 4, j % 4);
  if (i < 3) return byte(i, s, j) & 63u;
  return byte(0, s, j) >> 6 | byte(1, s, j) >> 6 << 2 | byte(2, s, j) >> 6 << 4;
}

// 70 rows of 3 groups.
template <int Bits>
void check_layout(int dim, std::int64_t group) {
  INFO("bits " << Bits << ", dim " << dim << ", group " << group);
  using Format = gpu::TableFormat<Bits>;
  constexpr int width = Format::width;
  const int symbol_bits = Bits * dim;
  const gpu::PackedLayout layout = gpu::packed_layout<Format>(dim, symbol_bits, 70, 3, group);
  const auto count = static_cast<std::size_t>(layout.groups * layout.symbols_per_group());
  const auto bytes = static_cast<std::size_t>(layout.row_bytes());
  std::vector<std::uint8_t> codes(70 * bytes);
  std::vector<std::vector<std::uint8_t>> rows;
  for (std::size_t r = 0; r < 70; ++r) {
    rows.emplace_back(count);
    for (std::size_t i = 0; i < count; ++i)
      rows[r][i] = static_cast<std::uint8_t>(higgs::random_bits(r, i) & ((1u << symbol_bits) - 1u));
    higgs::pack_bits(std::span<const std::uint8_t>(rows[r]), symbol_bits,
                     std::span(codes).subspan(r * bytes, bytes));
  }
  std::vector<Half> scales;
  for (int i = 0; i < 70 * 3; ++i) scales.push_back(Half(static_cast<float>(i + 1)));
  const gpu::DeviceBuffer<std::uint8_t> codes_device{std::span<const std::uint8_t>(codes)};
  const gpu::DeviceBuffer<Half> scales_device{std::span<const Half>(scales)};
  const gpu::DeviceBuffer<uint4> packed_device(static_cast<std::size_t>(layout.load_count()));
  const gpu::DeviceBuffer<Half> packed_scales(static_cast<std::size_t>(layout.scale_count()));
  gpu::repack_async<Format>(layout, codes_device.data(), scales_device.data(), packed_device.data(),
                            packed_scales.data(), nullptr);
  gpu::check(cudaDeviceSynchronize(), "repack_async");
  const std::vector<uint4> packed = packed_device.to_host();
  const std::vector<Half> out = packed_scales.to_host();

  const auto expected_byte = [&](std::int64_t row, std::int64_t k) {
    std::uint32_t byte = 0;
    for (int w = 0; w < width && row < 70; w += dim) {
      const std::int64_t within = k % layout.padded_group() + w;
      if (within >= group) continue;
      const std::int64_t symbol = k / layout.padded_group() * layout.symbols_per_group() + within / dim;
      byte |= std::uint32_t{rows[static_cast<std::size_t>(row)][static_cast<std::size_t>(symbol)]}
              << w * Bits;
    }
    return byte;
  };
  std::size_t wrong = 0;
  const std::int64_t cols = layout.warp_tile_cols();
  for (std::int64_t tile = 0; tile < layout.warp_tile_rows() * cols; ++tile)
    for (int lane = 0; lane < 32; ++lane)
      for (int within = 0; within < 16; ++within)
        for (int j = 0; j < 8 / width; ++j) {
          const int i = within / 4, s = within % 4, g = lane / 4, t = lane % 4;
          const int half = width == 1 ? j / 4 : j % 2, input = width == 1   ? j % 4
                                                               : width == 2 ? j / 2 * 2
                                                                            : 0;
          wrong += byte_at(Bits, packed, tile, lane, i, s, j) !=
                   expected_byte(tile / cols * 64 + 16 * i + g + 8 * half,
                                 tile % cols * 64 + 16 * s + 4 * t + input);
        }
  REQUIRE(wrong == 0);
  for (std::int64_t r = 0; r < 128; ++r)
    for (std::int64_t g = 0; g < 3; ++g) {
      const Half expected = r < 70 ? scales[static_cast<std::size_t>(r * 3 + g)] : Half::from_bits(0);
      REQUIRE(out[static_cast<std::size_t>((r / 64 * 3 + g) * 64 + r % 8 * 8 + r % 64 / 8)] == expected);
    }
}

}  // namespace

TEST_CASE("every symbol is where the packed layout says, and padding is symbol 0",
          "[pack][packed_layout][gpu]") {
  for (const std::int64_t group : {64, 20, 128}) {
    for (const int dim : {1, 2, 4}) check_layout<2>(dim, group);
    for (const int dim : {1, 2}) check_layout<3>(dim, group), check_layout<4>(dim, group);
    check_layout<8>(1, group);
  }
}

TEST_CASE("a layout of another format is not repacked", "[pack][packed_layout][gpu]") {
  const gpu::PackedLayout layout = gpu::packed_layout<gpu::TableFormat<4>>(1, 4, 64, 1, 64);
  CHECK_THROWS_AS(gpu::repack_async<gpu::TableFormat<8>>(layout, nullptr, nullptr, nullptr, nullptr, nullptr),
                  higgs::InvalidArgument);
}
