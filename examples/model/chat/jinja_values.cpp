// SPDX-License-Identifier: Apache-2.0
#include "chat/jinja_values.hpp"

#include "tokenizer/unicode.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace higgs::model::jinja {
namespace {

// What a hostile template may make of a few bytes.
constexpr std::size_t most_bytes = 1 << 24;

// What Jinja makes one item at a time: it is true whatever comes, and has neither a length nor an end to begin with.
constexpr const char* generated = "\1";
Value generator(Value list) { return Value::object({{generated, std::move(list)}}); }
bool is_generator(const Value& value) { return value.is_object() && value.contains(generated); }

std::string kind_of(const Value& value) {
  if (value.is_discarded()) return "an undefined value";
  if (value.is_null()) return "none";
  if (value.is_string()) return "a text";
  if (value.is_array()) return "a list";
  if (is_generator(value)) return "what comes one by one";
  if (value.is_object()) return "a dictionary";
  if (value.is_binary()) return "a namespace";
  return value.is_boolean() ? "a truth value" : "a number";
}
[[noreturn]] void unfit(const std::string& what, const Value& value) {
  throw Problem(what + " is not for " + kind_of(value));
}

bool is_whole(const Value& value) { return value.is_number_integer() || value.is_boolean(); }
std::int64_t whole(const std::string& what, const Value& value) {
  if (value.is_boolean()) return value.get<bool>() ? 1 : 0;
  if (!value.is_number_integer()) unfit(what, value);
  return value.get<std::int64_t>();
}
double number(const Value& value) {
  return is_whole(value) ? static_cast<double>(whole("", value)) : value.get<double>();
}
bool is_number(const Value& value) { return is_whole(value) || value.is_number_float(); }
const std::string& text(const std::string& what, const Value& value) {
  if (!value.is_string()) unfit(what, value);
  return value.get_ref<const std::string&>();
}

// Python's white space has four control characters more than Unicode's property.
bool is_space(char32_t c) { return char_class(c) == CharClass::Space || (c >= 0x1c && c <= 0x1f); }

std::vector<std::string> characters(std::string_view of) {
  std::vector<std::string> out;
  for (std::size_t at = 0; at < of.size(); at += out.back().size())
    out.emplace_back(of.substr(at, code_point_at(of, at).bytes));
  return out;
}

std::string stripped(const std::string& of, const Value& what, bool left, bool right) {
  std::vector<std::string> all = characters(of);
  const auto goes = [&](const std::string& c) {
    return what.is_string() ? what.get_ref<const std::string&>().find(c) != std::string::npos
                            : is_space(code_point_at(c, 0).value);
  };
  std::size_t begin = 0, end = all.size();
  while (left && begin < end && goes(all[begin])) ++begin;
  while (right && end > begin && goes(all[end - 1])) --end;
  std::string out;
  for (; begin < end; ++begin) out += all[begin];
  return out;
}

// Letters of ASCII alone change: case in other scripts has tables of its own.
std::string with_case(const std::string& what, const std::string& of, bool upper) {
  std::string out = of;
  for (char& c : out) {
    if (static_cast<unsigned char>(c) >= 0x80) throw Problem(what + " is supported for ASCII alone");
    if (upper ? c >= 'a' && c <= 'z' : c >= 'A' && c <= 'Z') c = static_cast<char>(c ^ 0x20);
  }
  return out;
}
// Words begin with a capital letter; `all`: each of them, not the first alone.
std::string capitalized(const std::string& what, const std::string& of, bool all) {
  std::string out = with_case(what, of, false);
  bool begins = true;
  for (char& c : out) {
    const bool letter = c >= 'a' && c <= 'z';
    if (letter && begins) c = static_cast<char>(c ^ 0x20);
    begins = all && !letter;
  }
  return out;
}

std::string replaced(const std::string& of, const std::string& from, const std::string& to,
                     std::int64_t most) {
  if (from.empty()) throw Problem("replace needs a text to look for");
  std::string out;
  std::size_t begin = 0;
  for (std::size_t at = of.find(from); at != of.npos && most != 0; at = of.find(from, begin), --most) {
    out.append(of, begin, at - begin).append(to);
    begin = at + from.size();
    if (out.size() > most_bytes) throw Problem("a text grows too long");
  }
  return out.append(of, begin, of.npos);
}

Value split(const std::string& of, const Value& separator, std::int64_t most) {
  Value out = Value::array();
  if (separator.is_string()) {
    const auto& by = separator.get_ref<const std::string&>();
    if (by.empty()) throw Problem("split needs a text to look for");
    std::size_t begin = 0;
    for (std::size_t at = of.find(by); at != of.npos && most != 0; at = of.find(by, begin), --most) {
      out.push_back(of.substr(begin, at - begin));
      begin = at + by.size();
    }
    out.push_back(of.substr(begin));
    return out;
  }
  if (most >= 0) throw Problem("split at white space takes no limit");
  std::string word;
  for (const std::string& c : characters(of)) {
    if (!is_space(code_point_at(c, 0).value)) {
      word += c;
    } else if (!word.empty()) {
      out.push_back(std::exchange(word, {}));
    }
  }
  if (!word.empty()) out.push_back(word);
  return out;
}

bool equal(const Value& left, const Value& right) {
  if (left.is_discarded() || right.is_discarded()) return left.is_discarded() && right.is_discarded();
  if (is_number(left) && is_number(right)) return number(left) == number(right);
  return left == right;
}

bool contains(const Value& all, const Value& one) {
  if (all.is_string())
    return all.get_ref<const std::string&>().find(text("\"in\" of a text", one)) != std::string::npos;
  const std::vector<Value> items = items_of(all);
  return std::any_of(items.begin(), items.end(), [&](const Value& each) { return equal(each, one); });
}

bool ordered(const std::string& sign, const Value& left, const Value& right) {
  const auto decide = [&](const auto& a, const auto& b) {
    return sign == "<" ? a < b : sign == "<=" ? a <= b : sign == ">" ? a > b : a >= b;
  };
  if (is_number(left) && is_number(right)) return decide(number(left), number(right));
  if (left.is_string() && right.is_string()) return decide(left, right);
  throw Problem("\"" + sign + "\" is not for " + kind_of(left) + " and " + kind_of(right));
}

// Quotient towards minus infinity, as Python's.
std::int64_t floor_quotient(std::int64_t a, std::int64_t b) {
  return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}

Value calculated(const std::string& sign, const Value& left, const Value& right) {
  if (!is_number(left) || !is_number(right))
    throw Problem("\"" + sign + "\" is not for " + kind_of(left) + " and " + kind_of(right));
  const bool divides = sign == "/" || sign == "//" || sign == "%";
  if (divides && number(right) == 0) throw Problem("a division by zero");
  if (!is_whole(left) || !is_whole(right) || sign == "/") {
    const double a = number(left), b = number(right);
    if (sign == "+") return a + b;
    if (sign == "-") return a - b;
    if (sign == "*") return a * b;
    if (sign == "/") return a / b;
    return sign == "//" ? Value(std::floor(a / b)) : Value(a - b * std::floor(a / b));
  }
  constexpr std::int64_t most = std::int64_t{1} << 31;  // no sum and no product leaves the range
  const std::int64_t a = whole(sign, left), b = whole(sign, right);
  if (a < -most || a > most || b < -most || b > most) throw Problem("a number is too large");
  if (sign == "+") return a + b;
  if (sign == "-") return a - b;
  if (sign == "*") return a * b;
  const std::int64_t quotient = floor_quotient(a, b);
  return sign == "//" ? Value(quotient) : Value(a - b * quotient);
}

std::string limited(std::string left, const std::string& right) {
  if (left.size() + right.size() > most_bytes) throw Problem("a text grows too long");
  return std::move(left += right);
}

Value list_of(const std::vector<Value>& items) { return Value(Value::array_t(items.begin(), items.end())); }

std::string joined(const std::vector<Value>& items, const std::string& by) {
  std::string out;
  for (std::size_t i = 0; i < items.size(); ++i)
    out = limited(limited(out, i > 0 ? by : ""), printed(items[i]));
  return out;
}

// The pairs of a dictionary as lists of two.
Value pairs_of(const std::string& what, const Value& object) {
  if (!object.is_object() || is_generator(object)) unfit(what, object);
  Value out = Value::array();
  for (const auto& [key, value] : object.items()) out.push_back(Value::array({key, value}));
  return out;
}

Value dictionary_method(const Value& object, const std::string& name, const Arguments& arguments) {
  arguments.check(name, name == "get" ? 2 : 0);
  if (name == "items") return pairs_of(name, object);
  if (name == "keys") return list_of(items_of(object));
  if (name == "values") {
    Value out = Value::array();
    for (const auto& each : object) out.push_back(each);
    return out;
  }
  if (name != "get") throw Problem("the method \"" + name + "\" of a dictionary is not supported");
  const std::string key = text("get", arguments.get(0, "key", nullptr));
  return object.contains(key) ? object.at(key) : arguments.get(1, "default", nullptr);
}

bool begins_or_ends(const std::string& of, const std::string& name, const Value& with) {
  if (with.is_array())
    return std::any_of(with.begin(), with.end(),
                       [&](const auto& each) { return begins_or_ends(of, name, each); });
  const std::string& part = text(name, with);
  return name == "startswith" ? of.starts_with(part) : of.ends_with(part);
}

Value text_method(const std::string& of, const std::string& name, const Arguments& arguments) {
  const Value none;
  const Value& first = arguments.get(0, name == "split" ? "sep" : "", none);
  arguments.check(name, name == "replace" ? 3 : name == "split" ? 2 : 1, {"sep", "maxsplit"});
  if (name == "strip" || name == "lstrip" || name == "rstrip")
    return stripped(of, first, name != "rstrip", name != "lstrip");
  if (name == "startswith" || name == "endswith") return begins_or_ends(of, name, first);
  if (name == "split") return split(of, first, whole(name, arguments.get(1, "maxsplit", -1)));
  if (name == "replace")
    return replaced(of, text(name, first), text(name, arguments.get(1, "", none)),
                    whole(name, arguments.get(2, "", -1)));
  if (name == "join") return joined(items_of(first), of);
  if (name == "find") {
    const std::size_t at = of.find(text(name, first));
    return at == of.npos ? Value(-1) : Value(characters(of.substr(0, at)).size());
  }
  arguments.check(name, 0);
  if (name == "upper" || name == "lower") return with_case(name, of, name == "upper");
  if (name == "title" || name == "capitalize") return capitalized(name, of, name == "title");
  throw Problem("the method \"" + name + "\" of a text is not supported");
}

// Keeps the items that pass a test, or those that do not; `by_member`: what is tested is a member of the item.
Value selected(const std::string& name, const Value& value, const Arguments& arguments) {
  const bool by_member = name.ends_with("attr"), keeps = name.starts_with("select");
  const std::size_t from = by_member ? 1 : 0;
  if (!arguments.named.empty() || arguments.values.size() < from) throw Problem("wrong arguments of " + name);
  const std::string path = by_member ? text(name, arguments.values[0]) : "";
  const bool tested = arguments.values.size() > from;
  Arguments rest;
  if (tested)
    rest.values.assign(arguments.values.begin() + static_cast<std::ptrdiff_t>(from) + 1,
                       arguments.values.end());
  Value out = Value::array();
  for (const Value& each : items_of(value)) {
    const Value subject = by_member ? member(each, path) : each;
    const bool passes = tested ? test(text(name, arguments.values[from]), subject, rest) : truthy(subject);
    if (passes == keeps) out.push_back(each);
  }
  return generator(std::move(out));
}

Value mapped(const Value& value, const Arguments& arguments) {
  const Value none;
  const Value& attribute = arguments.get(SIZE_MAX, "attribute", none);
  Arguments rest = arguments;
  if (attribute.is_null()) {
    if (rest.values.empty()) throw Problem("map needs a filter or an attribute");
    rest.values.erase(rest.values.begin());
  } else if (arguments.named.size() > 1 || !arguments.values.empty()) {
    throw Problem("map takes an attribute alone");
  }
  Value out = Value::array();
  for (const Value& each : items_of(value))
    out.push_back(attribute.is_null() ? filter(text("map", arguments.values[0]), each, rest)
                                      : member(each, text("map", attribute)));
  return generator(std::move(out));
}

// What a filter makes of a list or of a text as a list of characters.
Value list_filter(const std::string& name, const Value& value, const Arguments& arguments) {
  const std::vector<Value> items = items_of(value);
  if (name == "join") {
    arguments.check(name, 1, {"d"});
    return joined(items, printed(arguments.get(0, "d", "")));
  }
  arguments.check(name, 0);
  if (name == "first") return items.empty() ? undefined() : items.front();
  if (name != "list" && is_generator(value)) unfit(name, value);
  if (name == "length" || name == "count") return items.size();
  if (name == "last") return items.empty() ? undefined() : items.back();
  if (name == "list") return list_of(items);
  const std::vector<Value> backwards(items.rbegin(), items.rend());
  return value.is_string() ? Value(joined(backwards, "")) : generator(list_of(backwards));
}

std::string as_json(const Value& value) {
  if (value.is_discarded() || value.is_structured() || value.is_binary()) unfit("tojson", value);
  return value.dump(-1, ' ', false, Value::error_handler_t::replace);
}

}  // namespace

