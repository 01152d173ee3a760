// SPDX-License-Identifier: Apache-2.0
// What a format decodes from one warp tile.
#pragma once

#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/pack/fragment_decoder.cuh>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

// The A operands of all tiles: (row of tiles, tile along the inputs, lane, 4).
template <class Format, class T>
__global__ void decode_warp_tile_kernel(const uint4* codes, const std::int16_t* table, uint4* out) {
  extern __shared__ std::byte space[];
  constexpr int steps = Format::Activations::steps, k_tiles = Format::Activations::k_tiles;
  Format::template fill_table<T>(table);
  __syncthreads();
  uint4 loads[Format::loads];
  for (int i = 0; i < Format::loads; ++i) loads[i] = codes[32 * i + threadIdx.x];
  const auto lane = Format::table_offset(static_cast<int>(threadIdx.x));
  const auto tail =
      higgs::gpu::load_tail<Format>(codes + threadIdx.x, lane, [](const uint2* at) { return *at; });
  const auto& ready = higgs::gpu::prepared<Format>(loads, tail, lane);
  const auto call = [&]<int Call>(std::integral_constant<int, Call>) {
    std::uint32_t a[k_tiles][4];
    Format::template decode<T, Call / steps, Call % steps>(a, ready, lane);
    for (int k = 0; k < k_tiles; ++k)
      out[(Call * k_tiles + k) * 32 + threadIdx.x] = uint4{a[k][0], a[k][1], a[k][2], a[k][3]};
  };
  [&]<int... Calls>(std::integer_sequence<int, Calls...>) {
    (call(std::integral_constant<int, Calls>{}), ...);
  }(std::make_integer_sequence<int, 4 * steps>{});
}

/// The number of weights of a 64 x 64 matrix that differ from coordinate(row, input), which gives a float.
template <class Format, class T, class Coordinate>
std::size_t wrong_fragments(const uint4* codes, const std::int16_t* table, const Coordinate& coordinate) {
  namespace gpu = higgs::gpu;
  const gpu::DeviceBuffer<uint4> fragments(16 * 32);
  gpu::launch(decode_warp_tile_kernel<Format, T>, dim3(1), 32, gpu::LookupTable::end, nullptr, codes, table,
              fragments.data());
  const std::vector<uint4> out = fragments.to_host();
  std::size_t wrong = 0;
  for (int tile = 0; tile < 16; ++tile)
    for (int lane = 0; lane < 32; ++lane) {
      const uint4 v = out[static_cast<std::size_t>(tile * 32 + lane)];
      const std::uint32_t a[4] = {v.x, v.y, v.z, v.w};
      for (int r = 0; r < 4; ++r)
        for (int odd = 0; odd < 2; ++odd) {
          const int t = lane % 4, row = tile / 4 * 16 + lane / 4 + r % 2 * 8, within = r / 2 * 2 + odd;
          constexpr bool sixteen = std::is_same_v<typename Format::Activations, gpu::SixteenInputsPerLane>;
          const int input = sixteen ? t * 16 + ((tile % 4) ^ t) * 4 + within
                            : Format::Activations::k_tiles == 1
                                ? tile % 4 * 16 + t * 4 + within
                                : tile % 4 / 2 * 32 + t * 8 + ((tile % 2) ^ (t / 2)) * 4 + within;
          const std::uint32_t bits = a[r] >> 16 * odd & 0xffffu;
          wrong += (bits == 0x8000u ? 0u : bits) != T(coordinate(row, input)).bits;  // -0 is 0
        }
    }
  return wrong;
}
