// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/tokenizer.hpp"

#include "tokenizer/unicode.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <array>
#include <limits>
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

// What SentencePiece writes for a space.
constexpr std::string_view space_mark = "\u2581";

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  std::size_t begin = 0;
  for (std::size_t at = text.find(from); at != text.npos; at = text.find(from, begin)) {
    out.append(text.substr(begin, at - begin)).append(to);
    begin = at + from.size();
  }
  return out.append(text.substr(begin));
}

// The byte that "<0x41>" spells.
std::optional<char> spelled_byte(std::string_view token) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  const std::size_t high = digits.find(token[3]), low = digits.find(token[4]);
  if (high == digits.npos || low == digits.npos) return std::nullopt;
  return static_cast<char>(high * 16 + low);
}

std::string byte_token(char c) {
  constexpr char digits[] = "0123456789ABCDEF";
  const auto byte = static_cast<unsigned char>(c);
  return {'<', '0', 'x', digits[byte / 16], digits[byte % 16], '>'};
}

// Where the white space before `at` begins, and where that from `at` on ends.
std::size_t space_before(std::string_view text, std::size_t at) {
  std::size_t begin = at;
  for (std::size_t i = 0; i < at; i += code_point_at(text, i).bytes) {
    if (char_class(code_point_at(text, i).value) != CharClass::Space)
      begin = at;
    else if (begin == at)
      begin = i;
  }
  return begin;
}
std::size_t space_after(std::string_view text, std::size_t at) {
  while (at < text.size() && char_class(code_point_at(text, at).value) == CharClass::Space)
    at += code_point_at(text, at).bytes;
  return at;
}

std::string run(const NormalizerStep& step, std::string_view text) {
  using Kind = NormalizerStep::Kind;
  switch (step.kind) {
    case Kind::Nfc:
      return to_nfc(text);
    case Kind::Nfd:
      return to_nfd(text);
    case Kind::Prepend:
      return text.empty() ? std::string() : step.to + std::string(text);
    case Kind::Replace:
      return replaced(text, step.from, step.to);
    case Kind::StripLeft:
      return std::string(text.substr(space_after(text, 0)));
    case Kind::StripRight:
      return std::string(text.substr(0, space_before(text, text.size())));
  }
  return std::string(text);
}

}  // namespace

Tokenizer::Tokenizer(Vocabulary vocabulary, const std::string& source)
    : vocabulary_(std::move(vocabulary)), single_bytes_(256, -1), raw_(256), cooked_(256) {
  const auto refuse = [&](const std::string& what) { throw FormatError(source + ": tokenizer: " + what); };
  const std::size_t count = vocabulary_.tokens.size();
  if (count > INT32_MAX) refuse("more tokens than ids");
  const auto in_range = [&](TokenId id) { return id >= 0 && static_cast<std::size_t>(id) < count; };
  for (const auto* list : {&vocabulary_.prefix, &vocabulary_.suffix})
    for (const TokenId id : *list)
      if (!in_range(id))
        refuse("token " + std::to_string(id) +
               ", which is put around every text, is outside the vocabulary of " + std::to_string(count) +
               " tokens");
  if (vocabulary_.unknown && !in_range(*vocabulary_.unknown))
    refuse("the unknown token " + std::to_string(*vocabulary_.unknown) + " is outside the vocabulary of " +
           std::to_string(count) + " tokens");
  if (vocabulary_.model == Vocabulary::Model::Unigram) {
    if (vocabulary_.scores.size() > count) refuse("has more scores than tokens");
    if (!vocabulary_.unknown) refuse("a unigram model needs an unknown token");
  }
  index_tokens();
  index_added(source);
  index_merges(source);
}

