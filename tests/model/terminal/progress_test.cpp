// SPDX-License-Identifier: Apache-2.0
#include "terminal/progress.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <sstream>
#include <string>

using namespace higgs::model;
using namespace std::chrono_literals;
using Clock = ProgressBar::Clock;

namespace {

// What a log gets of `steps` steps, each `pause` after the last.
std::string log_of(int steps, Clock::duration pause, const std::string& note = {}) {
  std::ostringstream out;
  const Clock::time_point start{};
  ProgressBar bar("work", "steps", ProgressBar::Style::Lines, out, start);
  for (int i = 1; i <= steps; ++i) bar.update(i, steps, note, start + i * pause);
  return out.str();
}

std::ptrdiff_t lines(const std::string& text) { return std::count(text.begin(), text.end(), '\n'); }

}  // namespace

TEST_CASE("a log gets a line for every tenth or half minute, and none twice a second", "[model][progress]") {
  CHECK(lines(log_of(1000, 10ms)) == 10);      // 10 s: a tenth takes one
  CHECK(lines(log_of(1000, 100ms)) == 10);     // 100 s
  CHECK(log_of(1000, 100us).empty());          // over within a second
  CHECK(lines(log_of(100, 1ms * 100)) <= 10);  // 10 s
  const std::string slow = log_of(1000, 3s);   // 50 minutes
  CHECK(lines(slow) == 100);                   // each 30 s; tenths fall on them
  CHECK(slow.find('\r') == slow.npos);
  CHECK(slow.find('\033') == slow.npos);
  CHECK(lines(log_of(4, 100s)) == 4);
}

TEST_CASE("a line says the share, the rate, the time left and what is known", "[model][progress]") {
  CHECK(log_of(2, 100s, "perplexity 7") ==
        "work: 50 %, perplexity 7\n"
        "work: 100 %, 0.01 steps/s, 0:00 left, perplexity 7\n");
  const std::string hours = log_of(1000, 36s);
  CHECK(hours.find("work: 10 %, 0.0278 steps/s, 9:00:00 left\n") != hours.npos);
}

TEST_CASE("what a resumed run finds done does not count as its speed", "[model][progress]") {
  std::ostringstream out;
  const Clock::time_point start{};
  ProgressBar bar("work", "steps", ProgressBar::Style::Lines, out, start);
  bar.update(900, 1000, {}, start);
  bar.update(950, 1000, {}, start + 50s);
  CHECK(out.str() == "work: 95 %, 1 steps/s, 0:50 left\n");
}

TEST_CASE("a bar is drawn over itself and goes away", "[model][progress]") {
  std::ostringstream out;
  const Clock::time_point start{};
  {
    ProgressBar bar("work", "steps", ProgressBar::Style::Bar, out, start);
    for (int i = 1; i <= 1000; ++i) bar.update(i, 1000, {}, start + i * 1ms);
  }
  const std::string text = out.str();
  CHECK(lines(text) == 0);
  CHECK(std::count(text.begin(), text.end(), '\r') == 10 + 1);
  CHECK(text.ends_with("\r\033[K"));
}

TEST_CASE("large numbers have prefixes", "[model][progress]") {
  CHECK(with_unit(999, "tokens") == "999 tokens");
  CHECK(with_unit(1234567, "tokens") == "1.23 M tokens");
  CHECK(with_unit(2e9, "B") == "2 GB");
}
