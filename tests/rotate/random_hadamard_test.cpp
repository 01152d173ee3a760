// SPDX-License-Identifier: Apache-2.0
#include <higgs/rotate/random_hadamard.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "cpu/sets.hpp"

using namespace higgs;

namespace {

std::vector<float> normal_row(std::size_t n, std::uint64_t seed) {
  std::vector<float> x(n);
  for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<float>(random_normal(seed, i));
  return x;
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) {
    return std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(y);
  });
}

double norm(std::span<const float> x) {
  double squares = 0;
  for (const float value : x) squares += double{value} * value;
  return std::sqrt(squares);
}

double distance(std::span<const float> a, std::span<const float> b) {
  double squares = 0;
  for (std::size_t i = 0; i < a.size(); ++i) squares += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  return std::sqrt(squares);
}

// More than any block's relative rounding error in the 2-norm; hadamard_test.cpp derives it.
constexpr double rotation_error = 52 * 0x1p-24;

struct Case {
  std::int64_t block, blocks;
};
constexpr Case cases[] = {{1, 70}, {4, 20}, {12, 11}, {64, 3}, {100, 2}, {608, 3}, {768, 2}, {1024, 4}};

}  // namespace

TEST_CASE("the signs of a seed never change: golden bits", "[rotate][random_hadamard]") {
  STATIC_REQUIRE(sign_bits(0, 0) == 0xa706dd2f4d197e6fu);
  STATIC_REQUIRE(sign_bits(42, 0) == 0x57e1faba65107204u);
  STATIC_REQUIRE(sign_bits(0, 100) == 0x4fbabf717b382a30u);
  STATIC_REQUIRE(sign_bits(42, 100) == 0x8c12903b2f4abd14u);
}

TEST_CASE("the sign of a column is its bit of random_bits, wherever a row starts",
          "[rotate][random_hadamard]") {
  for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{7}, ~std::uint64_t{0}})
    for (std::int64_t first = 0; first < 200; ++first)
      for (std::int64_t i = 0; i < 64; ++i) {
        const auto column = static_cast<std::uint64_t>(first + i);
        const bool negative = (random_bits(seed, column / 64) >> column % 64 & 1) != 0;
        if (negative != ((sign_bits(seed, first) >> i & 1) != 0))
          FAIL("seed " << seed << ", column " << column);
      }
  CHECK(sign_bits(1, std::numeric_limits<std::int64_t>::max()) ==
        (random_bits(1, (std::uint64_t{1} << 57) - 1) >> 63 | random_bits(1, std::uint64_t{1} << 57) << 1));
}

TEST_CASE("apply_signs negates just the columns whose sign is set, on every path",
          "[rotate][random_hadamard]") {
  for (const std::size_t n : {0u, 1u, 7u, 63u, 64u, 65u, 200u, 256u})
    for (const std::int64_t first : {0, 1, 12, 63, 64, 100, 1000000007})
      for (const Isa isa : all_isas()) {
        std::vector<float> x(n + 1, 3.0f);  // guarded
        apply_signs(std::span<float>(x).first(n), 5, first, isa);
        for (std::size_t i = 0; i < n; ++i) {
          const bool negative = (sign_bits(5, first + static_cast<std::int64_t>(i)) & 1) != 0;
          if (x[i] != (negative ? -3.0f : 3.0f)) FAIL("n " << n << ", first " << first << ", value " << i);
        }
        CHECK(x[n] == 3.0f);
      }
}

TEST_CASE("a seed's signs are balanced and unrelated to those of the next seed",
          "[rotate][random_hadamard]") {
  constexpr int words = 4096;
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    int negative = 0, differ = 0;
    for (std::int64_t word = 0; word < words; ++word) {
      negative += std::popcount(sign_bits(seed, 64 * word));
      differ += std::popcount(sign_bits(seed, 64 * word) ^ sign_bits(seed + 1, 64 * word));
    }
    // 2^18 fair bits: half of them, with a standard deviation of 2^8.
    CHECK(std::abs(negative - 32 * words) < 5 * 256);
    CHECK(std::abs(differ - 32 * words) < 5 * 256);
  }
}

