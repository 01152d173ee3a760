// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/e8/fragments.cuh>
#include <higgs/codes/grid/fragments.cuh>
#include <higgs/codes/grid/grid.hpp>
#include <higgs/gpu/matrix.cuh>
#include <higgs/pack/bits.hpp>

#include <catch2/catch.hpp>

#include <higgs/core/random.hpp>

#include <cstdint>
#include <span>
#include <vector>

#include "codes/device_fragments.cuh"
#include "emulator/emulator.hpp"

using higgs::BFloat16;
using higgs::GridCodebook;
using higgs::Half;
namespace gpu = higgs::gpu;

namespace {

template <int Bits, class T>
void check_fragments() {
  // 64 rows and 64 inputs, a symbol for each byte; byte b of the table names width b, width b + 1, ... (mod 250)
  // - 125.
  using Format = gpu::TableFormat<Bits>;
  constexpr int width = Format::width, values = Bits == 3 ? 64 : 256;
  const gpu::PackedLayout layout = gpu::packed_layout<Format>(width, Bits * width, 64, 1, 64);
  const auto each = static_cast<std::size_t>(64 / width),
             bytes = static_cast<std::size_t>(layout.row_bytes());
  std::vector<std::uint8_t> symbols(64 * each), canonical(64 * bytes);
  for (std::size_t i = 0; i < symbols.size(); ++i)
    symbols[i] = static_cast<std::uint8_t>(higgs::random_bits(5, i) % values);
  for (std::size_t r = 0; r < 64; ++r)
    higgs::pack_bits(std::span<const std::uint8_t>(symbols).subspan(r * each, each), Bits * width,
                     std::span(canonical).subspan(r * bytes, bytes));
  std::vector<std::int16_t> table;
  for (int byte = 0; byte < 256; ++byte)
    for (int w = 0; w < width; ++w)
      table.push_back(static_cast<std::int16_t>((byte % values * width + w) % 250 - 125));

  const std::vector<Half> ones(64, Half(1.0f));
  const gpu::DeviceBuffer<std::uint8_t> codes{std::span<const std::uint8_t>(canonical)};
  const gpu::DeviceBuffer<Half> scales{std::span<const Half>(ones)};
  const gpu::DeviceBuffer<Half> packed_scales(64);
  const gpu::DeviceBuffer<uint4> packed(static_cast<std::size_t>(layout.load_count()));
  const gpu::DeviceBuffer<std::int16_t> table_device{std::span<const std::int16_t>(table)};
  gpu::repack_async<Format>(layout, codes.data(), scales.data(), packed.data(), packed_scales.data(),
                            nullptr);
  INFO("bits " << Bits);
  CHECK(wrong_fragments<Format, T>(packed.data(), table_device.data(), [&](int row, int k) {
          const auto symbol = static_cast<std::size_t>(row) * each + static_cast<std::size_t>(k / width);
          return static_cast<float>(table[static_cast<std::size_t>(symbols[symbol] * width + k % width)]);
        }) == 0);
}

// A kernel as an engine may write it, with or without shared memory of its own in front of the table.
template <class Format, bool WithOwn>
__global__ void fill_table_kernel(const std::int16_t* table) {
  extern __shared__ std::byte space[];
  if constexpr (WithOwn) {
    __shared__ volatile int own[gpu::LookupTable::begin / 4 + 1];  // too much even where CUDA keeps nothing
    own[threadIdx.x] = 1;
  }
  Format::template fill_table<Half>(table);
}

template <class Format>
void check_that_fill_table_sees_its_space() {
  const auto table = gpu::DeviceBuffer<std::int16_t>::zeros(Format::table_size);
  const auto fills = [&](auto kernel, int bytes) {
    try {
      gpu::launch(kernel, dim3(1), 32, static_cast<std::size_t>(bytes), nullptr,
                  static_cast<const std::int16_t*>(table.data()));
      gpu::check(cudaDeviceSynchronize(), "fill_table");
      return true;
    } catch (const gpu::CudaError&) {
      emulator::forget_failure();
      return false;
    }
  };
  CHECK(fills(fill_table_kernel<Format, false>, gpu::LookupTable::end));
  CHECK(!fills(fill_table_kernel<Format, false>, gpu::LookupTable::end - gpu::LookupTable::begin - 16));
  CHECK(!fills(fill_table_kernel<Format, true>, gpu::LookupTable::end));
}

}  // namespace

TEST_CASE("fragments hold the coordinates that symbols name, where mma wants them",
          "[codes][grid][fragments][gpu]") {
  check_fragments<2, Half>();
  check_fragments<3, Half>();
  check_fragments<4, Half>();
  check_fragments<8, Half>();
  check_fragments<4, BFloat16>();
}

TEST_CASE("a byte names the points of all its symbols, the first in its low bits",
          "[codes][grid][fragments][gpu]") {
  const GridCodebook<2, 16> code;
  const std::vector<std::int16_t> table = gpu::lookup_table(code);
  REQUIRE(table.size() == 256 * 4);
  for (unsigned byte = 0; byte < 256; ++byte)
    for (std::size_t d = 0; d < 2; ++d) {
      CHECK(table[byte * 4 + d] == code.decode(static_cast<std::uint8_t>(byte & 15u))[d]);
      CHECK(table[byte * 4 + 2 + d] == code.decode(static_cast<std::uint8_t>(byte >> 4))[d]);
    }
  const std::vector<std::int16_t> pairs = gpu::lookup_table(GridCodebook<2, 64>{});
  for (std::size_t i = 0; i < 128; ++i)
    for (std::size_t copy = 1; copy < 4; ++copy) CHECK(pairs[copy * 128 + i] == pairs[i]);
}

TEST_CASE("a kernel whose shared memory the lookup table would overwrite traps", "[codes][grid][gpu]") {
  if (!emulator::in_use) return;  // a trap ends what the process may do on a GPU
  check_that_fill_table_sees_its_space<gpu::TableFormat<4>>();
  check_that_fill_table_sees_its_space<gpu::E8Format>();
}