const Value& Arguments::get(std::size_t place, std::string_view name, const Value& fallback) const {
  if (place < values.size()) return values[place];
  const auto found =
      std::find_if(named.begin(), named.end(), [&](const auto& each) { return each.first == name; });
  return found == named.end() ? fallback : found->second;
}

void Arguments::check(const std::string& what, std::size_t most,
                      const std::vector<std::string_view>& names) const {
  if (values.size() + named.size() > most) throw Problem(what + " has too many arguments");
  for (const auto& [name, value] : named)
    if (std::find(names.begin(), names.end(), name) == names.end())
      throw Problem(what + " has an argument \"" + name + "\", which is not supported");
}

bool truthy(const Value& value) {
  if (value.is_discarded() || value.is_null()) return false;
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  if (value.is_structured()) return !value.empty();
  return value.is_binary() || number(value) != 0;
}

std::string printed(const Value& value) {
  if (value.is_discarded()) return "";
  if (value.is_null()) return "None";
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  if (!value.is_number()) unfit("a place in the text", value);
  return value.dump();
}

std::vector<Value> items_of(const Value& value) {
  std::vector<Value> out;
  if (value.is_discarded()) return out;
  if (is_generator(value)) return items_of(value.at(generated));
  if (value.is_array()) return {value.begin(), value.end()};
  if (value.is_string()) {
    for (std::string& c : characters(value.get_ref<const std::string&>())) out.emplace_back(std::move(c));
  } else if (value.is_object()) {
    for (const auto& [key, each] : value.items()) out.emplace_back(key);
  } else {
    unfit("what runs over items", value);
  }
  return out;
}

