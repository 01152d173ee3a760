// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/lattice/code.hpp>
#include <higgs/codes/radix/code.hpp>
#include <higgs/codes/uniform/uniform.hpp>
#include <higgs/core/random.hpp>
#include <higgs/core/scale_format.hpp>
#include <higgs/fit/fit_grid.hpp>
#include <higgs/matmul/decode.hpp>
#include <higgs/matmul/matmul.hpp>
#include <higgs/matmul/packed_matrix.hpp>
#include <higgs/matmul/reference.hpp>
#include <higgs/quantizer.hpp>
#include <higgs/round/second_moment.hpp>
#include <higgs/scale/input_scale.hpp>
#include <higgs/store/stacked_rows.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "matmul/matrices.hpp"

using higgs::MatrixView;
using higgs::QuantizeOptions;

namespace {

// t^2 from the decoded matrix itself, in double.
template <class Matrix>
double measured_t2(const Matrix& quantized, MatrixView<const float> w) {
  std::vector<float> back(static_cast<std::size_t>(w.size()));
  const MatrixView<float> out(back.data(), w.rows, w.cols);
  higgs::dequantize(quantized, out);
  double error = 0, norm = 0;
  for (std::int64_t r = 0; r < w.rows; ++r)
    for (std::int64_t c = 0; c < w.cols; ++c) {
      const double d = double{out(r, c)} - double{w(r, c)};
      error += d * d;
      norm += double{w(r, c)} * double{w(r, c)};
    }
  return norm > 0 ? error / norm : error;
}

template <class Matrix>
bool same_bytes(const Matrix& a, const Matrix& b) {
  return a.layout == b.layout && a.exponent == b.exponent && std::ranges::equal(a.codes, b.codes) &&
         std::ranges::equal(a.scales, b.scales) && std::ranges::equal(a.input_scales, b.input_scales);
}

template <class... Books>
void for_each_book(higgs::TypeList<Books...>, auto&& visit) {
  (visit(Books{}), ...);
}

}  // namespace

TEST_CASE("t^2 of a Gaussian matrix is the codebook's MSE, for every shipped codebook", "[quantizer]") {
  const Normals w(256, 1024, 1);
  for_each_book(higgs::ShippedCodes{}, [&](const auto& book) {
    // With input scales t^2 is that of the divided columns, and equal only on average.
    const auto quantized = higgs::quantize(w.view, book, {.input_scales = false});
    INFO(book.name());
    CHECK(quantized.t2 == Approx(measured_t2(quantized, w.view)).epsilon(1e-4));
    // 262,144 weights: s.e. 0.5 %, and a group's own scale gains up to 1 %; CH8's error lives in its few overloads.
    CHECK(quantized.t2 == Approx(book.mse()).epsilon(book.name() == "ch8" ? 0.1 : 0.025));
  });
}

TEMPLATE_TEST_CASE("a codebook that no file names goes the whole way too", "[quantizer]",
                   higgs::NestedE8Codebook<2>, higgs::NestedE8Codebook<3>, higgs::NestedE8Codebook<4>,
                   higgs::UniformCodebook<5>, (higgs::GridCodebook<3, 512>), (higgs::GridCodebook<8, 256>),
                   (higgs::RadixCodebook<higgs::GridCodebook<2, 84>, 5>)) {
  const Normals w(16, 1024, 2);
  const auto quantized = higgs::quantize(w.view, TestType{});
  CHECK(quantized.t2 == Approx(measured_t2(quantized, w.view)).epsilon(1e-4));
  CHECK(quantized.t2 == Approx(TestType{}.mse()).epsilon(0.1));  // 16,384 weights
}

TEST_CASE("a search for scales never errs more, the wider the less, in either format", "[quantizer]") {
  const Normals w(16, 1024, 3);
  for (const auto format : {higgs::ScaleFormat::Fp16, higgs::ScaleFormat::Log8})
    for (const std::int64_t group : {32, 128, 1024}) {
      double before = std::numeric_limits<double>::max();
      for (const int search : {0, 1, 2, 6}) {
        const auto quantized =
            higgs::quantize(w.view, higgs::GridCodebook<2, 64>{},
                            {.group = group, .scale_format = format, .scale_search = search});
        CHECK(quantized.t2 <= before);
        CHECK(quantized.t2 == Approx(measured_t2(quantized, w.view)).epsilon(1e-4));
        before = quantized.t2;
      }
    }
}

