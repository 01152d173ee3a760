// SPDX-License-Identifier: Apache-2.0
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/fragments.cuh>

#include <catch2/catch.hpp>

#include <higgs/core/random.hpp>

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "device_matrices.cuh"
#include "emulator/emulator.hpp"

using higgs::BFloat16;
using higgs::Half;
namespace gpu = higgs::gpu;

namespace {

// The fragments of all tiles of one slab: (i, s, lane, 4).
template <int Bits, class T>
__global__ void decode_slab_kernel(const uint4* tiles, const std::int16_t* table, uint4* out) {
  extern __shared__ std::byte space[];
  gpu::fill_byte_table<Bits, T>(table);
  __syncthreads();
  uint4 loads[Bits];
  for (int i = 0; i < Bits; ++i) loads[i] = tiles[32 * i + threadIdx.x];
  const auto tile = [&]<int Tile>(std::integral_constant<int, Tile>) {
    std::uint32_t a[4];
    gpu::decode_fragment<Bits, Tile / 4, Tile % 4>(a, loads, gpu::table_place<Bits>());
    out[Tile * 32 + threadIdx.x] = uint4{a[0], a[1], a[2], a[3]};
  };
  [&]<int... Tiles>(std::integer_sequence<int, Tiles...>) {
    (tile(std::integral_constant<int, Tiles>{}), ...);
  }(std::make_integer_sequence<int, 16>{});
}

template <int Bits, class T>
void check_fragments() {
  // A row of 64 rows and 64 inputs with one code for each byte; byte b of the table holds 4 b, 4 b + 1, ... -
  // 500.
  constexpr int width = gpu::weights_per_byte(Bits), values = Bits == 3 ? 64 : 256;
  const gpu::PackedLayout order{Bits, width, 64, 1, 64};
  std::vector<std::uint8_t> plain(64 * 64 / width), packed(static_cast<std::size_t>(64 * order.row_bytes()));
  for (std::size_t i = 0; i < plain.size(); ++i)
    plain[i] = static_cast<std::uint8_t>(higgs::random_bits(5, i) % values);
  const auto each = static_cast<std::size_t>(64 / width), bytes = static_cast<std::size_t>(order.row_bytes());
  for (std::size_t r = 0; r < 64; ++r) {
    std::uint32_t pending = 0;
    int held = 0;
    std::size_t out = r * bytes;
    for (std::size_t i = 0; i < each; ++i) {
      pending |= static_cast<std::uint32_t>(plain[r * each + i]) << held;
      for (held += Bits * width; held >= 8; held -= 8, pending >>= 8)
        packed[out++] = static_cast<std::uint8_t>(pending);
    }
  }
  std::vector<std::int16_t> table;
  for (int byte = 0; byte < 256; ++byte)
    for (int w = 0; w < width; ++w)
      table.push_back(static_cast<std::int16_t>((byte % values * width + w) % 250 - 125));

  const std::vector<Half> ones(64, Half(1.0f));
  const gpu::DeviceBuffer<std::uint8_t> codes{std::span<const std::uint8_t>(packed)};
  const gpu::DeviceBuffer<Half> scales{std::span<const Half>(ones)};
  const gpu::DeviceBuffer<Half> tile_scales(64);
  const gpu::DeviceBuffer<uint4> tiles(static_cast<std::size_t>(order.code_loads())), fragments(16 * 32);
  const gpu::DeviceBuffer<std::int16_t> table_device{std::span<const std::int16_t>(table)};
  gpu::repack_async(order, codes.data(), scales.data(), tiles.data(), tile_scales.data(), nullptr);
  gpu::launch(decode_slab_kernel<Bits, T>, dim3(1), 32, gpu::table_end, nullptr, tiles.data(),
              table_device.data(), fragments.data());
  gpu::check(cudaDeviceSynchronize(), "decode_slab_kernel");

  const std::vector<uint4> out = fragments.to_host();
  std::size_t wrong = 0;
  for (int tile = 0; tile < 16; ++tile)
    for (int lane = 0; lane < 32; ++lane) {
      const uint4 v = out[static_cast<std::size_t>(tile * 32 + lane)];
      const std::uint32_t a[4] = {v.x, v.y, v.z, v.w};
      for (int r = 0; r < 4; ++r)
        for (int odd = 0; odd < 2; ++odd) {
          const int row = tile / 4 * 16 + lane / 4 + r % 2 * 8,
                    k = tile % 4 * 16 + lane % 4 * 4 + r / 2 * 2 + odd;
          const int code = plain[static_cast<std::size_t>(row * (64 / width) + k / width)];
          const auto coordinate =
              static_cast<float>(table[static_cast<std::size_t>(code * width + k % width)]);
          wrong += (a[r] >> 16 * odd & 0xffffu) != T(coordinate).bits;
        }
    }
  INFO("bits " << Bits);
  CHECK(wrong == 0);
}

// The same for E8's tiles.
template <class T>
__global__ void decode_e8_slab_kernel(const uint4* tiles, const std::int16_t* table, uint4* out) {
  extern __shared__ std::byte space[];
  gpu::fill_byte_table<gpu::e8_tiles, T>(table);
  __syncthreads();
  const uint4 loads[2] = {tiles[threadIdx.x], tiles[32 + threadIdx.x]};
  const auto tiles_of = [&]<int Pair>(std::integral_constant<int, Pair>) {
    std::uint32_t a[4], b[4];
    gpu::decode_e8_fragments<T, Pair / 2, Pair % 2>(a, b, loads, gpu::table_place<gpu::e8_tiles>());
    out[(2 * Pair) * 32 + threadIdx.x] = uint4{a[0], a[1], a[2], a[3]};
    out[(2 * Pair + 1) * 32 + threadIdx.x] = uint4{b[0], b[1], b[2], b[3]};
  };
  [&]<int... Pairs>(std::integer_sequence<int, Pairs...>) {
    (tiles_of(std::integral_constant<int, Pairs>{}), ...);
  }(std::make_integer_sequence<int, 8>{});
}

template <class T>
void check_e8_fragments() {
  const higgs::E8Codebook book;
  const auto w = random_matrix<higgs::E8Codebook>(64, 64, 64, 64, 3);
  const gpu::PackedMatrix matrix(w);
  const gpu::DeviceBuffer<uint4> fragments(16 * 32);
  gpu::launch(decode_e8_slab_kernel<T>, dim3(1), 32, gpu::table_end, nullptr, matrix.view().tiles,
              matrix.view().table, fragments.data());
  gpu::check(cudaDeviceSynchronize(), "decode_e8_slab_kernel");
  const std::vector<uint4> out = fragments.to_host();
  std::size_t wrong = 0;
  for (int tile = 0; tile < 16; ++tile)
    for (int lane = 0; lane < 32; ++lane) {
      const uint4 v = out[static_cast<std::size_t>(tile * 32 + lane)];
      const std::uint32_t a[4] = {v.x, v.y, v.z, v.w};
      for (int r = 0; r < 4; ++r)
        for (int odd = 0; odd < 2; ++odd) {
          const int t = lane % 4, row = tile / 4 * 16 + lane / 4 + r % 2 * 8;
          const auto vector = static_cast<std::size_t>(row * 8 + tile % 4 / 2 * 4 + t);
          const auto code = static_cast<std::uint16_t>(w.codes[2 * vector] | w.codes[2 * vector + 1] << 8);
          const int coordinate = ((tile % 2) ^ (t / 2)) * 4 + r / 2 * 2 + odd;
          wrong +=
              (a[r] >> 16 * odd & 0xffffu) != T(book.decode(code)[static_cast<std::size_t>(coordinate)]).bits;
        }
    }
  CHECK(wrong == 0);
  if (!emulator::in_use) return;
  const emulator::Counters& c = emulator::launches().back().counters;
  CHECK(c.shared_passes == c.shared_passes_ideal);
}

}  // namespace

TEST_CASE("fragments hold the coordinates that codes name, where mma wants them",
          "[matmul][fragments][gpu]") {
  check_fragments<2, Half>();
  check_fragments<3, Half>();
  check_fragments<4, Half>();
  check_fragments<8, Half>();
  check_fragments<4, BFloat16>();
}

TEST_CASE("E8's fragments hold the coordinates that codes name, without bank conflicts",
          "[matmul][fragments][gpu]") {
  check_e8_fragments<Half>();
  check_e8_fragments<BFloat16>();
}
