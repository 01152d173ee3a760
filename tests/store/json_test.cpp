// SPDX-License-Identifier: Apache-2.0
#include <higgs/store/json.hpp>

#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

using higgs::FormatError;
using higgs::Json;

namespace {
Json parse(const std::string& text) { return Json::parse(text, "test"); }

std::string utf8(std::uint32_t code) {
  const auto byte = [](std::uint32_t value) { return static_cast<char>(value); };
  if (code < 0x80) return {byte(code)};
  if (code < 0x800) return {byte(0xc0 | code >> 6), byte(0x80 | (code & 63))};
  if (code < 0x10000)
    return {byte(0xe0 | code >> 12), byte(0x80 | (code >> 6 & 63)), byte(0x80 | (code & 63))};
  return {byte(0xf0 | code >> 18), byte(0x80 | (code >> 12 & 63)), byte(0x80 | (code >> 6 & 63)),
          byte(0x80 | (code & 63))};
}
}  // namespace

TEST_CASE("every kind of value is read", "[store][json]") {
  const Json json = parse(R"( {"a": [1, -2, 0.5, true, false, null, "x", {}, []], "b" : "y"} )");
  REQUIRE(json.object());
  REQUIRE(json.object()->size() == 2);
  CHECK(json.object()->at(1).first == "b");
  const Json::Array& a = *json.find("a")->array();
  REQUIRE(a.size() == 9);
  CHECK(a[0].natural() == 1u);
  CHECK(a[0].integer() == 1);
  CHECK(a[1].integer() == -2);
  CHECK_FALSE(a[1].natural());
  CHECK(a[2].number() == 0.5);
  CHECK_FALSE(a[2].integer());
  CHECK(*a[3].boolean());
  CHECK_FALSE(*a[4].boolean());
  CHECK(a[5].is_null());
  CHECK(*a[6].string() == "x");
  CHECK(a[7].object()->empty());
  CHECK(a[8].array()->empty());
  CHECK(json.find("c") == nullptr);
  CHECK(a[0].find("a") == nullptr);
  CHECK_FALSE(a[0].string());
}

TEST_CASE("integers are exact up to the limits of 64 bits, and doubles beyond", "[store][json]") {
  CHECK(parse("18446744073709551615").natural() == std::numeric_limits<std::uint64_t>::max());
  CHECK_FALSE(parse("18446744073709551615").integer());
  CHECK(parse("9223372036854775807").integer() == std::numeric_limits<std::int64_t>::max());
  CHECK(parse("-9223372036854775808").integer() == std::numeric_limits<std::int64_t>::min());
  CHECK(parse("18446744073709551616").number() == 0x1p64);
  CHECK_FALSE(parse("18446744073709551616").natural());
  CHECK(parse("-9223372036854775809").number() == -0x1p63);
  CHECK_FALSE(parse("1.0").natural());
  CHECK(parse("1e2").number() == 100);
  CHECK(parse("-0.0").number() == 0.0);
}

TEST_CASE("what is not JSON is refused with the byte", "[store][json]") {
  for (const std::string text : {"",
                                 " ",
                                 "{",
                                 "[",
                                 "[1,]",
                                 "[1 2]",
                                 "{\"a\":1,}",
                                 "{\"a\" 1}",
                                 "{a:1}",
                                 "{1:1}",
                                 "01",
                                 "-",
                                 "+1",
                                 ".5",
                                 "1.",
                                 "1e",
                                 "1e+",
                                 "0x1",
                                 "nul",
                                 "tru",
                                 "True",
                                 "NaN",
                                 "Infinity",
                                 "-Infinity",
                                 "\"",
                                 "\"a",
                                 "\"\\\"",
                                 "\"\\x\"",
                                 "\"\\u12\"",
                                 "\"\\u12g4\"",
                                 "\"\\ud800\"",
                                 "\"\\ud800\\u0041\"",
                                 "\"\\udc00\"",
                                 "\"\\ud800\\ud800\"",
                                 "\"\n\"",
                                 "'a'",
                                 "1 1",
                                 "[1]]",
                                 "// a\n1",
                                 "\xef\xbb\xbf"
                                 "1",
                                 "1e999",
                                 "\"\\u-123\"",
                                 "\"\\u+123\"",
                                 "]",
                                 ",",
                                 ":"}) {
    INFO(text);
    CHECK_THROWS_AS(parse(text), FormatError);
  }
  CHECK_THROWS_AS(parse(std::string("1\0", 2)), FormatError);
  CHECK_THROWS_AS(parse(std::string("\"\0\"", 3)), FormatError);
  CHECK_THROWS_WITH(parse("[1, x]"), "test: JSON: expected a value at byte 4");
}

