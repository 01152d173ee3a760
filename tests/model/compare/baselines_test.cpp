// SPDX-License-Identifier: Apache-2.0
#include "compare/baselines.hpp"

#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using higgs::MatrixView;
using higgs::model::Baseline;
using higgs::model::baseline_named;
using higgs::model::baselines;
using higgs::model::GroupedMatrix;
namespace rounding = higgs::model::rounding;

namespace {

constexpr std::int64_t rows = 384, cols = 1024;

const std::vector<float>& normal_weights() {
  static const std::vector<float> weights = [] {
    std::vector<float> w(static_cast<std::size_t>(rows * cols));
    for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(higgs::random_normal(7, i));
    return w;
  }();
  return weights;
}

std::vector<float> rounded(const Baseline& format, std::vector<float> w, std::int64_t width) {
  higgs::SerialExecutor serial;
  round_to(format, MatrixView<float>(w.data(), static_cast<std::int64_t>(w.size()) / width, width), serial);
  return w;
}
/// One row.
std::vector<float> rounded(std::string_view name, const std::vector<float>& w) {
  return rounded(baseline_named(name), w, static_cast<std::int64_t>(w.size()));
}

/// All of normal_weights().
const std::vector<float>& rounded_normal(std::string_view name) {
  static std::map<std::string_view, std::vector<float>> known;
  std::vector<float>& v = known[name];
  if (v.empty()) v = rounded(baseline_named(name), normal_weights(), cols);
  return v;
}

/// Sum of |error|^power over that of |weight|^power, on normal_weights(); power is 1 or 2.
double relative_error(std::string_view name, int power = 2) {
  const std::vector<float>& v = rounded_normal(name);
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < v.size(); ++i) {
    const double w = normal_weights()[i];
    const double difference = std::fabs(w - v[i]);
    error += power == 1 ? difference : difference * difference;
    norm += power == 1 ? std::fabs(w) : w * w;
  }
  return error / norm;
}

/// (x, m) for each weight x m but the largest, m the largest magnitude in its group of `block`.
std::vector<std::pair<double, double>> normalized(std::size_t block) {
  std::vector<std::pair<double, double>> all;
  const std::vector<float>& w = normal_weights();
  for (std::size_t g = 0; g < w.size(); g += block) {
    double most = 0;
    for (std::size_t i = g; i < g + block; ++i) most = std::max(most, std::fabs(static_cast<double>(w[i])));
    for (std::size_t i = g; i < g + block; ++i)
      if (std::fabs(static_cast<double>(w[i])) < most) all.emplace_back(w[i] / most, most);
  }
  return all;
}

}  // namespace

TEST_CASE("the NF4 levels are those that QLoRA prints", "[model][baselines]") {
  const std::array printed{-1.0,        -0.69619280, -0.52507305, -0.39491749, -0.28444138, -0.18477343,
                           -0.09105004, 0.0,         0.07958030,  0.16093020,  0.24611230,  0.33791524,
                           0.44070983,  0.56261700,  0.72295684,  1.0};
  const rounding::Levels levels = rounding::nf4_levels();
  for (std::size_t i = 0; i < 16; ++i) CHECK(std::fabs(levels.values[i] - printed[i]) < 1e-7);
}

TEST_CASE("the AF4 levels are medians of cells that end at zero", "[model][baselines]") {
  for (const int block : {64, 1024}) {
    const auto levels =
        rounding::fitted_levels(block, rounding::Loss::Absolute, rounding::ScaleSign::Positive);
    CHECK(levels.values[0] == -1);
    CHECK(levels.values[7] == 0);
    CHECK(levels.values[15] == 1);
    auto borders = levels.borders;
    borders[6] = borders[7] = 0;  // 0 is added to the levels of the two sides
    std::array<double, 16> below{}, above{};
    for (const auto& [x, scale] : normalized(static_cast<std::size_t>(block))) {
      const auto cell =
          static_cast<std::size_t>(std::lower_bound(borders.begin(), borders.end(), x) - borders.begin());
      (x < levels.values[cell] ? below : above)[cell] += 1;
    }
    for (std::size_t i = 1; i < 15; ++i) {
      INFO("block " << block << ", level " << i);
      // A fair coin thrown n times is off by 4.5 standard deviations, sqrt(n) / 2 each, once in 10^5.
      if (i != 7) CHECK(std::fabs(below[i] - above[i]) < 4.5 * std::sqrt(below[i] + above[i]));
    }
  }
  // Yoshida 2023 prints these for groups of 64.
  const auto levels = rounding::fitted_levels(64, rounding::Loss::Absolute, rounding::ScaleSign::Positive);
  CHECK(levels.values[1] == Approx(-0.69441).margin(5e-6));
  CHECK(levels.values[8] == Approx(0.04273).margin(5e-6));
  CHECK(levels.values[14] == Approx(0.72425).margin(5e-6));
}

