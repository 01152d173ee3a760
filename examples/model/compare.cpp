// SPDX-License-Identifier: Apache-2.0
#include "compare.hpp"

#include <higgs/matmul/decode.hpp>
#include <higgs/quantizer.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <span>
#include <utility>
#include <variant>

#include "baselines.hpp"
#include "page.hpp"
#include "quantize.hpp"
#include "round_to_codebook.hpp"

namespace higgs::model {

namespace {

constexpr std::string_view higgs_prefix = "higgs ", group_suffix = " g128", random_suffix = " random";

double relative_error(MatrixView<const float> rounded, MatrixView<const float> exact) {
  double error = 0, norm = 0;
  for (std::int64_t r = 0; r < exact.rows; ++r)
    for (std::int64_t c = 0; c < exact.cols; ++c) {
      const double w = static_cast<double>(exact(r, c)), d = static_cast<double>(rounded(r, c)) - w;
      error += d * d;
      norm += w * w;
    }
  return norm > 0 ? error / norm : 0;
}

/// One layer's weights in the format, its bits a weight and its t^2.
struct Converted {
  std::variant<DenseMatrix, TiledMatrix> weight;
  double bits = 0;
  double t2 = 0;
};

/// What a method says after "higgs ": a codebook, then perhaps " g128" and " random".
struct HiggsMethod {
  std::string_view codebook;
  QuantizeOptions options;
};

HiggsMethod parse_higgs(std::string_view method, std::span<const double> input_squares) {
  HiggsMethod out{method.substr(higgs_prefix.size()), {}};
  if (wants_input_squares(method)) {
    out.codebook.remove_suffix(random_suffix.size());
    out.options.input_squares = input_squares;
  }
  if (out.codebook.ends_with(group_suffix)) {
    out.codebook.remove_suffix(group_suffix.size());
    out.options.group = 128;
    out.options.scale_format = ScaleFormat::Log8;
    out.options.scale_search = 6;
  }
  return out;
}

Converted convert(const DenseMatrix& dense, std::string_view method, std::span<const double> input_squares,
                  Executor& executor) {
  if (method.starts_with(higgs_prefix)) {
    const auto [codebook, options] = parse_higgs(method, input_squares);
    if (std::ranges::count(further_codebook_names(), codebook) != 0) {
      RoundedMatrix rounded = round_to_codebook(dense.view(), codebook, options, executor);
      const double t2 = relative_error({rounded.values.data(), dense.rows, dense.cols}, dense.view());
      return {DenseMatrix(dense.rows, dense.cols, std::move(rounded.values)), rounded.bits, t2};
    }
    AnyQuantizedMatrix quantized = quantize(dense.view(), codebook, options, executor);
    std::vector<float> values(dense.values->size());
    const MatrixView<float> rounded(values.data(), dense.rows, dense.cols);
    dequantize(quantized, rounded, executor);
    const double bits = std::visit([](const auto& w) { return w.bits_per_weight(); }, quantized);
    return {TiledMatrix(quantized, executor), bits, relative_error(rounded, dense.view())};
  }
  std::vector<float> values(*dense.values);
  const MatrixView<float> rounded(values.data(), dense.rows, dense.cols);
  const double bits = round_to(baseline_named(method), rounded, executor);
  const double t2 = relative_error(rounded, dense.view());
  return {DenseMatrix(dense.rows, dense.cols, std::move(values)), bits, t2};
}

// KL (logarithmic) over bits. Lower and further left is better.
class Plot {
 public:
  explicit Plot(const std::vector<ComparisonRow>& rows) {
    for (const ComparisonRow& row : rows) {
      if (!(row.kl > 0)) continue;
      left_ = std::min(left_, std::floor(row.bits * 2) / 2);
      right_ = std::max(right_, std::ceil(row.bits * 2) / 2);
      low_ = std::min(low_, std::floor(std::log10(row.kl)));
      high_ = std::max(high_, std::ceil(std::log10(row.kl)));
    }
    if (left_ >= right_) left_ = 0, right_ = 8;
    if (low_ >= high_) low_ = -3, high_ = 1;
  }

