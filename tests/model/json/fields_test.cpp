// SPDX-License-Identifier: Apache-2.0
#include "json/fields.hpp"

#include "json/parse_json.hpp"

#include "model/tiny_model.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

using namespace higgs::model;
using nlohmann::json;

namespace {

// One value of every kind that JSON and GGUF know.
const std::vector<json> kinds{
    json(),       json(true), json(3),          json(-3),
    json(0.5),    json(1e30), json(1ull << 63), json(std::numeric_limits<double>::quiet_NaN()),
    json("3"),    json(""),   json("linear"),   json::array(),
    json{1, 2.5}, json{"a"},  json::object(),   json{{"a", 1}}};

struct Question {
  std::function<json(const Fields&)> ask;  // with a fallback, where there is one
  std::function<bool(const json& value)> fits;
};
const std::vector<Question> questions{
    {[](const Fields& f) { return json(f.count("key", 100, 7)); },
     [](const json& v) { return v == json(3); }},
    {[](const Fields& f) { return json(f.number("key", 7.0)); },
     [](const json& v) { return v.is_number() && v == v; }},
    {[](const Fields& f) { return json(f.positive("key", 7.0)); },
     [](const json& v) { return v.is_number() && v.get<double>() > 0; }},
    {[](const Fields& f) { return json(f.flag("key", false)); },
     [](const json& v) { return v.is_boolean(); }},
    {[](const Fields& f) { return json(f.text("key", "7")); }, [](const json& v) { return v.is_string(); }},
    {[](const Fields& f) { return json(f.choice("key", {"none", "linear"}, "none")); },
     [](const json& v) { return v == json("linear"); }},
    {[](const Fields& f) { return json(f.numbers("key").value_or(std::vector<double>{7})); },
     [](const json& v) { return v == json::array() || v == json{1, 2.5}; }},
    {[](const Fields& f) { return json(f.object("key").has_value()); },
     [](const json& v) { return v.is_object(); }},
};

std::string refusal(const Question& question, const json& object) {
  return message_of<higgs::FormatError>([&] { question.ask(Fields(object, "config.json", "rope_scaling")); });
}

}  // namespace

TEST_CASE("a key that is present is obeyed or refused, whatever is asked and whatever it holds",
          "[model][fields]") {
  for (const Question& question : questions) {
    for (const json& value : kinds) {
      const json object{{"key", value}};
      CAPTURE(&question - questions.data(), value.dump());
      if (!question.fits(value)) {
        const std::string message = refusal(question, object);
        CHECK(message.find("config.json: rope_scaling.key is ") == 0);
        CHECK(message.find("but must be ") != std::string::npos);
      } else if (!value.is_object()) {
        CHECK(question.ask(Fields(object, "config.json")) == value);
      }
    }
  }
}

TEST_CASE("an absent key takes its default, and null does so only where a format says it",
          "[model][fields]") {
  const json empty = json::object(), null{{"key", nullptr}};
  for (const Question& question : questions) {
    const json fallback = question.ask(Fields(empty, "config.json"));
    CHECK(question.ask(Fields(null, "config.json").null_means_absent({"key"})) == fallback);
    CHECK(refusal(question, null).find("rope_scaling.key is null") != std::string::npos);
  }
  const auto missing =
      message_of<higgs::FormatError>([&] { Fields(empty, "config.json").count("layers", 9); });
  CHECK(missing == "config.json: layers is missing");
}

TEST_CASE("whole numbers are read exactly up to the ends of their range", "[model][fields]") {
  const auto read = [](const json& value, std::int64_t low, std::int64_t high) {
    const json object{{"key", value}};
    return Fields(object, "f").integer("key", low, high);
  };
  for (const std::int64_t value :
       {INT64_MIN, INT64_MIN + 1, std::int64_t{-1}, std::int64_t{0}, INT64_MAX - 1, INT64_MAX}) {
    CHECK(read(value, INT64_MIN, INT64_MAX) == value);
    if (value > INT64_MIN) CHECK_THROWS_AS(read(value, INT64_MIN, value - 1), higgs::FormatError);
    if (value < INT64_MAX) CHECK_THROWS_AS(read(value, value + 1, INT64_MAX), higgs::FormatError);
  }
  CHECK(read(4096.0, 1, 5000) == 4096);
  CHECK_THROWS_AS(read(4096.5, 1, 5000), higgs::FormatError);
  CHECK_THROWS_AS(read(UINT64_MAX, INT64_MIN, INT64_MAX), higgs::FormatError);
  CHECK_THROWS_AS(read(1e19, INT64_MIN, INT64_MAX), higgs::FormatError);
}

TEST_CASE("a key that nobody asked for can be refused by name", "[model][fields]") {
  const json object{{"known", 1}, {"colour", 2}};
  const Fields fields(object, "plan.json");
  CHECK(fields.count("known", 9) == 1);
  CHECK(message_of<higgs::FormatError>([&] { fields.refuse_other_keys(); }) ==
        "plan.json: colour is a key that is not known here");
  CHECK(fields.has("colour"));
  CHECK_NOTHROW(fields.refuse_other_keys());
}

TEST_CASE("only an object has keys", "[model][fields]") {
  for (const json& value : kinds)
    if (!value.is_object()) CHECK_THROWS_AS(Fields(value, "f"), higgs::FormatError);
}

TEST_CASE("a Git LFS pointer in place of JSON is told as that", "[model][fields]") {
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
  CHECK_THROWS_WITH(parse_json(pointer, "a.json", [](const nlohmann::json&) { return 0; }),
                    "a.json: is a Git LFS pointer, not the file itself: run git lfs pull");
}

TEST_CASE("a key that stands twice in one object is refused, however deep it is", "[model][fields]") {
  const auto refusal_of = [](const std::string& text) {
    return message_of<higgs::FormatError>(
        [&] { parse_json(text, "a.json", [](const nlohmann::json&) { return 0; }); });
  };
  std::string twice = R"({"k":1,"other":{"k":2},"k":1})",
              once = R"({"k":1,"other":[{"k":2},{"k":3}],"j":{"k":4}})";
  for (int depth = 0; depth < 4; ++depth) {
    CHECK(refusal_of(twice) == "a.json: the key \"k\" stands twice in one object");
    CHECK(refusal_of(once).empty());
    twice = depth % 2 == 0 ? "[" + twice + "]" : R"({"k":)" + twice + "}";
    once = depth % 2 == 0 ? "[" + once + "]" : R"({"k":)" + once + "}";
  }
  CHECK(refusal_of(R"({"k":1,"\u006b":2})").find("\"k\"") != std::string::npos);  // another spelling of k
}

TEST_CASE("text that is no JSON is refused with its file and the place", "[model][fields]") {
  for (const std::string bad :
       {"", "{", "[1,]", "{\"a\":NaN}", "{\"a\":1e999}", "{\"a\":\"\xff\"}", "{} x"}) {
    const std::string message = message_of<higgs::FormatError>(
        [&] { parse_json(bad, "a.json", [](const nlohmann::json&) { return 0; }); });
    CHECK(message.starts_with("a.json: "));
    CHECK(message.find("exception") == std::string::npos);
  }
}