TEST_CASE("no BOF4 level can move without a larger squared error", "[model][baselines]") {
  using rounding::ScaleSign;
  for (const ScaleSign sign : {ScaleSign::Positive, ScaleSign::OfLargest}) {
    const auto levels = rounding::fitted_levels(64, rounding::Loss::Squared, sign);
    std::array<double, 16> count{}, product{}, square{}, spread{};
    for (const auto& [x, scale] : normalized(64)) {
      const auto cell = static_cast<std::size_t>(
          std::lower_bound(levels.borders.begin(), levels.borders.end(), x) - levels.borders.begin());
      const double residue = scale * scale * (x - levels.values[cell]);
      count[cell] += 1;
      product[cell] += scale * scale * x;
      square[cell] += scale * scale;
      spread[cell] += residue * residue;
    }
    CHECK(levels.values[7] == 0);
    CHECK(levels.values[15] == 1);
    CHECK((levels.values[0] == -1) == (sign == ScaleSign::Positive));
    for (std::size_t i = sign == ScaleSign::OfLargest ? 0 : 1; i < 15; ++i) {
      INFO("level " << i);  // the sample's own optimum, to 4.5 of its standard errors
      if (i != 7)
        CHECK(std::fabs(product[i] / square[i] - levels.values[i]) < 4.5 * std::sqrt(spread[i]) / square[i]);
    }
  }
}

TEST_CASE("every format has the error on N(0, 1) that its definition implies", "[model][baselines]") {
  // From implementations of the definitions that share nothing with this one, on 2.5 million weights or more.
  const std::map<std::string_view, double> expected{
      {"nf4-64", 0.00845},  {"nf4-64 dq", 0.008466}, {"nf4-1024", 0.01087}, {"nf4-1024 dq", 0.01088},
      {"af4-64", 0.00914},  {"af4-1024", 0.01326},   {"bof4-64", 0.00799},  {"bof4s-64", 0.00735},
      {"int4-64", 0.00829}, {"int3-64", 0.0380},     {"int2-64", 0.2086},   {"mxfp4", 0.01321},
      {"nvfp4", 0.00904}};
  for (const auto& [name, mse] : expected) {
    INFO(name);
    CHECK(relative_error(name) == Approx(mse).epsilon(0.01));
  }
}

TEST_CASE("NF4, double quantization and HQQ have the errors of their authors' programs",
          "[model][baselines]") {
  // Of bitsandbytes 0.50.2 (quantize_4bit, compress_statistics for dq) and hqq 0.2.8.post1 (Quantizer.quantize with the
  // choices of the row), on these very weights. Theirs keep scales as floats: fp16 may move an error by 2^-11 of itself.
  const std::map<std::string_view, double> originals{
      {"nf4-64", 0.008453},      {"nf4-64 dq", 0.008458}, {"nf4-1024", 0.010962},
      {"nf4-1024 dq", 0.010964}, {"hqq4-64", 0.007600},   {"hqq4-64 axis 0", 0.007426},
      {"hqq4-128", 0.009510},    {"hqq3-64", 0.034167},   {"hqq3-64 axis 0", 0.033297},
      {"hqq3-128", 0.043425},    {"hqq2-64", 0.187889},   {"hqq2-64 axis 1", 0.193404},
      {"hqq2-128", 0.240764},
  };
  for (const auto& [name, mse] : originals) {
    INFO(name);
    CHECK(relative_error(name) == Approx(mse).epsilon(5e-4));
  }
}

