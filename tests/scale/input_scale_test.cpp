// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/random.hpp>
#include <higgs/scale/input_scale.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "../matmul/matrices.hpp"

using higgs::ColumnStatistics;
using higgs::Half;
using higgs::MatrixView;

TEST_CASE("a column's scale is its RMS over the RMS of the matrix, up to a power of two",
          "[scale][input_scale]") {
  Normals w(300, 70, 1);
  for (std::int64_t r = 0; r < 300; ++r)
    for (std::int64_t c = 0; c < 70; ++c) w.view(r, c) *= static_cast<float>(c + 1) * 1e-3f;
  double total = 0;
  std::vector<double> squares(70);
  for (std::int64_t r = 0; r < 300; ++r)
    for (std::size_t c = 0; c < 70; ++c) {
      const double value = static_cast<double>(w.view(r, static_cast<std::int64_t>(c)));
      squares[c] += value * value;
      total += value * value;
    }
  const double unit = std::exp2(std::floor(std::log2(std::sqrt(total / (300 * 70)))));
  ColumnStatistics statistics(70);
  statistics.add(w.view);
  const std::vector<Half> scales = statistics.input_scales();
  REQUIRE(scales.size() == 70);
  for (std::size_t c = 0; c < 70; ++c)
    CHECK(scales[c] == Half(static_cast<float>(std::sqrt(squares[c] / 300) / unit)));
}

TEST_CASE("statistics depend neither on pieces, nor on threads, nor on strides, nor on the type",
          "[scale][input_scale]") {
  const Normals<higgs::BFloat16> w(37, 600, 2);
  std::vector<float> wide(w.data.size()), turned(w.data.size());
  for (std::size_t i = 0; i < wide.size(); ++i) {
    wide[i] = static_cast<float>(w.data[i]);
    turned[i % 600 * 37 + i / 600] = wide[i];
  }
  higgs::SerialExecutor serial;
  higgs::ThreadPool pool(3);
  ColumnStatistics whole(600), pieces(600), columns(600);
  whole.add(w.view, serial);
  for (std::int64_t r = 0; r < 37; r += 5)
    pieces.add(MatrixView<float>(wide.data(), 37, 600).row_range(r, std::min<std::int64_t>(5, 37 - r)), pool);
  columns.add(MatrixView<float>(turned.data(), 600, 37).transposed(), pool);
  CHECK(whole.input_scales() == pieces.input_scales());
  CHECK(whole.input_scales() == columns.input_scales());
  CHECK(whole.max_magnitude() == pieces.max_magnitude());
  CHECK(whole.max_magnitude() == columns.max_magnitude());
}

TEST_CASE("columns of zeros get 0, tiny ones never do, and powers of two change nothing",
          "[scale][input_scale]") {
  std::vector<float> data(4 * 128, 1.0f);
  const MatrixView<float> w(data.data(), 128, 4);
  for (std::int64_t r = 0; r < 128; ++r) {
    w(r, 1) = 0;
    w(r, 2) = 1e-20f;
    w(r, 3) = -3.0f;
  }
  const auto scales_at = [&](int power) {
    std::vector<float> scaled;
    for (const float each : data) scaled.push_back(std::ldexp(each, power));
    ColumnStatistics statistics(4);
    statistics.add(MatrixView<float>(scaled.data(), 128, 4));
    return statistics.input_scales();
  };
  const std::vector<Half> scales = scales_at(0);
  CHECK(static_cast<float>(scales[0]) == 1.0f);  // the matrix' RMS, sqrt(10 / 4), lies in [1, 2)
  CHECK(scales[1].bits == 0);
  CHECK(static_cast<float>(scales[2]) == 0x1p-14f);
  CHECK(static_cast<float>(scales[3]) == 3.0f);
  CHECK(scales_at(1) == scales);
  CHECK(scales_at(-60) == scales);
  CHECK(scales_at(100) == scales);
  CHECK(higgs::input_factor(scales[1]) == 0.0f);
  CHECK(higgs::input_factor(scales[2]) == 0x1p14f);
  const std::vector<float> zeros(10);
  ColumnStatistics nothing(5);
  nothing.add(MatrixView<const float>(zeros.data(), 2, 5));
  CHECK(nothing.input_scales() == std::vector<Half>(5));
  CHECK(nothing.max_magnitude() == 0);
}

