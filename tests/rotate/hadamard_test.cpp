// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/random.hpp>
#include <higgs/rotate/hadamard.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "cpu/sets.hpp"

using namespace higgs;

namespace {

// Rows differ in exactly half of their places, and the first row and column are ones.
template <int N>
constexpr bool is_normalized_hadamard() {
  std::uint64_t rows[N][(N + 63) / 64] = {};
  for (int r = 0; r < N; ++r)
    for (int c = 0; c < N; ++c) {
      const bool negative = hadamard_sign(N, r, c) < 0;
      if (negative && (r == 0 || c == 0)) return false;
      rows[r][c / 64] |= std::uint64_t{negative} << c % 64;
    }
  for (int r = 0; r < N; ++r)
    for (int s = 0; s < r; ++s) {
      int differ = 0;
      for (int word = 0; word < (N + 63) / 64; ++word) differ += std::popcount(rows[r][word] ^ rows[s][word]);
      if (2 * differ != N) return false;
    }
  return true;
}
static_assert(is_normalized_hadamard<4>());
static_assert(is_normalized_hadamard<12>());
static_assert(is_normalized_hadamard<20>());
static_assert(is_normalized_hadamard<24>());
static_assert(is_normalized_hadamard<28>());
static_assert(is_normalized_hadamard<36>());
static_assert(is_normalized_hadamard<44>());
static_assert(is_normalized_hadamard<52>());
static_assert(is_normalized_hadamard<60>());
static_assert(is_normalized_hadamard<68>());
static_assert(is_normalized_hadamard<76>());
static_assert(is_normalized_hadamard<84>());

std::vector<float> random_row(int n, std::uint64_t seed) {
  std::vector<float> x;
  for (int i = 0; i < n; ++i) {
    const auto counter = static_cast<std::uint64_t>(i);
    // Magnitudes over 40 binades, so that a wrong order of additions shows.
    const double magnitude = std::exp2(random_uniform(seed, 2 * counter) * 40.0 - 20.0);
    x.push_back(static_cast<float>(random_bits(seed, 2 * counter + 1) % 2 == 0 ? magnitude : -magnitude));
  }
  return x;
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) {
    return std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(y);
  });
}

// FNV-1a.
std::uint64_t hash(std::span<const std::uint8_t> bytes) {
  std::uint64_t h = 0xcbf29ce484222325u;
  for (const std::uint8_t byte : bytes) h = (h ^ byte) * 0x100000001b3u;
  return h;
}

// How often the transform rounds by at most 2^-24 of a vector no longer than the exact result: once a
// butterfly stage; twice in each of q quads, whose errors may add up in an output (sqrt(q) of the norm); once
// for each further quad; for the factor and the product with it. No input meets more roundings on its way.
double roundings(int n) {
  const int run = n & -n, q = run == n ? 0 : n / run;
  return std::log2(run) + 2 * std::sqrt(q) + q + 2;
}

// The contract at the top of hadamard.hpp, word for word.
std::vector<float> by_contract(std::vector<float> x) {
  const std::size_t n = x.size();
  std::size_t run = n & (~n + 1);
  if (run != n) run /= 4;
  const std::size_t base = n / run;
  for (std::size_t h = 1; h < run; h *= 2)
    for (std::size_t i = 0; i < n; ++i)
      if ((i & h) == 0) {
        const float u = x[i], v = x[i + h];
        x[i] = u + v;
        x[i + h] = u - v;
      }
  std::vector<float> y = x;
  const auto entry = [&](std::size_t row, std::size_t col) {  // of the base matrix
    const int sign = hadamard_sign(static_cast<std::int64_t>(n), static_cast<std::int64_t>(row * run),
                                   static_cast<std::int64_t>(col * run));
    return static_cast<float>(sign);
  };
  for (std::size_t row = 0; base > 1 && row < base; ++row)
    for (std::size_t k = 0; k < base / 4; ++k) {
      const float s[] = {entry(row, 4 * k), entry(row, 4 * k + 1), entry(row, 4 * k + 2),
                         entry(row, 4 * k + 3)};
      for (std::size_t col = 0; col < run; ++col) {
        const float* z = &x[4 * k * run + col];
        const float left = z[0] + s[0] * s[1] * z[run];
        const float right = z[2 * run] + s[2] * s[3] * z[3 * run];
        const float quad = s[0] * (left + s[0] * s[2] * right);
        float& out = y[row * run + col];
        out = k == 0 ? quad : out + quad;
      }
    }
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(n)));
  for (float& value : y) value *= scale;
  return y;
}

}  // namespace