void Tokenizer::index_tokens() {
  const bool byte_level = vocabulary_.model == Vocabulary::Model::ByteLevelBpe;
  const bool unigram = vocabulary_.model == Vocabulary::Model::Unigram;
  const std::size_t count = vocabulary_.tokens.size();
  std::vector<bool> outside(count);
  for (const Vocabulary::AddedToken& token : vocabulary_.added)
    if (token.outside && token.id >= 0 && static_cast<std::size_t>(token.id) < count)
      outside[static_cast<std::size_t>(token.id)] = true;
  bytes_.reserve(count);
  for (std::size_t id = 0; id < count; ++id) {
    const std::string& token = vocabulary_.tokens[id];
    // What is spelled outside the byte alphabet can come out of a model, never out of text.
    std::optional<std::string> word = byte_level ? spelled_bytes(token) : std::optional(token);
    const bool scored = !unigram || id < vocabulary_.scores.size();
    if (word && !word->empty() && scored && !outside[id]) {
      if (word->size() == 1) single_bytes_[static_cast<unsigned char>((*word)[0])] = static_cast<TokenId>(id);
      longest_ = std::max(longest_, word->size());
      words_.emplace(*word, static_cast<TokenId>(id));
    }
    if (byte_level) {
      bytes_.push_back(word ? std::move(*word) : token);
      continue;
    }
    const std::optional<char> byte = vocabulary_.byte_fallback ? spelled_byte(token) : std::nullopt;
    bytes_.push_back(byte ? std::string(1, *byte) : replaced(token, space_mark, " "));
  }
  if (unigram && !vocabulary_.scores.empty()) {
    constexpr double penalty = 10;  // SentencePiece's: an unknown character is worse than any token
    unknown_score_ = *std::min_element(vocabulary_.scores.begin(), vocabulary_.scores.end()) - penalty;
  }
}

void Tokenizer::index_added(const std::string& source) {
  const auto refuse = [&](const std::string& what) { throw FormatError(source + ": tokenizer: " + what); };
  special_.resize(bytes_.size());
  for (std::size_t i = 0; i < vocabulary_.added.size(); ++i) {
    const Vocabulary::AddedToken& token = vocabulary_.added[i];
    if (token.id < 0 || static_cast<std::size_t>(token.id) >= bytes_.size())
      refuse("added token \"" + token.content + "\" has id " + std::to_string(token.id) +
             ", which is outside the vocabulary of " + std::to_string(bytes_.size()) + " tokens");
    if (token.content.empty()) refuse("added token " + std::to_string(token.id) + " is empty");
    const bool byte_level = vocabulary_.model == Vocabulary::Model::ByteLevelBpe;
    special_[static_cast<std::size_t>(token.id)] = token.special;
    const std::string text = token.normalized ? normalized(token.content) : token.content;
    bytes_[static_cast<std::size_t>(token.id)] = byte_level ? text : replaced(text, space_mark, " ");
    if (text.empty()) continue;
    (token.normalized ? cooked_ : raw_)[static_cast<unsigned char>(text[0])].push_back({text, i});
  }
  for (Patterns* patterns : {&raw_, &cooked_})
    for (std::vector<Pattern>& candidates : *patterns)
      std::stable_sort(candidates.begin(), candidates.end(),
                       [](const Pattern& a, const Pattern& b) { return a.text.size() > b.text.size(); });
}

