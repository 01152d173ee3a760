// SPDX-License-Identifier: Apache-2.0
#include "pages/page.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <numbers>
#include <numeric>
#include <utility>

namespace higgs::model {
namespace {

constexpr const char* colours[] = {"#0b62c4", "#b8561b", "#1a8a4a", "#8a3fa8", "#b3212f",
                                   "#6b6b00", "#007f8c", "#d0489a", "#555555"};

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
    if (!shows(value)) return;
    low_ = std::min(low_, value);
    high_ = std::max(high_, value);
  }
  // Widens the range to its ticks.
  void settle() {
    if (!(low_ <= high_)) low_ = log_ ? 1 : 0, high_ = log_ ? 10 : 1;
    ticks_ = round_ticks(low_, high_, log_);
    low_ = ticks_.front();
    high_ = ticks_.back();
  }
  double at(double value) const {
    const double share = (inner(value) - inner(low_)) / (inner(high_) - inner(low_));
    return from_ + std::clamp(share, 0.0, 1.0) * (to_ - from_);
  }
  const std::vector<double>& ticks() const { return ticks_; }

 private:
  // What a logarithmic axis cannot show lies at its low end.
  double inner(double value) const { return log_ ? std::log10(std::max(value, 1e-300)) : value; }
  bool log_;
  double from_, to_;
  double low_ = std::numeric_limits<double>::infinity(), high_ = -low_;
  std::vector<double> ticks_;
};

// 1, 2 or 5 times a power of ten: the least that is not below `value`.
double round_up(double value) {
  const double power = std::pow(10, std::floor(std::log10(value)));
  for (const double digit : {1, 2, 5})
    if (digit * power >= value * (1 - 1e-9)) return digit * power;
  return 10 * power;
}

std::vector<double> linear_ticks(double low, double high) {
  if (high - low < 1e-9 * std::max(std::fabs(low), std::fabs(high)) || high == low) {
    const double around = low == 0 ? 0.5 : std::fabs(low) / 10;
    low -= around, high += around;
  }
  const double step = round_up((high - low) / 7);
  const double first = std::floor(low / step + 1e-9), last = std::ceil(high / step - 1e-9);
  std::vector<double> out;
  for (double i = first; i <= last; ++i) out.push_back(i == 0 ? 0 : i * step);
  return out;
}

std::vector<double> log_ticks(double low, double high) {
  // Powers of ten alone where 1-2-5 would crowd the axis, and only some of those where they would.
  const double decades = std::log10(high / low);
  const int stride = static_cast<int>(std::ceil(decades / 12));
  std::vector<double> out;
  const int from = static_cast<int>(std::floor(std::log10(low))) - 1,
            to = static_cast<int>(std::ceil(std::log10(high))) + std::max(1, stride);
  for (int power = from; power <= to; ++power)
    for (const double digit : {1.0, 2.0, 5.0}) {
      if (digit > 1 && decades > 4) continue;
      if (stride > 1 && (power - from) % stride != 0) continue;
      out.push_back(digit * std::pow(10.0, power));
    }
  const auto first = std::upper_bound(out.begin(), out.end(), low * (1 + 1e-9));
  const auto last = std::lower_bound(out.begin(), out.end(), high * (1 - 1e-9));
  return {first == out.begin() ? first : first - 1, last == out.end() ? last : last + 1};
}

// Whether a line from (x1, y1) to (x2, y2) passes through a box: where it is cut by the box's four sides.
bool crosses(const std::array<double, 4>& line, const Box& box) {
  double enter = 0, leave = 1;
  const auto cut = [&](double from, double to, double low, double high) {
    const double step = to - from;
    if (step == 0) return from > low && from < high;
    const double a = (low - from) / step, b = (high - from) / step;
    enter = std::max(enter, std::min(a, b));
    leave = std::min(leave, std::max(a, b));
    return enter < leave;
  };
  return cut(line[0], line[2], box.x, box.x + box.width) &&
         cut(line[1], line[3], box.y, box.y + box.height) && enter < leave;
}

constexpr double dot_radius = 5, label_height = 14, text_rise = 11;

Box around(const LabelledDot& dot) {
  return {dot.x - dot_radius - 1, dot.y - dot_radius - 1, 2 * dot_radius + 2, 2 * dot_radius + 2};
}