// In a constant expression it would pass clang's limit of steps.
TEST_CASE("the matrix of order 100 is normalized too", "[rotate][hadamard]") {
  CHECK(is_normalized_hadamard<100>());
}

TEST_CASE("the orders are 2^a, and 4 * 2^a times 25 or an odd number up to 21", "[rotate][hadamard]") {
  const std::array<int, 11> odd_factors = {3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 25};
  std::vector<int> expected;
  for (int n = 1; n <= 33000; ++n) {
    int odd = n, power = 1;
    for (; odd % 2 == 0; odd /= 2) power *= 2;
    const bool known = std::find(odd_factors.begin(), odd_factors.end(), odd) != odd_factors.end();
    const bool supported = n <= max_hadamard_order && (odd == 1 || (known && power >= 4));
    if (supported) expected.push_back(n);
    if (is_hadamard_order(n) != supported) FAIL("order " << n);
  }
  CHECK(std::vector<int>(hadamard_orders().begin(), hadamard_orders().end()) == expected);
  using Limits = std::numeric_limits<std::int64_t>;
  for (const std::int64_t n :
       {std::int64_t{0}, std::int64_t{-4}, std::int64_t{1} << 32, Limits::max(), Limits::min()})
    CHECK_FALSE(is_hadamard_order(n));
}

TEST_CASE("the matrices up to order 400 are symmetric with orthogonal rows", "[rotate][hadamard]") {
  for (const int n : hadamard_orders()) {
    if (n > 400) break;
    std::vector<std::array<std::uint64_t, 7>> rows(static_cast<std::size_t>(n));
    for (int r = 0; r < n; ++r)
      for (int c = 0; c <= r; ++c) {
        const int sign = hadamard_sign(n, r, c);
        if (sign != hadamard_sign(n, c, r)) FAIL("not symmetric: order " << n << " at " << r << ", " << c);
        if (sign != 1 && sign != -1) FAIL("not a sign: order " << n << " at " << r << ", " << c);
        const auto set = [&](int i, int j) {
          rows[static_cast<std::size_t>(i)][static_cast<std::size_t>(j / 64)] |= std::uint64_t{1} << j % 64;
        };
        if (sign < 0) set(r, c), set(c, r);
      }
    for (std::size_t r = 0; r < rows.size(); ++r)
      for (std::size_t s = 0; s < r; ++s) {
        int differ = 0;
        for (std::size_t word = 0; word < 7; ++word) differ += std::popcount(rows[r][word] ^ rows[s][word]);
        if (2 * differ != n) FAIL("not orthogonal: order " << n << ", rows " << r << " and " << s);
      }
  }
}

TEST_CASE("the matrices of files never change", "[rotate][hadamard]") {
  const auto row = [](int n, int r) {
    std::string signs;
    for (int c = 0; c < n; ++c) signs += hadamard_sign(n, r, c) > 0 ? '+' : '-';
    return signs;
  };
  CHECK(row(4, 1) == "+-+-");
  CHECK(row(4, 2) == "++--");
  CHECK(row(12, 1) == "+-+-+++---+-");
  CHECK(row(12, 11) == "+--+-+++---+");
  CHECK(row(28, 1) == "+--+-+-+-+-+-+-+-+-+-+-+-+-+");
  CHECK(row(52, 7) == "+++-+-+---+--+-++--++-+-+--+-+-++-+--+-+-+-+-++--++-");
  CHECK(row(24, 2).substr(0, 4) == "++--");

  std::vector<std::uint8_t> signs;
  for (const int n : {12, 20, 28, 36, 44, 52, 60, 68, 76, 84, 100})
    for (int r = 0; r < n; ++r)
      for (int c = 0; c < n; ++c) signs.push_back(hadamard_sign(n, r, c) > 0 ? 0 : 1);
  CHECK(hash(signs) == 0xe71e4007e95f04b5u);
}

