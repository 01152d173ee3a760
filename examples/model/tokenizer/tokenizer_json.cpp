// SPDX-License-Identifier: Apache-2.0
// Hugging Face's tokenizer.json and the files beside it.
#include "json/fields.hpp"
#include "json/parse_json.hpp"
#include "tokenizer/tokenizer.hpp"

#include <higgs/core/error.hpp>
#include <higgs/store/mapped_file.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <unordered_map>

namespace higgs::model {
namespace {

using nlohmann::json;
using Model = Vocabulary::Model;
using Step = NormalizerStep;

constexpr const char* space_mark = "\u2581";

// The same expressions as in the files of the models that brought them.
constexpr const char* llama3_pattern =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
constexpr const char* qwen2_pattern =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

// The stages of a part that may be a Sequence of stages; none if the part is absent.
std::vector<Fields> stages_of(const Fields& parent, const std::string& key, const std::string& list) {
  const auto part = parent.object(key);
  if (!part) return {};
  if (part->text("type") != "Sequence") return {*part};
  const json* stages = part->array(list);
  if (!stages) part->refuse(list, "an array");
  std::vector<Fields> out;
  for (std::size_t i = 0; i < stages->size(); ++i) {
    Fields stage((*stages)[i], part->source(), part->name(list) + "[" + std::to_string(i) + "]");
    if (stage.text("type") != "Sequence") {
      out.push_back(stage);
      continue;
    }
    const json* inner = stage.array(list);
    if (!inner) stage.refuse(list, "an array");
    for (std::size_t j = 0; j < inner->size(); ++j)
      out.emplace_back((*inner)[j], stage.source(), stage.name(list) + "[" + std::to_string(j) + "]");
  }
  return out;
}

// A pattern, {"String": ...} or {"Regex": ...}, and which of the two it is.
std::pair<std::string, bool> pattern_of(const Fields& stage) {
  const auto pattern = stage.object("pattern");
  if (!pattern) stage.refuse("pattern", "an object");
  const bool regex = pattern->has("Regex");
  return {pattern->text(regex ? "Regex" : "String"), regex};
}

void read_normalizer(const Fields& file, Vocabulary& out) {
  for (const Fields& stage : stages_of(file, "normalizer", "normalizers")) {
    const std::string type = stage.choice("type", {"NFC", "NFD", "Prepend", "Replace", "Strip"});
    if (type == "NFC") {
      out.normalizer.push_back({Step::Kind::Nfc, "", ""});
    } else if (type == "NFD") {
      out.normalizer.push_back({Step::Kind::Nfd, "", ""});
    } else if (type == "Prepend") {
      out.normalizer.push_back({Step::Kind::Prepend, "", stage.text("prepend")});
    } else if (type == "Replace") {
      const auto [pattern, regex] = pattern_of(stage);
      if (pattern.empty() || regex) stage.refuse("pattern", "{\"String\": a text that is not empty}");
      out.normalizer.push_back({Step::Kind::Replace, pattern, stage.text("content")});
    } else {
      if (stage.flag("strip_left")) out.normalizer.push_back({Step::Kind::StripLeft, "", ""});
      if (stage.flag("strip_right")) out.normalizer.push_back({Step::Kind::StripRight, "", ""});
    }
  }
}

// The rule of a Split stage; `byte_level` if a ByteLevel stage follows.
PreTokenizer split_rule(const Fields& stage, bool byte_level) {
  const auto [pattern, regex] = pattern_of(stage);
  const bool inverted = stage.flag("invert", false);
  const std::string behavior = stage.text("behavior");
  const bool isolated = behavior == "Isolated" && !inverted;
  if (byte_level && regex && isolated && pattern == llama3_pattern) return PreTokenizer::Llama3;
  if (byte_level && regex && isolated && pattern == qwen2_pattern) return PreTokenizer::Qwen2;
  if (!byte_level && !regex && pattern == " " && behavior == "MergedWithPrevious" && !inverted)
    return PreTokenizer::Spaces;
  stage.fail(stage.name("pattern") + " is \"" + pattern + "\" with behavior \"" + behavior +
             "\", which is none of the supported rules (those of Llama 3, Qwen 2 and Gemma)");
}

// Where ByteLevel comes last, the model's alphabet is GPT-2's.
void read_byte_level(const std::vector<Fields>& stages, Vocabulary& out) {
  const Fields& last = stages.back();
  out.leading_space = last.flag("add_prefix_space", true);
  const bool gpt2 = last.flag("use_regex", true);
  if (stages.size() == 1) {
    out.pre_tokenizer = gpt2 ? PreTokenizer::Gpt2 : PreTokenizer::Whole;
    return;
  }
  const Fields& first = stages.front();
  if (stages.size() > 2)
    first.fail("pre_tokenizer has " + std::to_string(stages.size()) +
               " stages, but at most two are supported");
  if (out.leading_space) last.refuse("add_prefix_space", "false after another stage");
  if (first.choice("type", {"Digits", "Split"}) == "Digits") {
    if (!first.flag("individual_digits", false)) first.refuse("individual_digits", "true");
    if (!gpt2) last.refuse("use_regex", "true after Digits");
    out.pre_tokenizer = PreTokenizer::Smollm;
  } else {
    if (gpt2) last.refuse("use_regex", "false after Split");
    out.pre_tokenizer = split_rule(first, true);
  }
}

void read_metaspace(const Fields& stage, Vocabulary& out) {
  stage.choice("replacement", {space_mark});
  const std::string scheme = stage.choice("prepend_scheme", {"always", "first", "never"}, "always");
  // The key of files before prepend_scheme.
  const bool prefix = stage.flag("add_prefix_space", scheme != "never");
  if (stage.has("add_prefix_space") && stage.has("prepend_scheme") && !prefix && scheme != "never")
    stage.refuse("add_prefix_space", "what prepend_scheme says");
  using Prefix = Metaspace::Prefix;
  out.metaspace = Metaspace{!prefix || scheme == "never" ? Prefix::Never
                            : scheme == "first"          ? Prefix::First
                                                         : Prefix::Always,
                            stage.flag("split", true)};
}

void read_pre_tokenizer(const Fields& file, Vocabulary& out) {
  const std::vector<Fields> stages = stages_of(file, "pre_tokenizer", "pretokenizers");
  out.pre_tokenizer = PreTokenizer::Whole;
  if (stages.empty()) {
    out.model = Model::CharacterBpe;
    return;
  }
  if (stages.back().text("type") == "ByteLevel") return read_byte_level(stages, out);
  out.model = Model::CharacterBpe;
  if (stages.size() > 1)
    file.fail("pre_tokenizer is a Sequence that does not end with ByteLevel, which is not supported");
  const Fields& stage = stages.front();
  if (stage.choice("type", {"ByteLevel", "Metaspace", "Split"}) == "Metaspace")
    read_metaspace(stage, out);
  else
    out.pre_tokenizer = split_rule(stage, false);
}

// The id of a token; the vector grows. Ids may leave gaps, but not so large ones that a file of a few bytes asks for
// gigabytes.
TokenId place(const std::string& token, const json& id, const std::string& where, Vocabulary& out,
              const Fields& fields) {
  constexpr std::uint64_t most = 1 << 22;
  if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= most)
    fields.fail(where + ": token \"" + token + "\" has the id " + id.dump() +
                ", but it must lie in [0, 2^22)");
  const auto at = id.get<std::size_t>();
  if (at >= out.tokens.size()) out.tokens.resize(at + 1);
  if (!out.tokens[at].empty() && out.tokens[at] != token)
    fields.fail(where + ": token \"" + token + "\" has the id " + id.dump() + ", which is that of \"" +
                out.tokens[at] + "\"");
  out.tokens[at] = token;
  return static_cast<TokenId>(at);
}

void read_merges(const Fields& model, Vocabulary& out) {
  const json* merges = model.array("merges");
  if (!merges) model.fail("model.merges is missing");
  for (const json& merge : *merges) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      out.merges.emplace_back(merge[0], merge[1]);
      continue;
    }
    const std::string text = merge.is_string() ? merge.get<std::string>() : "";
    const std::size_t space = text.find(' ');
    if (space == text.npos) model.fail("model.merges: " + merge.dump() + " is no pair of texts");
    out.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
}