TEST_CASE("bytes that are not UTF-8 are refused", "[store][json]") {
  for (const std::string text :
       {"\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
        "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xc3", "\xe2\x82", "\xe2\x28\xa1"}) {
    CHECK_THROWS_AS(parse("\"" + text + "\""), FormatError);
    CHECK_THROWS_AS(higgs::detail::json_quote(text), higgs::InvalidArgument);
  }
}

TEST_CASE("every character survives quoting and reading", "[store][json]") {
  std::string all;
  for (std::uint32_t code = 0; code < 0x110000; code += code < 0x3000 ? 1 : 13)
    if (code < 0xd800 || code > 0xdfff) all += utf8(code);
  all += utf8(0xffff) + utf8(0x10000) + utf8(0x10ffff);
  CHECK(*parse(higgs::detail::json_quote(all)).string() == all);
  CHECK(higgs::detail::json_quote("a\"\\\n\x1f/") == R"("a\"\\\u000a\u001f/")");
}

TEST_CASE("escapes name every code point", "[store][json]") {
  CHECK(*parse(R"("\"\\\/\b\f\n\r\t\u0000\u00e9\u20ac\uD83D\uDE00")").string() ==
        std::string("\"\\/\b\f\n\r\t\0\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 18));
  for (std::uint32_t code = 1; code < 0x10000; code += 7) {
    if (code >= 0xd800 && code <= 0xdfff) continue;
    char text[16];
    std::snprintf(text, sizeof text, "\"\\u%04x\"", code);
    REQUIRE(*parse(text).string() == utf8(code));
  }
}

TEST_CASE("duplicate keys are refused on request, at any depth", "[store][json]") {
  const std::string twice = R"([{"a": 1, "b": 2, "a": 3}])";
  CHECK(parse(twice).array()->at(0).find("a")->natural() == 1u);
  CHECK_THROWS_WITH(Json::parse(twice, "test", Json::Duplicates::Refuse),
                    Catch::Contains("duplicate key \"a\""));
  CHECK_THROWS_AS(Json::parse(R"({"a": 1, "\u0061": 3})", "test", Json::Duplicates::Refuse), FormatError);
  CHECK_NOTHROW(Json::parse(R"({"a": {"a": 1}})", "test", Json::Duplicates::Refuse));
}

TEST_CASE("nesting is limited, width is not", "[store][json]") {
  const auto nested = [](int depth) {
    return std::string(static_cast<std::size_t>(depth), '[') +
           std::string(static_cast<std::size_t>(depth), ']');
  };
  CHECK_NOTHROW(parse(nested(Json::max_depth)));
  CHECK_THROWS_AS(parse(nested(Json::max_depth + 1)), FormatError);
  CHECK_THROWS_AS(parse(std::string(1000000, '[')), FormatError);
  std::string objects;
  for (int i = 0; i <= Json::max_depth; ++i) objects += "{\"a\":";
  CHECK_THROWS_WITH(parse(objects), Catch::Contains("levels"));
  std::string wide = "{\"a0\":[0,0]";  // the size of a tokenizer
  for (int i = 1; i < 100000; ++i) wide += ",\"a" + std::to_string(i) + "\":[" + std::to_string(i) + ",0]";
  CHECK(Json::parse(wide + "}", "test", Json::Duplicates::Refuse).object()->size() == 100000);
}

TEST_CASE("numbers survive writing and reading to the bit", "[store][json]") {
  for (std::uint64_t i = 0; i < 20000; ++i) {
    const double value = std::bit_cast<double>(higgs::random_bits(1, i));
    if (!std::isfinite(value)) continue;
    const std::string text = higgs::detail::json_number(value);
    REQUIRE(text.size() <= 24);
    // A denormal may be refused as out of range, but is never read as another number.
    if (std::fpclassify(value) == FP_NORMAL) REQUIRE(parse(text).number() == value);
  }
  CHECK(higgs::detail::json_number(-std::numeric_limits<double>::min()).size() == 24);
  CHECK(higgs::detail::json_number(std::numeric_limits<double>::quiet_NaN()) == "null");
  CHECK(higgs::detail::json_number(-std::numeric_limits<double>::infinity()) == "null");
  CHECK(higgs::detail::json_number(0.5) == "0.5");
}
