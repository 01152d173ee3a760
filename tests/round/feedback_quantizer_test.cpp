// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/e8/code.hpp>
#include <higgs/codes/window/code.hpp>
#include <higgs/core/random.hpp>
#include <higgs/matmul/decode.hpp>
#include <higgs/quantizer.hpp>
#include <higgs/round/feedback.hpp>
#include <higgs/round/feedback_quantizer.hpp>
#include <higgs/round/second_moment.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "codes/toy_code.hpp"
#include "matmul/matrices.hpp"

using higgs::MatrixView;
using higgs::SecondMoment;

namespace {

// Inputs that speak together: each is a mixture of a few causes, and noise of its own.
SecondMoment inputs_of(std::int64_t cols, double noise, std::int64_t part = 0) {
  constexpr std::int64_t rows = 600, causes = 12;
  std::vector<float> x(static_cast<std::size_t>(rows * cols));
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; ++c) {
      const auto at = static_cast<std::uint64_t>(r * cols + c);
      double value = noise * higgs::random_normal(1, at);
      for (std::int64_t k = 0; k < causes; ++k)
        value += higgs::random_normal(2, static_cast<std::uint64_t>(r * causes + k)) *
                 higgs::random_normal(3, static_cast<std::uint64_t>(k * cols + c));
      x[static_cast<std::size_t>(at)] = static_cast<float>(value * (1 + static_cast<double>(c % 3)));
    }
  SecondMoment out(cols, part);
  out.add(MatrixView<const float>(x.data(), rows, cols));
  return out;
}

// A matrix rounded with the feedback of `moment`, and what the quantizer says of it.
template <class C>
struct Rounded {
  higgs::QuantizedMatrix<C> matrix;
  std::shared_ptr<higgs::Feedback> feedback;
  typename higgs::FeedbackQuantizer<C>::Error error;
  std::vector<std::uint8_t> codes;
  std::vector<higgs::Half> scales;
};
template <class C>
Rounded<C> rounded(MatrixView<const float> w, const SecondMoment& moment, const C& code = {},
                   higgs::QuantizeOptions options = {}, higgs::Executor& executor = higgs::default_executor(),
                   std::int64_t rows_at_once = 1 << 20) {
  Rounded<C> out;
  const std::vector<double> squares = moment.mean_squares();
  options.input_squares = squares;
  out.matrix = higgs::quantize(w, code, options);
  higgs::QuantizedMatrix<C>& m = out.matrix;
  out.feedback = std::make_shared<higgs::Feedback>(moment, m.layout, m.seed, m.input_scales);
  const higgs::FeedbackQuantizer<C> quantizer(code, m.layout, m.seed, m.exponent, m.input_scales,
                                              *out.feedback);
  out.codes.resize(m.codes.size());
  out.scales.resize(m.scales.size());
  for (std::int64_t first = 0; first < w.rows; first += rows_at_once) {
    const std::int64_t count = std::min(rows_at_once, w.rows - first);
    const auto at = [&](std::int64_t each) { return static_cast<std::size_t>(first * each); };
    const auto size = [&](std::int64_t each) { return static_cast<std::size_t>(count * each); };
    out.error += quantizer.quantize_rows(
        w.row_range(first, count), std::span(out.codes).subspan(at(m.row_bytes()), size(m.row_bytes())),
        std::span(out.scales).subspan(at(m.layout.groups()), size(m.layout.groups())), executor);
  }
  m.codes = out.codes;
  m.scales = out.scales;
  return out;
}

// e H' e^T summed over rows by the definition, from rotated weights and factors, in units of 4^exponent.
template <class C>
double loss_of(MatrixView<const float> w, const higgs::QuantizedMatrix<C>& matrix,
               const higgs::Feedback& feedback) {
  const higgs::detail::RotatedRows rows(matrix.layout, matrix.seed, matrix.exponent, matrix.input_scales);
  const auto cols = static_cast<std::size_t>(matrix.layout.padded_cols());
  std::vector<float> row(cols), decoded(cols);
  const higgs::GroupDecoder<C> decoder(matrix.book);
  std::vector<higgs::SymbolOf<C>> symbols;
  double loss = 0;
  for (std::int64_t r = 0; r < w.rows; ++r) {
    higgs::RoundingError ignored;
    rows.rotate(w.row_range(r, 1), row, ignored);
    higgs::decode_groups(matrix, decoder, r, 0, matrix.layout.groups(), std::span(decoded), symbols);
    for (float& value : decoded) value = std::ldexp(value, -matrix.exponent);
    for (std::int64_t part = 0; part < feedback.parts(); ++part) {
      const MatrixView<const float> u = feedback.rows(part);
      const auto first = static_cast<std::size_t>(part * feedback.part());
      for (std::int64_t k = 0; k < u.cols; ++k) {
        double sum = 0;
        for (std::int64_t j = 0; j <= k; ++j) {
          const std::size_t at = first + static_cast<std::size_t>(j);
          sum += (static_cast<double>(row[at]) - static_cast<double>(decoded[at])) *
                 static_cast<double>(u(j, k));
        }
        loss += sum * sum * static_cast<double>(feedback.d()[first + static_cast<std::size_t>(k)]);
      }
    }
  }
  return loss;
}

}  // namespace

