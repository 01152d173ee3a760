// SPDX-License-Identifier: Apache-2.0
#include "../../examples/model/unicode.hpp"

#include <catch2/catch.hpp>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

using namespace higgs::model;

namespace {

bool is_surrogate(char32_t c) { return c >= 0xd800 && c < 0xe000; }

std::string stream_in_pieces(std::string_view text, std::size_t piece) {
  Utf8Stream stream;
  std::string out;
  for (std::size_t at = 0; at < text.size(); at += piece) out += stream.push(text.substr(at, piece));
  return out + stream.finish();
}

}  // namespace

TEST_CASE("every code point survives UTF-8", "[model][unicode]") {
  for (char32_t c = 0; c < 0x110000; ++c) {
    const CodePoint back = code_point_at(to_utf8(c), 0);
    const std::size_t bytes = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    const bool good = is_surrogate(c) ? back.value == replacement_character && back.bytes == 1
                                      : back.value == c && back.bytes == bytes;
    if (!good) FAIL("code point " << static_cast<std::uint32_t>(c));
  }
}

TEST_CASE("bytes that are not UTF-8 stand alone", "[model][unicode]") {
  for (const std::string_view bad :
       {"\x80", "\xbf", "\xc0\xaf", "\xc1\xbf", "\xc3", "\xe0\x9f\xbf", "\xe4\xb8", "\xed\xa0\x80",
        "\xf0\x8f\xbf\xbf", "\xf0\x9f\x99", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xc3x"}) {
    CHECK(sequence_length(bad, 0) == 0);
    CHECK(code_point_at(bad, 0).value == replacement_character);
    CHECK(code_point_at(bad, 0).bytes == 1);
  }
}

TEST_CASE("the classes have as many members as Unicode 16.0 says", "[model][unicode]") {
  std::array<int, 4> counts{};
  for (char32_t c = 0; c < 0x110000; ++c) ++counts[static_cast<std::size_t>(char_class(c))];
  CHECK(counts[static_cast<std::size_t>(CharClass::Letter)] == 141028);
  CHECK(counts[static_cast<std::size_t>(CharClass::Number)] == 1911);
  CHECK(counts[static_cast<std::size_t>(CharClass::Space)] == 25);
  for (const char32_t letter : {U'a', U'Z', U'\u00aa', U'\u00df', U'\u4e2d', U'\U0001e943'})
    CHECK(char_class(letter) == CharClass::Letter);
  for (const char32_t number : {U'0', U'9', U'\u00bd', U'\u0663', U'\u2167', U'\U0001d7d8'})
    CHECK(char_class(number) == CharClass::Number);
  for (const char32_t space : {U'\t', U'\n', U'\r', U' ', U'\u00a0', U'\u2028', U'\u3000'})
    CHECK(char_class(space) == CharClass::Space);
  for (const char32_t other :
       {U'\0', U'!', U'_', U'\u0301', U'\u200b', U'\ufffd', U'\U0001f642', char32_t{0x110000}})
    CHECK(char_class(other) == CharClass::Other);
}

TEST_CASE("a stream gives the same text however it is cut", "[model][unicode]") {
  const std::string text = "a\u00e9\u4e2d\U0001f642b\u0301";
  for (std::size_t piece = 1; piece <= text.size(); ++piece) CHECK(stream_in_pieces(text, piece) == text);
  Utf8Stream stream;
  CHECK(stream.push("\xf0\x9f") == "");  // waits for the rest of a character
  CHECK(stream.push("\x99") == "");
  CHECK(stream.push("\x82!") == "\U0001f642!");
}

TEST_CASE("a stream replaces what is broken and holds back nothing else", "[model][unicode]") {
  const std::string bad = "\ufffd";
  for (std::size_t piece = 1; piece < 6; ++piece) {
    CHECK(stream_in_pieces("a\xff"
                           "b",
                           piece) == "a" + bad + "b");
    CHECK(stream_in_pieces("\xe4"
                           "b",
                           piece) == bad + "b");
    CHECK(stream_in_pieces("x\xf0\x9f", piece).starts_with("x" + bad));
  }
  Utf8Stream stream;
  CHECK(stream.push("\xe4x") == bad + "x");
  CHECK(stream.push("\xe0\x80") == bad + bad);  // no character begins so
  CHECK(stream.push("\xed\xa0") == bad + bad);
}