TEST_CASE("rotate_row is signs, then the transform of each block, on every path",
          "[rotate][random_hadamard]") {
  for (const auto& [block, blocks] : cases) {
    const std::vector<float> x = normal_row(static_cast<std::size_t>(block * blocks), 1);
    std::vector<float> expected = x;
    for (std::size_t i = 0; i < x.size(); ++i)
      if (sign_bits(3, static_cast<std::int64_t>(i)) & 1) expected[i] = -x[i];
    for (std::int64_t i = 0; i < blocks; ++i)
      hadamard(std::span<float>(expected).subspan(static_cast<std::size_t>(i * block),
                                                  static_cast<std::size_t>(block)));
    for (const Isa isa : all_isas()) {
      std::vector<float> y = x;
      rotate_row(y, block, 3, 0, isa);
      CHECK(same_bits(y, expected));
    }
  }
}

TEMPLATE_TEST_CASE("rotate_row from other numbers converts, scales and pads first, on every path",
                   "[rotate][random_hadamard]", float, Half, BFloat16) {
  for (const auto& [block, blocks] : cases)
    for (const std::size_t missing : {std::size_t{0}, static_cast<std::size_t>(block) / 3}) {
      const auto padded = static_cast<std::size_t>(block * blocks), size = padded - missing;
      const std::vector<float> numbers = normal_row(size, 1), scales = normal_row(size, 2);
      std::vector<TestType> x;
      for (const float number : numbers) x.push_back(static_cast<TestType>(number));
      for (const bool scaled : {false, true})
        for (const std::optional<std::uint64_t> seed : {std::optional<std::uint64_t>(), {3}}) {
          std::vector<float> expected(padded);
          for (std::size_t i = 0; i < size; ++i)
            expected[i] = static_cast<float>(x[i]) * (scaled ? scales[i] : 1.0f);
          rotate_row(expected, block, seed, 5, Isa::Portable);
          for (const Isa isa : all_isas()) {
            std::vector<float> y(padded, 7.0f);
            rotate_row(std::span<const TestType>(x), scaled ? scales : std::span<const float>(), y, block,
                       seed, 5, isa);
            CHECK(same_bits(y, expected));
          }
        }
    }
}

TEST_CASE("rotate_row without a seed is the plain transform", "[rotate][random_hadamard]") {
  std::vector<float> x = normal_row(512, 1), y = x;
  rotate_row(x, 256, std::nullopt);
  hadamard_blocks(y, 256);
  CHECK(same_bits(x, y));
  unrotate_row(x, 256, std::nullopt);
  hadamard_blocks(y, 256);
  CHECK(same_bits(x, y));
}

TEST_CASE("unrotate_row inverts rotate_row, and both keep the norm", "[rotate][random_hadamard]") {
  for (const auto& [block, blocks] : cases)
    for (const std::optional<std::uint64_t> seed : {std::optional<std::uint64_t>(), {0}, {1234567}}) {
      const std::vector<float> x = normal_row(static_cast<std::size_t>(block * blocks), 2);
      std::vector<float> y = x;
      rotate_row(y, block, seed, 77);
      CHECK(std::abs(norm(y) - norm(x)) <= rotation_error * norm(x));
      unrotate_row(y, block, seed, 77);
      CHECK(distance(y, x) <= 2.01 * rotation_error * norm(x));
    }
}

TEST_CASE("the rotation is linear", "[rotate][random_hadamard]") {
  const std::vector<float> x = normal_row(1536, 3), y = normal_row(1536, 4);
  std::vector<float> sum(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) sum[i] = 0.25f * x[i] - 3.0f * y[i];
  std::vector<float> rx = x, ry = y;
  rotate_row(rx, 768, 9);
  rotate_row(ry, 768, 9);
  rotate_row(sum, 768, 9);
  double wrong = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double difference = sum[i] - (0.25 * rx[i] - 3.0 * ry[i]);
    wrong += difference * difference;
  }
  // Three rotations, and the two roundings of each input sum.
  CHECK(std::sqrt(wrong) <= (2 * rotation_error + 0x1p-23) * (0.25 * norm(x) + 3.0 * norm(y)));

  std::vector<float> doubled = x;
  for (float& value : doubled) value *= 0x1p-60f;  // powers of two pass through exactly
  rotate_row(doubled, 768, 9);
  for (float& value : doubled) value *= 0x1p60f;
  CHECK(same_bits(doubled, rx));
}

