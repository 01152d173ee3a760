// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/tokenizer.hpp"

#include "model/tiny_model.hpp"
#include "store/temporary_folder.hpp"
#include "tokenizer/unicode.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
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

TEST_CASE("a token that is only added is found in the text, never made of words or characters",
          "[model][tokenizer]") {
  // Normalizers run after the search, so that a word can become what was searched for.
  Vocabulary vocabulary = small_vocabulary(PreTokenizer::Llama3);
  vocabulary.whole_words_first = true;
  vocabulary.normalizer = {{NormalizerStep::Kind::Replace, "a", "z"},
                           {NormalizerStep::Kind::Replace, "b", "zz"}};
  vocabulary.tokens['z'] = "unused";
  for (const char* token : {"z", "zz"}) {
    vocabulary.added.push_back({static_cast<TokenId>(vocabulary.tokens.size()), token});
    vocabulary.tokens.push_back(token);
    vocabulary.added.back().outside = true;
  }
  for (const Vocabulary& each : {vocabulary, read_tokenizer_json(write_tokenizer_json(vocabulary), "test")}) {
    const Tokenizer tokenizer(each, "test");
    CHECK(tokenizer.encode("xz") == std::vector<TokenId>{'x', 282});
    CHECK(tokenizer.encode("zz") == std::vector<TokenId>{283});
    CHECK(tokenizer.encode("xa").size() == 1);
    CHECK(tokenizer.encode("b").empty());
    CHECK(tokenizer.bytes(283) == "zz");
  }
}

TEST_CASE("added tokens are found in the text as it is, whatever white space the one before takes",
          "[model][tokenizer]") {
  Vocabulary vocabulary = small_vocabulary(PreTokenizer::Gpt2);
  vocabulary.added = {{280, "<x>", false, false, false, true}, {281, " <x>", false, false, true, true}};
  vocabulary.tokens[280] = "<x>";
  vocabulary.tokens[281] = " <x>";
  vocabulary.tokens.push_back("\n");
  vocabulary.added.push_back({282, "\n", false, false, true});
  const Tokenizer tokenizer(vocabulary, "test");
  // The results are those of Hugging Face's tokenizers.
  CHECK(tokenizer.encode("<x>  <x> <x>a") == std::vector<TokenId>{280, 281, 281, 'a'});
  CHECK(tokenizer.encode("a  <x>  <x>  ") == std::vector<TokenId>{'a', 281, 281});
  CHECK(tokenizer.encode("<x> \n") == std::vector<TokenId>{280});
  CHECK(tokenizer.encode("<x> \na") == std::vector<TokenId>{280, 'a'});
}