TEST_CASE("8-bit scales are stored in 8 bits, and with a search they beat fp16 at equal bits",
          "[quantizer]") {
  const Normals w(64, 1024, 4);
  const higgs::GridCodebook<2, 256> book;
  const auto brief = higgs::quantize(
      w.view, book, {.group = 128, .scale_format = higgs::ScaleFormat::Log8, .scale_search = 6});
  CHECK(brief.bits_per_weight() == 4.0625);
  CHECK(brief.t2 < 0.0069);  // 65,536 weights: s.e. below 0.5 %
  for (const higgs::Half scale : brief.scales)
    REQUIRE(static_cast<higgs::Half>(higgs::Log8(static_cast<float>(scale))) == scale);
  const auto plain = higgs::quantize(w.view, book, {.group = 256});
  CHECK(plain.bits_per_weight() == 4.0625);
  CHECK(brief.t2 < 0.91 * plain.t2);
}

TEST_CASE("8-bit scales hold matrices of any magnitude, and rows 1000 times smaller than others",
          "[quantizer]") {
  const QuantizeOptions options{.group = 64, .scale_format = higgs::ScaleFormat::Log8};
  for (const int power : {-120, 0, 120}) {
    Normals w(2, 512, 6);
    for (float& each : w.data) each = std::ldexp(each, power);
    for (std::int64_t c = 0; c < 512; ++c) w.view(1, c) *= 1e-3f;
    const auto quantized = higgs::quantize(w.view, higgs::GridCodebook<2, 256>{}, options);
    std::vector<float> back(1024);
    higgs::dequantize(quantized, MatrixView<float>(back.data(), 2, 512));
    double error = 0, norm = 0;
    for (std::size_t c = 512; c < 1024; ++c) {
      error += std::pow(std::ldexp(double{back[c]} - double{w.data[c]}, -power), 2);
      norm += std::pow(std::ldexp(double{w.data[c]}, -power), 2);
    }
    CHECK(quantized.t2 < 0.0095);
    CHECK(error / norm < 0.0095);
  }
  // No group's RMS is larger against the largest weight than that of equal magnitudes: the scales still hold it.
  std::vector<float> flat(2 * 512);
  for (std::size_t i = 0; i < flat.size(); ++i) flat[i] = higgs::random_bits(1, i) % 2 == 0 ? 1.0f : -1.0f;
  CHECK(higgs::quantize(MatrixView<float>(flat.data(), 2, 512), higgs::GridCodebook<2, 256>{}, options).t2 <
        0.012);
}

TEST_CASE("constant rows and single outliers quantize like Gaussian ones, thanks to the signs",
          "[quantizer]") {
  std::vector<float> data(32 * 1024, 1.0f);
  const MatrixView<float> w(data.data(), 32, 1024);
  const auto constant = higgs::Quantizer<2, 256>{}.quantize(w);
  CHECK(constant.t2 < 0.0093);  // every row is the same: one draw of 1024 values, s.e. 5 %
  for (std::int64_t r = 0; r < w.rows; ++r) w(r, 37 * r % 1024) = 100.0f;
  CHECK(higgs::Quantizer<2, 256>{}.quantize(w).t2 < 0.0093);
  // Without signs a constant row is one spike that the grid cannot hold.
  std::ranges::fill(data, 1.0f);
  CHECK(higgs::Quantizer<2, 256>{QuantizeOptions{.seed = std::nullopt}}.quantize(w).t2 > 0.1);
}

