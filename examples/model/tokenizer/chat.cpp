// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/chat.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <array>
#include <iterator>

namespace higgs::model {
namespace {

constexpr std::string_view supported =
    "supported are ChatML (<|im_start|>), Llama 3 (<|start_header_id|>), Gemma (<start_of_turn>), Zephyr "
    "(<|user|>) and "
    "Mistral ([INST])";

// What ends a turn or a text in the formats that are known.
constexpr std::string_view known_ends[] = {"<|im_end|>",      "<|endoftext|>", "<|eot_id|>", "<|eom_id|>",
                                           "<|end_of_text|>", "<end_of_turn>", "<eos>",      "</s>"};

bool has(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }

const Vocabulary::AddedToken* added(const Vocabulary& vocabulary, std::string_view content) {
  const auto found = std::find_if(vocabulary.added.begin(), vocabulary.added.end(),
                                  [&](const auto& each) { return each.content == content; });
  return found == vocabulary.added.end() ? nullptr : &*found;
}

// The system message that a ChatML template has for those who give none: what stands between its first marker of a
// system turn and the end of that turn, if that is plain text.
std::string own_system(std::string_view text) {
  constexpr std::string_view opening = "<|im_start|>system\\n", closing = "<|im_end|>";
  std::string out;
  for (std::size_t at = text.find(opening); at != text.npos && out.empty(); at = text.find(opening, at + 1)) {
    const std::size_t begin = at + opening.size(), end = text.find(closing, begin);
    if (end == text.npos) break;
    const std::string_view inside = text.substr(begin, end - begin);
    if (inside.find_first_of("'\"{}+\\") == inside.npos) out = inside;
  }
  return out;
}

std::string trimmed(std::string_view text) {
  constexpr std::string_view spaces = " \t\n\r\f\v";
  const std::size_t begin = text.find_first_not_of(spaces);
  if (begin == text.npos) return "";
  return std::string(text.substr(begin, text.find_last_not_of(spaces) - begin + 1));
}

}  // namespace

void ChatFormat::recognize(const Vocabulary& vocabulary, const std::string& source) {
  // Llama 3 and Gemma first: templates for tools mention more than their own markers.
  constexpr std::array<std::pair<Kind, std::array<std::string_view, 2>>, 5> markers{
      {{Kind::Llama3, {"<|start_header_id|>", "<|eot_id|>"}},
       {Kind::ChatMl, {"<|im_start|>", "<|im_end|>"}},
       {Kind::Gemma, {"<start_of_turn>", "<end_of_turn>"}},
       {Kind::Inst, {"[INST]", "[/INST]"}},
       {Kind::Zephyr, {"<|user|>", "<|assistant|>"}}}};
  std::vector<Kind> found;
  for (const auto& [kind, both] : markers) {
    const bool in_template = has(template_, both[0]) && has(template_, both[1]);
    const bool in_vocabulary = template_.empty() && added(vocabulary, both[0]) && added(vocabulary, both[1]);
    if (in_template || in_vocabulary) found.push_back(kind);
  }
  const bool zephyr = found.size() == 1 && found[0] == Kind::Zephyr;
  if (found.size() == 1 && !(zephyr && (!has(template_, "eos_token") || has(template_, "<|end|>")))) {
    kind_ = found[0];
    return;
  }
  throw InvalidArgument(source +
                        (template_.empty()
                             ? ": the model has no chat template and no special tokens of a known one, so "
                               "--chat is not for it: "
                             : ": the model's chat template is of no known form, so --chat cannot write its "
                               "prompt: ") +
                        std::string(supported));
}

ChatFormat::ChatFormat(const Vocabulary& vocabulary, const std::string& source)
    : source_(source), template_(vocabulary.chat_template) {
  recognize(vocabulary, source);
  const bool own = !template_.empty();
  if (own ? has(template_, "bos_token") : !vocabulary.prefix.empty()) {
    begin_ = vocabulary.begin_text;
    if (begin_.empty() && !vocabulary.prefix.empty())
      begin_ = vocabulary.tokens.at(static_cast<std::size_t>(vocabulary.prefix.front()));
  }
  // A text of ChatML begins with a turn; its markers may name the first token only to leave it out.
  if (kind_ == Kind::ChatMl && begin_ == "<|im_start|>") begin_.clear();
  end_ = vocabulary.end_text.empty() ? "</s>" : vocabulary.end_text;
  trims_ = own ? has(template_, "| trim") || has(template_, "|trim") : kind_ != Kind::ChatMl;
  if (kind_ == Kind::ChatMl) default_system_ = own_system(template_);
  if (kind_ == Kind::Gemma) takes_system_ = !has(template_, "System role not supported");
  if (kind_ == Kind::Inst) takes_system_ = has(template_, "system");

  for (const std::string_view each : known_ends)
    if (const auto* token = added(vocabulary, each)) end_tokens_.push_back(token->id);
  const std::string_view turn_end = kind_ == Kind::ChatMl   ? "<|im_end|>"
                                    : kind_ == Kind::Llama3 ? "<|eot_id|>"
                                    : kind_ == Kind::Gemma  ? "<end_of_turn>"
                                                            : std::string_view(end_);
  const auto* token = added(vocabulary, turn_end);
  if (!token)
    throw InvalidArgument(
        source + ": \"" + std::string(turn_end) +
        "\", which ends a turn of its chat template, is no special token of the vocabulary");
  if (std::find(end_tokens_.begin(), end_tokens_.end(), token->id) == end_tokens_.end())
    end_tokens_.push_back(token->id);
}

std::string_view ChatFormat::name() const noexcept {
  constexpr std::string_view names[] = {"ChatML", "Llama 3", "Gemma", "Zephyr", "Mistral"};
  return names[static_cast<std::size_t>(kind_)];
}

std::string ChatFormat::prompt(std::string_view question, std::string_view given_system) const {
  if (!given_system.empty() && !takes_system_)
    throw InvalidArgument(source_ + ": the model's chat template takes no system message");
  const std::string asked = trims_ ? trimmed(question) : std::string(question);
  const std::string chosen(given_system.empty() ? default_system_ : given_system);
  const std::string system = trims_ ? trimmed(chosen) : chosen;
  const auto turns = [&](const std::string& open, const std::string& opened, const std::string& close,
                         const std::string& answers) {
    const auto turn = [&](const std::string& who, const std::string& what) {
      return open + who + opened + what + close;
    };
    return begin_ + (system.empty() ? "" : turn("system", system)) + turn("user", asked) + open + answers +
           opened;
  };
  switch (kind_) {
    case Kind::ChatMl:
      return turns("<|im_start|>", "\n", "<|im_end|>\n", "assistant");
    case Kind::Llama3:
      return turns("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", "assistant");
    case Kind::Zephyr:
      return turns("<|", "|>\n", end_ + "\n", "assistant");
    case Kind::Gemma:
      return begin_ + "<start_of_turn>user\n" + (system.empty() ? "" : system + "\n\n") + asked +
             "<end_of_turn>\n<start_of_turn>model\n";
    case Kind::Inst:
      break;
  }
  // Templates differ in the spaces around the markers; Llama 2 marks a system message, too.
  const std::string open = has(template_, "[INST] ") ? "[INST] " : "[INST]";
  const std::string close = has(template_, " [/INST]") ? " [/INST]" : "[/INST]";
  const std::string before = system.empty()              ? ""
                             : has(template_, "<<SYS>>") ? "<<SYS>>\n" + system + "\n<</SYS>>\n\n"
                                                         : system + "\n\n";
  return begin_ + open + before + asked + close;
}

}  // namespace higgs::model