// Codes of every kind: with one, two and more weights a symbol, chains that go on and a chain that does not.
TEMPLATE_TEST_CASE("the loss is that of the definition, and no more than without feedback",
                   "[round][feedback]", (higgs::GridCodebook<1, 16>), (higgs::GridCodebook<2, 256>),
                   (higgs::GridCodebook<3, 64>), higgs::E8Codebook, higgs::WindowCode<3>,
                   higgs::WindowCode<4>, higgs::WindowCode<6>, higgs::WindowCode<8>, higgs::WindowCode<9>,
                   ToyCode) {
  for (const std::int64_t cols : {1, 37, 200}) {
    const Normals w(130, cols, 7);
    for (const double noise : {0.3, 30.0})
      for (const std::int64_t part : {std::int64_t{0}, higgs::make_layout(130, cols, 1).block}) {
        INFO(cols << " columns, noise " << noise << ", parts of " << part);
        const SecondMoment moment = inputs_of(cols, noise, part);
        const std::vector<double> squares = moment.mean_squares();
        const Rounded<TestType> found = rounded<TestType>(w.view, moment);
        const auto plain = higgs::quantize(w.view, TestType{}, {.input_squares = squares});
        const double measured = loss_of(w.view, found.matrix, *found.feedback);
        CHECK(found.error.loss == Approx(measured).epsilon(2e-3));
        CHECK(measured <= 1.0001 * loss_of(w.view, plain, *found.feedback));
        // Errors are counted as they are without feedback.
        std::vector<float> back(w.data.size());
        higgs::dequantize(found.matrix, MatrixView<float>(back.data(), 130, cols));
        double error = 0, norm = 0;
        for (std::size_t i = 0; i < back.size(); ++i) {
          const double d = static_cast<double>(back[i]) - static_cast<double>(w.data[i]);
          error += d * d;
          norm += static_cast<double>(w.data[i]) * static_cast<double>(w.data[i]);
        }
        CHECK(found.error.weight_error() == Approx(error / norm).epsilon(1e-3).margin(1e-9));
      }
  }
}

TEST_CASE("the mean cost of an error is the mean of the diagonal that the factors stand for",
          "[round][feedback]") {
  for (const std::int64_t part : {0, 32}) {
    const higgs::CodeLayout layout = higgs::make_layout(4, 96, 2, {.block = 32});
    const higgs::Feedback feedback(inputs_of(96, 1, part), layout, 5);
    double sum = 0;
    for (std::int64_t i = 0; i < feedback.parts(); ++i)
      for (std::int64_t j = 0; j < feedback.rows(i).rows; ++j)
        for (std::int64_t k = j; k < feedback.rows(i).cols; ++k) {
          const auto u = static_cast<double>(feedback.rows(i)(j, k));
          sum += u * u * static_cast<double>(feedback.d()[static_cast<std::size_t>(i * feedback.part() + k)]);
        }
    CHECK(feedback.mean_cost() == Approx(sum / static_cast<double>(feedback.cols())).epsilon(1e-4));
  }
  CHECK(higgs::Feedback(SecondMoment(96), higgs::make_layout(4, 96, 2), 5).mean_cost() == 0);
}

TEST_CASE("inputs that speak together make up for each other's errors", "[round][feedback]") {
  const Normals w(130, 384, 9);
  const auto gain = [&](double noise) {
    const auto found = rounded<higgs::WindowCode<6>>(w.view, inputs_of(384, noise));
    return found.error.loss / found.error.expected_nearest_loss;
  };
  CHECK(gain(1) < 0.45);
  CHECK(gain(3) < 0.8);
  CHECK(gain(3) > gain(1));
}