TEST_CASE("groups along the outputs are those of a reshape to (group, -1), and lose no weight",
          "[model][baselines]") {
  higgs::SerialExecutor serial;
  for (const auto& [height, width, size] :
       {std::array{128, 3, 64}, {64, 5, 64}, {192, 7, 64}, {130, 4, 64}, {1, 5, 64}, {3, 2, 2}}) {
    const std::int64_t count = height * width;
    std::vector<float> w;
    for (std::int64_t i = 0; i < count; ++i) w.push_back(static_cast<float>(i));
    GroupedMatrix groups(MatrixView<float>(w.data(), height, width), size, 0, serial);
    std::set<float> seen;
    for (std::int64_t g = 0; g < groups.count(); ++g) {
      CHECK(groups[g].size() <= static_cast<std::size_t>(size));
      seen.insert(groups[g].begin(), groups[g].end());
      if (height % size != 0) continue;
      // Row-major, weight i * count / size + j is the i-th of group j.
      const std::int64_t columns = count / size, j = static_cast<std::int64_t>(groups[g][0]);
      REQUIRE(groups[g].size() == static_cast<std::size_t>(size));
      CHECK(j < columns);
      for (std::int64_t i = 0; i < size; ++i)
        CHECK(groups[g][static_cast<std::size_t>(i)] == static_cast<float>(i * columns + j));
    }
    CHECK(seen.size() == w.size());
    for (std::int64_t g = 0; g < groups.count(); ++g)
      for (float& each : groups[g]) each = -each;
    groups.put_back(serial);
    for (std::int64_t i = 0; i < count; ++i) CHECK(w[static_cast<std::size_t>(i)] == -static_cast<float>(i));
  }
}

TEST_CASE("the levels of quantized scales are a dynamic tree of 256", "[model][baselines]") {
  const std::vector<float> levels = rounding::dynamic_levels();
  REQUIRE(levels.size() == 256);
  CHECK(std::is_sorted(levels.begin(), levels.end()));
  CHECK(std::set<float>(levels.begin(), levels.end()).size() == 256);
  CHECK(levels.front() == Approx(-0.99296875));
  CHECK(levels.back() == 1);
  CHECK(levels[254] == Approx(0.99296875));
  CHECK(levels[127] == 0);
  CHECK(levels[128] == Approx(0.55e-6));
  for (std::size_t i = 0; i < 127; ++i) CHECK(levels[i] == -levels[254 - i]);
}

TEST_CASE("double quantization keeps NF4's codes and moves each scale by no more than its level is wide",
          "[model][baselines]") {
  const std::vector<float>&doubled = rounded_normal("nf4-64 dq"), &w = normal_weights();
  const std::size_t groups = w.size() / 64;
  std::vector<double> exact, stored;
  for (std::size_t g = 0; g < groups; ++g) {
    double most = 0, kept = 0;
    for (std::size_t i = 64 * g; i < 64 * (g + 1); ++i) {
      most = std::max(most, std::fabs(static_cast<double>(w[i])));
      kept = std::max(kept, std::fabs(static_cast<double>(doubled[i])));
    }
    exact.push_back(most);
    stored.push_back(kept);  // the largest weight has level 1 or -1
  }
  double mean = 0, worst = 0;
  for (const double each : exact) mean += each / static_cast<double>(groups);
  std::set<double> steps;
  for (std::size_t begin = 0; begin < groups; begin += 256) {
    double most = 0;
    for (std::size_t g = begin; g < begin + 256; ++g) most = std::max(most, std::fabs(exact[g] - mean));
    // The widest steps of the tree are 0.9 / 64 of the largest magnitude; half of one, and rounding.
    for (std::size_t g = begin; g < begin + 256; ++g) {
      CHECK(std::fabs(stored[g] - exact[g]) <= (0.9 / 128 + 1e-6) * most);
      worst = std::max(worst, std::fabs(stored[g] - exact[g]));
    }
  }
  CHECK(worst > 0);
  const auto levels = rounding::nf4_levels().values;
  for (std::size_t i = 0; i < w.size(); ++i) {  // the code is that of the exact scale
    const double scale = exact[i / 64], ratio = doubled[i] / stored[i / 64];
    for (const float level : levels)
      if (std::fabs(w[i] / scale - level) < std::fabs(w[i] / scale - ratio) - 1e-5) FAIL("weight " << i);
  }
}

TEST_CASE("the levels rank as their authors say", "[model][baselines]") {
  CHECK(relative_error("af4-1024", 1) < relative_error("nf4-1024", 1));
  CHECK(relative_error("bof4-64") < relative_error("nf4-64"));
  CHECK(relative_error("bof4-64") < relative_error("af4-64"));
  CHECK(relative_error("bof4s-64") < relative_error("bof4-64"));
}