TEST_CASE("every shape quantizes and comes back", "[quantizer]") {
  for (const std::int64_t rows : {1, 3})
    for (const std::int64_t cols :
         {1, 2, 3, 5, 8, 31, 33, 64, 65, 100, 127, 384, 576, 577, 896, 1023, 1025, 2880, 4864}) {
      const Normals w(rows, cols, static_cast<std::uint64_t>(cols));
      for_each_book(higgs::ShippedCodes{}, [&](const auto& book) {
        const auto quantized = higgs::quantize(w.view, book);
        INFO(book.name() << " " << rows << " x " << cols << ", block " << quantized.layout.block);
        REQUIRE(quantized.layout.padded_cols() % quantized.layout.block == 0);
        REQUIRE(quantized.layout.block % quantized.layout.group == 0);
        // Padding takes its share of the error, which nobody sees.
        const double measured = measured_t2(quantized, w.view);
        REQUIRE(measured <= quantized.t2 * 1.001 + 1e-6);
        if (quantized.layout.padded_cols() == cols) REQUIRE(measured >= quantized.t2 * 0.999 - 1e-6);
        // A group is mapped on the sphere: errors stay near the codebook's even for a handful of weights.
        REQUIRE(quantized.t2 < 3 * book.mse() + (cols < 64 ? 0.2 : 0.0));
      });
    }
}

TEST_CASE("magnitudes from 1e-30 to 1e30 give the same codes", "[quantizer]") {
  const Normals w(4, 256, 5);
  const auto expected = higgs::Quantizer<2, 256>{}.quantize(w.view);
  for (const int power : {-100, -60, 60, 100}) {  // 2^100 = 1.3e30
    Normals scaled(4, 256, 5);
    for (float& each : scaled.data) each = std::ldexp(each, power);
    const auto quantized = higgs::Quantizer<2, 256>{}.quantize(scaled.view);
    CHECK(std::ranges::equal(quantized.codes, expected.codes));
    CHECK(std::ranges::equal(quantized.scales, expected.scales));
    CHECK(quantized.exponent == expected.exponent + power);
    CHECK(measured_t2(quantized, scaled.view) == Approx(expected.t2).epsilon(1e-4));
  }
  for (const float magnitude : {1e-45f, 1e-38f, 3e38f}) {
    std::vector<float> flat(512, magnitude);
    const MatrixView<float> view(flat.data(), 2, 256);
    CHECK(std::isfinite(higgs::Quantizer<2, 256>{}.quantize(view).t2));
  }
}

TEST_CASE("rows far smaller than others keep their precision", "[quantizer]") {
  Normals w(2, 512, 6);
  for (std::int64_t c = 0; c < 512; ++c) w.view(1, c) *= 1e-5f;
  const auto quantized = higgs::Quantizer<2, 256>{}.quantize(w.view);
  std::vector<float> back(1024);
  higgs::dequantize(quantized, MatrixView<float>(back.data(), 2, 512));
  double error = 0, norm = 0;
  for (std::size_t c = 512; c < 1024; ++c) {
    error += std::pow(double{back[c]} - double{w.data[c]}, 2);
    norm += std::pow(double{w.data[c]}, 2);
  }
  CHECK(error / norm < 0.0095);
}

TEST_CASE("zero matrices and zero rows come back as zero", "[quantizer]") {
  std::vector<float> data(4 * 100, 0.0f);
  const MatrixView<float> w(data.data(), 4, 100);
  for_each_book(higgs::ShippedCodes{}, [&](const auto& book) {
    const auto quantized = higgs::quantize(w, book);
    CHECK(quantized.t2 == 0);
    CHECK(measured_t2(quantized, w) == 0);
  });
  w(2, 50) = 3.0f;
  const auto quantized = higgs::Quantizer<2, 256>{}.quantize(w);
  std::vector<float> back(400);
  higgs::dequantize(quantized, MatrixView<float>(back.data(), 4, 100));
  CHECK(std::all_of(back.begin(), back.begin() + 200, [](float v) { return v == 0; }));
}

TEST_CASE("the bytes depend neither on threads nor on strides", "[quantizer]") {
  const Normals w(137, 576, 7);
  higgs::SerialExecutor serial;
  higgs::ThreadPool pool(4);
  const auto expected = higgs::Quantizer<2, 64>{}.quantize(w.view, serial);
  CHECK(same_bytes(higgs::Quantizer<2, 64>{}.quantize(w.view, pool), expected));

  std::vector<float> turned(w.data.size());
  const MatrixView<float> columns(turned.data(), 576, 137);
  for (std::int64_t r = 0; r < 137; ++r)
    for (std::int64_t c = 0; c < 576; ++c) columns(c, r) = w.view(r, c);
  CHECK(same_bytes(higgs::Quantizer<2, 64>{}.quantize(columns.transposed(), pool), expected));

  CHECK(higgs::Quantizer<2, 64>{}.quantize(w.view, pool).weight_error == expected.weight_error);
}

