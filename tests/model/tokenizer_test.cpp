// SPDX-License-Identifier: Apache-2.0
#include "../../examples/model/tokenizer.hpp"

#include "../../examples/model/unicode.hpp"
#include "../store/temporary_folder.hpp"
#include "tiny_model.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using namespace higgs::model;

namespace {

// The letter of a byte in GPT-2's alphabet, made anew: printable Latin-1 stays, the others follow U+0100 in
// order.
std::string letter_of(unsigned byte) {
  const auto printable = [](unsigned b) { return (b > 0x20 && b < 0x7f) || (b > 0xa0 && b != 0xad); };
  if (printable(byte)) return to_utf8(byte);
  char32_t next = 0x100;
  for (unsigned b = 0; b < byte; ++b) next += printable(b) ? 0 : 1;
  return to_utf8(next);
}

// All bytes, then what merges make of them, then two added tokens.
Vocabulary small_vocabulary(PreTokenizer rule) {
  Vocabulary out;
  out.pre_tokenizer = rule;
  for (unsigned byte = 0; byte < 256; ++byte) out.tokens.push_back(letter_of(byte));
  for (const auto& [left, right] : std::vector<std::pair<std::string, std::string>>{
           {"h", "e"},           {"l", "l"},
           {"he", "ll"},         {"hell", "o"},
           {"\u0120", "w"},      {"o", "r"},
           {"\u0120w", "or"},    {"l", "d"},
           {"\u0120wor", "ld"},  {"'", "s"},
           {"1", "2"},           {"12", "3"},
           {"\u0120", "\u0120"}, {"\u0120\u0120", "\u0120\u0120"},
           {"l", "o"},           {"e", "l"},
           {"\u0120", "("},      {"\u010a", "\u010a"},
           {"\u00c3", "\u00a9"}, {"t", "h"},
           {"\u0120", "th"},     {"i", "n"},
           {"in", "g"},          {"!", "!"}}) {
    out.merges.emplace_back(left, right);
    out.tokens.push_back(left + right);
  }
  for (const char* added : {"<|end|>", "<|end|>of"}) {
    out.added.push_back({static_cast<TokenId>(out.tokens.size()), added, true});
    out.tokens.push_back(added);
  }
  return out;
}

constexpr PreTokenizer rules[] = {PreTokenizer::Gpt2, PreTokenizer::Smollm, PreTokenizer::Llama3,
                                  PreTokenizer::Qwen2};

// White space of all kinds, contractions, numbers of three scripts, letters of two, broken by an added token.
const std::string hard_text =
    "hello world's  HELLO'S 1234567 (caf\u00e9)!!\n\n  \u4e2d\u6587\u0663\u00bd\u00b2 "
    "don't\t\u00a0x<|end|>\n \r\n\u3000y  ";

// A random text of short pieces that meet in every way.
std::string random_text(std::uint64_t seed, std::uint64_t length) {
  const std::vector<std::string> pieces{"hello", " w", "orld", "'s",   "'S",      "'\u017f", "123", "7",
                                        " ",     "  ", "\n",   "\r\n", "\u00e9",  "(",       "!!",  "th",
                                        "ing",   "ll", "lo",   "\xff", "<|end|>", "<|end"};
  std::string out;
  for (std::uint64_t i = 0; i < length; ++i) out += pieces[higgs::random_bits(seed, i) % pieces.size()];
  return out;
}

// Merges of one word by the definition: again and again the pair of lowest rank, leftmost first.
std::vector<std::string> merged(std::string_view word, const Vocabulary& vocabulary) {
  std::vector<std::string> symbols;
  for (const char c : word) symbols.push_back(letter_of(static_cast<unsigned char>(c)));
  for (;;) {
    std::size_t best = vocabulary.merges.size(), at = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto found = std::find(vocabulary.merges.begin(), vocabulary.merges.end(),
                                   std::pair(symbols[i], symbols[i + 1]));
      const auto rank = static_cast<std::size_t>(found - vocabulary.merges.begin());
      if (rank < best) best = rank, at = i;
    }
    if (best == vocabulary.merges.size()) return symbols;
    symbols[at] += symbols[at + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

}  // namespace

TEST_CASE("words end where Hugging Face's tokenizers end them", "[model][tokenizer]") {
  std::string text = hard_text;
  text.erase(text.find("<|end|>"), 7);
  using Ends = std::vector<std::size_t>;
  CHECK(word_ends(text, PreTokenizer::Gpt2) ==
        Ends{5, 11, 13, 14, 20, 21, 22, 30, 32, 37, 40, 43, 50, 56, 60, 62, 63, 65, 66, 70, 73, 74, 76});
  CHECK(word_ends(text, PreTokenizer::Smollm) == Ends{5,  11, 13, 14, 20, 21, 22, 23, 24, 25, 26,
                                                      27, 28, 29, 30, 32, 37, 40, 43, 50, 52, 54,
                                                      56, 60, 62, 63, 65, 66, 70, 73, 74, 76});
  CHECK(word_ends(text, PreTokenizer::Llama3) ==
        Ends{5, 11, 13, 14, 20, 22, 23, 26, 29, 30, 32, 37, 42, 43, 50, 56, 60, 62, 63, 66, 70, 74, 76});
  CHECK(word_ends(text, PreTokenizer::Qwen2) == Ends{5,  11, 13, 14, 20, 22, 23, 24, 25, 26,
                                                     27, 28, 29, 30, 32, 37, 42, 43, 50, 52,
                                                     54, 56, 60, 62, 63, 66, 70, 74, 76});
}

TEST_CASE("ids are those of Hugging Face's tokenizers", "[model][tokenizer]") {
  using Ids = std::vector<TokenId>;
  // The four rules differ in what they do to 1234567 alone: the merges do not reach across the other cuts.
  const Ids head{259, 264, 265, 32, 32, 72, 69, 76, 76, 79, 39, 83, 32}, together{267, 52, 53, 54, 55},
      digits{49, 50, 51, 52, 53, 54, 55},
      tail{272, 99,  97,  102, 274, 41,  279, 273, 32, 32,  228, 184, 173, 230,
           150, 135, 217, 163, 194, 189, 194, 178, 32, 100, 111, 110, 39,  116,
           9,   194, 160, 120, 280, 10,  32,  13,  10, 227, 128, 128, 121, 268};
  for (const PreTokenizer rule : rules) {
    const Tokenizer tokenizer(small_vocabulary(rule), "test");
    const bool kept = rule == PreTokenizer::Gpt2 || rule == PreTokenizer::Llama3;
    Ids expected = head;
    expected.insert(expected.end(), (kept ? together : digits).begin(), (kept ? together : digits).end());
    expected.insert(expected.end(), tail.begin(), tail.end());
    CHECK(tokenizer.encode(hard_text) == expected);
  }
}

TEST_CASE("ids spell the text they came from", "[model][tokenizer]") {
  for (const PreTokenizer rule : rules) {
    const Tokenizer tokenizer(small_vocabulary(rule), "test");
    for (std::uint64_t seed = 0; seed < 50; ++seed) {
      const std::string text = random_text(seed, 60);
      std::string spelled;
      for (const TokenId id : tokenizer.encode(text)) spelled += tokenizer.bytes(id);
      CHECK(spelled == text);
    }
    std::string all_bytes;
    for (int byte = 0; byte < 256; ++byte) all_bytes += static_cast<char>(byte);
    CHECK(tokenizer.decode(tokenizer.encode(all_bytes)) == all_bytes);
    CHECK(tokenizer.encode("").empty());
  }
}

TEST_CASE("words are merged as the definition says", "[model][tokenizer]") {
  const Vocabulary vocabulary = small_vocabulary(PreTokenizer::Qwen2);
  const Tokenizer tokenizer(vocabulary, "test");
  const std::vector<std::string> letters{"h", "e", "l", "o", "w", "r", "d", "t", "i", "n", "g"};
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    std::string word;
    for (std::uint64_t i = 0; i < 1 + seed % 40; ++i)
      word += letters[higgs::random_bits(seed, i) % letters.size()];
    std::vector<std::string> spellings;
    for (const TokenId id : tokenizer.encode(word))
      spellings.push_back(vocabulary.tokens[static_cast<std::size_t>(id)]);
    CHECK(spellings == merged(word, vocabulary));
  }
}

TEST_CASE("added tokens are found first, the longest that fits, and special ones are not text",
          "[model][tokenizer]") {
  Vocabulary vocabulary = small_vocabulary(PreTokenizer::Gpt2);
  vocabulary.added[1].special = false;
  const Tokenizer tokenizer(vocabulary, "test");
  CHECK(tokenizer.encode("<|end|><|end|>of<|end") == std::vector<TokenId>{280, 281, '<', '|', 'e', 'n', 'd'});
  CHECK(tokenizer.decode(tokenizer.encode("a<|end|>b<|end|>of")) == "ab<|end|>of");
  CHECK(tokenizer.is_special(280));
  CHECK_FALSE(tokenizer.is_special(281));
  CHECK_FALSE(tokenizer.is_special(-1));
  CHECK_FALSE(tokenizer.is_special(282));
  CHECK(tokenizer.bytes(-1).empty());
  CHECK(tokenizer.bytes(282).empty());
  CHECK(tokenizer.added_token("<|end|>") == 280);
  CHECK_FALSE(tokenizer.added_token("end").has_value());
}

TEST_CASE("a whole word that is a token needs no merges, if the vocabulary says so", "[model][tokenizer]") {
  Vocabulary vocabulary = small_vocabulary(PreTokenizer::Llama3);
  vocabulary.tokens.push_back("world");  // no merge leads there
  CHECK(Tokenizer(vocabulary, "test").encode("world").size() == 3);
  vocabulary.whole_words_first = true;
  CHECK(Tokenizer(vocabulary, "test").encode("world") == std::vector<TokenId>{282});
}

TEST_CASE("a byte without a token is left out, or unknown", "[model][tokenizer]") {
  Vocabulary vocabulary = small_vocabulary(PreTokenizer::Gpt2);
  vocabulary.tokens['z'] = "unused";
  CHECK(Tokenizer(vocabulary, "test").encode("azb") == std::vector<TokenId>{'a', 'b'});
  vocabulary.unknown = 280;
  CHECK(Tokenizer(vocabulary, "test").encode("azb") == std::vector<TokenId>{'a', 280, 'b'});
}

TEST_CASE("tokenizer.json keeps every vocabulary", "[model][tokenizer]") {
  for (const PreTokenizer rule : rules) {
    Vocabulary vocabulary = small_vocabulary(rule);
    vocabulary.whole_words_first = rule == PreTokenizer::Llama3;
    vocabulary.added[1].special = false;
    if (rule == PreTokenizer::Llama3) vocabulary.prefix = {280};
    if (rule == PreTokenizer::Gpt2) vocabulary.unknown = 281;
    const Vocabulary back = read_tokenizer_json(write_tokenizer_json(vocabulary), "test");
    CHECK(back.tokens == vocabulary.tokens);
    CHECK(back.merges == vocabulary.merges);
    CHECK(back.pre_tokenizer == vocabulary.pre_tokenizer);
    CHECK(back.whole_words_first == vocabulary.whole_words_first);
    CHECK(back.prefix == vocabulary.prefix);
    CHECK(back.unknown == vocabulary.unknown);
    REQUIRE(back.added.size() == 2);
    CHECK(back.added[1].id == 281);
    CHECK(back.added[1].content == "<|end|>of");
    CHECK_FALSE(back.added[1].special);
    if (!vocabulary.prefix.empty())
      CHECK(Tokenizer(back, "test").encode("a") == std::vector<TokenId>{280, 'a'});
  }
}

TEST_CASE("a vocabulary that contradicts itself is refused", "[model][tokenizer]") {
  const auto message = [](const auto& change) {
    Vocabulary vocabulary = small_vocabulary(PreTokenizer::Gpt2);
    change(vocabulary);
    return message_of<higgs::FormatError>([&] { Tokenizer(vocabulary, "file.json"); });
  };
  CHECK(message([](Vocabulary&) {}).empty());
  CHECK_THAT(message([](Vocabulary& v) { v.merges.emplace_back("x", "y"); }),
             Catch::Contains("file.json") && Catch::Contains("\"xy\""));
  CHECK_THAT(message([](Vocabulary& v) { v.merges.emplace_back("\u4e2d", "y"); }),
             Catch::Contains("no token"));
  CHECK_THAT(message([](Vocabulary& v) { v.added[0].id = 282; }), Catch::Contains("<|end|>"));
  CHECK_THAT(message([](Vocabulary& v) { v.added[0].id = -1; }), Catch::Contains("<|end|>"));
  CHECK_THAT(message([](Vocabulary& v) { v.added[0].content = ""; }), Catch::Contains("empty"));
  CHECK_THAT(message([](Vocabulary& v) { v.prefix = {282}; }), Catch::Contains("outside"));
  CHECK_THAT(message([](Vocabulary& v) { v.unknown = -2; }), Catch::Contains("outside"));
}

TEST_CASE("a tokenizer.json that is damaged or of another kind is refused", "[model][tokenizer]") {
  const std::string good = write_tokenizer_json(small_vocabulary(PreTokenizer::Llama3));
  const auto message = [](const std::string& text) {
    return message_of<higgs::FormatError>([&] { read_tokenizer_json(text, "file.json"); });
  };
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    REQUIRE(text.find(from) != text.npos);
    return text.replace(text.find(from), from.size(), to);
  };
  CHECK(message(good).empty());
  for (std::size_t size = 0; size < good.size(); size += 37)
    CHECK_THAT(message(good.substr(0, size)), Catch::Contains("file.json"));
  for (const std::string_view other :
       {"[]", "1", "null", "{\"model\":1}", "{\"model\":{\"type\":\"Unigram\"}}"})
    CHECK_THAT(message(std::string(other)), Catch::Contains("file.json"));
  CHECK_THAT(message(changed("\"BPE\"", "\"WordPiece\"")), Catch::Contains("model.type"));
  CHECK_THAT(message(changed("\"byte_fallback\":false", "\"byte_fallback\":true")),
             Catch::Contains("model.byte_fallback"));
  CHECK_THAT(message(changed("{1,3}", "{1,4}")), Catch::Contains("pre_tokenizer"));
  CHECK_THAT(message(changed("\"single_word\":false", "\"single_word\":true")),
             Catch::Contains("added_tokens[0].single_word"));
  CHECK_THAT(message(changed("\"normalizer\":null", "\"normalizer\":{\"type\":\"NFKC\"}")),
             Catch::Contains("normalizer"));
  CHECK(message(changed("\"normalizer\":null", "\"normalizer\":{\"type\":\"NFC\"}")).empty());
  CHECK_THAT(message(changed("\"A\":65", "\"A\":4000000000")), Catch::Contains("\"A\""));
  CHECK_THAT(message(changed("\"A\":65", "\"A\":-1")), Catch::Contains("\"A\""));
}

