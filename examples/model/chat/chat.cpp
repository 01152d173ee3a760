// SPDX-License-Identifier: Apache-2.0
#include "chat/chat.hpp"

#include "tokenizer/unicode.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <iterator>
#include <utility>

namespace higgs::model {
namespace {

using jinja::Value;

// What ends a turn or a text in the formats that are known.
constexpr std::string_view known_ends[] = {"<|im_end|>",      "<|endoftext|>", "<|eot_id|>", "<|eom_id|>",
                                           "<|end_of_text|>", "<end_of_turn>", "<eos>",      "</s>"};

// Templates of models that come without one, and the two special tokens by which such a model is known.
struct Known {
  std::string_view begin, end, text;
};
constexpr Known known_templates[] = {
    {"<|start_header_id|>", "<|eot_id|>",
     "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content "
     "| trim "
     "}}<|eot_id|>{% endfor %}{% if add_generation_prompt %}{{ "
     "'<|start_header_id|>assistant<|end_header_id|>\n\n' "
     "}}{% endif %}"},
    {"<|im_start|>", "<|im_end|>",
     "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{{ '\n' }}{% endfor %}"
     "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"},
    {"<start_of_turn>", "<end_of_turn>",
     "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system "
     "message') }}"
     "{% endif %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
     "<end_of_turn>{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% "
     "endif %}"}};

const Vocabulary::AddedToken* added(const Vocabulary& vocabulary, std::string_view content) {
  const auto found = std::find_if(vocabulary.added.begin(), vocabulary.added.end(),
                                  [&](const auto& each) { return each.content == content; });
  return found == vocabulary.added.end() ? nullptr : &*found;
}

std::string template_of(const Vocabulary& vocabulary, const std::string& source) {
  if (!vocabulary.chat_template.empty()) return vocabulary.chat_template;
  for (const Known& each : known_templates)
    if (added(vocabulary, each.begin) && added(vocabulary, each.end)) return std::string(each.text);
  throw InvalidArgument(
      source +
      ": the model has no chat template and no special tokens of a known one, so --chat is "
      "not for it: known are ChatML (<|im_start|>), Llama 3 (<|start_header_id|>) and Gemma "
      "(<start_of_turn>)");
}

Value message(std::string_view role, std::string_view content) {
  return {{"role", role}, {"content", content}};
}

bool is_space(std::string_view text, std::size_t at) {
  return char_class(code_point_at(text, at).value) == CharClass::Space;
}
// Without white space at both ends, which some templates take away.
std::string_view trimmed(std::string_view text) {
  std::size_t begin = 0, end = 0;
  while (begin < text.size() && is_space(text, begin)) begin += code_point_at(text, begin).bytes;
  for (std::size_t at = begin; at < text.size(); at += code_point_at(text, at).bytes)
    if (!is_space(text, at)) end = at + code_point_at(text, at).bytes;
  return begin < end ? text.substr(begin, end - begin) : std::string_view();
}

}  // namespace

ChatFormat::ChatFormat(const Vocabulary& vocabulary, const std::string& source)
    : source_(source), template_(template_of(vocabulary, source), source) {
  std::string begin = vocabulary.begin_text;
  if (begin.empty() && !vocabulary.prefix.empty())
    begin = vocabulary.tokens.at(static_cast<std::size_t>(vocabulary.prefix.front()));
  variables_ = {{"tools", nullptr}, {"documents", nullptr}};
  if (!begin.empty()) variables_["bos_token"] = begin;
  if (!vocabulary.end_text.empty()) variables_["eos_token"] = vocabulary.end_text;
  find_end_tokens(vocabulary);
}

std::string ChatFormat::written(Value messages, bool asks) const {
  Value variables = variables_;
  variables["messages"] = std::move(messages);
  variables["add_generation_prompt"] = asks;
  return template_.render(variables);
}

// Lets the template write a conversation, and looks at what follows the answer.
void ChatFormat::find_end_tokens(const Vocabulary& vocabulary) {
  const auto add = [&](std::string_view content) {
    const auto* token = added(vocabulary, content);
    if (token && std::find(end_tokens_.begin(), end_tokens_.end(), token->id) == end_tokens_.end())
      end_tokens_.push_back(token->id);
  };
  constexpr std::string_view answer = "4711";
  const std::string text =
      written(Value::array({message("user", "0815"), message("assistant", answer)}), false);
  const std::size_t found = text.rfind(answer);
  if (found == text.npos)
    throw InvalidArgument(source_ + ": the chat template leaves out the answer of a model");
  const std::string_view after = trimmed(std::string_view(text).substr(found + answer.size()));
  const Vocabulary::AddedToken* longest = nullptr;
  for (const auto& each : vocabulary.added)
    if (after.starts_with(each.content) && (!longest || each.content.size() > longest->content.size()))
      longest = &each;
  if (!longest && !after.empty())
    throw InvalidArgument(source_ + ": the chat template ends an answer with \"" + std::string(after) +
                          "\", which begins with no special token of the vocabulary");
  if (longest) add(longest->content);
  add(vocabulary.end_text);
  for (const std::string_view each : known_ends) add(each);
  if (end_tokens_.empty()) throw InvalidArgument(source_ + ": no token of the vocabulary ends an answer");
}

std::string ChatFormat::prompt(std::string_view question, std::string_view system) const {
  Value messages = Value::array();
  if (!system.empty()) messages.push_back(message("system", system));
  messages.push_back(message("user", question));
  std::string out = written(std::move(messages), true);
  if (!system.empty() && out.find(trimmed(system)) == out.npos)
    throw InvalidArgument(source_ + ": the model's chat template takes no system message");
  if (out.find(trimmed(question)) == out.npos)
    throw InvalidArgument(source_ + ": the model's chat template leaves out the question");
  return out;
}

}  // namespace higgs::model