#if defined(__FLT16_MAX__) && (!defined(__clang__) || __clang_major__ >= 15)
TEST_CASE("the compiler's own 16-bit floats quantize as what they are", "[quantizer]") {
  const Normals<higgs::Half> w(130, 64, 6);
  std::vector<_Float16> same(w.data.size());
  for (std::size_t i = 0; i < same.size(); ++i)
    same[i] = static_cast<_Float16>(static_cast<float>(w.data[i]));
  const MatrixView<const _Float16> view(same.data(), 130, 64);
  CHECK(same_bytes(higgs::Quantizer<2, 256>{}.quantize(view), higgs::Quantizer<2, 256>{}.quantize(w.view)));
  CHECK(higgs::quantize(view, "2x256").t2() == higgs::quantize(w.view, "2x256").t2());
}
#endif

TEST_CASE("fp16 and bf16 weights quantize like the floats they are", "[quantizer]") {
  const Normals<higgs::Half> half(3, 128, 8);
  const Normals<higgs::BFloat16> brain(3, 128, 8);
  const auto check = [](const auto& w) {
    std::vector<float> wide(w.data.size());
    std::ranges::transform(w.data, wide.begin(), [](auto v) { return static_cast<float>(v); });
    CHECK(same_bytes(higgs::Quantizer<1, 16>{}.quantize(w.view),
                     higgs::Quantizer<1, 16>{}.quantize(MatrixView<float>(wide.data(), 3, 128))));
  };
  check(half);
  check(brain);
}

TEST_CASE("input scales give each column an error in proportion to its weights, at the same t^2",
          "[quantizer]") {
  Normals w(512, 256, 12);
  for (std::int64_t r = 0; r < w.view.rows; ++r)
    for (std::int64_t c = 0; c < 256; ++c) w.view(r, c) *= std::exp2(static_cast<float>(c % 8));
  const auto quantized = higgs::Quantizer<2, 256>{}.quantize(w.view);
  REQUIRE(quantized.input_scales.size() == 256);
  CHECK(quantized.bits_per_weight() == Approx(4 + 16.0 / 256 + 16.0 / 512));
  CHECK(quantized.t2 == Approx(0.00775).epsilon(0.02));
  CHECK(measured_t2(quantized, w.view) == Approx(quantized.t2).epsilon(0.02));
  std::vector<float> back(w.data.size());
  const MatrixView<float> out(back.data(), 512, 256);
  higgs::dequantize(quantized, out);
  for (std::int64_t c = 0; c < 256; ++c) {
    double error = 0, norm = 0;
    for (std::int64_t r = 0; r < 512; ++r) {
      error += std::pow(double{out(r, c)} - double{w.view(r, c)}, 2);
      norm += std::pow(double{w.view(r, c)}, 2);
    }
    CHECK(error / norm == Approx(0.00775).epsilon(0.3));  // 512 weights of a column: s.e. 6 %, 256 columns
  }
  const auto plain = higgs::Quantizer<2, 256>{QuantizeOptions{.input_scales = false}}.quantize(w.view);
  CHECK(plain.input_scales.empty());
  CHECK(plain.bits_per_weight() == Approx(4 + 16.0 / 256));
  CHECK(plain.t2 >
        quantized.t2);  // an eighth of the columns makes most of each rotated weight: less Gaussian
}

TEST_CASE("columns of zeros come back as zero, and one giant column hurts no other", "[quantizer]") {
  Normals w(128, 100, 13);
  for (std::int64_t r = 0; r < 128; ++r) {
    w.view(r, 7) = 0;
    w.view(r, 9) *= 1e4f;
  }
  const auto quantized = higgs::Quantizer<2, 256>{}.quantize(w.view);
  std::vector<float> back(w.data.size());
  const MatrixView<float> out(back.data(), 128, 100);
  higgs::dequantize(quantized, out);
  double error = 0;
  for (std::int64_t r = 0; r < 128; ++r) {
    CHECK(out(r, 7) == 0);
    for (std::int64_t c = 10; c < 100; ++c) error += std::pow(double{out(r, c)} - double{w.view(r, c)}, 2);
  }
  CHECK(error / (128 * 90) < 0.009);
}

