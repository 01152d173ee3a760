// SPDX-License-Identifier: Apache-2.0
// A small strict JSON reader (RFC 8259) for headers and configurations of models, and what a writer needs.
#pragma once

#include <higgs/core/error.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#if HIGGS_DEFINITIONS
#  include <algorithm>
#  include <charconv>
#  include <cmath>
#endif

namespace higgs {
inline namespace v0 {

/// A JSON value. The accessors answer null or nullopt where the value is of another type, so that the caller
/// can say in its own words what is wrong with which file.
class Json {
 public:
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;
  using Object = std::vector<Member>;  // in the order of the text
  enum class Duplicates { Allow, Refuse };

  /// Reads one value and nothing after it, in linear time (n log n where duplicate keys are refused).
  /// Throws FormatError, which names `source` and the byte; so do more than `max_depth` levels.
  static Json parse(std::string_view text, std::string_view source,
                    Duplicates duplicates = Duplicates::Allow);

  bool is_null() const noexcept { return std::holds_alternative<std::nullptr_t>(value_); }
  const bool* boolean() const noexcept { return std::get_if<bool>(&value_); }
  const std::string* string() const noexcept { return std::get_if<std::string>(&value_); }
  const Array* array() const noexcept { return std::get_if<Array>(&value_); }
  const Object* object() const noexcept { return std::get_if<Object>(&value_); }
  /// An integer written without fraction and exponent, in [0, 2^64 - 1].
  std::optional<std::uint64_t> natural() const noexcept {
    if (const auto* number = std::get_if<std::uint64_t>(&value_)) return *number;
    return std::nullopt;
  }
  /// An integer written without fraction and exponent, in [-2^63, 2^63 - 1].
  std::optional<std::int64_t> integer() const noexcept;
  /// Any number, rounded to double.
  std::optional<double> number() const noexcept;
  /// The first member of that key; null if there is none or this is no object. Takes linear time.
  const Json* find(std::string_view key) const noexcept;

  static constexpr int max_depth = 64;                 // depth of arrays and objects
  static constexpr std::size_t max_values = 1u << 22;  // bounds the memory that a hostile text can ask for

 private:
  class Parser;
  std::variant<std::nullptr_t, bool, std::uint64_t, std::int64_t, double, std::string, Array, Object> value_;
};

namespace detail {
/// Bytes of the UTF-8 sequence that starts at `at`; 0 if it is not valid (Unicode 15, table 3-7).
HIGGS_INLINE std::size_t utf8_sequence(std::string_view text, std::size_t at) noexcept;

/// `text` between quotes, escaped as JSON asks and no further; throws InvalidArgument if it is not UTF-8.
HIGGS_INLINE std::string json_quote(std::string_view text);

/// The shortest text that reads back as `value`, at most 24 characters; "null" for infinities and NaN.
HIGGS_INLINE std::string json_number(double value);
}  // namespace detail

#if HIGGS_DEFINITIONS

HIGGS_INLINE std::optional<std::int64_t> Json::integer() const noexcept {
  if (const auto* number = std::get_if<std::int64_t>(&value_)) return *number;
  const auto* number = std::get_if<std::uint64_t>(&value_);
  if (number && *number <= static_cast<std::uint64_t>(INT64_MAX)) return static_cast<std::int64_t>(*number);
  return std::nullopt;
}

HIGGS_INLINE std::optional<double> Json::number() const noexcept {
  if (const auto* real = std::get_if<double>(&value_)) return *real;
  if (const auto* number = std::get_if<std::uint64_t>(&value_)) return static_cast<double>(*number);
  if (const auto* number = std::get_if<std::int64_t>(&value_)) return static_cast<double>(*number);
  return std::nullopt;
}

HIGGS_INLINE const Json* Json::find(std::string_view key) const noexcept {
  if (const Object* members = object())
    for (const Member& member : *members)
      if (member.first == key) return &member.second;
  return nullptr;
}

namespace detail {

HIGGS_INLINE std::size_t utf8_sequence(std::string_view text, std::size_t at) noexcept {
  const auto byte = [&](std::size_t i) {
    return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u;
  };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  const std::size_t length = lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  // Overlong forms, surrogates, and what lies above U+10FFFF.
  if ((lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xed && byte(1) > 0x9f)) return 0;
  if ((lead == 0xf0 && byte(1) < 0x90) || (lead == 0xf4 && byte(1) > 0x8f)) return 0;
  return length;
}

HIGGS_INLINE std::string json_quote(std::string_view text) {
  std::string out = "\"";
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_sequence(text, i);
    expects(length != 0, "higgs::json_quote: text must be valid UTF-8");
    const unsigned char c = static_cast<unsigned char>(text[i]);
    if (c == '"' || c == '\\') {
      out += {'\\', static_cast<char>(c)};
    } else if (c < 0x20) {
      out += {'\\', 'u', '0', '0', static_cast<char>('0' + (c >> 4)), "0123456789abcdef"[c & 15u]};
    } else {
      out += text.substr(i, length);
    }
    i += length;
  }
  return out + '"';
}

HIGGS_INLINE std::string json_number(double value) {
  if (!std::isfinite(value)) return "null";
  char text[32];
  return {text, std::to_chars(text, text + sizeof text, value).ptr};
}

}  // namespace detail

class Json::Parser {
 public:
  Parser(std::string_view text, std::string_view source, Duplicates duplicates)
      : text_(text), source_(source), duplicates_(duplicates) {}