TEST_CASE("the bytes depend neither on threads, nor on strides, nor on how rows are streamed",
          "[round][feedback]") {
  const Normals w(150, 192, 3);
  const SecondMoment moment = inputs_of(192, 1);
  const auto check = [&](const auto& code) {
    using Code = std::decay_t<decltype(code)>;
    higgs::SerialExecutor serial;
    higgs::ThreadPool pool(4);
    const auto expected = rounded<Code>(w.view, moment, code, {}, serial);
    const auto threads = rounded<Code>(w.view, moment, code, {}, pool);
    const auto pieces = rounded<Code>(w.view, moment, code, {}, serial, 7);
    CHECK(threads.codes == expected.codes);
    CHECK(std::ranges::equal(threads.scales, expected.scales));
    CHECK(pieces.codes == expected.codes);
    CHECK(std::ranges::equal(pieces.scales, expected.scales));
    CHECK(pieces.error.loss == Approx(expected.error.loss).epsilon(1e-12));
    std::vector<float> turned(w.data.size());
    const MatrixView<float> columns(turned.data(), 192, 150);
    for (std::int64_t r = 0; r < 150; ++r)
      for (std::int64_t c = 0; c < 192; ++c) columns(c, r) = w.view(r, c);
    CHECK(rounded<Code>(columns.transposed(), moment, code).codes == expected.codes);
  };
  check(higgs::WindowCode<5>{});
  check(higgs::GridCodebook<2, 64>{});
}

TEST_CASE("one weight at a time, feedback leaves what GPTQ leaves", "[round][feedback]") {
  using Code = higgs::GridCodebook<1, 16>;
  const Normals w(130, 192, 5);
  const SecondMoment moment = inputs_of(192, 1);
  const Code code;
  const Rounded<Code> found = rounded<Code>(w.view, moment, code);
  const higgs::QuantizedMatrix<Code>& m = found.matrix;
  const higgs::detail::RotatedRows rows(m.layout, m.seed, m.exponent, m.input_scales);
  const MatrixView<const float> u = found.feedback->rows(0);
  double loss = 0;
  for (std::int64_t r = 0; r < w.view.rows; ++r) {
    higgs::RoundingError ignored;
    std::vector<float> row(static_cast<std::size_t>(m.layout.padded_cols()));
    rows.rotate(w.view.row_range(r, 1), row, ignored);
    const std::vector<double> e = [&] {  // in double, in order, with the RMS of each group as its scale
      std::vector<double> errors(row.size());
      for (std::size_t k = 0; k < row.size(); ++k) {
        const auto group = static_cast<std::size_t>(m.layout.group), first = k / group * group;
        double squares = 0;
        for (std::size_t i = first; i < first + group; ++i)
          squares += static_cast<double>(row[i]) * static_cast<double>(row[i]);
        const double step = std::sqrt(squares / static_cast<double>(group)) * code.step();
        double target = static_cast<double>(row[k]), best = 1e300;
        for (std::size_t j = 0; j < k; ++j)
          target +=
              errors[j] * static_cast<double>(u(static_cast<std::int64_t>(j), static_cast<std::int64_t>(k)));
        for (const auto& point : code.points())
          if (const double value = step * point[0]; std::abs(target - value) < std::abs(target - best))
            best = value;
        errors[k] = static_cast<double>(row[k]) - best;
      }
      return errors;
    }();
    for (std::size_t k = 0; k < e.size(); ++k) {
      double sum = 0;
      for (std::size_t j = 0; j <= k; ++j)
        sum += e[j] * static_cast<double>(u(static_cast<std::int64_t>(j), static_cast<std::int64_t>(k)));
      loss += sum * sum * static_cast<double>(found.feedback->d()[k]);
    }
  }
  CHECK(found.error.loss < 1.02 * loss);
  CHECK(found.error.loss > 0.8 * loss);  // scales that are fitted, and targets in their RMS
}

TEST_CASE("where no input ever speaks, rows are rounded as without feedback", "[round][feedback]") {
  const Normals w(130, 96, 2);
  const auto found = rounded<higgs::WindowCode<4>>(w.view, SecondMoment(96));
  const auto plain = higgs::quantize(w.view, higgs::WindowCode<4>{});
  CHECK(std::ranges::equal(found.codes, plain.codes));
  CHECK(std::ranges::equal(found.scales, plain.scales));
  CHECK(found.error.t2() == plain.t2);
  CHECK(found.error.nearest_rows == 130);
}

