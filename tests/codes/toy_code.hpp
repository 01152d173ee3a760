// SPDX-License-Identifier: Apache-2.0
// The smallest code whose coordinates depend on two neighbouring symbols: what a new code has to bring.
#pragma once

#include <higgs/core/code.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/encode/nearest.hpp>
#include <higgs/pack/bits.hpp>
#include <higgs/pack/packed_layout.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

class ToyEncoder;
struct ToyFormat;

/// 2 bits a weight. Coordinate i of a group is table[4 * symbol i - 1 + symbol i]; symbol -1 is 0.
struct ToyCode {
  static constexpr int dim = 1, symbol_bits = 2;
  using Symbol = std::uint8_t;
  using Element = std::int8_t;
  using Encoder = ToyEncoder;
  using PackedFormat = ToyFormat;

  static constexpr std::array<std::int8_t, 16> table{-40, -12, 10, 36, -30, -6,  14, 46,
                                                     -46, -14, 6,  30, -36, -10, 12, 40};

  void decode(std::span<const Symbol> symbols, std::span<Element> values) const noexcept {
    unsigned window = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      window = (window << 2 | symbols[i]) & 15u;
      values[i] = table[window];
    }
  }
  double step() const noexcept { return 1.0 / 24; }
  double mse() const noexcept { return 0.12; }
  static std::string name() { return "toy"; }
};
static_assert(higgs::ChainCode<ToyCode>);

/// The symbols of least squared error (Viterbi 1967); of equal paths the one whose last differing state is lowest.
class ToyEncoder {
 public:
  explicit ToyEncoder(const ToyCode&) {}

  void encode(std::span<const float> scaled, std::span<std::uint8_t> symbols, higgs::Isa) const noexcept {
    constexpr std::int64_t unit = std::int64_t{1} << higgs::fraction_bits<ToyCode>;
    constexpr std::int64_t never = std::numeric_limits<std::int64_t>::max() / 2;
    std::array<std::int64_t, 4> cost{0, never, never, never};  // by the last symbol
    std::vector<std::array<std::uint8_t, 4>> from(symbols.size());
    for (std::size_t i = 0; i < symbols.size(); ++i) {
      std::array<std::int64_t, 4> next;
      for (unsigned s = 0; s < 4; ++s) {
        next[s] = never;
        for (unsigned before = 0; before < 4; ++before) {
          const std::int64_t miss =
              static_cast<std::int64_t>(scaled[i]) - unit * ToyCode::table[before << 2 | s];
          const std::int64_t sum = cost[before] + miss * miss;
          if (cost[before] < never && sum < next[s])
            next[s] = sum, from[i][s] = static_cast<std::uint8_t>(before);
        }
      }
      cost = next;
    }
    auto last = static_cast<std::uint8_t>(std::min_element(cost.begin(), cost.end()) - cost.begin());
    for (std::size_t i = symbols.size(); i-- > 0;) {
      symbols[i] = last;
      last = from[i][last];
    }
  }
};

/// 16 weights of a row in 4 bytes: bits 2q, 2q + 1 of byte j are symbol 16 s + 4 q + j.
struct ToyFormat {
  static constexpr int index_bits = 2, dim = 1, planes = 1;
  static constexpr std::int64_t step_bytes = 128, step_inputs = 16;
  struct Tables {};

  static Tables make_tables(const ToyCode&) { return {}; }
  static void pack_group(const higgs::CodedGroup& group, int, std::int64_t steps, std::int64_t bytes,
                         std::uint8_t* lane) {
    std::vector<std::uint8_t> symbols(static_cast<std::size_t>(group.count));
    higgs::unpack_bits(group.row, 2, static_cast<std::size_t>(group.first), std::span(symbols));
    symbols.resize(static_cast<std::size_t>(16 * steps));
    for (std::int64_t s = 0; s < steps; ++s)
      for (std::int64_t i = 0; i < 16; ++i) {
        std::uint8_t& byte = lane[s * bytes + i % 4];
        const unsigned symbol = symbols[static_cast<std::size_t>(16 * s + i)];
        byte = static_cast<std::uint8_t>((i < 4 ? 0u : byte) | symbol << i / 4 * 2);
      }
  }
};

// Found by the kernels through ToyFormat.
inline auto chunk_decoder(higgs::cpu::Portable, ToyFormat, const ToyFormat::Tables&) noexcept {
  return [](const std::uint8_t* codes, std::int64_t steps, std::int64_t first, std::uint8_t* out) {
    for (int row = 0; row < higgs::panel_rows; ++row) {
      const std::uint8_t* lane = codes + row / 16 * 64 + row % 16 * 4;
      unsigned window = first == 0 ? 0u : lane[3 - ToyFormat::step_bytes] >> 6;  // the symbol before
      for (std::int64_t i = 0; i < 16 * steps; ++i) {
        const unsigned byte = lane[i / 16 * ToyFormat::step_bytes + i % 4];
        window = (window << 2 | (byte >> i % 16 / 4 * 2 & 3u)) & 15u;
        out[i / 4 * 128 + row * 4 + i % 4] = static_cast<std::uint8_t>(ToyCode::table[window] + 128);
      }
    }
    return static_cast<const std::uint8_t*>(out);
  };
}