TEST_CASE("matrices of few rows have no input scales", "[quantizer]") {
  CHECK_FALSE(higgs::make_layout(higgs::min_rows_for_input_scales - 1, 64, 2).input_scales);
  const higgs::CodeLayout layout = higgs::make_layout(higgs::min_rows_for_input_scales, 64, 2);
  CHECK(layout.input_scales);
  CHECK_FALSE(higgs::make_layout(1000, 64, 2, {.input_scales = false}).input_scales);
}

TEST_CASE("matrices with one set of statistics rotate alike, as the rows of one matrix do", "[quantizer]") {
  Normals w(160, 96, 31);
  for (std::int64_t r = 0; r < 160; ++r)
    for (std::int64_t c = 0; c < 96; ++c) w.view(r, c) *= static_cast<float>((1 + c % 7) * (r < 100 ? 8 : 1));
  const higgs::GridCodebook<2, 256> book;
  higgs::ColumnStatistics all(96);
  all.add(w.view);
  for (const higgs::ScaleFormat format : {higgs::ScaleFormat::Fp16, higgs::ScaleFormat::Log8}) {
    const QuantizeOptions options{.group = 32, .scale_format = format, .statistics = &all};
    const auto whole = higgs::quantize(w.view, book, {.group = 32, .scale_format = format});
    const auto part = higgs::quantize(w.view.row_range(100, 60), book, options);  // too few rows on their own
    CHECK(rotates_alike(part, whole));
    CHECK(part.exponent == whole.exponent);
    CHECK(std::ranges::equal(part.codes, whole.codes.last(part.codes.size())));
    CHECK(std::ranges::equal(part.scales, whole.scales.last(part.scales.size())));
  }
  higgs::ColumnStatistics few(96), other(95);
  few.add(w.view.row_range(0, 59));
  other.add(w.view.col_range(0, 95));
  for (const auto* wrong : {&few, &other})
    CHECK_THROWS_WITH(
        higgs::quantize(w.view.row_range(100, 60), book, {.statistics = wrong}),
        Catch::Contains("(60, 96)") && Catch::Contains(wrong == &few ? "(59, 96)" : "(160, 95)"));
  higgs::ColumnStatistics without(96);  // another part of w, whose column 7 is silent
  for (std::int64_t r = 0; r < 100; ++r) w.view(r, 7) = 0;
  without.add(w.view.row_range(0, 100));
  CHECK_THROWS_WITH(higgs::quantize(w.view.row_range(100, 60), book, {.statistics = &without}),
                    Catch::Contains("column 7 of w"));
  w.view(3, 5) = std::numeric_limits<float>::infinity();
  CHECK_THROWS_WITH(higgs::quantize(w.view, book, {.statistics = &all}), Catch::Contains("column 5"));
}

TEST_CASE("weight_error is the error of the weights that come back, with input scales and padding too",
          "[quantizer]") {
  for (const std::int64_t cols : {1, 37, 100, 576, 1000})
    for (const std::int64_t rows : {3, 130}) {
      Normals w(rows, cols, 21);
      for (std::int64_t c = 0; c < cols; ++c)
        for (std::int64_t r = 0; r < rows; ++r) w.view(r, c) *= static_cast<float>(1 + c % 7);
      for (const bool input_scales : {false, true})
        for (const int search : {0, 2}) {
          const QuantizeOptions options{.scale_search = search, .input_scales = input_scales};
          const auto check = [&](const auto& quantized) {
            INFO(rows << " x " << cols << ", input scales " << quantized.layout.input_scales << ", "
                      << quantized.book.name());
            const double measured = measured_t2(quantized, w.view);
            CHECK(quantized.weight_error == Approx(measured).epsilon(1e-4).margin(1e-12));
            if (!quantized.layout.input_scales && quantized.layout.padded_cols() == cols)
              CHECK(quantized.weight_error == quantized.t2);
          };
          check(higgs::quantize(w.view, higgs::GridCodebook<2, 64>{}, options));
          check(higgs::quantize(w.view, higgs::GridCodebook<1, 256>{}, options));  // coordinates of 16 bits
          check(higgs::quantize(w.view, higgs::E8Codebook{}, options));
        }
    }
  CHECK(higgs::quantize(MatrixView<const float>(nullptr, 0, 64), higgs::E8Codebook{}).weight_error == 0);
}