TEST_CASE("every path gives the bits of the documented order of operations", "[rotate][hadamard]") {
  for (const int n : hadamard_orders()) {
    const std::vector<float> x = random_row(n, static_cast<std::uint64_t>(n));
    const std::vector<float> expected = by_contract(x);
    for (const Isa isa : all_isas()) {
      std::vector<float> guarded = {7.0f};  // so that the row is not aligned to anything either
      guarded.insert(guarded.end(), x.begin(), x.end());
      guarded.insert(guarded.end(), {8.0f, 9.0f});
      const std::span<float> y = std::span<float>(guarded).subspan(1, x.size());
      hadamard(y, isa);
      if (!same_bits(y, expected)) FAIL("order " << n << ", isa " << static_cast<int>(isa));
      CHECK((guarded[0] == 7.0f && guarded[x.size() + 1] == 8.0f && guarded[x.size() + 2] == 9.0f));
    }
  }
}

TEST_CASE("the transform never changes: golden bits", "[rotate][hadamard]") {
  std::vector<std::uint8_t> bytes;
  for (const std::size_t n : {2u, 64u, 768u, 1024u, 1600u, 32768u}) {
    std::vector<float> x(n);  // of integers, so that no library function can differ
    for (std::size_t i = 0; i < n; ++i)
      x[i] = static_cast<float>(static_cast<std::int32_t>(random_bits(9, i) >> 32));
    hadamard(x);
    for (const float value : x)
      for (int byte = 0; byte < 4; ++byte)
        bytes.push_back(static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(value) >> 8 * byte));
  }
  CHECK(hash(bytes) == 0x6b01033656e58f6eu);
}

TEST_CASE("a unit vector becomes its column of the matrix, exactly", "[rotate][hadamard]") {
  for (const int n : hadamard_orders()) {
    const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(n)));
    const int step = n <= 256 ? 1 : n / 8 - 1;  // all columns of the small ones, nine of the large
    for (int col = 0; col < n; col += step)
      for (const Isa isa : all_isas()) {
        std::vector<float> x(static_cast<std::size_t>(n));
        x[static_cast<std::size_t>(col)] = 1.0f;
        hadamard(x, isa);
        for (int row = 0; row < n; ++row)
          if (x[static_cast<std::size_t>(row)] != static_cast<float>(hadamard_sign(n, row, col)) * scale)
            FAIL("order " << n << ", row " << row << ", column " << col << ", isa " << static_cast<int>(isa));
      }
  }
}

TEST_CASE("the transform equals the definition within the rounding of its additions", "[rotate][hadamard]") {
  for (const int n : hadamard_orders()) {
    if (n > 1024) break;
    std::vector<float> x = random_row(n, 5);
    const std::vector<double> expected = hadamard_reference(x);
    double sum = 0;
    for (const float value : x) sum += std::abs(double{value});
    hadamard(x);
    const double bound = 1.01 * roundings(n) * 0x1p-24 * sum / std::sqrt(static_cast<double>(n));
    for (std::size_t i = 0; i < x.size(); ++i)
      if (!(std::abs(x[i] - expected[i]) <= bound))
        FAIL("order " << n << ", value " << i << ": " << x[i] << " instead of " << expected[i]);
  }
}

TEST_CASE("the transform is its own inverse and keeps the norm", "[rotate][hadamard]") {
  for (const int n : hadamard_orders()) {
    const std::vector<float> x = random_row(n, 11);
    std::vector<float> y = x;
    hadamard(y);
    double before = 0, after = 0, wrong = 0;
    for (std::size_t i = 0; i < x.size(); ++i) before += double{x[i]} * x[i], after += double{y[i]} * y[i];
    hadamard(y);
    for (std::size_t i = 0; i < x.size(); ++i) wrong += (double{y[i]} - x[i]) * (double{y[i]} - x[i]);
    CHECK(std::abs(std::sqrt(after / before) - 1) <= 1.01 * roundings(n) * 0x1p-24);
    CHECK(std::sqrt(wrong / before) <= 2.02 * roundings(n) * 0x1p-24);
  }
}