TEST_CASE("feedback of another shape and buffers of another size are refused with the numbers",
          "[round][feedback]") {
  using Quantizer = higgs::FeedbackQuantizer<higgs::GridCodebook<2, 64>>;
  const higgs::CodeLayout layout = higgs::make_layout(4, 96, 2), other = higgs::make_layout(4, 64, 2);
  const higgs::Feedback feedback(inputs_of(96, 1), layout, 1);
  CHECK_THROWS_WITH(Quantizer({}, other, 1, 0, {}, feedback), Catch::Contains("96") && Catch::Contains("64"));
  const Quantizer quantizer({}, layout, 1, 0, {}, feedback);
  const Normals w(4, 96, 1), narrow(4, 95, 1);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(4 * layout.row_bytes(2, 6)));
  std::vector<higgs::Half> scales(static_cast<std::size_t>(4 * layout.groups()));
  CHECK_NOTHROW(quantizer.quantize_rows(w.view, codes, scales));
  CHECK_THROWS_WITH(quantizer.quantize_rows(narrow.view, codes, scales), Catch::Contains("95"));
  CHECK_THROWS_WITH(quantizer.quantize_rows(w.view, std::span(codes).first(3), scales),
                    Catch::Contains("3 bytes"));
}

namespace {

// Gradients of outputs that speak together, as SecondMoment takes them.
SecondMoment gradients_of(std::int64_t outputs, std::int64_t part = 0) {
  const std::vector<float> x = [&] {
    std::vector<float> all(static_cast<std::size_t>(500 * outputs));
    for (std::int64_t r = 0; r < 500; ++r)
      for (std::int64_t c = 0; c < outputs; ++c) {
        double value = 0.5 * higgs::random_normal(11, static_cast<std::uint64_t>(r * outputs + c));
        for (std::int64_t k = 0; k < 8; ++k)
          value += higgs::random_normal(12, static_cast<std::uint64_t>(r * 8 + k)) *
                   higgs::random_normal(13, static_cast<std::uint64_t>(k * outputs + c));
        all[static_cast<std::size_t>(r * outputs + c)] = static_cast<float>(value * (c % 5 == 0 ? 3 : 1));
      }
    return all;
  }();
  SecondMoment out(outputs, part);
  out.add(MatrixView<const float>(x.data(), 500, outputs));
  return out;
}

// tr(G' E H' E^T) by the definition, in units of 4^exponent and of the mean of the diagonal of G': the loss of E whose rows
// are mixed as the factors of G' say.
template <class C>
double loss_of_both(MatrixView<const float> w, const higgs::QuantizedMatrix<C>& matrix,
                    const higgs::Feedback& inputs, const higgs::Feedback& outputs) {
  std::vector<float> decoded(static_cast<std::size_t>(w.size())), mixed(decoded.size());
  higgs::dequantize(matrix, MatrixView<float>(decoded.data(), w.rows, w.cols));
  double loss = 0;
  const higgs::detail::RotatedRows rows(matrix.layout, matrix.seed, matrix.exponent, matrix.input_scales);
  std::vector<float> row(static_cast<std::size_t>(matrix.layout.padded_cols()));
  for (std::int64_t i = 0; i < w.rows; ++i) {
    const std::int64_t part = i / outputs.part(), first = part * outputs.part();
    std::vector<float> error(static_cast<std::size_t>(w.cols));
    for (std::int64_t j = first; j <= i; ++j)
      for (std::int64_t c = 0; c < w.cols; ++c)
        error[static_cast<std::size_t>(c)] += outputs.rows(part)(j - first, i - first) *
                                              (w(j, c) - decoded[static_cast<std::size_t>(j * w.cols + c)]);
    higgs::RoundingError ignored;
    rows.rotate(MatrixView<const float>(error.data(), 1, w.cols), row, ignored);
    double own = 0;
    for (std::int64_t p = 0; p < inputs.parts(); ++p)
      for (std::int64_t k = 0; k < inputs.rows(p).cols; ++k) {
        double sum = 0;
        for (std::int64_t j = 0; j <= k; ++j)
          sum += static_cast<double>(row[static_cast<std::size_t>(p * inputs.part() + j)]) *
                 static_cast<double>(inputs.rows(p)(j, k));
        own += sum * sum * static_cast<double>(inputs.d()[static_cast<std::size_t>(p * inputs.part() + k)]);
      }
    loss += own * static_cast<double>(outputs.d()[static_cast<std::size_t>(i)]) / outputs.mean_cost();
  }
  return loss;
}

}  // namespace