TEST_CASE("a second moment of the inputs makes outputs err less, and is checked", "[quantizer]") {
  const Normals w(130, 96, 7), x(400, 96, 8);
  for (std::int64_t r = 0; r < 400; ++r)  // inputs that speak together
    for (std::int64_t c = 1; c < 96; ++c) x.view(r, c) = 0.3f * x.view(r, c) + x.view(r, c - 1);
  higgs::SecondMoment moment(96);
  moment.add(x.view);
  const auto outputs_err = [&](const auto& quantized) {
    std::vector<float> back(w.data.size());
    higgs::dequantize(quantized, MatrixView<float>(back.data(), 130, 96));
    double sum = 0;
    for (std::int64_t r = 0; r < 400; ++r)
      for (std::int64_t n = 0; n < 130; ++n) {
        double y = 0;
        for (std::int64_t c = 0; c < 96; ++c)
          y += double{x.view(r, c)} *
               (double{w.view(n, c)} - double{back[static_cast<std::size_t>(n * 96 + c)]});
        sum += y * y;
      }
    return sum;
  };
  const std::vector<double> squares = moment.mean_squares();
  for (const char* code : {"w3", "2x64", "e8"}) {
    const auto nearest = higgs::quantize(w.view, code, {.input_squares = squares});
    const auto with_feedback = higgs::quantize(w.view, code, moment);
    CHECK(outputs_err(with_feedback) < 0.5 * outputs_err(nearest));
  }
  CHECK(same_bytes(higgs::Quantizer<2, 64>{}.quantize(w.view, moment),
                   higgs::quantize(w.view, higgs::GridCodebook<2, 64>{}, moment)));
  // Outputs of which only sixteen matter, all in one way: these err less together.
  std::vector<float> gradients(130 * 130);
  for (std::size_t i = 0; i < 16; ++i)
    for (std::size_t j = 0; j < 16; ++j) gradients[i * 8 * 130 + j * 8] = i == j ? 2 : 1;
  const auto outputs = higgs::SecondMoment::from(MatrixView<const float>(gradients.data(), 130, 130), 1);
  const auto joint_err = [&](const auto& quantized) {
    std::vector<float> back(w.data.size());
    higgs::dequantize(quantized, MatrixView<float>(back.data(), 130, 96));
    double sum = 0;
    for (std::int64_t r = 0; r < 400; ++r) {
      double y = 0;
      for (std::int64_t n = 0; n < 128; n += 8)
        for (std::int64_t c = 0; c < 96; ++c)
          y += double{x.view(r, c)} *
               (double{w.view(n, c)} - double{back[static_cast<std::size_t>(n * 96 + c)]});
      sum += y * y;
    }
    return sum;
  };
  CHECK(joint_err(
            higgs::quantize(w.view, "w3", moment, {.output_gradients = &outputs, .output_damping = 0.1})) <
        0.5 * joint_err(higgs::quantize(w.view, "w3", moment)));
  const higgs::SecondMoment other(95);
  CHECK_THROWS_WITH(higgs::quantize(w.view, "w3", moment, {.output_gradients = &other}),
                    Catch::Contains("95 outputs"));
  CHECK_THROWS_WITH(higgs::quantize(w.view, "w3", {.output_gradients = &outputs}),
                    Catch::Contains("output_gradients"));
  CHECK_THROWS_WITH(higgs::quantize(w.view, "w3", other), Catch::Contains("95"));
  CHECK_THROWS_WITH(higgs::quantize(w.view, "w3", moment, {.scale_search = 2}),
                    Catch::Contains("scale_search"));
}

