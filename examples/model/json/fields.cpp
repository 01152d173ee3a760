// SPDX-License-Identifier: Apache-2.0
#include "json/fields.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <type_traits>
#include <utility>
#include <variant>

namespace higgs::model {
namespace {

using nlohmann::json;

// A value as messages show it: what it is, and its beginning.
std::string shown(const json& value) {
  constexpr std::size_t most = 60;
  std::string out = value.is_array() && value.size() > 8
                        ? "an array of " + std::to_string(value.size())
                        : value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (out.size() > most) out = out.substr(0, most) + " ...";
  return out + (value.is_string() ? " (a text)" : "");
}

// Whether a JSON number is whole and within [low, high].
std::optional<std::int64_t> whole(const json& value, std::int64_t low, std::int64_t high) {
  std::int64_t out = 0;
  if (value.is_number_unsigned()) {
    if (value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX)) return std::nullopt;
    out = static_cast<std::int64_t>(value.get<std::uint64_t>());
  } else if (value.is_number_integer()) {
    out = value.get<std::int64_t>();
  } else if (value.is_number_float()) {
    const double number = value.get<double>();
    constexpr double exact = 9007199254740992.0;  // 2^53: beyond it a double says no exact count
    if (!(std::fabs(number) <= exact) || number != std::floor(number)) return std::nullopt;
    out = static_cast<std::int64_t>(number);
  } else {
    return std::nullopt;
  }
  return out < low || out > high ? std::nullopt : std::optional(out);
}

}  // namespace

json to_json(const GgufValue& value) {
  return std::visit(
      [](const auto& held) -> json {
        using Held = std::remove_cvref_t<decltype(held)>;
        if constexpr (std::is_same_v<Held, GgufArray>) {
          json out = json::array();
          for (std::uint64_t i = 0; i < held.size(); ++i) out.push_back(to_json(held[i]));
          return out;
        } else if constexpr (std::is_same_v<Held, std::string_view>) {
          return std::string(held);
        } else {
          return held;
        }
      },
      value);
}

Fields::Fields(const json& object, std::string source, std::string path)
    : source_(std::move(source)), path_(std::move(path)) {
  if (!object.is_object())
    throw FormatError(source_ + ": " + (path_.empty() ? "" : path_ + " ") + "is " + shown(object) +
                      ", but must be a JSON object");
  find_ = [&object](const std::string& key) -> const json* {
    const auto found = object.find(key);
    return found == object.end() ? nullptr : &*found;
  };
  keys_ = [&object] {
    std::vector<std::string> out;
    for (const auto& [key, value] : object.items()) out.push_back(key);
    return out;
  };
}

Fields::Fields(const GgufFile& file, std::string source) : source_(std::move(source)) {
  find_ = [&file,
           known = std::make_shared<std::map<std::string, json>>()](const std::string& key) -> const json* {
    if (const auto found = known->find(key); found != known->end()) return &found->second;
    const GgufValue* value = file.value(key);
    return value ? &known->emplace(key, to_json(*value)).first->second : nullptr;
  };
}

Fields& Fields::null_means_absent(std::initializer_list<std::string_view> keys) {
  null_means_absent_.insert(keys.begin(), keys.end());
  return *this;
}

const json* Fields::find(const std::string& key) const {
  asked_->insert(key);
  const json* found = find_(key);
  return found && found->is_null() && null_means_absent_.contains(key) ? nullptr : found;
}

const json& Fields::require(const std::string& key) const {
  const json* found = find(key);
  if (!found) fail(name(key) + " is missing");
  return *found;
}

void Fields::fail(const std::string& what) const { throw FormatError(source_ + ": " + what); }

void Fields::refuse(const std::string& key, const std::string& wanted) const {
  const json* found = find_(key);
  fail(name(key) + " is " + (found ? shown(*found) : "missing") + ", but must be " + wanted);
}

std::int64_t Fields::integer(const std::string& key, std::int64_t low, std::int64_t high,
                             std::optional<std::int64_t> fallback) const {
  if (fallback && !find(key)) return *fallback;
  const auto value = whole(require(key), low, high);
  if (!value) refuse(key, "a whole number in [" + std::to_string(low) + ", " + std::to_string(high) + "]");
  return *value;
}

double Fields::number(const std::string& key, std::optional<double> fallback) const {
  if (fallback && !find(key)) return *fallback;
  const json& value = require(key);
  if (!value.is_number() || !std::isfinite(value.get<double>())) refuse(key, "a finite number");
  return value.get<double>();
}

double Fields::positive(const std::string& key, std::optional<double> fallback) const {
  if (fallback && !find(key)) return *fallback;
  const json& value = require(key);
  if (!value.is_number() || !std::isfinite(value.get<double>()) || !(value.get<double>() > 0))
    refuse(key, "a number above 0");
  return value.get<double>();
}

bool Fields::flag(const std::string& key, std::optional<bool> fallback) const {
  if (fallback && !find(key)) return *fallback;
  const json& value = require(key);
  if (!value.is_boolean()) refuse(key, "true or false");
  return value.get<bool>();
}

std::string Fields::text(const std::string& key, std::optional<std::string> fallback) const {
  if (fallback && !find(key)) return *fallback;
  const json& value = require(key);
  if (!value.is_string()) refuse(key, "a text");
  return value.get<std::string>();
}

std::string Fields::choice(const std::string& key, std::initializer_list<std::string_view> known,
                           std::optional<std::string> fallback) const {
  if (fallback && !find(key)) return *fallback;
  const json& value = require(key);
  if (value.is_string() && std::find(known.begin(), known.end(), value.get<std::string>()) != known.end())
    return value.get<std::string>();
  std::string list;
  for (const std::string_view each : known)
    list.append(list.empty() ? "\"" : ", \"").append(each).append("\"");
  refuse(key, known.size() == 1 ? list : "one of " + list);
}

std::optional<Fields> Fields::object(const std::string& key) const {
  const json* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_object()) refuse(key, "an object");
  return Fields(*value, source_, name(key));
}

const json* Fields::array(const std::string& key) const {
  const json* value = find(key);
  if (value && !value->is_array()) refuse(key, "an array");
  return value;
}

std::optional<std::vector<double>> Fields::numbers(const std::string& key) const {
  const json* values = array(key);
  if (!values) return std::nullopt;
  std::vector<double> out;
  for (const json& each : *values) {
    if (!each.is_number() || !std::isfinite(each.get<double>())) refuse(key, "an array of finite numbers");
    out.push_back(each.get<double>());
  }
  return out;
}

void Fields::refuse_other_keys() const {
  if (!keys_) return;
  for (const std::string& key : keys_())
    if (!asked_->contains(key)) fail(name(key) + " is a key that is not known here");
}

}  // namespace higgs::model
