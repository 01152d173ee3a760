// SPDX-License-Identifier: Apache-2.0
#include "chat/jinja.hpp"

#include "store/temporary_folder.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <string>
#include <utility>
#include <vector>

using namespace higgs::model;

namespace {

const jinja::Value variables = jinja::Value::parse(R"({
  "s": "Hello  w\u00f6rld ", "e": "", "n": 3, "f": 1.5, "nil": null, "l": ["a", "b", "c"],
  "d": {"role": "user", "content": " x y "},
  "m": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]})");

std::string rendered(const std::string& text) { return jinja::Template(text, "model").render(variables); }

// What is written, or the refusal.
std::string jinja_refusal(const std::string& text) {
  std::string out = message_of<higgs::FormatError>([&] { jinja::Template(text, "model"); });
  if (out.empty()) out = message_of<higgs::InvalidArgument>([&] { rendered(text); });
  return out;
}

}  // namespace

TEST_CASE("expressions are worth what Jinja says", "[model][chat]") {
  // Each result is that of Jinja 3.1.6.
  const std::vector<std::pair<std::string, std::string>> worth{
      {"1 + 2 * 3 - 4", "3"},
      {"-7 // 2 ~ -7 % 3 ~ 7 / 2", "-423.5"},
      {"'a' ~ 1 ~ none ~ true ~ nothing", "a1NoneTrue"},
      {"'ab' * 2 + \"\\n'\" 'c'", "abab\n'c"},
      {"not 0 and '' or l[-1]", "c"},
      {"'yes' if n > 2 and n != 4 else 'no'", "yes"},
      {"('no' if false) ~ '.'", "."},
      {"'role' in d and 'x' not in l", "True"},
      {"m[1].role ~ m[1]['content'] ~ m[5] ~ d.none", "userU"},
      {"s[1:4] ~ s[-3] ~ s[::-1][:3]", "elll dl"},
      {"l[1:] | join('-') ~ l[::-1] | join ~ l[:-1] | length", "b-ccba2"},
      {"s.strip().split() | last", "w\u00f6rld"},
      {"'a,b,c'.split(',', 1)[1] ~ 'xxaxx'.strip('x') ~ 'a'.replace('a', 'bb')", "b,cabb"},
      {"'<t>x'.startswith('<t>') and 'x'.endswith(('y', 'x'))", "True"},
      {"d.content | trim ~ '|' ~ d.get('q', 'z') ~ 'ab'.upper() ~ 'don'.title()", "x y|zABDon"},
      {"nothing | default('q') ~ e | default('r', true) ~ e | d('t')", "qr"},
      {"m | selectattr('role', 'equalto', 'user') | map(attribute='content') | join", "U"},
      {"(m | rejectattr('role', 'in', ['user']) | list)[0].content", "S"},
      {"range(5, 0, -2) | list | join", "531"},
      {"nil is none and d is mapping and l is sequence and s is string and n is not defined", "False"},
      {"n is odd and n is divisibleby 3 and f is number and nothing is undefined", "True"},
      {"'Y' if [] | map('upper') else 'N'", "Y"},
      {"s | tojson ~ nil | tojson", "\"Hello  w\u00f6rld \"null"},
      {"{'a': {'b': 1}}.a.b ~ ('x', 'y')[1] ~ strftime_now('%%')", "1y%"}};
  for (const auto& [text, expected] : worth) {
    CAPTURE(text);
    CHECK(rendered("{{ " + text + " }}") == expected);
  }
}

TEST_CASE("statements do what Jinja does", "[model][chat]") {
  CHECK(rendered("{% for x in l %}{{ loop.index }}{{ x }}{% if not loop.last %},{% endif %}{% endfor %}") ==
        "1a,2b,3c");
  CHECK(rendered("{% for x in l if x != 'b' %}{{ loop.length }}{{ x }}{% else %}none{% endfor %}") == "2a2c");
  CHECK(rendered("{% for x in [] %}{{ x }}{% else %}none{% endfor %}") == "none");
  CHECK(rendered("{% for x in l %}{% if x == 'b' %}{% continue %}{% endif %}{{ x }}{% endfor %}") == "ac");
  CHECK(rendered("{% for x in l %}{% if x == 'b' %}{% break %}{% endif %}{{ x }}{% endfor %}") == "a");
  CHECK(rendered("{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}") == "role=user;content= x y ;");
  CHECK(rendered("{% if n == 1 %}1{% elif n == 3 %}3{% else %}0{% endif %}") == "3");
  // What a loop sets ends with the turn, unless a namespace holds it.
  CHECK(rendered("{% set q = 0 %}{% for x in l %}{% set q = x %}{% endfor %}{{ q }}") == "0");
  CHECK(rendered("{% set s = namespace(q=0) %}{% for x in l %}{% set s.q = x %}{% endfor %}{{ s.q }}") ==
        "c");
  CHECK(rendered("{% set a, b = 1, 2 %}{% set c %}<{{ b }}{{ a }}>{% endset %}{{ c }}") == "<21>");
  CHECK(rendered("{% macro f(a, b='z') %}{{ a }}{{ b }}{{ x }}{% endmacro %}"
                 "{% for x in l %}{{ f(x) }}{{ f(b=1, a=2) }}{% endfor %}") == "az21bz21cz21");
  CHECK(rendered("{% generation %}{{ n }}{% endgeneration %}{# {{ no }} #}") == "3");
}

