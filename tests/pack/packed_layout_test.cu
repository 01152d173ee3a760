// SPDX-License-Identifier: Apache-2.0
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

// The byte j of tile (i, s) that lane owns, by the table at the top of tiles.cuh.
std::uint32_t byte_at(const std::vector<uint4>& tiles, const gpu::PackedLayout& order, std::int64_t place,
                      int lane, int i, int s, int j) {
  const auto byte = [&](int load, int word, int which) -> std::uint32_t {
    const uint4 v = tiles[static_cast<std::size_t>((place * order.bits + load) * 32 + lane)];
    const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
    return words[word] >> 8 * which & 255u;
  };
  if (order.bits == 2) return byte(s / 2, i, s % 2 * 2 + j);
  if (order.bits == 4) return byte(s, i, j);
  if (order.bits == 8) return byte(2 * s + i / 2, i % 2 * 2 + j / 4, j % 4);
  if (i < 3) return byte(i, s, j) & 63u;
  return byte(0, s, j) >> 6 | byte(1, s, j) >> 6 << 2 | byte(2, s, j) >> 6 << 4;
}

}  // namespace

TEST_CASE("every code lies where the tile order says, and padding is code 0", "[pack][packed_layout][gpu]") {
  struct Case {
    int bits, dim;
  };
  for (const Case c : {Case{2, 1}, {2, 2}, {2, 4}, {3, 1}, {3, 2}, {4, 1}, {4, 2}, {8, 1}})
    for (const std::int64_t group : {64, 20, 128}) {
      const gpu::PackedLayout order{c.bits, c.dim, 70, 3, group};
      const int code_bits = c.bits * c.dim, width = gpu::weights_per_byte(c.bits);
      const auto count = static_cast<std::size_t>(order.groups * order.codes_per_group());
      std::vector<std::uint8_t> codes(static_cast<std::size_t>(70 * order.row_bytes()));
      std::vector<std::vector<std::uint8_t>> rows;
      for (std::size_t r = 0; r < 70; ++r) {
        rows.emplace_back(count);
        for (std::size_t i = 0; i < count; ++i)
          rows[r][i] = static_cast<std::uint8_t>(higgs::random_bits(r, i) & ((1u << code_bits) - 1u));
        const auto bytes = static_cast<std::size_t>(order.row_bytes());
        higgs::pack_bits(std::span<const std::uint8_t>(rows[r]), code_bits,
                         std::span(codes).subspan(r * bytes, bytes));
      }
      std::vector<Half> scales;
      for (int i = 0; i < 70 * 3; ++i) scales.push_back(Half(static_cast<float>(i + 1)));
      const gpu::DeviceBuffer<std::uint8_t> codes_device{std::span<const std::uint8_t>(codes)};
      const gpu::DeviceBuffer<Half> scales_device{std::span<const Half>(scales)};
      const gpu::DeviceBuffer<uint4> tiles_device(static_cast<std::size_t>(order.code_loads()));
      const gpu::DeviceBuffer<Half> tile_scales(static_cast<std::size_t>(order.scale_count()));
      gpu::repack_async(order, codes_device.data(), scales_device.data(), tiles_device.data(),
                        tile_scales.data(), nullptr);
      gpu::check(cudaDeviceSynchronize(), "repack_async");
      const std::vector<uint4> tiles = tiles_device.to_host();
      const std::vector<Half> out = tile_scales.to_host();

      std::size_t wrong = 0;
      for (std::int64_t place = 0; place < order.row_slabs() * order.slabs(); ++place)
        for (int lane = 0; lane < 32; ++lane)
          for (int tile = 0; tile < 16; ++tile)
            for (int j = 0; j < 8 / width; ++j) {
              const int i = tile / 4, s = tile % 4, g = lane / 4, t = lane % 4;
              const std::int64_t row =
                  place / order.slabs() * 64 + 16 * i + g + 8 * (width == 1 ? j / 4 : j % 2);
              const std::int64_t k = place % order.slabs() * 64 + 16 * s + 4 * t +
                                     (width == 1   ? j % 4
                                      : width == 2 ? j / 2 * 2
                                                   : 0);
              std::uint32_t expected = 0;
              for (int w = 0; w < width && row < 70; w += c.dim) {
                const std::int64_t within = k % order.padded_group() + w;
                if (within >= group) continue;
                const std::int64_t code = k / order.padded_group() * order.codes_per_group() + within / c.dim;
                expected |= std::uint32_t{rows[static_cast<std::size_t>(row)][static_cast<std::size_t>(code)]}
                            << w * c.bits;
              }
              wrong += byte_at(tiles, order, place, lane, i, s, j) != expected;
            }
      INFO("bits " << c.bits << ", dim " << c.dim << ", group " << group);
      REQUIRE(wrong == 0);
      for (std::int64_t r = 0; r < 128; ++r)
        for (std::int64_t g = 0; g < 3; ++g) {
          const Half expected = r < 70 ? scales[static_cast<std::size_t>(r * 3 + g)] : Half::from_bits(0);
          REQUIRE(out[static_cast<std::size_t>((r / 64 * 3 + g) * 64 + r % 8 * 8 + r % 64 / 8)] == expected);
        }
    }
}