void read_bpe(const Fields& model, Vocabulary& out) {
  // Training makes use of dropout; a tokenizer that drops merges by chance is none to measure with.
  if (model.has("dropout") && model.number("dropout") != 0) model.refuse("dropout", "null or 0");
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!model.text(affix, "").empty()) model.refuse(affix, "null or empty");
  out.fuse_unknown = model.flag("fuse_unk", false);
  out.byte_fallback = model.flag("byte_fallback", false);
  out.whole_words_first = model.flag("ignore_merges", false);
  if (out.byte_fallback && out.model == Model::ByteLevelBpe)
    model.refuse("byte_fallback", "false beside a ByteLevel pre_tokenizer");
  const auto vocab = model.object("vocab");
  if (!vocab) model.fail("model.vocab is missing");
  for (const auto& [token, id] : model.find("vocab")->items()) place(token, id, "model.vocab", out, model);
  read_merges(model, out);
}

void read_unigram(const Fields& model, Vocabulary& out) {
  if (out.model == Model::ByteLevelBpe) model.refuse("type", "\"BPE\" beside a ByteLevel pre_tokenizer");
  out.model = Model::Unigram;
  out.byte_fallback = model.flag("byte_fallback", false);
  const json* vocab = model.array("vocab");
  if (!vocab || vocab->empty()) model.fail("model.vocab must be a list of texts and scores");
  for (const json& each : *vocab) {
    if (!each.is_array() || each.size() != 2 || !each[0].is_string() || !each[1].is_number())
      model.fail("model.vocab: " + each.dump() + " is no text with its score");
    out.tokens.push_back(each[0]);
    out.scores.push_back(each[1]);
  }
  out.unknown =
      static_cast<TokenId>(model.integer("unk_id", 0, static_cast<std::int64_t>(vocab->size()) - 1));
}

