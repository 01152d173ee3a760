// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/random.hpp>
#include <higgs/round/feedback.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cpu/sets.hpp"
#include "round/inputs.hpp"

using namespace higgs;

namespace {

// A damped second moment in full.
std::vector<double> damped_moment(std::int64_t n) {
  SecondMoment h(n);
  const std::vector<float> x = inputs(n / 2 + 2, n, static_cast<std::uint64_t>(n));
  h.add({x.data(), n / 2 + 2, n});
  double trace = 0;
  for (std::int64_t i = 0; i < n; ++i) trace += static_cast<double>(h.values(0)(i, i));
  std::vector<double> full;
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      full.push_back(static_cast<double>(h.values(0)(std::min(i, j), std::max(i, j))));
      if (i == j) full.back() += 0.01 * trace / static_cast<double>(n);
    }
  return full;
}

// The largest |U diag(d) U^T - h| (i, j) in units of sqrt(h(i, i) h(j, j)).
template <class T>
double largest_error(MatrixView<T> u, const auto& d, const std::vector<double>& h) {
  const std::int64_t n = u.rows;
  const auto at = [&](std::int64_t i, std::int64_t j) { return h[static_cast<std::size_t>(i * n + j)]; };
  double most = 0;
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = i; j < n; ++j) {
      double sum = 0;
      for (std::int64_t k = j; k < n; ++k)
        sum += (k == i ? 1 : static_cast<double>(u(i, k))) * (k == j ? 1 : static_cast<double>(u(j, k))) *
               static_cast<double>(d[static_cast<std::size_t>(k)]);
      most = std::max(most, std::abs(sum - at(i, j)) / std::sqrt(at(i, i) * at(j, j)));
    }
  return most;
}

// Higham, Accuracy and Stability of Numerical Algorithms, theorem 10.3: of Cholesky's error, in the units above. Three more
// roundings are those of u, of d and of their product.
double error_bound(std::int64_t n, double unit) { return static_cast<double>(n + 8) * unit; }

// The cost of an error by the factor: what each input's error and those fed back sum to, squared.
double cost_by_factor(const Feedback& feedback, std::span<const float> e) {
  double cost = 0;
  for (std::int64_t p = 0; p < feedback.parts(); ++p) {
    const MatrixView<const float> u = feedback.rows(p);
    const auto first = static_cast<std::size_t>(p * feedback.part());
    for (std::int64_t k = 0; k < u.cols; ++k) {
      double sum = 0;
      for (std::int64_t j = 0; j <= k; ++j)
        sum += double{e[first + static_cast<std::size_t>(j)]} * double{u(j, k)};
      cost += double{feedback.d()[first + static_cast<std::size_t>(k)]} * sum * sum;
    }
  }
  return cost;
}

struct Case {
  std::int64_t rows, cols, block, part;
  bool scales, seed;
};
// Whole and in parts, with padding and without, scales and signs or none.
constexpr Case cases[] = {{50, 64, 64, 0, false, false}, {90, 100, 32, 0, true, true},
                          {40, 300, 64, 0, true, true},  {60, 128, 32, 64, true, true},
                          {60, 200, 64, 64, true, true}, {30, 90, 16, 32, false, true}};

struct Layer {
  explicit Layer(const Case& c)
      : layout{.rows = 1, .cols = c.cols, .block = c.block, .input_scales = c.scales},
        seed(c.seed ? std::optional<std::uint64_t>(77) : std::nullopt),
        x(inputs(c.rows, c.cols, 5)),
        moment(c.cols, c.part) {
    for (std::int64_t i = 0; c.scales && i < c.cols; ++i)
      scales.emplace_back(i == 9 ? 0.0f : 0.5f + 0.01f * static_cast<float>(i));
    moment.add({x.data(), c.rows, c.cols});
  }
  CodeLayout layout;
  std::optional<std::uint64_t> seed;
  std::vector<float> x;  // (rows, cols)
  std::vector<Half> scales;
  SecondMoment moment;
};

}  // namespace

TEST_CASE("the plain factor in double is the second moment's", "[round][feedback]") {
  for (const std::int64_t n : {1, 2, 31, 80}) {
    const std::vector<double> h = damped_moment(n);
    std::vector<double> u = h, d(static_cast<std::size_t>(n));
    REQUIRE(factor_plainly({u.data(), n, n}, d));
    CHECK(largest_error(MatrixView<const double>(u.data(), n, n), d, h) <= error_bound(n, 0x1p-53));
  }
}

TEST_CASE("the factor by blocks in float is the second moment's, with ones and zeros in their places",
          "[round][feedback]") {
  for (const std::int64_t n : {1, 2, 31, 128, 129, 300, 520}) {
    const std::vector<double> h = damped_moment(n);
    std::vector<float> u(h.begin(), h.end()), d(static_cast<std::size_t>(n));
    const MatrixView<const float> view(u.data(), n, n);
    ThreadPool pool(2);
    REQUIRE(factor({u.data(), n, n}, d, 0, pool));
    CHECK(largest_error(view, d, h) <= error_bound(n, 0x1p-24));
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j <= i; ++j)
        if (view(i, j) != (i == j ? 1.0f : 0.0f)) FAIL_CHECK("row " << i << ", column " << j);
  }
}

