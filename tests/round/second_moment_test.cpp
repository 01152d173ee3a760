// SPDX-License-Identifier: Apache-2.0
#include <higgs/round/second_moment.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "cpu/sets.hpp"
#include "round/inputs.hpp"

using namespace higgs;

namespace {

bool equal(const SecondMoment& a, const SecondMoment& b) {
  return a.rows() == b.rows() &&
         std::equal(a.sums().begin(), a.sums().end(), b.sums().begin(), b.sums().end());
}

constexpr float infinity = std::numeric_limits<float>::infinity();

}  // namespace

TEST_CASE("sums of 32768 rows differ from those in double by 1.5e-5 at most", "[round][second_moment]") {
  constexpr std::int64_t rows = 32768, cols = 24;
  const std::vector<float> x = inputs(rows, cols, 1);
  SecondMoment h(cols);
  h.add({x.data(), rows, cols});
  std::vector<double> exact(cols * cols);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t i = 0; i < cols; ++i)
      for (std::size_t j = i; j < cols; ++j)
        exact[i * cols + j] += double{x[r * cols + i]} * double{x[r * cols + j]};
  double most = 0;
  for (std::size_t i = 0; i < cols; ++i)
    for (std::size_t j = i; j < cols; ++j) {
      const double value = h.values(0)(static_cast<std::int64_t>(i), static_cast<std::int64_t>(j));
      most = std::max(
          most, std::abs(value - exact[i * cols + j]) / std::sqrt(exact[i * cols + i] * exact[j * cols + j]));
    }
  CAPTURE(most);
  CHECK(most <= 1.5e-5);
}

TEST_CASE("second moments do not depend on threads, on the split of the rows or on the machine",
          "[round][second_moment]") {
  constexpr std::int64_t rows = 37, cols = 101;
  const std::vector<float> x = inputs(rows, cols, 2);
  const MatrixView<const float> all(x.data(), rows, cols);
  for (const std::int64_t part : {0, 32}) {
    SecondMoment expected(cols, part);
    expected.add(all);
    for (const Isa isa : all_isas())
      for (const int threads : {1, 3}) {
        ThreadPool pool(threads);
        SecondMoment h(cols, part);
        h.add(all.row_range(0, 5), pool, isa);
        h.add(all.row_range(5, 0), pool, isa);
        h.add(all.row_range(5, rows - 5), pool, isa);
        CHECK(equal(h, expected));
      }
  }
}

TEST_CASE("diagonal parts are those of the whole second moment", "[round][second_moment]") {
  constexpr std::int64_t rows = 9, cols = 70, part = 32;
  const std::vector<float> x = inputs(rows, cols, 3);
  SecondMoment whole(cols), parts(cols, part);
  whole.add({x.data(), rows, cols});
  parts.add({x.data(), rows, cols});
  REQUIRE(whole.parts() == 1);
  CHECK(whole.part() == cols);
  REQUIRE(parts.parts() == 3);
  CHECK(parts.values(2).cols == 6);
  for (std::int64_t p = 0; p < 3; ++p)
    for (std::int64_t i = 0; i < parts.values(p).rows; ++i)
      for (std::int64_t j = i; j < parts.values(p).cols; ++j)
        CHECK(parts.values(p)(i, j) == whole.values(0)(p * part + i, p * part + j));
  CHECK(parts.mean_squares() == whole.mean_squares());
  CHECK(whole.mean_squares()[69] == static_cast<double>(whole.values(0)(69, 69)) / rows);
  CHECK(SecondMoment(4).mean_squares() == std::vector<double>(4));
}

TEST_CASE("second moments come back from their sums and from a matrix", "[round][second_moment]") {
  constexpr std::int64_t rows = 12, cols = 21;
  const std::vector<float> x = inputs(rows, cols, 4);
  for (const std::int64_t part : {0, 8}) {
    SecondMoment h(cols, part);
    h.add({x.data(), rows, cols});
    CHECK(equal(h, SecondMoment(cols, part, rows, {h.sums().begin(), h.sums().end()})));
    if (part != 0) continue;
    std::vector<float> full(cols * cols);
    for (std::int64_t i = 0; i < cols; ++i)
      for (std::int64_t j = 0; j < cols; ++j)
        full[static_cast<std::size_t>(i * cols + j)] = h.values(0)(std::min(i, j), std::max(i, j));
    CHECK(equal(h, SecondMoment::from({full.data(), cols, cols}, rows)));
  }
}

TEST_CASE("inputs that are not finite are refused by row and column, and nothing is added",
          "[round][second_moment]") {
  for (const float bad : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> x(40 * 5, 1.0f);
    x[33 * 5 + 4] = bad;
    x[34 * 5 + 1] = bad;
    SecondMoment h(5);
    CHECK(contains(refusal([&] { h.add({x.data(), 40, 5}); }), "at row 33, column 4"));
    CHECK(equal(h, SecondMoment(5)));
  }
  std::vector<float> large(2, 1e19f);
  SecondMoment h(2, 1);
  h.add({large.data(), 1, 2});
  large[1] = 3e19f;
  CHECK(contains(refusal([&] { h.add({large.data(), 1, 2}); }), "sum of squares of input 1 is beyond float"));
}

TEST_CASE("what is no second moment is refused with its numbers", "[round][second_moment]") {
  std::vector<float> h = {4, 1, 0, 1, 9, 2, 0, 2, 1};
  const auto from = [&](std::int64_t rows, std::int64_t cols) {
    return refusal([&] { SecondMoment::from({h.data(), rows, cols}, 1); });
  };
  const auto with = [&](std::size_t place, float value) {
    const std::vector<float> kept = h;
    h[place] = value;
    const std::string message = from(3, 3);
    h = kept;
    return message;
  };
  CHECK(from(3, 3).empty());
  CHECK(with(3, 1.0005f).empty());
  CHECK(contains(from(3, 2), "h is (3, 2)"));
  CHECK(contains(from(0, 0), "h is (0, 0)"));
  CHECK(contains(with(3, 1.01f), "not symmetric: (0, 1) is 1, but (1, 0) is 1.01"));
  CHECK(contains(with(6, infinity), "not symmetric: (0, 2) is 0, but (2, 0) is inf"));
  CHECK(contains(with(4, -9.0f), "sum of squares of input 1 is -9"));
  CHECK(contains(with(0, infinity), "sum of squares of input 0 is inf"));
  CHECK(contains(with(5, 3.1f), "inputs 1 and 2 sum to 3.1, but their squares allow 3 at most"));
  CHECK(contains(with(1, std::numeric_limits<float>::quiet_NaN()), "inputs 0 and 1 sum to nan"));
  CHECK(contains(refusal([] { SecondMoment(3, 2, 1, std::vector<float>(9)); }),
                 "9 sums over 1 rows, but 3 inputs in parts of 2 have 5"));
  CHECK(contains(refusal([] { SecondMoment(3, 2, 1, {1, 0, 0, 1, -1}); }), "input 2 is -1"));
  CHECK(contains(refusal([] { SecondMoment(0); }), "0 inputs in parts of 0"));
  CHECK(contains(refusal([] { SecondMoment(4, -1); }), "4 inputs in parts of -1"));
  CHECK(contains(refusal([] { SecondMoment(4).values(1); }), "part 1, but there are 1"));
  CHECK(contains(refusal([&] { SecondMoment(4).add({h.data(), 3, 3}); }), "x is (3, 3), but there are 4"));
}
