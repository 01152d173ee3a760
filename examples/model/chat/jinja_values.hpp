// SPDX-License-Identifier: Apache-2.0
// What chat templates do with values: operators, filters, tests and methods, as Jinja and Python define them.
#pragma once

#include "chat/jinja_tree.hpp"

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace higgs::model::jinja {

/// What a template does wrong, or what is not supported; it knows no line.
struct Problem : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What a filter, a test or a method is given, the object itself not among them.
struct Arguments {
  std::vector<Value> values;
  std::vector<std::pair<std::string, Value>> named;

  /// The argument at that place or of that name; `fallback` if there is none.
  const Value& get(std::size_t place, std::string_view name, const Value& fallback) const;
  /// Throws Problem for more than `most` arguments, and for names that are not among `names`.
  void check(const std::string& what, std::size_t most,
             const std::vector<std::string_view>& names = {}) const;
};

/// A variable that no one has set.
inline Value undefined() { return Value(Value::value_t::discarded); }
/// A namespace, the only value that statements change; `number` tells where its members are.
inline Value name_space(std::size_t number) { return Value::binary({}, number); }

/// Whether Python takes the value for true.
bool truthy(const Value& value);
/// What "{{ value }}" writes. Throws Problem for lists and dictionaries.
std::string printed(const Value& value);
/// The values that a loop over `value` meets: items, keys, characters. Throws Problem if there are none to meet.
std::vector<Value> items_of(const Value& value);
/// object.name, or object["name"].
Value member(const Value& object, const std::string& name);
/// object[index].
Value item(const Value& object, const Value& index);
/// object[from:to:step].
Value slice(const Value& object, const Value& from, const Value& to, const Value& step);
/// left sign right, for a sign of arithmetic or of comparison.
Value binary(const std::string& sign, const Value& left, const Value& right);
/// object.name(arguments), such as text.strip().
Value method(const Value& object, const std::string& name, const Arguments& arguments);
/// value | name(arguments).
Value filter(const std::string& name, const Value& value, const Arguments& arguments);
/// value is name(arguments).
bool test(const std::string& name, const Value& value, const Arguments& arguments);

}  // namespace higgs::model::jinja
