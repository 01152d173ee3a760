// SPDX-License-Identifier: Apache-2.0
#include "page.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <utility>

namespace higgs::model {
namespace {

constexpr const char* colours[] = {"#0b62c4", "#b8561b", "#1a8a4a", "#8a3fa8",
                                   "#b3212f", "#6b6b00", "#007f8c"};

std::string number(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

// From data to pixels, with its ticks.
class Axis {
 public:
  Axis(Chart::Scale scale, double from, double to) : log_(scale == Chart::Scale::Log), from_(from), to_(to) {}

  bool shows(double value) const { return std::isfinite(value) && (!log_ || value > 0); }
  void hold(double value) {
    low_ = std::min(low_, inner(value));
    high_ = std::max(high_, inner(value));
  }
  // Widens the range to whole steps.
  void settle() {
    if (!(low_ <= high_)) low_ = 0, high_ = 1;
    if (high_ - low_ < 1e-9) low_ -= 0.5, high_ += 0.5;
    const double rough = (high_ - low_) / 6, power = std::pow(10, std::floor(std::log10(rough)));
    step_ = power * (rough / power > 5 ? 10 : rough / power > 2 ? 5 : rough / power > 1 ? 2 : 1);
    if (log_) step_ = std::max(1.0, std::ceil((high_ - low_) / 8));
    low_ = std::floor(low_ / step_) * step_;
    high_ = std::ceil(high_ / step_) * step_;
  }
  double at(double value) const { return from_ + (inner(value) - low_) / (high_ - low_) * (to_ - from_); }
  std::vector<double> ticks() const {
    std::vector<double> out;
    for (double tick = low_; tick <= high_ + step_ / 2; tick += step_)
      out.push_back(log_ ? std::pow(10, tick) : std::fabs(tick) < step_ / 1e6 ? 0 : tick);
    return out;
  }

 private:
  double inner(double value) const { return log_ ? std::log10(value) : value; }
  bool log_;
  double from_, to_, step_ = 1;
  double low_ = std::numeric_limits<double>::infinity(), high_ = -low_;
};

}  // namespace

std::string fixed(double value, int digits) {
  char text[400];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else
      out += c;
  }
  return out;
}

std::string text_at(double x, double y, const char* anchor, const std::string& content) {
  return joined("<text x=\"", fixed(x, 1), "\" y=\"", fixed(y, 1), "\" text-anchor=\"", anchor, "\">",
                content, "</text>\n");
}

std::string line_at(double x1, double y1, double x2, double y2) {
  return joined("<line x1=\"", fixed(x1, 1), "\" y1=\"", fixed(y1, 1), "\" x2=\"", fixed(x2, 1), "\" y2=\"",
                fixed(y2, 1), "\"/>\n");
}

std::string html_page(const std::string& title, const std::string& body) {
  return joined(
      "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n<title>", escaped(title),
      "</title>\n<style>\n"
      "body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; "
      "color: #222 }\n"
      "table { border-collapse: collapse } td, th { padding: .15rem .8rem; text-align: right }\n"
      "td:first-child, th:first-child { text-align: left }\n"
      "svg { width: 100%; font-size: 12px } svg line { stroke: #ddd }\n"
      "</style>\n<h1>",
      escaped(title), "</h1>\n", body, "</html>\n");
}

void Chart::add(std::string name, Mark mark, std::vector<Point> points) {
  series_.push_back({std::move(name), mark, std::move(points)});
}

std::string Chart::svg() const {
  Axis x(x_scale_, 70, 720), y(y_scale_, 420, 20);
  for (const Series& series : series_)
    for (const Point& point : series.points)
      if (x.shows(point.x) && y.shows(point.y)) x.hold(point.x), y.hold(point.y);
  x.settle();
  y.settle();
  std::string out = joined("<svg viewBox=\"0 0 900 470\" role=\"img\" aria-label=\"", escaped(y_label_),
                           " over ", escaped(x_label_), "\">\n");
  for (const double tick : x.ticks())
    out += line_at(x.at(tick), 20, x.at(tick), 420) + text_at(x.at(tick), 438, "middle", number(tick));
  for (const double tick : y.ticks())
    out += line_at(70, y.at(tick), 720, y.at(tick)) + text_at(62, y.at(tick) + 4, "end", number(tick));
  out += text_at(395, 462, "middle", escaped(x_label_));
  out += joined("<text transform=\"translate(14,220) rotate(-90)\" text-anchor=\"middle\">",
                escaped(y_label_), "</text>\n");
  for (std::size_t i = 0; i < series_.size(); ++i) {
    const Series& series = series_[i];
    const char* colour = colours[i % std::size(colours)];
    std::string path;
    for (const Point& point : series.points) {
      if (!x.shows(point.x) || !y.shows(point.y)) continue;
      const std::string px = fixed(x.at(point.x), 1), py = fixed(y.at(point.y), 1);
      if (series.mark == Mark::Line) {
        path += joined(path.empty() ? "M" : "L", px, " ", py);
        continue;
      }
      out += joined("<circle cx=\"", px, "\" cy=\"", py, "\" r=\"4\" fill=\"", colour, "\"><title>",
                    escaped(point.label.empty() ? series.name : point.label), ": ", number(point.x), ", ",
                    number(point.y), "</title></circle>\n");
    }
    if (!path.empty())
      out += joined("<path d=\"", path, "\" fill=\"none\" stroke=\"", colour, "\" stroke-width=\"1.5\"/>\n");
    const double row = 30 + 18 * static_cast<double>(i);
    out += joined("<circle cx=\"740\" cy=\"", fixed(row, 1), "\" r=\"4\" fill=\"", colour, "\"/>\n",
                  text_at(752, row + 4, "start", escaped(series.name)));
  }
  return out + "</svg>\n";
}

std::string heat_map(const std::vector<std::string>& row_names, const std::string& x_label,
                     const std::vector<std::vector<double>>& values) {
  std::size_t columns = 1;
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const std::vector<double>& row : values) {
    columns = std::max(columns, row.size());
    for (const double value : row) low = std::min(low, value), high = std::max(high, value);
  }
  const double width = 780.0 / static_cast<double>(columns), height = 26;
  const double bottom = height * static_cast<double>(values.size());
  std::string out = joined("<svg viewBox=\"0 0 900 ", fixed(bottom + 45, 0), "\" role=\"img\" aria-label=\"",
                           escaped(x_label), "\">\n");
  for (std::size_t r = 0; r < values.size(); ++r) {
    const double top = height * static_cast<double>(r);
    out += text_at(92, top + 17, "end", escaped(r < row_names.size() ? row_names[r] : ""));
    for (std::size_t c = 0; c < values[r].size(); ++c) {
      const double share = high > low ? (values[r][c] - low) / (high - low) : 0.5;
      const double left = 100 + width * static_cast<double>(c);
      out +=
          joined("<rect x=\"", fixed(left, 1), "\" y=\"", fixed(top, 1), "\" width=\"", fixed(width - 1, 1),
                 "\" height=\"", fixed(height - 1, 1), "\" fill=\"hsl(212,70%,", fixed(92 - 55 * share, 0),
                 "%)\"><title>", std::to_string(c), ": ", number(values[r][c]), "</title></rect>\n");
      if (width >= 16)
        out += joined("<text x=\"", fixed(left + width / 2, 1), "\" y=\"", fixed(top + 17, 1),
                      "\" text-anchor=\"middle\" fill=\"", share > 0.5 ? "#fff" : "#222", "\">",
                      fixed(values[r][c], 0), "</text>\n");
    }
  }
  return out + text_at(490, bottom + 25, "middle", escaped(x_label)) + "</svg>\n";
}

}  // namespace higgs::model