TEST_CASE("GGUF's names of rules are known", "[model][tokenizer]") {
  CHECK(pre_tokenizer_named("gpt-2") == PreTokenizer::Gpt2);
  CHECK(pre_tokenizer_named("smollm") == PreTokenizer::Smollm);
  CHECK(pre_tokenizer_named("llama-bpe") == PreTokenizer::Llama3);
  CHECK(pre_tokenizer_named("qwen2") == PreTokenizer::Qwen2);
  CHECK_FALSE(pre_tokenizer_named("").has_value());
}

TEST_CASE("a GGUF vocabulary that is damaged or of another kind is refused", "[model][tokenizer]") {
  using Catch::Contains;
  constexpr std::uint32_t text = 8, array = 9, u32 = 4;
  const ModelConfig config = tiny_config(ModelConfig::Architecture::Llama);
  const auto key_at = [](const GgufBuilder& gguf, const std::string& key) {
    std::size_t at = 0;
    while (gguf.values.at(at).find(key) == std::string::npos) ++at;
    return at;
  };
  const auto refusal = [&](const std::string& key, std::uint32_t type, const std::string& value) {
    GgufBuilder gguf = tiny_gguf(config);
    gguf.values[key_at(gguf, key)] = gguf_text(key) + raw(type) + value;
    const TemporaryFolder folder;
    write_file(folder / "model.gguf", gguf.build());
    const ModelSource source(folder / "model.gguf");
    return message_of<higgs::FormatError>([&] { source.vocabulary(); });
  };
  const auto texts = [](std::uint64_t count, const std::string& values) {
    return raw(std::uint32_t{8}) + raw(count) + values;
  };
  CHECK(refusal("tokenizer.ggml.pre", text, gguf_text("smollm")).empty());
  CHECK_THAT(refusal("tokenizer.ggml.pre", text, gguf_text("tekken")),
             Contains("model.gguf") && Contains("tokenizer.ggml.pre") && Contains("tekken"));
  CHECK_THAT(refusal("tokenizer.ggml.model", text, gguf_text("bert")),
             Contains("tokenizer.ggml.model") && Contains("\"bert\""));
  CHECK_THAT(refusal("tokenizer.ggml.tokens", u32, raw(std::uint32_t{5})), Contains("tokenizer.ggml.tokens"));
  CHECK_THAT(refusal("tokenizer.ggml.tokens", array, texts(1, gguf_text("a"))),
             Contains("token_type has 40 entries"));
  CHECK_THAT(
      refusal("tokenizer.ggml.tokens", array, raw(u32) + raw(std::uint64_t{40}) + std::string(160, 'x')),
      Contains("texts"));
  CHECK_THAT(refusal("tokenizer.ggml.merges", array, texts(1, gguf_text("ab"))), Contains("no pair"));
}

