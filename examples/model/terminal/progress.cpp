// SPDX-License-Identifier: Apache-2.0
#include "terminal/progress.hpp"

#include <cstddef>
#include <cstdio>
#include <iostream>
#include <utility>

#if __has_include(<sys/ioctl.h>)
#  include <sys/ioctl.h>
#  include <unistd.h>
#endif

namespace higgs::model {
namespace {

using namespace std::chrono_literals;

bool is_terminal() {
#if __has_include(<sys/ioctl.h>)
  return ::isatty(STDERR_FILENO) == 1;
#else
  return false;
#endif
}

// Of the terminal on standard error; a line that is longer could not be drawn over.
std::size_t terminal_columns() {
#if __has_include(<sys/ioctl.h>)
  struct winsize size = {};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
#endif
  return 1000;
}

std::string clock_time(double seconds) {
  char text[32];
  const auto whole = static_cast<long>(seconds + 0.5);
  if (whole >= 3600)
    std::snprintf(text, sizeof text, "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
  else
    std::snprintf(text, sizeof text, "%ld:%02ld", whole / 60, whole % 60);
  return text;
}

}  // namespace

std::string with_unit(double value, const std::string& unit) {
  const std::string prefix = value >= 1e9 ? "G" : value >= 1e6 ? "M" : value >= 1e3 ? "k" : "";
  const double factor = value >= 1e9 ? 1e9 : value >= 1e6 ? 1e6 : value >= 1e3 ? 1e3 : 1;
  char text[64];
  std::snprintf(text, sizeof text, "%.3g ", value / factor);
  return text + prefix + (prefix.empty() || unit == "B" ? "" : " ") + unit;
}

ProgressBar::ProgressBar(std::string label, std::string unit)
    : ProgressBar(std::move(label), std::move(unit), is_terminal() ? Style::Bar : Style::Lines, std::cerr) {}

ProgressBar::ProgressBar(std::string label, std::string unit, Style style, std::ostream& out,
                         Clock::time_point now)
    : label_(std::move(label)), unit_(std::move(unit)), style_(style), out_(out), start_(now), shown_(now) {}

ProgressBar::~ProgressBar() {
  if (style_ == Style::Bar && first_ >= 0) out_ << "\r\033[K" << std::flush;
}

bool ProgressBar::due(std::int64_t tenth, Clock::time_point now) const {
  if (style_ == Style::Bar) return first_ < 0 || now - shown_ >= 100ms;
  return now - shown_ >= 30s || (tenth > tenth_ && now - shown_ >= 1s);
}

void ProgressBar::update(std::int64_t done, std::int64_t total, const std::string& note,
                         Clock::time_point now) {
  if (total <= 0) return;
  const std::int64_t tenth = done * 10 / total;
  const bool show = due(tenth, now);
  if (first_ < 0) {
    first_ = done;
    start_ = now;
  }
  if (!show) return;
  shown_ = now;
  tenth_ = tenth;
  std::string line = label_;
  if (style_ == Style::Bar) {
    constexpr std::int64_t width = 30;
    const auto filled = static_cast<std::size_t>(done * width / total);
    line = "\r" + line + " [" + std::string(filled, '#') + std::string(width - filled, '.') + "] ";
  } else {
    line += ": ";
  }
  line += std::to_string(done * 100 / total) + " %";
  const double seconds = std::chrono::duration<double>(now - start_).count();
  if (seconds > 0 && done > first_) {
    const double rate = static_cast<double>(done - first_) / seconds;
    line += ", " + with_unit(rate, unit_) + "/s, " + clock_time(static_cast<double>(total - done) / rate) +
            " left";
  }
  if (!note.empty()) line += ", " + note;
  if (style_ == Style::Bar && line.size() > terminal_columns()) line.resize(terminal_columns());
  out_ << line << (style_ == Style::Bar ? "\033[K" : "\n") << std::flush;
}

}  // namespace higgs::model