Value member(const Value& object, const std::string& name) {
  if (object.is_discarded()) throw Problem("\"" + name + "\" is asked of an undefined value");
  return object.is_object() && object.contains(name) ? object.at(name) : undefined();
}

Value item(const Value& object, const Value& index) {
  if (index.is_string()) return member(object, index.get<std::string>());
  if (object.is_discarded()) throw Problem("an item is asked of an undefined value");
  if (!is_whole(index) || (!object.is_array() && !object.is_string())) return undefined();
  const std::vector<Value> items = items_of(object);
  const std::int64_t at = whole("", index), count = std::ssize(items);
  const std::int64_t from_begin = at < 0 ? at + count : at;
  return from_begin < 0 || from_begin >= count ? undefined() : items[static_cast<std::size_t>(from_begin)];
}

Value slice(const Value& object, const Value& from, const Value& to, const Value& by) {
  if (!object.is_array() && !object.is_string()) unfit("a slice", object);
  const std::vector<Value> items = items_of(object);
  const std::int64_t count = std::ssize(items), step = by.is_null() ? 1 : whole("a slice", by);
  if (step == 0) throw Problem("a slice with step 0");
  // Bounds count from the end where they are negative; those outside move to the nearest item.
  const std::int64_t lowest = step > 0 ? 0 : -1, highest = step > 0 ? count : count - 1;
  const auto bound = [&](const Value& given, std::int64_t fallback) {
    if (given.is_null()) return fallback;
    const std::int64_t at = whole("a slice", given);
    return std::clamp(at < 0 ? at + count : at, lowest, highest);
  };
  const std::int64_t begin = bound(from, step > 0 ? lowest : highest),
                     end = bound(to, step > 0 ? highest : lowest);
  std::vector<Value> out;
  for (std::int64_t at = begin; step > 0 ? at < end : at > end; at += std::clamp(step, -count - 1, count + 1))
    out.push_back(items[static_cast<std::size_t>(at)]);
  return object.is_string() ? Value(joined(out, "")) : list_of(out);
}

