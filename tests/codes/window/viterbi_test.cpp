// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/window/viterbi.hpp>
#include <higgs/core/random.hpp>
#include <higgs/encode/encoder.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "cpu/sets.hpp"

using higgs::WindowCode;

namespace {

// The sum of (y - c)^2 in fixed point.
template <int K>
std::int64_t squared_error(const WindowCode<K>& code, const std::vector<float>& fixed,
                           const std::vector<typename WindowCode<K>::Symbol>& symbols) {
  std::vector<std::int8_t> values(fixed.size());
  code.decode(symbols, values);
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < fixed.size(); ++i) {
    const std::int64_t d =
        static_cast<std::int64_t>(fixed[i]) - (std::int64_t{values[i]} << WindowCode<K>::fraction_bits);
    sum += d * d;
  }
  return sum;
}

// Weights of N(0, 1), small integers with many ties, zeros, and the largest numbers.
template <int K>
std::vector<float> weights(int kind, std::size_t count) {
  using Code = WindowCode<K>;
  constexpr auto limit = static_cast<double>(higgs::fixed_limit<Code>);
  std::vector<float> out(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t bits = higgs::random_bits(5, i);
    const double value = kind == 0   ? higgs::random_normal(9, i) * 16 / Code{}.step()
                         : kind == 1 ? 16.0 * static_cast<double>(bits % 9) - 64
                         : kind == 2 ? 0.0
                                     : ((bits & 1) != 0 ? limit : -limit);
    out[i] = static_cast<float>(std::clamp(std::rint(value), -limit, limit));
  }
  return out;
}

}  // namespace

TEMPLATE_TEST_CASE_SIG("no symbols of a short group err less than those of the definition",
                       "[codes][window][viterbi]", ((int K), K), 2, 3, 4, 5, 6, 7, 8, 9, 10) {
  const WindowCode<K> code;
  constexpr std::size_t count = K <= 3 ? 5 : K <= 5 ? 3 : K <= 8 ? 2 : 1;
  for (int kind = 0; kind < 4; ++kind) {
    const std::vector<float> fixed = weights<K>(kind, 2 * count);
    std::vector<typename WindowCode<K>::Symbol> found(count), tried(count);
    higgs::search_window_plainly(code, fixed, std::span(found));
    std::int64_t least = std::numeric_limits<std::int64_t>::max();
    for (unsigned all = 0; all < 1u << (K * count); ++all) {
      for (std::size_t i = 0; i < count; ++i)
        tried[i] = static_cast<typename WindowCode<K>::Symbol>(all >> (K * i) & ((1u << K) - 1u));
      least = std::min(least, squared_error<K>(code, fixed, tried));
    }
    CHECK(squared_error<K>(code, fixed, found) == least);
  }
}

TEMPLATE_TEST_CASE_SIG("the encoder gives the definition's symbols on every instruction set",
                       "[codes][window][viterbi]", ((int K), K), 2, 3, 4, 5, 6, 7, 8, 9, 10) {
  const WindowCode<K> code;
  const higgs::Encoder<WindowCode<K>> encoder(code);
  for (int kind = 0; kind < 4; ++kind)
    for (const std::size_t count : {1u, 2u, 7u, 32u, 300u}) {
      const std::vector<float> fixed = weights<K>(kind, 2 * count);
      std::vector<typename WindowCode<K>::Symbol> expected(count), found(count);
      higgs::search_window_plainly(code, fixed, std::span(expected));
      for (const auto isa : all_isas()) {
        std::fill(found.begin(), found.end(), typename WindowCode<K>::Symbol{255});
        encoder.encode(fixed, count, std::span(found), isa);
        REQUIRE(found == expected);
      }
    }
}

TEMPLATE_TEST_CASE_SIG("a search goes on from the symbols before as the definition does",
                       "[codes][window][viterbi]", ((int K), K), 2, 3, 4, 5, 6, 7, 8, 9, 10) {
  using Symbol = typename WindowCode<K>::Symbol;
  const WindowCode<K> code;
  const higgs::WindowEncoder<K> encoder(code);
  constexpr std::size_t count = 12;
  const std::vector<float> fixed = weights<K>(0, 2 * count);
  for (std::uint64_t draw = 0; draw < 40; ++draw) {
    std::vector<Symbol> all(9 + count), expected(count);  // symbols before, and those that follow
    for (std::size_t i = 0; i < 9; ++i)
      all[i] = static_cast<Symbol>(higgs::random_bits(draw, i) & ((1u << K) - 1u));
    typename WindowCode<K>::State state;
    std::vector<std::int8_t> parts(18), rest(2 * count), whole(18 + 2 * count);
    code.decode(state, std::span<const Symbol>(all).first(9), parts);
    higgs::search_window_plainly(code, fixed, std::span(expected), state);
    for (const auto isa : all_isas()) {
      encoder.go_on(state, fixed, std::span(all).subspan(9), isa);
      REQUIRE(std::equal(expected.begin(), expected.end(), all.begin() + 9));
    }
    // Decoding in two steps is decoding in one.
    code.decode(state, std::span<const Symbol>(all).subspan(9), rest);
    code.decode(std::span<const Symbol>(all), whole);
    parts.insert(parts.end(), rest.begin(), rest.end());
    REQUIRE(parts == whole);
  }
}

TEST_CASE("groups are encoded alone", "[codes][window][viterbi]") {
  using Code = WindowCode<5>;
  const Code code;
  const higgs::Encoder<Code> encoder(code);
  const std::vector<float> fixed = weights<5>(0, 512);
  std::vector<std::uint8_t> all(256), one(64);
  encoder.encode(fixed, 64, std::span(all));
  for (std::size_t g = 0; g < 4; ++g) {
    encoder.encode(std::span(fixed).subspan(g * 128, 128), 64, std::span(one));
    CHECK(std::equal(one.begin(), one.end(), all.begin() + static_cast<std::ptrdiff_t>(64 * g)));
  }
}
