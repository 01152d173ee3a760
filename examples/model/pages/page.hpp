// SPDX-License-Identifier: Apache-2.0
// Pages of HTML with pictures in SVG, for people.
#pragma once

#include <array>
#include <optional>
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

/// A rectangle in a picture; y grows downwards.
struct Box {
  double x = 0, y = 0, width = 0, height = 0;

  bool meets(const Box& other) const noexcept {
    return x < other.x + other.width && other.x < x + width && y < other.y + other.height &&
           other.y < y + height;
  }
  bool holds(const Box& other) const noexcept {
    return x <= other.x && y <= other.y && other.x + other.width <= x + width &&
           other.y + other.height <= y + height;
  }
};

/// A dot that wants a label of that width beside it.
struct LabelledDot {
  double x = 0, y = 0;
  double label_width = 0;
};

/// Room for the label of each dot within `frame`: as near to it as there is room, where it covers no dot, no other label
/// and none of `obstacles`, and where a line from the dot reaches it without crossing another label. A box without width
/// where there is none.
std::vector<Box> place_labels(const std::vector<LabelledDot>& dots, const Box& frame,
                              const std::vector<Box>& obstacles);

/// The ends of the line that leads from a dot to its label; nothing if the label stands beside the dot.
std::optional<std::array<double, 4>> leader(const LabelledDot& dot, const Box& label);

/// Round numbers that hold low ... high between the first and the last of them: 1, 2 or 5 times a power of ten, or that
/// far apart. Logarithmic ones are for positive numbers.
std::vector<double> round_ticks(double low, double high, bool logarithmic);

/// A picture of points and lines over two axes.
class Chart {
 public:
  enum class Scale { Linear, Log };
  /// Points show their labels where the mouse rests; Labelled ones beside them.
  enum class Mark { Points, Labelled, Line };
  struct Point {
    double x, y;
    std::string label{};
    double error = 0;  // y reaches so far to either side
  };

  Chart(std::string x_label, std::string y_label, Scale x_scale, Scale y_scale)
      : x_label_(std::move(x_label)), y_label_(std::move(y_label)), x_scale_(x_scale), y_scale_(y_scale) {}

  /// Adds a series; what a logarithmic axis cannot show of it is left out.
  void add(std::string name, Mark mark, std::vector<Point> points);
  std::string svg() const;

 private:
  class Drawing;
  struct Series {
    std::string name;
    Mark mark;
    std::vector<Point> points;
  };
  std::string x_label_, y_label_;
  Scale x_scale_, y_scale_;
  std::vector<Series> series_;
};

/// A table of numbers as a picture: small ones light, large ones dark; columns are numbered from 0.
std::string heat_map(const std::vector<std::string>& row_names, const std::string& x_label,
                     const std::vector<std::vector<double>>& values);

}  // namespace higgs::model
