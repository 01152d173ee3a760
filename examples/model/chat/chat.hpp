// SPDX-License-Identifier: Apache-2.0
// The formats in which chat models were trained to read questions.
#pragma once

#include "chat/jinja.hpp"
#include "tokenizer/tokenizer.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace higgs::model {

/// How a question is written for a chat model, and what ends the answer.
class ChatFormat {
 public:
  /// Reads the vocabulary's chat template. A vocabulary without one is recognized by its special tokens: ChatML,
  /// Llama 3, Gemma. Throws InvalidArgument or FormatError, which name `source`, for other models, for a template that
  /// is not supported, and for one whose turns end with no token of the vocabulary.
  ChatFormat(const Vocabulary& vocabulary, const std::string& source);

  /// The question up to where the answer begins, equal to apply_chat_template of transformers. An empty `system` is
  /// none: the template may have a system message of its own. Throws InvalidArgument where the template refuses the
  /// messages or leaves one out.
  std::string prompt(std::string_view question, std::string_view system) const;
  /// The tokens that end an answer: the one that the template writes after an answer, the one that ends texts, and
  /// the end-of-turn tokens of all known formats that this vocabulary has.
  const std::vector<TokenId>& end_tokens() const noexcept { return end_tokens_; }

 private:
  std::string written(jinja::Value messages, bool asks) const;
  void find_end_tokens(const Vocabulary& vocabulary);

  std::string source_;
  jinja::Template template_;
  jinja::Value variables_;  // the template's, without the messages
  std::vector<TokenId> end_tokens_;
};

}  // namespace higgs::model
