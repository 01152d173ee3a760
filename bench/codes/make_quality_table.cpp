// SPDX-License-Identifier: Apache-2.0
// Rounds a 1024 x 4096 matrix of N(0, 1) weights with every format and every codebook that ships; prints the
// errors as a Markdown table and draws them: make_quality_table [quality.svg [GGML]]
// The picture has the rows of the file GGML too: a table as ggml_quality.py prints it.
#include "../../examples/model/compare/baselines.hpp"

#include <higgs/codes/grid/tables/2x1024.hpp>
#include <higgs/codes/grid/tables/2x4096.hpp>
#include <higgs/codes/grid/tables/3x4096.hpp>
#include <higgs/codes/grid/tables/4x4096.hpp>
#include <higgs/codes/grid/tables/6x4096.hpp>
#include <higgs/codes/lattice/code.hpp>
#include <higgs/codes/radix/code.hpp>
#include <higgs/codes/uniform/uniform.hpp>
#include <higgs/codes/window/code.hpp>
#include <higgs/core/random.hpp>
#include <higgs/quantizer.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

constexpr std::int64_t rows = 1024, cols = 4096;
constexpr std::int64_t bands = 64;  // the standard error is that of the mean of so many bands of rows
constexpr std::uint64_t seed = 1;

enum class Family { Window, Higgs, Uniform, Absmax, Affine, Float4, Ggml };

struct Point {
  std::string name;
  Family family;
  double bits;  // per weight, scales included
  double mse;   // squared error over squared weight
  double standard_error;

  double decibels() const { return 10 * std::log10(mse) + 20 * bits * std::log10(2.0); }  // above 2^(-2 bits)
  double shannon_bits() const { return -std::log2(mse) / 2; }
};

std::vector<float> normal_matrix() {
  std::vector<float> w(static_cast<std::size_t>(rows * cols));
  higgs::parallel_for(higgs::default_executor(), rows, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin * cols; i < end * cols; ++i)
      w[static_cast<std::size_t>(i)] =
          static_cast<float>(higgs::random_normal(seed, static_cast<std::uint64_t>(i)));
  });
  return w;
}

Point summarize(std::string name, Family family, double bits, const std::array<double, bands>& errors) {
  double mean = 0, variance = 0;
  for (const double each : errors) mean += each / bands;
  for (const double each : errors) variance += (each - mean) * (each - mean) / (bands - 1);
  return {std::move(name), family, bits, mean, std::sqrt(variance / bands)};
}

Family family_of(const higgs::model::Baseline& format) {
  const auto has = [&](std::string_view part) { return format.name.find(part) != std::string_view::npos; };
  if (has("fp4")) return Family::Float4;
  return has("int") || has("hqq") ? Family::Affine : Family::Absmax;
}

Point measure(const higgs::model::Baseline& format, std::vector<float> w) {
  const std::vector<float> exact = w;
  const double bits = higgs::model::round_to(format, higgs::MatrixView<float>(w.data(), rows, cols));
  std::array<double, bands> errors{};
  const std::size_t size = w.size() / bands;
  for (std::size_t band = 0; band < bands; ++band) {
    double error = 0, norm = 0;
    for (std::size_t i = band * size; i < (band + 1) * size; ++i) {
      error += std::pow(static_cast<double>(w[i]) - exact[i], 2);
      norm += std::pow(static_cast<double>(exact[i]), 2);
    }
    errors[band] = error / norm;
  }
  return summarize(std::string(format.name), family_of(format), bits, errors);
}

/// `quantize` makes a quantized matrix of a view.
template <class Quantize>
Point measure(std::string name, Family family, const std::vector<float>& w, Quantize&& quantize) {
  std::array<double, bands> errors{};
  double bits = 0;
  for (std::int64_t band = 0; band < bands; ++band) {
    const auto quantized = quantize(
        higgs::MatrixView<const float>(w.data(), rows, cols).row_range(band * (rows / bands), rows / bands));
    errors[static_cast<std::size_t>(band)] = quantized.t2;
    bits = quantized.bits_per_weight();
  }
  return summarize(std::move(name), family, bits, errors);
}

template <higgs::Code Book>
Point measure_book(const Book& book, const std::vector<float>& w,
                   const higgs::QuantizeOptions& options = {}) {
  const bool brief = options.scale_format == higgs::ScaleFormat::Log8;
  const Family family = higgs::ChainCode<Book>                            ? Family::Window
                        : Book::name()[0] == 'u' || Book::name() == "ch8" ? Family::Uniform
                                                                          : Family::Higgs;
  return measure((family == Family::Uniform ? "uniform " : "HIGGS ") + Book::name() +
                     (brief ? " g" + std::to_string(options.group) : ""),
                 family, w,
                 [&](higgs::MatrixView<const float> view) { return higgs::quantize(view, book, options); });
}
template <class... Books>
void measure_books(higgs::TypeList<Books...>, const std::vector<float>& w, std::vector<Point>& points) {
  (points.push_back(measure_book(Books{}, w)), ...);
}
/// Short groups whose scales have 8 bits and are searched for.
template <class... Books>
void measure_searched(higgs::TypeList<Books...>, std::int64_t group, const std::vector<float>& w,
                      std::vector<Point>& points) {
  const higgs::QuantizeOptions options{
      .group = group, .scale_format = higgs::ScaleFormat::Log8, .scale_search = 6};
  (points.push_back(measure_book(Books{}, w, options)), ...);
}

