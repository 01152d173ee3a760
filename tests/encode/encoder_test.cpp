// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/registry.hpp>
#include <higgs/core/random.hpp>
#include <higgs/encode/encoder.hpp>

#include <catch2/catch.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "codes/toy_code.hpp"

TEST_CASE("the encoder of a codebook is its search, whatever the group", "[encode][encoder]") {
  const higgs::GridCodebook<2, 64> book;
  std::vector<float> scaled(480);
  for (std::size_t i = 0; i < scaled.size(); ++i)
    scaled[i] = std::nearbyint(static_cast<float>(higgs::random_normal(1, i)) * 2000);
  std::vector<std::uint8_t> expected(240), symbols(240);
  higgs::PointSearch<higgs::GridCodebook<2, 64>>(book).encode(scaled, expected);
  for (const std::size_t group : {1u, 8u, 240u}) {
    higgs::Encoder<higgs::GridCodebook<2, 64>>(book).encode(scaled, group, symbols);
    CHECK(symbols == expected);
  }
}

TEST_CASE("the encoder of a chain finds the symbols of least error", "[encode][encoder]") {
  const ToyCode code;
  const higgs::Encoder<ToyCode> encoder(code);
  constexpr float unit = 1 << higgs::fraction_bits<ToyCode>;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    std::array<float, 12> scaled;  // two groups of 6
    for (std::size_t i = 0; i < scaled.size(); ++i)
      scaled[i] = std::nearbyint(static_cast<float>(higgs::random_normal(seed, i)) * 24 * unit);
    std::array<std::uint8_t, 12> symbols;
    encoder.encode(scaled, 6, symbols);
    for (std::size_t g = 0; g < 12; g += 6) {
      const auto error_of = [&](std::span<const std::uint8_t> chosen) {
        std::array<std::int8_t, 6> values;
        code.decode(chosen, values);
        double error = 0;
        for (std::size_t i = 0; i < 6; ++i)
          error += std::pow(static_cast<double>(scaled[g + i]) - double{unit} * values[i], 2);
        return error;
      };
      double least = error_of(std::span(symbols).subspan(g, 6));
      for (unsigned all = 0; all < 1u << 12; ++all) {
        std::array<std::uint8_t, 6> other;
        for (std::size_t i = 0; i < 6; ++i) other[i] = all >> 2 * i & 3u;
        REQUIRE(error_of(other) >= least);
      }
    }
  }
}
