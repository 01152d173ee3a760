// SPDX-License-Identifier: Apache-2.0
// Pages of HTML with pictures in SVG, for people.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace higgs::model {

/// A number with so many digits after the point.
std::string fixed(double value, int digits);
/// Text that HTML shows as it is.
std::string escaped(std::string_view text);
/// All parts, one after the other.
template <class... Parts>
std::string joined(const Parts&... parts) {
  std::string out;
  (out.append(parts), ...);
  return out;
}

/// SVG: text at a point, "start", "middle" or "end" of it there; and a line between two points.
std::string text_at(double x, double y, const char* anchor, const std::string& content);
std::string line_at(double x1, double y1, double x2, double y2);

/// A page with that title over `body`, which is HTML.
std::string html_page(const std::string& title, const std::string& body);

/// A picture of points and lines over two axes.
class Chart {
 public:
  enum class Scale { Linear, Log };
  enum class Mark { Points, Line };
  struct Point {
    double x, y;
    std::string label{};  // shown where the mouse rests
  };

  Chart(std::string x_label, std::string y_label, Scale x_scale, Scale y_scale)
      : x_label_(std::move(x_label)), y_label_(std::move(y_label)), x_scale_(x_scale), y_scale_(y_scale) {}

  /// Adds a series; what a logarithmic axis cannot show of it is left out.
  void add(std::string name, Mark mark, std::vector<Point> points);
  std::string svg() const;

 private:
  struct Series {
    std::string name;
    Mark mark;
    std::vector<Point> points;
  };
  std::string x_label_, y_label_;
  Scale x_scale_, y_scale_;
  std::vector<Series> series_;
};

/// A table of numbers as a picture: small ones light, large ones dark.
std::string heat_map(const std::vector<std::string>& row_names, const std::string& x_label,
                     const std::vector<std::vector<double>>& values);

}  // namespace higgs::model
