// SPDX-License-Identifier: Apache-2.0
#include <higgs/cpu/avx512/amx_product.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <cstring>
#include <vector>

#include "cpu/panels.hpp"

#if defined(HIGGS_TARGET_BEGIN)
using higgs::Activations;
using higgs::cpu::ActivationOrder;
namespace cpu = higgs::cpu;

namespace {

// The instructions' definitions in Intel's manual.
struct SoftwareTiles {
  std::uint8_t tile[8][16][64] = {};
  int configured = 0;

  void configure(const cpu::AmxConfig& config) {
    std::uint8_t operand[64];
    std::memcpy(operand, &config, 64);
    REQUIRE(operand[0] == 1);
    for (int t = 0; t < 8; ++t)
      REQUIRE((operand[16 + 2 * t] == 64 && operand[17 + 2 * t] == 0 && operand[48 + t] == 16));
    ++configured;
  }
  void release() { --configured; }
  template <int Tile>
  void zero() {
    std::memset(tile[Tile], 0, sizeof tile[Tile]);
  }
  template <int Tile>
  void load(const std::uint8_t* from, std::int64_t stride) {
    for (int row = 0; row < 16; ++row) std::memcpy(tile[Tile][row], from + row * stride, 64);
  }
  template <int Sum, int A, int B>
  void add_dot() {
    REQUIRE(configured == 1);
    for (int m = 0; m < 16; ++m)
      for (int n = 0; n < 16; ++n) {
        std::int32_t sum;
        std::memcpy(&sum, tile[Sum][m] + 4 * n, 4);
        for (int k = 0; k < 16; ++k)
          for (int i = 0; i < 4; ++i)
            sum += static_cast<std::int8_t>(tile[A][m][4 * k + i]) * tile[B][k][4 * n + i];
        std::memcpy(tile[Sum][m] + 4 * n, &sum, 4);
      }
  }
  template <int Tile>
  void store(std::int32_t* to, std::int64_t stride) {
    for (int row = 0; row < 16; ++row)
      std::memcpy(reinterpret_cast<char*>(to) + row * stride, tile[Tile][row], 64);
  }
};

}  // namespace

TEST_CASE("tiles as Intel's manual defines them give the bits of the portable kernel", "[cpu][amx_product]") {
  if (!cpu::Avx512::runs()) return;
  for (const std::int64_t indices : {7, 40, 150})
    for_each_panel(indices, []<class Code>(RandomPanel<Code> panel, const Code& code) {
      using Format = higgs::PackedFormatOf<Code>;
      panel.make_scales_finite();
      for (const auto kind : {Activations::Int16, Activations::Int8})
        for (const int rows : {3, 16, 21}) {
          INFO(code.name() << ", rows " << rows);
          const auto by_tiles = [&](const auto& shape, const auto* panels, int count, float* sums) {
            SoftwareTiles tiles;
            const auto decoder = chunk_decoder(cpu::Avx512{}, Format{}, panel.tables);
            cpu::amx::multiply(tiles,
                               cpu::PanelProduct{&panel.layout, &shape, panel.bytes.data(), Format::planes,
                                                 &panel.tables, decoder},
                               panels, count, sums);
            REQUIRE(tiles.configured == 0);
          };
          const auto portable = [&](const auto& shape, const auto* panels, int count, float* sums) {
            multiply_panel(cpu::Portable{}, Format{}, panel.layout, panel.tables, shape, panel.bytes.data(),
                           panels, count, sums);
          };
          REQUIRE(
              panel_sums(panel, ActivationOrder::AmxTiles, 64, kind, rows, cpu::amx_tile_rows, by_tiles) ==
              panel_sums(panel, ActivationOrder::Words, 1, kind, rows, 4, portable));
        }
    });
}
#endif
