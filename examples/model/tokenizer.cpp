// SPDX-License-Identifier: Apache-2.0
#include "tokenizer.hpp"

#include "unicode.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <array>
#include <queue>

namespace higgs::model {
namespace {

// GPT-2's alphabet: the printable bytes of Latin-1 stand for themselves, the other 68 for U+0100, U+0101, ...
constexpr bool is_printable(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

struct ByteAlphabet {
  std::array<char32_t, 256> letters{};
  std::array<int, 0x144> bytes{};  // by code point; -1 for those that are no letters

  constexpr ByteAlphabet() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
      letters[byte] = is_printable(byte) ? static_cast<char32_t>(byte) : next++;
      bytes[letters[byte]] = static_cast<int>(byte);
    }
  }
};
constexpr ByteAlphabet byte_alphabet;

// The bytes that a spelling in the byte alphabet stands for; nothing if it leaves the alphabet.
std::optional<std::string> spelled_bytes(std::string_view spelling) {
  std::string out;
  for (std::size_t at = 0; at < spelling.size();) {
    const CodePoint c = code_point_at(spelling, at);
    if (c.value >= byte_alphabet.bytes.size() || byte_alphabet.bytes[c.value] < 0) return std::nullopt;
    out += static_cast<char>(byte_alphabet.bytes[c.value]);
    at += c.bytes;
  }
  return out;
}

constexpr std::uint64_t pair_key(TokenId left, TokenId right) {
  return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
}

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
  }
  return ends;
}

std::optional<PreTokenizer> pre_tokenizer_named(std::string_view gguf_name) noexcept {
  if (gguf_name == "gpt-2") return PreTokenizer::Gpt2;
  if (gguf_name == "smollm") return PreTokenizer::Smollm;
  if (gguf_name == "llama-bpe" || gguf_name == "llama3" || gguf_name == "llama-v3")
    return PreTokenizer::Llama3;
  if (gguf_name == "qwen2" || gguf_name == "deepseek-r1-qwen") return PreTokenizer::Qwen2;
  return std::nullopt;
}

Tokenizer::Tokenizer(Vocabulary vocabulary, const std::string& source)
    : vocabulary_(std::move(vocabulary)), byte_tokens_(256), added_by_byte_(256) {
  const auto refuse = [&](const std::string& what) { throw FormatError(source + ": tokenizer: " + what); };
  const std::size_t count = vocabulary_.tokens.size();
  if (count > INT32_MAX) refuse("more tokens than ids");
  const auto in_range = [&](TokenId id) { return id >= 0 && static_cast<std::size_t>(id) < count; };
  if ((vocabulary_.prefix && !in_range(*vocabulary_.prefix)) ||
      (vocabulary_.unknown && !in_range(*vocabulary_.unknown)))
    refuse("the first or the unknown token has an id outside the vocabulary");

  std::fill(byte_tokens_.begin(), byte_tokens_.end(), vocabulary_.unknown.value_or(-1));
  bytes_.reserve(count);
  for (std::size_t id = 0; id < count; ++id) {
    // What is spelled outside the byte alphabet can come out of a model, never out of text.
    std::optional<std::string> bytes = spelled_bytes(vocabulary_.tokens[id]);
    if (bytes && !bytes->empty()) {
      words_.emplace(*bytes, static_cast<TokenId>(id));
      if (bytes->size() == 1)
        byte_tokens_[static_cast<unsigned char>((*bytes)[0])] = static_cast<TokenId>(id);
    }
    bytes_.push_back(bytes ? std::move(*bytes) : vocabulary_.tokens[id]);
  }

  special_.resize(count);
  for (std::size_t i = 0; i < vocabulary_.added.size(); ++i) {
    const auto& [id, content, special] = vocabulary_.added[i];
    if (!in_range(id)) refuse("added token \"" + content + "\" has an id outside the vocabulary");
    if (content.empty()) refuse("an added token is empty");
    bytes_[static_cast<std::size_t>(id)] = content;
    special_[static_cast<std::size_t>(id)] = special;
    added_by_byte_[static_cast<unsigned char>(content[0])].push_back(i);
  }
  for (auto& candidates : added_by_byte_)
    std::stable_sort(candidates.begin(), candidates.end(), [&](std::size_t a, std::size_t b) {
      return vocabulary_.added[a].content.size() > vocabulary_.added[b].content.size();
    });

  const auto id_of = [&](const std::string& spelling) {
    const std::optional<std::string> bytes = spelled_bytes(spelling);
    const auto found = bytes ? words_.find(*bytes) : words_.end();
    if (found == words_.end()) refuse("a merge names \"" + spelling + "\", which is no token");
    return found->second;
  };
  merges_.reserve(vocabulary_.merges.size());
  for (std::size_t rank = 0; rank < vocabulary_.merges.size(); ++rank) {
    const auto& [left, right] = vocabulary_.merges[rank];
    merges_.emplace(pair_key(id_of(left), id_of(right)),
                    Merge{static_cast<std::int32_t>(rank), id_of(left + right)});
  }
}

