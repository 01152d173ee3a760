// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/strip_amx.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "strips.hpp"

#if defined(HIGGS_TARGET_BEGIN)
using higgs::Activations;
using higgs::detail::Panel;
using higgs::detail::QuadOrder;
namespace detail = higgs::detail;

namespace {

// The instructions' definitions in Intel's manual.
struct SoftwareTiles {
  std::uint8_t tile[8][16][64] = {};
  int configured = 0;

  void configure(const detail::AmxConfig& config) {
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

// The product of a strip with `rows` rows of x in panels of `most`.
template <class Product>
std::vector<float> product(const RandomStrip& strip, QuadOrder order, Activations kind, int rows, int most,
                           const Product& multiply) {
  const std::int64_t dim = strip.tables.dim, group = strip.layout.codes_per_group * dim;
  const std::int64_t held = strip.layout.steps_per_group() * strip.layout.units_per_step() * dim;
  const detail::RunShape shape{.groups = 2,
                               .group = group,
                               .padded_group = order == QuadOrder::Tiles ? (held + 63) / 64 * 64 : held,
                               .run = detail::run_inputs(kind),
                               .dim = strip.tables.dim,
                               .planes = kind == Activations::Int16 ? 2 : 1};
  const int count = (rows + most - 1) / most;
  const std::size_t bytes = Panel::bytes(shape, order, most);
  std::vector<std::uint8_t> memory(static_cast<std::size_t>(count) * bytes);
  std::vector<Panel> panels;
  for (int i = 0; i < count; ++i)
    panels.emplace_back(shape, order, std::min(most, rows - i * most),
                        memory.data() + static_cast<std::size_t>(i) * bytes);
  std::vector<float> x(static_cast<std::size_t>(2 * group));
  for (int m = 0; m < rows; ++m) {
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = static_cast<float>(higgs::random_normal(static_cast<std::uint64_t>(m), i));
    detail::quantize_row_portable(x.data(), shape, kind, order, panels[static_cast<std::size_t>(m / most)],
                                  m % most);
  }
  std::vector<float> sums(static_cast<std::size_t>(rows * 32), 0.25f);
  multiply(detail::StripProduct{&strip.layout, &strip.tables, &shape, strip.bytes.data()}, panels.data(),
           count, sums.data());
  return sums;
}

}  // namespace

TEST_CASE("tiles as Intel's manual defines them give the bits of the portable kernel",
          "[matmul][strip_amx]") {
  if (higgs::best_isa() < higgs::Isa::Avx512) return;
  for (const std::int64_t units : {7, 40, 150})
    for_each_strip(units, [](RandomStrip strip, const auto& book) {
      for (int i = 0; i < 2 * 32; ++i) {  // random bits may be NaN
        const higgs::Half scale(static_cast<float>(i - 20));
        std::memcpy(strip.bytes.data() + i / 32 * strip.layout.group_bytes() + i % 32 * 2, &scale, 2);
      }
      for (const auto kind : {Activations::Int16, Activations::Int8})
        for (const int rows : {3, 16, 21}) {
          INFO(book.name() << ", rows " << rows);
          REQUIRE(
              product(strip, QuadOrder::Tiles, kind, rows, detail::tile_panel_rows, [](auto... arguments) {
                SoftwareTiles tiles;
                detail::amx::strip_product(tiles, arguments...);
                REQUIRE(tiles.configured == 0);
              }) == product(strip, QuadOrder::Words, kind, rows, 4, detail::portable::strip_product));
        }
    });
}
#endif
