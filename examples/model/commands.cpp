// SPDX-License-Identifier: Apache-2.0
#include "commands.hpp"

#include <higgs/core/error.hpp>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <utility>

#if __has_include(<unistd.h>)
#  include <unistd.h>
#endif

namespace higgs::model {
namespace {

bool is_terminal() {
#if __has_include(<unistd.h>)
  return ::isatty(2) == 1;
#else
  return false;
#endif
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

void CommonOptions::add_to(CLI::App& command) {
  command.add_option("--json", json, "write the results as JSON to this file (-: standard output)")
      ->type_name("FILE");
  command.add_option("--threads", threads, "threads to use (0: one for each core)")
      ->check(CLI::Range(0, 4096));
}

void add_text_options(CLI::App& command, std::string& text_file, std::int64_t& window, std::int64_t& tokens) {
  command.add_option("--text", text_file, "text to predict")->required()->type_name("FILE");
  command.add_option("--window", window, "tokens in a window")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{2}, std::int64_t{1} << 30));
  command.add_option("--tokens", tokens, "use the first so many tokens of the text (0: all)")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40));
}

std::ostream& CommonOptions::text() const { return json == "-" ? std::cerr : std::cout; }

void CommonOptions::write(const nlohmann::ordered_json& results) const {
  if (json.empty()) return;
  // Tokens of a model need not be whole characters; JSON must be.
  const std::string out =
      results.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  if (json == "-") {
    std::cout << out << std::flush;
    if (!std::cout) throw IoError("the standard output cannot be written");
    return;
  }
  std::ofstream file(json, std::ios::binary);
  file << out << std::flush;
  if (!file) throw IoError(json + ": cannot be written");
}

std::string with_unit(double value, const std::string& unit) {
  const char* prefix = value >= 1e9 ? "G " : value >= 1e6 ? "M " : value >= 1e3 ? "k " : "";
  const double factor = value >= 1e9 ? 1e9 : value >= 1e6 ? 1e6 : value >= 1e3 ? 1e3 : 1;
  char text[64];
  std::snprintf(text, sizeof text, "%.3g %s", value / factor, prefix);
  return text + unit;
}

ProgressBar::ProgressBar(std::string label, std::string unit)
    : label_(std::move(label)), unit_(std::move(unit)), visible_(is_terminal()) {}

ProgressBar::~ProgressBar() {
  if (visible_ && first_ >= 0) std::fputs("\r\033[K", stderr);
}

void ProgressBar::update(std::int64_t done, std::int64_t total) {
  if (!visible_ || total <= 0) return;
  const auto now = Clock::now();
  if (first_ < 0) {
    first_ = done;
    start_ = now;
  } else if (now - drawn_ < std::chrono::milliseconds(100)) {
    return;
  }
  drawn_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double rate = seconds > 0 ? static_cast<double>(done - first_) / seconds : 0;
  constexpr int width = 30;
  const int filled = static_cast<int>(done * width / total);
  std::string line = "\r" + label_ + " [" + std::string(static_cast<std::size_t>(filled), '#') +
                     std::string(static_cast<std::size_t>(width - filled), '.') + "] " +
                     std::to_string(done * 100 / total) + " %";
  if (rate > 0)
    line += "  " + with_unit(rate, unit_) + "/s  " + clock_time(static_cast<double>(total - done) / rate) +
            " left";
  std::fputs((line + "\033[K").c_str(), stderr);
  std::fflush(stderr);
}

}  // namespace higgs::model