std::string_view Tokenizer::bytes(TokenId id) const noexcept {
  return id >= 0 && static_cast<std::size_t>(id) < bytes_.size() ? bytes_[static_cast<std::size_t>(id)]
                                                                 : std::string_view();
}

bool Tokenizer::is_special(TokenId id) const noexcept {
  return id >= 0 && static_cast<std::size_t>(id) < special_.size() && special_[static_cast<std::size_t>(id)];
}

std::optional<TokenId> Tokenizer::added_token(std::string_view content) const {
  for (const auto& each : vocabulary_.added)
    if (each.content == content) return each.id;
  return std::nullopt;
}

std::string Tokenizer::decode(std::span<const TokenId> ids) const {
  std::string out;
  for (const TokenId id : ids)
    if (!is_special(id)) out += bytes(id);
  return out;
}

// Merges the pair of lowest rank, the leftmost of equals, until no pair is left: n log n for a word of n
// bytes.
std::vector<TokenId> Tokenizer::encode_word(std::string_view word) const {
  if (vocabulary_.whole_words_first)
    if (const auto found = words_.find(std::string(word)); found != words_.end()) return {found->second};

  struct Symbol {
    TokenId id;  // -1 once it was merged into its left neighbour
    std::ptrdiff_t left, right;
  };
  std::vector<Symbol> symbols;
  for (const char c : word) {
    const TokenId id = byte_tokens_[static_cast<unsigned char>(c)];
    const auto at = static_cast<std::ptrdiff_t>(symbols.size());
    if (id >= 0) symbols.push_back({id, at - 1, at + 1});
  }
  if (!symbols.empty()) symbols.back().right = -1;
  const auto symbol = [&](std::ptrdiff_t at) -> Symbol& { return symbols[static_cast<std::size_t>(at)]; };

  struct Candidate {
    Merge merge;
    std::ptrdiff_t at;
    std::uint64_t pair;
    bool operator<(const Candidate& other) const {  // the queue puts the greatest first
      return merge.rank != other.merge.rank ? merge.rank > other.merge.rank : at > other.at;
    }
  };
  std::priority_queue<Candidate> queue;
  const auto propose = [&](std::ptrdiff_t at) {
    if (at < 0 || symbol(at).right < 0) return;
    const std::uint64_t pair = pair_key(symbol(at).id, symbol(symbol(at).right).id);
    if (const auto found = merges_.find(pair); found != merges_.end()) queue.push({found->second, at, pair});
  };
  for (std::size_t i = 0; i < symbols.size(); ++i) propose(static_cast<std::ptrdiff_t>(i));
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbol(best.at);
    // A candidate is stale once one of its two symbols took part in another merge.
    if (left.id < 0 || left.right < 0 || pair_key(left.id, symbol(left.right).id) != best.pair) continue;
    Symbol& right = symbol(left.right);
    left.id = best.merge.merged;
    left.right = right.right;
    right.id = -1;
    if (left.right >= 0) symbol(left.right).left = best.at;
    propose(left.left);
    propose(best.at);
  }
  std::vector<TokenId> ids;
  for (const Symbol& each : symbols)
    if (each.id >= 0) ids.push_back(each.id);
  return ids;
}

void Tokenizer::encode_plain(std::string_view text,
                             std::unordered_map<std::string_view, std::vector<TokenId>>& known,
                             std::vector<TokenId>& out) const {
  std::size_t begin = 0;
  for (const std::size_t end : word_ends(text, vocabulary_.pre_tokenizer)) {
    const std::string_view word = text.substr(begin, end - begin);
    auto found = known.find(word);
    if (found == known.end()) found = known.emplace(word, encode_word(word)).first;
    out.insert(out.end(), found->second.begin(), found->second.end());
    begin = end;
  }
}

std::vector<TokenId> Tokenizer::encode(std::string_view text) const {
  std::vector<TokenId> out;
  if (vocabulary_.prefix) out.push_back(*vocabulary_.prefix);
  std::unordered_map<std::string_view, std::vector<TokenId>> known;
  std::size_t plain = 0;  // where the text since the last added token begins
  for (std::size_t at = 0; at < text.size();) {
    const Vocabulary::AddedToken* found = nullptr;
    for (const std::size_t i : added_by_byte_[static_cast<unsigned char>(text[at])])
      if (text.substr(at).starts_with(vocabulary_.added[i].content)) {
        found = &vocabulary_.added[i];
        break;
      }
    if (!found) {
      ++at;
      continue;
    }
    encode_plain(text.substr(plain, at - plain), known, out);
    out.push_back(found->id);
    at += found->content.size();
    plain = at;
  }
  encode_plain(text.substr(plain), known, out);
  return out;
}

}  // namespace higgs::model