TEST_CASE("asked for shards, the columns come apart in whole blocks, or nothing is done", "[quantizer]") {
  int refused = 0;
  for (const std::int64_t cols : {64, 96, 100, 576, 1000, 1024, 3072, 4096, 8960, 11008, 14336})
    for (const std::int64_t shards : {1, 2, 3, 4, 5, 7, 8, 16, 64}) {
      const QuantizeOptions options{.shards = shards};
      try {
        const higgs::CodeLayout layout = higgs::make_layout(4, cols, 2, options);
        if (shards == 1) CHECK(layout.block == higgs::choose_block(cols));
        if (shards > 1) CHECK(cols / shards % layout.block == 0);
        CHECK((cols % shards == 0 || shards == 1));
        CHECK(layout.block >= 16);
      } catch (const higgs::InvalidArgument& error) {
        ++refused;
        CHECK_THAT(error.what(), Catch::Contains(std::to_string(cols) + " columns") &&
                                     Catch::Contains(std::to_string(shards)));
      }
    }
  CHECK(refused > 10);
  CHECK(higgs::make_layout(4, 4096, 2, {.shards = 8}).block == 512);
  CHECK(higgs::make_layout(4, 11008, 2, {.shards = 8}).block == 32);
  CHECK_THROWS_WITH(higgs::make_layout(4, 1024, 2, {.block = 1024, .shards = 2}),
                    Catch::Contains("512") && Catch::Contains("block 1024"));
  CHECK_THROWS_AS(higgs::make_layout(4, 1024, 2, {.shards = 0}), higgs::InvalidArgument);
}

TEST_CASE("a grid for which no table ships goes the whole way too", "[quantizer]") {
  higgs::FitOptions brief;
  brief.starts = 1;
  brief.steps = 30;
  brief.polish_steps = brief.rounds = 5;
  brief.log2_samples = brief.measure.log2_samples = 14;
  const auto fitted = higgs::fit_grid<3, 100>(brief);
  const higgs::Quantizer<3, 100> quantizer(fitted.codebook());
  const Normals w(130, 300, 4), x(3, 300, 5);
  const auto quantized = quantizer.quantize(w.view);
  CHECK(quantized.t2 == Approx(quantizer.codebook().mse()).epsilon(0.1));
  CHECK(quantized.weight_error == Approx(measured_t2(quantized, w.view)).epsilon(1e-4));
  CHECK((higgs::Quantizer<3, 100>({.input_scales = false}, fitted.codebook())
             .quantize(w.view)
             .input_scales.empty()));
  std::vector<double> expected(3 * 130);
  higgs::matmul_reference(x.view, quantized, MatrixView<double>(expected.data(), 3, 130));
  const higgs::PackedMatrix tiled(quantized);
  std::vector<float> plain(expected.size()), from_tiles(expected.size());
  higgs::matmul(x.view, quantized, MatrixView<float>(plain.data(), 3, 130));
  higgs::matmul(x.view, tiled, MatrixView<float>(from_tiles.data(), 3, 130));
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK(double{plain[i]} == Approx(expected[i]).margin(1e-3));
    CHECK(double{from_tiles[i]} == Approx(expected[i]).margin(2e-2));
  }
}

TEST_CASE("options that contradict the type are refused, with what to write", "[quantizer]") {
  using Narrow = higgs::Quantizer<2, 256, 64>;
  CHECK_NOTHROW(Narrow(QuantizeOptions{.scale_search = 1}));
  CHECK_NOTHROW(Narrow(QuantizeOptions{.group = 64}));
  CHECK_THROWS_WITH(Narrow(QuantizeOptions{.group = 32}), Catch::Contains("Quantizer<2, 256, 32>"));
  CHECK_THROWS_WITH((higgs::Quantizer<2, 256>(QuantizeOptions{.group = 64})),
                    Catch::Contains("options.group is 64, but Group is 1024"));
  CHECK_THROWS_WITH(higgs::make_layout(8, 1024, 2, {.block = 121}),
                    Catch::Contains("block 121") && Catch::Contains("120 and 128"));
  CHECK_THROWS_WITH(higgs::make_layout(8, 1024, 2, {.group = 0}), Catch::Contains("but is 0"));
  CHECK_THROWS_WITH(higgs::make_layout(8, 0, 2), Catch::Contains("(8, 0)"));
  CHECK_THROWS_WITH(higgs::make_layout(8, 64, 2, {.scale_search = 17}), Catch::Contains("17"));
}