Value binary(const std::string& sign, const Value& left, const Value& right) {
  if (sign == "==") return equal(left, right);
  if (sign == "!=") return !equal(left, right);
  if (sign == "in") return contains(right, left);
  if (sign == "not in") return !contains(right, left);
  if (sign == "<" || sign == "<=" || sign == ">" || sign == ">=") return ordered(sign, left, right);
  if (sign == "~") return limited(printed(left), printed(right));
  if (sign == "+" && left.is_string() && right.is_string())
    return limited(left.get<std::string>(), right.get_ref<const std::string&>());
  if (sign == "+" && left.is_array() && right.is_array()) {
    std::vector<Value> both = items_of(left);
    both.insert(both.end(), right.begin(), right.end());
    if (both.size() > most_bytes) throw Problem("a list grows too long");
    return list_of(both);
  }
  if (sign == "*" && left.is_string() && is_whole(right)) {
    std::string out;
    for (std::int64_t i = 0; i < whole(sign, right) && !left.empty(); ++i)
      out = limited(std::move(out), left.get_ref<const std::string&>());
    return out;
  }
  return calculated(sign, left, right);
}

Value method(const Value& object, const std::string& name, const Arguments& arguments) {
  if (object.is_string()) return text_method(object.get_ref<const std::string&>(), name, arguments);
  if (object.is_object() && !is_generator(object)) return dictionary_method(object, name, arguments);
  unfit("the method \"" + name + "\"", object);
}

