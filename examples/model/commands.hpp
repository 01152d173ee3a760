// SPDX-License-Identifier: Apache-2.0
// What the commands of higgs-model share. Each command is one file, command_NAME.cpp.
#pragma once

#include <higgs/core/executor.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <memory>
#include <string>

namespace higgs::model {

/// Options that every command has.
struct CommonOptions {
  std::string json;  // file for results, "-": standard output
  int threads = 0;   // 0: one for each core

  void add_to(CLI::App& command);
  /// Where text for people goes: not where JSON goes.
  std::ostream& text() const;
  /// Writes the results, if they are asked for. Throws IoError.
  void write(const nlohmann::ordered_json& results) const;
  std::unique_ptr<Executor> executor() const { return std::make_unique<ThreadPool>(threads); }
};

/// --text, --window and --tokens of a command that predicts a text; 0 tokens: all.
void add_text_options(CLI::App& command, std::string& text_file, std::int64_t& window, std::int64_t& tokens);

/// A bar on standard error with rate and time left, drawn over itself; nothing if that is no terminal.
class ProgressBar {
 public:
  /// `unit` is what is counted, "tokens"; rates are given in thousands or millions where they are large.
  ProgressBar(std::string label, std::string unit);
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  ~ProgressBar();

  void update(std::int64_t done, std::int64_t total);

 private:
  using Clock = std::chrono::steady_clock;
  std::string label_, unit_;
  bool visible_;
  Clock::time_point start_ = Clock::now(), drawn_;
  std::int64_t first_ = -1;  // what was done when the first update came: it tells nothing about the rate
};

/// "1234567 tokens" as "1.23 M tokens".
std::string with_unit(double value, const std::string& unit);

void add_inspect(CLI::App& app);
void add_quantize(CLI::App& app);
void add_eval(CLI::App& app);
void add_compare(CLI::App& app);
void add_sensitivity(CLI::App& app);
void add_allocate(CLI::App& app);
void add_linearity(CLI::App& app);
void add_generate(CLI::App& app);

}  // namespace higgs::model