TEST_CASE("white space around statements goes as transformers lets it go", "[model][chat]") {
  CHECK(rendered("a\n  {% if n %}\n  b\n  {% endif %}\nc\n") == "a\n  b\nc");
  CHECK(rendered("a {%- if n -%}\n b {%- endif -%}\n c") == "abc");
  CHECK(rendered("a\n  {%+ if n +%}\n b{% endif %}") == "a\n  \n b");
  CHECK(rendered("a\r\n  {# note #}\r\n  {{ n }}\r\nb\n\n") == "a\n  3\nb\n");
  CHECK(rendered("a\n  {{- n -}}  \n b") == "a3b");
  CHECK(rendered("a  {% if n %} b{% endif %}  \n") == "a   b  ");
}

TEST_CASE("what a template may not do, or what is not supported, is refused with its line", "[model][chat]") {
  using Catch::Contains;
  for (const auto& [text, what] :
       std::vector<std::pair<std::string, std::string>>{{"{{ raise_exception('no tools') }}", "no tools"},
                                                        {"{{ l | sort }}", "filter \"sort\""},
                                                        {"{{ l is callable }}", "test \"callable\""},
                                                        {"{{ s.encode() }}", "method \"encode\""},
                                                        {"{{ l.append(1) }}", "method \"append\""},
                                                        {"{{ joiner() }}", "function \"joiner\""},
                                                        {"{{ pad_token }}", "pad_token"},
                                                        {"{% include 'x' %}", "statement \"include\""},
                                                        {"{{ nothing.x }}", "undefined"},
                                                        {"{{ 'a' + 1 }}", "a number"},
                                                        {"{{ 'a' + nil }}", "none"},
                                                        {"{{ l }}", "a list"},
                                                        {"{{ 1 // 0 }}", "division by zero"},
                                                        {"{% for x in n %}{% endfor %}", "a number"},
                                                        {"{% if n %}", "\"endif\" is missing"},
                                                        {"{% if n %}{% endfor %}", "\"endfor\""},
                                                        {"{% endif %}", "\"endif\" ends nothing"},
                                                        {"{{ n", "\"}}\" is missing"},
                                                        {"{{ 'n }}", "a text does not end"},
                                                        {"{{ (n }}", "closes nothing"},
                                                        {"{# n", "a comment does not end"},
                                                        {"{{ n ! }}", "\"!\""}}) {
    CAPTURE(text);
    CHECK_THAT(jinja_refusal("\n" + text),
               Contains("model: line 2 of the chat template: ") && Contains(what));
  }
}

TEST_CASE("a hostile template comes to an end", "[model][chat]") {
  using Catch::Contains;
  const auto many = [](std::size_t count, const std::string& what) {
    std::string out;
    for (std::size_t i = 0; i < count; ++i) out += what;
    return out;
  };
  CHECK_THAT(jinja_refusal("{{ " + many(100'000, "(") + many(100'000, ")") + " }}"), Contains("levels"));
  CHECK_THAT(jinja_refusal("{{ " + many(100'000, "not ") + "n }}"), Contains("levels"));
  CHECK_THAT(jinja_refusal("{{ " + many(100'000, "-") + "n }}"), Contains("levels"));
  CHECK_THAT(jinja_refusal(many(100'000, "{% if n %}")), Contains("levels"));
  CHECK_THAT(jinja_refusal("{{ " + many(100'000, "[") + many(100'000, "]") + " }}"), Contains("levels"));
  CHECK_THAT(jinja_refusal("{% if n %}" + many(100'000, "{% elif n %}")), Contains("levels"));
  CHECK_THAT(jinja_refusal("{{ 1" + many(100'000, "+1") + " }}"), Contains("levels"));
  CHECK_THAT(jinja_refusal("{{ n" + many(100'000, ".n") + " }}"), Contains("levels"));
  CHECK_THAT(jinja_refusal("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), Contains("macros"));
  CHECK_THAT(jinja_refusal("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"),
             Contains("does not end"));
  CHECK_THAT(jinja_refusal("{{ 'abcdefgh' * 99999999 }}"), Contains("too long"));
  CHECK_THAT(jinja_refusal("{{ range(99999999) }}"), Contains("range"));
  for (const char* text :
       {"{", "{{", "{%", "{#", "{{-", "{%-}", "{{ '\\", "{{ '\\u12", "{{ n is", "{{ n |", "{% set", "{% for",
        "{% macro f(", "{{ n[", "{{ {", "{% if", "{{ n.", "{% %}", "{{ }}"})
    CHECK(jinja_refusal(text).empty() == (std::string(text) == "{"));
}