Vocabulary::AddedToken added_token_of(const Fields& fields) {
  Vocabulary::AddedToken out;
  out.content = fields.text("content");
  out.special = fields.flag("special", false);
  out.normalized = fields.flag("normalized", !out.special);
  out.lstrip = fields.flag("lstrip", false);
  out.rstrip = fields.flag("rstrip", false);
  if (fields.flag("single_word", false))
    fields.fail(fields.name("single_word") + " of \"" + out.content + "\" is true, which is not supported");
  return out;
}

std::optional<TokenId> id_of(const Vocabulary& vocabulary, const std::string& token) {
  const auto found = std::find(vocabulary.tokens.begin(), vocabulary.tokens.end(), token);
  if (token.empty() || found == vocabulary.tokens.end()) return std::nullopt;
  return static_cast<TokenId>(found - vocabulary.tokens.begin());
}

// What TemplateProcessing puts around a single text.
void read_template(const Fields& stage, Vocabulary& out) {
  const json* single = stage.array("single");
  if (!single) stage.fail(stage.name("single") + " is missing");
  const auto special_tokens = stage.object("special_tokens");
  std::vector<TokenId> prefix, suffix;
  bool text_seen = false;
  for (const json& part : *single) {
    const Fields piece(part, stage.source(), stage.name("single"));
    if (const auto sequence = piece.object("Sequence")) {
      if (sequence->choice("id", {"A"}) == "A" && text_seen)
        stage.fail(stage.name("single") + " has two texts");
      text_seen = true;
      continue;
    }
    const auto special = piece.object("SpecialToken");
    if (!special) stage.fail(stage.name("single") + " holds something else than Sequence and SpecialToken");
    const std::string name = special->text("id");
    const auto meaning = special_tokens ? special_tokens->object(name) : std::nullopt;
    const json* ids = meaning ? meaning->array("ids") : nullptr;
    if (!ids) stage.fail(stage.name("special_tokens") + " lacks \"" + name + "\"");
    for (const json& id : *ids) {
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() > INT32_MAX)
        meaning->refuse("ids", "a list of token ids");
      (text_seen ? suffix : prefix).push_back(id.get<TokenId>());
    }
  }
  if (!text_seen) stage.fail(stage.name("single") + " has no text");
  // A later stage works on what an earlier one made.
  out.prefix.insert(out.prefix.begin(), prefix.begin(), prefix.end());
  out.suffix.insert(out.suffix.end(), suffix.begin(), suffix.end());
}