TEST_CASE("signs keep a constant row from turning into one spike", "[rotate][random_hadamard]") {
  const std::size_t n = 1024;
  std::vector<float> plain(n, 1.0f);
  rotate_row(plain, 1024, std::nullopt);
  CHECK(plain[0] == 32.0f);
  CHECK(std::count(plain.begin(), plain.end(), 0.0f) == 1023);

  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    std::vector<float> x(n, 1.0f);
    rotate_row(x, 1024, seed);
    float largest = 0;
    for (const float value : x) largest = std::max(largest, std::abs(value));
    CHECK(largest < 5.5f);  // close to normal numbers: one in 26 million is beyond 5.5
  }
}

TEST_CASE("an outlier is spread over its block and stays out of the others", "[rotate][random_hadamard]") {
  std::vector<float> x(2304);
  x[1000] = 100.0f;
  rotate_row(x, 768, 5);
  for (std::size_t i = 0; i < x.size(); ++i)
    if (i / 768 == 1)
      CHECK(std::abs(x[i]) == 100.0f * static_cast<float>(1.0 / std::sqrt(768.0)));
    else
      CHECK(x[i] == 0.0f);
}

TEST_CASE("padding with zeros is undone: the pad comes back as zeros", "[rotate][random_hadamard]") {
  REQUIRE(choose_block(998) == 200);
  std::vector<float> x = normal_row(998, 6);
  x.resize(1000, 0.0f);
  std::vector<float> y = x;
  rotate_row(y, 200, 8);
  unrotate_row(y, 200, 8);
  CHECK(distance(y, x) <= 2.01 * rotation_error * norm(x));

  std::vector<float> zero(1000, 0.0f);
  rotate_row(zero, 200, 8);
  CHECK(std::count(zero.begin(), zero.end(), 0.0f) == 1000);
}

TEST_CASE("a shard of whole blocks rotates to the slice of the whole row", "[rotate][random_hadamard]") {
  for (const auto& [block, blocks] : cases) {
    const std::vector<float> x = normal_row(static_cast<std::size_t>(block * blocks), 7);
    std::vector<float> whole = x;
    rotate_row(whole, block, 21);
    for (std::int64_t begin = 0; begin < blocks; ++begin)
      for (std::int64_t end = begin; end <= blocks; ++end) {
        const auto offset = static_cast<std::size_t>(begin * block);
        const auto size = static_cast<std::size_t>((end - begin) * block);
        std::vector<float> shard(x.begin() + begin * block, x.begin() + end * block);
        rotate_row(shard, block, 21, begin * block);
        if (!same_bits(shard, std::span<const float>(whole).subspan(offset, size)))
          FAIL("block " << block << ", shard " << begin << " to " << end);
      }
  }
}

TEST_CASE("rows and blocks that do not fit are refused", "[rotate][random_hadamard]") {
  std::vector<float> x(128, 1.0f);
  CHECK_THROWS_AS(rotate_row(x, 96, 1), InvalidArgument);
  CHECK_THROWS_AS(rotate_row(x, 0, 1), InvalidArgument);
  CHECK_THROWS_AS(rotate_row(x, -64, 1), InvalidArgument);
  CHECK_THROWS_AS(rotate_row(x, 92, 1), InvalidArgument);
  CHECK_THROWS_AS(rotate_row(x, 64, 1, -64), InvalidArgument);
  CHECK_THROWS_AS(unrotate_row(x, 256, 1), InvalidArgument);
  CHECK_THROWS_AS(unrotate_row(x, 64, 1, -1), InvalidArgument);
  const std::span<const float> in(x);
  std::vector<float> y(128);
  CHECK_THROWS_AS(rotate_row(in, {}, y, 96, 1), InvalidArgument);
  CHECK_THROWS_AS(rotate_row(in, {}, std::span<float>(y).first(64), 64, 1), InvalidArgument);
  CHECK_THROWS_AS(rotate_row(in, in.first(64), y, 64, 1), InvalidArgument);
  CHECK_THROWS_AS(rotate_row(in, {}, y, 64, 1, -1), InvalidArgument);
  rotate_row(std::span<float>(), 64, 1);  // an empty shard is fine
}