TEST_CASE("neither factor takes a square that is not above the least", "[round][feedback]") {
  const std::vector<double> h = damped_moment(200);
  std::vector<double> squares(200), u = h;
  REQUIRE(factor_plainly({u.data(), 200, 200}, squares));
  const double least = *std::min_element(squares.begin(), squares.end());
  for (const auto& [bound, factored] : {std::pair(0.99 * least, true), std::pair(1.01 * least, false)}) {
    ThreadPool pool(1);
    std::vector<float> v(h.begin(), h.end()), d(200);
    u = h;
    CHECK(factor_plainly({u.data(), 200, 200}, squares, bound) == factored);
    CHECK(factor({v.data(), 200, 200}, d, bound, pool) == factored);
  }
  std::vector<double> bad = {1, std::numeric_limits<double>::quiet_NaN(), 0, 1};
  CHECK_FALSE(factor_plainly({bad.data(), 2, 2}, std::span(squares).first(2)));
}

TEST_CASE("an error of a rotated row costs what its factor says", "[round][feedback]") {
  for (const Case& c : cases) {
    const Layer layer(c);
    const Feedback feedback(layer.moment, layer.layout, layer.seed, layer.scales);
    REQUIRE(feedback.cols() == layer.layout.padded_cols());
    const auto cols = static_cast<std::size_t>(feedback.cols());
    const std::vector<float> e = normals(feedback.cols(), 8);
    std::vector<float> scales(layer.scales.begin(), layer.scales.end());
    // The outputs' error: each row of inputs as a product rotates it, part by part of the error.
    double cost = 0, squares = 0, trace = 0;
    for (std::int64_t r = 0; r < c.rows; ++r) {
      std::vector<float> row(cols);
      rotate_row(std::span(std::as_const(layer.x))
                     .subspan(static_cast<std::size_t>(r * c.cols), static_cast<std::size_t>(c.cols)),
                 std::span<const float>(scales), std::span(row), c.block, layer.seed);
      for (std::size_t first = 0; first < cols; first += static_cast<std::size_t>(feedback.part())) {
        double y = 0;
        for (std::size_t k = first; k < std::min(cols, first + static_cast<std::size_t>(feedback.part()));
             ++k) {
          y += double{row[k]} * double{e[k]};
          trace += double{row[k]} * double{row[k]};
        }
        cost += y * y;
      }
    }
    for (const float value : e) squares += double{value} * double{value};
    cost += Feedback::default_damping * trace / static_cast<double>(cols) * squares;
    INFO("cols " << c.cols << ", block " << c.block << ", part " << c.part);
    CHECK(feedback.damping() == Feedback::default_damping);
    // A relative error u of every value of H' moves the cost by at most u * trace * |e|^2.
    const double bound = static_cast<double>(c.rows + feedback.cols() + 128) * 0x1p-24 * trace * squares;
    const double difference = std::abs(cost_by_factor(feedback, e) - cost);
    CAPTURE(difference / cost, bound / cost);
    CHECK(difference <= bound);
    CHECK(bound <= 0.1 * cost);
  }
}

TEST_CASE("factors are the same bits on every instruction set and for any number of threads",
          "[round][feedback]") {
  for (const Case& c : cases) {
    const Layer layer(c);
    const Feedback expected(layer.moment, layer.layout, layer.seed, layer.scales);
    for (const Isa isa : all_isas())
      for (const int threads : {1, 3}) {
        ThreadPool pool(threads);
        const Feedback other(layer.moment, layer.layout, layer.seed, layer.scales, Feedback::default_damping,
                             pool, isa);
        CHECK(std::equal(other.d().begin(), other.d().end(), expected.d().begin(), expected.d().end()));
        for (std::int64_t p = 0; p < expected.parts(); ++p) {
          const MatrixView<const float> u = expected.rows(p), v = other.rows(p);
          CHECK(std::equal(u.data, u.data + u.size(), v.data, v.data + v.size()));
        }
      }
  }
}

TEST_CASE("the factor of a seed never changes: golden bits", "[round][feedback]") {
  constexpr std::int64_t rows = 64, cols = 200;
  std::vector<float> x(rows * cols);
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = static_cast<float>(static_cast<int>(random_bits(3, i) >> 56) - 128 + static_cast<int>(i % 5) * 40);
  SecondMoment moment(cols);
  moment.add({x.data(), rows, cols});
  std::vector<Half> scales;
  for (int i = 0; i < cols; ++i) scales.emplace_back(static_cast<float>(1 + i % 9) / 4);
  const Feedback feedback(moment, {.rows = 1, .cols = cols, .block = 64, .input_scales = true}, 11, scales);
  std::uint64_t hash = 0;
  const auto take = [&](float value) { hash = random_bits(hash, std::bit_cast<std::uint32_t>(value)); };
  for (const float value : feedback.d()) take(value);
  const MatrixView<const float> u = feedback.rows(0);
  for (std::int64_t i = 0; i < u.rows; ++i)
    for (std::int64_t j = 0; j < u.cols; ++j) take(u(i, j));
  CHECK(hash == 0xdcf4b8ec2255cfa8u);
}

