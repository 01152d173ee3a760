// SPDX-License-Identifier: Apache-2.0
#include "tokenizer.hpp"

#include "parse_json.hpp"

#include <higgs/core/error.hpp>

#include <nlohmann/json.hpp>

#include <cstddef>

namespace higgs::model {
namespace {

using nlohmann::json;

// The same expressions as in the files of the models that brought them.
constexpr const char* llama3_pattern =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
constexpr const char* qwen2_pattern =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

// The rule that a pre_tokenizer object states, if it is a known one.
std::optional<PreTokenizer> known_rule(const json& stages) {
  const auto is = [](const json& stage, const char* type) {
    return stage.is_object() && stage.value("type", "") == type;
  };
  if (is(stages, "ByteLevel")) return known_rule(json::array({stages}));
  if (is(stages, "Sequence")) return known_rule(stages.at("pretokenizers"));
  if (!stages.is_array() || stages.empty() || stages.size() > 2) return std::nullopt;
  const json& last = stages.back();
  if (!is(last, "ByteLevel") || last.value("add_prefix_space", true)) return std::nullopt;
  const bool gpt2 = last.value("use_regex", true);
  if (stages.size() == 1) return gpt2 ? std::optional(PreTokenizer::Gpt2) : std::nullopt;
  const json& first = stages.front();
  if (is(first, "Digits") && first.value("individual_digits", false) && gpt2) return PreTokenizer::Smollm;
  if (is(first, "Split") && first.value("behavior", "") == "Isolated" && !first.value("invert", false) &&
      !gpt2) {
    const std::string pattern = first.at("pattern").value("Regex", "");
    if (pattern == llama3_pattern) return PreTokenizer::Llama3;
    if (pattern == qwen2_pattern) return PreTokenizer::Qwen2;
  }
  return std::nullopt;
}

json pre_tokenizer_json(PreTokenizer rule) {
  const auto byte_level = [](bool use_regex) {
    return json{
        {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
  };
  const auto split = [](const char* pattern) {
    return json{
        {"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
  };
  const auto sequence = [](json first, json second) {
    return json{{"type", "Sequence"}, {"pretokenizers", json::array({std::move(first), std::move(second)})}};
  };
  switch (rule) {
    case PreTokenizer::Gpt2:
      break;
    case PreTokenizer::Smollm:
      return sequence({{"type", "Digits"}, {"individual_digits", true}}, byte_level(true));
    case PreTokenizer::Llama3:
      return sequence(split(llama3_pattern), byte_level(false));
    case PreTokenizer::Qwen2:
      return sequence(split(qwen2_pattern), byte_level(false));
  }
  return byte_level(true);
}

// The token that a post-processor puts before a text, as Llama 3's does; it may be the second of two stages.
std::optional<TokenId> prefix_of(const json& processor) {
  if (!processor.is_object()) return std::nullopt;
  if (processor.value("type", "") == "Sequence") {
    for (const json& each : processor.at("processors"))
      if (const auto found = prefix_of(each)) return found;
    return std::nullopt;
  }
  if (processor.value("type", "") != "TemplateProcessing") return std::nullopt;
  const json& first = processor.at("single").at(0);
  if (!first.contains("SpecialToken")) return std::nullopt;
  return processor.at("special_tokens").at(first["SpecialToken"].at("id")).at("ids").at(0).get<TokenId>();
}

Vocabulary read(const json& file, const std::string& source) {
  const auto refuse = [&](const std::string& what) { throw FormatError(source + ": " + what); };
  const json& model = file.at("model");
  // Files older than the member "type" are byte-pair encodings if they have merges.
  if (model.value("type", "BPE") != "BPE" || model.value("byte_fallback", false) || !model.contains("merges"))
    refuse("model: only byte-level BPE is supported");
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (model.contains(affix) && model[affix].is_string() && model[affix] != "")
      refuse(std::string("model.") + affix + " is not supported");
  if (file.contains("normalizer") && !file["normalizer"].is_null() &&
      file["normalizer"].value("type", "") != "NFC")
    refuse("normalizer: only NFC and none are supported");
  const auto rule = known_rule(file.at("pre_tokenizer"));
  if (!rule) refuse("pre_tokenizer: is none of gpt2, smollm, llama3, qwen2");

  Vocabulary out;
  out.pre_tokenizer = *rule;
  out.whole_words_first = model.value("ignore_merges", false);
  const auto place = [&](const std::string& token, const json& id) -> TokenId {
    // Ids may leave gaps, but not so large ones that a file of a few bytes asks for gigabytes.
    constexpr std::uint64_t most = 1 << 22;
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= most)
      refuse("token \"" + token + "\": the id must lie in [0, 2^22)");
    const auto at = id.get<std::size_t>();
    if (at >= out.tokens.size()) out.tokens.resize(at + 1);
    out.tokens[at] = token;
    return static_cast<TokenId>(at);
  };
  for (const auto& [token, id] : model.at("vocab").items()) place(token, id);
  for (const json& merge : model.at("merges")) {
    if (merge.is_array()) {
      out.merges.emplace_back(merge.at(0), merge.at(1));
      continue;
    }
    const auto text = merge.get<std::string>();
    const std::size_t space = text.find(' ');
    if (space == text.npos) refuse("model.merges: \"" + text + "\" is no pair");
    out.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  for (const json& each : file.value("added_tokens", json::array())) {
    const auto content = each.at("content").get<std::string>();
    for (const char* rule_name : {"single_word", "lstrip", "rstrip"})
      if (each.value(rule_name, false))
        refuse("added token \"" + content + "\": " + rule_name + " is not supported");
    out.added.push_back({place(content, each.at("id")), content, each.value("special", false)});
  }
  if (file.contains("post_processor")) out.prefix = prefix_of(file["post_processor"]);
  if (model.contains("unk_token") && model["unk_token"].is_string())
    for (std::size_t id = 0; id < out.tokens.size(); ++id)
      if (out.tokens[id] == model["unk_token"].get_ref<const std::string&>())
        out.unknown = static_cast<TokenId>(id);
  return out;
}

}  // namespace

Vocabulary read_tokenizer_json(std::string_view text, const std::string& source) {
  return parse_json(text, source, [&](const json& file) { return read(file, source); });
}

std::string write_tokenizer_json(const Vocabulary& vocabulary) {
  json vocab = json::object(), merges = json::array(), added = json::array();
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) vocab.emplace(vocabulary.tokens[id], id);
  for (const auto& [left, right] : vocabulary.merges) merges.push_back(json::array({left, right}));
  for (const auto& [id, content, special] : vocabulary.added)
    added.push_back({{"id", id},
                     {"content", content},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", special}});
  const auto spelling = [&](TokenId id) { return vocabulary.tokens.at(static_cast<std::size_t>(id)); };
  const json byte_level{
      {"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  json post_processor;
  if (vocabulary.prefix) {
    const std::string first = spelling(*vocabulary.prefix);
    const auto sequence = [](const char* id) {
      return json{{"Sequence", {{"id", id}, {"type_id", id[0] == 'A' ? 0 : 1}}}};
    };
    const json begin{{"SpecialToken", {{"id", first}, {"type_id", 0}}}};
    post_processor = {
        {"type", "TemplateProcessing"},
        {"single", json::array({begin, sequence("A")})},
        {"pair", json::array({begin, sequence("A"), sequence("B")})},
        {"special_tokens",
         {{first,
           {{"id", first}, {"ids", json::array({*vocabulary.prefix})}, {"tokens", json::array({first})}}}}}};
  }
  const json file{{"version", "1.0"},
                  {"truncation", nullptr},
                  {"padding", nullptr},
                  {"added_tokens", added},
                  {"normalizer", nullptr},
                  {"pre_tokenizer", pre_tokenizer_json(vocabulary.pre_tokenizer)},
                  {"post_processor", post_processor},
                  {"decoder", byte_level},
                  {"model",
                   {{"type", "BPE"},
                    {"dropout", nullptr},
                    {"unk_token", vocabulary.unknown ? json(spelling(*vocabulary.unknown)) : json()},
                    {"continuing_subword_prefix", nullptr},
                    {"end_of_word_suffix", nullptr},
                    {"fuse_unk", false},
                    {"byte_fallback", false},
                    {"ignore_merges", vocabulary.whole_words_first},
                    {"vocab", vocab},
                    {"merges", merges}}}};
  // A damaged vocabulary may hold what is no UTF-8; JSON must not.
  return file.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace higgs::model