TEST_CASE("shorter groups and a block of choice are honoured", "[quantizer]") {
  const higgs::CodeLayout layout = higgs::make_layout(8, 576, 2, {.group = 128});
  CHECK(layout.block == 576);
  CHECK(layout.group == 96);  // the largest even divisor of 576 up to 128
  CHECK(higgs::make_layout(8, 1024, 3, {.group = 1024}).group == 1024);
  CHECK(higgs::make_layout(8, 1024, 2, {.block = 64}).block == 64);
  CHECK(higgs::make_layout(8, 100, 2, {.block = 64}).padded_cols() == 128);
  CHECK_THROWS_AS(higgs::make_layout(8, 1024, 2, {.block = 24 * 5 + 1}), higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::make_layout(8, 1024, 2, {.group = 0}), higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::make_layout(8, 0, 2), higgs::InvalidArgument);
  const Normals w(8, 576, 9);
  const auto fine = higgs::Quantizer<2, 256, 32>{}.quantize(w.view);
  CHECK(fine.layout.group == 32);
  CHECK(fine.bits_per_weight() == Approx(4.5));
  CHECK(fine.t2 < higgs::Quantizer<2, 256>{}.quantize(w.view).t2);
}

TEST_CASE("NaN and infinite weights are refused by row and column", "[quantizer]") {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    Normals w(70, 200, 10);
    w.view(65, 123) = bad;
    CHECK_THROWS_WITH((higgs::Quantizer<2, 256>{}.quantize(w.view)), Catch::Contains("row 65, column 123"));
    Normals<higgs::BFloat16> brain(3, 37, 10);
    brain.view(2, 36) = static_cast<higgs::BFloat16>(bad);
    CHECK_THROWS_WITH((higgs::Quantizer<2, 256>{}.quantize(brain.view)), Catch::Contains("row 2, column 36"));
    CHECK_THROWS_WITH((higgs::Quantizer<2, 256>{}.quantize(brain.view.transposed())),
                      Catch::Contains("row 36, column 2"));
  }
}

TEST_CASE("a null pointer with sizes is refused", "[quantizer]") {
  const MatrixView<const float> nothing(nullptr, 2, 512);
  CHECK_THROWS_WITH((higgs::Quantizer<2, 256>{}.quantize(nothing)), Catch::Contains("w is (2, 512)"));
  CHECK_THROWS_WITH(higgs::quantize(nothing, "e8"), Catch::Contains("null pointer"));
  CHECK(higgs::quantize(MatrixView<const float>(nullptr, 0, 512), "e8").cols() == 512);
}

TEST_CASE("a codebook may be named at run time", "[quantizer]") {
  const Normals w(4, 128, 11);
  const higgs::AnyQuantizedMatrix any = higgs::quantize(w.view, "2x256");
  using Matrix = higgs::QuantizedMatrix<higgs::GridCodebook<2, 256>>;
  REQUIRE(std::holds_alternative<Matrix>(any));
  CHECK(same_bytes(std::get<Matrix>(any), higgs::Quantizer<2, 256>{}.quantize(w.view)));
  CHECK_THROWS_WITH(higgs::quantize(w.view, "2x255"), Catch::Contains("2x255") && Catch::Contains("2x256"));
}

TEST_CASE("the formats of a shape are those that quantize() makes", "[quantizer]") {
  for (const auto& [rows, cols, group] : std::vector<std::tuple<std::int64_t, std::int64_t, int>>{
           {3, 64, 1024}, {130, 64, 64}, {5, 576, 64}, {2, 100, 1024}, {1, 37, 16}}) {
    std::vector<float> weights(static_cast<std::size_t>(rows * cols), 0.5f);
    higgs::QuantizeOptions options;
    options.group = group;
    const std::vector<higgs::Format> formats = higgs::shipped_formats(rows, cols, options);
    REQUIRE(formats.size() == higgs::shipped_code_names().size());
    for (const higgs::Format& format : formats) {
      const auto matrix =
          higgs::quantize(higgs::MatrixView<const float>(weights.data(), rows, cols), format.name, options);
      CAPTURE(rows, cols, group, format.name);
      std::visit(
          [&](const auto& m) {
            CHECK(format.bytes == static_cast<std::int64_t>(m.codes.size_bytes() + m.scales.size_bytes() +
                                                            m.input_scales.size_bytes()));
            CHECK(format.t2 == m.book.mse());
          },
          matrix);
    }
  }
}
