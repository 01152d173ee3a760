// SPDX-License-Identifier: Apache-2.0
#include "pages/page.hpp"

#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <set>
#include <string>
#include <vector>

using namespace higgs::model;

namespace {

std::size_t times_in(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++found;
  return found;
}

}  // namespace

TEST_CASE("text stays text", "[model][page]") {
  CHECK(escaped("a<b>&\"c\"") == "a&lt;b&gt;&amp;&quot;c&quot;");
  CHECK(fixed(2.0 / 3, 3) == "0.667");
  CHECK(joined("a", std::string("b"), "c") == "abc");
  const std::string page = html_page("<x>", "<p>body</p>");
  CHECK(page.find("<title>&lt;x&gt;</title>") != page.npos);
  CHECK(page.find("<p>body</p>") != page.npos);
}

TEST_CASE("a chart draws every point that its axes can show", "[model][page]") {
  Chart chart("x", "y<", Chart::Scale::Linear, Chart::Scale::Log);
  chart.add("points", Chart::Mark::Points,
            {{1, 10, "first"}, {2, 0, "zero"}, {3, NAN, ""}, {4, 1000, "<last>"}});
  chart.add("line", Chart::Mark::Line, {{1, 10}, {2, 100}, {4, 1000}});
  const std::string svg = chart.svg();
  CHECK(times_in(svg, "<circle") == 2 + 1);  // and one for the name of the points
  CHECK(times_in(svg, "<path") == 1 + 1);    // and one for the name of the line
  CHECK(svg.find("&lt;last&gt;: 4, 1000") != svg.npos);
  CHECK(svg.find("zero") == svg.npos);
  CHECK(svg.find("nan") == svg.npos);
}

TEST_CASE("charts of nothing and of one point are drawn", "[model][page]") {
  for (const Chart::Scale scale : {Chart::Scale::Linear, Chart::Scale::Log}) {
    Chart chart("x", "y", scale, scale);
    CHECK(times_in(chart.svg(), "</svg>") == 1);
    chart.add("one", Chart::Mark::Points, {{5, 5}});
    const std::string svg = chart.svg();
    CHECK(times_in(svg, "<circle") == 2);
    CHECK(svg.find("nan") == svg.npos);
    CHECK(svg.find("inf") == svg.npos);
  }
}

TEST_CASE("a heat map has a cell for every number", "[model][page]") {
  const std::string map = heat_map({"a", "b<"}, "block", {{1, 2, 3}, {4, 5}});
  CHECK(times_in(map, "<rect") == 5);
  for (const char* number : {">0<", ">1<", ">2<"}) CHECK(times_in(map, number) >= 1);  // of the columns
  CHECK(map.find("b&lt;") != map.npos);
  CHECK(times_in(heat_map({}, "x", {}), "</svg>") == 1);
  const std::string halves = heat_map({"a"}, "block", {{3.0486, 3.5486, 8.0486}});
  for (const char* number : {">3<", ">3.5<", ">8<"}) CHECK(times_in(halves, number) == 1);
}

TEST_CASE("a long name of a row has room beside its cells", "[model][page]") {
  const std::string map = heat_map({"embed_tokens.weight"}, "block", {{4}});
  CHECK(map.find("<text x=\"152.0\"") != map.npos);
  CHECK(map.find("<rect x=\"160.0\"") != map.npos);
}

TEST_CASE("nine kinds of layers have nine colours", "[model][page]") {
  Chart chart("x", "y", Chart::Scale::Linear, Chart::Scale::Linear);
  std::set<std::string> seen;
  for (int i = 0; i < 9; ++i)
    chart.add(std::string(1, static_cast<char>('a' + i)), Chart::Mark::Points, {{1.0 + i, 1, ""}});
  const std::string svg = chart.svg();
  for (std::size_t at = svg.find("fill=\"#"); at != svg.npos; at = svg.find("fill=\"#", at + 1))
    seen.insert(svg.substr(at + 6, 7));
  CHECK(seen.size() >= 9);
}

TEST_CASE("ticks are round, hold the data, and leave no half of the axis empty", "[model][page]") {
  const auto is_round = [](double value) {
    const double power = std::pow(10, std::floor(std::log10(value) + 1e-9));
    for (const double digit : {1, 2, 5})
      if (std::fabs(value / power - digit) < 1e-6) return true;
    return false;
  };
  for (int i = 0; i < 3000; ++i) {
    const auto random = [&](std::uint64_t seed) {
      return higgs::random_uniform(seed, static_cast<std::uint64_t>(i));
    };
    const double low = std::pow(10, 8 * random(1) - 4),
                 ratio = std::pow(10, std::pow(random(2), 3) * 20 + 1e-3);
    const double high = low * ratio;
    INFO(low << " ... " << high);
    for (const bool logarithmic : {false, true}) {
      const std::vector<double> ticks = round_ticks(low, high, logarithmic);
      REQUIRE(ticks.size() >= 2);
      CHECK(ticks.size() <= 14);
      CHECK(std::is_sorted(ticks.begin(), ticks.end()));
      CHECK(ticks.front() <= low * (1 + 1e-6));
      CHECK(ticks.back() >= high * (1 - 1e-6));
      if (logarithmic && ratio > 3) {
        for (const double tick : ticks) CHECK(is_round(tick));
        CHECK(std::log(ratio) > 0.45 * std::log(ticks.back() / ticks.front()));
      } else {
        for (std::size_t t = 1; t < ticks.size(); ++t) CHECK(is_round(ticks[1] - ticks[0]));
        CHECK(high - low > 0.6 * (ticks.back() - ticks.front()));
      }
    }
  }
  for (const bool logarithmic : {false, true})
    for (const double value : {1e-9, 3.0, 1e12}) CHECK(round_ticks(value, value, logarithmic).size() >= 2);
  CHECK(round_ticks(0, 0, false).size() >= 2);
  CHECK(round_ticks(-3, 5, false).front() <= -3);
}