TEST_CASE("more bits mean less error, and HQQ beats rounding to nearest", "[model][baselines]") {
  CHECK(relative_error("int4-64") < relative_error("int3-64"));
  CHECK(relative_error("int3-64") < relative_error("int2-64"));
  CHECK(relative_error("hqq4-64") < relative_error("hqq3-64"));
  CHECK(relative_error("hqq3-64") < relative_error("hqq2-64"));
  CHECK(relative_error("hqq4-64") < relative_error("int4-64"));
  CHECK(relative_error("hqq3-64") < relative_error("int3-64"));
  CHECK(relative_error("hqq2-64") < relative_error("int2-64"));
}

TEST_CASE("bits per weight count every stored bit", "[model][baselines]") {
  const auto bits = [](std::string_view name, std::int64_t r, std::int64_t c) {
    return bits_per_weight(baseline_named(name), r, c);
  };
  CHECK(bits("nf4-64", 10, 1024) == 4.25);
  CHECK(bits("af4-1024", 10, 1024) == 4.015625);
  CHECK(bits("nf4-64 dq", 16, 1024) == 4 + 8.0 / 64 + 32.0 / (64 * 256) + 32.0 / (16 * 1024));  // one mean
  CHECK(bits("nf4-64 dq", 1024, 1024) == Approx(4.127).epsilon(1e-5));
  CHECK(bits("nf4-1024 dq", 1024, 1024) == Approx(4.008).epsilon(1e-5));
  CHECK(bits("nf4-64 dq", 1, 65) == 4 + (2 * 8 + 32 + 32) / 65.0);
  CHECK(bits("bof4-64", 10, 1024) == 4.25);
  CHECK(bits("bof4s-64", 10, 1024) == 4.25);
  CHECK(bits("int4-64", 10, 1024) == 4.3125);
  CHECK(bits("int3-64", 10, 1024) == 3.296875);
  CHECK(bits("int2-64", 10, 1024) == 2.28125);
  CHECK(bits("hqq3-64", 10, 1024) == 3.5);
  CHECK(bits("hqq2-64", 128, 10) == 2.5);
  CHECK(bits("hqq3-128", 10, 1024) == 3.25);
  CHECK(bits("mxfp4", 10, 1024) == 4.25);
  CHECK(bits("nvfp4", 4, 16) == 4.5 + 32.0 / 64);     // one float for the matrix
  CHECK(bits("nf4-64", 3, 65) == 4 + 2 * 16.0 / 65);  // a group of one weight has its scale too
  CHECK(bits("nf4-1024", 3, 576) == 4 + 16.0 / 576);
  CHECK_THROWS_AS(bits("nf4-64", 0, 64), higgs::InvalidArgument);

  std::vector<float> w(130, 1.0f);
  CHECK(round_to(baseline_named("hqq2-64 axis 1"), MatrixView<float>(w.data(), 2, 65)) == 2 + 2 * 32.0 / 65);
  CHECK(round_to(baseline_named("hqq2-64"), MatrixView<float>(w.data(), 2, 65)) ==
        2 + 32.0 / 2);  // of a column
  CHECK(round_to(baseline_named("hqq2-64"), MatrixView<float>(w.data(), 65, 2)) == 2 + 2 * 32.0 / 65);
}