Value filter(const std::string& name, const Value& value, const Arguments& arguments) {
  const Value none;
  if (name == "default" || name == "d") {
    arguments.check(name, 2, {"default_value", "boolean"});
    const bool replaces = truthy(arguments.get(1, "boolean", false)) ? !truthy(value) : value.is_discarded();
    return replaces ? arguments.get(0, "default_value", "") : value;
  }
  if (name == "trim") {
    arguments.check(name, 1, {"chars"});
    return stripped(printed(value), arguments.get(0, "chars", none), true, true);
  }
  if (name == "replace")
    return replaced(printed(value), printed(arguments.get(0, "old", none)),
                    printed(arguments.get(1, "new", none)), -1);
  if (name == "selectattr" || name == "rejectattr" || name == "select" || name == "reject")
    return selected(name, value, arguments);
  if (name == "map") return mapped(value, arguments);
  for (const std::string_view each : {"length", "count", "first", "last", "list", "join", "reverse"})
    if (name == each) return list_filter(name, value, arguments);
  arguments.check(name, 0);
  if (name == "upper" || name == "lower") return with_case(name, printed(value), name == "upper");
  if (name == "capitalize") return capitalized(name, printed(value), false);
  if (name == "items") return generator(value.is_discarded() ? Value::array() : pairs_of(name, value));
  if (name == "string" || name == "safe") return printed(value);
  if (name == "int" && is_whole(value)) return whole(name, value);
  if (name == "tojson") return as_json(value);
  throw Problem("the filter \"" + name + "\" is not supported");
}

bool test(const std::string& name, const Value& value, const Arguments& arguments) {
  const bool compares =
      name == "equalto" || name == "eq" || name == "ne" || name == "in" || name == "divisibleby";
  if (arguments.values.size() != (compares ? 1u : 0u) || !arguments.named.empty())
    throw Problem("wrong arguments of the test \"" + name + "\"");
  if (name == "equalto" || name == "eq") return equal(value, arguments.values[0]);
  if (name == "ne") return !equal(value, arguments.values[0]);
  if (name == "in") return contains(arguments.values[0], value);
  if (name == "divisibleby") return equal(calculated("%", value, arguments.values[0]), 0);
  if (name == "odd" || name == "even") return equal(calculated("%", value, 2), name == "odd" ? 1 : 0);
  if (name == "defined" || name == "undefined") return value.is_discarded() == (name == "undefined");
  if (name == "none") return value.is_null();
  if (name == "string") return value.is_string();
  if (name == "mapping") return value.is_object() && !is_generator(value);
  const bool has_items = value.is_string() || value.is_structured() || value.is_discarded();
  if (name == "sequence") return has_items && !is_generator(value);
  if (name == "iterable") return has_items;
  if (name == "boolean") return value.is_boolean();
  if (name == "true" || name == "false") return value.is_boolean() && value.get<bool>() == (name == "true");
  if (name == "number") return is_number(value);
  if (name == "integer") return value.is_number_integer();
  if (name == "float") return value.is_number_float();
  throw Problem("the test \"" + name + "\" is not supported");
}

}  // namespace higgs::model::jinja