double label_width(const std::string& text) { return 4 + 6.8 * static_cast<double>(text.size()); }

std::string path_of(const char* colour, const std::string& way, double width) {
  return joined("<path d=\"", way, "\" fill=\"none\" stroke=\"", colour, "\" stroke-width=\"",
                fixed(width, 1), "\"/>\n");
}

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
      ".label { paint-order: stroke; stroke: #fff; stroke-width: 3px }\n"
      "dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; margin: 1rem 0 }\n"
      "dt { color: #666 } dd { margin: 0; overflow-wrap: anywhere }\n"
      "</style>\n<h1>",
      escaped(title), "</h1>\n", body, "</html>\n");
}

void Chart::add(std::string name, Mark mark, std::vector<Point> points) {
  series_.push_back({std::move(name), mark, std::move(points)});
}

std::vector<double> round_ticks(double low, double high, bool logarithmic) {
  return logarithmic && high > 3 * low ? log_ticks(low, high) : linear_ticks(low, high);
}

std::optional<std::array<double, 4>> leader(const LabelledDot& dot, const Box& label) {
  const double x = std::clamp(dot.x, label.x, label.x + label.width);
  const double y = std::clamp(dot.y, label.y, label.y + label.height);
  const double length = std::hypot(x - dot.x, y - dot.y);
  if (length <= 2 * dot_radius) return {};
  const double start = (dot_radius + 1) / length;
  return std::array{dot.x + (x - dot.x) * start, dot.y + (y - dot.y) * start, x, y};
}

