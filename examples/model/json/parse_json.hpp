// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/core/error.hpp>

#include <nlohmann/json.hpp>

#include <charconv>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_set>
#include <vector>

namespace higgs::model {

/// Reads JSON that came with a model and hands it to `read`. Throws FormatError, which names `source`, for
/// text that is no JSON, for an object that has a key twice, for what `read` does not find in it, and for more levels
/// than any such file has.
template <class Read>
auto parse_json(std::string_view text, const std::string& source, Read&& read) {
  if (text.starts_with("version https://git-lfs"))
    throw FormatError(source + ": is a Git LFS pointer, not the file itself: run git lfs pull");
  // Copies and searches of values recurse: the depth of a hostile file must not become that of the stack.
  constexpr int max_depth = 64;
  using Event = nlohmann::json::parse_event_t;
  std::vector<std::unordered_set<std::string>> keys;  // of the objects around the place that is read
  const auto check = [&](int depth, Event event, const nlohmann::json& value) {
    if (depth > max_depth)
      throw FormatError(source + ": more than " + std::to_string(max_depth) + " levels of JSON");
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(value.get<std::string>()).second)
      throw FormatError(source + ": the key \"" + value.get<std::string>() + "\" stands twice in one object");
    return true;
  };
  try {
    return read(nlohmann::json::parse(text, check));
  } catch (const nlohmann::json::exception& error) {
    const std::string_view what = error.what();  // "[json.exception.NAME.NUMBER] ..."
    throw FormatError(source + ": " + std::string(what.substr(what.find("] ") + 2)));
  }
}

/// A whole number below 2^64 in decimal digits; throws FormatError, which names `source`, for other text.
inline std::uint64_t parse_decimal(std::string_view digits, const std::string& source) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc{} || end != digits.data() + digits.size())
    throw FormatError(source + ": \"" + std::string(digits) + "\" is no number below 2^64");
  return value;
}

}  // namespace higgs::model