TEST_CASE("rounding with errors fed back costs less than rounding to the nearest", "[round][feedback]") {
  const Layer layer(cases[2]);
  const Feedback feedback(layer.moment, layer.layout, layer.seed, layer.scales);
  const std::vector<float> w = normals(feedback.cols(), 9);
  const MatrixView<const float> u = feedback.rows(0);
  std::vector<float> nearest, fed_back;
  for (std::int64_t k = 0; k < feedback.cols(); ++k) {
    const float weight = w[static_cast<std::size_t>(k)];
    float target = weight;
    for (std::int64_t j = 0; j < k; ++j) target += fed_back[static_cast<std::size_t>(j)] * u(j, k);
    nearest.push_back(weight - std::nearbyint(weight));
    fed_back.push_back(weight - std::nearbyint(target));
  }
  CHECK(cost_by_factor(feedback, fed_back) < 0.5 * cost_by_factor(feedback, nearest));
}

TEST_CASE("a second moment without full rank is damped until its factor is safe", "[round][feedback]") {
  const std::int64_t cols = 256;
  const std::vector<float> x(static_cast<std::size_t>(cols), 3.0f);  // one row: rank 1
  SecondMoment moment(cols);
  moment.add({x.data(), 1, cols});
  const CodeLayout layout{.rows = 1, .cols = cols, .block = 256};
  for (const auto& [asked, used] : {std::pair(0.0, 1e-4), std::pair(1e-9, 1e-4), std::pair(0.03, 0.03)}) {
    const Feedback feedback(moment, layout, 5, {}, asked);
    CHECK(feedback.damping() == used);
    const double added = used * 9;  // the mean of the diagonal is 9
    CHECK(*std::min_element(feedback.d().begin(), feedback.d().end()) > added / 2);
  }
}

TEST_CASE("no square of a factor is small by rounding alone", "[round][feedback]") {
  for (std::uint64_t trial = 0; trial < 100; ++trial) {
    const std::vector<float> x = normals(4, 100 + trial);
    SecondMoment moment(4);
    moment.add({x.data(), 1, 4});
    const Feedback feedback(moment, {.rows = 1, .cols = 4, .block = 4}, trial, {}, 1e-7);
    double mean = 0;
    for (const float value : x) mean += double{value} * double{value} / 4;
    CHECK(*std::min_element(feedback.d().begin(), feedback.d().end()) > 0.499 * feedback.damping() * mean);
  }
}

TEST_CASE("inputs that are all zero need no feedback", "[round][feedback]") {
  const CodeLayout layout{.rows = 1, .cols = 40, .block = 16};
  const Feedback none(SecondMoment(40), layout, 5);
  CHECK(none.empty());
  CHECK(none.cols() == 48);
  CHECK(std::count(none.d().begin(), none.d().end(), 0.0f) == 48);
  CHECK(contains(refusal([&] { none.rows(0); }), "part 0, but there are 0"));
  Layer layer(cases[1]);
  CHECK_FALSE(Feedback(layer.moment, layer.layout, layer.seed, layer.scales).empty());
  std::fill(layer.scales.begin(), layer.scales.end(), Half());
  CHECK(Feedback(layer.moment, layer.layout, layer.seed, layer.scales).empty());
}

TEST_CASE("what does not fit the layout is refused with its numbers", "[round][feedback]") {
  const SecondMoment moment(128, 32);
  const auto made = [&](std::int64_t cols, std::int64_t block, bool scaled, double damping) {
    const CodeLayout layout{.rows = 1, .cols = cols, .block = block, .input_scales = scaled};
    return refusal([&] { Feedback(moment, layout, 1, {}, damping); });
  };
  constexpr double damping = Feedback::default_damping;
  CHECK(made(128, 32, false, damping).empty());
  CHECK(made(128, 16, false, damping).empty());
  CHECK(contains(made(127, 32, false, damping), "has 128 inputs, but the layout has 127"));
  CHECK(contains(made(128, 64, false, damping), "parts of 32 inputs are no whole blocks of 64"));
  CHECK(contains(made(128, 32, true, damping), "input_scales holds 0 values, but the layout needs 128"));
  CHECK(contains(made(128, 32, false, -0.5), "damping is -0.5"));
  CHECK(contains(made(128, 32, false, std::numeric_limits<double>::infinity()), "damping is inf"));
  const Layer layer(cases[3]);
  const Feedback feedback(layer.moment, layer.layout, layer.seed, layer.scales);
  CHECK(contains(refusal([&] { feedback.rows(2); }), "part 2, but there are 2"));
  // Values that float holds, but not once they are rotated.
  SecondMoment large(64);
  const std::vector<float> x(64, 1.5e19f);
  large.add({x.data(), 1, 64});
  CHECK(contains(refusal([&] { Feedback(large, {.rows = 1, .cols = 64, .block = 64}, 1); }),
                 "64 inputs cannot be factored"));
}
