// SPDX-License-Identifier: Apache-2.0
#include "../../examples/model/page.hpp"

#include <catch2/catch.hpp>

#include <cmath>
#include <string>

using namespace higgs::model;

namespace {

std::size_t count(const std::string& text, const std::string& part) {
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
  CHECK(count(svg, "<circle") == 2 + 2);  // and one for each name
  CHECK(count(svg, "<path") == 1);
  CHECK(svg.find("&lt;last&gt;: 4, 1000") != svg.npos);
  CHECK(svg.find("zero") == svg.npos);
  CHECK(svg.find("nan") == svg.npos);
}

TEST_CASE("charts of nothing and of one point are drawn", "[model][page]") {
  for (const Chart::Scale scale : {Chart::Scale::Linear, Chart::Scale::Log}) {
    Chart chart("x", "y", scale, scale);
    CHECK(count(chart.svg(), "</svg>") == 1);
    chart.add("one", Chart::Mark::Points, {{5, 5}});
    const std::string svg = chart.svg();
    CHECK(count(svg, "<circle") == 2);
    CHECK(svg.find("nan") == svg.npos);
    CHECK(svg.find("inf") == svg.npos);
  }
}

TEST_CASE("a heat map has a cell for every number", "[model][page]") {
  const std::string map = heat_map({"a", "b<"}, "block", {{1, 2, 3}, {4, 5}});
  CHECK(count(map, "<rect") == 5);
  CHECK(map.find("b&lt;") != map.npos);
  CHECK(count(heat_map({}, "x", {}), "</svg>") == 1);
}