TEST_CASE(
    "an id that two tokens have, or that the library of the format would not give, is refused by its key",
    "[model][tokenizer]") {
  const auto message = [](TokenId added, const std::string& more) {
    nlohmann::json file = nlohmann::json::parse(write_tokenizer_json(small_vocabulary(PreTokenizer::Gpt2)));
    file["added_tokens"].push_back({{"id", added}, {"content", "<new>"}, {"special", true}});
    if (!more.empty()) file["model"]["vocab"][more] = 300;
    return message_of<higgs::FormatError>([&] { read_tokenizer_json(file.dump(), "file.json"); });
  };
  CHECK(message(282, "").empty());
  for (const TokenId other : {281, 283, 300})
    CHECK_THAT(message(other, ""),
               Catch::Contains("file.json: added_tokens[2].id") &&
                   (Catch::Contains("must be 282") || Catch::Contains("that of \"<|end|>of\"")));
  // A gap in the model's ids: 283 tokens with ids up to 300.
  CHECK(message(283, "gap").empty());
  CHECK_THAT(message(301, "gap"), Catch::Contains("must be 283"));
  CHECK_THAT(message(300, "gap"), Catch::Contains("that of \"gap\""));
  CHECK_THAT(message(282, "<new>"), Catch::Contains("must be 300"));
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
  const ModelConfig config = tiny_config("llama");
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

namespace {

// SentencePiece's alphabet in small: special tokens, bytes, letters, and what merges make of them.
Vocabulary piece_vocabulary(Vocabulary::Model model) {
  Vocabulary out;
  out.model = model;
  out.pre_tokenizer = PreTokenizer::Whole;
  out.tokens = {"<unk>", "<s>", "</s>"};
  for (TokenId id = 0; id < 3; ++id)
    out.added.push_back({id, out.tokens[static_cast<std::size_t>(id)], true});
  constexpr char digits[] = "0123456789ABCDEF";
  for (std::size_t byte = 0; byte < 256; ++byte)
    out.tokens.push_back(std::string{'<', '0', 'x', digits[byte / 16], digits[byte % 16], '>'});
  for (const char* letter : {"\u2581", "h", "e", "l", "o", "w", "r", "d", "a", "\u00e9", "1", "."})
    out.tokens.emplace_back(letter);
  for (const auto& [left, right] : std::vector<std::pair<std::string, std::string>>{{"h", "e"},
                                                                                    {"l", "l"},
                                                                                    {"he", "ll"},
                                                                                    {"hell", "o"},
                                                                                    {"\u2581", "w"},
                                                                                    {"o", "r"},
                                                                                    {"\u2581w", "or"},
                                                                                    {"l", "d"},
                                                                                    {"\u2581", "\u2581"},
                                                                                    {"\u2581", "hello"},
                                                                                    {"a", "a"},
                                                                                    {"aa", "aa"}}) {
    out.merges.emplace_back(left, right);
    out.tokens.push_back(left + right);
  }
  out.unknown = 0;
  out.byte_fallback = out.fuse_unknown = true;
  out.lead = Vocabulary::Lead::SpaceStripped;
  if (model == Vocabulary::Model::Unigram) {
    out.merges.clear();
    for (std::size_t id = 0; id < out.tokens.size(); ++id)
      out.scores.push_back(id < 259 ? -20.0 : -0.25 * static_cast<double>(id % 13) - 1);
  }
  return out;
}

// Every way in which files spell the space before a text.
std::vector<Vocabulary> piece_vocabularies() {
  using Kind = NormalizerStep::Kind;
  std::vector<Vocabulary> out;
  for (const auto model : {Vocabulary::Model::CharacterBpe, Vocabulary::Model::Unigram}) {
    Vocabulary llama2 = piece_vocabulary(model);
    llama2.normalizer = {{Kind::Prepend, "", "\u2581"}, {Kind::Replace, " ", "\u2581"}};
    llama2.prefix = {1};
    out.push_back(llama2);
    Vocabulary gemma = piece_vocabulary(model);
    gemma.normalizer = {{Kind::Replace, " ", "\u2581"}};
    gemma.pre_tokenizer = PreTokenizer::Spaces;
    gemma.lead = Vocabulary::Lead::Kept;
    out.push_back(gemma);
    for (const bool cut : {false, true}) {
      Vocabulary first = piece_vocabulary(model);
      first.metaspace = Metaspace{Metaspace::Prefix::First, cut};
      out.push_back(first);
    }
  }
  return out;
}

std::string random_pieces(std::uint64_t seed, std::uint64_t length) {
  const std::vector<std::string> pieces{"hello", " world", " ",  "  ", "a",   "aa",     "\u00e9", "\u4e2d",
                                        "1",     ".",      "\n", "z",  "<s>", "\u0301", "word",   "ell"};
  std::string out;
  for (std::uint64_t i = 0; i < length; ++i) out += pieces[higgs::random_bits(seed, i) % pieces.size()];
  return out;
}

}  // namespace

TEST_CASE("pieces spell the text they came from", "[model][tokenizer]") {
  for (const Vocabulary& vocabulary : piece_vocabularies()) {
    const Tokenizer tokenizer(vocabulary, "test");
    for (std::uint64_t seed = 0; seed < 60; ++seed) {
      std::string text = random_pieces(seed, 1 + seed % 30);
      for (std::size_t at = text.find("<s>"); at != text.npos; at = text.find("<s>")) text.erase(at, 3);
      if (text.starts_with(' ') && vocabulary.metaspace) continue;  // a Metaspace adds none where one is
      CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
    }
  }
}

TEST_CASE("a written vocabulary of any kind gives the same ids", "[model][tokenizer]") {
  std::vector<Vocabulary> all = piece_vocabularies();
  for (const PreTokenizer rule : rules) {
    all.push_back(small_vocabulary(rule));
    all.back().suffix = {280};
    all.back().leading_space = rule == PreTokenizer::Gpt2;
    all.back().added[0].lstrip = true;
    all.back().added[1].rstrip = all.back().added[1].normalized = true;
  }
  for (const Vocabulary& vocabulary : all) {
    const Tokenizer before(vocabulary, "test"),
        after(read_tokenizer_json(write_tokenizer_json(vocabulary), "test"), "test");
    for (std::uint64_t seed = 0; seed < 60; ++seed) {
      const std::string text = random_pieces(seed, 20) + random_text(seed, 10);
      CHECK(after.encode(text) == before.encode(text));
      CHECK(after.decode(before.encode(text)) == before.decode(before.encode(text)));
    }
  }
}

TEST_CASE("ids of SentencePiece's models are those of Hugging Face's tokenizers", "[model][tokenizer]") {
  const std::string text = " hello  world\u4e2d<s>hello aaaaa\u00e9.\n";
  const std::vector<std::vector<TokenId>> expected{
      {1, 279, 274, 259, 277, 278, 231, 187, 176, 1, 280, 259, 282, 267, 268, 270, 13},
      {280, 259, 277, 278, 231, 187, 176, 1, 274, 259, 282, 267, 268, 270, 13},
      {280, 259, 277, 278, 231, 187, 176, 1, 274, 259, 282, 267, 268, 270, 13},
      {280, 259, 277, 278, 231, 187, 176, 1, 274, 259, 282, 267, 268, 270, 13},
      {1, 279, 274, 259, 277, 278, 231, 187, 176, 1, 280, 259, 267, 282, 268, 270, 13},
      {280, 259, 277, 278, 231, 187, 176, 1, 274, 259, 267, 282, 268, 270, 13},
      {280, 259, 277, 278, 231, 187, 176, 1, 274, 259, 267, 282, 268, 270, 13},
      {280, 259, 277, 278, 231, 187, 176, 1, 274, 259, 267, 282, 268, 270, 13}};
  const std::vector<Vocabulary> all = piece_vocabularies();
  REQUIRE(all.size() == expected.size());
  for (std::size_t i = 0; i < all.size(); ++i) CHECK(Tokenizer(all[i], "test").encode(text) == expected[i]);
}

TEST_CASE("an unknown run is one token or many, as the vocabulary says", "[model][tokenizer]") {
  Vocabulary vocabulary = piece_vocabulary(Vocabulary::Model::CharacterBpe);
  vocabulary.byte_fallback = false;
  CHECK(Tokenizer(vocabulary, "test").encode("zzhezz") == std::vector<TokenId>{0, 271, 0});
  vocabulary.fuse_unknown = false;
  CHECK(Tokenizer(vocabulary, "test").encode("zzhezz") == std::vector<TokenId>{0, 0, 271, 0, 0});
  vocabulary.unknown.reset();
  CHECK(Tokenizer(vocabulary, "test").encode("zzhezz") == std::vector<TokenId>{271});
}

TEST_CASE("a key of tokenizer.json that holds something of another kind is refused by name",
          "[model][tokenizer]") {
  using nlohmann::json;
  // Keys that change no ids and no text, and those of which the format says that null means absent.
  const std::vector<std::string> idle{"version", "type_id", "trim_offsets", "pair", "tokens", "decoder"};
  const std::vector<std::string> nullable{
      "truncation",         "padding",  "normalizer",    "pre_tokenizer",
      "post_processor",     "dropout",  "unk_token",     "continuing_subword_prefix",
      "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges"};
  const auto among = [](const std::vector<std::string>& list, const std::string& key) {
    return std::find(list.begin(), list.end(), key) != list.end();
  };
  std::vector<Vocabulary> all = piece_vocabularies();
  all.resize(4);
  all.push_back(small_vocabulary(PreTokenizer::Qwen2));
  all.back().prefix = {280};
  all.back().normalizer = {{NormalizerStep::Kind::Nfc, "", ""}};
  all.push_back(small_vocabulary(PreTokenizer::Smollm));
  int checked = 0;
  for (const Vocabulary& vocabulary : all) {
    const json file = json::parse(write_tokenizer_json(vocabulary));
    const json flat = file.flatten();
    std::vector<std::string> paths;  // of every key, also of those that hold objects and arrays
    for (const auto& [path, value] : flat.items())
      for (std::size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
        paths.push_back(path.substr(0, end));
        if (end == path.npos) break;
      }
    std::sort(paths.begin(), paths.end());
    paths.erase(std::unique(paths.begin(), paths.end()), paths.end());
    for (const std::string& path : paths) {
      const std::string key = path.substr(path.rfind('/') + 1);
      if (path.starts_with("/model/vocab/") || path.starts_with("/model/merges/")) continue;
      if (among(idle, key) || path.find("/pair/") != path.npos || path.find("/tokens/") != path.npos)
        continue;
      if (path.starts_with("/decoder") && vocabulary.model == Vocabulary::Model::ByteLevelBpe) continue;
      if (path.find("/special_tokens/") != path.npos && key == "id") continue;
      const json::json_pointer at(path);
      for (const json& other : {json(nullptr), json(true), json(-7), json(1.5), json("other"),
                                json::array({1}), json::object({{"a", 1}})}) {
        const bool same = other.type() == file[at].type() || (other.is_number() && file[at].is_number());
        if (same && !file[at].is_string()) continue;
        if (other.is_null() && among(nullable, key)) continue;
        if (file[at].is_null()) continue;
        if (other.is_object() && (key == "truncation" || key == "padding")) continue;
        const bool free_text =
            key == "content" || key == "prepend" || (path.starts_with("/normalizer") && key == "String");
        if (other.is_string() && (free_text || (key == "unk_token"))) continue;
        json changed = file;
        changed[at] = other;
        const std::string message =
            message_of<higgs::FormatError>([&] { read_tokenizer_json(changed.dump(), "file.json"); });
        INFO(path << " = " << other.dump() << ": " << message);
        CHECK(message.starts_with("file.json: "));
        ++checked;
      }
    }
  }
  CHECK(checked > 500);
}

TEST_CASE("what tokenizer_config.json and its companions add is found as transformers finds it",
          "[model][tokenizer]") {
  const TemporaryFolder folder;
  const auto read = [&](const std::string& config, const std::string& map = "",
                        const std::string& added = "") {
    write_file(folder.path() / "tokenizer.json", write_tokenizer_json(small_vocabulary(PreTokenizer::Gpt2)));
    for (const auto& [name, text] :
         std::vector<std::pair<std::string, std::string>>{{"tokenizer_config.json", config},
                                                          {"special_tokens_map.json", map},
                                                          {"added_tokens.json", added}}) {
      std::filesystem::remove(folder.path() / name);
      if (!text.empty()) write_file(folder.path() / name, text);
    }
    return Tokenizer(read_tokenizer_folder(folder.path()), "test");
  };
  using Ids = std::vector<TokenId>;
  CHECK(read("").encode("<t>") == Ids{'<', 't', '>'});
  // Ids follow the last one in the order of the numbers, whatever the numbers are.
  const Tokenizer listed = read(
      "{\"added_tokens_decoder\":{\"1000\":{\"content\":\"<u>\",\"special\":true},"
      "\"900\":{\"content\":\"<t>\",\"special\":false,\"lstrip\":true}}}");
  CHECK(listed.encode("a <t><u>") == Ids{'a', 282, 283});
  CHECK(listed.is_special(283));
  CHECK_FALSE(listed.is_special(282));
  CHECK(read("{\"bos_token\":\"<t>\",\"add_bos_token\":true}").encode("a<t>") == Ids{'a', 282});
  CHECK(read("{\"pad_token\":{\"content\":\"<t>\",\"rstrip\":true}}").encode("<t> a") == Ids{282, 'a'});
  CHECK(read("{\"extra_special_tokens\":[\"<t>\"]}").encode("<t>") == Ids{282});
  CHECK(read("{\"image_token\":\"<t>\"}").encode("<t>") == Ids{282});
  CHECK(read("", "{\"eos_token\":\"<t>\"}").encode("<t>") == Ids{282});
  CHECK(read("", "", "{\"<t>\":282}").encode("<t>") == Ids{282});
  // The elder files count only without added_tokens_decoder.
  CHECK(read("{\"added_tokens_decoder\":{}}", "{\"eos_token\":\"<t>\"}").encode("<t>") == Ids{'<', 't', '>'});
  CHECK(read("{\"chat_template\":\"text\"}").vocabulary().chat_template == "text");
  for (const std::string key :
       {"bos_token", "eos_token", "unk_token", "pad_token", "add_bos_token", "add_eos_token",
        "added_tokens_decoder", "extra_special_tokens", "chat_template", "legacy", "add_prefix_space",
        "split_special_tokens", "tokenizer_class"}) {
    const bool used = key != "legacy";  // it matters to one class alone
    const std::string message = message_of<higgs::FormatError>([&] { read("{\"" + key + "\":7}"); });
    INFO(key);
    if (used) CHECK_THAT(message, Catch::Contains("tokenizer_config.json") && Catch::Contains(key));
  }
}

TEST_CASE("a Llama tokenizer obeys legacy and add_prefix_space of tokenizer_config.json",
          "[model][tokenizer]") {
  const TemporaryFolder folder;
  write_file(folder.path() / "tokenizer.json", write_tokenizer_json(piece_vocabularies().front()));
  const auto read = [&](const std::string& more) {
    write_file(folder.path() / "tokenizer_config.json",
               "{\"tokenizer_class\":\"LlamaTokenizer\"" + more + "}");
    return read_tokenizer_folder(folder.path());
  };
  CHECK(read("").metaspace == Metaspace{Metaspace::Prefix::First, false});
  CHECK(read(",\"legacy\":true").metaspace == Metaspace{Metaspace::Prefix::Always, false});
  CHECK(read(",\"add_prefix_space\":false").metaspace == Metaspace{Metaspace::Prefix::Never, false});
  write_file(folder.path() / "config.json", "{\"model_type\":\"mistral\"}");
  CHECK_FALSE(read("").metaspace.has_value());
  CHECK(read("").normalizer.size() == 2);
}

namespace {

// A GGUF file with the tokenizer of `vocabulary`, as converters write it.
GgufBuilder tokenizer_gguf(const Vocabulary& vocabulary, const std::string& model) {
  constexpr std::uint32_t u32 = 4, i32 = 5, f32 = 6, text = 8, array = 9;
  GgufBuilder out;
  std::string tokens, types, scores, merges;
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string& token = vocabulary.tokens[id];
    const bool special = std::any_of(vocabulary.added.begin(), vocabulary.added.end(),
                                     [&](const auto& each) { return each.content == token; });
    tokens += gguf_text(token);
    types += raw(std::int32_t{token == "<unk>" ? 2 : special ? 3 : token.starts_with("<0x") ? 6 : 1});
    scores += raw(-static_cast<float>(id));
  }
  for (const auto& [left, right] : vocabulary.merges) merges += gguf_text(left + " " + right);
  const auto list = [&](const std::string& key, std::uint32_t type, std::size_t count,
                        const std::string& values) {
    out.add_value(key, array, raw(type) + raw(std::uint64_t{count}) + values);
  };
  out.add_value("tokenizer.ggml.model", text, gguf_text(model));
  list("tokenizer.ggml.tokens", text, vocabulary.tokens.size(), tokens);
  list("tokenizer.ggml.token_type", i32, vocabulary.tokens.size(), types);
  if (model == "llama")
    list("tokenizer.ggml.scores", f32, vocabulary.tokens.size(), scores);
  else
    list("tokenizer.ggml.merges", text, vocabulary.merges.size(), merges);
  out.add_value("tokenizer.ggml.bos_token_id", u32, raw(std::uint32_t{1}));
  out.add_value("tokenizer.ggml.eos_token_id", u32, raw(std::uint32_t{2}));
  return out;
}

Vocabulary read_gguf(const GgufBuilder& builder) {
  const TemporaryFolder folder;
  write_file(folder.path() / "model.gguf", builder.build());
  return read_vocabulary(higgs::GgufFile(folder.path() / "model.gguf"), "model.gguf");
}

std::string gguf_flag(bool value) { return raw(static_cast<std::uint8_t>(value)); }

}  // namespace

