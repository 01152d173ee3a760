// SPDX-License-Identifier: Apache-2.0
// How far long work has come, for people who wait.
#pragma once

#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <string>

namespace higgs::model {

/// Rate and time left on standard error. On a terminal: a bar, drawn over itself, that disappears with the object. Else,
/// as in a log: a line whenever another tenth is done or 30 seconds have passed, but no two within a second.
class ProgressBar {
 public:
  enum class Style { Bar, Lines };
  using Clock = std::chrono::steady_clock;

  /// `unit` is what is counted, "tokens"; rates are given in thousands or millions where they are large.
  ProgressBar(std::string label, std::string unit);
  ProgressBar(std::string label, std::string unit, Style style, std::ostream& out,
              Clock::time_point now = Clock::now());
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  ~ProgressBar();

  /// `note` stands at the end of the line: what is known so far.
  void update(std::int64_t done, std::int64_t total, const std::string& note = {},
              Clock::time_point now = Clock::now());

 private:
  bool due(std::int64_t tenth, Clock::time_point now) const;

  std::string label_, unit_;
  Style style_;
  std::ostream& out_;
  Clock::time_point start_, shown_;
  std::int64_t first_ = -1;  // work done at the first update; the rate does not count it
  std::int64_t tenth_ = 0;   // tenths of all work, when last shown
};

/// "1234567 tokens" as "1.23 M tokens".
std::string with_unit(double value, const std::string& unit);

}  // namespace higgs::model