// A code without padding in its groups: what it decodes to has all errors.
TEMPLATE_TEST_CASE("with feedback of both sides the loss is that of the definition, and less than with one",
                   "[round][feedback]", (higgs::GridCodebook<1, 16>), (higgs::GridCodebook<2, 256>),
                   higgs::E8Codebook, higgs::WindowCode<4>, higgs::WindowCode<6>, ToyCode) {
  for (const std::int64_t part : {0, 25})
    for (const double damping : {0.01, higgs::Feedback::default_output_damping}) {
      const Normals w(70, 192, 7);
      const SecondMoment moment = inputs_of(192, 1);
      const higgs::Feedback outputs(gradients_of(70, part), damping);
      Rounded<TestType> found = rounded<TestType>(w.view, moment);
      higgs::QuantizedMatrix<TestType>& m = found.matrix;
      const double one_side = loss_of_both(w.view, m, *found.feedback, outputs);
      const higgs::FeedbackQuantizer<TestType> quantizer({}, m.layout, m.seed, m.exponent, m.input_scales,
                                                         *found.feedback);
      higgs::SerialExecutor serial;
      const auto error = quantizer.quantize_matrix(w.view, outputs, found.codes, found.scales, serial);
      const double both = loss_of_both(w.view, m, *found.feedback, outputs);
      INFO("parts of " << part << ", damping " << damping << ": " << both << " in place of " << one_side
                       << ", said " << error.loss);
      if (damping < 1) {
        CHECK(both < (part == 0 ? 0.5 : 0.85) * one_side);
        CHECK(both < 0.8 * error.expected_nearest_loss);
      } else {
        CHECK(both < one_side);
        CHECK(error.loss == Approx(both).epsilon(0.05));  // errors of a step's rows are hardly dependent then
      }
      // Errors are those of the weights, not of the targets.
      std::vector<float> back(w.data.size());
      higgs::dequantize(m, MatrixView<float>(back.data(), 70, 192));
      double squares = 0, norm = 0;
      for (std::size_t i = 0; i < back.size(); ++i) {
        const double d = static_cast<double>(back[i]) - static_cast<double>(w.data[i]);
        squares += d * d;
        norm += static_cast<double>(w.data[i]) * static_cast<double>(w.data[i]);
      }
      CHECK(error.weight_error() == Approx(squares / norm).epsilon(1e-3));
      const std::vector<std::uint8_t> codes = found.codes;
      higgs::ThreadPool pool(3);
      quantizer.quantize_matrix(w.view, outputs, found.codes, found.scales, pool);
      CHECK(found.codes == codes);
    }
}

TEST_CASE("outputs that do not matter are rounded for their inputs, and feedback of others is refused",
          "[round][feedback]") {
  const Normals w(20, 96, 2);
  const auto found = rounded<higgs::WindowCode<4>>(w.view, inputs_of(96, 1));
  const auto& m = found.matrix;
  const higgs::FeedbackQuantizer<higgs::WindowCode<4>> quantizer({}, m.layout, m.seed, m.exponent,
                                                                 m.input_scales, *found.feedback);
  std::vector<std::uint8_t> codes(found.codes.size());
  std::vector<higgs::Half> scales(found.scales.size());
  quantizer.quantize_matrix(w.view, higgs::Feedback(SecondMoment(20)), codes, scales);
  CHECK(codes == found.codes);
  CHECK_THROWS_WITH(quantizer.quantize_matrix(w.view, higgs::Feedback(gradients_of(21)), codes, scales),
                    Catch::Contains("21 outputs") && Catch::Contains("20 rows"));
}

TEST_CASE("the costs of errors are the diagonal that the factors stand for", "[round][feedback]") {
  for (const std::int64_t part : {0, 25}) {
    const SecondMoment moment = gradients_of(70, part);
    const higgs::Feedback outputs(moment, 0.5);
    const std::vector<double> costs = outputs.costs();
    REQUIRE(std::ssize(costs) == 70);
    double mean = 0;
    for (std::int64_t i = 0; i < 70; ++i)
      mean +=
          static_cast<double>(moment.values(i / moment.part())(i % moment.part(), i % moment.part())) / 70;
    for (std::int64_t i = 0; i < 70; ++i)
      CHECK(costs[static_cast<std::size_t>(i)] == Approx(static_cast<double>(moment.values(i / moment.part())(
                                                             i % moment.part(), i % moment.part())) +
                                                         0.5 * mean)
                                                      .epsilon(1e-4));
    CHECK(outputs.mean_cost() == Approx(1.5 * mean));
  }
}