TEST_CASE("a SentencePiece model in GGUF merges by its scores", "[model][tokenizer]") {
  const Vocabulary wanted = piece_vocabularies().front();
  GgufBuilder gguf = tokenizer_gguf(wanted, "llama");
  const Tokenizer expected(wanted, "test"), found(read_gguf(gguf), "test");
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const std::string text = random_pieces(seed, 20);
    CHECK(found.encode(text) == expected.encode(text));
  }
  CHECK(found.vocabulary().begin_text == "<s>");
  gguf.add_value("tokenizer.ggml.add_space_prefix", 7, gguf_flag(false));
  gguf.add_value("tokenizer.ggml.add_bos_token", 7, gguf_flag(false));
  gguf.add_value("tokenizer.ggml.add_eos_token", 7, gguf_flag(true));
  CHECK(Tokenizer(read_gguf(gguf), "test").encode("he") == std::vector<TokenId>{271, 2});
}

TEST_CASE("GGUF's rules are found by name, by a token of Llama 3, or are GPT-2's", "[model][tokenizer]") {
  const auto rule = [](const std::string& pre, const std::string& token = "") {
    Vocabulary vocabulary = small_vocabulary(PreTokenizer::Gpt2);
    if (!token.empty()) vocabulary.tokens.push_back(token);
    GgufBuilder gguf = tokenizer_gguf(vocabulary, "gpt2");
    if (!pre.empty()) gguf.add_value("tokenizer.ggml.pre", 8, gguf_text(pre));
    return read_gguf(gguf);
  };
  CHECK(rule("").pre_tokenizer == PreTokenizer::Gpt2);
  CHECK(rule("default").pre_tokenizer == PreTokenizer::Gpt2);
  CHECK(rule("", "<|begin_of_text|>").pre_tokenizer == PreTokenizer::Llama3);
  CHECK(rule("smaug-bpe").pre_tokenizer == PreTokenizer::Llama3);
  CHECK_FALSE(rule("smaug-bpe").whole_words_first);
  CHECK(rule("llama-bpe").whole_words_first);
  CHECK(rule("llama-bpe").prefix == std::vector<TokenId>{1});
  CHECK(rule("qwen2").normalizer == std::vector<NormalizerStep>{{NormalizerStep::Kind::Nfc, "", ""}});
  CHECK(rule("smollm").prefix.empty());
}