TEST_CASE("no scales give less error than those balanced against the inputs", "[scale][input_scale]") {
  Normals w(200, 64, 3);
  std::vector<double> inputs(64), squares(64);
  for (std::size_t c = 0; c < 64; ++c) {
    inputs[c] = std::exp2(static_cast<double>(higgs::random_bits(4, c) % 1000) / 100.0);
    for (std::int64_t r = 0; r < 200; ++r) {
      float& value = w.view(r, static_cast<std::int64_t>(c));
      value *= static_cast<float>(c % 7 + 1);
      squares[c] += static_cast<double>(value) * static_cast<double>(value);
    }
  }
  ColumnStatistics statistics(64);
  statistics.add(w.view);
  const auto error_of = [&](const std::vector<Half>& scales, double factor, std::size_t changed) {
    double loud = 0, even = 0;
    for (std::size_t c = 0; c < 64; ++c) {
      const double scale = static_cast<double>(static_cast<float>(scales[c])) * (c == changed ? factor : 1.0);
      loud += inputs[c] * scale * scale;
      even += squares[c] / (scale * scale);
    }
    return loud * even;
  };
  const std::vector<Half> balanced = statistics.input_scales(inputs);
  const double least = error_of(balanced, 1, 0);
  CHECK(least < error_of(statistics.input_scales(), 1, 0));
  double bound = 0;  // Cauchy and Schwarz; fp16 moves each scale by 2^-11 at most
  for (std::size_t c = 0; c < 64; ++c) bound += std::sqrt(inputs[c] * squares[c]);
  CHECK(least == Approx(bound * bound).epsilon(1e-5));
  for (std::size_t c = 0; c < 64; ++c)
    for (const double factor : {0.9, 1.1}) CHECK(error_of(balanced, factor, c) > least);

  // The unit of the inputs does not matter, silent inputs are no trouble, and equal ones leave the square root.
  std::vector<double> louder(inputs);
  for (double& each : louder) each *= 0x1p-60;
  CHECK(statistics.input_scales(louder) == balanced);
  CHECK(statistics.input_scales(std::vector<double>(64)) == statistics.input_scales());
  inputs[5] = 0;
  for (const Half each : statistics.input_scales(inputs)) CHECK((each.bits > 0 && each.bits < 0x7c00));
  for (const double bad :
       {-1.0, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    inputs[5] = bad;
    CHECK_THROWS_AS(statistics.input_scales(inputs), higgs::InvalidArgument);
  }
  CHECK_THROWS_AS(statistics.input_scales(std::vector<double>(63)), higgs::InvalidArgument);
}

TEST_CASE("the largest magnitude is known before and after division", "[scale][input_scale]") {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> data{1, -8, 2, 4};
  ColumnStatistics statistics(2);
  statistics.add(MatrixView<float>(data.data(), 2, 2));
  CHECK(statistics.max_magnitude() == 8);
  const std::vector<Half> scales{Half(0.125f), Half(2.0f)};
  CHECK(statistics.max_magnitude(scales) == 16);
  for (const float bad : {inf, -inf, nan, -nan}) {
    data[3] = bad;
    ColumnStatistics other(2);
    other.add(MatrixView<float>(data.data(), 1, 2));
    CHECK_THROWS_WITH(other.add(MatrixView<float>(data.data(), 2, 2)), Catch::Contains("row 2, column 1"));
    CHECK_THROWS_AS(other.add(MatrixView<float>(data.data(), 1, 2)), higgs::InvalidArgument);
  }
  CHECK_THROWS_AS(statistics.add(MatrixView<float>(data.data(), 1, 3)), higgs::InvalidArgument);
  CHECK_THROWS_AS(statistics.max_magnitude(std::vector<Half>(3)), higgs::InvalidArgument);
  CHECK_THROWS_AS(ColumnStatistics(0), higgs::InvalidArgument);
}