TEST_CASE("labels cover neither dots nor labels nor leaders, and stay in their frame", "[model][page]") {
  const Box frame{76, 20, 820, 520}, legend{728, 20, 172, 48};
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    // Formats crowd around few widths, as they do.
    std::vector<LabelledDot> dots;
    for (std::uint64_t i = 0; i < 24; ++i) {
      const double column = 100 + 280 * std::floor(3 * higgs::random_uniform(seed, 3 * i));
      dots.push_back({column + 40 * higgs::random_uniform(seed, 3 * i + 1),
                      60 + 440 * std::pow(higgs::random_uniform(seed, 3 * i + 2), 2),
                      40 + 5.0 * static_cast<double>(i % 16)});
    }
    const std::vector<Box> labels = place_labels(dots, frame, {legend});
    REQUIRE(labels.size() == dots.size());
    for (std::size_t i = 0; i < labels.size(); ++i) {
      INFO("seed " << seed << ", label " << i);
      REQUIRE(labels[i].width == dots[i].label_width);
      CHECK(frame.holds(labels[i]));
      CHECK_FALSE(labels[i].meets(legend));
      for (std::size_t j = 0; j < labels.size(); ++j) {
        CHECK_FALSE(labels[i].meets({dots[j].x - 4, dots[j].y - 4, 8, 8}));
        if (i == j) continue;
        CHECK_FALSE(labels[i].meets(labels[j]));
        const auto line = leader(dots[j], labels[j]);
        for (double at = 0; line && at <= 1; at += 1.0 / 64) {
          const double x = (*line)[0] + at * ((*line)[2] - (*line)[0]),
                       y = (*line)[1] + at * ((*line)[3] - (*line)[1]);
          CHECK_FALSE(labels[i].meets({x, y, 0.01, 0.01}));
        }
      }
      // A leader begins at its dot and ends at its label; without one the label touches the dot's surroundings.
      const auto line = leader(dots[i], labels[i]);
      const double away = line ? std::hypot((*line)[0] - dots[i].x, (*line)[1] - dots[i].y) : 0;
      CHECK(away < 8);
    }
  }
}

TEST_CASE("where there is no room a label is left out", "[model][page]") {
  const std::vector<LabelledDot> dots(30, {50, 20, 60});
  const std::vector<Box> labels = place_labels(dots, {0, 0, 100, 40}, {});
  CHECK(std::count_if(labels.begin(), labels.end(), [](const Box& box) { return box.width == 0; }) > 20);
}

TEST_CASE("a chart labels its points and draws their errors", "[model][page]") {
  Chart chart("x", "y", Chart::Scale::Linear, Chart::Scale::Log);
  chart.add("labelled", Chart::Mark::Labelled,
            {{1, 10, "first<", 1}, {2, 20, "second", 30}, {3, 30, "third"}});
  const std::string svg = chart.svg();
  CHECK(times_in(svg, "class=\"label\"") == 3);
  CHECK(times_in(svg, "first&lt;</text>") == 1);
  CHECK(times_in(svg, "+- ") == 2);
  CHECK(svg.find("nan") == svg.npos);
  CHECK(svg.find("inf") == svg.npos);
}

TEST_CASE("an error bar reaches as far above its dot as below", "[model][page]") {
  Chart chart("x", "y", Chart::Scale::Linear, Chart::Scale::Linear);
  chart.add("points", Chart::Mark::Points, {{1, 10, "with", 2}, {2, 20, "without"}, {3, 12}});
  const std::string svg = chart.svg();
  REQUIRE(times_in(svg, "h6M") == 1);
  double x = 0, low = 0, high = 0, cx = 0, y_of_10 = 0, y_of_12 = 0;
  std::size_t bar = svg.rfind("\"M", svg.find("h6M"));
  REQUIRE(std::sscanf(svg.c_str() + bar, "\"M%lf %lfV%lf", &x, &low, &high) == 3);
  std::size_t dot = svg.find("<circle", bar);
  REQUIRE(std::sscanf(svg.c_str() + dot, "<circle cx=\"%lf\" cy=\"%lf", &cx, &y_of_10) == 2);
  dot = svg.find("<circle", svg.find("<circle", dot + 1) + 1);
  REQUIRE(std::sscanf(svg.c_str() + dot, "<circle cx=\"%*f\" cy=\"%lf", &y_of_12) == 1);
  CHECK(x == cx);
  CHECK(high == y_of_12);
  CHECK(low - y_of_10 == Approx(y_of_10 - high).margin(0.11));  // digits of the page
}