  Json whole() {
    Json value = parse_value(0);
    skip_space();
    if (at_ != text_.size()) fail("text after the end of the value");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw FormatError(std::string(source_) + ": JSON: " + what + " at byte " + std::to_string(at_));
  }
  char peek() const noexcept { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool accept(char c) noexcept {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void require(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) fail("expected " + std::string(word));
    at_ += word.size();
  }
  void skip_space() noexcept { at_ = std::min(text_.find_first_not_of(" \t\n\r", at_), text_.size()); }

  Json parse_value(int depth) {
    skip_space();
    if (++values_ > max_values) fail("more than " + std::to_string(max_values) + " values");
    Json out;
    switch (peek()) {
      case '{':
        out.value_ = parse_object(depth + 1);
        break;
      case '[':
        out.value_ = parse_array(depth + 1);
        break;
      case '"':
        out.value_ = parse_string();
        break;
      case 't':
        require("true"), out.value_ = true;
        break;
      case 'f':
        require("false"), out.value_ = false;
        break;
      case 'n':
        require("null");
        break;
      default:
        parse_number(out);
    }
    return out;
  }

  Array parse_array(int depth) {
    if (depth > max_depth) fail("more than " + std::to_string(max_depth) + " levels");
    Array out;
    require("[");
    skip_space();
    if (accept(']')) return out;
    do {
      out.push_back(parse_value(depth));
      skip_space();
    } while (accept(','));
    require("]");
    return out;
  }

  Object parse_object(int depth) {
    if (depth > max_depth) fail("more than " + std::to_string(max_depth) + " levels");
    Object out;
    require("{");
    skip_space();
    if (accept('}')) return out;
    do {
      skip_space();
      std::string key = parse_string();
      skip_space();
      require(":");
      out.emplace_back(std::move(key), parse_value(depth));
      skip_space();
    } while (accept(','));
    require("}");
    if (duplicates_ == Duplicates::Refuse) {
      std::vector<std::string_view> keys;
      for (const Member& member : out) keys.push_back(member.first);
      std::sort(keys.begin(), keys.end());
      const auto twice = std::adjacent_find(keys.begin(), keys.end());
      if (twice != keys.end()) fail("duplicate key \"" + std::string(*twice) + "\" in the object that ends");
    }
    return out;
  }

  std::string parse_string() {
    require("\"");
    std::string out;
    for (;;) {
      if (at_ >= text_.size()) fail("unterminated string");
      const char c = text_[at_];
      if (accept('"')) return out;
      if (static_cast<unsigned char>(c) < 0x20) fail("control character in a string");
      if (accept('\\')) {
        append_escape(out);
        continue;
      }
      const std::size_t length = detail::utf8_sequence(text_, at_);
      if (length == 0) fail("invalid UTF-8");
      out += text_.substr(at_, length);
      at_ += length;
    }
  }

  void append_escape(std::string& out) {
    static constexpr std::string_view letters = "\"\\/bfnrtu", meanings = "\"\\/\b\f\n\r\t";
    const std::size_t letter = letters.find(peek());
    if (at_ >= text_.size() || letter == letters.npos) fail("invalid escape");
    ++at_;
    if (letter < meanings.size()) {
      out += meanings[letter];
      return;
    }
    std::uint32_t code = parse_hex();
    if (code >= 0xd800 && code < 0xdc00) {  // the first half of a surrogate pair
      require("\\u");
      const std::uint32_t low = parse_hex();
      if (low < 0xdc00 || low > 0xdfff) fail("lone surrogate");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code >= 0xdc00 && code < 0xe000) {
      fail("lone surrogate");
    }
    const auto tail = [&](int shift) { return static_cast<char>(0x80 | ((code >> shift) & 0x3f)); };
    if (code < 0x80)
      out += static_cast<char>(code);
    else if (code < 0x800)
      out += {static_cast<char>(0xc0 | code >> 6), tail(0)};
    else if (code < 0x10000)
      out += {static_cast<char>(0xe0 | code >> 12), tail(6), tail(0)};
    else
      out += {static_cast<char>(0xf0 | code >> 18), tail(12), tail(6), tail(0)};
  }

  std::uint32_t parse_hex() {
    std::uint32_t code = 0;
    const std::string_view digits = text_.substr(at_, 4);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
    if (error != std::errc{} || end != digits.data() + 4) fail("expected four hexadecimal digits");
    at_ += 4;
    return code;
  }

  // number = [ "-" ] ( "0" / digit1-9 *digit ) [ "." 1*digit ] [ ("e" / "E") [ "+" / "-" ] 1*digit ]
  void parse_number(Json& out) {
    const std::size_t begin = at_;
    const auto digits = [&] {
      const std::size_t first = at_;
      while (peek() >= '0' && peek() <= '9') ++at_;
      return at_ != first;
    };
    const bool negative = accept('-');
    if (!accept('0') && !digits()) fail("expected a value");
    bool whole = true;
    if (accept('.')) {
      whole = false;
      if (!digits()) fail("expected a digit");
    }
    if (accept('e') || accept('E')) {
      whole = false;
      if (!accept('+')) accept('-');
      if (!digits()) fail("expected a digit");
    }
    const char* first = text_.data() + begin;
    const char* last = text_.data() + at_;
    std::uint64_t natural = 0;
    std::int64_t integer = 0;
    double real = 0;
    if (whole && !negative && std::from_chars(first, last, natural).ec == std::errc{})
      out.value_ = natural;
    else if (whole && negative && std::from_chars(first, last, integer).ec == std::errc{})
      out.value_ = integer;
    else if (std::from_chars(first, last, real).ec == std::errc{})
      out.value_ = real;
    else
      fail("number out of range before");
  }

  std::string_view text_;
  std::string_view source_;
  Duplicates duplicates_;
  std::size_t at_ = 0;
  std::size_t values_ = 0;
};

HIGGS_INLINE Json Json::parse(std::string_view text, std::string_view source, Duplicates duplicates) {
  return Parser(text, source, duplicates).whole();
}

#endif

}  // namespace v0
}  // namespace higgs
