// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/window/window.hpp>

#include <catch2/catch.hpp>

#include <array>
#include <cstdint>
#include <random>
#include <set>
#include <span>
#include <string>
#include <vector>

using higgs::WindowCode;

namespace {

// The definition, from the bits of the whole stream.
template <int K>
std::vector<int> decode_stream(const WindowCode<K>& code,
                               const std::vector<typename WindowCode<K>::Symbol>& symbols) {
  constexpr std::size_t bits = WindowCode<K>::window_bits;
  std::vector<bool> stream(bits, false);  // zeros before symbol 0
  std::vector<bool> signs(5, false);      // those of the symbols before
  std::vector<int> out;
  for (const auto symbol : symbols) {
    for (int i = 0; i < K; ++i) stream.push_back((symbol >> i & 1) != 0);
    unsigned window = 0;
    for (std::size_t i = 0; i < bits; ++i) window |= unsigned{stream[stream.size() - bits + i]} << i;
    for (unsigned c = 0; c < 2; ++c) {
      bool negative = false;
      const unsigned taps = c == 0 ? WindowCode<K>::x_taps : WindowCode<K>::y_taps;
      for (std::size_t d = 1; d <= 5; ++d)
        if ((taps >> (d - 1) & 1u) != 0) negative ^= signs[signs.size() - d];
      const int coordinate = code.points()[window][c];
      out.push_back(negative ? -coordinate : coordinate);
    }
    signs.push_back(stream.back());
  }
  return out;
}

}  // namespace

TEMPLATE_TEST_CASE_SIG("a window code decodes as the bits of its stream say, and every group alone",
                       "[codes][window]", ((int K), K), 2, 3, 4, 5, 6, 7, 8, 9, 10) {
  const WindowCode<K> code;
  std::mt19937 random(K);
  for (std::size_t count = 1; count < 40; ++count) {
    std::vector<typename WindowCode<K>::Symbol> symbols(count);
    for (auto& symbol : symbols)
      symbol = static_cast<typename WindowCode<K>::Symbol>(random() & ((1u << K) - 1u));
    const std::vector<int> expected = decode_stream<K>(code, symbols);
    for (const std::size_t weights : {2 * count, 2 * count - 1}) {
      std::vector<std::int8_t> values(weights);
      code.decode(symbols, values);
      REQUIRE(std::equal(values.begin(), values.end(), expected.begin()));
    }
  }
}

TEMPLATE_TEST_CASE_SIG("a point depends on its window and the five symbols before", "[codes][window]",
                       ((int K), K), 2, 3, 4, 5, 6, 7, 8, 9, 10) {
  const WindowCode<K> code;
  std::mt19937 random(K);
  std::vector<typename WindowCode<K>::Symbol> a(40), b(40);
  for (std::size_t i = 0; i < 40; ++i) {
    a[i] = static_cast<typename WindowCode<K>::Symbol>(random() & ((1u << K) - 1u));
    // The bits that symbols 20 and later may see: 5 symbols before, and 8 bits.
    b[i] = i >= 15 || i * K + 8 > 20 * K
               ? a[i]
               : static_cast<typename WindowCode<K>::Symbol>(random() & ((1u << K) - 1u));
  }
  std::vector<std::int8_t> first(80), second(80);
  code.decode(a, first);
  code.decode(b, second);
  CHECK(std::equal(first.begin() + 40, first.end(), second.begin() + 40));
}

TEMPLATE_TEST_CASE_SIG("points use the range of their type and have a negative, and a table may be another",
                       "[codes][window]", ((int K), K), 2, 3, 4, 5, 6, 7, 8, 9, 10) {
  const WindowCode<K> code;
  int largest = 0;
  for (const auto& point : code.points())
    for (const int c : point) largest = std::max(largest, c < 0 ? -c : c);
  CHECK(largest >= 120);
  CHECK(largest <= 127);
  auto points = code.points();
  points[3] = {5, -7};
  const WindowCode<K> other(points, 0.5, 0.25);
  CHECK(other.points() == points);
  CHECK(other.step() == 0.5);
  CHECK(other.mse() == 0.25);
}

TEST_CASE("names of window codes are their bits a weight", "[codes][window]") {
  CHECK(WindowCode<2>::name() == "w1");
  CHECK(WindowCode<3>::name() == "w1.5");
  CHECK(WindowCode<5>::name() == "w2.5");
  CHECK(WindowCode<8>::name() == "w4");
  CHECK(WindowCode<9>::name() == "w4.5");
  CHECK(WindowCode<10>::name() == "w5");
}
