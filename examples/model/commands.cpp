// SPDX-License-Identifier: Apache-2.0
#include "commands.hpp"

#include <higgs/config.hpp>
#include <higgs/core/error.hpp>

#include <cmath>
#include <iostream>

namespace higgs::model {
namespace {

// Throws for the first number that JSON cannot hold; `where` leads to it.
void require_finite(const nlohmann::ordered_json& value, const std::string& where) {
  if (value.is_number_float() && !std::isfinite(value.get<double>()))
    throw InvalidArgument("the result \"" + where + "\" is " + std::to_string(value.get<double>()));
  if (!value.is_structured()) return;
  for (const auto& [key, each] : value.items()) require_finite(each, where.empty() ? key : where + "." + key);
}

}  // namespace

std::string shell_quoted(const std::string& word) {
  constexpr const char* plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=.,:/@%";
  if (!word.empty() && word.find_first_not_of(plain) == word.npos) return word;
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

void CommonOptions::add_to(CLI::App& command) {
  command.add_option("--json", json, "write the results as JSON to this file (-: standard output)")
      ->type_name("FILE");
  command.add_option("--threads", threads, "threads to use (0: one for each core)")
      ->check(CLI::Range(0, 4096));
  command.parse_complete_callback([this] { *results_ = Output(json); });
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

std::string& command_line() {
  static std::string line;
  return line;
}

std::string version() {
  return std::to_string(HIGGS_VERSION_MAJOR) + "." + std::to_string(HIGGS_VERSION_MINOR) + "." +
         std::to_string(HIGGS_VERSION_PATCH);
}

std::ostream& CommonOptions::text() const { return json == "-" ? std::cerr : std::cout; }

void CommonOptions::write(const nlohmann::ordered_json& results) const {
  require_finite(results, "");
  // Tokens of a model need not be whole characters; JSON must be.
  results_->commit(results.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

}  // namespace higgs::model