TEST_CASE("hadamard_blocks transforms each block as if alone", "[rotate][hadamard]") {
  for (const std::size_t block : {1u, 2u, 12u, 16u, 28u, 64u, 96u, 608u}) {
    const std::vector<float> x = random_row(static_cast<int>(5 * block), 3);
    for (const Isa isa : all_isas()) {
      std::vector<float> y = x, z = x;
      hadamard_blocks(y, static_cast<std::int64_t>(block), isa);
      for (std::size_t i = 0; i < 5; ++i) hadamard(std::span<float>(z).subspan(i * block, block), isa);
      CHECK(same_bits(y, z));
    }
  }
  hadamard_blocks({}, 64);  // no block is fine
}

TEST_CASE("sizes without a transform are refused and change nothing", "[rotate][hadamard]") {
  for (const std::size_t n : {0u, 3u, 5u, 6u, 14u, 92u, 116u, 1000u, 32769u, 65536u}) {
    std::vector<float> x(n, 1.0f);
    CHECK_THROWS_AS(hadamard(x), InvalidArgument);
    CHECK(x == std::vector<float>(n, 1.0f));
  }
  std::vector<float> x(100, 1.0f);
  for (const std::int64_t block : {std::int64_t{-4}, std::int64_t{0}, std::int64_t{10}, std::int64_t{64},
                                   std::int64_t{200}, std::numeric_limits<std::int64_t>::min()})
    CHECK_THROWS_AS(hadamard_blocks(x, block), InvalidArgument);
  CHECK(x == std::vector<float>(100, 1.0f));
  CHECK_THROWS_AS(hadamard_sign(6, 0, 0), InvalidArgument);
  CHECK_THROWS_AS(hadamard_sign(8, 8, 0), InvalidArgument);
  CHECK_THROWS_AS(hadamard_sign(8, 0, -1), InvalidArgument);
  CHECK_THROWS_AS(hadamard_reference(std::vector<float>(6)), InvalidArgument);
}

TEST_CASE("choose_block takes the largest order that divides, or else pads least", "[rotate][hadamard]") {
  // The rule as the design states it, in its three cases.
  const auto by_rule = [](std::int64_t cols) {
    std::int64_t best = 0;
    for (const int n : hadamard_orders())
      if (n <= 1024 && cols % n == 0) best = n;
    if (best >= std::min<std::int64_t>(64, cols)) return best;
    std::int64_t least = std::numeric_limits<std::int64_t>::max();
    for (const int n : hadamard_orders()) {
      if (cols < 64 && n >= cols) return std::int64_t{n};
      const std::int64_t padded = (cols + n - 1) / n * n;
      if (n >= 64 && n <= 1024 && padded <= least) best = n, least = padded;
    }
    return best;
  };
  for (std::int64_t cols = 1; cols <= 20000; ++cols)
    if (choose_block(cols) != by_rule(cols)) FAIL("cols " << cols << ": " << choose_block(cols));

  const std::int64_t known[][2] = {{4096, 1024}, {14336, 1024}, {11008, 256}, {18944, 512},
                                   {3584, 896},  {896, 896},    {4864, 608},  {1536, 768},
                                   {5120, 1024}, {29568, 896},  {50, 52},     {1, 1}};
  for (const auto& [cols, block] : known) CHECK(choose_block(cols) == block);
}

TEST_CASE("choose_block keeps to max_block and to sizes beyond any matrix", "[rotate][hadamard]") {
  for (std::int64_t max_block = 1; max_block <= 1100; ++max_block)
    for (const std::int64_t cols : {1, 7, 50, 64, 100, 4096, 4097, 11008}) {
      const std::int64_t block = choose_block(cols, max_block);
      if (block > max_block || !is_hadamard_order(block))
        FAIL("cols " << cols << ", max_block " << max_block);
    }
  CHECK(choose_block(4096, 512) == 512);
  CHECK(choose_block(4096, 65536) == 4096);
  CHECK(choose_block(1000, 50) == 48);
  CHECK(choose_block(50, 10) == 8);
  const std::int64_t huge = std::numeric_limits<std::int64_t>::max();
  CHECK(choose_block(huge - 32767, huge) == 32768);  // 2^63 - 32768
  CHECK(choose_block(huge) == 1024);
  CHECK_THROWS_AS(choose_block(0), InvalidArgument);
  CHECK_THROWS_AS(choose_block(-1), InvalidArgument);
  CHECK_THROWS_AS(choose_block(64, 0), InvalidArgument);
}