TEST_CASE("small groups round as by hand", "[model][baselines]") {
  using Row = std::vector<float>;
  // Range 0 ... 15, so scale 1 and zero 0; ties to even.
  CHECK(rounded("int4-64", Row{0, 15, 7.25f, 3.5f, 4.5f}) == Row{0, 15, 7, 4, 4});
  // Range -1 ... 2 in 3 steps, so scale 1 and zero 1.
  CHECK(rounded("int2-64", Row{-1, 2, 0.4f, 0.6f}) == Row{-1, 2, 0, 1});
  // Weights of one sign: the range reaches to 0.
  CHECK(rounded("int3-64", Row{7, 6.2f, 5.8f, 3}) == Row{7, 6, 6, 3});
  // On the grid already, the zero point at 2.5: nothing to improve.
  CHECK(rounded(baseline_named("hqq2-64"), Row{-2.5f, -1.5f, -0.5f, 0.5f}, 1) ==
        Row{-2.5f, -1.5f, -0.5f, 0.5f});
  // The zero point begins at a whole number, here at 2.
  CHECK(rounded("hqq2-64 axis 1", Row{-2, -1, 0, 1}) == Row{-2, -1, 0, 1});
  // Scale 2^(floor(log2 6) - 2) = 1; ties to even codes.
  CHECK(rounded("mxfp4", Row{6, 5, 3.5f, 2.5f, 1.75f, -1.25f, 0.75f, 0.25f, -0.3f}) ==
        Row{6, 4, 4, 2, 2, -1, 1, 0, -0.5f});
  // 7 exceeds 6 under the same scale, 8 does not: it doubles.
  CHECK(rounded("mxfp4", Row{7, 1}) == Row{6, 1});
  CHECK(rounded("mxfp4", Row{8, 1}) == Row{8, 1});
  // Largest 448 * 6: unit 1, scales 448 and, of 27 / 6 = 4.5, 4.5.
  Row two_groups(32, 0.0f), expected(32, 0.0f);
  two_groups[0] = expected[0] = 2688;
  two_groups[16] = 27;
  two_groups[17] = 14;
  expected[16] = 27;
  expected[17] = 13.5f;
  CHECK(rounded("nvfp4", two_groups) == expected);
  // The scale is the largest magnitude, 2; halves of it lie between 0.4407 and 0.5626 times 2.
  CHECK(rounded("nf4-64", Row{-2, 1, 0, 0.01f}) == Row{-2, 2 * rounding::nf4_levels().values[12], 0, 0});
  // The scale is -2, so that -2 is level 1.
  CHECK(rounded("bof4s-64", Row{-2, 0})[0] == -2);
}

TEST_CASE("e4m3 rounds to nearest, ties to even, and saturates", "[model][baselines]") {
  // All finite codes, from the definition.
  std::vector<float> codes;
  for (int exponent = 0; exponent < 16; ++exponent)
    for (int mantissa = 0; mantissa < 8 - (exponent == 15); ++mantissa)
      codes.push_back(exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                    : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10));
  CHECK(codes.back() == 448);
  for (std::size_t i = 0; i + 1 < codes.size(); ++i) {
    const float low = codes[i], high = codes[i + 1], middle = (low + high) / 2;
    CHECK(rounding::round_e4m3(low) == low);
    CHECK(rounding::round_e4m3(middle) == (i % 2 == 0 ? low : high));
    CHECK(rounding::round_e4m3(std::nextafter(middle, 0.0f)) == low);
    CHECK(rounding::round_e4m3(std::nextafter(middle, 1e9f)) == high);
  }
  CHECK(rounding::round_e4m3(1e30f) == 448);
}

TEST_CASE("a group of zeros stays zero in every format", "[model][baselines]") {
  for (const Baseline& format : baselines()) {
    INFO(format.name);
    std::vector<float> w(3 * 100, 0.0f);
    CHECK(rounded(format, w, 100) == w);
    w[1] = 1;  // the other groups of the matrix are zeros still
    const std::vector<float> v = rounded(format, w, format.axis == 1 ? 1 : 300);  // groups of one weight
    CHECK(std::count(v.begin(), v.end(), 0.0f) == 299);
  }
}

TEST_CASE("groups of one weight and constant groups keep their value", "[model][baselines]") {
  for (const Baseline& format : baselines()) {
    const bool keeps_largest = format.name != "mxfp4";  // whose scales are powers of two
    for (const float value : {0.75f, -0.75f}) {         // exact in fp16
      INFO(format.name << " " << value);
      for (const std::size_t size : {std::size_t{1}, std::size_t{5}, std::size_t{64}, std::size_t{65}}) {
        const std::vector<float> w(size, value);
        for (const float v : rounded(format, w, static_cast<std::int64_t>(size)))
          CHECK(std::fabs(v - value) <= (keeps_largest ? 1e-3f : 0.125f));
      }
    }
  }
}

TEST_CASE("scales and zero points are no finer than fp16", "[model][baselines]") {
  const auto half = [](float value) { return static_cast<float>(higgs::Half(value)); };
  for (const Baseline& format : baselines()) {
    if (format.group_bits == 8) continue;  // e8m0 and e4m3
    INFO(format.name);
    const float top = format.name.starts_with("int") ? static_cast<float>((1 << format.bits) - 1) : 1;
    CHECK(rounded(format.name, {0.1f})[0] == half(0.1f / top) * top);
  }
}

