// SPDX-License-Identifier: Apache-2.0
// The tokenizer of a GGUF file.
#include "json/fields.hpp"
#include "tokenizer/tokenizer.hpp"

#include "tokenizer/unicode.hpp"

#include <algorithm>
#include <string>
#include <unordered_map>

namespace higgs::model {
namespace {

using Model = Vocabulary::Model;
using Step = NormalizerStep;

constexpr const char* space_mark = "\u2581";

// What tokenizer.ggml.token_type says of a token.
enum TokenType : std::int64_t { Normal = 1, Unknown = 2, Control = 3, UserDefined = 4, Unused = 5, Byte = 6 };

// What tokenizer.ggml.pre stands for: names of models, many of which cut text alike.
struct Named {
  std::string_view name;
  PreTokenizer rule;
};
constexpr Named named_rules[] = {
    {"gpt-2", PreTokenizer::Gpt2},        {"phi-2", PreTokenizer::Gpt2},
    {"mpt", PreTokenizer::Gpt2},          {"olmo", PreTokenizer::Gpt2},
    {"jina-v2-code", PreTokenizer::Gpt2}, {"jina-v2-es", PreTokenizer::Gpt2},
    {"jina-v2-de", PreTokenizer::Gpt2},   {"gigachat", PreTokenizer::Gpt2},
    {"smollm", PreTokenizer::Smollm},     {"starcoder", PreTokenizer::Smollm},
    {"refact", PreTokenizer::Smollm},     {"command-r", PreTokenizer::Smollm},
    {"codeshell", PreTokenizer::Smollm},  {"exaone", PreTokenizer::Smollm},
    {"minerva-7b", PreTokenizer::Smollm}, {"llama3", PreTokenizer::Llama3},
    {"llama-v3", PreTokenizer::Llama3},   {"llama-bpe", PreTokenizer::Llama3},
    {"falcon3", PreTokenizer::Llama3},    {"falcon-h1", PreTokenizer::Llama3},
    {"pixtral", PreTokenizer::Llama3},    {"midm-2.0", PreTokenizer::Llama3},
    {"lfm2", PreTokenizer::Llama3},       {"dbrx", PreTokenizer::Llama3},
    {"smaug-bpe", PreTokenizer::Llama3},  {"qwen2", PreTokenizer::Qwen2},
    {"stablelm2", PreTokenizer::Qwen2},   {"deepseek-r1-qwen", PreTokenizer::Qwen2},
    {"megrez", PreTokenizer::Qwen2},      {"kormo", PreTokenizer::Qwen2}};

// Reads the arrays in place: a vocabulary is too large to be copied as JSON.
class Reader {
 public:
  Reader(const GgufFile& file, const std::string& source) : file_(file), fields_(file, source) {}

  const Fields& fields() const { return fields_; }

  // The metadata array of that key; null if it is absent.
  const GgufArray* array(const std::string& key) const {
    const GgufValue* value = file_.value(key);
    if (!value) return nullptr;
    const auto* found = std::get_if<GgufArray>(value);
    if (!found) fields_.refuse(key, "an array");
    return found;
  }
  const GgufArray& required(const std::string& key) const {
    const GgufArray* found = array(key);
    if (!found) fields_.fail(key + " is missing");
    return *found;
  }
  std::string text(const std::string& key, const GgufArray& values, std::uint64_t i) const {
    const GgufValue value = values[i];
    const auto* found = std::get_if<std::string_view>(&value);
    if (!found) fields_.fail(key + " must be an array of texts");
    return std::string(*found);
  }
  std::int64_t integer(const std::string& key, const GgufArray& values, std::uint64_t i) const {
    const GgufValue value = values[i];
    if (const auto* n = std::get_if<std::uint64_t>(&value))
      return static_cast<std::int64_t>(std::min<std::uint64_t>(*n, INT64_MAX));
    const auto* n = std::get_if<std::int64_t>(&value);
    if (!n) fields_.fail(key + " must be an array of whole numbers");
    return *n;
  }
  double number(const std::string& key, const GgufArray& values, std::uint64_t i) const {
    const GgufValue value = values[i];
    const auto* found = std::get_if<double>(&value);
    if (!found || !(*found == *found)) fields_.fail(key + " must be an array of numbers");
    return *found;
  }
  // The token that a key names by its id.
  std::optional<TokenId> token(const std::string& key, std::size_t count) const {
    if (!fields_.has(key)) return std::nullopt;
    return static_cast<TokenId>(fields_.integer(key, 0, static_cast<std::int64_t>(count) - 1));
  }