void print_table(const std::vector<Point>& points) {
  std::printf(
      "%lld x %lld weights of N(0, 1), seed %llu. MSE: squared error over squared weight, +- its standard "
      "error (of the mean over %lld bands of rows).\n",
      static_cast<long long>(rows), static_cast<long long>(cols), static_cast<unsigned long long>(seed),
      static_cast<long long>(bands));
  std::printf(
      "Bits include scales and zero points. dB: above the Shannon bound, 2^(-2 bits). Shannon bits: those at "
      "which the bound reaches this MSE.\n\n");
  std::printf("| format | bits | MSE | +- | dB | Shannon bits |\n|---|---:|---:|---:|---:|---:|\n");
  for (const Point& at : points)
    std::printf("| %s | %.4f | %#.4g | %.1g | %.2f | %.2f |\n", at.name.c_str(), at.bits, at.mse,
                at.standard_error, at.decibels(), at.shannon_bits());
}

/// The rows of a table that ggml_quality.py printed.
std::vector<Point> read_ggml(const std::string& path) {
  std::vector<Point> points;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::replace(line.begin(), line.end(), '|', ' ');
    std::istringstream words(line);
    Point at{.name = {}, .family = Family::Ggml, .bits = 0, .mse = 0, .standard_error = 0};
    if (words >> at.name >> at.bits >> at.mse >> at.standard_error) points.push_back(std::move(at));
  }
  return points;
}

// ---- the picture: dB above the bound over bits, with the axis broken between 5 and 8 bits

constexpr double left = 64, right = 1244, top = 40, bottom = 600, most_decibels = 8;
constexpr double width_of_picture = 1280, height_of_picture = 800;
constexpr double least_bits = 0.9, before_break = 5.1, behind_break = 7.5;

double x_of(double bits) {
  return bits < 6 ? left + (bits - least_bits) * 250 : left + 1130 + (bits - 8) * 250;
}
double y_of(double decibels) { return bottom - decibels * (bottom - top) / most_decibels; }

struct Style {
  const char* color;
  const char* title;
};
constexpr std::array<Style, 7> styles{
    {{"#c40b4b", "HIGGS window codes: bits a weight; scales as below"},
     {"#0b62c4",
      "HIGGS: dimensions x points, a scale for 1024 weights; g64, g128, g256: 8-bit scales, searched"},
     {"#7a7a7a", "evenly spaced levels in place of the points"},
     {"#c4570b", "16 levels over the largest weight of a group"},
     {"#2c8a3d", "integers with a zero point: min-max, HQQ"},
     {"#8a2c86", "4-bit floats"},
     {"#7d5a00", "formats of ggml, rounded by ggml with equal importances"}}};  // by Family

void text(std::ostream& out, double x, double y, const std::string& words, const char* more = "") {
  out << "<text x='" << x << "' y='" << y << "' " << more << ">" << words << "</text>\n";
}
void line(std::ostream& out, double x1, double y1, double x2, double y2, const char* color,
          const char* more = "") {
  out << "<line x1='" << x1 << "' y1='" << y1 << "' x2='" << x2 << "' y2='" << y2 << "' stroke='" << color
      << "' " << more << "/>\n";
}

