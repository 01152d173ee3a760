// SPDX-License-Identifier: Apache-2.0
// The rules of pre-tokenizers.
#include "tokenizer/tokenizer.hpp"

#include "tokenizer/unicode.hpp"

namespace higgs::model {
namespace {

// A text with the questions that the regular expressions of pre-tokenizers ask about it.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  bool at_end(std::size_t at) const { return at >= text_.size(); }
  std::size_t next(std::size_t at) const { return at + code_point_at(text_, at).bytes; }
  bool is(std::size_t at, CharClass what) const {
    return !at_end(at) && char_class(code_point_at(text_, at).value) == what;
  }
  bool is_newline(std::size_t at) const { return !at_end(at) && (text_[at] == '\r' || text_[at] == '\n'); }
  std::size_t skip(std::size_t at, CharClass what, std::size_t most = SIZE_MAX) const {
    for (; most > 0 && is(at, what); --most) at = next(at);
    return at;
  }

  // 's|'t|'re|'ve|'m|'ll|'d; `at` where none of them is.
  std::size_t contraction(std::size_t at, bool any_case) const {
    if (text_[at] != '\'') return at;
    const std::size_t first = at + 1;
    const char a = letter(first, any_case);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return next(first);
    const char b = a == '\0' ? a : letter(first + 1, any_case);
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? first + 2 : at;
  }

  // \s+(?!\S)|\s+ at white space: what follows keeps the last character of the run as its prefix.
  std::size_t white_space(std::size_t at) const {
    std::size_t last = at;
    std::size_t end = at;
    while (is(end, CharClass::Space)) {
      last = end;
      end = next(end);
    }
    return at_end(end) || last == at ? end : last;
  }

  // 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  std::size_t gpt2_word(std::size_t at) const {
    if (const std::size_t end = contraction(at, false); end != at) return end;
    const std::size_t word = text_[at] == ' ' ? at + 1 : at;
    for (const CharClass what : {CharClass::Letter, CharClass::Number, CharClass::Other})
      if (is(word, what)) return skip(word, what);
    return white_space(at);
  }

  // (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|
  // \s*[\r\n]+|\s+(?!\S)|\s+
  std::size_t llama3_word(std::size_t at, std::size_t digits) const {
    if (const std::size_t end = contraction(at, true); end != at) return end;
    const bool may_lead = !is_newline(at) && !is(at, CharClass::Number) && !is(at, CharClass::Letter);
    const std::size_t letters = may_lead ? next(at) : at;
    if (is(letters, CharClass::Letter)) return skip(letters, CharClass::Letter);
    if (is(at, CharClass::Number)) return skip(at, CharClass::Number, digits);
    std::size_t symbols = text_[at] == ' ' ? at + 1 : at;
    if (is(symbols, CharClass::Other)) {
      symbols = skip(symbols, CharClass::Other);
      while (is_newline(symbols)) ++symbols;
      return symbols;
    }
    std::size_t after_newline = at;
    for (std::size_t end = at; is(end, CharClass::Space); end = next(end))
      if (is_newline(end)) after_newline = end + 1;
    return after_newline != at ? after_newline : white_space(at);
  }

 private:
  // The letter of a contraction at `at`. Without regard to case, U+017F (a long s) is an s as well.
  char letter(std::size_t at, bool any_case) const {
    if (at_end(at)) return '\0';
    const char c = text_[at];
    if (!any_case) return c;
    if (code_point_at(text_, at).value == 0x17f) return 's';
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }

  std::string_view text_;
};

void append_gpt2_words(std::string_view text, std::size_t base, std::vector<std::size_t>& ends) {
  const Scanner scanner(text);
  for (std::size_t at = 0; !scanner.at_end(at);) {
    at = scanner.gpt2_word(at);
    ends.push_back(base + at);
  }
}

}  // namespace

std::vector<std::size_t> word_ends(std::string_view text, PreTokenizer rule) {
  std::vector<std::size_t> ends;
  const Scanner scanner(text);
  switch (rule) {
    case PreTokenizer::Gpt2:
      append_gpt2_words(text, 0, ends);
      break;
    case PreTokenizer::Smollm:
      // Every number is a word; GPT-2's rule sees what lies between two of them as a text of its own.
      for (std::size_t at = 0; !scanner.at_end(at);) {
        std::size_t number = at;
        while (!scanner.at_end(number) && !scanner.is(number, CharClass::Number))
          number = scanner.next(number);
        append_gpt2_words(text.substr(at, number - at), at, ends);
        at = scanner.skip(number, CharClass::Number, 1);
        if (at != number) ends.push_back(at);
      }
      break;
    case PreTokenizer::Llama3:
    case PreTokenizer::Qwen2:
      for (std::size_t at = 0; !scanner.at_end(at);) {
        at = scanner.llama3_word(at, rule == PreTokenizer::Llama3 ? 3 : 1);
        ends.push_back(at);
      }
      break;
    case PreTokenizer::Spaces:
      for (std::size_t at = text.find(' '); at != text.npos && at + 1 < text.size();
           at = text.find(' ', at + 1))
        ends.push_back(at + 1);
      [[fallthrough]];
    case PreTokenizer::Whole:
      if (!text.empty()) ends.push_back(text.size());
      break;
  }
  return ends;
}

}  // namespace higgs::model