 private:
  const GgufFile& file_;
  Fields fields_;
};

// Reads tokens and their types. Without types all are normal, except those that end and begin texts.
std::vector<std::int64_t> read_tokens(const Reader& in, Vocabulary& out) {
  const std::string tokens_key = "tokenizer.ggml.tokens", types_key = "tokenizer.ggml.token_type";
  const GgufArray& tokens = in.required(tokens_key);
  if (tokens.size() == 0) in.fields().fail(tokens_key + " is empty");
  const GgufArray* types = in.array(types_key);
  if (types && types->size() != tokens.size())
    in.fields().fail(types_key + " has " + std::to_string(types->size()) + " entries, but there are " +
                     std::to_string(tokens.size()) + " tokens");
  std::vector<std::int64_t> kinds;
  for (std::uint64_t i = 0; i < tokens.size(); ++i) {
    out.tokens.push_back(in.text(tokens_key, tokens, i));
    kinds.push_back(types ? in.integer(types_key, *types, i) : Normal);
    if (kinds.back() < Normal || kinds.back() > Byte)
      in.fields().fail(types_key + " of token " + std::to_string(i) + " is " + std::to_string(kinds.back()) +
                       ", but must lie in [1, 6]");
  }
  if (!types)
    for (const char* key : {"bos", "eos", "eot", "eom"})
      if (const auto id = in.token("tokenizer.ggml." + std::string(key) + "_token_id", out.tokens.size()))
        kinds[static_cast<std::size_t>(*id)] = Control;
  for (std::size_t i = 0; i < kinds.size(); ++i)
    if ((kinds[i] == Control || kinds[i] == UserDefined) && !out.tokens[i].empty())
      out.added.push_back({static_cast<TokenId>(i), out.tokens[i], kinds[i] == Control});
  return kinds;
}

void read_merges(const Reader& in, const GgufArray& merges, Vocabulary& out) {
  const std::string key = "tokenizer.ggml.merges";
  for (std::uint64_t i = 0; i < merges.size(); ++i) {
    const std::string merge = in.text(key, merges, i);
    const std::size_t space = merge.find(' ', 1);
    if (space == merge.npos) in.fields().fail(key + ": \"" + merge + "\" is no pair");
    out.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
}

// The rule of a file that names none. Files of Llama 3 made before names were invented are known by a token; for the
// others transformers takes GPT-2's rule.
PreTokenizer unnamed_rule(const Vocabulary& vocabulary) {
  const auto& tokens = vocabulary.tokens;
  const bool llama3 = std::find(tokens.begin(), tokens.end(), "<|begin_of_text|>") != tokens.end();
  return llama3 ? PreTokenizer::Llama3 : PreTokenizer::Gpt2;
}

void read_byte_level(const Reader& in, Vocabulary& out) {
  const std::string key = "tokenizer.ggml.pre";
  const std::string name = in.fields().text(key, "default");
  const auto rule = name == "default" ? unnamed_rule(out) : pre_tokenizer_named(name);
  if (!rule)
    in.fields().refuse(key, "the name of a supported rule, such as gpt-2, smollm, llama-bpe or qwen2");
  out.pre_tokenizer = *rule;
  // Models of the Llama 3 family take words that are tokens whole; those of Qwen normalize.
  out.whole_words_first = *rule == PreTokenizer::Llama3 && name != "smaug-bpe" && name != "dbrx";
  if (name == "qwen2") out.normalizer.push_back({Step::Kind::Nfc, "", ""});
  out.leading_space = in.fields().flag("tokenizer.ggml.add_space_prefix", false);
  read_merges(in, in.required("tokenizer.ggml.merges"), out);
}

// SentencePiece merges the two neighbours that make the token of the highest score. As pairs: each way to cut a token
// in two tokens, those of higher scores first; among the ways to cut one token, the longest left part first, as
// transformers does.
void merges_from_scores(const std::vector<std::int64_t>& kinds, const std::vector<double>& scores,
                        Vocabulary& out) {
  struct Way {
    double score;
    std::size_t left_length;  // in characters
    std::size_t token, cut;
  };
  std::unordered_map<std::string_view, std::size_t> normal;
  for (std::size_t id = 0; id < kinds.size(); ++id)
    if (kinds[id] == Normal && !out.tokens[id].empty()) normal.emplace(out.tokens[id], id);
  std::vector<Way> ways;
  for (std::size_t id = 0; id < kinds.size(); ++id) {
    const std::string_view token = out.tokens[id];
    if (kinds[id] != Normal || token.empty()) continue;
    std::size_t length = 1;
    for (std::size_t cut = code_point_at(token, 0).bytes; cut < token.size();
         cut += code_point_at(token, cut).bytes, ++length)
      if (normal.contains(token.substr(0, cut)) && normal.contains(token.substr(cut)))
        ways.push_back({scores[id], length, id, cut});
  }
  std::stable_sort(ways.begin(), ways.end(), [](const Way& a, const Way& b) {
    return a.score != b.score ? a.score > b.score : a.left_length > b.left_length;
  });
  for (const Way& way : ways)
    out.merges.emplace_back(out.tokens[way.token].substr(0, way.cut), out.tokens[way.token].substr(way.cut));
}

void read_sentencepiece(const Reader& in, const std::vector<std::int64_t>& kinds, Vocabulary& out) {
  const Fields& fields = in.fields();
  out.model = Model::CharacterBpe;
  out.pre_tokenizer = PreTokenizer::Whole;
  out.byte_fallback = out.fuse_unknown = true;
  if (fields.flag("tokenizer.ggml.add_space_prefix", true)) {
    out.normalizer.push_back({Step::Kind::Prepend, "", space_mark});
    out.lead = Vocabulary::Lead::SpaceStripped;
  }
  out.normalizer.push_back({Step::Kind::Replace, " ", space_mark});
  for (std::size_t id = 0; id < kinds.size(); ++id)
    if (kinds[id] == Unknown && !out.unknown) out.unknown = static_cast<TokenId>(id);
  if (const auto unknown = in.token("tokenizer.ggml.unknown_token_id", out.tokens.size()))
    out.unknown = unknown;
  if (const GgufArray* merges = in.array("tokenizer.ggml.merges")) return read_merges(in, *merges, out);
  const std::string key = "tokenizer.ggml.scores";
  const GgufArray& values = in.required(key);
  if (values.size() != out.tokens.size())
    fields.fail(key + " has " + std::to_string(values.size()) + " entries, but there are " +
                std::to_string(out.tokens.size()) + " tokens");
  std::vector<double> scores;
  for (std::uint64_t i = 0; i < values.size(); ++i) scores.push_back(in.number(key, values, i));
  merges_from_scores(kinds, scores, out);
}

// The tokens around every text. Files that leave the question open mean yes for SentencePiece and Llama 3.
void read_affixes(const Reader& in, Vocabulary& out) {
  const bool begins = out.model == Model::CharacterBpe || out.whole_words_first;
  const auto affix = [&](const std::string& name, bool fallback, std::vector<TokenId>& list) {
    const std::string flag = "tokenizer.ggml.add_" + name + "_token";
    const bool wanted = in.fields().flag(flag, fallback);
    const auto id = in.token("tokenizer.ggml." + name + "_token_id", out.tokens.size());
    if (wanted && id) list.push_back(*id);
    if (wanted && !id && in.fields().has(flag))
      in.fields().refuse(flag, "false where tokenizer.ggml." + name + "_token_id is missing");
    return id ? out.tokens[static_cast<std::size_t>(*id)] : std::string();
  };
  out.begin_text = affix("bos", begins, out.prefix);
  out.end_text = affix("eos", false, out.suffix);
}

}  // namespace

std::optional<PreTokenizer> pre_tokenizer_named(std::string_view gguf_name) noexcept {
  for (const auto& [name, rule] : named_rules)
    if (name == gguf_name) return rule;
  return std::nullopt;
}

Vocabulary read_vocabulary(const GgufFile& file, const std::string& source) {
  const Reader in(file, source);
  const std::string model = in.fields().choice("tokenizer.ggml.model", {"gpt2", "llama"});
  Vocabulary out;
  const std::vector<std::int64_t> kinds = read_tokens(in, out);
  // Both belong to SentencePiece's normalizer, which is not run.
  if (in.fields().flag("tokenizer.ggml.remove_extra_whitespaces", false))
    in.fields().refuse("tokenizer.ggml.remove_extra_whitespaces", "false");
  if (in.fields().has("tokenizer.ggml.precompiled_charsmap"))
    in.fields().fail("tokenizer.ggml.precompiled_charsmap is not supported");
  if (model == "gpt2")
    read_byte_level(in, out);
  else
    read_sentencepiece(in, kinds, out);
  read_affixes(in, out);
  out.chat_template = in.fields().text("tokenizer.chat_template", "");
  return out;
}

}  // namespace higgs::model