void Tokenizer::index_merges(const std::string& source) {
  const auto id_of = [&](const std::string& spelling) {
    const std::optional<std::string> word =
        vocabulary_.model == Vocabulary::Model::ByteLevelBpe ? spelled_bytes(spelling) : spelling;
    const auto found = word ? words_.find(*word) : words_.end();
    if (found == words_.end())
      throw FormatError(source + ": tokenizer: a merge names \"" + spelling + "\", which is no token");
    return found->second;
  };
  merges_.reserve(vocabulary_.merges.size());
  for (std::size_t rank = 0; rank < vocabulary_.merges.size(); ++rank) {
    const auto& [left, right] = vocabulary_.merges[rank];
    merges_.insert_or_assign(pair_key(id_of(left), id_of(right)),
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
  bool first = true;
  for (const TokenId id : ids) {
    if (is_special(id)) continue;
    const std::string_view piece = bytes(id);
    // Such a decoder lets the spaces of the first token go, however many there are.
    if (first && vocabulary_.lead == Vocabulary::Lead::FirstTokenStripped)
      out = replaced(piece, " ", "");
    else
      out += piece;
    first = false;
  }
  if (vocabulary_.lead == Vocabulary::Lead::SpaceStripped && out.starts_with(' ')) out.erase(0, 1);
  return out;
}

std::optional<std::vector<TokenId>> Tokenizer::byte_tokens(std::string_view text) const {
  std::vector<TokenId> out;
  for (const char c : text) {
    const auto found = words_.find(byte_token(c));
    if (found == words_.end()) return std::nullopt;
    out.push_back(found->second);
  }
  return out;
}

// The tokens that merges start from: one for each byte or character, unknown ones where there is none.
std::vector<TokenId> Tokenizer::symbols(std::string_view word) const {
  const bool byte_level = vocabulary_.model == Vocabulary::Model::ByteLevelBpe;
  std::vector<TokenId> out;
  bool pending = false;  // an unknown token is due, unless it is fused with the next one
  for (std::size_t at = 0; at < word.size();) {
    const std::string_view character = word.substr(at, byte_level ? 1 : code_point_at(word, at).bytes);
    at += character.size();
    TokenId id = -1;
    if (character.size() == 1) {
      id = single_bytes_[static_cast<unsigned char>(character[0])];
    } else if (const auto found = words_.find(std::string(character)); found != words_.end()) {
      id = found->second;
    }
    if (id < 0 && vocabulary_.byte_fallback)
      if (const auto bytes = byte_tokens(character)) {
        out.insert(out.end(), bytes->begin(), bytes->end());
        continue;
      }
    if (pending && (id >= 0 || !vocabulary_.fuse_unknown)) out.push_back(*vocabulary_.unknown);
    pending = id < 0 && vocabulary_.unknown;
    if (id >= 0) out.push_back(id);
  }
  if (pending) out.push_back(*vocabulary_.unknown);
  return out;
}

// Merges the pair of lowest rank, the leftmost of equals, until no pair is left: n log n for a word of n
// symbols.
std::vector<TokenId> Tokenizer::merge(const std::vector<TokenId>& word) const {
  struct Symbol {
    TokenId id;  // -1 once it was merged into its left neighbour
    std::ptrdiff_t left, right;
  };
  std::vector<Symbol> symbols;
  for (const TokenId id : word) {
    const auto at = static_cast<std::ptrdiff_t>(symbols.size());
    symbols.push_back({id, at - 1, at + 1});
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

// The tokens of a unigram model whose scores have the largest sum (Viterbi's algorithm); of equals, the one that was
// found first.
std::vector<TokenId> Tokenizer::likeliest(std::string_view word) const {
  struct Node {
    double score = -std::numeric_limits<double>::infinity();  // score of the best path to here
    std::size_t from = 0;
    TokenId id = 0;
  };
  const TokenId unknown = *vocabulary_.unknown;
  std::vector<Node> best(word.size() + 1);
  best[0].score = 0;
  for (std::size_t at = 0; at < word.size();) {
    const std::size_t character = code_point_at(word, at).bytes;
    const auto reach = [&](std::size_t length, double score, TokenId id) {
      if (Node& end = best[at + length]; best[at].score + score > end.score)
        end = {best[at].score + score, at, id};
    };
    bool known = false;
    for (std::size_t length = 1; length <= std::min(longest_, word.size() - at); ++length) {
      const auto found = words_.find(std::string(word.substr(at, length)));
      if (found == words_.end()) continue;
      reach(length, vocabulary_.scores[static_cast<std::size_t>(found->second)], found->second);
      known = known || length == character;
    }
    if (!known) reach(character, unknown_score_, unknown);
    at += character;
  }
  std::vector<Node> path;  // from the end
  for (std::size_t end = word.size(); end > 0; end = best[end].from) {
    path.push_back({0, best[end].from, best[end].id});
    if (path.size() > 1 && path.back().id == unknown && path[path.size() - 2].id == unknown) {
      path[path.size() - 2].from = path.back().from;  // neighbours that are unknown are one token
      path.pop_back();
    }
  }
  std::reverse(path.begin(), path.end());
  std::vector<TokenId> out;
  for (std::size_t i = 0; i < path.size(); ++i) {
    const std::size_t end = i + 1 < path.size() ? path[i + 1].from : word.size();
    const std::string_view piece = word.substr(path[i].from, end - path[i].from);
    const auto word_found = words_.find(std::string(piece));
    if (path[i].id != unknown || word_found != words_.end()) {
      out.push_back(path[i].id != unknown ? path[i].id : word_found->second);
      continue;
    }
    const auto bytes = vocabulary_.byte_fallback ? byte_tokens(piece) : std::nullopt;
    if (bytes)
      out.insert(out.end(), bytes->begin(), bytes->end());
    else
      out.push_back(unknown);
  }
  return out;
}

std::vector<TokenId> Tokenizer::encode_word(std::string_view word) const {
  if (vocabulary_.model == Vocabulary::Model::Unigram) return likeliest(word);
  if (vocabulary_.whole_words_first)
    if (const auto found = words_.find(std::string(word)); found != words_.end()) return {found->second};
  return merge(symbols(word));
}

void Tokenizer::encode_words(std::string_view text, const std::vector<std::size_t>& ends, Known& known,
                             std::vector<TokenId>& out) const {
  constexpr std::size_t most_remembered = 64;  // longer words hardly come again
  std::size_t begin = 0;
  for (const std::size_t end : ends) {
    const std::string word(text.substr(begin, end - begin));
    begin = end;
    if (word.size() > most_remembered) {
      const std::vector<TokenId> tokens = encode_word(word);
      out.insert(out.end(), tokens.begin(), tokens.end());
      continue;
    }
    auto found = known.find(word);
    if (found == known.end()) found = known.emplace(word, encode_word(word)).first;
    out.insert(out.end(), found->second.begin(), found->second.end());
  }
}

// Text without added tokens; `first` if nothing lies before it.
void Tokenizer::encode_plain(std::string_view text, bool first, Known& known,
                             std::vector<TokenId>& out) const {
  if (text.empty()) return;
  if (vocabulary_.leading_space && text[0] != ' ') {
    const std::string spaced = " " + std::string(text);
    encode_words(spaced, word_ends(spaced, vocabulary_.pre_tokenizer), known, out);
    return;
  }
  if (!vocabulary_.metaspace) {
    encode_words(text, word_ends(text, vocabulary_.pre_tokenizer), known, out);
    return;
  }
  const auto [prefix, cut] = *vocabulary_.metaspace;
  std::string spaced = replaced(text, " ", space_mark);
  const bool wanted = prefix == Metaspace::Prefix::Always || (prefix == Metaspace::Prefix::First && first);
  if (wanted && !spaced.starts_with(space_mark)) spaced.insert(0, space_mark);
  std::vector<std::size_t> ends;
  if (cut)
    for (std::size_t at = spaced.find(space_mark, 1); at != spaced.npos; at = spaced.find(space_mark, at + 1))
      ends.push_back(at);
  ends.push_back(spaced.size());
  encode_words(spaced, ends, known, out);
}

std::string Tokenizer::normalized(std::string_view text) const {
  std::string out(text);
  for (const NormalizerStep& step : vocabulary_.normalizer) out = run(step, out);
  return out;
}

// Appends the added tokens of `text` and calls plain(begin, end) for what lies between them.
template <class Plain>
void Tokenizer::split(std::string_view text, const Patterns& patterns, std::vector<TokenId>& out,
                      const Plain& plain) const {
  std::size_t begin = 0;  // begin of the text since the last added token
  for (std::size_t at = 0; at < text.size();) {
    const auto& candidates = patterns[static_cast<unsigned char>(text[at])];
    const auto found = std::find_if(candidates.begin(), candidates.end(), [&](const Pattern& pattern) {
      return text.substr(at).starts_with(pattern.text);
    });
    if (found == candidates.end()) {
      ++at;
      continue;
    }
    const Vocabulary::AddedToken& token = vocabulary_.added[found->added];
    // White space that the last token took may begin this one: tokens are looked for in the text as it is.
    const std::string_view before = at > begin ? text.substr(begin, at - begin) : std::string_view();
    if (const std::size_t kept = token.lstrip ? space_before(before, before.size()) : before.size(); kept > 0)
      plain(begin, begin + kept);
    at += found->text.size();
    const std::size_t end = token.rstrip ? space_after(text, at) : at;
    // A token that takes the white space before it begins after the last one, where nothing may be left of it.
    if (!token.lstrip || end > begin) out.push_back(token.id);
    begin = end;
  }
  if (begin < text.size()) plain(begin, text.size());
}

std::vector<TokenId> Tokenizer::encode_bare(std::string_view text) const {
  std::vector<TokenId> out;
  Known known;
  split(text, raw_, out, [&](std::size_t begin, std::size_t end) {
    const std::string piece = normalized(text.substr(begin, end - begin));
    split(piece, cooked_, out, [&](std::size_t first, std::size_t last) {
      encode_plain(std::string_view(piece).substr(first, last - first), begin + first == 0, known, out);
    });
  });
  return out;
}

std::vector<TokenId> Tokenizer::encode(std::string_view text) const {
  std::vector<TokenId> out = encode_bare(text);
  out.insert(out.begin(), vocabulary_.prefix.begin(), vocabulary_.prefix.end());
  out.insert(out.end(), vocabulary_.suffix.begin(), vocabulary_.suffix.end());
  return out;
}

}  // namespace higgs::model