void draw(std::ostream& out, std::vector<Point> points) {
  std::erase_if(points, [](const Point& at) {
    return at.bits < least_bits || (at.bits > before_break && at.bits < behind_break) ||
           at.decibels() > most_decibels || x_of(at.bits) > right;
  });
  out << "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 " << width_of_picture << " "
      << height_of_picture << "' font-family='sans-serif' font-size='13'>\n<rect width='" << width_of_picture
      << "' height='" << height_of_picture << "' fill='white'/>\n";
  text(out, left, 22, "Error on Gaussian weights: how far each format is from the Shannon bound",
       "font-size='16'");
  for (int decibels = 0; decibels <= most_decibels; ++decibels) {
    line(out, left, y_of(decibels), right, y_of(decibels), decibels == 0 ? "black" : "#e4e4e4");
    text(out, left - 8, y_of(decibels) + 4, std::to_string(decibels), "text-anchor='end'");
  }
  for (const double bits : {1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 8.0}) {
    line(out, x_of(bits), bottom, x_of(bits), bottom + 6, "black");
    std::ostringstream label;
    label << bits;
    text(out, x_of(bits), bottom + 22, label.str(), "text-anchor='middle'");
  }
  text(out, (left + right) / 2, bottom + 46, "bits per weight, scales and zero points included",
       "text-anchor='middle'");
  text(out, 18, (top + bottom) / 2, "dB above the Shannon bound; lower is better",
       "text-anchor='middle' transform='rotate(-90 18 320)'");
  text(out, left + 8, y_of(0) - 6, "Shannon bound: MSE = 2^(-2 bits)", "fill='#444'");
  // The axis is broken here.
  line(out, x_of(8) - 60, top, x_of(8) - 60, bottom, "white", "stroke-width='14'");
  line(out, x_of(8) - 68, bottom + 6, x_of(8) - 66, bottom - 6, "black");
  line(out, x_of(8) - 54, bottom + 6, x_of(8) - 52, bottom - 6, "black");

  // A label stands right of its point, or left, or a line up or down, wherever the first free place is.
  struct Box {
    double x, y, width, height;
    bool meets(const Box& other) const {
      return x < other.x + other.width && other.x < x + width && y < other.y + other.height &&
             other.y < y + height;
    }
  };
  std::vector<Box> taken;
  for (const Point& at : points) taken.push_back({x_of(at.bits) - 5, y_of(at.decibels()) - 5, 10, 10});
  for (const Point& at : points) {
    const double x = x_of(at.bits), y = y_of(at.decibels());
    const double width = 7.3 * static_cast<double>(at.name.size());
    Box label{};
    for (int place = 0; place < 40; ++place) {
      const int lines = place / 2;  // 0, 1 down, 1 up, 2 down, ...
      const double shift = 14.0 * ((lines + 1) / 2) * (lines % 2 != 0 ? 1 : -1);
      label = {place % 2 == 0 ? x + 11 : x - 11 - width, y - 6 + shift, width, 12};
      if (label.x > left && label.x + width < width_of_picture &&
          std::none_of(taken.begin(), taken.end(), [&](const Box& box) { return box.meets(label); }))
        break;
    }
    taken.push_back(label);
    const std::string color = styles[static_cast<std::size_t>(at.family)].color;
    if (label.y != y - 6)
      line(out, x, y, label.x > x ? label.x - 2 : label.x + width, label.y + 6, color.c_str());
    out << "<circle cx='" << x << "' cy='" << y << "' r='" << (at.family <= Family::Higgs ? 6 : 4.5)
        << "' fill='" << color << "'/>\n";
    text(out, label.x, label.y + 10, at.name,
         ("textLength='" + std::to_string(width) + "' fill='" + color + "'").c_str());
  }
  double y = bottom + 70;
  for (const Style& style : styles) {
    out << "<circle cx='" << left + 8 << "' cy='" << y - 4 << "' r='5' fill='" << style.color << "'/>\n";
    text(out, left + 20, y, style.title);
    y += 19;
  }
  out << "</svg>\n";
}

}  // namespace

int main(int argc, char** argv) {
  const std::string path = argc > 1 ? argv[1] : "quality.svg";
  const std::vector<Point> ggml = argc > 2 ? read_ggml(argv[2]) : std::vector<Point>();
  if (argc > 2 && ggml.empty()) {
    std::cerr << "make_quality_table: " << argv[2] << " has no row of ggml_quality.py\n";
    return 1;
  }
  const std::vector<float> w = normal_matrix();
  std::vector<Point> points;
  using higgs::GridCodebook, higgs::NestedE8Codebook, higgs::RadixCodebook, higgs::TypeList,
      higgs::UniformCodebook;
  measure_books(higgs::ShippedCodes{}, w, points);
  measure_books(
      TypeList<GridCodebook<4, 16>, GridCodebook<8, 256>, GridCodebook<3, 64>, GridCodebook<3, 512>,
               GridCodebook<3, 4096>, GridCodebook<4, 4096>, GridCodebook<6, 4096>, GridCodebook<1, 32>,
               GridCodebook<2, 1024>, GridCodebook<1, 64>, GridCodebook<2, 4096>, GridCodebook<1, 128>>{},
      w, points);
  measure_books(TypeList<RadixCodebook<GridCodebook<2, 23>, 7>, RadixCodebook<GridCodebook<2, 40>, 6>,
                         RadixCodebook<GridCodebook<2, 84>, 5>>{},
                w, points);
  measure_books(TypeList<NestedE8Codebook<2>, NestedE8Codebook<3>, NestedE8Codebook<4>>{}, w, points);
  measure_books(TypeList<UniformCodebook<2>, UniformCodebook<3>, UniformCodebook<4>>{}, w, points);
  for (const std::int64_t group : {64, 128})
    measure_searched(TypeList<GridCodebook<2, 64>, GridCodebook<1, 16>, GridCodebook<2, 256>>{}, group, w,
                     points);
  measure_searched(TypeList<higgs::E8Codebook, higgs::WindowCode<4>>{}, 256, w, points);
  measure_searched(TypeList<higgs::WindowCode<6>, higgs::WindowCode<8>>{}, 128, w, points);
  for (const higgs::model::Baseline& format : higgs::model::baselines()) points.push_back(measure(format, w));
  std::sort(points.begin(), points.end(), [](const Point& a, const Point& b) {
    return a.bits != b.bits ? a.bits < b.bits : a.mse < b.mse;
  });
  print_table(points);
  points.insert(points.end(), ggml.begin(), ggml.end());
  std::ofstream file(path);
  draw(file, points);
  if (!file.flush()) {
    std::cerr << "make_quality_table: cannot write " << path << "\n";
    return 1;
  }
}