TEST_CASE("a key of a GGUF tokenizer that holds something of another kind is refused by name",
          "[model][tokenizer]") {
  for (const std::string model : {"gpt2", "llama"})
    for (const std::string key : {"model", "pre", "tokens", "token_type", "scores", "merges", "bos_token_id",
                                  "eos_token_id", "unknown_token_id", "add_bos_token", "add_eos_token",
                                  "add_space_prefix", "remove_extra_whitespaces", "precompiled_charsmap"}) {
      if ((model == "gpt2" && (key == "scores" || key == "unknown_token_id")) ||
          (model == "llama" && key == "pre"))
        continue;  // a key of the other model
      const std::string name = "tokenizer.ggml." + key;
      GgufBuilder gguf = tokenizer_gguf(
          model == "llama" ? piece_vocabularies().front() : small_vocabulary(PreTokenizer::Gpt2), model);
      std::erase_if(gguf.values,
                    [&](const std::string& value) { return value.starts_with(gguf_text(name)); });
      gguf.add_value(name, 6, raw(1.5f));
      INFO(model << " " << key);
      CHECK_THAT(message_of<higgs::FormatError>([&] { read_gguf(gguf); }),
                 Catch::Contains("model.gguf") && Catch::Contains(name));
    }
}

TEST_CASE("token types that are missing make no text of the tokens that end and begin texts",
          "[model][tokenizer]") {
  Vocabulary vocabulary = small_vocabulary(PreTokenizer::Gpt2);
  GgufBuilder gguf = tokenizer_gguf(vocabulary, "gpt2");
  std::erase_if(gguf.values, [](const std::string& value) {
    return value.find("token_type") != value.npos || value.find("eos_token_id") != value.npos;
  });
  gguf.add_value("tokenizer.ggml.eos_token_id", 4, raw(std::uint32_t{280}));
  CHECK(Tokenizer(read_gguf(gguf), "test").encode("a<|end|>") == std::vector<TokenId>{'a', 280});
}

TEST_CASE("ids outside the vocabulary are named with both numbers", "[model][tokenizer]") {
  Vocabulary vocabulary = small_vocabulary(PreTokenizer::Gpt2);
  vocabulary.added[0].id = 300;
  CHECK_THAT(message_of<higgs::FormatError>([&] { Tokenizer(vocabulary, "file.json"); }),
             Catch::Contains("file.json") && Catch::Contains("<|end|>") && Catch::Contains("300") &&
                 Catch::Contains("282"));
  GgufBuilder gguf = tokenizer_gguf(small_vocabulary(PreTokenizer::Gpt2), "gpt2");
  std::erase_if(gguf.values,
                [](const std::string& value) { return value.find("bos_token_id") != value.npos; });
  gguf.add_value("tokenizer.ggml.bos_token_id", 4, raw(std::uint32_t{300}));
  CHECK_THAT(message_of<higgs::FormatError>([&] { read_gguf(gguf); }),
             Catch::Contains("bos_token_id is 300") && Catch::Contains("281"));
}