  std::string svg(const std::vector<ComparisonRow>& rows) const {
    std::string out = "<svg viewBox=\"0 0 900 520\" role=\"img\" aria-label=\"KL over bits a weight\">\n";
    for (double bits = left_; bits <= right_ + 1e-9; bits += 0.5)
      out += line_at(x(bits), y(low_), x(bits), y(high_)) +
             text_at(x(bits), y(low_) + 20, "middle", fixed(bits, 1));
    for (double power = low_; power <= high_ + 1e-9; ++power)
      out += line_at(x(left_), y(power), x(right_), y(power)) +
             text_at(x(left_) - 8, y(power) + 4, "end",
                     joined("10<tspan dy=\"-6\">", fixed(power, 0), "</tspan>"));
    out += text_at(480, 512, "middle", "bits a weight, scales included");
    out +=
        "<text transform=\"translate(18,250) rotate(-90)\" text-anchor=\"middle\">KL to the reference, nats "
        "a token</text>\n";
    // Labels of crowded points step down so that none hides another.
    std::vector<std::pair<double, double>> taken;
    for (const ComparisonRow& row : rows) {
      if (!(row.kl > 0)) continue;
      const double px = x(row.bits), py = y(std::log10(row.kl));
      double label = py + 4;
      while (std::ranges::any_of(taken, [&](const auto& at) {
        return std::fabs(at.first - px) < 90 && std::fabs(at.second - label) < 13;
      }))
        label += 13;
      taken.emplace_back(px, label);
      const bool ours = row.method.starts_with(higgs_prefix);
      out += joined("<g class=\"", ours ? "ours" : "peer", "\"><title>", escaped(row.method), ": ",
                    fixed(row.bits, 3), " bits, KL ", fixed(row.kl, 5), "</title><circle cx=\"", fixed(px, 1),
                    "\" cy=\"", fixed(py, 1), "\" r=\"5\"/>",
                    text_at(px + 9, label, "start", escaped(row.method)), "</g>\n");
    }
    return out + "</svg>\n";
  }

 private:
  double x(double bits) const { return 70 + (bits - left_) / (right_ - left_) * 730; }
  double y(double power) const { return 20 + (high_ - power) / (high_ - low_) * 450; }
  double left_ = 1e9, right_ = -1e9, low_ = 1e9, high_ = -1e9;  // bits; log10 of KL
};

}  // namespace

std::vector<std::string> default_methods() {
  return {"higgs 1x16",
          "higgs 2x256",
          "higgs 2x256 random",
          "nf4-64",
          "nf4-1024",
          "af4-64",
          "af4-1024",
          "int4-64",
          "hqq4-64",
          "higgs 1x8",
          "higgs 2x64",
          "higgs 2x64 random",
          "int3-64",
          "hqq3-64",
          "higgs 1x4",
          "higgs 2x16",
          "higgs 2x16 random",
          "higgs 4x256",
          "higgs 4x256 random",
          "int2-64",
          "hqq2-64"};
}

bool wants_input_squares(std::string_view method) noexcept {
  return method.starts_with(higgs_prefix) && method.ends_with(random_suffix);
}

Transformer with_method(const Transformer& model, std::string_view method, const InputSquares& input_squares,
                        ComparisonRow& row, Executor& executor) {
  Transformer out = model;
  row.method = method;
  row.bits = row.t2 = 0;
  double weights = 0;
  for (std::size_t index = 0; index < out.weights.blocks.size(); ++index)
    for (const Part part : all_parts) {
      Linear& linear = out.weights.blocks[index][part];
      const auto squares = input_squares.find(weight_name(static_cast<std::int64_t>(index), part));
      expects(!wants_input_squares(method) || squares != input_squares.end(),
              "higgs::model::with_method: the method wants input squares of every layer");
      const auto* dense = std::get_if<DenseMatrix>(&linear.weight);
      expects(dense != nullptr, "higgs::model::with_method: the model is quantized; it must be dense");
      Converted converted = convert(
          *dense, method,
          squares != input_squares.end() ? std::span(squares->second) : std::span<const double>(), executor);
      const double count = static_cast<double>(linear.rows()) * static_cast<double>(linear.cols());
      row.bits += converted.bits * count;
      row.t2 += converted.t2 * count;
      weights += count;
      linear.weight = std::move(converted.weight);
    }
  row.bits /= weights;
  row.t2 /= weights;
  return out;
}

std::string comparison_page(const std::string& title, const ComparisonRow& reference,
                            const std::vector<ComparisonRow>& rows) {
  std::string out = joined(
      "<style>\ntr.ours { font-weight: 600 }\n"
      ".ours circle { fill: #0b62c4 } .peer circle { fill: #b8561b }\n"
      ".ours text { fill: #0b62c4 } .peer text { fill: #8a4216 }\n"
      "</style>\n<p>Lower and further left is better. Reference perplexity ",
      fixed(reference.perplexity, 4), ".</p>\n", Plot(rows).svg(rows),
      "<table><thead><tr><th>method<th>bits<th>t&sup2;<th>perplexity<th>KL</tr></thead>\n");
  for (const ComparisonRow& row : rows)
    out += joined(row.method.starts_with(higgs_prefix) ? "<tr class=\"ours\"><td>" : "<tr><td>",
                  escaped(row.method), "<td>", fixed(row.bits, 3), "<td>", fixed(row.t2, 6), "<td>",
                  fixed(row.perplexity, 4), "<td>", fixed(row.kl, 5), "</tr>\n");
  return html_page(title, out + "</table>\n");
}

}  // namespace higgs::model
