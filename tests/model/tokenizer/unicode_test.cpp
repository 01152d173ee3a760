// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/unicode.hpp"

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

TEST_CASE("normalization is idempotent, and both forms spell the same text", "[model][unicode]") {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (is_surrogate(c)) continue;
    const std::string text = to_utf8(c), apart = to_nfd(text), together = to_nfc(text);
    const bool good = to_nfd(apart) == apart && to_nfc(together) == together && to_nfd(together) == apart &&
                      to_nfc(apart) == together;
    if (!good) FAIL("code point " << static_cast<std::uint32_t>(c));
  }
}

TEST_CASE("the forms of all code points are those of Hugging Face's tokenizers", "[model][unicode]") {
  // FNV-1a of the forms of all code points, each followed by a newline, from tokenizers 0.23.3.
  const auto hash_of = [](const auto& form) {
    std::uint64_t hash = 14695981039346656037u;
    for (char32_t c = 0; c < 0x110000; ++c) {
      if (is_surrogate(c)) continue;
      for (const char byte : form(to_utf8(c)) + "\n")
        hash = (hash ^ static_cast<unsigned char>(byte)) * 1099511628211u;
    }
    return hash;
  };
  CHECK(hash_of([](const std::string& text) { return to_nfc(text); }) == 4387637531877362409u);
  CHECK(hash_of([](const std::string& text) { return to_nfd(text); }) == 5248238458272251909u);
  // Each mark behind two others: classes decide the order.
  CHECK(hash_of([](const std::string& text) { return to_nfd("a\u0345\u0301" + text); }) ==
        1579835593346134019u);
}

TEST_CASE("marks are ordered and put together as Unicode Standard Annex 15 says", "[model][unicode]") {
  const auto check = [](const std::string& text, const std::string& c, const std::string& d) {
    CHECK(to_nfc(text) == c);
    CHECK(to_nfd(text) == d);
  };
  check("\u212b", "\u00c5", "A\u030a");                         // a singleton never comes back
  check("\u1e9b\u0323", "\u1e9b\u0323", "\u017f\u0323\u0307");  // a mark that is blocked
  check("\u1e69", "\u1e69", "s\u0323\u0307");                   // two steps
  check("\u1e0b\u0323", "\u1e0d\u0307", "d\u0323\u0307");       // the lower mark first
  check("q\u0307\u0323", "q\u0323\u0307", "q\u0323\u0307");     // nothing to put together
  check("\u0958", "\u0915\u093c", "\u0915\u093c");              // excluded from composition
  check("\uac01", "\uac01", "\u1100\u1161\u11a8");              // a syllable of three letters
  check("\uac00\u11a8", "\uac01", "\u1100\u1161\u11a8");
  check("\u1100\u1161\u1161", "\uac00\u1161", "\u1100\u1161\u1161");
  check("a\u0301\u0301", "\u00e1\u0301", "a\u0301\u0301");
  check("\u0301e", "\u0301e", "\u0301e");           // a mark with nothing before it
  check("\u0344", "\u0308\u0301", "\u0308\u0301");  // a mark of two marks
  check("\U0001d15e", "\U0001d157\U0001d165", "\U0001d157\U0001d165");
  check(
      "e\xff"
      "\u0301",
      "e\xff"
      "\u0301",
      "e\xff"
      "\u0301");  // a byte that is not UTF-8 parts them
  check("e\xcc", "e\xcc", "e\xcc");
}