TEST_CASE("a group takes as many values as there are codes, and no more", "[model][baselines]") {
  higgs::SerialExecutor serial;
  for (const Baseline& format : baselines()) {
    INFO(format.name);
    std::vector<float> v = rounded_normal(format.name);
    GroupedMatrix groups(MatrixView<float>(v.data(), rows, cols), format.group, format.axis, serial);
    std::ptrdiff_t most = 0;
    for (std::int64_t g = 0; g < groups.count(); ++g) {
      std::sort(groups[g].begin(), groups[g].end());
      most = std::max(most, std::unique(groups[g].begin(), groups[g].end()) - groups[g].begin());
    }
    const std::ptrdiff_t codes = 1 << format.bits;
    CHECK(most <= codes);
    CHECK(most >= std::min<std::ptrdiff_t>(codes, format.group) * 3 / 4);
  }
}

TEST_CASE("each group is rounded on its own, the last one of a row too", "[model][baselines]") {
  for (const Baseline& format : baselines()) {
    if (format.matrix_bits != 0 || format.round_groups) continue;  // what they share hangs on all of them
    INFO(format.name);
    const std::int64_t width = format.group + 5;
    const std::vector<float> w(normal_weights().begin(), normal_weights().begin() + 4 * width);
    const std::vector<float> v = rounded(format, w, width);
    const auto part = [&](const std::vector<float>& all, std::int64_t first, std::int64_t count) {
      return std::vector<float>(all.begin() + first, all.begin() + first + count);
    };
    for (std::int64_t r = 0; r < 4; ++r) {
      const std::int64_t first = r * width, last = first + format.group;
      CHECK(part(v, first, format.group) == rounded(format, part(w, first, format.group), format.group));
      CHECK(part(v, last, 5) == rounded(format, part(w, last, 5), 5));
    }
  }
}

TEST_CASE("strides and threads change nothing", "[model][baselines]") {
  higgs::ThreadPool pool(3);
  for (const Baseline& format : baselines()) {
    INFO(format.name);
    const std::int64_t width = 130, height = 700;  // more than one task
    const std::vector<float> w(normal_weights().begin(), normal_weights().begin() + width * height);
    std::vector<float> transposed(w.size());
    const MatrixView<float> view = MatrixView<float>(transposed.data(), width, height).transposed();
    for (std::int64_t r = 0; r < height; ++r)
      for (std::int64_t c = 0; c < width; ++c) view(r, c) = w[static_cast<std::size_t>(r * width + c)];
    round_to(format, view, pool);
    const std::vector<float> v = rounded(format, w, width);
    std::int64_t different = 0;
    for (std::int64_t r = 0; r < height; ++r)
      for (std::int64_t c = 0; c < width; ++c)
        different += view(r, c) != v[static_cast<std::size_t>(r * width + c)];
    CHECK(different == 0);
  }
}

TEST_CASE("magnitudes at both ends of a float give finite weights", "[model][baselines]") {
  for (const Baseline& format : baselines())
    for (const float scale : {1e-45f, 1e-38f, 1e-30f, 1e-8f, 1e-5f, 1e5f, 1e30f, 6e37f}) {
      std::vector<float> w(normal_weights().begin(), normal_weights().begin() + 256);
      for (float& each : w) each *= scale;
      w[100] = 0;
      for (std::size_t i = 128; i < 192; ++i) w[i] = scale;
      INFO(format.name << " " << scale);
      const std::vector<float> v = rounded(format, w, 256);
      CHECK(std::all_of(v.begin(), v.end(), [](float each) { return std::isfinite(each); }));
    }
}

TEST_CASE("weights that are no numbers are refused before any is touched", "[model][baselines]") {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> w(normal_weights().begin(), normal_weights().begin() + 256);
    w[200] = bad;
    const std::vector<float> before(w.begin(), w.begin() + 200);
    CHECK_THROWS_AS(round_to(baseline_named("nf4-64"), MatrixView<float>(w.data(), 2, 128)),
                    higgs::InvalidArgument);
    CHECK(std::equal(before.begin(), before.end(), w.begin()));
  }
}

TEST_CASE("formats have names of their own, and unknown names are refused", "[model][baselines]") {
  std::set<std::string_view> names;
  for (const Baseline& format : baselines()) names.insert(format.name);
  CHECK(names.size() == baselines().size());
  CHECK_THROWS_WITH(baseline_named("nf5"), Catch::Contains("nf5") && Catch::Contains("hqq4-64"));
}