// What decoding does to the beginning of a text. It has no influence on ids, but a decoder of another kind would
// give another text.
void read_decoder(const Fields& file, Vocabulary& out) {
  using Lead = Vocabulary::Lead;
  for (const Fields& stage : stages_of(file, "decoder", "decoders")) {
    if (out.model == Model::ByteLevelBpe) {
      stage.choice("type", {"ByteLevel"});
      continue;
    }
    const std::string type = stage.choice("type", {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"});
    if (type == "Replace") {
      if (pattern_of(stage) != std::pair(std::string(space_mark), false))
        stage.refuse("pattern", "\"" + std::string(space_mark) + "\"");
      stage.choice("content", {" "});
    } else if (type == "Strip") {
      stage.choice("content", {" "});
      if (stage.integer("start", 0, 1) == 1) out.lead = Lead::SpaceStripped;
      stage.integer("stop", 0, 0);
    } else if (type == "Metaspace") {
      Vocabulary scratch;
      read_metaspace(stage, scratch);
      out.lead =
          scratch.metaspace->prefix == Metaspace::Prefix::Never ? Lead::Kept : Lead::FirstTokenStripped;
    }
  }
}

// Added tokens that the model lacks have the ids that the tokenizers library gives them, whatever the file says: they
// follow the model's tokens, as many as there are, in the order of the file. A file that says something else is refused.
void read_added_tokens(const Fields& file, const Fields& model, Vocabulary& out) {
  const json* added = file.array("added_tokens");
  if (!added) return;
  std::unordered_map<std::string, std::size_t> known;
  for (std::size_t id = 0; id < out.tokens.size(); ++id)
    if (!out.tokens[id].empty()) known.emplace(out.tokens[id], id);
  const std::size_t count = model.find("vocab")->size();
  std::size_t next = count;
  for (std::size_t i = 0; i < added->size(); ++i) {
    const Fields fields((*added)[i], file.source(), "added_tokens[" + std::to_string(i) + "]");
    Vocabulary::AddedToken token = added_token_of(fields);
    if (!fields.has("id")) fields.refuse("id", "a token id");
    const auto found = known.find(token.content);
    token.outside = found == known.end();
    const std::size_t expected = token.outside ? next : found->second;
    token.id = place(token.content, *fields.find("id"), fields.name("id"), out, fields);
    if (static_cast<std::size_t>(token.id) != expected)
      fields.refuse(
          "id", std::to_string(expected) + ", which the tokenizers library gives \"" + token.content + "\"");
    next = std::max(next, expected + 1);
    known.emplace(token.content, expected);
    out.added.push_back(std::move(token));
  }
}

Vocabulary read(const json& text, const std::string& source) {
  Fields file(text, source);
  file.null_means_absent(
      {"truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"});
  // Both are for batches: transformers obeys them only where a caller asks for it.
  file.object("truncation");
  file.object("padding");
  auto model = file.object("model");
  if (!model) file.fail("model is missing");
  model->null_means_absent({"dropout", "unk_token", "unk_id", "continuing_subword_prefix",
                            "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges"});
  // Files older than the member "type" are byte-pair encodings if they have merges.
  const std::string type = model->choice(
      "type", {"BPE", "Unigram"}, model->has("merges") ? std::optional<std::string>("BPE") : std::nullopt);

  Vocabulary out;
  read_normalizer(file, out);
  read_pre_tokenizer(file, out);
  if (type == "BPE")
    read_bpe(*model, out);
  else
    read_unigram(*model, out);
  read_added_tokens(file, *model, out);
  for (const Fields& stage : stages_of(file, "post_processor", "processors"))
    if (stage.choice("type", {"TemplateProcessing", "ByteLevel"}) == "TemplateProcessing")
      read_template(stage, out);
  read_decoder(file, out);
  if (type == "BPE" && model->has("unk_token")) {
    out.unknown = id_of(out, model->text("unk_token"));
    if (!out.unknown) model->refuse("unk_token", "one of the tokens");
  }
  return out;
}

// The text of a special token in tokenizer_config.json, which may be an object; empty for null and absent keys.
std::string special_text(const Fields& config, const std::string& key) {
  const json* value = config.find(key);
  if (!value || value->is_null()) return "";
  if (value->is_string()) return *value;
  if (!value->is_object()) config.refuse(key, "a text or an object with \"content\"");
  return config.object(key)->text("content");
}

// tokenizer_config.json and its elder companions, of which transformers takes special tokens that tokenizer.json
// lacks.
class Companions {
 public:
  explicit Companions(Vocabulary& vocabulary) : vocabulary_(vocabulary) {}

  // Tokens without an id of their own follow the last one, in the order in which they come.
  void add(Vocabulary::AddedToken token) {
    if (token.content.empty()) return;
    const auto same = [&](const Vocabulary::AddedToken& each) { return each.content == token.content; };
    auto& added = vocabulary_.added;
    if (const auto found = std::find_if(added.begin(), added.end(), same); found != added.end()) {
      token.id = found->id;
      token.outside = found->outside;
      *found = std::move(token);
      return;
    }
    const auto known = id_of(vocabulary_, token.content);
    token.outside = !known;
    token.id = known ? *known : static_cast<TokenId>(vocabulary_.tokens.size());
    if (!known) vocabulary_.tokens.push_back(token.content);
    added.push_back(std::move(token));
  }
  // A special token that is only named: one that is there already stays as it is, but is special.
  void add_named(const std::string& content) {
    for (Vocabulary::AddedToken& each : vocabulary_.added)
      if (each.content == content) {
        each.special = true;
        return;
      }
    add({0, content, true});
  }
  void add_named(const json& token, const std::string& source, const std::string& key) {
    if (token.is_null()) return;
    if (token.is_string()) return add_named(token.get<std::string>());
    Vocabulary::AddedToken given = added_token_of(Fields(token, source, key));
    given.special = true;
    const auto same = [&](const Vocabulary::AddedToken& each) { return each.content == given.content; };
    if (std::any_of(vocabulary_.added.begin(), vocabulary_.added.end(), same))
      return add_named(given.content);
    add(std::move(given));
  }

 private:
  Vocabulary& vocabulary_;
};

void read_added_tokens_decoder(const Fields& config, Companions& companions) {
  const auto decoder = config.object("added_tokens_decoder");
  if (!decoder) return;
  std::vector<std::pair<std::uint64_t, std::string>> order;  // by number, not by digits
  for (const auto& [id, token] : config.find("added_tokens_decoder")->items())
    order.emplace_back(parse_decimal(id, config.source() + ": added_tokens_decoder"), id);
  std::sort(order.begin(), order.end());
  for (const auto& [number, id] : order) companions.add(added_token_of(*decoder->object(id)));
}

constexpr const char* special_keys[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                        "pad_token", "cls_token", "mask_token"};

void read_special_tokens(const Fields& config, Companions& companions) {
  std::vector<std::string> keys(std::begin(special_keys), std::end(special_keys));
  for (const std::string& key : config.keys())  // such as "image_token"
    if (key.ends_with("_token") && config.find(key)->is_string() &&
        std::find(keys.begin(), keys.end(), key) == keys.end())
      keys.push_back(key);
  for (const std::string& key : keys) {
    special_text(config, key);
    if (const json* value = config.find(key)) companions.add_named(*value, config.source(), key);
  }
  for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
    const json* value = config.find(key);
    if (!value || value->is_null()) continue;
    if (!value->is_array() && !value->is_object()) config.refuse(key, "a list of tokens");
    for (const json& each : *value) companions.add_named(each, config.source(), key);
  }
}

// transformers builds the tokenizer of this class anew, whatever normalizer tokenizer.json has: a Metaspace before
// the text, or before each piece of it where "legacy" is true, and no unknown token.
void obey_llama_class(const Fields& config, Vocabulary& out) {
  const bool prefix = config.flag("add_prefix_space", true);
  const bool legacy = config.flag("legacy", false);
  out.normalizer.clear();
  out.pre_tokenizer = PreTokenizer::Whole;
  out.metaspace = Metaspace{!prefix  ? Metaspace::Prefix::Never
                            : legacy ? Metaspace::Prefix::Always
                                     : Metaspace::Prefix::First,
                            false};
  out.whole_words_first = false;
  out.byte_fallback = out.fuse_unknown = true;
  out.unknown.reset();
  out.lead = prefix ? Vocabulary::Lead::SpaceStripped : Vocabulary::Lead::Kept;
}

void read_tokenizer_config(const json& text, const std::string& source, bool llama, Vocabulary& out) {
  Fields config(text, source);
  config.null_means_absent({"tokenizer_class", "add_bos_token", "add_eos_token", "add_prefix_space", "legacy",
                            "chat_template", "added_tokens_decoder", "split_special_tokens"});
  // transformers 4 added these tokens here; transformers 5 obeys tokenizer.json's post_processor alone.
  config.flag("add_bos_token", false);
  config.flag("add_eos_token", false);
  if (config.flag("split_special_tokens", false)) config.refuse("split_special_tokens", "false");
  const std::string name = config.text("tokenizer_class", "");
  if (llama && out.model == Model::CharacterBpe && (name == "LlamaTokenizer" || name == "LlamaTokenizerFast"))
    obey_llama_class(config, out);
  else if (config.flag("add_prefix_space", false) && out.model == Model::ByteLevelBpe && !out.leading_space &&
           name != "PreTrainedTokenizerFast" && name != "TokenizersBackend" && !name.empty())
    config.refuse("add_prefix_space", "what tokenizer.json says");
  Companions companions(out);
  read_added_tokens_decoder(config, companions);
  read_special_tokens(config, companions);
  out.begin_text = special_text(config, "bos_token");
  out.end_text = special_text(config, "eos_token");
  const json* chat = config.find("chat_template");
  if (chat && chat->is_array()) {  // several templates by name
    for (const json& each : *chat) {
      const Fields named(each, source, "chat_template");
      if (named.text("name") == "default") out.chat_template = named.text("template");
    }
  } else if (chat) {
    out.chat_template = config.text("chat_template");
  }
}

json pre_tokenizer_json(const Vocabulary& vocabulary) {
  const auto byte_level = [&](bool use_regex) {
    return json{{"type", "ByteLevel"},
                {"add_prefix_space", vocabulary.leading_space},
                {"trim_offsets", true},
                {"use_regex", use_regex}};
  };
  const auto split = [](const char* pattern) {
    return json{
        {"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
  };
  const auto sequence = [](json first, json second) {
    return json{{"type", "Sequence"}, {"pretokenizers", json::array({std::move(first), std::move(second)})}};
  };
  if (vocabulary.metaspace) {
    using Prefix = Metaspace::Prefix;
    const auto [prefix, cut] = *vocabulary.metaspace;
    return {{"type", "Metaspace"},
            {"replacement", space_mark},
            {"prepend_scheme", prefix == Prefix::Never   ? "never"
                               : prefix == Prefix::First ? "first"
                                                         : "always"},
            {"split", cut}};
  }
  switch (vocabulary.pre_tokenizer) {
    case PreTokenizer::Gpt2:
      break;
    case PreTokenizer::Smollm:
      return sequence({{"type", "Digits"}, {"individual_digits", true}}, byte_level(true));
    case PreTokenizer::Llama3:
      return sequence(split(llama3_pattern), byte_level(false));
    case PreTokenizer::Qwen2:
      return sequence(split(qwen2_pattern), byte_level(false));
    case PreTokenizer::Whole:
      return vocabulary.model == Model::ByteLevelBpe ? byte_level(false) : json();
    case PreTokenizer::Spaces:
      return {{"type", "Split"},
              {"pattern", {{"String", " "}}},
              {"behavior", "MergedWithPrevious"},
              {"invert", false}};
  }
  return byte_level(true);
}

json normalizer_json(const std::vector<Step>& steps) {
  json out = json::array();
  for (const Step& step : steps) switch (step.kind) {
      case Step::Kind::Nfc:
        out.push_back({{"type", "NFC"}});
        break;
      case Step::Kind::Nfd:
        out.push_back({{"type", "NFD"}});
        break;
      case Step::Kind::Prepend:
        out.push_back({{"type", "Prepend"}, {"prepend", step.to}});
        break;
      case Step::Kind::Replace:
        out.push_back({{"type", "Replace"}, {"pattern", {{"String", step.from}}}, {"content", step.to}});
        break;
      case Step::Kind::StripLeft:
      case Step::Kind::StripRight:
        out.push_back({{"type", "Strip"},
                       {"strip_left", step.kind == Step::Kind::StripLeft},
                       {"strip_right", step.kind == Step::Kind::StripRight}});
        break;
    }
  if (out.empty()) return nullptr;
  if (out.size() == 1) return out[0];
  return {{"type", "Sequence"}, {"normalizers", out}};
}

json decoder_json(const Vocabulary& vocabulary) {
  using Lead = Vocabulary::Lead;
  if (vocabulary.model == Model::ByteLevelBpe)
    return {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  json stages = json::array();
  const auto add = [&](json stage) { stages.push_back(std::move(stage)); };
  const bool metaspace = vocabulary.lead == Lead::FirstTokenStripped;
  if (!metaspace) add({{"type", "Replace"}, {"pattern", {{"String", space_mark}}}, {"content", " "}});
  if (vocabulary.byte_fallback) add({{"type", "ByteFallback"}});
  add({{"type", "Fuse"}});
  if (metaspace)
    stages.insert(stages.begin(), json{{"type", "Metaspace"},
                                       {"replacement", space_mark},
                                       {"prepend_scheme", "always"},
                                       {"split", true}});
  if (vocabulary.lead == Lead::SpaceStripped)
    add({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"type", "Sequence"}, {"decoders", stages}};
}

json post_processor_json(const Vocabulary& vocabulary) {
  if (vocabulary.prefix.empty() && vocabulary.suffix.empty()) return nullptr;
  json special_tokens = json::object();
  const auto special = [&](const std::vector<TokenId>& ids, int type) {
    json out = json::array();
    for (const TokenId id : ids) {
      const std::string& token = vocabulary.tokens.at(static_cast<std::size_t>(id));
      special_tokens[token] = {{"id", token}, {"ids", {id}}, {"tokens", {token}}};
      out.push_back({{"SpecialToken", {{"id", token}, {"type_id", type}}}});
    }
    return out;
  };
  const auto text = [&](const char* name, int type) {
    json out = special(vocabulary.prefix, type);
    out.push_back({{"Sequence", {{"id", name}, {"type_id", type}}}});
    for (json& each : special(vocabulary.suffix, type)) out.push_back(std::move(each));
    return out;
  };
  json single = text("A", 0), pair = single;
  for (json& each : text("B", 1)) pair.push_back(std::move(each));
  return {
      {"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special_tokens}};
}

json model_json(const Vocabulary& vocabulary) {
  const auto spelling = [&](TokenId id) { return vocabulary.tokens.at(static_cast<std::size_t>(id)); };
  if (vocabulary.model == Model::Unigram) {
    json vocab = json::array();
    for (std::size_t id = 0; id < vocabulary.scores.size(); ++id)
      vocab.push_back({vocabulary.tokens[id], vocabulary.scores[id]});
    return {{"type", "Unigram"},
            {"unk_id", vocabulary.unknown ? json(*vocabulary.unknown) : json()},
            {"vocab", vocab},
            {"byte_fallback", vocabulary.byte_fallback}};
  }
  json vocab = json::object(), merges = json::array();
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) vocab.emplace(vocabulary.tokens[id], id);
  for (const Vocabulary::AddedToken& token : vocabulary.added)
    if (token.outside) vocab.erase(token.content);
  for (const auto& [left, right] : vocabulary.merges) merges.push_back(json::array({left, right}));
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", vocabulary.unknown ? json(spelling(*vocabulary.unknown)) : json()},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", vocabulary.fuse_unknown},
          {"byte_fallback", vocabulary.byte_fallback},
          {"ignore_merges", vocabulary.whole_words_first},
          {"vocab", vocab},
          {"merges", merges}};
}

std::string text_of(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  return {reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()};
}

}  // namespace

Vocabulary read_tokenizer_json(std::string_view text, const std::string& source) {
  return parse_json(text, source, [&](const json& file) { return read(file, source); });
}

Vocabulary read_tokenizer_folder(const std::filesystem::path& folder) {
  const auto read_if_there = [&](const char* name, const auto& use) {
    const std::filesystem::path path = folder / name;
    if (!std::filesystem::exists(path)) return false;
    parse_json(text_of(path), path.string(), [&](const json& file) {
      use(file, path.string());
      return 0;
    });
    return true;
  };
  const std::filesystem::path main = folder / "tokenizer.json";
  Vocabulary out = read_tokenizer_json(text_of(main), main.string());
  bool llama = true, listed = false;
  read_if_there("config.json", [&](const json& file, const std::string& source) {
    llama = Fields(file, source).text("model_type", "llama") == "llama";
  });
  Companions companions(out);
  json config = json::object();
  read_if_there("tokenizer_config.json", [&](const json& file, const std::string& source) {
    read_tokenizer_config(file, source, llama, out);
    config = file;
    listed = file.contains("added_tokens_decoder");
  });
  // Files older than added_tokens_decoder; transformers reads them only without it.
  if (!listed) {
    read_if_there("special_tokens_map.json", [&](const json& file, const std::string& source) {
      const Fields fields(file, source);
      read_special_tokens(fields, companions);
      if (fields.has("bos_token")) out.begin_text = special_text(fields, "bos_token");
      if (fields.has("eos_token")) out.end_text = special_text(fields, "eos_token");
    });
    read_if_there("added_tokens.json", [&](const json& file, const std::string& source) {
      const Fields fields(file, source);
      std::vector<std::pair<std::int64_t, std::string>> order;
      for (const auto& [content, id] : file.items())
        order.emplace_back(fields.integer(content, 0, INT32_MAX), content);
      std::sort(order.begin(), order.end());
      for (const auto& [id, content] : order) {
        const auto same = [&](const Vocabulary::AddedToken& each) { return each.content == content; };
        if (std::none_of(out.added.begin(), out.added.end(), same)) companions.add({0, content, false, true});
      }
    });
  }
  if (const auto path = folder / "chat_template.jinja"; std::filesystem::exists(path))
    out.chat_template = text_of(path);
  return out;
}

std::string write_tokenizer_json(const Vocabulary& vocabulary) {
  json added = json::array();
  for (const Vocabulary::AddedToken& token : vocabulary.added)
    added.push_back({{"id", token.id},
                     {"content", token.content},
                     {"single_word", false},
                     {"lstrip", token.lstrip},
                     {"rstrip", token.rstrip},
                     {"normalized", token.normalized},
                     {"special", token.special}});
  const json file{{"version", "1.0"},
                  {"truncation", nullptr},
                  {"padding", nullptr},
                  {"added_tokens", added},
                  {"normalizer", normalizer_json(vocabulary.normalizer)},
                  {"pre_tokenizer", pre_tokenizer_json(vocabulary)},
                  {"post_processor", post_processor_json(vocabulary)},
                  {"decoder", decoder_json(vocabulary)},
                  {"model", model_json(vocabulary)}};
  // A damaged vocabulary may hold what is no UTF-8; JSON must not.
  return file.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace higgs::model