TEST_CASE("the special tokens that a file puts around a text are all there, in its order",
          "[model][tokenizer]") {
  Vocabulary vocabulary = small_vocabulary(PreTokenizer::Qwen2);
  vocabulary.prefix = {281, 280};
  vocabulary.suffix = {280};
  for (const Vocabulary& each : {vocabulary, read_tokenizer_json(write_tokenizer_json(vocabulary), "test")}) {
    const Tokenizer tokenizer(each, "test");
    CHECK(tokenizer.encode("a") == std::vector<TokenId>{281, 280, 'a', 280});
    CHECK(tokenizer.encode("") == std::vector<TokenId>{281, 280, 280});
    CHECK(tokenizer.encode_bare("a") == std::vector<TokenId>{'a'});
  }
}

TEST_CASE("a text in form D has the tokens of form C where the vocabulary normalizes", "[model][tokenizer]") {
  Vocabulary vocabulary = small_vocabulary(PreTokenizer::Qwen2);
  const std::string composed = "caf\u00e9 \u1ec7 \uac01",
                    apart = "cafe\u0301 e\u0323\u0302 \u1100\u1161\u11a8";
  CHECK(Tokenizer(vocabulary, "test").encode(apart) != Tokenizer(vocabulary, "test").encode(composed));
  vocabulary.normalizer = {{NormalizerStep::Kind::Nfc, "", ""}};
  const Vocabulary back = read_tokenizer_json(write_tokenizer_json(vocabulary), "test");
  CHECK(back.normalizer == vocabulary.normalizer);
  const Tokenizer tokenizer(back, "test");
  CHECK(tokenizer.encode(apart) == tokenizer.encode(composed));
  CHECK(tokenizer.decode(tokenizer.encode(apart)) == composed);
}