std::vector<Box> place_labels(const std::vector<LabelledDot>& dots, const Box& frame,
                              const std::vector<Box>& obstacles) {
  constexpr int directions = 24;
  std::vector<Box> labels(dots.size());
  std::vector<std::array<double, 4>> lines;
  // Whether a label may stand there; `clear`: its leader may cross no other dot either.
  const auto free = [&](std::size_t own, const Box& box, bool clear) {
    const auto meets = [&](const Box& other) { return box.meets(other); };
    if (!frame.holds(box) || std::ranges::any_of(obstacles, meets) || std::ranges::any_of(labels, meets) ||
        std::ranges::any_of(lines, [&](const auto& line) { return crosses(line, box); }))
      return false;
    const auto line = leader(dots[own], box);
    for (std::size_t i = 0; i < dots.size(); ++i) {
      const Box dot = around(dots[i]);
      if (box.meets(dot) || (clear && line && i != own && crosses(*line, dot))) return false;
    }
    return !line || std::ranges::none_of(labels, [&](const Box& other) { return crosses(*line, other); });
  };
  // The nearest free place: to the right first, then ever further from there, to either side in turn.
  const auto place = [&](std::size_t own, bool clear) {
    const LabelledDot& dot = dots[own];
    for (double distance = dot_radius + 3; distance < 900; distance += 4)
      for (int turn = 0; turn < directions; ++turn) {
        const double angle = std::numbers::pi * 2 / directions * ((turn + 1) / 2) * (turn % 2 == 0 ? 1 : -1);
        const double share = (1 - std::cos(angle)) / 2;  // share of the label on the left of its point
        const Box box{dot.x + distance * std::cos(angle) - share * dot.label_width,
                      dot.y + distance * std::sin(angle) - label_height / 2 * (1 - std::sin(angle)),
                      dot.label_width, label_height};
        if (free(own, box, clear)) return box;
      }
    return Box{};
  };
  // Who finds no room is placed before the others in the next attempt.
  std::vector<std::size_t> order(dots.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (int attempt = 0; attempt < 10; ++attempt) {
    labels.assign(dots.size(), {});
    lines.clear();
    for (const std::size_t i : order) {
      labels[i] = place(i, true);
      if (labels[i].width == 0) labels[i] = place(i, false);
      if (const auto line = leader(dots[i], labels[i]); line && labels[i].width > 0) lines.push_back(*line);
    }
    const auto placed = [&](std::size_t i) { return labels[i].width > 0; };
    if (std::ranges::all_of(order, placed)) break;
    std::ranges::stable_partition(order, [&](std::size_t i) { return !placed(i); });
  }
  return labels;
}

// One picture of a chart, as it grows.
class Chart::Drawing {
 public:
  explicit Drawing(const Chart& chart)
      : chart_(chart),
        bottom_(has_labels(chart) ? 540 : 420),
        x_(chart.x_scale_, left, right),
        y_(chart.y_scale_, bottom_, top) {
    for (const Series& series : chart.series_)
      for (const Point& point : series.points) {
        if (!x_.shows(point.x) || !y_.shows(point.y)) continue;
        x_.hold(point.x);
        y_.hold(point.y);
        y_.hold(point.y + point.error);
        if (chart.y_scale_ == Scale::Linear || point.error < point.y / 2) y_.hold(point.y - point.error);
      }
    x_.settle();
    y_.settle();
  }

  std::string svg() {
    out_ = joined("<svg viewBox=\"0 0 900 ", fixed(bottom_ + 50, 0), "\" role=\"img\" aria-label=\"",
                  escaped(chart_.y_label_), " over ", escaped(chart_.x_label_), "\">\n");
    draw_axes();
    for (std::size_t i = 0; i < chart_.series_.size(); ++i) draw_series(i);
    draw_labels();
    return out_ + "</svg>\n";
  }

 private:
  static constexpr double left = 76, right = 720, top = 20;

  static bool has_labels(const Chart& chart) {
    return std::ranges::any_of(chart.series_, [](const Series& each) { return each.mark == Mark::Labelled; });
  }

  void draw_axes() {
    for (const double tick : x_.ticks())
      out_ += line_at(x_.at(tick), top, x_.at(tick), bottom_) +
              text_at(x_.at(tick), bottom_ + 18, "middle", number(tick));
    for (const double tick : y_.ticks())
      out_ += line_at(left, y_.at(tick), right, y_.at(tick)) +
              text_at(left - 8, y_.at(tick) + 4, "end", number(tick));
    out_ += text_at((left + right) / 2, bottom_ + 42, "middle", escaped(chart_.x_label_));
    out_ += joined("<text transform=\"translate(14,", fixed(bottom_ / 2 + 10, 0),
                   ") rotate(-90)\" text-anchor=\"middle\">", escaped(chart_.y_label_), "</text>\n");
  }

  void draw_series(std::size_t index) {
    const Series& series = chart_.series_[index];
    const char* colour = colours[index % std::size(colours)];
    std::string path;
    for (const Point& point : series.points) {
      if (!x_.shows(point.x) || !y_.shows(point.y)) continue;
      if (series.mark == Mark::Line)
        path += joined(path.empty() ? "M" : "L", fixed(x_.at(point.x), 1), " ", fixed(y_.at(point.y), 1));
      else
        draw_point(series, point, colour);
    }
    if (!path.empty()) out_ += path_of(colour, path, 1.5);
    const double row = 30 + 18 * static_cast<double>(index);  // row of the legend
    if (series.mark == Mark::Line)
      out_ += path_of(colour, joined("M732 ", fixed(row, 1), "H748"), 1.5);
    else
      out_ += joined("<circle cx=\"740\" cy=\"", fixed(row, 1), "\" r=\"4\" fill=\"", colour, "\"/>\n");
    out_ += text_at(754, row + 4, "start", escaped(series.name));
  }

  // A dot with its error bar; a label is placed when all dots are known.
  void draw_point(const Series& series, const Point& point, const char* colour) {
    const double px = x_.at(point.x), py = y_.at(point.y);
    if (point.error > 0) {
      const double low = y_.at(point.y - point.error), high = y_.at(point.y + point.error);
      out_ +=
          path_of(colour,
                  joined("M", fixed(px, 1), " ", fixed(low, 1), "V", fixed(high, 1), "M", fixed(px - 3, 1),
                         " ", fixed(low, 1), "h6M", fixed(px - 3, 1), " ", fixed(high, 1), "h6"),
                  1);
      obstacles_.push_back({px - 3, high, 6, low - high});
    }
    out_ += joined("<circle cx=\"", fixed(px, 1), "\" cy=\"", fixed(py, 1), "\" r=\"4\" fill=\"", colour,
                   "\"><title>", escaped(point.label.empty() ? series.name : point.label), ": ",
                   number(point.x), ", ", number(point.y),
                   point.error > 0 ? joined(" +- ", number(point.error)) : "", "</title></circle>\n");
    if (series.mark != Mark::Labelled) return;
    dots_.push_back({px, py, label_width(point.label)});
    labels_.emplace_back(&point, colour);
  }

  void draw_labels() {
    const double legend = 18 * static_cast<double>(chart_.series_.size()) + 12;
    obstacles_.push_back({728, 20, 172, legend});
    const std::vector<Box> places =
        place_labels(dots_, {left + 2, top, 896 - left, bottom_ - top - 2}, obstacles_);
    for (std::size_t i = 0; i < dots_.size(); ++i) {
      if (places[i].width == 0) continue;  // no room; the mouse shows it
      const auto& [point, colour] = labels_[i];
      if (const auto line = leader(dots_[i], places[i]))
        out_ += path_of(colour,
                        joined("M", fixed((*line)[0], 1), " ", fixed((*line)[1], 1), "L",
                               fixed((*line)[2], 1), " ", fixed((*line)[3], 1)),
                        0.7);
      out_ += joined("<text class=\"label\" fill=\"", colour, "\" x=\"", fixed(places[i].x + 2, 1), "\" y=\"",
                     fixed(places[i].y + text_rise, 1), "\">", escaped(point->label), "</text>\n");
    }
  }

  const Chart& chart_;
  double bottom_;
  Axis x_, y_;
  std::string out_{};
  std::vector<LabelledDot> dots_{};
  std::vector<std::pair<const Point*, const char*>> labels_{};  // and their colours
  std::vector<Box> obstacles_{};
};

std::string Chart::svg() const { return Drawing(*this).svg(); }

namespace {

// With one decimal, unless that is 0.
std::string short_number(double value) {
  const std::string text = fixed(value, 1);
  return text.ends_with(".0") ? text.substr(0, text.size() - 2) : text;
}

}  // namespace

std::string heat_map(const std::vector<std::string>& row_names, const std::string& x_label,
                     const std::vector<std::vector<double>>& values) {
  std::size_t columns = 1;
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const std::vector<double>& row : values) {
    columns = std::max(columns, row.size());
    for (const double value : row) low = std::min(low, value), high = std::max(high, value);
  }
  std::size_t longest = 0;
  for (const std::string& name : row_names) longest = std::max(longest, name.size());
  const double margin = std::max(100.0, 8 * static_cast<double>(longest) + 8);
  const double width = (880 - margin) / static_cast<double>(columns), height = 26;
  const double bottom = height * static_cast<double>(values.size());
  std::string out = joined("<svg viewBox=\"0 0 900 ", fixed(bottom + 50, 0), "\" role=\"img\" aria-label=\"",
                           escaped(x_label), "\">\n");
  for (std::size_t r = 0; r < values.size(); ++r) {
    const double top = height * static_cast<double>(r);
    out += text_at(margin - 8, top + 17, "end", escaped(r < row_names.size() ? row_names[r] : ""));
    for (std::size_t c = 0; c < values[r].size(); ++c) {
      const double share = high > low ? (values[r][c] - low) / (high - low) : 0.5;
      const double left = margin + width * static_cast<double>(c);
      out +=
          joined("<rect x=\"", fixed(left, 1), "\" y=\"", fixed(top, 1), "\" width=\"", fixed(width - 1, 1),
                 "\" height=\"", fixed(height - 1, 1), "\" fill=\"hsl(212,70%,", fixed(92 - 55 * share, 0),
                 "%)\"><title>", std::to_string(c), ": ", number(values[r][c]), "</title></rect>\n");
      if (width >= 16)
        out += joined("<text x=\"", fixed(left + width / 2, 1), "\" y=\"", fixed(top + 17, 1),
                      "\" text-anchor=\"middle\" fill=\"", share > 0.5 ? "#fff" : "#222", "\">",
                      short_number(values[r][c]), "</text>\n");
    }
  }
  // As many numbers as have room.
  const auto stride = static_cast<std::size_t>(round_up(std::max(1.0, 24 / width)));
  for (std::size_t c = 0; c < columns; c += stride)
    out += text_at(margin + width * (static_cast<double>(c) + 0.5), bottom + 14, "middle", std::to_string(c));
  return out + text_at((margin + 880) / 2, bottom + 34, "middle", escaped(x_label)) + "</svg>\n";
}

}  // namespace higgs::model
